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
//! transfer has decided about it, the reins of the flow, the queue of signals.
//!
//! # What is bounded
//! [`APPLICATIONS`] at once are accepted. The signals are few: each state once, the initial offset, what was
//! asked, the URI; `TransferredBytesChanged` and `StoredChanged` join them only while no other signal
//! waits, and at the end.

mod carrier;

use std::sync::Arc;

use self::carrier::{Carrier, FlowNote, Orders, Port, Reins, Start, orders};
use super::{
    AcceptedSocket, FileTransferRequest, FileWay,
    channel::{ChannelType, Made, Outfit, Place, Room, Shell, SiblingKind},
};
use crate::{
    endpoint::{Slots, Token},
    file_transfer::{
        Command, Fact, FileTransfer, TransferSeed,
        flow::Progress,
        frames::AbortReason,
        state::{FlowEnd, Input, State, Way},
    },
    limits::Limits,
    model::{Error, FileOffer, FileTransferReason, FileTransferState, Result},
    ports::{FileTransferDescription, FileTransferSignal, FileTransferView},
    runtime::{Failure, Task},
};

/// How many applications are in the listener's and the supervisor's hands at once. The first that passes
/// the access control is the one; with Credentials others are silent before.
const APPLICATIONS: usize = 2;

/// Most signals that wait for the announcer: three states, the URI, what was asked, the initial offset, and
/// twice what [`Channel::say_progress`] says.
const SIGNALS: usize = 10;

/// See the module's head.
pub(super) struct Channel {
    shell: Shell<Channel>,
    file: Box<FileOffer>,
    limits: Limits,

    flow: Flow,
    /// Until the flow is over: what it has not taken by then goes with them.
    reins: Option<Reins>,
    /// What `TransferredBytesChanged` has said last.
    said_transferred: u64,
    /// The same of `StoredChanged`.
    said_stored: u64,
}

enum Flow {
    /// Not begun: what it begins with.
    Idle(Port, Orders),
    /// For a moment.
    Beginning,
    Running(Task<()>),
}

impl Channel {
    fn is_flowing(&self) -> bool {
        self.shell.record.initial_offset().is_some() && self.reins.is_some()
    }

