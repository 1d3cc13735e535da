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
//! tube's decision, the relays, the queue of signals, the slots.
//!
//! # What is bounded
//! Everything below is counted by the slots ([`SupervisorConfig::max_connections`](super::SupervisorConfig)):
//! a connection holds one from before it is accepted or dialled until its `ConnectionClosed` has been
//! emitted. So a bus nobody reads holds up new connections, and no queue here grows beyond its [`Room`].

mod connection;
mod dialler;
mod ending;

use std::{collections::BTreeMap, sync::Arc};

use futures_lite::FutureExt as _;

use self::{
    connection::{Connection, Far},
    dialler::{DialRequest, Dialler},
};
use super::{
    AcceptedSocket, DialledSocket, StreamTubeRequest,
    channel::{
        ChannelType, Made, Note, Outfit, Place, Queue, Room, Shell, SiblingKind, beyond_bound,
    },
    config::count,
};
use crate::{
    endpoint::{Slot, Slots, Token},
    limits::Limits,
    model::{ConnectionId, ConnectionParameter, Result},
    ports::{
        BytestreamConnector, Duplex, IncomingBytestream, StreamTubeDescription, StreamTubeSignal,
        StreamTubeView, TubeSignalling,
    },
    relay::Meters,
    runtime::{Exit, Failure, Stop, Stopper, Task, Time, catch},
    stream_tube::{
        Command, Fact, StreamTube, TubeSeed,
        state::{ConnectionEnd, State},
    },
};

/// What a tube's children tell its channel supervisor, beside what all do.
pub(super) enum TubeNote {
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
pub(super) struct Waiting {
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
pub(super) struct Channel {
    shell: Shell<Channel>,
    connector: Arc<dyn BytestreamConnector>,
    signalling: Arc<dyn TubeSignalling>,
    limits: Limits,
    dial_queue: Queue<DialRequest>,
    relays: BTreeMap<ConnectionId, Relay>,
    farewell: Farewell,
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

impl Channel {
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
        }) = self.shell.waiting.take(token)
        else {
            // The tube names only tokens it was told of, once each.
            let why = "its socket is gone".to_owned();
            self.shell
                .telling
                .tell(Fact::Ended(id, ConnectionEnd::Failed(why)));
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
        let next = self.shell.next_look();
        self.shell.meters_due.get_or_insert(next);
    }

    fn spawn_relay(
        &self,
        id: ConnectionId,
        local: Box<dyn Duplex>,
        far: Far,
        stop: Stop,
    ) -> Task<()> {
        let connection = Connection {
            local,
            far,
            meters: self.shell.meters.clone(),
            limits: self.limits.clone(),
            stop,
            clock: self.shell.world.clock.clone(),
            opening_limit: self.shell.world.config.opening_limit,
            faults: self.shell.world.config.faults.clone(),
            notes: self.shell.notes.0.clone(),
        };
        let notes = self.shell.notes.0.clone();
        self.shell.world.spawner.spawn("relay", async move {
            let end = match catch("relay", connection.run()).await {
                Ok(Ok(end)) => end,
                Ok(Err(failure)) | Err(failure) => ConnectionEnd::Failed(failure.to_string()),
            };
            // A channel that is gone has closed this connection itself.
            notes
                .send(Note::Own(TubeNote::RelayEnded(id, end)))
                .await
                .ok();
        })
    }
}

impl ChannelType for Channel {
    type Request = StreamTubeRequest;
    type Description = StreamTubeDescription;
    type Signal = StreamTubeSignal;
    type View = StreamTubeView;
    type Meters = Meters;
    type Decider = StreamTube;
    type Note = TubeNote;
    type Socket = Waiting;

    const DECIDER: SiblingKind = SiblingKind::Tube;

    fn new(place: Place, request: StreamTubeRequest) -> Made<Self> {
        let connections = place.world.config.max_connections;
        let slots = Slots::within(connections, request.limits.clone());
        let outfit = Outfit {
            seed: TubeSeed {
                service: request.description.service.clone(),
                signalling: request.signalling.clone(),
                sockets: request.sockets,
                slots: slots.clone(),
            },
            record: State::new(&request.description),
            description: request.description,
            meters: Arc::default(),
            slots,
            room: Room {
                // Each connection: accepted or dialled, ended. Besides: overdue, siblings failed.
                facts: 2 * connections + 8,
                // Each connection: accepted or dialled, opened, ended. Besides: told.
                notes: 3 * connections + 4,
                // Each connection: opened, closed. Besides: two changes of state.
                signals: 2 * connections + 8,
            },
        };
        let (shell, object) = Shell::new(place, outfit);
        let channel = Channel {
            shell,
            connector: request.connector,
            signalling: request.signalling,
            limits: request.limits,
            dial_queue: async_channel::bounded(connections.max(1)),
            relays: BTreeMap::new(),
            farewell: Farewell::NotBegun,
        };
        Ok((channel, object))
    }

    fn shell(&mut self) -> &mut Shell<Self> {
        &mut self.shell
    }

