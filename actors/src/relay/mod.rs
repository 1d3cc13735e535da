//! The actor that joins one endpoint's connection to one bytestream: one task, both directions,
//! bytes in place.
//!
//! ```text
//!    application ⇄ local ──read──► [ 16 KiB ] ──write──► remote ⇄ contact       "sent"
//!                        ◄──write── [ 16 KiB ] ◄──read──                         "received"
//! ```
//!
//! Between two sockets of the kernel (no TLS on either side) the buffer is a pipe in the kernel,
//! `splice(2)` moves the bytes, and everything else is the same: measured 1.2 to 1.5 times the
//! throughput over TCP and about twice over Unix sockets (`benches/relay.rs`).
//!
//! # One direction
//!
//! ```text
//!   Flowing ── end of file ──► Closing ── writer closed ──► Closed
//!      │
//!      └── writer failed ──► Severed   (what is read is thrown away)
//! ```
//!
//! A direction reads only when its buffer is empty, so a side that does not take its bytes stops
//! the other side's writer: back-pressure is the sockets' own. It flushes whenever there is nothing
//! more to read at once, so a small message is never held back. An end of file is passed on by
//! closing the writer, the other direction flows on.
//!
//! Where bytes per second are [limited](crate::limits), a direction reads when it is its turn, and no
//! more than that turn allows. What it may not carry yet it does not read, so a limit slows the other
//! side's writer down and fills nothing here. A half-close, and a reader that broke, are noticed when
//! it is its turn; a stop at once.
//!
//! # Both
//!
//! | what happens | what follows | [`RelayEnd`] |
//! | --- | --- | --- |
//! | both directions closed | both sides are dropped | `Finished` |
//! | reading from the application fails | the contact's side is reset | `LocalReset` |
//! | writing to the application fails | what it wrote is written first, then the contact's side is reset | `LocalReset` |
//! | reading from the contact fails: reset | the application is reset | `RemoteReset` |
//! | reading from the contact fails: anything else, an end without an orderly close too | the application is reset | `RemoteLost` |
//! | writing to the contact fails | what has arrived from it already is delivered, then the application is reset | one of these two |
//! | stop | both sides are reset: an end of file would claim that everything has arrived | `Stopped` |
//!
//! An application that closes its socket altogether looks, until something is written to it, like one
//! that half-closed: that is how sockets are. A *Unix* socket cannot be reset at will
//! ([`LocalStream`](crate::endpoint::LocalStream) says more).

mod pump;
mod splice;
mod wire;

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use crate::{
    limits::{Limits, Share},
    model::Error,
    ports::{Bytestream, Duplex},
    runtime::{Failure, Faults, Stop},
};
use pump::{Pump, Pumped};
use splice::Pipe;

pub(crate) use wire::{CHUNK, Wire};

pub use pump::RECORD;

/// Bytes that have passed a relay, readable at any time. One may serve several relays.
#[derive(Debug, Default)]
pub struct Meters {
    sent: AtomicU64,
    received: AtomicU64,
    secured: AtomicBool,
    in_the_clear: AtomicBool,
}

impl Meters {
    /// Bytes from the application that the contact's side has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from the contact that the application's side has taken.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether every bytestream so far had TLS inside; nothing while none has opened.
    pub fn encrypted(&self) -> Option<bool> {
        if self.in_the_clear.load(Ordering::Relaxed) {
            return Some(false);
        }
        self.secured.load(Ordering::Relaxed).then_some(true)
    }

    /// Counts a bytestream that has opened. Called before its first byte, so that nobody is told of
    /// encryption after something has travelled without.
    pub fn opened(&self, bytestream: &Bytestream) {
        let seen = if bytestream.encrypted {
            &self.secured
        } else {
            &self.in_the_clear
        };
        seen.store(true, Ordering::Relaxed);
    }
}

/// How a relay ended; the table in the module's head says what has been done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// Both sides ended in order, and everything has arrived.
    Finished,
    /// The application broke its connection off.
    LocalReset,
    /// The contact's application broke its connection off.
    RemoteReset,
    /// The bytestream broke.
    RemoteLost,
    /// It was asked to stop.
    Stopped,
}

impl From<RelayEnd> for Error {
    /// `Error` of `StreamTube.ConnectionClosed`.
    fn from(end: RelayEnd) -> Self {
        match end {
            RelayEnd::Finished => Error::Cancelled("both sides have closed the connection".into()),
            RelayEnd::LocalReset => {
                Error::Cancelled("the local application has broken the connection off".into())
            }
            RelayEnd::Stopped => Error::Cancelled("the connection was closed here".into()),
            RelayEnd::RemoteReset => Error::ConnectionLost(
                "the contact's application has broken the connection off".into(),
            ),
            RelayEnd::RemoteLost => {
                Error::ConnectionLost("the connection to the contact is lost".into())
            }
        }
    }
}

