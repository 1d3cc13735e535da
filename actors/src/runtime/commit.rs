//! A decision that is handed over as a whole.

use super::Reply;

/// One decision: the state after it, and all that follows from it. Whoever supervises the actor takes it
/// whole or, if the actor fails first, not at all.
pub(crate) struct Commit<Record, Command, Answer> {
    /// The recovery record.
    pub(crate) record: Record,
    /// What to do, in order.
    pub(crate) commands: Vec<Command>,
    /// What to answer once the new state is published.
    pub(crate) answers: Vec<Answer>,
    /// Dropped or answered when the commit was taken; the actor goes on then.
    pub(crate) taken: Reply<()>,
}
