//! What a channel supervisor tells the actor that decides, and tells again to its successor.

use async_channel::{Receiver, Sender};

use crate::model::ChannelId;

/// The facts on their way to who decides, and those that hold for good.
pub(in crate::supervisor) struct Telling<F> {
    channel: ChannelId,
    facts: (Sender<F>, Receiver<F>),
    told: Vec<F>,
}

impl<F: Clone> Telling<F> {
    /// With room for every fact that can hold at once.
    pub(super) fn new(channel: ChannelId, room: usize) -> Self {
        Telling {
            channel,
            facts: async_channel::bounded(room),
            told: Vec::new(),
        }
    }

    /// Where who decides hears them.
    pub(super) fn listen(&self) -> Receiver<F> {
        self.facts.1.clone()
    }

    /// Tells a fact. If who decides is being restarted, its successor is told all that holds.
    pub(in crate::supervisor) fn tell(&self, fact: F) {
        if self.facts.0.try_send(fact).is_err() {
            // The room covers every fact that can hold at once.
            tracing::error!(channel = self.channel.0, "more facts than there can be");
        }
    }

    /// The same, of one that holds from now on.
    pub(in crate::supervisor) fn tell_for_good(&mut self, fact: F) {
        self.told.push(fact.clone());
        self.tell(fact);
    }

    /// Tells a successor everything that still holds, and nothing twice: what was told for good, and
    /// these.
    pub(super) fn tell_again(&self, others: impl Iterator<Item = F>) {
        while self.facts.1.try_recv().is_ok() {}
        for fact in self.told.iter().cloned().chain(others) {
            self.tell(fact);
        }
    }

    /// What held for good is of no consequence any more.
    pub(in crate::supervisor) fn forget(&mut self) {
        self.told.clear();
    }
}