/// Carries bytes both ways until both sides have ended, one of them breaks, or `stop`. Both sides
/// are dropped at the end, reset where the module's head says so.
///
/// A relay that is dropped, or panics, before its end resets the application too, and merely drops
/// the contact's side: that is a carrier lost.
pub async fn run(
    local: impl Duplex,
    remote: Bytestream,
    meters: Arc<Meters>,
    stop: &Stop,
) -> RelayEnd {
    let shares = Shares {
        sending: Share::unlimited(),
        receiving: Share::unlimited(),
    };
    let running = run_until(local, remote, meters, shares, stop, Faults::default());
    // Nobody kills it, so it does not fail.
    running.await.unwrap_or(RelayEnd::RemoteLost)
}

/// What a relay may carry each second, each way.
pub(crate) struct Shares {
    sending: Share,
    receiving: Share,
}

impl From<&Limits> for Shares {
    fn from(limits: &Limits) -> Self {
        Shares {
            sending: limits.sending(),
            receiving: limits.receiving(),
        }
    }
}

/// The same within limits, and until a test kills it.
pub(crate) async fn run_until(
    local: impl Duplex,
    remote: Bytestream,
    meters: Arc<Meters>,
    shares: Shares,
    stop: &Stop,
    faults: Faults,
) -> Result<RelayEnd, Failure> {
    let Shares { sending, receiving } = shares;
    let (sending, receiving) = match Pipe::pair(local.socket(), remote.io.socket()) {
        Some([one, other]) => (
            Pump::within_the_kernel(one, sending),
            Pump::within_the_kernel(other, receiving),
        ),
        None => (Pump::new(sending), Pump::new(receiving)),
    };
    let mut relay = Relay {
        local,
        remote: remote.io,
        sending,
        receiving,
        meters,
        faults,
        ended: false,
    };
    let end = {
        let mut stopped = pin!(stop.stopped());
        poll_fn(|context| match stopped.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Ok(RelayEnd::Stopped)),
            Poll::Pending => relay.poll(context),
        })
        .await?
    };
    relay.finish(end);
    Ok(end)
}

struct Relay<L: Duplex> {
    local: L,
    remote: Box<dyn Duplex>,
    sending: Pump,
    receiving: Pump,
    meters: Arc<Meters>,
    faults: Faults,
    ended: bool,
}

impl<L: Duplex> Drop for Relay<L> {
    fn drop(&mut self) {
        if !self.ended {
            // An end of file would claim that everything has arrived.
            self.local.reset();
        }
    }
}

impl<L: Duplex> Relay<L> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<RelayEnd, Failure>> {
        let sending = self.sending.poll(
            context,
            &mut self.local,
            &mut *self.remote,
            &self.meters.sent,
            &self.faults,
        );
        if let Pumped::Killed(failure) = sending {
            return Poll::Ready(Err(failure));
        }
        if let Pumped::ReadFailed(error) = sending {
            tracing::debug!(%error, "the application's side of a relay broke");
            return Poll::Ready(Ok(RelayEnd::LocalReset));
        }
        let receiving = self.receiving.poll(
            context,
            &mut *self.remote,
            &mut self.local,
            &self.meters.received,
            &self.faults,
        );
        if let Pumped::Killed(failure) = receiving {
            return Poll::Ready(Err(failure));
        }
        if let Pumped::ReadFailed(error) = receiving {
            tracing::debug!(%error, "the contact's side of a relay broke");
            return Poll::Ready(Ok(remote_broke(error.kind())));
        }
        match (sending, receiving) {
            (Pumped::Closed, Pumped::Closed) => Poll::Ready(Ok(RelayEnd::Finished)),
            // Nothing more can reach the contact, and what came from it has been delivered, or
            // cannot be.
            (Pumped::Severed(why), Pumped::Closed | Pumped::Idle | Pumped::Severed(_)) => {
                Poll::Ready(Ok(remote_broke(why)))
            }
            // The application takes nothing more, and all it wrote is out.
            (Pumped::Closed, Pumped::Severed(_)) => Poll::Ready(Ok(RelayEnd::LocalReset)),
            _ => Poll::Pending,
        }
    }

    fn finish(&mut self, end: RelayEnd) {
        self.ended = true;
        match end {
            RelayEnd::Finished => {}
            RelayEnd::LocalReset => self.remote.reset(),
            RelayEnd::RemoteReset | RelayEnd::RemoteLost => self.local.reset(),
            RelayEnd::Stopped => {
                self.remote.reset();
                self.local.reset();
            }
        }
    }
}

fn remote_broke(why: io::ErrorKind) -> RelayEnd {
    if why == io::ErrorKind::ConnectionReset {
        RelayEnd::RemoteReset
    } else {
        RelayEnd::RemoteLost
    }
}

#[cfg(test)]
mod tests;
