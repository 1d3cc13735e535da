//! The actor behind one `Channel.Type.DBusTube` channel, and the messages that go through it.
//!
//! [`state`] decides, purely; [`actor`](self) waits for what may happen and hands every decision to the
//! channel supervisor as one commit; [`DBusTubeMessage`] is what others send it. Applications come in by a
//! [`handshake`]; their messages are found by a [`splitter`] and go between them and the contact by
//! [`carrying`].
//!
//! ```text
//!   dbus/  ──Offer, Accept, Close──▶ mailbox ─▶ ┌──────┐ ── commit: record, signals, commands ──▶
//!   channel supervisor ──facts (offered,        │ tube │                       channel supervisor
//!                        opened, accepted,      └──────┘
//!                        ended)───────────────────▶
//! ```
//!
//! The tube holds no socket, no bytestream and no offer: all of these live in its channel supervisor's
//! hands and in the flow, so that none dies with it.

mod actor;
pub mod carrying;
pub mod handshake;
mod message;
pub mod splitter;
pub mod state;

pub(crate) use actor::{Command, DBusTube, Fact, TubeSeed};
pub use message::DBusTubeMessage;
