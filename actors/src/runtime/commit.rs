//! How an actor that decides hands its decisions to whoever supervises it.

use super::{Decider, Reply};

/// What follows from one event.
pub(crate) struct Decision<Command> {
    /// What to do, in order.
    pub(crate) commands: Vec<Command>,
    /// What to answer once the new state is published.
    pub(crate) answers: Vec<Answer>,
}

impl<Command> Default for Decision<Command> {
    fn default() -> Self {
        Decision {
            commands: Vec::new(),
            answers: Vec::new(),
        }
    }
}

impl<Command> Decision<Command> {
    /// Has whoever asked be answered.
    pub(crate) fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, answer: T) {
        self.answers.push(Answer(Box::new(|| reply.answer(answer))));
    }
}

/// An answer to somebody who waits for it.
pub(crate) struct Answer(Box<dyn FnOnce() + Send>);

impl Answer {
    /// Answers.
    pub(crate) fn send(self) {
        (self.0)();
    }
}

/// One decision with the state after it. Whoever supervises the actor takes it whole or, if the actor fails
/// first, not at all.
pub(crate) struct Commit<D: Decider> {
    /// The recovery record.
    pub(crate) record: D::Record,
    pub(crate) decision: Decision<D::Command>,
    /// Dropped or answered when the commit was taken; the actor goes on then.
    pub(crate) taken: Reply<()>,
}
