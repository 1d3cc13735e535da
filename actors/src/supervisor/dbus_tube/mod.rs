//! The supervisor of one D-Bus tube's channel: owns what must outlive its actors, starts them, restarts
//! them, and carries out what the tube decides. It decides nothing itself but who restarts when.
//!
//! ```text
//!  publish ──▶ Running ──tube finished──────────────────▶ Ending ──▶ withdraw ──▶ gone
//!     │           │                                         ▲
//!     │ refused   └─ an actor failed past its limit ────────┘
//!     ▼
//!   gone
//! ```
//!
//! # What it owns
//! The tube's mailbox, the recovery record, the listening socket, an application's socket until the tube
//! has decided about it, the reins of the flow, who waits for Offer, the queue of signals.
//!
//! # What is bounded
//! [`APPLICATIONS`] at once are accepted; others wait in the kernel's queue
//! ([`BACKLOG`](crate::endpoint::BACKLOG)). When that is full, who connects waits there too, without an end of
//! its own, unless its socket does not block: that is told to try again (`EAGAIN`). Signals are each state
//! once.

mod carrier;

use std::sync::Arc;

use self::carrier::{Carrier, FlowNote, Port, Reins, orders};
use super::{
    AcceptedSocket, DBusTubeRequest, DBusTubeWay,
    channel::{ChannelType, Made, Outfit, Place, Room, Shell, SiblingKind},
};
use crate::{
    dbus_tube::{
        Command, DBusTube, Fact, TubeSeed,
        carrying::{Door, Traffic},
        handshake::Guid,
        state::{FlowEnd, State},
    },
    endpoint::{Slots, Token},
    limits::Limits,
    model::{AccessControl, Error, Result, ServiceName},
    ports::{DBusTubeDescription, DBusTubeOffering, DBusTubeSignal, DBusTubeView},
    runtime::{Failure, Reply, Task},
};

/// How many applications are let in at once.
const APPLICATIONS: usize = 1;
/// Most signals that wait for the announcer: two states.
const SIGNALS: usize = 2;

/// See the module's head.
pub(super) struct Channel {
    shell: Shell<Channel>,
    service: ServiceName,
    offering: Option<Arc<dyn DBusTubeOffering>>,
    limits: Limits,
    /// Of the socket that is listened on.
    access: Option<AccessControl>,

    flow: Option<Task<()>>,
    /// Until the flow is over: what it has not taken by then goes with them.
    reins: Option<Reins>,

    /// Who waits for Offer.
    offerer: Option<Reply<Result<String>>>,
}

fn new_guid() -> Result<Guid> {
    use ring::rand::{SecureRandom as _, SystemRandom};
    let mut bytes = [0; 16];
    let why = "the system gives no random numbers";
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::ResourceUnavailable(why.into()))?;
    Ok(Guid(bytes))
}

impl Channel {
    fn start_flow(&mut self, port: Port) {
        let world = &self.shell.world;
        let (reins, orders) = orders();
        let carrier = Carrier {
            orders,
            traffic: self.shell.meters.clone(),
            limits: self.limits.clone(),
            clock: world.clock.clone(),
            opening_limit: world.config.opening_limit,
            farewell_limit: world.config.farewell_limit,
            faults: world.config.faults.clone(),
            notes: self.shell.notes.0.clone(),
        };
        self.flow = Some(world.spawner.spawn("flow", carrier.run(port)));
        self.reins = Some(reins);
        // What an offer before this one told is of no consequence now.
        self.shell.telling.forget();
    }

    fn stop_flow(&self) {
        if let Some(reins) = &self.reins {
            // Told once is enough.
            reins.stop.try_send(()).ok();
        }
    }
}

impl ChannelType for Channel {
    type Request = DBusTubeRequest;
    type Description = DBusTubeDescription;
    type Signal = DBusTubeSignal;
    type View = DBusTubeView;
    type Meters = Traffic;
    type Decider = DBusTube;
    type Note = FlowNote;
    type Socket = AcceptedSocket;

    const DECIDER: SiblingKind = SiblingKind::Tube;

