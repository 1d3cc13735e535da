//! Stanzas and streams as pure data and pure state: no I/O, no clock, no randomness.
//!
//! ```text
//!   bytes ──► xml::Reader ──► stream::Stream ──► stanza::{Iq, Message} ──► payload::*
//!   bytes ◄── write ◄──────── stream::Stream ◄── stanza::{Iq, Message} ◄── payload::*
//! ```
//!
//! `session/` drives it: it owns the sockets, the deadlines and the ids. Names of peers stay plain
//! strings here, for link-local peers really use names such as `romeo@forza #2`, which the address
//! format of RFC 7622 refuses.

pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod iq_tracker;
pub mod ns;
pub mod payload;
pub mod stanza;
pub mod stream;
pub mod write;
pub mod xml;

pub use error::{StreamCondition, StreamError};
pub use stanza::{Condition, ErrorKind, Iq, IqKind, Message, Stanza, StanzaError};
