//! The supervisor of one file transfer's channel: owns what must outlive its actors, starts them,
//! restarts them, and carries out what the transfer decides. It decides nothing itself but who
//! restarts when.
//!
//! ```text
//!  publish ──▶ Running ──transfer finished──────────────▶ Ending ──▶ withdraw ──▶ gone
//!     │           │                                         ▲
//!     │ refused   └─ an actor failed past its limit ─▶ burial
//!     ▼                (Cancelled: LocalError)
//!   gone
//! ```
//!
//! # What it owns
//! The transfer's mailbox, the recovery record, the listening socket, the application's socket until the
//! transfer has decided about it, the reins of the flow, the queue of signals. A [`Commit`] of the
//! transfer is taken whole: record, published view, signals and commands belong together.
//!
//! # What is bounded
//! [`APPLICATIONS`] at once are accepted. The signals are few: each state once, the initial offset, what was
//! asked, the URI; `TransferredBytesChanged` and `StoredChanged` join them only while no other signal
//! waits, and at the end.

mod carrier;

use std::{collections::BTreeMap, sync::Arc};

use async_channel::Receiver;

use self::carrier::{Carrier, FlowNote, Orders, Port, Reins, Start, orders};
use super::{
    AcceptedSocket, FileTransferRequest, FileWay, ListeningSocket,
    channel::{self, Ended, Followed, Note, Shell, SiblingKind, Telling},
    config::count,
    world::World,
};
use crate::{
    endpoint::Slots,
    file_transfer::{
        Command, Commit, Fact, FileTransfer, FileTransferMessage, POINTS, TransferSeed,
        flow::Progress,
        frames::AbortReason,
        state::{FlowEnd, State, Token, Way},
    },
    limits::Limits,
    model::{ChannelId, Error, FileOffer, FileTransferReason, FileTransferState, Result},
    ports::{FileTransferObject, FileTransferSignal, FileTransferView},
    runtime::{
        Failure, FaultPoint, Mailbox, Post, Reply, Snapshot, SnapshotWriter, Stop, Stopper, Task,
        Time, run,
    },
};

/// How many applications are in the listener's and the supervisor's hands at once. The first that passes
/// the access control is the one; with Credentials others are silent before.
const APPLICATIONS: usize = 2;

/// Most signals that wait for the announcer: three states, the URI, what was asked, the initial offset, and
/// twice what [`Channel::say_progress`] says.
const SIGNALS: usize = 10;

/// See the module's head.
struct Channel {
    shell: Shell<FileTransferSignal, FlowNote>,
    file: Box<FileOffer>,
    limits: Limits,

    mailbox: Mailbox<FileTransferMessage>,
    record: State,
    view: SnapshotWriter<FileTransferView>,
    seed: TransferSeed,
    /// What the flow has told so far, and the failure of a sibling, are told for good.
    telling: Telling<Fact>,
    commits: Receiver<Commit>,
    slots: Slots,

    listening: Option<Arc<dyn ListeningSocket>>,
    next_token: u64,
    waiting: BTreeMap<Token, AcceptedSocket>,

    flow: Flow,
    /// Until the flow is over: what it has not taken by then goes with them.
    reins: Option<Reins>,
    progress: Arc<Progress>,
    /// What `TransferredBytesChanged` has said last.
    said_transferred: u64,
    /// The same of `StoredChanged`.
    said_stored: u64,
    meters_due: Option<Time>,

    finished: bool,
}

enum Flow {
    /// Not begun: what it begins with.
    Idle(Port, Orders),
    /// For a moment.
    Beginning,
    Running(Task<()>),
}

