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
//! Offline ── connect ──▶ Starting ── announced ──▶ Online ── disconnect, failure ──▶ Leaving ──▶ end
//!
//! Bounds: while [`MAX_OUTBOX`] events wait for their reader, nothing is taken from discovery, streams or
//! listeners, which then wait in their own bounded queues; commands still are. Of a contact only the
//! latest state waits. [`MAX_WAITERS`] may wait for a stream to one contact; [`MAX_BACKGROUND`] streams are
//! opened at a time only to ask for features; [`MAX_UNKNOWN`] inbound streams may wait for a record.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use actors::{
    model::Error,
    runtime::{
        Address, BoxFuture, Clock, Mailbox, Reply, SnapshotWriter, Spawner, Stop, Stopper, Task,
        Time,
    },
};
use async_channel::{Receiver, Sender};
use futures_lite::{FutureExt as _, future};

use super::{
    contacts::{Change, Claim, Contacts},
    discovery::{Announcement, Discovery, DiscoveryEvent, PresenceText},
    network::{Connection, Listening, Network, Permit},
    peers::{Keep, Side, keep},
    stream::{
        self, Admission, Admitted, Command, StreamContext, StreamEvent, StreamId, StreamLink,
        StreamRequest,
    },
};
use crate::{
    session::{
        ContactId, PeerId, Presence, SessionEvent, Show, TubeId,
        link::Link as _,
        trust::{KeyId, Profile, TrustTable},
    },
    xmpp::{ns, payload::disco, stream::Role},
};

/// Most events that wait for their reader before the network has to wait too.
pub const MAX_OUTBOX: usize = 256;
/// Most callers that wait for a stream to one contact.
pub const MAX_WAITERS: usize = 64;
/// Most streams that are being opened only to ask for features.
pub const MAX_BACKGROUND: usize = 8;
/// Most inbound streams that wait for the record that vouches for them.
pub const MAX_UNKNOWN: usize = 64;
/// Most streams in all; more connections are closed at once.
pub const MAX_STREAMS: usize = 1024;
/// Most streams with one contact, those that are being retired included; one more is refused.
pub const MAX_STREAMS_EACH: usize = 8;
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

/// A stream to a contact, for whoever asked.
#[derive(Clone, Debug)]
pub struct Linked {
    /// The stream.
    pub link: Arc<StreamLink>,
    /// The contact's features, if it answered.
    pub features: Option<Arc<BTreeSet<String>>>,
}

/// What the session is told and asked.
pub enum Message {
    /// [`crate::session::Session::connect`]
    Connect(Reply<Result<(), Error>>),
    /// Discovery and listeners are started.
    Started(Result<(Listening, Receiver<DiscoveryEvent>), Error>),
    /// [`crate::session::Session::disconnect`]
    Disconnect(Reply<()>),
    /// Discovery has said goodbye.
    Withdrawn,
    /// [`crate::session::Session::set_presence`]
    SetPresence(Presence, Reply<Result<(), Error>>),
    /// [`crate::session::Session::set_alias`]
    SetAlias(String, Reply<Result<(), Error>>),
    /// [`crate::session::Session::set_features`]
    SetFeatures(BTreeSet<String>, Reply<()>),
    /// A stream to a contact is wanted.
    Link(ContactId, Reply<Result<Linked, Error>>),
    /// [`crate::session::Session::pin`]
    Pin(ContactId, Reply<Result<(), Error>>),
    /// [`crate::session::Session::verify`]
    Verify {
        /// Whom.
        contact: ContactId,
        /// The code our user compared.
        code: String,
        /// Whether a pinned key may be replaced.
        replace: bool,
        /// Done when it is stored.
        reply: Reply<Result<(), Error>>,
    },
    /// [`crate::session::Session::forget`]
    Forget(ContactId, Reply<Result<(), Error>>),
    /// The table of trusted keys was written, or could not be.
    Saved,
    /// A stream's task ended.
    Ended(StreamId, Result<(), Error>),
}

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
    Pin(Reply<Result<(), Error>>),
}

