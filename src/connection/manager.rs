//! The actor behind the ConnectionManager: which accounts have a connection.
//!
//! ```text
//!            RequestConnection          published
//!  (nothing) ────────────────> Starting ─────────> Running ──its end begins──> Ending ──> (nothing)
//!                                 └──failed──> (nothing)
//!
//!  RequestConnection for an account that is Ending waits for (nothing): clients ask again at
//!  StatusChanged(Disconnected), when the last of the old connection still stands. For one that is
//!  Running it waits a moment for Ending: Mission Control calls Disconnect and does not wait for its
//!  answer, and what a bus delivers in order reaches different actors in any order
//!
//!  shutdown: no more requests; every connection is disconnected; then the end
//! ```
//!
//! Its failure ends it: what it knew went with it, and a second manager would not know whom it serves.
//! Every connection is then disconnected in order by its own lifecycle, with an error; the handle
//! answers errors, [`ManagerHandle::gone`] tells, and [`ManagerHandle::shutdown`] waits for the
//! connections. A service ends then, non-zero, and whoever started it starts it again. The same
//! happens when the supervisor of channels is gone.
//!
//! One account has at most one connection, and so has one profile, since its key and its list of
//! pinned contacts belong to one session.

use std::{
    collections::BTreeMap, convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};

use actors::{
    model::{Error, OwnerId, Result},
    runtime::{
        Actor, Address, Clock, Exit, Failure, Faults, Flow, Mailbox, Reply, Snapshot,
        SnapshotWriter, Spawner, Stopper, Task, run,
    },
};
use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{
    fault::Point,
    lifecycle::{self, Mourner, Surroundings},
    message::ConnectionHandle,
    parameters::Account,
    ports::{ChannelOpener, ConnectionTree, SessionFactory, SocketsOf},
    protocol,
};

/// Requests that wait for the manager; whoever asks one more waits.
const MAILBOX: usize = 64;
/// Most connections at once; a request for one more is answered `ResourceUnavailable`.
pub const MAX_CONNECTIONS: usize = 64;
/// How long a request that a connection is in the way of waits for that one's end to begin. Only
/// answers that are refusals take so long.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the manager is started with.
pub struct ManagerConfig {
    /// Presents connections.
    pub tree: Arc<dyn ConnectionTree>,
    /// Opens channels.
    pub opener: Arc<dyn ChannelOpener>,
    /// Starts sessions.
    pub sessions: Arc<dyn SessionFactory>,
    /// Local sockets.
    pub sockets: SocketsOf,
    /// Where tests kill actors; nothing at all in what we ship.
    pub faults: Faults<Point>,
}

enum ManagerMessage {
    Request(Account, Reply<Result<ConnectionHandle>>),
    Started(OwnerId, Result<ConnectionHandle>),
    Ending(OwnerId),
    Ended(OwnerId),
    OutOfPatience(u64),
    Shutdown(Reply<()>),
}

struct Entry {
    bus_name: String,
    profile: String,
    /// Waits for the start.
    reply: Option<Reply<Result<ConnectionHandle>>>,
    /// Once it is started.
    handle: Option<ConnectionHandle>,
    /// Its end has begun.
    ending: bool,
}

/// A request that waits for the end of a connection.
struct Waiting {
    account: Account,
    reply: Reply<Result<ConnectionHandle>>,
    /// While that end has not begun.
    patience: Option<Patience>,
}

/// Ends with a [`ManagerMessage::OutOfPatience`] of this number, or when it is dropped.
struct Patience {
    number: u64,
    _task: Task<()>,
}

/// Why a request cannot be served now.
enum NoRoom {
    /// It can be, once a connection that is ending is over.
    Yet,
    /// A connection is in the way, and may be about to end.
    Perhaps(Error),
    /// It cannot.
    Because(Error),
}

