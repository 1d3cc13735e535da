//! The root of the tree: starts channels, knows which are alive, closes them by owner or all.
//!
//! ```text
//!            Open                       Shutdown                    last channel gone
//!  Running ─────────> Running (one more) ────────> ShuttingDown ─────────────────────> end
//! ```
//!
//! A root that fails is not restarted: whom its channels belong to went with it. Its branch of the
//! stop tree goes with it too, so that every channel closes in order; the [`SupervisorHandle`]
//! answers errors, waits in `close_owner` and `shutdown` until the channels are gone, and tells by
//! [`SupervisorHandle::gone`]. Whoever owns the process should end it then, and begin again.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use async_channel::{Receiver, Sender};

use super::{
    DBusTubeRequest, FileTransferRequest, RestartCounts, StreamTubeRequest, SupervisorConfig,
    channel::{self, Place},
    config::Counters,
    dbus_tube, transfer, tube,
    world::{Opening, RootMessage, World},
};
use crate::{
    model::{ChannelId, Error, OwnerId, Result},
    ports::{DBusTubeObject, FileTransferObject, ObjectTree, StreamTubeObject},
    runtime::{
        Actor, Address, Clock, Exit, FaultPoint, Flow, Mailbox, Reply, Spawner, Stop, Stopper, run,
    },
};

/// Requests that wait for the root; whoever asks one more waits.
const MAILBOX: usize = 64;

/// Starts the root supervisor; see the module's head.
#[derive(Debug)]
pub struct Supervisor;

struct Root {
    world: World,
    mailbox: Mailbox<RootMessage>,
    /// Below it every channel's branch.
    stop: Stop,
    /// Where channels report their end. Dropped when the root ends.
    weak_self: Address<RootMessage>,
    next_id: u64,
    channels: BTreeMap<ChannelId, Entry>,
    waiting: Vec<(OwnerId, Reply<()>)>,
    shutting_down: Vec<Reply<()>>,
    closing: bool,
    _stopper: Stopper,
    /// Closed when the root ends.
    _alive: Sender<Infallible>,
}

struct Entry {
    owner: OwnerId,
    /// Asks the channel to close in order.
    stopper: Stopper,
}

/// Talks to the root supervisor. Cheap to clone. The supervisor runs until
/// [`SupervisorHandle::shutdown`]; dropping handles ends nothing.
#[derive(Clone)]
pub struct SupervisorHandle {
    address: Address<RootMessage>,
    counters: Arc<Counters>,
    root: Receiver<Infallible>,
    channels: Receiver<Infallible>,
}

impl std::fmt::Debug for SupervisorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SupervisorHandle")
            .field("restarts", &self.restarts())
            .finish_non_exhaustive()
    }
}

impl Supervisor {
    /// Starts the root supervisor on an executor that somebody runs. Channels appear in `tree`.
    pub fn start(
        spawner: Spawner,
        clock: Arc<dyn Clock>,
        tree: Arc<dyn ObjectTree>,
        config: SupervisorConfig,
    ) -> SupervisorHandle {
        let (mailbox, address) = Mailbox::new(MAILBOX);
        let (stopper, stop) = Stopper::new();
        let counters = Arc::<Counters>::default();
        let (root_alive, root_gone) = async_channel::bounded(1);
        let (alive, channels) = async_channel::bounded(1);
        let root = Root {
            world: World {
                spawner: spawner.clone(),
                clock,
                tree,
                config: Arc::new(config),
                counters: counters.clone(),
                _alive: alive,
            },
            mailbox,
            stop,
            weak_self: address.clone(),
            next_id: 1,
            channels: BTreeMap::new(),
            waiting: Vec::new(),
            shutting_down: Vec::new(),
            closing: false,
            _stopper: stopper,
            _alive: root_alive,
        };
        spawner
            .spawn("supervisor", async move {
                // The root is stopped by a message only, so that it outlives its channels.
                let (_never, stop) = Stopper::new();
                let (faults, waiting) = (root.world.config.faults.clone(), FaultPoint::RootWaiting);
                match faults.survive(waiting, run(root, &stop)).await {
                    Ok(Exit::Failed(failure)) | Err(failure) => {
                        tracing::error!(%failure, "the supervisor failed: all channels close");
                    }
                    Ok(_) => {}
                }
            })
            .detach();
        SupervisorHandle {
            address,
            counters,
            root: root_gone,
            channels,
        }
    }
}

impl Root {
    fn open(&mut self, opening: Opening) {
        let refusal = if self.closing {
            Some(Error::NotAvailable("the service is shutting down".into()))
        } else if self.channels.len() >= self.world.config.max_channels {
            Some(Error::ResourceUnavailable(format!(
                "there are {} channels already",
                self.channels.len()
            )))
        } else {
            None
        };
        if let Some(why) = refusal {
            opening.refuse(why);
            return;
        }
        let id = ChannelId(self.next_id);
        self.next_id += 1;
        let (stopper, stop) = self.stop.branch();
        let owner = opening.owner();
        self.channels.insert(id, Entry { owner, stopper });
        let place = Place {
            world: self.world.clone(),
            id,
            owner,
            stop,
        };
        let root = self.weak_self.clone();
        match opening {
            Opening::StreamTube(request, reply) => {
                channel::start::<tube::Channel>(place, root, request, reply);
            }
            Opening::FileTransfer(request, reply) => {
                channel::start::<transfer::Channel>(place, root, request, reply);
            }
            Opening::DBusTube(request, reply) => {
                channel::start::<dbus_tube::Channel>(place, root, request, reply);
            }
        }
    }

