//! The life of one connection: its bytestream opens, then the relay carries bytes until an end.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_channel::Sender;
use futures_lite::{AsyncRead, AsyncWrite, FutureExt as _};

use super::TubeNote;
use crate::{
    limits::Limits,
    model::{BytestreamId, Error},
    ports::{Bytestream, BytestreamConnector, Duplex, IncomingBytestream},
    relay::{self, Meters, RelayEnd},
    runtime::{Clock, Failure, FaultPoint, Faults, Stop, within},
    stream_tube::state::ConnectionEnd,
    supervisor::channel::Note,
};

/// Where the bytestream comes from.
pub(super) enum Far {
    /// We open it (an application connected here).
    Open(Arc<dyn BytestreamConnector>),
    /// The contact asked for it (the service here took the connection).
    Accept(Box<dyn IncomingBytestream>),
}

pub(super) struct Connection {
    pub(super) local: Box<dyn Duplex>,
    pub(super) far: Far,
    pub(super) meters: Arc<Meters>,
    pub(super) limits: Limits,
    pub(super) stop: Stop,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) opening_limit: Duration,
    pub(super) faults: Faults,
    /// Told when the bytestream has opened.
    pub(super) notes: Sender<Note<TubeNote>>,
}

impl Connection {
    /// Runs it to its end. Unless that is an orderly one, the
    /// application's socket is reset.
    pub(super) async fn run(self) -> Result<ConnectionEnd, Failure> {
        let faults = self.faults.clone();
        let local = Guarded {
            inner: self.local,
            ended: false,
        };
        faults.hit(FaultPoint::RelayStart)?;
        let asked = matches!(self.far, Far::Accept(_));
        let opening = async {
            within(&*self.clock, self.opening_limit, open(self.far))
                .await
                .unwrap_or_else(|| {
                    Err(Error::ConnectionFailed(
                        "the bytestream did not open in time".into(),
                    ))
                })
        };
        let stopped = async {
            self.stop.stopped().await;
            None
        };
        let opened = stopped.or(async { Some(opening.await) });
        let bytestream = match faults.survive(FaultPoint::RelayOpening, opened).await? {
            Some(Ok(bytestream)) => bytestream,
            Some(Err(why)) => {
                return Ok(if asked {
                    ConnectionEnd::NotOpened(why)
                } else {
                    ConnectionEnd::Refused(why)
                });
            }
            None => return Ok(ConnectionEnd::Stopped),
        };
        faults.hit(FaultPoint::RelayOpened)?;
        self.meters.opened(&bytestream);
        // A channel that is gone shows nothing any more.
        self.notes
            .send(Note::Own(TubeNote::BytestreamOpened))
            .await
            .ok();
        let shares = (&self.limits).into();
        let relay = relay::run_until(
            local,
            bytestream,
            self.meters,
            shares,
            &self.stop,
            faults.clone(),
        );
        let end = faults.survive(FaultPoint::RelayFlowing, relay).await??;
        faults.hit(FaultPoint::RelayEnded)?;
        Ok(match end {
            RelayEnd::Finished => ConnectionEnd::Finished,
            RelayEnd::LocalReset => ConnectionEnd::LocalReset,
            RelayEnd::RemoteReset => ConnectionEnd::RemoteReset,
            RelayEnd::RemoteLost => {
                ConnectionEnd::RemoteLost("the connection to the contact is lost".into())
            }
            RelayEnd::Stopped => ConnectionEnd::Stopped,
        })
    }
}

async fn open(far: Far) -> Result<Bytestream, Error> {
    match far {
        Far::Open(connector) => {
            let id = BytestreamId::random().map_err(|error| {
                Error::ResourceUnavailable(format!(
                    "no random bytes for a bytestream's id: {error}"
                ))
            })?;
            connector.connect(id).await
        }
        Far::Accept(incoming) => incoming.accept().await,
    }
}

/// The application's socket. Dropped before its writer was closed, in a panic for example, it is
/// reset: an end of file would claim that everything has arrived.
struct Guarded<D: Duplex> {
    inner: D,
    ended: bool,
}

impl<D: Duplex> Drop for Guarded<D> {
    fn drop(&mut self) {
        if !self.ended {
            self.inner.reset();
        }
    }
}

impl<D: Duplex> AsyncRead for Guarded<D> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<D: Duplex> AsyncWrite for Guarded<D> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_close(context);
        self.ended |= matches!(closed, Poll::Ready(Ok(())));
        closed
    }
}

impl<D: Duplex> Duplex for Guarded<D> {
    fn reset(&mut self) {
        self.ended = true;
        self.inner.reset();
    }
}
