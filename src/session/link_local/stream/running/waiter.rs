//! Who waits for the answers to our iqs.

use actors::runtime::Reply;
use minidom::Element;

use crate::session::link::RequestError;

/// See the module's head.
pub(super) enum Waiter {
    /// Whoever asked a program.
    Caller(Reply<Result<Option<Element>, RequestError>>),
    /// Whoever waits for a person at the other end.
    Offer(Reply<Result<Option<Element>, RequestError>>),
    /// The peer's features are asked for.
    Features,
    /// Whether the peer is there.
    Ping,
    /// A ping that follows a message: its answer tells that the message has arrived.
    Message(Reply<Result<(), RequestError>>),
}

/// Gives the answer.
pub(super) fn answer_waiter(waiter: Waiter, answer: Result<Option<Element>, RequestError>) {
    match waiter {
        Waiter::Caller(reply) | Waiter::Offer(reply) => forget(reply.send(answer)),
        Waiter::Message(reply) => forget(reply.send(answer.map(drop))),
        Waiter::Features | Waiter::Ping => {}
    }
}

/// Whoever asked has gone away; that is its right.
pub(super) fn forget<T>(unsent: Result<(), T>) {
    drop(unsent);
}