impl Waiter {
    fn fail(self, error: Error) {
        match self {
            Waiter::Link(reply) => forget(reply.send(Err(error))),
            Waiter::Pin(reply) => forget(reply.send(Err(error))),
        }
    }
}

/// Whoever asked has gone away; that is its right.
fn forget<T>(unsent: Result<(), T>) {
    drop(unsent);
}

struct StreamEntry {
    role: Role,
    contact: Option<ContactId>,
    key: Option<KeyId>,
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
    Event(SessionEvent),
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

/// Our names and presence, as they are announced.
#[derive(Clone, Debug, Default)]
pub struct Identification {
    /// `user@machine`, before conflicts.
    pub name: String,
    /// The TXT record's personal part.
    pub text: PresenceText,
}

/// Where the table of trusted keys is kept.
pub trait TrustStore: Send + Sync + 'static {
    /// Writes it; it survives a crash when this is done.
    fn save(&self, table: TrustTable) -> BoxFuture<'static, Result<(), Error>>;
}

impl TrustStore for Arc<Profile> {
    fn save(&self, table: TrustTable) -> BoxFuture<'static, Result<(), Error>> {
        let profile = self.clone();
        // The disk may be slow; the executor must not wait for it.
        Box::pin(smol::unblock(move || profile.save_trust(&table)))
    }
}