/// The life of a file transfer's channel: publishes its object, answers, and runs it to its end.
pub(super) async fn live(
    world: World,
    id: ChannelId,
    request: FileTransferRequest,
    stop: Stop,
    reply: Reply<Result<FileTransferObject>>,
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
        request: FileTransferRequest,
        stop: Stop,
    ) -> (Channel, FileTransferObject) {
        let config = &world.config;
        let mut description = request.description;
        let (way, port) = match request.way {
            FileWay::Send(sending) => {
                description.has_ranges = true;
                (Way::Sending, Port::Send(sending))
            }
            FileWay::Receive(incoming) => {
                description.has_ranges = incoming.has_ranges();
                (Way::Receiving, Port::Receive(incoming))
            }
        };
        let (mailbox, address) = Mailbox::new(config.mailbox.max(1));
        let record = State::new(&description, way);
        let progress = Arc::<Progress>::default();
        let (writer, view) = Snapshot::new(view_of(&record, &progress));
        // Each application; what the flow tells; one sibling failed.
        let telling = Telling::new(id, APPLICATIONS + 4);
        // One: the transfer waits until it is taken.
        let (commits_in, commits) = async_channel::bounded(1);
        // Notes: each application, what the flow tells. Signals: see the module's head.
        let room = (APPLICATIONS + 3, SIGNALS);
        let kinds = [
            SiblingKind::Announcer,
            SiblingKind::Transfer,
            SiblingKind::Listener,
        ];
        let seed = TransferSeed {
            sockets: request.sockets,
            progress: progress.clone(),
            post: Post {
                facts: telling.listen(),
                commits: commits_in,
                stop: stop.clone(),
                faults: config.faults.clone(),
                points: POINTS,
            },
        };
        let (reins, orders) = orders();
        let channel = Channel {
            shell: Shell::new(world, id, stop, &kinds, room),
            file: description.file.clone(),
            limits: request.limits,
            mailbox,
            record,
            view: writer,
            seed,
            telling,
            commits,
            slots: Slots::new(APPLICATIONS),
            listening: None,
            next_token: 1,
            waiting: BTreeMap::new(),
            flow: Flow::Idle(port, orders),
            reins: Some(reins),
            progress,
            said_transferred: 0,
            said_stored: 0,
            meters_due: None,
            finished: false,
        };
        let object = FileTransferObject {
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
        self.start(SiblingKind::Transfer);
        self.start_flow();
        let faults = self.shell.world.config.faults.clone();
        while !self.finished {
            let event = faults
                .survive(FaultPoint::ChannelWaiting, self.select())
                .await?;
            self.apply(event)?;
        }
        Ok(())
    }

    /// Starts one of the actors, the first or a successor.
    fn start(&mut self, kind: SiblingKind) {
        match kind {
            SiblingKind::Announcer => self.shell.start_announcer(),
            SiblingKind::Listener => {
                if let Some(socket) = self.listening.clone() {
                    let vanished = self.reins.as_ref().map(|reins| reins.vanished.clone());
                    self.shell
                        .start_listener(socket, self.slots.clone(), vanished);
                }
            }
            SiblingKind::Transfer => {
                let waiting = self.waiting.keys().map(|token| Fact::Accepted(*token));
                self.telling.tell_again(waiting);
                let (seed, mailbox) = (self.seed.clone(), self.mailbox.lend());
                let transfer = FileTransfer::new(seed, mailbox, self.record.clone());
                let (stopper, stop) = Stopper::new();
                let life = Box::pin(async move { run(transfer, &stop).await });
                self.shell.run_sibling(kind, stopper, life);
            }
            // Of another type of channel.
            SiblingKind::Tube | SiblingKind::Dialler => {}
        }
    }

    fn start_flow(&mut self) {
        let world = &self.shell.world;
        let Flow::Idle(port, orders) = std::mem::replace(&mut self.flow, Flow::Beginning) else {
            return;
        };
        let carrier = Carrier {
            file: self.file.clone(),
            orders,
            progress: self.progress.clone(),
            limits: self.limits.clone(),
            clock: world.clock.clone(),
            opening_limit: world.config.opening_limit,
            application_limit: world.config.application_limit,
            vanished_grace: world.config.vanished_grace,
            farewell_limit: world.config.farewell_limit,
            faults: world.config.faults.clone(),
            notes: self.shell.notes.0.clone(),
        };
        let task = world.spawner.spawn("flow", carrier.run(port));
        self.flow = Flow::Running(task);
    }

    async fn select(&mut self) -> Event {
        let deadline = self.meters_due;
        let decider = SiblingKind::Transfer;
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
            // before the note that is about it: the end of the transfer that took it, for example.
            while let Ok(commit) = self.commits.try_recv() {
                self.take(commit)?;
            }
        }
        match event {
            Event::Commit(commit) => self.take(*commit)?,
            Event::Note(Note::SiblingEnded(kind, ended)) => {
                // A transfer that is done ends.
                if !self.finished {
                    self.sibling_ended(kind, ended, now)?;
                }
            }
            Event::Note(Note::Accepted(accepted)) => {
                let token = Token(self.next_token);
                self.next_token += 1;
                self.waiting.insert(token, accepted);
                self.telling.tell(Fact::Accepted(token));
            }
            Event::Note(Note::Own(note)) => self.flow_says(note, now),
            Event::Hurry => self.start(SiblingKind::Transfer),
            Event::Timer => self.on_timer(now)?,
        }
        Ok(())
    }

    fn flow_says(&mut self, note: FlowNote, now: Time) {
        let fact = match note {
            FlowNote::Agreed(from) => Fact::Agreed(from),
            FlowNote::Opened { offset, encrypted } => {
                self.meters_due = Some(now + self.shell.world.config.meter_period);
                Fact::Opened { offset, encrypted }
            }
            FlowNote::Ended(end) => Fact::Ended(end),
            FlowNote::Failed(failure) => {
                count(&self.shell.world.counters.flows);
                tracing::warn!(channel = self.shell.id.0, %failure, "a flow failed");
                let why = Error::Confused(format!("the transfer {failure}"));
                Fact::Ended(FlowEnd::LocalError(why))
            }
        };
        if let Fact::Ended(_) = &fact {
            self.reins = None;
        }
        self.telling.tell_for_good(fact);
    }

    /// A child has ended; restarts it if it failed. Past its limit the failure moves up: from the
    /// listener to the transfer, which is cancelled in order; from the others to the channel.
    fn sibling_ended(&mut self, kind: SiblingKind, ended: Ended, now: Time) -> Result<(), Failure> {
        let Followed::GivenUp(what) = self.shell.sibling_ended(kind, ended, now) else {
            return Ok(());
        };
        if kind != SiblingKind::Listener {
            return Err(Failure::Failed(what));
        }
        count(&self.shell.world.counters.channels);
        let fact = Fact::SiblingFailed(what);
        self.telling.tell_for_good(fact);
        Ok(())
    }

    fn on_timer(&mut self, now: Time) -> Result<(), Failure> {
        for kind in self.shell.due_for_restart(now) {
            self.start(kind);
        }
        if self.meters_due.is_some_and(|due| due <= now) {
            let seen = self.view.get();
            if (seen.transferred, seen.stored) != (self.progress.transferred(), self.stored()) {
                self.publish();
            }
            // While a signal waits the bus is slow, and this one would be old when its turn comes.
            let said = self.shell.unsaid() == 0;
            if said {
                self.say_progress()?;
            }
            let next = now + self.shell.world.config.meter_period;
            self.meters_due = (!said || self.is_flowing()).then_some(next);
        }
        Ok(())
    }

    fn is_flowing(&self) -> bool {
        self.record.initial_offset().is_some() && self.reins.is_some()
    }

    fn say_progress(&mut self) -> Result<(), Failure> {
        let transferred = self.progress.transferred();
        if transferred != self.said_transferred {
            self.said_transferred = transferred;
            let signal = FileTransferSignal::TransferredBytesChanged(transferred);
            self.shell.announce(signal, None)?;
        }
        let stored = self.stored();
        if stored > self.said_stored {
            self.said_stored = stored;
            let signal = FileTransferSignal::StoredChanged(stored);
            self.shell.announce(signal, None)?;
        }
        Ok(())
    }

    /// Takes a decision of the transfer.
    fn take(&mut self, commit: Commit) -> Result<(), Failure> {
        let Commit {
            record,
            commands,
            answers,
            taken,
        } = commit;
        let faults = self.shell.world.config.faults.clone();
        faults.hit(FaultPoint::ChannelCommit)?;
        self.record = record;
        // Before its signals: who hears one and looks sees the new state.
        self.publish();
        for command in commands {
            self.carry_out(command)?;
        }
        answers.into_iter().for_each(|answer| answer.send());
        taken.answer(());
        faults.hit(FaultPoint::ChannelCommitted)
    }

    fn carry_out(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Signal(signal) => {
                if is_final(&signal) {
                    self.say_progress()?;
                }
                self.shell.announce(signal, None)?;
            }
            Command::Listen(socket) => {
                self.listening = Some(socket);
                self.start(SiblingKind::Listener);
            }
            // The flow takes each of these once, and a flow that is over takes none.
            Command::Start(from) => {
                if let Some(reins) = &self.reins {
                    let stores = self.record.stores();
                    drop(reins.start.try_send(Start { from, stores }));
                }
            }
            Command::Flow => {
                if let Some(reins) = &self.reins {
                    reins.flow.try_send(()).ok();
                }
            }
            Command::Attach(token) => {
                if let (Some(accepted), Some(reins)) = (self.waiting.remove(&token), &self.reins) {
                    drop(reins.socket.try_send(accepted.stream));
                }
            }
            Command::Discard(token) => drop(self.waiting.remove(&token)),
            Command::Report(stored) => {
                if let Some(reins) = &self.reins {
                    reins.reports.force_send(stored).ok();
                }
                // Nobody looks regularly before the flow has begun, and after it is over.
                let next = self.shell.world.clock.now() + self.shell.world.config.meter_period;
                self.meters_due.get_or_insert(next);
            }
            Command::StopListening => {
                self.listening = None;
                self.shell.stop_sibling(SiblingKind::Listener);
            }
            Command::StopFlow(why) => self.stop_flow(why),
            Command::AwaitClosed(reply) => self.shell.closers.push(reply),
            Command::Finish => self.finished = true,
        }
        Ok(())
    }

    fn stop_flow(&self, why: AbortReason) {
        if let Some(reins) = &self.reins {
            // Told once is enough.
            reins.stop.try_send(why).ok();
        }
    }

    fn stored(&self) -> u64 {
        self.progress.stored().max(self.record.stored())
    }

    fn publish(&self) {
        self.view.publish(view_of(&self.record, &self.progress));
    }

    /// Ends the channel. Afterwards nothing of it is left: no task, no descriptor, no object.
    async fn end(mut self, failure: Option<Failure>) {
        self.shell.end_sibling(SiblingKind::Transfer).await;
        // A decision nobody carries out any more: who waits for its answers learns so.
        while self.commits.try_recv().is_ok() {}
        self.listening = None;
        self.shell.end_sibling(SiblingKind::Listener).await;
        self.waiting.clear();
        if let Some(failure) = failure {
            self.bury(&failure);
        }
        // One that was told already has its reason.
        self.stop_flow(AbortReason::Stopped);
        self.shell.leave().await;
        // Whoever still asks the transfer something is answered by its mailbox being gone. The contact
        // may be told a little longer.
        drop(self.mailbox);
        // Dropped unbegun, an offer of the contact's is declined.
        if let Flow::Running(task) = self.flow {
            // Its own limits end it. A channel that nobody listens to any more must not hold it up.
            self.shell.notes.1.close();
            drop(task.await);
        }
    }

    /// Does for a transfer that cannot any more what it would have done: says that it is cancelled. Works on
    /// the recovery record alone.
    fn bury(&mut self, failure: &Failure) {
        if self.record.is_over() {
            return;
        }
        self.stop_flow(AbortReason::Failed);
        let why = FlowEnd::LocalError(Error::Confused(failure.to_string()));
        self.record
            .apply(crate::file_transfer::state::Input::Ended(why));
        self.publish();
        let signal = FileTransferSignal::StateChanged(
            FileTransferState::Cancelled,
            FileTransferReason::LocalError,
        );
        let said = self.say_progress();
        if said.and(self.shell.announce(signal, None)).is_err() {
            tracing::error!(channel = self.shell.id.0, "no room for its end");
        }
    }
}

type Event = channel::Event<Commit, FlowNote>;

fn is_final(signal: &FileTransferSignal) -> bool {
    use FileTransferState::{Cancelled, Completed};
    matches!(
        signal,
        FileTransferSignal::StateChanged(Completed | Cancelled, _)
    )
}

fn view_of(record: &State, progress: &Progress) -> FileTransferView {
    FileTransferView {
        state: record.transfer_state(),
        reason: record.reason(),
        error: record.error().cloned(),
        transferred: progress.transferred(),
        initial_offset: record.initial_offset(),
        asked: record.asked().cloned(),
        uri: record.uri().to_owned(),
        address: record.address().cloned(),
        encrypted: record.encrypted(),
        stored: progress.stored().max(record.stored()),
    }
}
