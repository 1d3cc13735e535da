//! What the root gives every channel supervisor it starts, and what the two say to each other.

use std::{convert::Infallible, sync::Arc};

use async_channel::Sender;

use super::{
    DBusTubeRequest, FileTransferRequest, StreamTubeRequest,
    config::{Counters, SupervisorConfig},
};
use crate::{
    model::{ChannelId, Error, OwnerId, Result},
    ports::{DBusTubeObject, FileTransferObject, ObjectTree, StreamTubeObject},
    runtime::{Clock, Reply, Spawner},
};

/// What is the same for every channel.
#[derive(Clone)]
pub(super) struct World {
    pub(super) spawner: Spawner,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tree: Arc<dyn ObjectTree>,
    pub(super) config: Arc<SupervisorConfig>,
    pub(super) counters: Arc<Counters>,
    /// Nothing is sent: closed once every channel is gone, and the root.
    pub(super) _alive: Sender<Infallible>,
}

/// What the root is told: by its handle, and by the channels that end.
pub(super) enum RootMessage {
    Open(Box<Opening>),
    CloseOwner(OwnerId, Reply<()>),
    Shutdown(Reply<()>),
    /// A channel is gone, all of it.
    Ended(ChannelId),
}

/// A channel that is asked for, and who waits for its object.
pub(super) enum Opening {
    StreamTube(StreamTubeRequest, Reply<Result<StreamTubeObject>>),
    FileTransfer(FileTransferRequest, Reply<Result<FileTransferObject>>),
    DBusTube(DBusTubeRequest, Reply<Result<DBusTubeObject>>),
}

impl Opening {
    /// Whose channel it is to be.
    pub(super) fn owner(&self) -> OwnerId {
        match self {
            Opening::StreamTube(request, _) => request.owner,
            Opening::FileTransfer(request, _) => request.owner,
            Opening::DBusTube(request, _) => request.owner,
        }
    }

    /// Nothing comes of it.
    pub(super) fn refuse(self, why: Error) {
        match self {
            Opening::StreamTube(_, reply) => reply.answer(Err(why)),
            Opening::FileTransfer(_, reply) => reply.answer(Err(why)),
            Opening::DBusTube(_, reply) => reply.answer(Err(why)),
        }
    }
}