struct Manager {
    surroundings: Surroundings,
    sessions: Arc<dyn SessionFactory>,
    mailbox: Mailbox<ManagerMessage>,
    address: Address<ManagerMessage>,
    count: SnapshotWriter<usize>,
    entries: BTreeMap<OwnerId, Entry>,
    /// Wait for the end of a connection; at most `MAX_CONNECTIONS`, one more is `NotAvailable`.
    waiting: Vec<Waiting>,
    next: u64,
    shutting_down: Option<Vec<Reply<()>>>,
    /// Ends what is left when the manager is gone.
    _stopper: Stopper,
    /// Closed when the manager ends.
    _alive: Sender<Infallible>,
}

/// Talks to the manager. Cheap to clone.
#[derive(Clone)]
pub struct ManagerHandle {
    address: Address<ManagerMessage>,
    count: Snapshot<usize>,
    manager: Receiver<Infallible>,
    all: Receiver<Infallible>,
}

impl std::fmt::Debug for ManagerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagerHandle")
            .field("connections", &*self.count.get())
            .finish_non_exhaustive()
    }
}

impl ManagerHandle {
    /// Starts the manager.
    pub fn start(spawner: &Spawner, clock: &Arc<dyn Clock>, config: ManagerConfig) -> Self {
        let (mailbox, address) = Mailbox::new(MAILBOX);
        let (writer, count) = Snapshot::new(0);
        let (stopper, stop) = Stopper::new();
        let (manager_alive, manager_gone) = async_channel::bounded(1);
        let (alive, all) = async_channel::bounded(1);
        let faults = config.faults;
        let manager = Manager {
            surroundings: Surroundings {
                spawner: spawner.clone(),
                clock: clock.clone(),
                tree: config.tree,
                opener: config.opener,
                sockets: config.sockets,
                stop,
                faults: faults.clone(),
                _alive: alive,
            },
            sessions: config.sessions,
            mailbox,
            address: address.clone(),
            count: writer,
            entries: BTreeMap::new(),
            waiting: Vec::new(),
            next: 1,
            shutting_down: None,
            _stopper: stopper,
            _alive: manager_alive,
        };
        spawner
            .spawn("connection manager", async move {
                // It ends by a message only, so that it outlives its connections.
                let (_never, stop) = Stopper::new();
                let running = run(manager, &stop);
                match faults.survive(Point::ManagerWaiting, running).await {
                    Ok(Exit::Failed(failure)) | Err(failure) => {
                        tracing::error!(%failure, "the manager failed: all connections end");
                    }
                    Ok(_) => {}
                }
            })
            .detach();
        ManagerHandle {
            address,
            count,
            manager: manager_gone,
            all,
        }
    }

    /// `ConnectionManager.RequestConnection`.
    ///
    /// # Errors
    /// `NotAvailable` when the account or its profile has a connection (one that is ending is waited
    /// for, and so is, for a moment, one whose end may be about to begin), or while shutting down;
    /// `ResourceUnavailable` at `MAX_CONNECTIONS`; what the session adds.
    pub async fn request(&self, account: Account) -> Result<ConnectionHandle> {
        self.address
            .ask(|reply| ManagerMessage::Request(account, reply))
            .await?
    }

    /// How many connections there are, those that are starting counted.
    pub fn connections(&self) -> &Snapshot<usize> {
        &self.count
    }

    /// Disconnects all, in order, accepts no more, and ends the manager.
    pub async fn shutdown(&self) {
        if self
            .address
            .ask_first(ManagerMessage::Shutdown)
            .await
            .is_err()
        {
            // It is gone, and its connections end by themselves. Nothing is ever sent.
            self.all.recv().await.ok();
        }
    }

    /// Waits until the manager has ended, by [`ManagerHandle::shutdown`] or because it failed. Its
    /// connections may still be ending.
    pub async fn gone(&self) {
        // Nothing is ever sent.
        self.manager.recv().await.ok();
    }
}