    fn say_progress(&mut self) -> Result<(), Failure> {
        let transferred = self.shell.meters.transferred();
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

    fn stop_flow(&self, why: AbortReason) {
        if let Some(reins) = &self.reins {
            // Told once is enough.
            reins.stop.try_send(why).ok();
        }
    }

    fn stored(&self) -> u64 {
        self.shell.meters.stored().max(self.shell.record.stored())
    }

    /// Does for a transfer that cannot any more what it would have done: says that it is cancelled. Works on
    /// the recovery record alone.
    fn bury(&mut self, failure: &Failure) {
        if self.shell.record.is_over() {
            return;
        }
        self.stop_flow(AbortReason::Failed);
        let why = FlowEnd::LocalError(Error::Confused(failure.to_string()));
        self.shell.record.apply(Input::Ended(why));
        self.shell.publish();
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

impl ChannelType for Channel {
    type Request = FileTransferRequest;
    type Description = FileTransferDescription;
    type Signal = FileTransferSignal;
    type View = FileTransferView;
    type Meters = Progress;
    type Decider = FileTransfer;
    type Note = FlowNote;
    type Socket = AcceptedSocket;

    const DECIDER: SiblingKind = SiblingKind::Transfer;

    fn new(place: Place, request: FileTransferRequest) -> Made<Self> {
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
        let file = description.file.clone();
        let progress = Arc::<Progress>::default();
        let outfit = Outfit {
            seed: TransferSeed {
                sockets: request.sockets,
                progress: progress.clone(),
            },
            record: State::new(&description, way),
            description,
            meters: progress,
            slots: Slots::new(APPLICATIONS),
            room: Room {
                // Each application; what the flow tells; one sibling failed.
                facts: APPLICATIONS + 4,
                notes: APPLICATIONS + 3,
                signals: SIGNALS,
            },
        };
        let (shell, object) = Shell::new(place, outfit);
        let (reins, orders) = orders();
        let channel = Channel {
            shell,
            file,
            limits: request.limits,
            flow: Flow::Idle(port, orders),
            reins: Some(reins),
            said_transferred: 0,
            said_stored: 0,
        };
        Ok((channel, object))
    }

    fn shell(&mut self) -> &mut Shell<Self> {
        &mut self.shell
    }

    fn view(record: &State, progress: &Progress) -> FileTransferView {
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

    fn waits(token: Token, _: &AcceptedSocket) -> Fact {
        Fact::Accepted(token)
    }

    fn sibling_failed(what: String) -> Fact {
        Fact::SiblingFailed(what)
    }

    fn begin(&mut self) {
        let world = &self.shell.world;
        let Flow::Idle(port, orders) = std::mem::replace(&mut self.flow, Flow::Beginning) else {
            return;
        };
        let carrier = Carrier {
            file: self.file.clone(),
            orders,
            progress: self.shell.meters.clone(),
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

    fn carry_out(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Signal(signal) => {
                if is_final(&signal) {
                    self.say_progress()?;
                }
                self.shell.announce(signal, None)?;
            }
            Command::Listen(socket) => {
                let vanished = self.reins.as_ref().map(|reins| reins.vanished.clone());
                self.shell.listen(socket, vanished);
            }
            // The flow takes each of these once, and a flow that is over takes none.
            Command::Start(from) => {
                if let Some(reins) = &self.reins {
                    let stores = self.shell.record.stores();
                    drop(reins.start.try_send(Start { from, stores }));
                }
            }
            Command::Flow => {
                if let Some(reins) = &self.reins {
                    reins.flow.try_send(()).ok();
                }
            }
            Command::Attach(token) => {
                let accepted = self.shell.waiting.take(token);
                if let (Some(accepted), Some(reins)) = (accepted, &self.reins) {
                    drop(reins.socket.try_send(accepted.stream));
                }
            }
            Command::Discard(token) => drop(self.shell.waiting.take(token)),
            Command::Report(stored) => {
                if let Some(reins) = &self.reins {
                    reins.reports.force_send(stored).ok();
                }
                // Nobody looks regularly before the flow has begun, and after it is over.
                let next = self.shell.next_look();
                self.shell.meters_due.get_or_insert(next);
            }
            Command::StopListening => self.shell.stop_listening(),
            Command::StopFlow(why) => self.stop_flow(why),
            Command::AwaitClosed(reply) => self.shell.closers.push(reply),
            Command::Finish => self.shell.finished = true,
        }
        Ok(())
    }

    fn hear(&mut self, note: FlowNote) {
        let fact = match note {
            FlowNote::Agreed(from) => Fact::Agreed(from),
            FlowNote::Opened { offset, encrypted } => {
                self.shell.meters_due = Some(self.shell.next_look());
                Fact::Opened { offset, encrypted }
            }
            FlowNote::Ended(end) => Fact::Ended(end),
            FlowNote::Failed(failure) => {
                self.shell.count_failed_flow(&failure);
                let why = Error::Confused(format!("the transfer {failure}"));
                Fact::Ended(FlowEnd::LocalError(why))
            }
        };
        if let Fact::Ended(_) = &fact {
            self.reins = None;
        }
        self.shell.telling.tell_for_good(fact);
    }

    fn look(&mut self) -> Result<bool, Failure> {
        let (seen, progress) = (self.shell.view.get(), &self.shell.meters);
        if (seen.transferred, seen.stored) != (progress.transferred(), self.stored()) {
            self.shell.publish();
        }
        // While a signal waits the bus is slow, and this one would be old when its turn comes.
        let said = self.shell.unsaid() == 0;
        if said {
            self.say_progress()?;
        }
        Ok(!said || self.is_flowing())
    }

    async fn part(&mut self, failure: Option<Failure>) {
        if let Some(failure) = failure {
            self.bury(&failure);
        }
        // One that was told already has its reason.
        self.stop_flow(AbortReason::Stopped);
    }

    fn last(self) -> Option<Task<()>> {
        match self.flow {
            // Its own limits end it.
            Flow::Running(task) => Some(task),
            // Dropped unbegun, an offer of the contact's is declined.
            Flow::Idle(..) | Flow::Beginning => None,
        }
    }
}

fn is_final(signal: &FileTransferSignal) -> bool {
    use FileTransferState::{Cancelled, Completed};
    matches!(
        signal,
        FileTransferSignal::StateChanged(Completed | Cancelled, _)
    )
}
