//! Kept tubes: what our user left to the service for good (`--detach`). They outlive the command, the
//! contact's absence, and the service itself: they are written down in the profile and made anew when
//! the service comes back, until the user closes them.
//!
//! ```text
//!  dbus/ ── KeptHandle ──▶ keeper (actor) ──┬── record (pure), store (one write or read at a time)
//!                            │              ├── tend (a task for each tube: makes it again and again)
//!                            │              └── a task for each account that has to be online for them
//!                            └── published: what is kept, and how each fares
//! ```
//!
//! Only what our user did is written down, with the key that the contact had: a tube is made with that
//! key and no other, and only while it is pinned. The account goes online by itself when the service
//! starts and when its connection failed; one that somebody took offline stays so until somebody
//! brings it online. A client that asks for a connection of its own for a profile whose connection is
//! ours gets it: ours makes way, and the tubes move.
//!
//! Bounds: [`record::MAX_TUBES`] for each profile.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use actors::{
    bridge::Bridge,
    model::{ChannelId, ContactHandle, Error, OwnerId, Result, ServiceName, SocketAddress},
    runtime::{
        Actor, Address, Clock, Flow, Mailbox, Reply, Snapshot, SnapshotWriter, Spawner, Stopper,
        Task, run, within,
    },
};

use super::{
    manager::ManagerHandle,
    message::{ConnectionHandle, ConnectionMessage},
    parameters::Account,
    view::ChannelDetails,
};

pub(crate) mod record;
mod store;
mod tend;

use record::{KeptTube, Record, Way};
use store::Store;
use tend::{Begun, Tending};

/// Questions that wait for the keeper; whoever asks one more waits.
const MAILBOX: usize = 64;
/// How often a client that wants a connection of its own tries to get ours out of the way.
const ATTEMPTS: u32 = 10;
/// Before it tries again.
const MOMENT: Duration = Duration::from_millis(200);
/// How long a closed tube's channel may take to be gone.
const CLOSING: Duration = Duration::from_secs(10);
/// Before an account that could not get online is tried again the first time; twice as long each time.
const PAUSE: Duration = Duration::from_secs(2);
/// And never longer.
const LONGEST: Duration = Duration::from_secs(300);

/// How a kept tube fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Not there, and why: a sentence without its full stop.
    Waiting(String),
    /// There, as this channel.
    Running(ChannelId),
}

/// A kept tube as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The number under which its user knows it.
    pub number: u32,
    /// What is kept.
    pub tube: KeptTube,
    /// How it fares.
    pub condition: Condition,
}

/// What the keeper publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    profiles: BTreeMap<String, Vec<Kept>>,
    /// Some account is being brought online.
    going_online: bool,
}

/// What the keeper is told and asked.
enum Message {
    /// A profile has a connection; `ours` if we asked for it. `known` hears when it is known what the
    /// profile keeps.
    Gained {
        connection: ConnectionHandle,
        ours: bool,
        known: Option<Reply<()>>,
    },
    /// A connection is gone; `asked` if somebody wanted that.
    Lost {
        connection: ConnectionHandle,
        asked: bool,
    },
    /// The connection of a profile, if it is ours alone: somebody wants another.
    Ours {
        profile: String,
        reply: Reply<Option<ConnectionHandle>>,
    },
    Change(Change),
    Done(Outcome),
    Condition {
        profile: String,
        number: u32,
        condition: Condition,
    },
}

/// What is done with the disk, one after the other.
enum Change {
    Load(String, Option<Reply<()>>),
    Keep {
        connection: ConnectionHandle,
        tube: KeptTube,
        begun: Begun,
        reply: Reply<Result<u32>>,
    },
    Drop {
        profile: String,
        number: u32,
        reply: Reply<Result<()>>,
    },
}

/// What came of it.
enum Outcome {
    Loaded(Result<Option<Record>>),
    Saved(Result<Record>),
}