impl Manager {
    fn request(&mut self, account: Account, reply: Reply<Result<ConnectionHandle>>) {
        if !reply.is_wanted() {
            // Whoever asked has given up, perhaps while it waited. Nobody would end what begins now.
            return;
        }
        let bus_name = protocol::connection_bus_name(account.identifier());
        match self.room_for(&account, &bus_name) {
            Ok(()) => {}
            Err(NoRoom::Yet) => return self.wait(account, reply, None),
            Err(NoRoom::Perhaps(error)) if self.waiting.len() >= MAX_CONNECTIONS => {
                return reply.answer(Err(error));
            }
            Err(NoRoom::Perhaps(_)) => {
                let patience = self.begin_patience();
                return self.wait(account, reply, Some(patience));
            }
            Err(NoRoom::Because(error)) => return reply.answer(Err(error)),
        }
        let id = OwnerId(self.next);
        self.next += 1;
        self.entries.insert(
            id,
            Entry {
                bus_name,
                profile: account.profile.clone(),
                reply: Some(reply),
                handle: None,
                ending: false,
            },
        );
        let surroundings = self.surroundings.clone();
        let sessions = self.sessions.clone();
        let address = self.address.clone();
        let starting = async move {
            let session = sessions.start(&account).await?;
            let manager = address.clone();
            let tell = move |message| {
                let manager = manager.clone();
                // A manager that is gone counts no more.
                async move { drop(manager.tell_first(message).await) }
            };
            let mourner = Mourner {
                begun: tell(ManagerMessage::Ending(id)),
                over: tell(ManagerMessage::Ended(id)),
            };
            lifecycle::start(surroundings, id, account, session, mourner).await
        };
        let address = self.address.clone();
        self.surroundings
            .spawner
            .spawn("start of a connection", async move {
                let outcome = AssertUnwindSafe(starting)
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|payload| {
                        let failure = Failure::from_panic(&*payload);
                        Err(Error::Confused(format!("the connection's start {failure}")))
                    });
                // The manager ends after its connections only.
                address
                    .tell_first(ManagerMessage::Started(id, outcome))
                    .await
                    .ok();
            })
            .detach();
    }

    fn room_for(&self, account: &Account, bus_name: &str) -> Result<(), NoRoom> {
        let no = |error| Err(NoRoom::Because(error));
        if self.shutting_down.is_some() {
            return no(Error::NotAvailable("the service is shutting down".into()));
        }
        let in_the_way =
            |entry: &&Entry| entry.bus_name == bus_name || entry.profile == account.profile;
        let mut clashes = self.entries.values().filter(in_the_way);
        let lasting = clashes.clone().find(|entry| !entry.ending);
        let ends = clashes.next().is_some();
        match lasting {
            Some(entry) if entry.bus_name == bus_name => Err(NoRoom::Perhaps(Error::NotAvailable(
                format!("'{}' has a connection already", account.identifier()),
            ))),
            Some(_) => Err(NoRoom::Perhaps(Error::NotAvailable(format!(
                "the profile '{}' belongs to another connection",
                account.profile
            )))),
            None if ends && self.waiting.len() < MAX_CONNECTIONS => Err(NoRoom::Yet),
            None if ends => no(Error::NotAvailable(format!(
                "the last connection of '{}' is still ending",
                account.identifier()
            ))),
            None if self.entries.len() >= MAX_CONNECTIONS => no(Error::ResourceUnavailable(
                format!("there are {MAX_CONNECTIONS} connections already"),
            )),
            None => Ok(()),
        }
    }

    fn wait(
        &mut self,
        account: Account,
        reply: Reply<Result<ConnectionHandle>>,
        patience: Option<Patience>,
    ) {
        self.waiting.push(Waiting {
            account,
            reply,
            patience,
        });
    }

    fn begin_patience(&mut self) -> Patience {
        let number = self.next;
        self.next += 1;
        let (address, clock) = (self.address.clone(), self.surroundings.clock.clone());
        let name = "patience with a connection in the way";
        let task = self.surroundings.spawner.spawn(name, async move {
            clock.sleep(PATIENCE).await;
            // A manager that is gone has answered everybody.
            address
                .tell_first(ManagerMessage::OutOfPatience(number))
                .await
                .ok();
        });
        Patience {
            number,
            _task: task,
        }
    }

    /// Who waited long enough is refused, unless the end that it waits for has begun.
    fn out_of_patience(&mut self, number: u64) {
        let its = |waiting: &Waiting| {
            waiting
                .patience
                .as_ref()
                .is_some_and(|its| its.number == number)
        };
        let Some(place) = self.waiting.iter().position(its) else {
            return;
        };
        let Waiting { account, reply, .. } = self.waiting.remove(place);
        let bus_name = protocol::connection_bus_name(account.identifier());
        match self.room_for(&account, &bus_name) {
            Ok(()) => self.request(account, reply),
            Err(NoRoom::Yet) => self.wait(account, reply, None),
            Err(NoRoom::Perhaps(error) | NoRoom::Because(error)) => reply.answer(Err(error)),
        }
    }

    /// A connection is over: those that waited for it have another try, in their order.
    fn ended(&mut self, id: OwnerId) {
        self.entries.remove(&id);
        for waiting in std::mem::take(&mut self.waiting) {
            self.request(waiting.account, waiting.reply);
        }
    }

    fn started(&mut self, id: OwnerId, outcome: Result<ConnectionHandle>) {
        let Some(entry) = self.entries.get_mut(&id) else {
            // It has ended before we heard that it had begun. Whoever asked hears of a connection
            // that was, from its entry's reply, which is dropped.
            return;
        };
        let reply = entry.reply.take();
        match &outcome {
            Ok(handle) => {
                entry.handle = Some(handle.clone());
                if self.shutting_down.is_some() {
                    self.disconnect(handle.clone());
                }
            }
            Err(_) => {
                self.entries.remove(&id);
            }
        }
        let unwanted = reply.and_then(|reply| reply.send(outcome).err());
        if let Some(Ok(handle)) = unwanted {
            self.disconnect(handle);
        }
    }

    fn disconnect(&self, connection: ConnectionHandle) {
        self.surroundings
            .spawner
            .spawn(
                "disconnection",
                async move { connection.disconnect().await },
            )
            .detach();
    }
}

