//! How a channel ends: in order, or buried by its supervisor when something failed past its limit.

use futures_lite::FutureExt as _;

use super::{Announcement, Channel, Farewell, Note, SiblingKind, Time, catch};
use crate::{
    model::Error,
    ports::StreamTubeSignal,
    runtime::{Exit, Failure, within},
};

impl Channel {
    /// No more applications, no more dials. What was asked and not yet dialled is refused by being
    /// dropped; sockets that wait for the tube are closed.
    pub(super) fn stop_opening(&mut self) {
        self.listening = None;
        self.listener.stop();
        self.dialler.stop();
        self.dial_queue.0.close();
        while self.dial_queue.1.try_recv().is_ok() {}
    }

    /// Begins to tell the contact that the tube is closed.
    pub(super) fn say_farewell(&mut self, now: Time) {
        if !matches!(self.farewell, Farewell::NotBegun) {
            return;
        }
        let telling = self.signalling.close();
        let limit = self.world.clock.sleep(self.world.config.farewell_limit);
        let notes = self.notes.0.clone();
        let task = self.world.spawner.spawn("farewell", async move {
            // A session that panics while it says goodbye has said it.
            catch("farewell", telling.or(limit)).await.ok();
            // A channel that has ended does not wait for it.
            notes.send(Note::Told).await.ok();
        });
        let cut = Some(now + self.world.config.farewell_grace);
        self.farewell = Farewell::Telling { task, cut };
    }

    /// The contact was told, as far as it could be: from now on it is its turn to cut the
    /// connections, for a while.
    pub(super) fn told(&mut self, now: Time) {
        let cut = match &self.farewell {
            Farewell::Telling { cut, .. } => cut.map(|_| now + self.world.config.cut_grace),
            Farewell::NotBegun | Farewell::Told { .. } => return,
        };
        self.farewell = Farewell::Told { cut };
    }

    /// Cuts every connection.
    pub(super) fn cut(&mut self) {
        self.relays.values().for_each(|relay| relay.stopper.stop());
    }

    /// Ends the channel. Afterwards nothing of it is left: no task, no descriptor, no object.
    pub(super) async fn end(mut self, failure: Option<Failure>) {
        self.tube.end().await;
        // A decision nobody carries out any more: who waits for its answers learns so.
        while self.commits.try_recv().is_ok() {}
        self.stop_opening();
        self.listener.end().await;
        self.dialler.end().await;
        self.waiting.clear();
        if let Some(failure) = failure {
            self.bury(&failure).await;
        }
        // No relay is left: a tube that finishes has ended every connection before, a burial just has.
        // A tree that never answers must not keep whoever waits for the end.
        let (clock, limit) = (self.world.clock.clone(), self.world.config.tree_limit);
        let said = within(&*clock, limit, self.say_the_rest()).await;
        self.announcer.end().await;
        if said.is_none() {
            let lost = self.signals.1.len() + usize::from(self.in_hand.take().is_some());
            tracing::error!(
                channel = self.id.0,
                lost,
                "the tree takes no signals: the last ones are lost"
            );
        }
        let withdrawing = catch("withdraw", self.world.tree.withdraw(self.id));
        match within(&*clock, limit, withdrawing).await {
            Some(Ok(())) => {}
            Some(Err(failure)) => {
                tracing::error!(channel = self.id.0, %failure, "cannot withdraw a channel");
            }
            None => tracing::error!(channel = self.id.0, "a channel is not withdrawn in time"),
        }
        self.closers.drain(..).for_each(|reply| reply.answer(()));
        // Whoever still asks the tube something is answered by its mailbox being gone. The contact
        // may be told a little longer.
        drop(self.mailbox);
        if let Farewell::Telling { task, .. } = self.farewell {
            // Its own limit ends it.
            drop(task.await);
        }
    }

    /// Does for a tube that cannot any more what it would have done: cuts its connections, says
    /// how each ended, and tells the contact. Works on the recovery record alone.
    async fn bury(&mut self, failure: &Failure) {
        let relays = std::mem::take(&mut self.relays);
        let mut slots = Vec::new();
        for relay in relays.into_values() {
            if let Some(task) = relay.task {
                task.cancel().await;
            }
            slots.push(relay.slot);
        }
        for id in self.record.connections() {
            let signal = StreamTubeSignal::ConnectionClosed {
                id: *id,
                why: Error::ConnectionLost(failure.to_string()),
            };
            // The queue has room for the end of every connection.
            if self
                .signals
                .0
                .try_send(Announcement {
                    signal,
                    _slot: None,
                })
                .is_err()
            {
                tracing::error!(
                    channel = self.id.0,
                    connection = id.0,
                    "no room for its end"
                );
            }
        }
        drop(slots);
        if self.record.concerns_the_contact() {
            let now = self.world.clock.now();
            self.say_farewell(now);
        }
    }

    /// Waits until the announcer has emitted every signal, restarting it by its own policy. Past
    /// the limit the rest is emitted here, each signal caught by itself.
    async fn say_the_rest(&mut self) {
        self.signals.0.close();
        if !self.announcer.is_started() {
            self.start(SiblingKind::Announcer);
        }
        loop {
            let note = async { self.notes.1.recv().await.ok() };
            let timer = async {
                match self.announcer.due() {
                    Some(due) => self.world.clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
                None
            };
            match note.or(timer).await {
                Some(Note::SiblingEnded(SiblingKind::Announcer, Exit::Failed(failure))) => {
                    let now = self.world.clock.now();
                    let exit = Exit::Failed(failure);
                    if self
                        .sibling_ended(SiblingKind::Announcer, exit, now)
                        .is_err()
                    {
                        break;
                    }
                }
                Some(Note::SiblingEnded(SiblingKind::Announcer, _)) => return,
                Some(Note::Told) => self.told(self.world.clock.now()),
                // All others are gone, and what they had to say is of no consequence now.
                Some(_) => {}
                None => self.on_timer(self.world.clock.now()),
            }
        }
        while let Some(announcement) = self
            .in_hand
            .take()
            .or_else(|| self.signals.1.try_recv().ok())
        {
            let emitting = self.world.tree.emit(self.id, announcement.signal.into());
            if let Err(failure) = catch("announcer", emitting).await {
                tracing::error!(channel = self.id.0, %failure, "a signal is lost");
            }
        }
    }
}