/// What a session actor is made of.
pub struct Parts {
    /// Who we are.
    pub identification: Identification,
    /// Whether plaintext is out of the question.
    pub require_encryption: bool,
    /// What streams share.
    pub streams: StreamContext,
    /// Their events.
    pub stream_events: Mailbox<(StreamId, StreamEvent)>,
    /// Our features, as streams answer them.
    pub info: SnapshotWriter<disco::Info>,
    /// Who is who.
    pub contacts: Contacts,
    /// Stores the table of trusted keys.
    pub store: Arc<dyn TrustStore>,
    /// Finds contacts.
    pub discovery: Arc<dyn Discovery>,
    /// Connects.
    pub network: Arc<dyn Network>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Runs tasks.
    pub spawner: Spawner,
    /// Where events go.
    pub events: Sender<SessionEvent>,
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
    sightings: Option<Receiver<DiscoveryEvent>>,
    streams: BTreeMap<StreamId, StreamEntry>,
    peers: BTreeMap<ContactId, Peer>,
    unknown: Vec<Unknown>,
    next_stream: u64,
    outbox: VecDeque<Out>,
    sending: Option<BoxFuture<'static, bool>>,
    saving: bool,
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
            sightings: None,
            streams: BTreeMap::new(),
            peers: BTreeMap::new(),
            unknown: Vec::new(),
            next_stream: 0,
            outbox: VecDeque::new(),
            sending: None,
            saving: false,
            to_save: Vec::new(),
            over: false,
        }
    }

    /// Runs until the session is over and all has been told.
    pub async fn run(mut self) {
        while !(self.over && self.outbox.is_empty() && self.sending.is_none() && !self.saving) {
            let event = self.select().await;
            self.apply(event);
        }
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
        stopped
            .or(message)
            .or(told)
            .or(timer)
            .or(stream)
            .or(discovery)
            .or(accept)
            .await
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
                self.parts.info.publish(info(features));
                self.announce();
                forget(reply.send(()));
            }
            Message::Link(id, reply) => self.want(id, Waiter::Link(reply)),
            Message::Pin(id, reply) => match self.parts.contacts.needs_proof(&id) {
                Ok(true) => self.want(id, Waiter::Pin(reply)),
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
            Message::Saved => {
                self.saving = false;
                self.save();
            }
            Message::Ended(id, result) => self.stream_ended(id, result),
        }
    }

    fn connect(&mut self, reply: Reply<Result<(), Error>>) {
        if !matches!(self.state, State::Offline) {
            let error = Error::NotAvailable("this session was online already".into());
            forget(reply.send(Err(error)));
            return;
        }
        self.state = State::Starting {
            reply: Some(reply),
            until: self.now() + ANNOUNCE,
        };
        let (network, discovery) = (self.parts.network.clone(), self.parts.discovery.clone());
        let identification = self.parts.identification.clone();
        let text = self.text();
        discovery.set_pinned(self.parts.contacts.pinned_keys());
        let address = self.address.clone();
        let starting = async move {
            let listening = network.listen().map_err(|error| {
                Error::NetworkError(format!("no port can be listened on: {error}"))
            })?;
            let announcement = Announcement {
                name: identification.name,
                port: listening.port,
                text,
            };
            let sightings = discovery.start(announcement).await?;
            Ok((listening, sightings))
        };
        let start = async move {
            let result = starting.await;
            // A session that is gone drops what was started.
            address
                .tell_first(Message::Started(result))
                .await
                .unwrap_or(());
        };
        self.parts.spawner.spawn("session start", start).detach();
    }

    fn started(&mut self, result: Result<(Listening, Receiver<DiscoveryEvent>), Error>) {
        let State::Starting { reply, .. } = &mut self.state else {
            return;
        };
        let reply = reply.take();
        match result {
            Ok((listening, sightings)) => {
                self.port = listening.port;
                self.accepted = Some(listening.accepted);
                self.accepting = listening.tasks;
                self.sightings = Some(sightings);
                // What was set in the meantime.
                self.announce();
                if let Some(reply) = reply {
                    forget(reply.send(Ok(())));
                }
            }
            Err(error) => {
                if let Some(reply) = reply {
                    forget(reply.send(Err(error.clone())));
                }
                self.leave(error, None);
            }
        }
    }

    /// Goes offline: no new streams, goodbye, streams closed, `Disconnected`. Once.
    fn leave(&mut self, why: Error, reply: Option<Reply<()>>) {
        if self.over {
            if let Some(reply) = reply {
                forget(reply.send(()));
            }
            return;
        }
        if let State::Leaving { replies, .. } = &mut self.state {
            replies.extend(reply);
            return;
        }
        self.accepted = None;
        self.accepting.clear();
        self.sightings = None;
        self.unknown.clear();
        for peer in std::mem::take(&mut self.peers).into_values() {
            for (_, waiter) in peer.waiters {
                waiter.fail(Error::Disconnected("the account went offline".into()));
            }
        }
        for entry in self.streams.values() {
            // One whose mailbox is full is closed with its stopper, at the end.
            if entry.commands.try_tell_first(Command::Close).is_err() {
                tracing::debug!("a stream is too busy to be closed in order");
            }
        }
        self.state = State::Leaving {
            replies: reply.into_iter().collect(),
            why,
            until: self.now() + LEAVING,
            withdrawn: false,
        };
        let (discovery, address) = (self.parts.discovery.clone(), self.address.clone());
        let goodbye = async move {
            discovery.stop().await;
            address.tell_first(Message::Withdrawn).await.unwrap_or(());
        };
        self.parts.spawner.spawn("goodbye", goodbye).detach();
    }

    fn finish_leaving(&mut self) {
        let now = self.now();
        let State::Leaving {
            replies,
            why,
            until,
            withdrawn,
        } = &mut self.state
        else {
            return;
        };
        if self.over || !(*until <= now || *withdrawn && self.streams.is_empty()) {
            return;
        }
        let (replies, why) = (std::mem::take(replies), why.clone());
        self.streams.clear();
        self.outbox
            .push_back(Out::Event(SessionEvent::Disconnected(why)));
        self.over = true;
        for reply in replies {
            forget(reply.send(()));
        }
    }

    fn set_presence(&mut self, presence: Presence) -> Result<(), Error> {
        if presence.show == Show::Offline {
            return Err(Error::InvalidArgument("to be offline, disconnect".into()));
        }
        let text = &mut self.parts.identification.text;
        text.show = Some(presence.show);
        text.message = super::discovery::clean(&presence.message);
        self.announce();
        Ok(())
    }

    /// The TXT record as it is now.
    fn text(&self) -> PresenceText {
        PresenceText {
            node: NODE.into(),
            ver: self.parts.info.get().ver(),
            hash: "sha-1".into(),
            key: Some(self.parts.streams.identity.id()),
            ..self.parts.identification.text.clone()
        }
    }

    fn announce(&mut self) {
        if self.sightings.is_some() {
            self.parts.discovery.update(self.text());
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
                Change::Rekeyed(id) => self.drop_streams_of(&id),
            }
        }
        if self.is_online() {
            self.ask_around();
        }
    }

    fn own_key(&self) -> KeyId {
        self.parts.streams.identity.id()
    }

    fn emit(&mut self, event: SessionEvent) {
        self.outbox.push_back(Out::Event(event));
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
                Out::Event(event) => return Some(event),
                Out::Contact(id) => {
                    if let Some(contact) = self.parts.contacts.contact(&id) {
                        return Some(SessionEvent::Contact(contact));
                    }
                }
            }
        }
    }

    // --- streams -------------------------------------------------------------------------------

    /// Somebody needs a stream to a contact.
    fn want(&mut self, id: ContactId, waiter: Waiter) {
        if !self.is_online() {
            waiter.fail(Error::Disconnected("the account is not online".into()));
            return;
        }
        if let Err(error) = self.parts.contacts.route(&id) {
            waiter.fail(error);
            return;
        }
        let until = self.now() + OPENING;
        let peer = self.peers.entry(id.clone()).or_default();
        if peer.waiters.len() >= MAX_WAITERS {
            waiter.fail(Error::ResourceUnavailable(format!(
                "too many requests wait for {id}"
            )));
            return;
        }
        peer.waiters.push((until, waiter));
        self.serve(&id);
    }

    /// Gives the waiters what they wait for, or sees to it that they get it.
    fn serve(&mut self, id: &ContactId) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if peer.waiters.is_empty() {
            return;
        }
        match peer.current {
            Some(current) => {
                let Some(link) = self.streams.get(&current).and_then(|s| s.link.clone()) else {
                    return;
                };
                let waiters = std::mem::take(&mut peer.waiters);
                for (_, waiter) in waiters {
                    self.satisfy(id, waiter, &link);
                }
            }
            None if peer.dialling.is_some() => {}
            None => self.dial(id),
        }
    }

    fn satisfy(&mut self, id: &ContactId, waiter: Waiter, link: &Arc<StreamLink>) {
        match waiter {
            Waiter::Link(reply) => {
                let features = self.parts.contacts.contact(id).and_then(|c| c.features);
                let linked = Linked {
                    link: link.clone(),
                    features,
                };
                forget(reply.send(Ok(linked)));
            }
            Waiter::Pin(reply) => {
                let result = match link.security() {
                    Some(security) => {
                        let (wall, now) = (self.parts.clock.wall(), self.now());
                        self.parts.contacts.pin(id, security.peer, wall, now)
                    }
                    None => Ok(Vec::new()),
                };
                self.trust_changed(result, reply);
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
        let keys = self.parts.contacts.pinned_keys();
        self.parts.discovery.set_pinned(keys);
        self.to_save.push(reply);
        self.save();
        self.follow(changes);
    }

    /// Stores the table as it is now, one writing at a time, so that an older table never overtakes a
    /// newer one. Whoever asks for a change hears of it once it is stored.
    fn save(&mut self) {
        if self.saving || self.to_save.is_empty() {
            return;
        }
        self.saving = true;
        let replies = std::mem::take(&mut self.to_save);
        let saved = self.parts.store.save(self.parts.contacts.trust().clone());
        let address = self.address.clone();
        let save = async move {
            let result = saved.await;
            for reply in replies {
                forget(reply.send(result.clone()));
            }
            address.tell_first(Message::Saved).await.unwrap_or(());
        };
        self.parts.spawner.spawn("save trust", save).detach();
    }

    fn probe(&mut self, id: ContactId) {
        let current = self.peers.get(&id).and_then(|peer| peer.current);
        match current.and_then(|current| self.streams.get(&current)) {
            Some(entry) => {
                // A mailbox that is full is that of a stream with much to say.
                let told = entry.commands.try_tell(Command::Ping).is_ok();
                tracing::debug!(contact = %id, told, "is it still there?");
            }
            None if self.is_online()
                && self.peers.get(&id).is_none_or(|p| p.dialling.is_none()) =>
            {
                self.dial(&id);
            }
            None => {}
        }
    }

    /// Asks those whose turn has come for their features.
    fn ask_around(&mut self) {
        let now = self.now();
        let mut background = self
            .peers
            .values()
            .filter(|peer| peer.dialling.is_some() && peer.waiters.is_empty())
            .count();
        let due: Vec<ContactId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.ask_at.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if self.parts.contacts.known_features(&id).is_some() {
                peer.ask_at = None;
                continue;
            }
            if let Some(entry) = peer.current.and_then(|current| self.streams.get(&current)) {
                peer.ask_at = None;
                // A stream that is not ready asks by itself.
                if entry.link.is_some() && entry.commands.try_tell(Command::Ask).is_err() {
                    tracing::debug!(contact = %id, "the stream is too busy to be asked");
                }
                continue;
            }
            if peer.dialling.is_some() {
                continue;
            }
            if background >= MAX_BACKGROUND {
                break;
            }
            background += 1;
            self.dial(&id);
        }
    }

    /// Opens a stream; its end says how it went.
    fn dial(&mut self, id: &ContactId) {
        let route = match self.parts.contacts.route(id) {
            Ok(route) => route,
            Err(error) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.ask_at = None;
                    for (_, waiter) in std::mem::take(&mut peer.waiters) {
                        waiter.fail(error.clone());
                    }
                }
                return;
            }
        };
        let stream = self.fresh_stream();
        let peer = self.peers.entry(id.clone()).or_default();
        peer.dialling = Some(stream);
        let (mailbox, commands) = stream::mailbox();
        let (stopper, stop) = Stopper::new();
        self.streams.insert(
            stream,
            StreamEntry {
                role: Role::Initiator,
                contact: Some(id.clone()),
                key: route.key,
                commands: commands.clone(),
                link: None,
                _stopper: stopper,
            },
        );
        let require_tls = self.parts.require_encryption || route.key.is_some();
        let request = move |us: String, local: SocketAddr, peer: SocketAddr| StreamRequest {
            id: stream,
            role: Role::Initiator,
            us,
            them: Some(route.instance.clone()),
            expected: route.key,
            require_tls,
            local,
            peer,
        };
        let (network, context) = (self.parts.network.clone(), self.parts.streams.clone());
        let (us, addresses) = (self.self_name.clone(), route.addresses);
        let clock = self.parts.clock.clone();
        let opening = async move {
            let mut last = Error::Offline("the contact has no address".into());
            for address in addresses {
                let connection = match network.dial(address).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        last = Error::ConnectionFailed(format!(
                            "the contact cannot be reached at {address}: {error}"
                        ));
                        continue;
                    }
                };
                let request = request(us.clone(), connection.local, connection.peer);
                match stream::establish(context.clone(), request, connection.carrier).await {
                    Ok(established) => return Ok(established),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let task = async move {
            let late = async {
                clock.sleep(OPENING).await;
                Err(Error::ConnectionFailed(
                    "the contact could not be reached in time".into(),
                ))
            };
            let stopped = async {
                stop.stopped().await;
                Err(Error::Cancelled("the stream is not wanted".into()))
            };
            let established = opening.or(late).or(stopped).await?;
            established.run(mailbox, commands, &stop).await
        };
        self.supervise(stream, task);
    }

    fn accepted(&mut self, connection: Connection) {
        if !self.is_online() || self.streams.len() >= MAX_STREAMS {
            return;
        }
        let stream = self.fresh_stream();
        let (mailbox, commands) = stream::mailbox();
        let (stopper, stop) = Stopper::new();
        self.streams.insert(
            stream,
            StreamEntry {
                role: Role::Recipient,
                contact: None,
                key: None,
                commands: commands.clone(),
                link: None,
                _stopper: stopper,
            },
        );
        let request = StreamRequest {
            id: stream,
            role: Role::Recipient,
            us: self.self_name.clone(),
            them: None,
            expected: None,
            require_tls: self.parts.require_encryption,
            local: connection.local,
            peer: connection.peer,
        };
        let context = self.parts.streams.clone();
        let permit: Option<Permit> = connection.permit;
        let task = async move {
            let stopped = async {
                stop.stopped().await;
                Err(Error::Cancelled("the stream is not wanted".into()))
            };
            let established = stream::establish(context, request, connection.carrier)
                .or(stopped)
                .await?;
            drop(permit);
            established.run(mailbox, commands, &stop).await
        };
        self.supervise(stream, task);
    }

    /// Runs a stream's task, and another that tells us how it ended, a panic included.
    fn supervise(
        &self,
        id: StreamId,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        let task = self.parts.spawner.spawn("xml stream", task);
        let address = self.address.clone();
        let watch = async move {
            let result = task
                .await
                .unwrap_or_else(|failure| Err(Error::Confused(failure.to_string())));
            address
                .tell_first(Message::Ended(id, result))
                .await
                .unwrap_or(());
        };
        self.parts
            .spawner
            .spawn("xml stream watcher", watch)
            .detach();
    }

    fn fresh_stream(&mut self) -> StreamId {
        self.next_stream += 1;
        StreamId(self.next_stream)
    }

    fn stream_event(&mut self, id: StreamId, event: StreamEvent) {
        if let StreamEvent::Admit(admission) = event {
            self.admit(id, admission);
            return;
        }
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(contact) = entry.contact.clone() else {
            return;
        };
        let from = || PeerId {
            contact: contact.clone(),
            resource: None,
        };
        match event {
            // Taken care of above.
            StreamEvent::Admit(_) => {}
            StreamEvent::Ready(link) => {
                entry.link = Some(link);
                self.serve(&contact);
            }
            StreamEvent::Features(info) => {
                if let Some(peer) = self.peers.get_mut(&contact) {
                    (peer.ask_at, peer.attempts) = (None, 0);
                }
                let changes = self.parts.contacts.answered(&contact, info.features);
                self.follow(changes);
            }
            StreamEvent::Offered(offer) => {
                let from = from();
                self.emit(SessionEvent::TubeOffered {
                    from,
                    tube: TubeId(offer.id),
                    service: offer.service,
                    parameters: offer.parameters,
                });
            }
            StreamEvent::Closed(tube) => {
                let from = from();
                self.emit(SessionEvent::TubeClosed {
                    from,
                    tube: TubeId(tube),
                });
            }
            StreamEvent::Connection(tube, stream) => {
                let from = from();
                self.emit(SessionEvent::StreamOffered {
                    from,
                    tube: TubeId(tube),
                    stream,
                });
            }
        }
    }

    fn admit(&mut self, id: StreamId, admission: Admission) {
        let Some(entry) = self.streams.get(&id) else {
            return;
        };
        if !self.is_online() {
            return;
        }
        if let Some(contact) = entry.contact.clone() {
            if self.parts.contacts.is_key_of(&contact, admission.key) {
                self.believe(id, contact, admission);
            } else {
                let error = Error::CertFingerprintMismatch(format!(
                    "{contact} has another key now than when the stream was opened"
                ));
                forget(admission.reply.send(Err(error)));
            }
            return;
        }
        let address = admission.peer.ip();
        let claim = self
            .parts
            .contacts
            .claim(&admission.from, admission.key, address);
        match claim {
            Claim::Is(contact) => self.believe(id, contact, admission),
            Claim::Unknown if self.unknown.len() < MAX_UNKNOWN => {
                let until = self.now() + RECORD;
                self.unknown.push(Unknown {
                    stream: id,
                    admission,
                    until,
                });
            }
            Claim::Unknown => refuse(admission, "too many strangers wait for their records"),
            Claim::Refused(why) => refuse(admission, why),
        }
    }

    fn look_again_at_unknown(&mut self) {
        for Unknown {
            stream,
            admission,
            until,
        } in std::mem::take(&mut self.unknown)
        {
            let (from, key) = (&admission.from, admission.key);
            match self.parts.contacts.claim(from, key, admission.peer.ip()) {
                Claim::Is(contact) => self.believe(stream, contact, admission),
                Claim::Unknown => self.unknown.push(Unknown {
                    stream,
                    admission,
                    until,
                }),
                Claim::Refused(why) => refuse(admission, why),
            }
        }
    }

    /// The stream is the contact's. If there is another one, one of the two is retired.
    fn believe(&mut self, id: StreamId, contact: ContactId, admission: Admission) {
        let now = self.now();
        let own = Side::Key(self.own_key());
        let (us, them) = match admission.key {
            Some(key) => (own, Side::Key(key)),
            None => (
                Side::Name(self.self_name.clone()),
                Side::Name(admission.from.clone()),
            ),
        };
        let same = |entry: &&StreamEntry| entry.contact.as_ref() == Some(&contact);
        if self.streams.values().filter(same).count() >= MAX_STREAMS_EACH
            && admission.role == Role::Recipient
        {
            refuse(admission, "it has too many streams");
            return;
        }
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        entry.contact = Some(contact.clone());
        entry.key = admission.key;
        let pneuma = self
            .parts
            .contacts
            .known_features(&contact)
            .map(|features| features.contains(ns::PNEUMA));
        let admitted = Admitted {
            contact: contact.clone(),
            pneuma,
        };
        if admission.reply.send(Ok(admitted)).is_err() {
            return;
        }
        let peer = self.peers.entry(contact.clone()).or_default();
        if peer.dialling == Some(id) {
            peer.dialling = None;
        }
        let existing = peer
            .current
            .filter(|current| *current != id)
            .and_then(|current| Some((current, self.streams.get(&current)?)));
        let retired = match existing {
            None => {
                peer.current = Some(id);
                None
            }
            Some((current, existing)) => match keep(&us, &them, existing.role, admission.role) {
                Keep::Existing => Some(id),
                Keep::Newcomer => {
                    peer.current = Some(id);
                    Some(current)
                }
            },
        };
        if let Some(entry) = retired.and_then(|retired| self.streams.get(&retired)) {
            // One that is too busy to be told is found by its idleness later.
            if entry.commands.try_tell_first(Command::Retire).is_err() {
                tracing::debug!(%contact, "a stream could not be retired");
            }
        }
        let dialled = admission.role == Role::Initiator;
        let changes = self
            .parts
            .contacts
            .stream_up(&contact, admission.peer, dialled, now);
        self.follow(changes);
        self.serve(&contact);
    }

    fn stream_ended(&mut self, id: StreamId, result: Result<(), Error>) {
        self.unknown.retain(|unknown| unknown.stream != id);
        let Some(entry) = self.streams.remove(&id) else {
            return;
        };
        if let Err(error) = &result {
            tracing::debug!(stream = id.0, %error, "a stream ended");
        }
        let Some(contact) = entry.contact else {
            return;
        };
        let now = self.now();
        let other = self
            .streams
            .iter()
            .filter(|(_, other)| other.contact.as_ref() == Some(&contact) && other.link.is_some())
            .map(|(id, _)| *id)
            .next_back();
        let Some(peer) = self.peers.get_mut(&contact) else {
            return;
        };
        if peer.dialling == Some(id) {
            peer.dialling = None;
        }
        let was_current = peer.current == Some(id);
        if was_current {
            peer.current = other;
        }
        let idle = peer.current.is_none() && peer.dialling.is_none();
        // One that was never ready has served nobody; those who waited for it do not wait for ever.
        if idle && entry.link.is_none() {
            let error = result.err().unwrap_or_else(Error::unanswered);
            for (_, waiter) in std::mem::take(&mut peer.waiters) {
                waiter.fail(error.clone());
            }
        }
        let unasked = self
            .parts
            .contacts
            .contact(&contact)
            .is_some_and(|contact| contact.features.is_none());
        if idle && unasked && peer.attempts < MAX_RETRIES {
            peer.attempts += 1;
            peer.ask_at = Some(now + RETRY * peer.attempts);
        } else if idle {
            peer.ask_at = None;
        }
        let alive = peer.current.is_some();
        if was_current && !alive {
            let changes = self.parts.contacts.stream_down(&contact, now);
            self.follow(changes);
        }
        self.serve(&contact);
    }

    /// Whoever holds these streams is not the contact any more.
    fn drop_streams_of(&mut self, id: &ContactId) {
        let contacts = &self.parts.contacts;
        self.streams.retain(|_, entry| {
            entry.contact.as_ref() != Some(id) || contacts.is_key_of(id, entry.key)
        });
        if let Some(peer) = self.peers.get_mut(id) {
            peer.current = peer.current.filter(|id| self.streams.contains_key(id));
            peer.dialling = peer.dialling.filter(|id| self.streams.contains_key(id));
        }
        self.serve(id);
    }

    // --- time ----------------------------------------------------------------------------------

    fn next_deadline(&self) -> Option<Time> {
        if self.over {
            return None;
        }
        let state = match &self.state {
            State::Starting { until, .. } | State::Leaving { until, .. } => Some(*until),
            State::Offline | State::Online => None,
        };
        let unknown = self.unknown.iter().map(|unknown| unknown.until);
        let waiters = self
            .peers
            .values()
            .flat_map(|peer| peer.waiters.iter().map(|(until, _)| *until));
        // While as many are being opened as may be, the next one's turn comes with an end, not with time.
        let free = self
            .peers
            .values()
            .filter(|peer| peer.dialling.is_some() && peer.waiters.is_empty())
            .count()
            < MAX_BACKGROUND;
        let asking = self
            .peers
            .values()
            .filter(|peer| free && self.is_online() && peer.dialling.is_none())
            .filter_map(|peer| peer.ask_at);
        unknown
            .chain(waiters)
            .chain(asking)
            .chain(state)
            .chain(self.parts.contacts.next_deadline())
            .min()
    }

    fn timers(&mut self) {
        let now = self.now();
        if matches!(&self.state, State::Starting { until, .. } if *until <= now) {
            self.leave(
                Error::NetworkError(
                    "our presence could not be announced: no interface carries multicast".into(),
                ),
                None,
            );
        }
        let (late, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unknown)
            .into_iter()
            .partition(|unknown| unknown.until <= now);
        self.unknown = waiting;
        for unknown in late {
            refuse(unknown.admission, "nothing on the network vouches for it");
        }
        for (id, peer) in &mut self.peers {
            for (_, waiter) in peer.waiters.extract_if(.., |(until, _)| *until <= now) {
                waiter.fail(Error::ConnectionFailed(format!(
                    "{id} could not be reached in time"
                )));
            }
        }
        let changes = self.parts.contacts.expire(now);
        self.follow(changes);
    }
}

fn refuse(admission: Admission, why: &str) {
    tracing::debug!(from = admission.from, peer = %admission.peer, why, "an inbound stream is refused");
    let error = Error::PermissionDenied(format!("{} is not believed: {why}", admission.from));
    forget(admission.reply.send(Err(error)));
}

/// `node` of our capabilities (XEP-0115).
const NODE: &str = "https://telepathy.freedesktop.org/pneuma";

/// What we answer to service discovery, with these features beside our own.
pub fn info(more: BTreeSet<String>) -> disco::Info {
    let own = [
        ns::DISCO_INFO,
        ns::SI,
        ns::BYTESTREAMS,
        ns::TUBES,
        ns::PNEUMA,
        "urn:xmpp:ping",
    ];
    disco::Info {
        node: None,
        identities: BTreeSet::from([disco::Identity {
            category: "client".into(),
            kind: "pc".into(),
            lang: String::new(),
            name: "Pneuma".into(),
        }]),
        features: own.into_iter().map(str::to_owned).chain(more).collect(),
    }
}
