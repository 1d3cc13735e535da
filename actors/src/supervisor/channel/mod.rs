//! The supervisor of one channel: owns what must outlive its actors, starts them, restarts them,
//! and carries out what the tube decides. It decides nothing itself but who restarts when.
//!
//! ```text
//!  publish ──▶ Running ──tube finished──────────────▶ Ending ──▶ withdraw ──▶ gone
//!     │           │                                     ▲
//!     │ refused   └─ an actor failed past its limit ─▶ burial
//!     ▼                (every connection: ConnectionLost)
//!   gone
//! ```
//!
//! # What it owns
//! The tube's mailbox, the recovery record, the listening socket, the sockets that wait for the
//! tube's decision, the relays, the queue of signals, the slots. A [`Commit`] of the tube is taken
//! whole: record, published view, signals and commands belong together.
//!
//! # What is bounded
//! Everything below is counted by the slots ([`SupervisorConfig::max_connections`](super::SupervisorConfig)):
//! a connection holds one from before it is accepted or dialled until its `ConnectionClosed` has been
//! emitted. So a bus nobody reads holds up new connections, and no queue here grows beyond what
//! [`Channel::new`] makes room for.

mod announcer;
mod children;
mod connection;
mod dialler;
mod ending;

use std::{collections::BTreeMap, sync::Arc};

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use self::{
    announcer::{Announcement, Announcer, InHand},
    children::{Sibling, SiblingKind},
    connection::Far,
    dialler::{DialRequest, Dialler},
};
use super::{
    AcceptedSocket, DialledSocket, ListeningSocket, StreamTubeRequest,
    config::count,
    world::{RootMessage, World},
};
use crate::{
    endpoint::{Slot, Slots},
    limits::Limits,
    model::{ChannelId, ConnectionId, ConnectionParameter, Error, Result},
    ports::{
        BytestreamConnector, Duplex, IncomingBytestream, StreamTubeObject, StreamTubeSignal,
        StreamTubeView, TubeSignalling,
    },
    relay::Meters,
    runtime::{
        Address, Exit, Failure, FaultPoint, Mailbox, Reply, Snapshot, SnapshotWriter, Stop,
        Stopper, Task, Time, catch,
    },
    stream_tube::{
        Command, Commit, Fact, StreamTubeMessage, TubeSeed,
        state::{ConnectionEnd, State, Token},
    },
};

/// What the children tell the channel supervisor. The tube's commits have a queue of their own.
enum Note {
    /// A bytestream has opened.
    BytestreamOpened,
    /// One of the actors that restart has ended.
    SiblingEnded(SiblingKind, Exit),
    /// A relay has ended.
    RelayEnded(ConnectionId, ConnectionEnd),
    /// An application connected.
    Accepted(AcceptedSocket),
    /// The service took a connection.
    Dialled {
        socket: DialledSocket,
        incoming: Box<dyn IncomingBytestream>,
        slot: Slot,
    },
    /// The contact was told of the close, as far as it could be.
    Told,
}

/// A socket that waits for the tube's decision.
struct Waiting {
    stream: Box<dyn Duplex>,
    slot: Slot,
    origin: Origin,
}

enum Origin {
    Accepted,
    Dialled {
        parameter: ConnectionParameter,
        incoming: Box<dyn IncomingBytestream>,
    },
}

/// A connection the tube has announced.
struct Relay {
    slot: Slot,
    stopper: Stopper,
    /// Dropping it cancels what is left of the relay.
    task: Option<Task<()>>,
    ended: Option<ConnectionEnd>,
}

/// See the module's head.
struct Channel {
    world: World,
    id: ChannelId,
    connector: Arc<dyn BytestreamConnector>,
    signalling: Arc<dyn TubeSignalling>,
    stop: Stop,

    mailbox: Mailbox<StreamTubeMessage>,
    record: State,
    view: SnapshotWriter<StreamTubeView>,
    seed: TubeSeed,
    facts: Sender<Fact>,
    commits: Receiver<Commit>,
    notes: (Sender<Note>, Receiver<Note>),
    slots: Slots,
    limits: Limits,

    tube: Sibling,
    listener: Sibling,
    dialler: Sibling,
    announcer: Sibling,

    listening: Option<Arc<dyn ListeningSocket>>,
    dial_queue: (Sender<DialRequest>, Receiver<DialRequest>),
    signals: (Sender<Announcement>, Receiver<Announcement>),
    in_hand: InHand,