    fn new(place: Place, request: DBusTubeRequest) -> Made<Self> {
        let description = request.description;
        let service = description.service.clone();
        let outfit = Outfit {
            seed: TubeSeed {
                sockets: request.sockets,
                guid: new_guid()?,
            },
            record: State::new(&description),
            description,
            meters: Arc::default(),
            slots: Slots::new(APPLICATIONS),
            room: Room {
                // Each application; what the flow tells; one sibling failed.
                facts: APPLICATIONS + 4,
                notes: APPLICATIONS + 3,
                signals: SIGNALS,
            },
        };
        let (shell, object) = Shell::new(place, outfit);
        let mut channel = Channel {
            shell,
            service,
            offering: None,
            limits: request.limits,
            access: None,
            flow: None,
            reins: None,
            offerer: None,
        };
        match request.way {
            DBusTubeWay::Offer(offering) => channel.offering = Some(offering),
            // It begins at once: the contact may take its offer back.
            DBusTubeWay::Accept(incoming) => channel.start_flow(Port::Accept(incoming)),
        }
        Ok((channel, object))
    }

    fn shell(&mut self) -> &mut Shell<Self> {
        &mut self.shell
    }

    fn view(record: &State, traffic: &Traffic) -> DBusTubeView {
        DBusTubeView {
            state: record.tube_state(),
            parameters: record.parameters().clone(),
            error: record.error().cloned(),
            address: record.address().map(str::to_owned),
            accepted: record.was_accepted(),
            connected: traffic.is_connected(),
            bytes_sent: traffic.sent(),
            bytes_received: traffic.received(),
            encrypted: record.encrypted(),
        }
    }

    fn waits(token: Token, _: &AcceptedSocket) -> Fact {
        Fact::Accepted(token)
    }

    fn sibling_failed(what: String) -> Fact {
        Fact::SiblingFailed(what)
    }

    fn carry_out(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Signal(signal) => self.shell.announce(signal, None)?,
            Command::Listen(socket, access) => {
                self.access = Some(access);
                self.shell.listen(socket, None);
            }
            Command::StopListening => {
                self.access = None;
                self.shell.stop_listening();
                self.shell.waiting.clear();
            }
            Command::Offer(parameters) => {
                if let Some(offering) = self.offering.clone() {
                    self.start_flow(Port::Offer(offering, self.service.clone(), parameters));
                }
            }
            // The flow takes each of these once, and a flow that is over takes none.
            Command::Agree => {
                if let Some(reins) = &self.reins {
                    reins.agree.try_send(()).ok();
                }
            }
            Command::Flow => {
                if let (Some(reins), Some(access)) = (&self.reins, self.access) {
                    let guid = self.shell.seed.guid;
                    reins.flow.try_send(Door { guid, access }).ok();
                }
                self.shell.meters_due = Some(self.shell.next_look());
            }
            Command::Attach(token) => {
                let accepted = self.shell.waiting.take(token);
                if let (Some(accepted), Some(reins)) = (accepted, &self.reins) {
                    drop(reins.applications.try_send(accepted));
                }
            }
            Command::Discard(token) => drop(self.shell.waiting.take(token)),
            Command::StopFlow => self.stop_flow(),
            Command::KeepOfferer(reply) => self.offerer = Some(reply),
            Command::AnswerOffer(result) => {
                if let Some(reply) = self.offerer.take() {
                    reply.answer(result);
                }
            }
            Command::AwaitClosed(reply) => self.shell.closers.push(reply),
            Command::Finish => self.shell.finished = true,
        }
        Ok(())
    }

    fn hear(&mut self, note: FlowNote) {
        let (fact, over) = match note {
            FlowNote::Offered(result) => {
                let over = result.is_err();
                (Fact::Offered(result), over)
            }
            FlowNote::Opened { encrypted } => {
                self.shell.meters_due = Some(self.shell.next_look());
                (Fact::Opened { encrypted }, false)
            }
            FlowNote::Ended(end) => (Fact::Ended(end), true),
            FlowNote::Failed(failure) => {
                self.shell.count_failed_flow(&failure);
                let end = FlowEnd::Failed(format!("the tube {failure}"));
                (Fact::Ended(end), true)
            }
        };
        if over {
            self.reins = None;
        }
        self.shell.telling.tell_for_good(fact);
    }

    fn look(&mut self) -> Result<bool, Failure> {
        self.shell.publish();
        Ok(self.reins.is_some())
    }

    async fn part(&mut self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            let why = Error::Confused(failure.to_string());
            if let Some(reply) = self.offerer.take() {
                reply.answer(Err(why.clone()));
            }
            let seen = Self::view(&self.shell.record, &self.shell.meters);
            self.shell.view.publish(DBusTubeView {
                error: Some(why),
                ..seen
            });
        }
        self.stop_flow();
    }

    fn last(self) -> Option<Task<()>> {
        // Its own limits end it.
        self.flow
    }
}
