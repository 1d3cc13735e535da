//! The session actor: one for each account that is online. It knows everybody and every stream, decides,
//! and never waits for anybody.
//!
//! ```text
//!                    commands                       ┌─ discovery (its own task)
//!  LocalSession ───────────────▶                    ▼
//!  Link requests ──────────────▶  SessionActor ◀── sightings
//!                                  │   ▲  ▲  ▲
//!             SessionEvent ◀───────┘   │  │  └── connections (accept tasks)
//!             (outbox, then a bounded  │  └───── StreamEvent (one task for each stream)
//!              channel)                └──────── how each stream ended
//! ```
//!
//! It is not restarted: what it decided about streams and people went with it. If it fails, the watcher
//! beside it (in [`super::start`]) withdraws what is announced and says [`SessionEvent::Disconnected`]
//! with the failure; streams and listeners end with the actor that owned them.
//!
//! Offline ── connect ──▶ Starting ── announced ──▶ Online ── disconnect, failure ──▶ Leaving ──▶ end
//!
//! Bounds: while [`MAX_OUTBOX`] events wait for their reader, nothing is taken from discovery, streams or
//! listeners, which then wait in their own bounded queues; commands still are. Of a contact only the
//! latest state waits. [`MAX_WAITERS`] may wait for a stream to one contact; [`MAX_BACKGROUND`] streams are
//! opened at a time that nobody waits for, and as many to pinned contacts; [`MAX_UNKNOWN`] inbound
//! streams may wait for a record.

mod lifecycle;
mod opening;
mod parts;
mod streams;
mod time;

pub use parts::{Identification, Linked, Message, Parts, TrustStore, info};

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use actors::{
    model::Error,
    runtime::{Address, BoxFuture, Failure, Mailbox, Reply, Stop, Stopper, Task, Time, catch},
};
use async_channel::Receiver;
use futures_lite::{FutureExt as _, future};

use super::{
    contacts::Change,
    discovery::DiscoveryEvent,
    fault::Point,
    network::{Connection, Known, Strangers},
    stream::{Admission, Command, StreamEvent, StreamId, StreamLink},
};
use crate::{
    session::{
        ContactId, SessionEvent,
        trust::{KeyId, RunId, TrustTable},
    },
    xmpp::stream::Role,
};

/// Most events that wait for their reader before the network has to wait too.
pub const MAX_OUTBOX: usize = 256;
/// Most callers that wait for a stream to one contact.
pub const MAX_WAITERS: usize = 64;
/// Most streams that are being opened for nobody who waits (to ask for features, to see whether a
/// contact is still there): so many to pinned contacts, and as many to all others.
pub const MAX_BACKGROUND: usize = 8;
/// Most inbound streams that wait for the record that vouches for them.
pub const MAX_UNKNOWN: usize = 64;
/// Most of them from one address; one more takes the place of the oldest of these.
pub const MAX_UNKNOWN_EACH: usize = 4;
/// Most streams in all; more connections are closed at once.
pub const MAX_STREAMS: usize = 1024;
/// Most streams with one contact, those that are being retired included; one more is refused.
pub const MAX_STREAMS_EACH: usize = 8;
/// Most streams that contacts opened whom our user never dealt with; one more is refused. Anybody
/// can make keys and records, and must not keep the pinned contacts out.
pub const MAX_STREAMS_OF_STRANGERS: usize = 256;
/// How long an inbound stream waits for the record that vouches for it.
const RECORD: Duration = Duration::from_secs(8);
/// How long opening a stream may take with all its attempts.
const OPENING: Duration = Duration::from_secs(40);
/// The side with the larger key leaves the other this long to open the stream that asks for features.
const COURTESY: Duration = Duration::from_millis(1500);
/// Asking for features again after a failure, this long times the number of attempts.
const RETRY: Duration = Duration::from_secs(15);
const MAX_RETRIES: u32 = 4;
/// How long going online may take.
const ANNOUNCE: Duration = Duration::from_secs(20);
/// How long going offline may take.
const LEAVING: Duration = Duration::from_secs(4);

enum State {
    Offline,
    Starting {
        reply: Option<Reply<Result<(), Error>>>,
        until: Time,
    },
    Online,
    Leaving {
        replies: Vec<Reply<()>>,
        why: Error,
        until: Time,
        withdrawn: bool,
    },
}