    fn view(record: &State, meters: &Meters) -> StreamTubeView {
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

    fn waits(token: Token, socket: &Waiting) -> Fact {
        match &socket.origin {
            Origin::Accepted => Fact::Accepted(token),
            Origin::Dialled { parameter, .. } => Fact::Dialled(token, parameter.clone()),
        }
    }

    fn sibling_failed(what: String) -> Fact {
        Fact::SiblingFailed(what)
    }

    /// The ends of connections that are announced, and that the contact has had its time.
    fn still_holds(&self) -> Vec<Fact> {
        let connections = self.shell.record.connections().iter();
        let ended = connections.filter_map(|id| {
            let end = match self.relays.get(id) {
                Some(relay) => relay.ended.clone()?,
                None => ConnectionEnd::Failed("its relay is gone".into()),
            };
            Some(Fact::Ended(*id, end))
        });
        let overdue = match &self.farewell {
            Farewell::NotBegun => false,
            Farewell::Telling { cut, .. } | Farewell::Told { cut } => cut.is_none(),
        };
        ended.chain(overdue.then_some(Fact::Overdue)).collect()
    }

    fn unwanted(&mut self) {
        if self.shell.record.concerns_the_contact() {
            self.say_farewell();
        }
    }

    fn start_dialler(&mut self) {
        let dialler = Dialler {
            queue: self.dial_queue.1.clone(),
            sockets: self.shell.seed.sockets.clone(),
            notes: self.shell.notes.0.clone(),
            faults: self.shell.world.config.faults.clone(),
        };
        let (stopper, stop) = Stopper::new();
        let stopped = async move {
            stop.stopped().await;
            Exit::Stopped
        };
        let life = Box::pin(stopped.or(dialler.run()));
        self.shell.run_sibling(SiblingKind::Dialler, stopper, life);
    }

    fn carry_out(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Signal(signal) => self.announce(signal)?,
            Command::Listen(socket) => self.shell.listen(socket, None),
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
                    self.start_dialler();
                }
            }
            Command::Relay(token, id) => self.relay(token, id),
            Command::Discard(token) => drop(self.shell.waiting.take(token)),
            Command::StopOpening => self.stop_opening(),
            Command::Farewell => self.say_farewell(),
            Command::Cut => self.cut(),
            Command::AwaitClosed(reply) => self.shell.closers.push(reply),
            Command::Finish => self.shell.finished = true,
        }
        Ok(())
    }

    fn hear(&mut self, note: TubeNote) {
        match note {
            TubeNote::BytestreamOpened => self.shell.publish(),
            TubeNote::RelayEnded(id, end) => {
                if let ConnectionEnd::Failed(why) = &end {
                    count(&self.shell.world.counters.relays);
                    tracing::warn!(channel = self.shell.id.0, connection = id.0, %why, "a relay failed");
                }
                if let Some(relay) = self.relays.get_mut(&id) {
                    relay.ended = Some(end.clone());
                    relay.task = None;
                    self.shell.telling.tell(Fact::Ended(id, end));
                }
            }
            TubeNote::Dialled {
                socket,
                incoming,
                slot,
            } => {
                let DialledSocket { stream, parameter } = socket;
                self.shell.keep(Waiting {
                    stream,
                    slot,
                    origin: Origin::Dialled {
                        parameter,
                        incoming,
                    },
                });
            }
            TubeNote::Told => self.told(),
        }
    }

    fn look(&mut self) -> Result<bool, Failure> {
        let (seen, meters) = (self.shell.view.get(), &self.shell.meters);
        if (seen.bytes_sent, seen.bytes_received) != (meters.sent(), meters.received()) {
            self.shell.publish();
        }
        Ok(!self.relays.is_empty())
    }

    fn deadline(&self) -> Option<Time> {
        match &self.farewell {
            Farewell::Telling { cut, .. } | Farewell::Told { cut } => *cut,
            Farewell::NotBegun => None,
        }
    }

    fn on_time(&mut self, now: Time) {
        if let Farewell::Telling { cut, .. } | Farewell::Told { cut } = &mut self.farewell
            && cut.is_some_and(|cut| cut <= now)
        {
            *cut = None;
            self.shell.telling.tell(Fact::Overdue);
        }
    }

    async fn part(&mut self, failure: Option<Failure>) {
        self.stop_opening();
        if let Some(failure) = failure {
            self.bury(&failure).await;
        }
        // No relay is left: a tube that finishes has ended every connection before, a burial just has.
    }

    fn last(self) -> Option<Task<()>> {
        match self.farewell {
            // Its own limit ends it.
            Farewell::Telling { task, .. } => Some(task),
            Farewell::NotBegun | Farewell::Told { .. } => None,
        }
    }
}

impl From<AcceptedSocket> for Waiting {
    fn from(AcceptedSocket { stream, slot, .. }: AcceptedSocket) -> Self {
        Waiting {
            stream,
            slot,
            origin: Origin::Accepted,
        }
    }
}
