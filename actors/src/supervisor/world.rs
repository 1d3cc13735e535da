//! What the root gives every channel supervisor it starts, and what the two say to each other.

use std::{convert::Infallible, sync::Arc};

use async_channel::Sender;

use super::{
    StreamTubeRequest,
    config::{Counters, SupervisorConfig},
};
use crate::{
    model::{ChannelId, OwnerId, Result},
    ports::{ObjectTree, StreamTubeObject},
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
    Open(Box<StreamTubeRequest>, Reply<Result<StreamTubeObject>>),
    CloseOwner(OwnerId, Reply<()>),
    Shutdown(Reply<()>),
    /// A channel is gone, all of it.
    Ended(ChannelId),
}
