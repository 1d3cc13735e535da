//! What a connection's actor leaves to others: its signals, and at last why it ends. `lifecycle`
//! emits the former and carries out the latter.

use std::collections::VecDeque;

use actors::{
    model::Error,
    runtime::{Pending, Reply},
};

use super::view::{ConnectionSignal, StatusReason};

/// What the announcer is given.
pub(super) enum Outgoing {
    /// Emit it.
    Signal(ConnectionSignal),
    /// Emit it once an answer has been sent.
    After(Pending<()>, ConnectionSignal),
}

/// Why a connection ends, and who waits for that.
pub(super) struct Ending {
    pub(super) reason: StatusReason,
    pub(super) error: Option<Error>,
    pub(super) replies: Vec<Reply<()>>,
    /// Signals that the actor had not handed over yet.
    pub(super) outbox: VecDeque<Outgoing>,
}