impl Actor for Manager {
    type Event = Option<ManagerMessage>;

    async fn select(&mut self) -> Self::Event {
        self.mailbox.next().await
    }

    fn apply(&mut self, event: Self::Event) -> Flow {
        if let Err(failure) = self.surroundings.faults.hit(Point::ManagerDecide) {
            return Flow::Exit(Exit::Failed(failure));
        }
        match event {
            None => return Flow::Exit(Exit::Stopped),
            Some(ManagerMessage::Request(account, reply)) => self.request(account, reply),
            Some(ManagerMessage::Started(id, outcome)) => self.started(id, outcome),
            Some(ManagerMessage::Ending(id)) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.ending = true;
                }
            }
            Some(ManagerMessage::Ended(id)) => self.ended(id),
            Some(ManagerMessage::OutOfPatience(number)) => self.out_of_patience(number),
            Some(ManagerMessage::Shutdown(reply)) => {
                self.shutting_down.get_or_insert_default().push(reply);
                for entry in self.entries.values() {
                    if let Some(connection) = &entry.handle {
                        self.disconnect(connection.clone());
                    }
                }
            }
        }
        if let Err(failure) = self.surroundings.faults.hit(Point::ManagerDecided) {
            return Flow::Exit(Exit::Failed(failure));
        }
        if *self.count.get() != self.entries.len() {
            self.count.publish(self.entries.len());
        }
        match self.shutting_down.take() {
            Some(replies) if self.entries.is_empty() => {
                replies.into_iter().for_each(|reply| reply.answer(()));
                Flow::Exit(Exit::Finished)
            }
            waiting => {
                self.shutting_down = waiting;
                Flow::Continue
            }
        }
    }
}