enum Waiter {
    Link(Reply<Result<Linked, Error>>),
    /// And the key that has to be proved.
    Pin(Option<KeyId>, Reply<Result<(), Error>>),
}

impl Waiter {
    fn fail(self, error: Error) {
        match self {
            Waiter::Link(reply) => forget(reply.send(Err(error))),
            Waiter::Pin(_, reply) => forget(reply.send(Err(error))),
        }
    }
}

/// A table on its way to the disk.
struct Saving {
    table: TrustTable,
    replies: Vec<Reply<Result<(), Error>>>,
}

/// Whoever asked has gone away; that is its right.
fn forget<T>(unsent: Result<(), T>) {
    drop(unsent);
}

struct StreamEntry {
    role: Role,
    contact: Option<ContactId>,
    key: Option<KeyId>,
    /// Which run of the contact's program is at the other end, once it is believed.
    run: Option<RunId>,
    commands: Address<Command>,
    link: Option<Arc<StreamLink>>,
    /// Ends the stream's task when it is dropped.
    _stopper: Stopper,
}

#[derive(Default)]
struct Peer {
    current: Option<StreamId>,
    dialling: Option<StreamId>,
    waiters: Vec<(Time, Waiter)>,
    /// When to ask for features.
    ask_at: Option<Time>,
    /// How often asking has failed.
    attempts: u32,
}

struct Unknown {
    stream: StreamId,
    admission: Admission,
    until: Time,
}

enum Out {
    Contact(ContactId),
    Event(Box<SessionEvent>),
}

/// What the actor waits for.
pub enum Event {
    Message(Option<Message>),
    Stream(StreamId, StreamEvent),
    Discovery(Option<DiscoveryEvent>),
    Accepted(Connection),
    Told(bool),
    Timer,
    Stopped,
}

/// See the module's head.
pub struct SessionActor {
    parts: Parts,
    state: State,
    mailbox: Mailbox<Message>,
    address: Address<Message>,
    /// Taken once it was heard.
    stop: Option<Stop>,
    self_name: String,
    port: u16,
    accepted: Option<Receiver<Connection>>,
    accepting: Vec<Task<()>>,
    /// Who may wait among the accepted, and for whom places are kept there.
    strangers: Strangers,
    known: Known,
    sightings: Option<Receiver<DiscoveryEvent>>,
    streams: BTreeMap<StreamId, StreamEntry>,
    peers: BTreeMap<ContactId, Peer>,
    unknown: Vec<Unknown>,
    next_stream: u64,
    /// Which of streams, discovery and listeners is looked at first.
    turn: u8,
    outbox: VecDeque<Out>,
    sending: Option<BoxFuture<'static, bool>>,
    /// What is being written, and who waits for it.
    saving: Option<Saving>,
    /// The table as it was last written.
    stored: TrustTable,
    /// Who waits for the next writing.
    to_save: Vec<Reply<Result<(), Error>>>,
    /// Ends when the outbox is empty and nothing is being written.
    over: bool,
}

impl SessionActor {
    /// An actor that is offline.
    pub fn new(
        parts: Parts,
        mailbox: Mailbox<Message>,
        address: Address<Message>,
        stop: Stop,
    ) -> Self {
        let stored = parts.contacts.trust().clone();
        SessionActor {
            parts,
            state: State::Offline,
            mailbox,
            address,
            stop: Some(stop),
            self_name: String::new(),
            port: 0,
            accepted: None,
            accepting: Vec::new(),
            strangers: Strangers::default(),
            known: Known::default(),
            sightings: None,
            streams: BTreeMap::new(),
            peers: BTreeMap::new(),
            unknown: Vec::new(),
            next_stream: 0,
            turn: 0,
            outbox: VecDeque::new(),
            sending: None,
            saving: None,
            stored,
            to_save: Vec::new(),
            over: false,
        }
    }

