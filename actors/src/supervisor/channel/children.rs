//! Starting and restarting the actors of a channel.

use std::sync::atomic::AtomicU64;

use futures_lite::FutureExt as _;

use super::{
    Announcer, Channel, ConnectionEnd, Dialler, Far, Farewell, Note, Time, connection::Connection,
    count,
};
use crate::{
    model::ConnectionId,
    ports::Duplex,
    runtime::{BoxFuture, Exit, Failure, FaultPoint, Stop, Stopper, Task, catch, run},
    stream_tube::{Fact, StreamTube},
    supervisor::{
        AcceptedSocket, ListenJob, RestartPolicy,
        config::{Counters, RestartBudget},
    },
};

/// The actors of a channel that restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SiblingKind {
    Tube,
    Listener,
    Dialler,
    Announcer,
}

impl SiblingKind {
    fn name(self) -> &'static str {
        match self {
            SiblingKind::Tube => "tube",
            SiblingKind::Listener => "listener",
            SiblingKind::Dialler => "dialler",
            SiblingKind::Announcer => "announcer",
        }
    }

    fn counter(self, counters: &Counters) -> &AtomicU64 {
        match self {
            SiblingKind::Tube => &counters.tubes,
            SiblingKind::Listener => &counters.listeners,
            SiblingKind::Dialler => &counters.diallers,
            SiblingKind::Announcer => &counters.announcers,
        }
    }
}

/// One of them.
///
/// ```text
///  Idle ──start──▶ Running ──failed──▶ Pausing ──pause over──▶ Running
///                     │ told to stop
///                     ▼
///                  Stopping ──ended──▶ Idle
/// ```
pub(super) struct Sibling {
    budget: RestartBudget,
    life: Life,
}

enum Life {
    Idle,
    Running {
        task: Task<()>,
        stopper: Stopper,
    },
    /// Told to stop, and not heard of yet.
    Stopping {
        task: Task<()>,
    },
    Pausing {
        until: Time,
    },
}

impl Sibling {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Sibling {
            budget: RestartBudget::new(policy),
            life: Life::Idle,
        }
    }

    pub(super) fn is_started(&self) -> bool {
        !matches!(self.life, Life::Idle)
    }

    pub(super) fn is_pausing(&self) -> bool {
        matches!(self.life, Life::Pausing { .. })
    }

    /// When its pause is over.
    pub(super) fn due(&self) -> Option<Time> {
        match self.life {
            Life::Pausing { until } => Some(until),
            _ => None,
        }
    }

    /// Asks it to stop and does not restart it; what is still running is waited for by
    /// [`Sibling::end`].
    pub(super) fn stop(&mut self) {
        self.life = match std::mem::replace(&mut self.life, Life::Idle) {
            Life::Running { task, stopper } => {
                stopper.stop();
                Life::Stopping { task }
            }
            Life::Stopping { task } => Life::Stopping { task },
            Life::Pausing { .. } | Life::Idle => Life::Idle,
        }
    }

    /// Cancels it, and waits until it is gone.
    pub(super) async fn end(&mut self) {
        let life = std::mem::replace(&mut self.life, Life::Idle);
        if let Life::Running { task, .. } | Life::Stopping { task } = life {
            task.cancel().await;
        }
    }
}

impl Channel {
    fn sibling(&mut self, kind: SiblingKind) -> &mut Sibling {
        match kind {
            SiblingKind::Tube => &mut self.tube,
            SiblingKind::Listener => &mut self.listener,
            SiblingKind::Dialler => &mut self.dialler,
            SiblingKind::Announcer => &mut self.announcer,
        }
    }

