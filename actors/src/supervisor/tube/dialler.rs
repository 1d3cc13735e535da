//! The actor that dials the offered service, one request of the contact's at a time.
//!
//! One at a time, because clients that offer with `Localhost` pair `NewRemoteConnection` with the
//! sockets they accepted by order alone. A request that is in hand when the actor fails is dropped,
//! which refuses it; the next ones wait in the channel's queue for the successor.

use std::sync::Arc;

use async_channel::{Receiver, Sender};

use super::TubeNote;
use crate::{
    endpoint::Slot,
    model::Error,
    ports::IncomingBytestream,
    runtime::{Exit, Failure, FaultPoint, Faults},
    stream_tube::state::Target,
    supervisor::{LocalSockets, channel::Note},
};

/// A request of the contact's, and where to dial for it.
pub(super) struct DialRequest {
    pub(super) target: Target,
    pub(super) incoming: Box<dyn IncomingBytestream>,
    pub(super) slot: Slot,
}

/// What every incarnation of a channel's dialler is made from.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) queue: Receiver<DialRequest>,
    pub(super) sockets: Arc<dyn LocalSockets>,
    pub(super) notes: Sender<Note<TubeNote>>,
    pub(super) faults: Faults,
}

impl Dialler {
    /// Dials until the queue is closed.
    pub(super) async fn run(self) -> Exit {
        match self.work().await {
            Ok(()) => Exit::Finished,
            Err(failure) => Exit::Failed(failure),
        }
    }

    async fn work(&self) -> Result<(), Failure> {
        loop {
            let next = self
                .faults
                .survive(FaultPoint::DiallerWaiting, self.queue.recv())
                .await?;
            let Ok(request) = next else {
                return Ok(());
            };
            let DialRequest {
                target,
                incoming,
                slot,
            } = request;
            self.faults.hit(FaultPoint::DiallerDial)?;
            let dialling = self.sockets.dial(&target.address, target.access);
            let dialled = self
                .faults
                .survive(FaultPoint::DiallerDialling, dialling)
                .await?;
            match dialled {
                Ok(socket) => {
                    let note = Note::Own(TubeNote::Dialled {
                        socket,
                        incoming,
                        slot,
                    });
                    if self.notes.send(note).await.is_err() {
                        return Ok(());
                    }
                    self.faults.hit(FaultPoint::DiallerDialled)?;
                }
                Err(why) => {
                    tracing::info!(address = %target.address, %why, "the offered service cannot be reached");
                    incoming.refuse(Error::ConnectionRefused(why.to_string()));
                }
            }
        }
    }
}