/// What is known of one profile.
struct Profile {
    record: Record,
    tended: BTreeMap<u32, Tended>,
    connection: SnapshotWriter<Option<ConnectionHandle>>,
    ours: bool,
    /// Brings the account online.
    going_online: Option<Task<()>>,
}

struct Tended {
    condition: Condition,
    /// Dropping it closes the tube.
    _task: Task<()>,
}

struct Keeper {
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    manager: ManagerHandle,
    store: Option<Store>,
    mailbox: Mailbox<Message>,
    address: Address<Message>,
    profiles: BTreeMap<String, Profile>,
    /// Profiles whose record could not be read, and why: it must not be written over.
    unreadable: BTreeMap<String, Error>,
    changes: VecDeque<Change>,
    /// Does the first of them.
    doing: Option<Task<()>>,
    view: SnapshotWriter<View>,
}

/// Talks to the keeper. Cheap to clone.
#[derive(Clone)]
pub struct KeptHandle {
    address: Address<Message>,
    view: Snapshot<View>,
    manager: ManagerHandle,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    store: Option<Store>,
    stopper: Arc<Stopper>,
}

impl std::fmt::Debug for KeptHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptHandle")
            .field("profiles", &self.view.get().profiles.len())
            .finish_non_exhaustive()
    }
}

impl KeptHandle {
    /// Starts the keeper of the profiles in `folder`. Without a folder nothing can be kept. It makes
    /// nothing anew before [`KeptHandle::restore`].
    pub fn start(
        spawner: &Spawner,
        clock: &Arc<dyn Clock>,
        manager: &ManagerHandle,
        folder: Option<PathBuf>,
    ) -> Self {
        let (mailbox, address) = Mailbox::new(MAILBOX);
        let (writer, view) = Snapshot::new(View::default());
        let (stopper, stop) = Stopper::new();
        let store = folder.map(Store::new);
        let keeper = Keeper {
            spawner: spawner.clone(),
            clock: clock.clone(),
            manager: manager.clone(),
            store: store.clone(),
            mailbox,
            address: address.clone(),
            profiles: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            changes: VecDeque::new(),
            doing: None,
            view: writer,
        };
        spawner
            .spawn("keeper", async move { run(keeper, &stop).await })
            .detach();
        KeptHandle {
            address,
            view,
            manager: manager.clone(),
            spawner: spawner.clone(),
            clock: clock.clone(),
            store,
            stopper: Arc::new(stopper),
        }
    }

    /// Has the keeper read what profiles keep, bring their accounts online, and go to work. For whoever
    /// is the one service of a session.
    pub fn restore(&self) {
        let Some(store) = self.store.clone() else {
            return;
        };
        let keeper = self.address.clone();
        self.spawner
            .spawn("search for kept tubes", async move {
                for profile in smol::unblock(move || store.profiles()).await {
                    let load = Message::Change(Change::Load(profile, None));
                    // A keeper that is gone restores nothing.
                    keeper.tell(load).await.ok();
                }
            })
            .detach();
    }

    /// `ConnectionManager.RequestConnection`: a connection that is there for kept tubes only makes
    /// way.
    ///
    /// # Errors
    /// As [`ManagerHandle::request`].
    pub async fn request(&self, account: Account) -> Result<ConnectionHandle> {
        let profile = account.profile.clone();
        let mut attempts = 0;
        let connection = loop {
            attempts += 1;
            let profile = profile.clone();
            let ours = self
                .address
                .ask(|reply| Message::Ours { profile, reply })
                .await;
            if let Ok(Some(ours)) = ours {
                tracing::info!(profile = account.profile, "another connection takes over");
                ours.disconnect().await;
            }
            match self.manager.request(account.clone()).await {
                // Ours is just about to be there.
                Err(Error::NotAvailable(_)) if attempts < ATTEMPTS && self.is_going_online() => {
                    self.clock.sleep(MOMENT).await;
                }
                outcome => break outcome?,
            }
        };
        let (known, pending) = Reply::new();
        let gained = Message::Gained {
            connection: connection.clone(),
            ours: false,
            known: Some(known),
        };
        // Without a keeper nothing is kept; connections are had all the same.
        if self.address.tell(gained).await.is_ok() {
            pending.wait().await.ok();
        }
        Ok(connection)
    }

