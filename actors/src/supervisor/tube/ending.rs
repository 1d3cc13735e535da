//! How a channel ends: in order, or buried by its supervisor when something failed past its limit.

use futures_lite::FutureExt as _;

use super::{Channel, Farewell, TubeNote, catch};
use crate::{
    model::Error,
    ports::StreamTubeSignal,
    runtime::Failure,
    supervisor::channel::{Note, SiblingKind},
};

impl Channel {
    /// No more applications, no more dials. What was asked and not yet dialled is refused by being
    /// dropped; sockets that wait for the tube are closed.
    pub(super) fn stop_opening(&mut self) {
        self.shell.stop_listening();
        self.shell.stop_sibling(SiblingKind::Dialler);
        self.dial_queue.0.close();
        while self.dial_queue.1.try_recv().is_ok() {}
    }

    /// Begins to tell the contact that the tube is closed.
    pub(super) fn say_farewell(&mut self) {
        if !matches!(self.farewell, Farewell::NotBegun) {
            return;
        }
        let telling = self.signalling.close();
        let limit = self
            .shell
            .world
            .clock
            .sleep(self.shell.world.config.farewell_limit);
        let notes = self.shell.notes.0.clone();
        let task = self.shell.world.spawner.spawn("farewell", async move {
            // A session that panics while it says goodbye has said it.
            catch("farewell", telling.or(limit)).await.ok();
            // A channel that has ended does not wait for it.
            notes.send(Note::Own(TubeNote::Told)).await.ok();
        });
        let cut = Some(self.shell.world.clock.now() + self.shell.world.config.farewell_grace);
        self.farewell = Farewell::Telling { task, cut };
    }

    /// The contact was told, as far as it could be: from now on it is its turn to cut the
    /// connections, for a while.
    pub(super) fn told(&mut self) {
        let limit = self.shell.world.clock.now() + self.shell.world.config.cut_grace;
        let cut = match &self.farewell {
            Farewell::Telling { cut, .. } => cut.map(|_| limit),
            Farewell::NotBegun | Farewell::Told { .. } => return,
        };
        self.farewell = Farewell::Told { cut };
    }

    /// Cuts every connection.
    pub(super) fn cut(&mut self) {
        self.relays.values().for_each(|relay| relay.stopper.stop());
    }

    /// Does for a tube that cannot any more what it would have done: cuts its connections, says
    /// how each ended, and tells the contact. Works on the recovery record alone.
    pub(super) async fn bury(&mut self, failure: &Failure) {
        let relays = std::mem::take(&mut self.relays);
        let mut slots = Vec::new();
        for relay in relays.into_values() {
            if let Some(task) = relay.task {
                task.cancel().await;
            }
            slots.push(relay.slot);
        }
        for id in self.shell.record.connections() {
            let signal = StreamTubeSignal::ConnectionClosed {
                id: *id,
                why: Error::ConnectionLost(failure.to_string()),
            };
            // The queue has room for the end of every connection.
            if self.shell.announce(signal, None).is_err() {
                tracing::error!(
                    channel = self.shell.id.0,
                    connection = id.0,
                    "no room for its end"
                );
            }
        }
        drop(slots);
        if self.shell.record.concerns_the_contact() {
            self.say_farewell();
        }
    }
}
