//! The actor behind one `Channel.Type.FileTransfer` channel, and the bytes of its file.
//!
//! [`state`] decides, purely; [`actor`](self) waits for what may happen and hands every decision to
//! the channel supervisor as one commit; [`FileTransferMessage`] is what others send it. The bytes go
//! through a `flow`, between two programs of ours in [`frames`].
//!
//! ```text
//!   dbus/  ──Provide, Accept, Close──▶ mailbox ─▶ ┌──────────┐ ── commit: record, signals, commands ──▶
//!   channel supervisor ──facts (agreed, opened,   │ transfer │                     channel supervisor
//!                        accepted, ended)───────▶ └──────────┘
//! ```
//!
//! The transfer holds no socket, no bytestream and no offer: all of these live in its channel supervisor's
//! hands and in the flow, so that none dies with it.

mod actor;
pub(crate) mod flow;
pub mod frames;
mod message;
pub mod state;

pub(crate) use actor::{Command, Fact, FileTransfer, TransferSeed};
pub use message::FileTransferMessage;