    /// Starts one of the actors, the first or a successor.
    pub(super) fn start(&mut self, kind: SiblingKind) {
        let (stopper, stop) = Stopper::new();
        let faults = self.world.config.faults.clone();
        let life: BoxFuture<'static, Exit> = match kind {
            SiblingKind::Tube => {
                self.tell_again();
                let (seed, mailbox) = (self.seed.clone(), self.mailbox.lend());
                let tube = StreamTube::new(seed, mailbox, self.record.clone());
                Box::pin(async move { run(tube, &stop).await })
            }
            SiblingKind::Listener => match self.listen(stop) {
                Some(listener) => listener,
                None => return,
            },
            SiblingKind::Dialler => {
                let dialler = Dialler {
                    queue: self.dial_queue.1.clone(),
                    sockets: self.seed.sockets.clone(),
                    notes: self.notes.0.clone(),
                    faults,
                };
                let stopped = async move {
                    stop.stopped().await;
                    Exit::Stopped
                };
                Box::pin(stopped.or(dialler.run()))
            }
            SiblingKind::Announcer => Box::pin(
                Announcer {
                    channel: self.id,
                    tree: self.world.tree.clone(),
                    queue: self.signals.1.clone(),
                    in_hand: self.in_hand.clone(),
                    faults,
                }
                .run(),
            ),
        };
        let notes = self.notes.0.clone();
        let name = kind.name();
        let task = self.world.spawner.spawn(name, async move {
            let exit = catch(name, life).await.unwrap_or_else(Exit::Failed);
            // A channel that is gone restarts nobody.
            notes.send(Note::SiblingEnded(kind, exit)).await.ok();
        });
        self.sibling(kind).life = Life::Running { task, stopper };
    }

    fn listen(&self, stop: Stop) -> Option<BoxFuture<'static, Exit>> {
        let socket = self.listening.clone()?;
        let faults = self.world.config.faults.clone();
        let notes = self.notes.0.clone();
        let (killed, dying) = async_channel::bounded(1);
        let deliver_faults = faults.clone();
        let deliver = move |accepted: AcceptedSocket| -> BoxFuture<'static, bool> {
            let (notes, faults, killed) = (notes.clone(), deliver_faults.clone(), killed.clone());
            Box::pin(async move {
                let delivered = notes.send(Note::Accepted(accepted)).await.is_ok();
                match faults.hit(FaultPoint::ListenerDelivered) {
                    Ok(()) => delivered,
                    Err(failure) => {
                        // One place, one message.
                        killed.try_send(failure).ok();
                        false
                    }
                }
            })
        };
        let job = ListenJob {
            slots: self.slots.clone(),
            deliver: Box::new(deliver),
            stop,
        };
        Some(Box::pin(async move {
            if let Err(failure) = faults.hit(FaultPoint::ListenerStart) {
                return Exit::Failed(failure);
            }
            let listening = socket.listen(job);
            match faults.survive(FaultPoint::ListenerWaiting, listening).await {
                Ok(exit) => dying.try_recv().map_or(exit, Exit::Failed),
                Err(failure) => Exit::Failed(failure),
            }
        }))
    }

    pub(super) fn spawn_relay(
        &self,
        id: ConnectionId,
        local: Box<dyn Duplex>,
        far: Far,
        stop: Stop,
    ) -> Task<()> {
        let connection = Connection {
            local,
            far,
            meters: self.meters.clone(),
            limits: self.limits.clone(),
            stop,
            clock: self.world.clock.clone(),
            opening_limit: self.world.config.opening_limit,
            faults: self.world.config.faults.clone(),
            notes: self.notes.0.clone(),
        };
        let notes = self.notes.0.clone();
        self.world.spawner.spawn("relay", async move {
            let end = match catch("relay", connection.run()).await {
                Ok(Ok(end)) => end,
                Ok(Err(failure)) | Err(failure) => ConnectionEnd::Failed(failure.to_string()),
            };
            // A channel that is gone has closed this connection itself.
            notes.send(Note::RelayEnded(id, end)).await.ok();
        })
    }

    /// A child has ended; restarts it if it failed.
    pub(super) fn sibling_ended(
        &mut self,
        kind: SiblingKind,
        exit: Exit,
        now: Time,
    ) -> Result<(), Failure> {
        let sibling = self.sibling(kind);
        if let Life::Stopping { .. } = std::mem::replace(&mut sibling.life, Life::Idle) {
            return Ok(());
        }
        let failure = match exit {
            Exit::Failed(failure) => failure,
            // Nobody told it to: what it was for is not done.
            Exit::Finished | Exit::Stopped => Failure::Failed("it ended by itself".into()),
        };
        let pause = sibling.budget.failed(now);
        let name = kind.name();
        let Some(pause) = pause else {
            tracing::error!(channel = self.id.0, actor = name, %failure, "failed too often");
            return self.give_up(kind, &failure);
        };
        count(kind.counter(&self.world.counters));
        tracing::warn!(channel = self.id.0, actor = name, %failure, ?pause, "restarting");
        self.sibling(kind).life = Life::Pausing { until: now + pause };
        Ok(())
    }

    /// The failure moves up: from the listener or the dialler to the tube, which closes in order;
    /// from the tube or the announcer to the channel.
    fn give_up(&mut self, kind: SiblingKind, failure: &Failure) -> Result<(), Failure> {
        let what = format!("the {} failed too often and last {failure}", kind.name());
        match kind {
            SiblingKind::Tube | SiblingKind::Announcer => Err(Failure::Failed(what)),
            SiblingKind::Listener | SiblingKind::Dialler => {
                count(&self.world.counters.channels);
                self.sibling_failed = Some(what.clone());
                self.tell(Fact::SiblingFailed(what));
                Ok(())
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let cut = match &self.farewell {
            Farewell::Telling { cut, .. } | Farewell::Told { cut } => *cut,
            Farewell::NotBegun => None,
        };
        let siblings = [&self.tube, &self.listener, &self.dialler, &self.announcer];
        siblings
            .into_iter()
            .filter_map(Sibling::due)
            .chain(self.meters_due)
            .chain(cut)
            .min()
    }

    pub(super) fn on_timer(&mut self, now: Time) {
        for kind in [
            SiblingKind::Announcer,
            SiblingKind::Tube,
            SiblingKind::Listener,
            SiblingKind::Dialler,
        ] {
            if self.sibling(kind).due().is_some_and(|due| due <= now) {
                self.sibling(kind).life = Life::Idle;
                self.start(kind);
            }
        }
        if self.meters_due.is_some_and(|due| due <= now) {
            let next = now + self.world.config.meter_period;
            self.meters_due = (!self.relays.is_empty()).then_some(next);
            let seen = self.view.get();
            if (seen.bytes_sent, seen.bytes_received)
                != (self.meters.sent(), self.meters.received())
            {
                self.publish();
            }
        }
        if let Farewell::Telling { cut, .. } | Farewell::Told { cut } = &mut self.farewell
            && cut.is_some_and(|cut| cut <= now)
        {
            *cut = None;
            self.tell(Fact::Overdue);
        }
    }

    /// Tells the tube's successor everything that still holds, and nothing twice.
    fn tell_again(&mut self) {
        while self.seed.facts.try_recv().is_ok() {}
        for (token, waiting) in &self.waiting {
            self.tell(waiting.fact(*token));
        }
        for id in self.record.connections() {
            let end = match self.relays.get(id) {
                Some(relay) => relay.ended.clone(),
                None => Some(ConnectionEnd::Failed("its relay is gone".into())),
            };
            if let Some(end) = end {
                self.tell(Fact::Ended(*id, end));
            }
        }
        let overdue = match &self.farewell {
            Farewell::NotBegun => false,
            Farewell::Telling { cut, .. } | Farewell::Told { cut } => cut.is_none(),
        };
        if overdue {
            self.tell(Fact::Overdue);
        }
        if let Some(what) = self.sibling_failed.clone() {
            self.tell(Fact::SiblingFailed(what));
        }
    }
}