    /// Answers those who wait for channels that are gone by now.
    fn settle(&mut self) -> Flow {
        let alive = |owner| self.channels.values().any(|entry| entry.owner == owner);
        let (still, done): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|(owner, _)| alive(*owner));
        self.waiting = still;
        done.into_iter().for_each(|(_, reply)| reply.answer(()));
        if self.closing && self.channels.is_empty() {
            self.shutting_down
                .drain(..)
                .for_each(|reply| reply.answer(()));
            return Flow::Exit(Exit::Finished);
        }
        Flow::Continue
    }
}

impl Actor for Root {
    type Event = Option<RootMessage>;

    async fn select(&mut self) -> Self::Event {
        self.mailbox.next().await
    }

    fn apply(&mut self, event: Self::Event) -> Flow {
        if let Err(failure) = self.world.config.faults.hit(FaultPoint::RootDecide) {
            return Flow::Exit(Exit::Failed(failure));
        }
        match event {
            None => return Flow::Exit(Exit::Stopped),
            Some(RootMessage::Open(opening)) => self.open(*opening),
            Some(RootMessage::CloseOwner(owner, reply)) => {
                self.channels
                    .values()
                    .filter(|entry| entry.owner == owner)
                    .for_each(|entry| entry.stopper.stop());
                self.waiting.push((owner, reply));
            }
            Some(RootMessage::Shutdown(reply)) => {
                self.closing = true;
                self.channels
                    .values()
                    .for_each(|entry| entry.stopper.stop());
                self.shutting_down.push(reply);
            }
            Some(RootMessage::Ended(id)) => {
                self.channels.remove(&id);
            }
        }
        if let Err(failure) = self.world.config.faults.hit(FaultPoint::RootDecided) {
            return Flow::Exit(Exit::Failed(failure));
        }
        self.settle()
    }
}

impl SupervisorHandle {
    /// Starts a stream tube and publishes its object through the tree; when this returns, the
    /// object is there. Dropping the future before it completes takes the channel away again.
    ///
    /// # Errors
    /// `ResourceUnavailable` at [`SupervisorConfig::max_channels`], `NotAvailable` while shutting
    /// down, when the supervisor is gone and when the tree does not publish it within
    /// [`SupervisorConfig::tree_limit`], `Disconnected` when its owner is closed meanwhile, and what
    /// the tree answers.
    pub async fn open_stream_tube(&self, request: StreamTubeRequest) -> Result<StreamTubeObject> {
        let open = |reply| RootMessage::Open(Box::new(Opening::StreamTube(request, reply)));
        self.address.ask(open).await?
    }

    /// Starts a file transfer and publishes its object, as [`SupervisorHandle::open_stream_tube`] does. One that we
    /// send is offered to the contact at once.
    ///
    /// # Errors
    /// As [`SupervisorHandle::open_stream_tube`].
    pub async fn open_file_transfer(
        &self,
        request: FileTransferRequest,
    ) -> Result<FileTransferObject> {
        let open = |reply| RootMessage::Open(Box::new(Opening::FileTransfer(request, reply)));
        self.address.ask(open).await?
    }

    /// Starts a D-Bus tube and publishes its object, as [`SupervisorHandle::open_stream_tube`] does.
    ///
    /// # Errors
    /// As [`SupervisorHandle::open_stream_tube`].
    pub async fn open_dbus_tube(&self, request: DBusTubeRequest) -> Result<DBusTubeObject> {
        let open = |reply| RootMessage::Open(Box::new(Opening::DBusTube(request, reply)));
        self.address.ask(open).await?
    }

    /// Closes all channels of one Connection in order and waits until each is withdrawn and its
    /// contact was told (as far as that could be done within
    /// [`SupervisorConfig::farewell_limit`] and [`SupervisorConfig::tree_limit`]). Requests to open
    /// that were made before are included; later ones are not concerned: do not make any.
    pub async fn close_owner(&self, owner: OwnerId) {
        let asked = self
            .address
            .ask(|reply| RootMessage::CloseOwner(owner, reply))
            .await;
        if asked.is_err() {
            self.all_gone().await;
        }
    }

    /// Closes every channel in order, opens no more, and ends the supervisor.
    pub async fn shutdown(&self) {
        if self.address.ask(RootMessage::Shutdown).await.is_err() {
            self.all_gone().await;
        }
    }

    /// Waits until the supervisor has ended, by [`SupervisorHandle::shutdown`] or because it
    /// failed. Its channels may still be closing.
    pub async fn gone(&self) {
        // Nothing is ever sent.
        self.root.recv().await.ok();
    }

    /// The root is gone, and with it its channels close: waits until they have.
    async fn all_gone(&self) {
        // Nothing is ever sent.
        self.channels.recv().await.ok();
    }

    /// How often actors failed so far.
    pub fn restarts(&self) -> RestartCounts {
        self.counters.read()
    }
}
