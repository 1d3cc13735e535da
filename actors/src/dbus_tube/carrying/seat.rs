//! The one seat for an application: who is there, and how far it is. [`Carrying`](super::Carrying) asks it
//! who may be read and written to, and takes what a greeting is followed by.
//!
//! ```text
//!   Empty ──connects──▶ Greeting ──BEGIN──▶ Talking ──goes away, is cut off──▶ Empty
//!                        │    │              └── takes nothing any more: deaf, and still Talking
//!                        │    └── takes no answer: deaf, and still Greeting
//!                        └── refused, goes away, has not begun within GREET_WITHIN ──▶ Empty
//! ```
//!
//! Who is deaf stays so until it goes: it is read to its end, and nothing is handed over to it.

use std::{
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_channel::Receiver;
use futures_lite::{AsyncRead as _, AsyncWrite as _, Stream as _};

use super::{Door, FINISH_WITHIN, GREET_WITHIN};
use crate::{
    dbus_tube::handshake::{Admittance, Handshake},
    model::AccessControl,
    runtime::{BoxFuture, Clock},
    supervisor::AcceptedSocket,
};

/// See the module's head.
#[derive(Default)]
pub(super) enum Seat {
    /// Nobody is there.
    #[default]
    Empty,
    /// An application is there that has not begun.
    Greeting {
        guest: Guest,
        handshake: Handshake,
        /// What it is still to be told of that.
        answer: Vec<u8>,
        /// How long it may take.
        patience: BoxFuture<'static, ()>,
    },
    /// An application is there that has begun.
    Talking {
        guest: Guest,
        unfinished: Unfinished,
    },
}

/// An application. Its slot goes with it.
pub(super) struct Guest {
    accepted: AcceptedSocket,
    /// It takes nothing any more; what it wrote before is still read.
    deaf: bool,
}

/// Until when an application has to go on with a message that is half written.
#[derive(Default)]
pub(super) struct Unfinished(Option<BoxFuture<'static, ()>>);

/// What came of a greeting.
pub(super) enum Greeted {
    /// Nobody greets, or whoever does is waited for.
    Idle,
    /// Something was said.
    Moved,
    /// It wrote so much of the buffer behind its greeting: a client that does not wait for answers.
    Wrote(Range<usize>),
    /// It is Talking from now on.
    Begun,
    /// It has to go, or has gone.
    Failed,
}

impl Seat {
    /// Lets the next one in, if nobody is there. Whether somebody came.
    pub(super) fn seat_somebody(
        &mut self,
        coming: Pin<&mut Receiver<AcceptedSocket>>,
        door: &Door,
        clock: &dyn Clock,
        context: &mut Context<'_>,
    ) -> bool {
        if !matches!(self, Seat::Empty) {
            return false;
        }
        let Poll::Ready(Some(accepted)) = coming.poll_next(context) else {
            return false;
        };
        let credentials = door.access == AccessControl::Credentials;
        let admittance = Admittance {
            user: accepted.user,
            anonymous: !credentials,
        };
        *self = Seat::Greeting {
            guest: Guest {
                accepted,
                deaf: false,
            },
            handshake: Handshake::new(door.guid, admittance, credentials),
            answer: Vec::new(),
            patience: clock.sleep(GREET_WITHIN),
        };
        true
    }

    /// Answers or reads once, into that buffer.
    pub(super) fn greet(&mut self, scratch: &mut [u8], context: &mut Context<'_>) -> Greeted {
        let Seat::Greeting {
            guest,
            handshake,
            answer,
            patience,
        } = self
        else {
            return Greeted::Idle;
        };
        if patience.as_mut().poll(context).is_ready() {
            tracing::debug!("an application did not begin in time");
            return Greeted::Failed;
        }
        if !answer.is_empty() {
            match guest.poll_write(context, answer) {
                Poll::Pending => return Greeted::Idle,
                // It did not wait for answers, and is gone. What it wrote before is still there to be read.
                Poll::Ready(0) => answer.clear(),
                Poll::Ready(written) => drop(answer.drain(..written)),
            }
            return Greeted::Moved;
        }
        if handshake.is_done() {
            if let Seat::Greeting { guest, .. } = std::mem::take(self) {
                let unfinished = Unfinished::default();
                *self = Seat::Talking { guest, unfinished };
            }
            return Greeted::Begun;
        }
        let count = match guest.poll_read(context, scratch) {
            Poll::Pending => return Greeted::Idle,
            Poll::Ready(0) => return Greeted::Failed,
            Poll::Ready(count) => count,
        };
        match handshake.feed(&scratch[..count], answer) {
            Ok(taken) => Greeted::Wrote(taken..count),
            Err(why) => {
                tracing::debug!(%why, "an application is refused");
                Greeted::Failed
            }
        }
    }

    /// Who may be written to.
    pub(super) fn listener(&mut self) -> Option<&mut Guest> {
        match self {
            Seat::Talking { guest, .. } if !guest.deaf => Some(guest),
            _ => None,
        }
    }

    /// Whether nobody will take what waits: whoever is there is deaf; or nobody is, and somebody was.
    pub(super) fn takes_no_more(&self, was_used: bool) -> bool {
        match self {
            Seat::Empty => was_used,
            Seat::Greeting { guest, .. } | Seat::Talking { guest, .. } => guest.deaf,
        }
    }
}

impl Guest {
    /// Reads from it: nothing once no more comes.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>, room: &mut [u8]) -> Poll<usize> {
        let read = Pin::new(&mut self.accepted.stream).poll_read(context, room);
        read.map(|read| read.unwrap_or(0))
    }

    /// Writes to it: nothing if it takes nothing any more, and then it is deaf.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<usize> {
        let writing = Pin::new(&mut self.accepted.stream).poll_write(context, bytes);
        let written = ready!(writing).unwrap_or(0);
        self.deaf |= written == 0;
        Poll::Ready(written)
    }
}

impl Unfinished {
    /// Whether it has waited too long: it waits with a message that is half written, or does not.
    pub(super) fn is_too_slow(
        &mut self,
        waits: bool,
        clock: &dyn Clock,
        context: &mut Context<'_>,
    ) -> bool {
        if !waits {
            self.0 = None;
            return false;
        }
        let patience = self.0.get_or_insert_with(|| clock.sleep(FINISH_WITHIN));
        patience.as_mut().poll(context).is_ready()
    }
}
