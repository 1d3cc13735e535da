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

use std::{collections::BTreeMap, sync::Arc};

use async_channel::Receiver;

use self::carrier::{Carrier, FlowNote, Port, Reins, orders};
use super::{
    AcceptedSocket, DBusTubeRequest, DBusTubeWay, ListeningSocket,
    channel::{self, Ended, Followed, Note, Shell, SiblingKind, Telling},
    config::count,
    world::World,
};
use crate::{
    dbus_tube::{
        Command, Commit, DBusTube, DBusTubeMessage, Fact, POINTS, TubeSeed,
        carrying::{Door, Traffic},
        handshake::Guid,
        state::{FlowEnd, State, Token},
    },
    endpoint::Slots,
    limits::Limits,
    model::{AccessControl, ChannelId, Error, Result, ServiceName},
    ports::{DBusTubeObject, DBusTubeOffering, DBusTubeSignal, DBusTubeView},
    runtime::{
        Failure, FaultPoint, Mailbox, Post, Reply, Snapshot, SnapshotWriter, Stop, Stopper, Task,
        Time, run,
    },
};

/// How many applications are let in at once.
const APPLICATIONS: usize = 1;
/// Most signals that wait for the announcer: two states.
const SIGNALS: usize = 2;

/// See the module's head.
struct Channel {
    shell: Shell<DBusTubeSignal, FlowNote>,
    service: ServiceName,
    offering: Option<Arc<dyn DBusTubeOffering>>,
    limits: Limits,

    mailbox: Mailbox<DBusTubeMessage>,
    record: State,
    view: SnapshotWriter<DBusTubeView>,
    seed: TubeSeed,
    /// What the flow has told so far, and the failure of a sibling, are told for good.
    telling: Telling<Fact>,
    commits: Receiver<Commit>,
    slots: Slots,

    listening: Option<(Arc<dyn ListeningSocket>, AccessControl)>,
    next_token: u64,
    waiting: BTreeMap<Token, AcceptedSocket>,

    flow: Option<Task<()>>,
    /// Until the flow is over: what it has not taken by then goes with them.
    reins: Option<Reins>,
    traffic: Arc<Traffic>,
    meters_due: Option<Time>,

    /// Who waits for Offer.
    offerer: Option<Reply<Result<String>>>,
    finished: bool,
}

