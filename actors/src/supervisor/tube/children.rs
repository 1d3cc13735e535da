//! Starting and restarting the actors of a stream tube's channel.

use futures_lite::FutureExt as _;

use super::{
    Channel, ConnectionEnd, Dialler, Far, Farewell, Time, TubeNote, connection::Connection, count,
};
use crate::{
    model::ConnectionId,
    ports::Duplex,
    runtime::{BoxFuture, Exit, Failure, Stop, Stopper, Task, catch, run},
    stream_tube::{Fact, StreamTube},
    supervisor::channel::{Ended, Followed, Note, SiblingKind},
};

impl Channel {
    /// Starts one of the actors, the first or a successor.
    pub(super) fn start(&mut self, kind: SiblingKind) {
        let (stopper, stop) = Stopper::new();
        let life: BoxFuture<'static, Exit> = match kind {
            SiblingKind::Tube => {
                self.tell_again();
                let (seed, mailbox) = (self.seed.clone(), self.mailbox.lend());
                let tube = StreamTube::new(seed, mailbox, self.record.clone());
                Box::pin(async move { run(tube, &stop).await })
            }
            SiblingKind::Dialler => {
                let dialler = Dialler {
                    queue: self.dial_queue.1.clone(),
                    sockets: self.seed.sockets.clone(),
                    notes: self.shell.notes.0.clone(),
                    faults: self.shell.world.config.faults.clone(),
                };
                let stopped = async move {
                    stop.stopped().await;
                    Exit::Stopped
                };
                Box::pin(stopped.or(dialler.run()))
            }
            SiblingKind::Listener => {
                if let Some(socket) = self.listening.clone() {
                    self.shell.start_listener(socket, self.slots.clone(), None);
                }
                return;
            }
            SiblingKind::Announcer => return self.shell.start_announcer(),
            // Of another type of channel.
            SiblingKind::Transfer => return,
        };
        self.shell.run_sibling(kind, stopper, life);
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

    /// A child has ended; restarts it if it failed. Past its limit the failure moves up: from the
    /// listener or the dialler to the tube, which closes in order; from the tube or the announcer to
    /// the channel.
    pub(super) fn sibling_ended(
        &mut self,
        kind: SiblingKind,
        ended: Ended,
        now: Time,
    ) -> Result<(), Failure> {
        let Followed::GivenUp(what) = self.shell.sibling_ended(kind, ended, now) else {
            return Ok(());
        };
        match kind {
            SiblingKind::Listener | SiblingKind::Dialler => {
                count(&self.shell.world.counters.channels);
                self.sibling_failed = Some(what.clone());
                self.tell(Fact::SiblingFailed(what));
                Ok(())
            }
            _ => Err(Failure::Failed(what)),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let cut = match &self.farewell {
            Farewell::Telling { cut, .. } | Farewell::Told { cut } => *cut,
            Farewell::NotBegun => None,
        };
        self.meters_due.into_iter().chain(cut).min()
    }

    pub(super) fn on_timer(&mut self, now: Time) {
        for kind in self.shell.due_for_restart(now) {
            self.start(kind);
        }
        if self.meters_due.is_some_and(|due| due <= now) {
            let next = now + self.shell.world.config.meter_period;
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
