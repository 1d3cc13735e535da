//! The keeper: what every profile keeps, written down before it is promised, and a task for each tube.
//!
//! ```text
//!   a profile:  (nothing) ── it has a record ──> going online ──> has a connection, ours
//!                   │                                ^                │ failed   │ taken offline
//!                   │                                └────────────────┘          v
//!                   └── somebody brings it online ──> has a connection ──> waits for one
//! ```
//!
//! One thing at a time is done with the disk, in order: a record is read anew whenever a profile gets a
//! connection, since another service may have had the profile in between.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use actors::{
    model::{Error, Result},
    runtime::{
        Actor, Address, BoxFuture, Clock, Flow, Mailbox, Reply, Snapshot, SnapshotWriter, Spawner,
        Task, Time,
    },
};

use super::{
    Change, Condition, Kept, Message, Outcome, View,
    record::Record,
    store::Records,
    tend::{self, Begun, Tending},
};
use crate::connection::{
    manager::ManagerHandle,
    message::{ConnectionHandle, ConnectionMessage},
};

/// Before an account that could not get online is tried again the first time; twice as long each time.
const PAUSE: Duration = Duration::from_secs(2);
/// And never longer.
const LONGEST: Duration = Duration::from_secs(300);
/// A connection that lasted this long was a good one: its loss is answered at once.
const LASTING: Duration = Duration::from_secs(60);

/// What is known of one profile.
struct Profile {
    record: Record,
    tended: BTreeMap<u32, Tended>,
    connection: SnapshotWriter<Option<ConnectionHandle>>,
    ours: bool,
    /// Somebody took the last connection offline; written down as soon as the disk is free.
    offline: bool,
    /// When the last connection was had.
    gained_at: Time,
    /// Before the account goes online again, should that connection be lost before it has lasted.
    pause: Duration,
    /// Brings the account online.
    going_online: Option<Task<()>>,
    /// Reads the record anew after a while: the last attempt found the profile in another service's
    /// hands.
    later: Option<Task<()>>,
}

impl Profile {
    /// Whether this is its connection.
    fn has(&self, connection: &ConnectionHandle) -> bool {
        let current = self.connection.get();
        current
            .as_ref()
            .as_ref()
            .is_some_and(|one| one.id == connection.id)
    }

    /// Whether we brought it online for what is not kept any more.
    fn is_idle(&self) -> bool {
        self.ours && self.record.tubes.is_empty()
    }
}

struct Tended {
    condition: Condition,
    /// Dropping it closes the tube.
    _task: Task<()>,
}