/// The life of a D-Bus tube's channel: publishes its object, answers, and runs it to its end.
pub(super) async fn live(
    world: World,
    id: ChannelId,
    request: DBusTubeRequest,
    stop: Stop,
    reply: Reply<Result<DBusTubeObject>>,
) {
    let guid = match new_guid() {
        Ok(guid) => guid,
        Err(why) => return reply.answer(Err(why)),
    };
    let (channel, object) = Channel::new(&world, id, request, guid, stop.clone());
    if let Some(unwanted) = channel::publish(&world, &stop, object, reply).await {
        channel.run(unwanted).await;
    }
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
    fn new(
        world: &World,
        id: ChannelId,
        request: DBusTubeRequest,
        guid: Guid,
        stop: Stop,
    ) -> (Channel, DBusTubeObject) {
        let config = &world.config;
        let description = request.description;
        let (mailbox, address) = Mailbox::new(config.mailbox.max(1));
        let record = State::new(&description);
        let traffic = Arc::<Traffic>::default();
        let (writer, view) = Snapshot::new(view_of(&record, &traffic));
        // Each application; what the flow tells; one sibling failed.
        let telling = Telling::new(id, APPLICATIONS + 4);
        // One: the tube waits until it is taken.
        let (commits_in, commits) = async_channel::bounded(1);
        let kinds = [
            SiblingKind::Announcer,
            SiblingKind::Tube,
            SiblingKind::Listener,
        ];
        let room = (APPLICATIONS + 3, SIGNALS);
        let mut channel = Channel {
            shell: Shell::new(world, id, stop.clone(), &kinds, room),
            service: description.service.clone(),
            offering: None,
            limits: request.limits,
            mailbox,
            record,
            view: writer,
            seed: TubeSeed {
                sockets: request.sockets,
                guid,
                post: Post {
                    facts: telling.listen(),
                    commits: commits_in,
                    stop,
                    faults: config.faults.clone(),
                    points: POINTS,
                },
            },
            telling,
            commits,
            slots: Slots::new(APPLICATIONS),
            listening: None,
            next_token: 1,
            waiting: BTreeMap::new(),
            flow: None,
            reins: None,
            traffic,
            meters_due: None,
            offerer: None,
            finished: false,
        };
        match request.way {
            DBusTubeWay::Offer(offering) => channel.offering = Some(offering),
            // It begins at once: the contact may take its offer back.
            DBusTubeWay::Accept(incoming) => channel.start_flow(Port::Accept(incoming)),
        }
        let object = DBusTubeObject {
            id,
            owner: request.owner,
            description,
            address,
            view,
        };
        (channel, object)
    }

    /// Runs a published channel to its end. `unwanted`: nobody ever got to know of it.
    async fn run(mut self, unwanted: bool) {
        let (world, id) = (self.shell.world.clone(), self.shell.id);
        let failure = channel::survive(&world, id, unwanted, self.supervise()).await;
        self.end(failure).await;
    }

    async fn supervise(&mut self) -> Result<(), Failure> {
        self.start(SiblingKind::Announcer);
        self.start(SiblingKind::Tube);
        let faults = self.shell.world.config.faults.clone();
        while !self.finished {
            let decider = SiblingKind::Tube;
            let event = self.shell.select(decider, &self.commits, self.meters_due);
            let event = faults.survive(FaultPoint::ChannelWaiting, event).await?;
            self.apply(event)?;
        }
        Ok(())
    }

    /// Starts one of the actors, the first or a successor.
    fn start(&mut self, kind: SiblingKind) {
        match kind {
            SiblingKind::Announcer => self.shell.start_announcer(),
            SiblingKind::Listener => {
                if let Some((socket, _)) = self.listening.clone() {
                    self.shell.start_listener(socket, self.slots.clone(), None);
                }
            }
            SiblingKind::Tube => {
                let waiting = self.waiting.keys().map(|token| Fact::Accepted(*token));
                self.telling.tell_again(waiting);
                let (seed, mailbox) = (self.seed.clone(), self.mailbox.lend());
                let tube = DBusTube::new(seed, mailbox, self.record.clone());
                let (stopper, stop) = Stopper::new();
                let life = Box::pin(async move { run(tube, &stop).await });
                self.shell.run_sibling(kind, stopper, life);
            }
            // Of another type of channel.
            SiblingKind::Transfer | SiblingKind::Dialler => {}
        }
    }

    fn start_flow(&mut self, port: Port) {
        let world = &self.shell.world;
        let (reins, orders) = orders();
        let carrier = Carrier {
            orders,
            traffic: self.traffic.clone(),
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
        self.telling.forget();
    }

    fn apply(&mut self, event: channel::Event<Commit, FlowNote>) -> Result<(), Failure> {
        let now = self.shell.world.clock.now();
        if let channel::Event::Note(_) = &event {
            let faults = &self.shell.world.config.faults;
            faults.hit(FaultPoint::ChannelNote)?;
            // On several threads a decision may have come in between, and the note be about it.
            while let Ok(commit) = self.commits.try_recv() {
                self.take(commit, now)?;
            }
        }
        match event {
            channel::Event::Commit(commit) => self.take(*commit, now)?,
            // A tube that is done ends.
            channel::Event::Note(_) if self.finished => {}
            channel::Event::Note(Note::SiblingEnded(kind, ended)) => {
                self.sibling_ended(kind, ended, now)?;
            }
            channel::Event::Note(Note::Accepted(accepted)) => {
                let token = Token(self.next_token);
                self.next_token += 1;
                self.waiting.insert(token, accepted);
                self.telling.tell(Fact::Accepted(token));
            }
            channel::Event::Note(Note::Own(note)) => self.flow_says(note, now),
            channel::Event::Hurry => self.start(SiblingKind::Tube),
            channel::Event::Timer => {
                for kind in self.shell.due_for_restart(now) {
                    self.start(kind);
                }
                if self.meters_due.is_some_and(|due| due <= now) {
                    self.publish();
                    let next = now + self.shell.world.config.meter_period;
                    self.meters_due = self.reins.is_some().then_some(next);
                }
            }
        }
        Ok(())
    }

    fn flow_says(&mut self, note: FlowNote, now: Time) {
        let (fact, over) = match note {
            FlowNote::Offered(result) => {
                let over = result.is_err();
                (Fact::Offered(result), over)
            }
            FlowNote::Opened { encrypted } => {
                self.meters_due = Some(now + self.shell.world.config.meter_period);
                (Fact::Opened { encrypted }, false)
            }
            FlowNote::Ended(end) => (Fact::Ended(end), true),
            FlowNote::Failed(failure) => {
                count(&self.shell.world.counters.flows);
                tracing::warn!(channel = self.shell.id.0, %failure, "a flow failed");
                let end = FlowEnd::Failed(format!("the tube {failure}"));
                (Fact::Ended(end), true)
            }
        };
        if over {
            self.reins = None;
        }
        self.telling.tell_for_good(fact);
    }

    /// A child has ended; restarts it if it failed. Past its limit the failure moves up: from the
    /// listener to the tube, which closes in order; from the others to the channel.
    fn sibling_ended(&mut self, kind: SiblingKind, ended: Ended, now: Time) -> Result<(), Failure> {
        let Followed::GivenUp(what) = self.shell.sibling_ended(kind, ended, now) else {
            return Ok(());
        };
        if kind != SiblingKind::Listener {
            return Err(Failure::Failed(what));
        }
        count(&self.shell.world.counters.channels);
        self.telling.tell_for_good(Fact::SiblingFailed(what));
        Ok(())
    }

    /// Takes a decision of the tube.
    fn take(&mut self, commit: Commit, now: Time) -> Result<(), Failure> {
        let faults = self.shell.world.config.faults.clone();
        faults.hit(FaultPoint::ChannelCommit)?;
        self.record = commit.record;
        // Before its signals: who hears one and looks sees the new state.
        self.publish();
        for command in commit.commands {
            self.carry_out(command, now)?;
        }
        commit.answers.into_iter().for_each(|answer| answer.send());
        commit.taken.answer(());
        faults.hit(FaultPoint::ChannelCommitted)
    }

    fn carry_out(&mut self, command: Command, now: Time) -> Result<(), Failure> {
        match command {
            Command::Signal(signal) => self.shell.announce(signal, None)?,
            Command::Listen(socket, access) => {
                self.listening = Some((socket, access));
                self.start(SiblingKind::Listener);
            }
            Command::StopListening => {
                self.listening = None;
                self.waiting.clear();
                self.shell.stop_sibling(SiblingKind::Listener);
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
                if let (Some(reins), Some((_, access))) = (&self.reins, &self.listening) {
                    let (guid, access) = (self.seed.guid, *access);
                    reins.flow.try_send(Door { guid, access }).ok();
                }
                self.meters_due = Some(now + self.shell.world.config.meter_period);
            }
            Command::Attach(token) => {
                if let (Some(accepted), Some(reins)) = (self.waiting.remove(&token), &self.reins) {
                    drop(reins.applications.try_send(accepted));
                }
            }
            Command::Discard(token) => drop(self.waiting.remove(&token)),
            Command::StopFlow => self.stop_flow(),
            Command::Keep(reply) => self.offerer = Some(reply),
            Command::Offered(result) => {
                if let Some(reply) = self.offerer.take() {
                    reply.answer(result);
                }
            }
            Command::AwaitClosed(reply) => self.shell.closers.push(reply),
            Command::Finish => self.finished = true,
        }
        Ok(())
    }

    fn stop_flow(&self) {
        if let Some(reins) = &self.reins {
            // Told once is enough.
            reins.stop.try_send(()).ok();
        }
    }

    fn publish(&self) {
        self.view.publish(view_of(&self.record, &self.traffic));
    }

    /// Ends the channel. Afterwards nothing of it is left: no task, no descriptor, no object.
    async fn end(mut self, failure: Option<Failure>) {
        self.shell.end_sibling(SiblingKind::Tube).await;
        // A decision nobody carries out any more: who waits for its answers learns so.
        while self.commits.try_recv().is_ok() {}
        self.listening = None;
        self.shell.end_sibling(SiblingKind::Listener).await;
        self.waiting.clear();
        if let Some(failure) = failure {
            let why = Error::Confused(failure.to_string());
            if let Some(reply) = self.offerer.take() {
                reply.answer(Err(why.clone()));
            }
            let seen = view_of(&self.record, &self.traffic);
            self.view.publish(DBusTubeView {
                error: Some(why),
                ..seen
            });
        }
        self.stop_flow();
        self.shell.leave().await;
        // Whoever still asks the tube something is answered by its mailbox being gone. The contact may be
        // told a little longer.
        drop(self.mailbox);
        if let Some(task) = self.flow {
            // Its own limits end it. A channel that nobody listens to any more must not hold it up.
            self.shell.notes.1.close();
            drop(task.await);
        }
    }
}

fn view_of(record: &State, traffic: &Traffic) -> DBusTubeView {
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