    /// Runs until the session is over and all has been told.
    ///
    /// # Errors
    /// When it fails, which nothing but a test makes it do.
    pub async fn run(mut self) -> Result<(), Failure> {
        let faults = self.parts.streams.faults.clone();
        while !(self.over
            && self.outbox.is_empty()
            && self.sending.is_none()
            && self.saving.is_none())
        {
            let event = faults.survive(Point::SessionWaiting, self.select()).await?;
            faults.hit(Point::SessionDecide)?;
            self.apply(event);
            faults.hit(Point::SessionDecided)?;
            // A flood must not keep this thread for itself.
            future::yield_now().await;
        }
        Ok(())
    }

    /// Waits for the next event. Cancel-safe.
    async fn select(&mut self) -> Event {
        if self.sending.is_none()
            && let Some(event) = self.next_out()
        {
            let events = self.parts.events.clone();
            // Kept in the actor, so that it survives when something else comes first.
            self.sending = Some(Box::pin(async move { events.send(event).await.is_ok() }));
        }
        let room = self.outbox.len() < MAX_OUTBOX;
        let deadline = self.next_deadline();
        self.turn = (self.turn + 1) % 3;
        let turn = self.turn;
        let SessionActor {
            parts,
            mailbox,
            sending,
            stop,
            accepted,
            sightings,
            ..
        } = self;
        let message = async { Event::Message(mailbox.next().await) };
        let told = async {
            match sending {
                Some(sending) => Event::Told(sending.await),
                None => future::pending().await,
            }
        };
        let stream_events = &mut parts.stream_events;
        let stream = async {
            match room {
                true => match stream_events.next().await {
                    Some((id, event)) => Event::Stream(id, event),
                    None => future::pending().await,
                },
                false => future::pending().await,
            }
        };
        let accept = async {
            match accepted.as_ref().filter(|_| room) {
                Some(accepted) => match accepted.recv().await {
                    Ok(connection) => Event::Accepted(connection),
                    Err(_) => future::pending().await,
                },
                None => future::pending().await,
            }
        };
        let discovery = async {
            match sightings.as_ref().filter(|_| room) {
                Some(sightings) => Event::Discovery(sightings.recv().await.ok()),
                None => future::pending().await,
            }
        };
        let clock = &parts.clock;
        let timer = async {
            match deadline {
                Some(deadline) => clock.sleep_until(deadline).await,
                None => future::pending().await,
            }
            Event::Timer
        };
        let stopped = async {
            match stop {
                Some(stop) => stop.stopped().await,
                None => future::pending().await,
            }
            Event::Stopped
        };
        let urgent = stopped.or(message).or(told).or(timer);
        // Whoever floods one of these must not keep the others waiting, so they take turns to be first.
        match turn {
            0 => urgent.or(stream).or(discovery).or(accept).await,
            1 => urgent.or(discovery).or(accept).or(stream).await,
            _ => urgent.or(accept).or(stream).or(discovery).await,
        }
    }

    /// Decides what follows from an event. Never waits.
    fn apply(&mut self, event: Event) {
        match event {
            Event::Message(Some(message)) => self.message(message),
            // We hold an address of our own, so this does not happen.
            Event::Message(None) => {}
            // The last handle is gone: nobody can ask for anything any more.
            Event::Stopped => {
                self.stop = None;
                self.leave(Error::Cancelled("the session was dropped".into()), None);
            }
            Event::Stream(id, event) => self.stream_event(id, event),
            Event::Discovery(Some(event)) => self.discovered(event),
            Event::Discovery(None) => {
                self.sightings = None;
                self.leave(Error::NetworkError("discovery has ended".into()), None);
            }
            Event::Accepted(connection) => self.accepted(connection),
            Event::Told(true) => self.sending = None,
            Event::Told(false) => {
                // Nobody listens: what waits has no reader.
                self.sending = None;
                self.outbox.clear();
                self.leave(Error::Cancelled("nobody listens any more".into()), None);
            }
            Event::Timer => self.timers(),
        }
        self.finish_leaving();
    }

    fn now(&self) -> Time {
        self.parts.clock.now()
    }

