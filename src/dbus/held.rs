//! Answers that keep something until they have been written to the bus.
//!
//! The library drops an answer once it is sent. What hangs on it until then decides what may follow
//! on the bus: NewChannels waits for the answer to CreateChannel, and a signal that changes
//! something waits for the answers that still say what was before. A client that asks for the contact
//! list and ignores signals until it has it would otherwise miss whoever appears in between.

use actors::runtime::Reply;
use serde::{Serialize, Serializer};
use smol::lock::RwLockReadGuardArc;
use zbus::{Signature, Type};

/// A value on its way to the bus, and what is kept until it is there.
#[derive(Debug)]
pub struct Held<T, K> {
    value: T,
    _kept: K,
}

/// An answer that says what is: the next signal of the connection waits for it.
pub type Ordered<T> = Held<T, RwLockReadGuardArc<()>>;
/// The answer to a request for a channel: NewChannels waits for it.
pub type Announced<T> = Held<T, Option<Reply<()>>>;

impl<T, K> Held<T, K> {
    /// Sends `value` and then drops `kept`.
    pub fn new(value: T, kept: K) -> Self {
        Held { value, _kept: kept }
    }
}

impl<T: Serialize, K> Serialize for Held<T, K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: Type, K> Type for Held<T, K> {
    const SIGNATURE: &'static Signature = T::SIGNATURE;
}