    /// Offers a local service to a contact and keeps doing so. Gives its number and the channel.
    ///
    /// # Errors
    /// As [`ConnectionHandle::offer`]; `NotAvailable` when the same is kept already, or for a contact
    /// without a key; `ResourceUnavailable` at the bound; and what the disk says. Nothing is kept then.
    pub async fn offer(
        &self,
        connection: &ConnectionHandle,
        contact: ContactHandle,
        service: ServiceName,
        address: SocketAddress,
    ) -> Result<(u32, Arc<ChannelDetails>)> {
        let held = tend::offer(connection, &self.spawner, contact, &service, &address).await?;
        let channel = held.id();
        let begun = Begun::Offered(held);
        let number = self
            .keep(connection, contact, service, Way::Offer(address), begun)
            .await?;
        let view = connection.view.get();
        let details = view.channels.get(&channel).cloned().ok_or_else(|| {
            Error::Cancelled(format!(
                "the contact closed it at once; it is kept as k{number}"
            ))
        })?;
        Ok((number, details))
    }

    /// Takes what a contact offers as a channel, at an address of this machine, and keeps doing so.
    /// Port 0 is one of the kernel's choice, which stays. Gives its number and the address.
    ///
    /// # Errors
    /// As [`KeptHandle::offer`]; `NotAvailable` also when the address is taken, before anything is
    /// accepted.
    pub async fn accept(
        &self,
        connection: &ConnectionHandle,
        channel: &str,
        address: &SocketAddress,
    ) -> Result<(u32, SocketAddress)> {
        let view = connection.view.get();
        let mut channels = view.channels.values();
        let details = channels
            .find(|details| details.path == channel && !details.description.requested)
            .cloned()
            .ok_or_else(|| {
                Error::InvalidArgument("there is no such channel that a contact offers".into())
            })?;
        let bridge = Bridge::bind(address, connection.account.any_local_user)?;
        let address = bridge.address().clone();
        let (held, target) = tend::accept(connection, &self.spawner, details.id).await?;
        let description = &details.description;
        let begun = Begun::Accepted(held, bridge, target);
        let (contact, service) = (description.target, description.service.clone());
        let way = Way::Accept(address.clone());
        let number = self.keep(connection, contact, service, way, begun).await?;
        Ok((number, address))
    }

    async fn keep(
        &self,
        connection: &ConnectionHandle,
        contact: ContactHandle,
        service: ServiceName,
        way: Way,
        begun: Begun,
    ) -> Result<u32> {
        let (contact, key) = tend::pinned(connection, &*self.clock, contact).await?;
        let tube = KeptTube {
            contact,
            key,
            service,
            way,
        };
        let connection = connection.clone();
        self.address
            .ask(|reply| {
                Message::Change(Change::Keep {
                    connection,
                    tube,
                    begun,
                    reply,
                })
            })
            .await?
    }

    /// Ends a kept tube for good.
    ///
    /// # Errors
    /// `NotAvailable` when there is none of this number, and what the disk says: it is kept then.
    pub async fn close(&self, connection: &ConnectionHandle, number: u32) -> Result<()> {
        let profile = connection.profile.to_string();
        let kept = self.of(&profile);
        self.address
            .ask(|reply| {
                Message::Change(Change::Drop {
                    profile,
                    number,
                    reply,
                })
            })
            .await??;
        let running = kept.iter().find(|kept| kept.number == number);
        if let Some(Condition::Running(channel)) = running.map(|kept| &kept.condition) {
            let closed = connection
                .view
                .wait_for(|view| !view.channels.contains_key(channel));
            // It closes by itself in any case.
            within(&*self.clock, CLOSING, closed).await;
        }
        Ok(())
    }