    fn is_online(&self) -> bool {
        matches!(self.state, State::Online)
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Connect(reply) => self.connect(reply),
            Message::Started(result) => self.started(result),
            Message::Disconnect(reply) => {
                self.leave(
                    Error::Cancelled("our user went offline".into()),
                    Some(reply),
                );
            }
            Message::Withdrawn => {
                if let State::Leaving { withdrawn, .. } = &mut self.state {
                    *withdrawn = true;
                }
            }
            Message::SetPresence(presence, reply) => {
                let result = self.set_presence(presence);
                forget(reply.send(result));
            }
            Message::SetAlias(alias, reply) => {
                self.parts.identification.text.nickname = super::discovery::clean(&alias);
                self.announce();
                forget(reply.send(Ok(())));
            }
            Message::SetFeatures(features, reply) => {
                let methods = self.parts.streams.bytestreams.methods();
                self.parts.info.publish(info(methods, features));
                self.announce();
                forget(reply.send(()));
            }
            Message::Link {
                contact,
                gone,
                reply,
            } => {
                if let Some(gone) = gone {
                    self.turned_out_gone(&contact, &gone);
                }
                self.want(contact, Waiter::Link(reply));
            }
            Message::Pin {
                contact,
                expected,
                reply,
            } => match self.parts.contacts.needs_proof(&contact, expected) {
                Ok(true) => self.want(contact, Waiter::Pin(expected, reply)),
                // Its pin may be what is being written.
                Ok(false) if self.saving.is_some() => self.to_save.push(reply),
                Ok(false) => forget(reply.send(Ok(()))),
                Err(error) => forget(reply.send(Err(error))),
            },
            Message::Verify {
                contact,
                code,
                replace,
                reply,
            } => {
                let (wall, now) = (self.parts.clock.wall(), self.now());
                let result = self
                    .parts
                    .contacts
                    .verify(&contact, &code, replace, wall, now);
                self.trust_changed(result, reply);
            }
            Message::Forget(contact, reply) => {
                let now = self.now();
                let result = self.parts.contacts.forget(&contact, now);
                self.trust_changed(result, reply);
            }
            Message::SetRule(scope, terms, reply) => {
                let result = self.parts.contacts.set_rule(scope, terms);
                self.trust_changed(result.map(|()| Vec::new()), reply);
            }
            Message::Saved(result) => self.saved(result),
            Message::Ended(id, result) => {
                // What the stream said before it ended waits in the other mailbox, which is read
                // later: as much as that holds may exceed the outbox's bound, once.
                while let Ok((id, event)) = self.parts.stream_events.try_next() {
                    self.stream_event(id, event);
                }
                self.stream_ended(id, result);
            }
        }
    }

    fn discovered(&mut self, event: DiscoveryEvent) {
        let now = self.now();
        match event {
            DiscoveryEvent::Published(name) => {
                let changes = self.parts.contacts.set_own_name(&name, now);
                self.self_name = name.clone();
                if matches!(self.state, State::Starting { .. }) {
                    self.state = State::Online;
                    let alias = self.parts.identification.text.alias(&name);
                    self.emit(SessionEvent::Connected {
                        self_id: ContactId(name),
                        alias,
                    });
                    // Everybody who was known before, the pinned contacts first of all.
                    for id in self.parts.contacts.ids() {
                        self.tell_of(&id);
                    }
                } else {
                    self.emit(SessionEvent::SelfIdChanged(ContactId(name)));
                }
                self.follow(changes);
            }
            DiscoveryEvent::Seen(sighting) => {
                let changes = self.parts.contacts.seen(*sighting, now);
                self.follow(changes);
                self.look_again_at_unknown();
            }
            DiscoveryEvent::Gone(instance) => {
                let changes = self.parts.contacts.gone(&instance, now);
                self.follow(changes);
            }
            DiscoveryEvent::Failed(error) => self.leave(error, None),
        }
    }

    fn follow(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Changed(id) => self.tell_of(&id),
                Change::Removed(id) => {
                    if let Some(peer) = self.peers.remove(&id) {
                        for (_, waiter) in peer.waiters {
                            waiter.fail(Error::Offline(format!("{id} is gone")));
                        }
                    }
                    self.outbox
                        .retain(|out| !matches!(out, Out::Contact(other) if *other == id));
                    self.emit(SessionEvent::ContactRemoved(id));
                }
                Change::Lost(id) => self.emit(SessionEvent::ContactLost(id)),
                Change::Ask(id) => {
                    let courtesy = match self.parts.contacts.route(&id) {
                        Ok(route) if route.key.is_some_and(|key| key < self.own_key()) => COURTESY,
                        _ => Duration::ZERO,
                    };
                    let at = self.now() + courtesy;
                    let peer = self.peers.entry(id).or_default();
                    (peer.ask_at, peer.attempts) = (Some(at), 0);
                }
                Change::Probe(id) => self.probe(id),
                Change::Rekeyed(id) => {
                    self.drop_streams_of(&id);
                    // Tubes were agreed on with whoever has the other key. Their bytestreams have
                    // connections of their own and would go on.
                    self.emit(SessionEvent::ContactLost(id));
                }
            }
        }
        self.keep_places();
        if self.is_online() {
            self.ask_around();
        }
    }

    /// Who is pinned gets a place before those who are not.
    pub(super) fn keep_places(&mut self) {
        let known = self.parts.contacts.known();
        if known != self.known {
            self.known = known.clone();
            self.strangers.keep_for(known);
        }
    }

    fn own_key(&self) -> KeyId {
        self.parts.streams.identity.id()
    }

    fn emit(&mut self, event: SessionEvent) {
        self.outbox.push_back(Out::Event(Box::new(event)));
    }

    /// The contact's latest state will be told; once, however often it changes before that.
    fn tell_of(&mut self, id: &ContactId) {
        let waits = |out: &Out| matches!(out, Out::Contact(other) if other == id);
        if self.is_online() && !self.outbox.iter().any(waits) {
            self.outbox.push_back(Out::Contact(id.clone()));
        }
    }

    fn next_out(&mut self) -> Option<SessionEvent> {
        loop {
            match self.outbox.pop_front()? {
                Out::Event(event) => return Some(*event),
                Out::Contact(id) => {
                    if let Some(contact) = self.parts.contacts.contact(&id) {
                        return Some(SessionEvent::Contact(contact));
                    }
                }
            }
        }
    }

    /// Stores the table of trusted keys and answers once it is stored.
    fn trust_changed(
        &mut self,
        result: Result<Vec<Change>, Error>,
        reply: Reply<Result<(), Error>>,
    ) {
        let changes = match result {
            Ok(changes) => changes,
            Err(error) => {
                forget(reply.send(Err(error)));
                return;
            }
        };
        let pinned = self.parts.contacts.pinned();
        self.parts.discovery.set_pinned(pinned);
        self.to_save.push(reply);
        self.save();
        self.follow(changes);
    }

    /// Stores the table as it is now, one writing at a time, so that an older table never overtakes a
    /// newer one. Whoever asks for a change hears of it once it is stored. What cannot be stored has
    /// not happened: a pin that the next start does not know must not look like one.
    fn save(&mut self) {
        if self.saving.is_some() || self.to_save.is_empty() {
            return;
        }
        let table = self.parts.contacts.trust().clone();
        let saved = self.parts.store.save(table.clone());
        self.saving = Some(Saving {
            table,
            replies: std::mem::take(&mut self.to_save),
        });
        let address = self.address.clone();
        let faults = self.parts.streams.faults.clone();
        let save = async move {
            let saved = faults.survive(Point::SessionSaving, saved);
            let result = match catch("save trust", saved).await {
                Ok(Ok(result)) => result,
                Ok(Err(failure)) | Err(failure) => Err(Error::Confused(failure.to_string())),
            };
            address
                .tell_first(Message::Saved(result))
                .await
                .unwrap_or(());
        };
        self.parts.spawner.spawn("save trust", save).detach();
    }

    fn saved(&mut self, result: Result<(), Error>) {
        let Some(Saving { table, mut replies }) = self.saving.take() else {
            return;
        };
        if let Err(error) = &result {
            tracing::error!(%error, "whom we trust could not be stored");
            let now = self.now();
            let changes = self.parts.contacts.restore(self.stored.clone(), now);
            let pinned = self.parts.contacts.pinned();
            self.parts.discovery.set_pinned(pinned);
            self.follow(changes);
            // Their changes went with it.
            replies.append(&mut self.to_save);
        } else {
            if table.policy() != self.stored.policy() {
                self.parts.policy.publish(table.policy().clone());
            }
            self.stored = table;
        }
        for reply in replies {
            forget(reply.send(result.clone()));
        }
        self.save();
    }
}
