//! The supervisor of one stream tube's channel: owns what must outlive its actors, starts them, restarts them,
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

mod children;
mod connection;
mod dialler;
mod ending;

use std::{collections::BTreeMap, sync::Arc};

use async_channel::{Receiver, Sender};

use self::{
    connection::Far,
    dialler::{DialRequest, Dialler},
};
use super::{
    AcceptedSocket, DialledSocket, ListeningSocket, StreamTubeRequest,
    channel::{self, Note, Shell, SiblingKind, beyond_bound},
    config::count,
    world::World,
};
use crate::{
    endpoint::{Slot, Slots},
    limits::Limits,
    model::{ChannelId, ConnectionId, ConnectionParameter, Result},
    ports::{
        BytestreamConnector, Duplex, IncomingBytestream, StreamTubeObject, StreamTubeSignal,
        StreamTubeView, TubeSignalling,
    },
    relay::Meters,
    runtime::{
        Failure, FaultPoint, Mailbox, Reply, Snapshot, SnapshotWriter, Stop, Stopper, Task, Time,
        catch,
    },
    stream_tube::{
        Command, Commit, Fact, StreamTubeMessage, TubeSeed,
        state::{ConnectionEnd, State, Token},
    },
};

/// What a tube's children tell its channel supervisor, beside what all do.
enum TubeNote {
    /// A bytestream has opened.
    BytestreamOpened,
    /// A relay has ended.
    RelayEnded(ConnectionId, ConnectionEnd),
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
    shell: Shell<StreamTubeSignal, TubeNote>,
    connector: Arc<dyn BytestreamConnector>,
    signalling: Arc<dyn TubeSignalling>,

    mailbox: Mailbox<StreamTubeMessage>,
    record: State,
    view: SnapshotWriter<StreamTubeView>,
    seed: TubeSeed,
    facts: Sender<Fact>,
    commits: Receiver<Commit>,
    slots: Slots,
    limits: Limits,

    listening: Option<Arc<dyn ListeningSocket>>,
    dial_queue: (Sender<DialRequest>, Receiver<DialRequest>),

    next_token: u64,
    waiting: BTreeMap<Token, Waiting>,
    relays: BTreeMap<ConnectionId, Relay>,
    meters: Arc<Meters>,
    meters_due: Option<Time>,

    farewell: Farewell,
    sibling_failed: Option<String>,
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

/// The life of a stream tube's channel: publishes its object, answers, and runs it to its end.
pub(super) async fn live(
    world: World,
    id: ChannelId,
    request: StreamTubeRequest,
    stop: Stop,
    reply: Reply<Result<StreamTubeObject>>,
) {
    let (channel, object) = Channel::new(&world, id, request, stop.clone());
    if let Some(unwanted) = channel::publish(&world, &stop, object, reply).await {
        channel.run(unwanted).await;
    }
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
        // Notes of each connection: accepted or dialled, opened, ended. Besides: told. Signals of each
        // connection: opened, closed. Besides: two changes of state.
        let room = (3 * connections + 4, 2 * connections + 8);
        let kinds = [
            SiblingKind::Announcer,
            SiblingKind::Tube,
            SiblingKind::Listener,
            SiblingKind::Dialler,
        ];
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
        let channel = Channel {
            shell: Shell::new(world, id, stop, &kinds, room),
            connector: request.connector,
            signalling: request.signalling,
            mailbox,
            record,
            view: writer,
            seed,
            facts,
            commits,
            slots,
            limits: request.limits,
            listening: None,
            dial_queue: async_channel::bounded(connections.max(1)),
            next_token: 1,
            waiting: BTreeMap::new(),
            relays: BTreeMap::new(),
            meters,
            meters_due: None,
            farewell: Farewell::NotBegun,
            sibling_failed: None,
            finished: false,
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
        if unwanted && self.record.concerns_the_contact() {
            self.say_farewell(self.shell.world.clock.now());
        }
        let (world, id) = (self.shell.world.clone(), self.shell.id);
        let failure = channel::survive(&world, id, unwanted, self.supervise()).await;
        self.end(failure).await;
    }

    async fn supervise(&mut self) -> Result<(), Failure> {
        self.start(SiblingKind::Announcer);
        self.start(SiblingKind::Tube);
        let faults = self.shell.world.config.faults.clone();
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
        let decider = SiblingKind::Tube;
        self.shell.select(decider, &self.commits, deadline).await
    }

    fn apply(&mut self, event: Event) -> Result<(), Failure> {
        let now = self.shell.world.clock.now();
        if let Event::Note(_) = &event {
            self.shell
                .world
                .config
                .faults
                .hit(FaultPoint::ChannelNote)?;
            // On several threads a decision may have come after `select` had looked for one, and
            // before the note that is about it: the end of the tube that took it, for example.
            self.take_commits(now)?;
        }
        match event {
            Event::Commit(commit) => {
                self.take(*commit, now)?;
            }
            Event::Note(Note::SiblingEnded(kind, ended)) => {
                // A tube that is done ends.
                if !self.finished {
                    self.sibling_ended(kind, ended, now)?;
                }
            }
            Event::Note(Note::Own(TubeNote::RelayEnded(id, end))) => {
                if let ConnectionEnd::Failed(why) = &end {
                    count(&self.shell.world.counters.relays);
                    tracing::warn!(channel = self.shell.id.0, connection = id.0, %why, "a relay failed");
                }
                if let Some(relay) = self.relays.get_mut(&id) {
                    relay.ended = Some(end.clone());
                    relay.task = None;
                    self.tell(Fact::Ended(id, end));
                }
            }
            Event::Note(Note::Accepted(AcceptedSocket { stream, slot, .. })) => {
                self.wait(stream, slot, Origin::Accepted);
            }
            Event::Note(Note::Own(TubeNote::Dialled {
                socket,
                incoming,
                slot,
            })) => {
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
            Event::Note(Note::Own(TubeNote::Told)) => self.told(now),
            Event::Note(Note::Own(TubeNote::BytestreamOpened)) => self.publish(),
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
        self.shell
            .world
            .config
            .faults
            .hit(FaultPoint::ChannelCommit)?;
        self.record = record;
        // Before its signals: who hears one and looks sees the new state.
        self.publish();
        for command in commands {
            self.carry_out(command, now)?;
        }
        answers.into_iter().for_each(|answer| answer.send());
        taken.answer(());
        self.shell
            .world
            .config
            .faults
            .hit(FaultPoint::ChannelCommitted)
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
                if !self.shell.is_started(SiblingKind::Dialler) {
                    self.start(SiblingKind::Dialler);
                }
            }
            Command::Relay(token, id) => self.relay(token, id),
            Command::Discard(token) => drop(self.waiting.remove(&token)),
            Command::StopOpening => self.stop_opening(),
            Command::Farewell => self.say_farewell(now),
            Command::Cut => self.cut(),
            Command::AwaitClosed(reply) => self.shell.closers.push(reply),
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
        self.shell.announce(signal, slot)
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
            .get_or_insert(self.shell.world.clock.now() + self.shell.world.config.meter_period);
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
            tracing::error!(channel = self.shell.id.0, "more facts than there can be");
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

type Event = channel::Event<Commit, TubeNote>;

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