    next_token: u64,
    waiting: BTreeMap<Token, Waiting>,
    relays: BTreeMap<ConnectionId, Relay>,
    meters: Arc<Meters>,
    meters_due: Option<Time>,

    farewell: Farewell,
    sibling_failed: Option<String>,
    closers: Vec<Reply<()>>,
    finished: bool,
}

/// Telling the contact that the tube is closed.
enum Farewell {
    NotBegun,
    Telling {
        task: Task<()>,
        /// When the connections are cut although the contact has not been told.
        cut: Option<Time>,
    },
    Told {
        /// When the connections are cut although the contact has not done it.
        cut: Option<Time>,
    },
}

/// Starts a channel: publishes its object, answers, and runs it to its end.
pub(super) fn start(
    world: World,
    id: ChannelId,
    request: StreamTubeRequest,
    stop: Stop,
    reply: Reply<Result<StreamTubeObject>>,
    root: Address<RootMessage>,
) {
    let spawner = world.spawner.clone();
    spawner
        .spawn("channel", async move {
            // Its own failures it deals with itself; this is for what it cannot.
            let life = live(world, id, request, stop, reply);
            catch("channel", life).await.ok();
            // A root that is gone waits for nobody.
            root.tell_first(RootMessage::Ended(id)).await.ok();
        })
        .detach();
}

async fn live(
    world: World,
    id: ChannelId,
    request: StreamTubeRequest,
    stop: Stop,
    reply: Reply<Result<StreamTubeObject>>,
) {
    let (channel, object) = Channel::new(&world, id, request, stop.clone());
    let publishing = async {
        let published = catch("publish", world.tree.publish(object.clone().into())).await;
        published.unwrap_or_else(|failure| Err(Error::Confused(failure.to_string())))
    };
    let closing = || Error::Disconnected("the connection is closing".into());
    let stopped = async {
        stop.stopped().await;
        Err(closing())
    };
    let late = async {
        world.clock.sleep(world.config.tree_limit).await;
        let why = "the channel's object could not be made visible in time";
        Err(Error::NotAvailable(why.into()))
    };
    // Dropping the attempt leaves nothing behind.
    if let Err(why) = publishing.or(stopped).or(late).await {
        reply.answer(Err(why));
        return;
    }
    let unwanted = if stop.is_stopped() {
        reply.answer(Err(closing()));
        true
    } else {
        reply.send(Ok(object)).is_err()
    };
    channel.run(unwanted).await;
}

impl Channel {
    fn new(
        world: &World,
        id: ChannelId,
        request: StreamTubeRequest,
        stop: Stop,
    ) -> (Channel, StreamTubeObject) {
        let config = &world.config;
        let connections = config.max_connections;
        let (mailbox, address) = Mailbox::new(config.mailbox.max(1));
        let record = State::new(&request.description);
        let meters = Arc::<Meters>::default();
        let (writer, view) = Snapshot::new(view_of(&record, &meters));
        let slots = Slots::within(connections, request.limits.clone());
        // Each connection: accepted or dialled, ended. Besides: told, one sibling failed.
        let (facts, facts_out) = async_channel::bounded(2 * connections + 8);
        // One: the tube waits until it is taken.
        let (commits_in, commits) = async_channel::bounded(1);
        // Each connection: accepted or dialled, opened, ended. Besides: each sibling's end, told.
        let notes = async_channel::bounded(3 * connections + 8);
        // Each connection: opened, closed. Besides: two changes of state.
        let signals = async_channel::bounded(2 * connections + 8);
        let seed = TubeSeed {
            service: request.description.service.clone(),
            signalling: request.signalling.clone(),
            sockets: request.sockets,
            slots: slots.clone(),
            facts: facts_out,
            commits: commits_in,
            stop: stop.clone(),
            faults: config.faults.clone(),
        };
        let sibling = || Sibling::new(config.restart);
        let channel = Channel {
            id,
            connector: request.connector,
            signalling: request.signalling,
            stop,
            mailbox,
            record,
            view: writer,
            seed,
            facts,
            commits,
            notes,
            slots,
            limits: request.limits,
            tube: sibling(),
            listener: sibling(),
            dialler: sibling(),
            announcer: sibling(),
            listening: None,
            dial_queue: async_channel::bounded(connections.max(1)),
            signals,
            in_hand: InHand::default(),
            next_token: 1,
            waiting: BTreeMap::new(),
            relays: BTreeMap::new(),
            meters,
            meters_due: None,
            farewell: Farewell::NotBegun,
            sibling_failed: None,
            closers: Vec::new(),
            finished: false,
            world: world.clone(),
        };
        let object = StreamTubeObject {
            id,
            owner: request.owner,
            description: request.description,
            address,
            view,
        };
        (channel, object)
    }

