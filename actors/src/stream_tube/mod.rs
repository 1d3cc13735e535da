//! The actor behind one `Channel.Type.StreamTube` channel.
//!
//! [`state`] decides, purely; [`actor`](self) waits for what may happen and hands every decision to
//! the channel supervisor as one commit; [`StreamTubeMessage`] is what others send it.
//!
//! ```text
//!   dbus/  ──Offer, Accept, Close──▶ mailbox ─▶ ┌──────┐ ── commit: record, signals, commands ──▶
//!   session ──Incoming, RemoteClosed─────────▶ │ tube │                        channel supervisor
//!   channel supervisor ──facts (accepted,       └──────┘ ◀────────── facts ──────────────────────
//!                        dialled, ended …)
//! ```
//!
//! The tube holds no socket and no bytestream: sockets wait in the channel supervisor's hands under
//! a [`crate::endpoint::Token`], so that none dies with the tube.

mod actor;
mod message;
pub mod state;

pub(crate) use actor::{Command, Fact, StreamTube, TubeSeed};
pub use message::StreamTubeMessage;