    /// What a profile keeps.
    pub fn of(&self, profile: &str) -> Vec<Kept> {
        let view = self.view.get();
        view.profiles.get(profile).cloned().unwrap_or_default()
    }

    /// Whether some account is being brought online: a service does not leave meanwhile.
    pub fn is_going_online(&self) -> bool {
        self.view.get().going_online
    }

    /// Ends it, and closes what it holds; all stays written down.
    pub fn stop(&self) {
        self.stopper.stop();
    }
}

impl Keeper {
    fn change(&mut self, change: Change) {
        self.changes.push_back(change);
        self.begin();
    }

    /// Begins the next change if none is being done.
    fn begin(&mut self) {
        while self.doing.is_none()
            && let Some(change) = self.changes.front()
        {
            match self.work(change) {
                Ok(work) => {
                    let address = self.address.clone();
                    self.doing = Some(self.spawner.spawn("kept tubes", async move {
                        let outcome = work.await;
                        // If the keeper is gone, so is the interest in the outcome.
                        address.tell_first(Message::Done(outcome)).await.ok();
                    }));
                }
                Err(error) => match self.changes.pop_front() {
                    Some(Change::Keep { reply, .. }) => reply.answer(Err(error)),
                    Some(Change::Drop { reply, .. }) => reply.answer(Err(error)),
                    Some(Change::Load(..)) | None => {}
                },
            }
        }
    }

