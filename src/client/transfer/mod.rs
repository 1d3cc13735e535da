//! Files to and from contacts: the channels they go through, and what lies on the disk meanwhile, so
//! that a transfer goes on after whatever broke it.
//!
//! ```text
//!  sending                                            receiving
//!  Source ── file, folder or pipe                     Event::NewTransfers, Connection::transfers
//!    │ Connection::create_transfer                      │
//!  Transfer ── send() ── one channel to its end       Transfer ── receive() ── one channel to its end
//!    │                                                  │
//!  Records::sending ── the id that lasts              Partial ── NAME.part and its record
//!                                                       └─ Partial::finish ── NAME, or NAME (2)
//! ```
//!
//! A transfer that broke is requested again with the same [`TransferId`] by the sending program, as
//! often as its user wants; the receiving program finds its [`Partial`] by the contact's key and that
//! id, and says how much it has and what the SHA-256 of that is; the sender compares with what it has
//! itself and begins there, or anew. The service between them remembers nothing of it.
//!
//! A folder is one transfer: a tar archive whose length is known before it is made,
//! marked as a folder for those who know.

mod archive;
mod channel;
mod deliveries;
mod following;
mod name;
mod offer;
mod partial;
mod receive;
mod records;
mod send;
mod source;
mod spool;
mod target;
mod unpack;

use std::fmt;

pub use actors::model::{FileTransferReason, FileTransferState, Resume, Sha256Digest, TransferId};
pub use channel::{Transfer, TransferDescription};
pub(super) use channel::{
    reason_from_number, request, state_from_number, transfer_from_properties,
};
pub use deliveries::Deliveries;
pub use name::SafeName;
pub use offer::{Offer, Shape};
pub use partial::{Finished, Partial};
pub use receive::{confirm, receive};
pub use records::Records;
pub use send::send;
pub use source::Source;
pub use target::Target;
pub use unpack::Unpacked;

use super::error::Error;

/// How a transfer through one channel ended, other than by an error that it makes no sense to try again
/// after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it has arrived, and is what was sent.
    Completed,
    /// The contact does not want it, or not any more.
    Stopped,
    /// It broke. Asking again may help.
    Broken(Error),
}

/// Where a transfer stands, as it is told while it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has been offered to the contact.
    Offered,
    /// The contact has agreed, or we have.
    Agreed,
    /// It flows, from here on, in bytes from the file's beginning.
    From(u64),
    /// So much is there, in bytes from the file's beginning: what was there before counts too.
    At(u64),
    /// So many bytes were handed to the service, or came from it, through this channel, until it ended.
    Handed(u64),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Completed => f.write_str("completed"),
            End::Stopped => f.write_str("the contact stopped it"),
            End::Broken(error) => write!(f, "{error}"),
        }
    }
}