    /// Runs a published channel to its end. `unwanted`: nobody ever got to know of it.
    async fn run(mut self, unwanted: bool) {
        let ended = if unwanted {
            if self.record.concerns_the_contact() {
                self.say_farewell(self.world.clock.now());
            }
            Ok(Ok(()))
        } else {
            catch("channel", self.supervise()).await
        };
        let failure = match ended {
            Ok(Ok(())) => None,
            Ok(Err(failure)) | Err(failure) => Some(failure),
        };
        if let Some(failure) = &failure {
            count(&self.world.counters.channels);
            tracing::error!(channel = self.id.0, %failure, "a channel closes because it failed");
        }
        self.end(failure).await;
    }

    async fn supervise(&mut self) -> Result<(), Failure> {
        self.start(SiblingKind::Announcer);
        self.start(SiblingKind::Tube);
        let faults = self.world.config.faults.clone();
        while !self.finished {
            let event = faults
                .survive(FaultPoint::ChannelWaiting, self.select())
                .await?;
            self.apply(event)?;
        }
        Ok(())
    }

    async fn select(&mut self) -> Event {
        let deadline = self.next_deadline();
        let (clock, pausing) = (&self.world.clock, self.tube.is_pausing());
        let commit = async {
            match self.commits.recv().await {
                Ok(commit) => Event::Commit(commit),
                Err(_) => std::future::pending().await,
            }
        };
        let note = async {
            match self.notes.1.recv().await {
                Ok(note) => Event::Note(note),
                Err(_) => std::future::pending().await,
            }
        };
        let hurry = async {
            if !pausing {
                std::future::pending::<()>().await;
            }
            self.stop.stopped().await;
            Event::Hurry
        };
        let timer = async {
            match deadline {
                Some(deadline) => clock.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
            Event::Timer
        };
        // Commits first: a note may be about something a commit has just made.
        commit.or(note).or(hurry).or(timer).await
    }

    fn apply(&mut self, event: Event) -> Result<(), Failure> {
        let now = self.world.clock.now();
        if let Event::Note(_) = &event {
            self.world.config.faults.hit(FaultPoint::ChannelNote)?;
            // On several threads a decision may have come after `select` had looked for one, and
            // before the note that is about it: the end of the tube that took it, for example.
            self.take_commits(now)?;
        }
        match event {
            Event::Commit(commit) => {
                self.take(commit, now)?;
            }
            Event::Note(Note::SiblingEnded(kind, exit)) => {
                // A tube that is done ends.
                if !self.finished {
                    self.sibling_ended(kind, exit, now)?;
                }
            }
            Event::Note(Note::RelayEnded(id, end)) => {
                if let ConnectionEnd::Failed(why) = &end {
                    count(&self.world.counters.relays);
                    tracing::warn!(channel = self.id.0, connection = id.0, %why, "a relay failed");
                }
                if let Some(relay) = self.relays.get_mut(&id) {
                    relay.ended = Some(end.clone());
                    relay.task = None;
                    self.tell(Fact::Ended(id, end));
                }
            }
            Event::Note(Note::Accepted(AcceptedSocket { stream, slot })) => {
                self.wait(stream, slot, Origin::Accepted);
            }
            Event::Note(Note::Dialled {
                socket,
                incoming,
                slot,
            }) => {
                let DialledSocket { stream, parameter } = socket;
                self.wait(
                    stream,
                    slot,
                    Origin::Dialled {
                        parameter,
                        incoming,
                    },
                );
            }
            Event::Note(Note::Told) => self.told(now),
            Event::Note(Note::BytestreamOpened) => self.publish(),
            Event::Hurry => self.start(SiblingKind::Tube),
            Event::Timer => self.on_timer(now),
        }
        Ok(())
    }

    fn take_commits(&mut self, now: Time) -> Result<(), Failure> {
        while let Ok(commit) = self.commits.try_recv() {
            self.take(commit, now)?;
        }
        Ok(())
    }

    /// Takes a decision of the tube.
    fn take(&mut self, commit: Commit, now: Time) -> Result<(), Failure> {
        let Commit {
            record,
            commands,
            answers,
            taken,
        } = commit;
        self.world.config.faults.hit(FaultPoint::ChannelCommit)?;
        self.record = record;
        // Before its signals: who hears one and looks sees the new state.
        self.publish();
        for command in commands {
            self.carry_out(command, now)?;
        }
        answers.into_iter().for_each(|answer| answer.send());
        taken.answer(());
        self.world.config.faults.hit(FaultPoint::ChannelCommitted)
    }

    fn carry_out(&mut self, command: Command, now: Time) -> Result<(), Failure> {
        match command {
            Command::Signal(signal) => self.announce(signal)?,
            Command::Listen(socket) => {
                self.listening = Some(socket);
                self.start(SiblingKind::Listener);
            }
            Command::Dial {
                target,
                incoming,
                slot,
            } => {
                let request = DialRequest {
                    target,
                    incoming,
                    slot,
                };
                if self.dial_queue.0.try_send(request).is_err() {
                    return Err(beyond_bound("requests to dial"));
                }
                if !self.dialler.is_started() {
                    self.start(SiblingKind::Dialler);
                }
            }
            Command::Relay(token, id) => self.relay(token, id),
            Command::Discard(token) => drop(self.waiting.remove(&token)),
            Command::StopOpening => self.stop_opening(),
            Command::Farewell => self.say_farewell(now),
            Command::Cut => self.cut(),
            Command::AwaitClosed(reply) => self.closers.push(reply),
            Command::Finish => self.finished = true,
        }
        Ok(())
    }

    /// Queues a signal. `ConnectionClosed` takes what is left of the connection with it; its slot
    /// is free when the signal has been emitted.
    fn announce(&mut self, signal: StreamTubeSignal) -> Result<(), Failure> {
        let slot = match &signal {
            StreamTubeSignal::ConnectionClosed { id, .. } => {
                self.relays.remove(id).map(|relay| relay.slot)
            }
            _ => None,
        };
        self.signals
            .0
            .try_send(Announcement {
                signal,
                _slot: slot,
            })
            .map_err(|_| beyond_bound("signals"))
    }

    fn relay(&mut self, token: Token, id: ConnectionId) {
        let Some(Waiting {
            stream,
            slot,
            origin,
        }) = self.waiting.remove(&token)
        else {
            // The tube names only tokens it was told of, once each.
            let why = "its socket is gone".to_owned();
            self.tell(Fact::Ended(id, ConnectionEnd::Failed(why)));
            return;
        };
        let far = match origin {
            Origin::Accepted => Far::Open(self.connector.clone()),
            Origin::Dialled { incoming, .. } => Far::Accept(incoming),
        };
        let (stopper, stop) = Stopper::new();
        let task = self.spawn_relay(id, stream, far, stop);
        let relay = Relay {
            slot,
            stopper,
            task: Some(task),
            ended: None,
        };
        self.relays.insert(id, relay);
        self.meters_due
            .get_or_insert(self.world.clock.now() + self.world.config.meter_period);
    }

    /// Keeps a socket until the tube has decided about it.
    fn wait(&mut self, stream: Box<dyn Duplex>, slot: Slot, origin: Origin) {
        let token = Token(self.next_token);
        self.next_token += 1;
        let waiting = Waiting {
            stream,
            slot,
            origin,
        };
        let fact = waiting.fact(token);
        self.waiting.insert(token, waiting);
        self.tell(fact);
    }

    /// Tells the tube a fact. If it is being restarted, its successor is told all that holds.
    fn tell(&self, fact: Fact) {
        if self.facts.try_send(fact).is_err() {
            // The bound in `new` covers every fact that can hold at once.
            tracing::error!(channel = self.id.0, "more facts than there can be");
        }
    }

    fn publish(&self) {
        self.view.publish(view_of(&self.record, &self.meters));
    }
}

impl Waiting {
    fn fact(&self, token: Token) -> Fact {
        match &self.origin {
            Origin::Accepted => Fact::Accepted(token),
            Origin::Dialled { parameter, .. } => Fact::Dialled(token, parameter.clone()),
        }
    }
}

enum Event {
    Commit(Commit),
    Note(Note),
    /// The channel is to close while the tube pauses before a restart.
    Hurry,
    Timer,
}

fn view_of(record: &State, meters: &Meters) -> StreamTubeView {
    StreamTubeView {
        state: record.tube_state(),
        parameters: record.parameters().clone(),
        address: record.address().cloned(),
        connections: u32::try_from(record.connections().len()).unwrap_or(u32::MAX),
        bytes_sent: meters.sent(),
        bytes_received: meters.received(),
        encrypted: meters.encrypted(),
    }
}

/// Cannot happen while the slots count what they should; better a closed channel than a lost signal.
fn beyond_bound(what: &str) -> Failure {
    Failure::Failed(format!("more {what} than connections allow"))
}