    /// What a change has to do with the disk.
    fn work(
        &self,
        change: &Change,
    ) -> Result<impl Future<Output = Outcome> + Send + 'static + use<>> {
        let store = self.store.clone().ok_or_else(|| {
            Error::NotAvailable("there is no place where tubes could be written down".into())
        })?;
        let (load, save) = match change {
            Change::Load(profile, _) => (Some(profile.clone()), None),
            Change::Keep {
                connection, tube, ..
            } => {
                if let Some(error) = self.unreadable.get(&*connection.profile) {
                    return Err(error.clone());
                }
                let known = self.profiles.get(&*connection.profile);
                let mut record = known.map_or_else(
                    || Record::new((*connection.account).clone()),
                    |profile| profile.record.clone(),
                );
                record.account = (*connection.account).clone();
                record.keep(tube.clone())?;
                (None, Some(record))
            }
            Change::Drop {
                profile, number, ..
            } => {
                let known = self.profiles.get(profile);
                let mut record = known.map(|profile| profile.record.clone());
                let gone = record
                    .as_mut()
                    .and_then(|record| record.tubes.remove(number));
                match (record, gone) {
                    (Some(record), Some(_)) => (None, Some(record)),
                    _ => {
                        return Err(Error::NotAvailable(format!("no tube is kept as k{number}")));
                    }
                }
            }
        };
        let now = self.clock.wall();
        Ok(smol::unblock(move || match (load, save) {
            (Some(profile), _) => Outcome::Loaded(store.load(&profile, now)),
            (None, Some(record)) => Outcome::Saved(store.save(&record).map(|()| record)),
            (None, None) => Outcome::Loaded(Ok(None)),
        }))
    }

    fn done(&mut self, outcome: Outcome) {
        self.doing = None;
        match (self.changes.pop_front(), outcome) {
            (Some(Change::Load(profile, known)), Outcome::Loaded(loaded)) => {
                match loaded {
                    Ok(record) => {
                        self.unreadable.remove(&profile);
                        self.loaded(profile, record);
                    }
                    Err(error) => {
                        tracing::error!(profile, %error, "tubes that were kept are not made anew");
                        self.unreadable.insert(profile, error);
                    }
                }
                self.publish();
                known.into_iter().for_each(|known| known.answer(()));
            }
            (
                Some(Change::Keep {
                    connection,
                    begun,
                    reply,
                    ..
                }),
                Outcome::Saved(saved),
            ) => match saved {
                Ok(record) => {
                    let name = record.account.profile.clone();
                    self.gained_if_new(&connection);
                    let profile = self.profile(&name, &record);
                    let new = |number: &&u32| !profile.tended.contains_key(number);
                    let number = record.tubes.keys().find(new).copied().unwrap_or_default();
                    profile.record = record;
                    self.tend(&name, number, Some(begun));
                    self.publish();
                    reply.answer(Ok(number));
                }
                Err(error) => reply.answer(Err(error)),
            },
            (
                Some(Change::Drop {
                    profile,
                    number,
                    reply,
                }),
                Outcome::Saved(saved),
            ) => {
                if let (Ok(record), Some(known)) = (&saved, self.profiles.get_mut(&profile)) {
                    known.record = record.clone();
                    known.tended.remove(&number);
                }
                self.publish();
                reply.answer(saved.map(drop));
            }
            (None | Some(_), _) => {
                tracing::error!("the keeper lost track of what it did");
            }
        }
        self.begin();
    }

    /// What is known of a profile; its place is made if there is none.
    fn profile(&mut self, name: &str, record: &Record) -> &mut Profile {
        self.profiles.entry(name.to_owned()).or_insert_with(|| {
            let (connection, _) = Snapshot::new(None);
            Profile {
                record: record.clone(),
                tended: BTreeMap::new(),
                connection,
                ours: false,
                going_online: None,
            }
        })
    }

    /// A profile's record is what the disk says: it was written by a service that had the profile
    /// before us, or by us.
    fn loaded(&mut self, name: String, record: Option<Record>) {
        let Some(record) = record else {
            if let Some(profile) = self.profiles.get_mut(&name) {
                profile.record.tubes.clear();
                profile.tended.clear();
            }
            return;
        };
        let profile = self.profile(&name, &record);
        profile.record = record;
        let tubes = &profile.record.tubes;
        profile
            .tended
            .retain(|number, _| tubes.contains_key(number));
        let new: Vec<u32> = tubes
            .keys()
            .filter(|number| !profile.tended.contains_key(number))
            .copied()
            .collect();
        if !new.is_empty() {
            tracing::info!(
                profile = name,
                tubes = new.len(),
                "tubes that were kept are made anew"
            );
        }
        for number in new {
            self.tend(&name, number, None);
        }
        self.go_online(&name);
    }

    fn tend(&mut self, name: &str, number: u32, begun: Option<Begun>) {
        let Some(profile) = self.profiles.get_mut(name) else {
            return;
        };
        let Some(tube) = profile.record.tubes.get(&number) else {
            return;
        };
        let condition = match &begun {
            Some(Begun::Offered(held) | Begun::Accepted(held, ..)) => Condition::Running(held.id()),
            None => Condition::Waiting("the account is offline".into()),
        };
        let tending = Tending {
            spawner: self.spawner.clone(),
            clock: self.clock.clone(),
            keeper: self.address.clone(),
            connection: profile.connection.reader(),
            profile: name.to_owned(),
            number,
            tube: tube.clone(),
            any_local_user: profile.record.account.any_local_user,
        };
        let task = self.spawner.spawn("kept tube", tending.run(begun));
        let tended = Tended {
            condition,
            _task: task,
        };
        profile.tended.insert(number, tended);
    }

    /// Brings the account of a profile that keeps something online, unless it has a connection.
    fn go_online(&mut self, name: &str) {
        let Some(profile) = self.profiles.get_mut(name) else {
            return;
        };
        let has = profile
            .connection
            .get()
            .as_ref()
            .as_ref()
            .is_some_and(|connection| !connection.address.is_gone());
        let trying = profile
            .going_online
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        if has || trying || profile.record.tubes.is_empty() {
            return;
        }
        let account = profile.record.account.clone();
        let (manager, clock) = (self.manager.clone(), self.clock.clone());
        let keeper = self.address.clone();
        profile.going_online = Some(self.spawner.spawn("account for kept tubes", async move {
            let mut pause = PAUSE;
            loop {
                match manager.request(account.clone()).await {
                    Ok(connection) => {
                        // One that is gone again is told of as lost.
                        connection
                            .ask(|reply| ConnectionMessage::Connect { reply })
                            .await
                            .ok();
                        let gained = Message::Gained {
                            connection,
                            ours: true,
                            known: None,
                        };
                        keeper.tell(gained).await.ok();
                        return;
                    }
                    Err(error) => tracing::info!(
                        profile = account.profile,
                        %error,
                        "the account for kept tubes is not online yet"
                    ),
                }
                clock.sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        }));
    }

    /// A connection that keeps something is known, however it came to be.
    fn gained_if_new(&mut self, connection: &ConnectionHandle) {
        let known = self.profiles.get(&*connection.profile);
        let known = known.and_then(|profile| profile.connection.get().as_ref().clone());
        if known.is_none_or(|known| known.id != connection.id) {
            self.gained(connection.clone(), false, None);
        }
    }

    fn gained(&mut self, connection: ConnectionHandle, ours: bool, known: Option<Reply<()>>) {
        let record = Record::new((*connection.account).clone());
        let name = connection.profile.to_string();
        let profile = self.profile(&name, &record);
        profile.ours = ours;
        profile.connection.publish(Some(connection.clone()));
        let trying = profile.going_online.take();
        if !ours {
            drop(trying);
        }
        let (lost, keeper) = (connection, self.address.clone());
        self.spawner
            .spawn("watch over a connection", async move {
                lost.gone().await;
                let asked = lost.was_asked_to_end();
                let connection = lost;
                keeper.tell(Message::Lost { connection, asked }).await.ok();
            })
            .detach();
        // Another service may have had the profile in between.
        self.change(Change::Load(name, known));
    }

    fn lost(&mut self, connection: &ConnectionHandle, asked: bool) {
        let name = connection.profile.to_string();
        let Some(profile) = self.profiles.get_mut(&name) else {
            return;
        };
        let current: Option<OwnerId> = profile.connection.get().as_ref().as_ref().map(|one| one.id);
        if current != Some(connection.id) {
            return;
        }
        profile.connection.publish(None);
        profile.ours = false;
        if profile.record.tubes.is_empty() {
            self.profiles.remove(&name);
        } else if !asked {
            self.go_online(&name);
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Gained {
                connection,
                ours,
                known,
            } => self.gained(connection, ours, known),
            Message::Lost { connection, asked } => self.lost(&connection, asked),
            Message::Ours { profile, reply } => {
                let ours = self.profiles.get(&profile).filter(|profile| profile.ours);
                reply.answer(ours.and_then(|profile| profile.connection.get().as_ref().clone()));
            }
            Message::Change(change) => self.change(change),
            Message::Done(outcome) => self.done(outcome),
            Message::Condition {
                profile,
                number,
                condition,
            } => {
                let profile = self.profiles.get_mut(&profile);
                if let Some(tended) = profile.and_then(|profile| profile.tended.get_mut(&number)) {
                    tended.condition = condition;
                }
            }
        }
    }

    fn publish(&self) {
        let kept = |profile: &Profile| {
            profile
                .tended
                .iter()
                .filter_map(|(number, tended)| {
                    Some(Kept {
                        number: *number,
                        tube: profile.record.tubes.get(number)?.clone(),
                        condition: tended.condition.clone(),
                    })
                })
                .collect()
        };
        let mut all = self.profiles.values();
        let now = View {
            going_online: all.any(|profile| {
                let task = profile.going_online.as_ref();
                task.is_some_and(|task| !task.is_finished())
            }),
            profiles: self
                .profiles
                .iter()
                .filter(|(_, profile)| !profile.tended.is_empty())
                .map(|(name, profile)| (name.clone(), kept(profile)))
                .collect(),
        };
        if *self.view.get() != now {
            self.view.publish(now);
        }
    }
}

impl Actor for Keeper {
    type Event = Option<Message>;

    async fn select(&mut self) -> Self::Event {
        self.mailbox.next().await
    }

    fn apply(&mut self, event: Self::Event) -> Flow {
        if let Some(message) = event {
            self.message(message);
        }
        self.publish();
        Flow::Continue
    }
}