/// The actor; see the module's head.
pub(super) struct Keeper {
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    manager: ManagerHandle,
    store: Option<Arc<dyn Records>>,
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

impl Keeper {
    pub(super) fn new(
        spawner: &Spawner,
        clock: &Arc<dyn Clock>,
        manager: &ManagerHandle,
        store: Option<Arc<dyn Records>>,
        (mailbox, address): (Mailbox<Message>, Address<Message>),
        view: SnapshotWriter<View>,
    ) -> Self {
        Keeper {
            spawner: spawner.clone(),
            clock: clock.clone(),
            manager: manager.clone(),
            store,
            mailbox,
            address,
            profiles: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            changes: VecDeque::new(),
            doing: None,
            view,
        }
    }

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
                    Some(Change::Keep(keep)) => keep.reply.answer(Err(error)),
                    Some(Change::Drop { reply, .. }) => reply.answer(Err(error)),
                    Some(Change::Load(..) | Change::Offline(..)) | None => {}
                },
            }
        }
    }

    /// What a change has to do with the disk.
    fn work(&self, change: &Change) -> Result<BoxFuture<'static, Outcome>> {
        let store = self.store.clone().ok_or_else(|| {
            Error::NotAvailable("there is no place where tubes could be written down".into())
        })?;
        let (load, save) = match change {
            Change::Load(profile, _) => (Some(profile.clone()), None),
            Change::Keep(keep) => {
                let (connection, tube) = (&keep.connection, &keep.tube);
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
            Change::Offline(profile, offline) => {
                let known = self.profiles.get(profile).map(|known| &known.record);
                let new = known.filter(|record| {
                    record.offline != *offline
                        && !record.tubes.is_empty()
                        && !self.unreadable.contains_key(profile)
                });
                let mut record = new.cloned().ok_or_else(|| {
                    Error::NotAvailable("there is nothing that would have to be written".into())
                })?;
                record.offline = *offline;
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
        Ok(match (load, save) {
            (Some(profile), _) => {
                let loading = store.load(&profile, self.clock.wall());
                Box::pin(async move { Outcome::Loaded(loading.await) })
            }
            (None, Some(record)) => {
                let saving = store.save(record);
                Box::pin(async move { Outcome::Saved(saving.await) })
            }
            (None, None) => Box::pin(async { Outcome::Loaded(Ok(None)) }),
        })
    }

    fn done(&mut self, outcome: Outcome) {
        self.doing = None;
        match (self.changes.pop_front(), outcome) {
            (Some(Change::Load(profile, known)), Outcome::Loaded(loaded)) => {
                match loaded {
                    Ok(record) => {
                        self.unreadable.remove(&profile);
                        self.loaded(profile.clone(), record);
                        self.let_go(&profile);
                    }
                    Err(error) => {
                        tracing::error!(profile, %error, "tubes that were kept are not made anew");
                        self.unreadable.insert(profile, error);
                    }
                }
                self.publish();
                known.into_iter().for_each(|known| known.answer(()));
            }
            (Some(Change::Keep(keep)), Outcome::Saved(saved)) => match saved {
                Ok(record) => {
                    let name = record.account.profile.clone();
                    let over = keep.connection.address.is_gone();
                    if !over {
                        self.gained_if_new(&keep.connection);
                    }
                    let profile = self.profile(&name, &record);
                    let new = |number: &&u32| !profile.tended.contains_key(number);
                    let number = record.tubes.keys().find(new).copied().unwrap_or_default();
                    profile.record = record;
                    self.tend(&name, number, Some(keep.begun));
                    if over && !keep.connection.was_asked_to_end() {
                        self.go_online(&name, Duration::ZERO);
                    }
                    self.publish();
                    keep.reply.answer(Ok(number));
                }
                Err(error) => keep.reply.answer(Err(error)),
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
                self.let_go(&profile);
                self.publish();
                reply.answer(saved.map(drop));
            }
            (Some(Change::Offline(profile, _)), Outcome::Saved(saved)) => {
                match (saved, self.profiles.get_mut(&profile)) {
                    (Ok(record), Some(known)) => known.record = record,
                    (Ok(_), None) => {}
                    (Err(error), _) => tracing::error!(
                        profile,
                        %error,
                        "whether this account is to be online could not be written down"
                    ),
                }
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
                offline: false,
                gained_at: Time::default(),
                pause: Duration::ZERO,
                going_online: None,
                later: None,
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
        let before = std::mem::replace(&mut profile.record, record);
        let tubes = &profile.record.tubes;
        // Its number may be another's by now.
        profile.tended.retain(|number, _| {
            tubes
                .get(number)
                .is_some_and(|tube| before.tubes.get(number) == Some(tube))
        });
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
        // What was written down by a service before us counts until we have had a connection.
        let offline = profile.offline || profile.record.offline;
        for number in new {
            self.tend(&name, number, None);
        }
        if !offline {
            self.go_online(&name, Duration::ZERO);
        }
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
        };
        let task = self.spawner.spawn("kept tube", tending.run(begun));
        let tended = Tended {
            condition,
            _task: task,
        };
        profile.tended.insert(number, tended);
    }

    /// Brings the account of a profile that keeps something online after a while, unless it has a
    /// connection. Of one that is over we are still to hear, and how it ended.
    fn go_online(&mut self, name: &str, wait: Duration) {
        let Some(profile) = self.profiles.get_mut(name) else {
            return;
        };
        let has = profile.connection.get().is_some();
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
            clock.sleep(wait).await;
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
                    Err(error) => {
                        tracing::info!(
                            profile = account.profile,
                            %error,
                            "the account for kept tubes is not online yet"
                        );
                        if matches!(error, Error::AlreadyConnected(_)) {
                            let elsewhere = Message::Elsewhere(account.profile);
                            keeper.tell(elsewhere).await.ok();
                            return;
                        }
                    }
                }
                clock.sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        }));
    }

    /// What another service keeps may change in its hands, and somebody may take it offline there: it
    /// is read anew before the next attempt.
    fn elsewhere(&mut self, name: String) {
        let Some(profile) = self.profiles.get_mut(&name) else {
            return;
        };
        // It has just ended.
        profile.going_online = None;
        let wait = profile.pause.max(PAUSE);
        profile.pause = (wait * 2).min(LONGEST);
        let (keeper, clock) = (self.address.clone(), self.clock.clone());
        profile.later = Some(self.spawner.spawn("another's kept tubes", async move {
            clock.sleep(wait).await;
            let load = Message::Change(Change::Load(name, None));
            // A keeper that is gone drops us.
            keeper.tell(load).await.ok();
        }));
    }

    /// A connection of ours that keeps nothing any more goes offline once nobody else uses it.
    fn let_go(&self, name: &str) {
        let Some(profile) = self.profiles.get(name).filter(|profile| profile.is_idle()) else {
            return;
        };
        let Some(connection) = profile.connection.get().as_ref().clone() else {
            return;
        };
        let (keeper, clock) = (self.address.clone(), self.clock.clone());
        self.spawner
            .spawn("end of kept tubes", async move {
                tend::idle(&connection, &*clock).await;
                // A keeper that is gone ends nothing any more.
                keeper.tell(Message::Idle(connection)).await.ok();
            })
            .detach();
    }

    /// It may keep something anew.
    fn idle(&self, connection: ConnectionHandle) {
        let profile = self.profiles.get(&*connection.profile);
        let current = profile.filter(|profile| profile.has(&connection));
        if current.is_some_and(Profile::is_idle) {
            tracing::info!(
                profile = &*connection.profile,
                "no tube is kept any more: the account goes offline"
            );
            self.spawner
                .spawn("end of kept tubes", async move {
                    connection.disconnect().await;
                })
                .detach();
        }
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
        let now = self.clock.now();
        let profile = self.profile(&name, &record);
        profile.ours = ours;
        profile.offline = false;
        profile.later = None;
        profile.gained_at = now;
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
        self.change(Change::Load(name.clone(), known));
        self.change(Change::Offline(name, false));
    }

    fn lost(&mut self, connection: &ConnectionHandle, asked: bool) {
        let name = connection.profile.to_string();
        let Some(profile) = self.profiles.get_mut(&name) else {
            return;
        };
        if !profile.has(connection) {
            return;
        }
        profile.connection.publish(None);
        profile.ours = false;
        profile.offline = asked;
        if self.clock.now() - profile.gained_at >= LASTING {
            profile.pause = Duration::ZERO;
        }
        if profile.record.tubes.is_empty() {
            self.profiles.remove(&name);
        } else if asked {
            self.change(Change::Offline(name, true));
        } else {
            let wait = profile.pause;
            profile.pause = (wait * 2).clamp(PAUSE, LONGEST);
            self.go_online(&name, wait);
        }
    }

    /// The account goes online again, as it was before somebody wanted it otherwise.
    fn in_vain(&mut self, connection: &ConnectionHandle) {
        let name = connection.profile.to_string();
        // We may be about to hear that it is gone, because that was asked for.
        self.lost(connection, false);
        if let Some(profile) = self.profiles.get_mut(&name) {
            profile.offline = false;
            self.change(Change::Offline(name.clone(), false));
            self.go_online(&name, Duration::ZERO);
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
            Message::InVain(connection) => self.in_vain(&connection),
            Message::Elsewhere(profile) => self.elsewhere(profile),
            Message::Idle(connection) => self.idle(connection),
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
        let trying = |profile: &Profile| {
            let task = profile.going_online.as_ref();
            task.is_some_and(|task| !task.is_finished())
        };
        let now = View {
            going_online: self
                .profiles
                .iter()
                .filter(|(_, profile)| trying(profile))
                .map(|(name, _)| name.clone())
                .collect(),
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
