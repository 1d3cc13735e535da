//! The bytes of a file on their way between one application and one bytestream, with what is said about
//! them.
//!
//! ```text
//!   application ──read──► [ 128 KiB, hashed ] ──frames──► contact         Sending
//!                                    words ◄──
//!
//!   contact ──frames──► [ 128 KiB, hashed ] ──write──► application        Receiving
//!                    ──► words
//! ```
//!
//! Each reads only when its buffer is empty, so whoever does not take bytes stops whoever gives them;
//! nothing else is held. Where bytes per second are [limited](crate::limits), it reads when it is its turn.
//! Between two programs that speak our namespace the [`frames`](super::frames) go, with a digest and
//! a verdict; to others the bytes of the file and nothing else.
//!
//! | what happens | how it ends |
//! | --- | --- |
//! | all has arrived, and is what was sent | `Completed` |
//! | the application ends before the size, goes on behind it, breaks, or never connects | `LocalError` |
//! | it connects and is gone before it could be let in, and no other comes soon | `LocalError` |
//! | an application that says what it stores breaks off, or is silent for too long, before it has said that of all | `LocalError` |
//! | the channel is closed | `Stopped`; the contact hears that something went wrong where the receiving application had gone by then, or had not come: what closed it was most likely what tidies up behind a crash |
//! | the contact says that its user stopped it | `RemoteStopped` |
//! | without frames, the contact closes the stream half way | `RemoteStopped` |
//! | the contact says that something went wrong, or sends what is no frame | `RemoteError` |
//! | the bytestream breaks; digest, size or hash are wrong | `RemoteError` |

mod hash;
mod receiving;
mod seat;
mod sending;

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    file_transfer::{
        frames::{AbortReason, Malformed},
        state::FlowEnd,
    },
    model::{ContentHash, Error},
    runtime::Failure,
};

pub(crate) use self::{
    receiving::{Receiving, Reports},
    seat::{Coming, Seat},
    sending::Sending,
};

/// How many times a flow reads, up to half a megabyte, before it lets others run.
const TURNS: usize = 4;
/// How long the application may leave its socket open after it has written the last byte. Then there
/// was no byte too many.
const LINGER: Duration = Duration::from_secs(2);
/// How long a contact may take to close a stream that we cannot write to any more, or that all of a
/// file was written to.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(10);

/// How far a transfer is, readable at any time.
#[derive(Debug, Default)]
pub struct Progress {
    transferred: AtomicU64,
    stored: AtomicU64,
    verified: OnceLock<u64>,
}

impl Progress {
    /// Bytes that went through this transfer: taken by the contact's side, or by the application.
    pub fn transferred(&self) -> u64 {
        self.transferred.load(Ordering::Relaxed)
    }

    /// What the contact has said it has stored, counted from the file's beginning.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// How long the file is that has come, once all of it has and is what the contact sent.
    pub fn verified(&self) -> Option<u64> {
        self.verified.get().copied()
    }

    fn add(&self, bytes: usize) {
        self.transferred.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// What is known of the file.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) size: Option<u64>,
    pub(crate) hash: Option<ContentHash>,
    /// Our framing, rather than the bytes alone.
    pub(crate) framed: bool,
    /// Where in the file the bytes begin; where a framed one is received, at most that.
    pub(crate) offset: u64,
}

/// An end, or a failure that a test has planned.
pub(crate) type Ending = Result<FlowEnd, Failure>;

fn remote_error(text: impl Into<String>) -> FlowEnd {
    FlowEnd::RemoteError(Error::ConnectionLost(text.into()))
}

fn local_error(text: impl Into<String>) -> FlowEnd {
    FlowEnd::LocalError(Error::NotAvailable(text.into()))
}

fn broke(error: &io::Error) -> FlowEnd {
    tracing::debug!(%error, "a file's bytestream broke");
    remote_error("the connection to the contact is lost")
}

fn malformed(what: Malformed) -> FlowEnd {
    FlowEnd::RemoteError(Error::Confused(what.to_string()))
}

fn aborted(why: AbortReason) -> FlowEnd {
    match why {
        AbortReason::Stopped => {
            FlowEnd::RemoteStopped(Error::Cancelled("the contact stopped the transfer".into()))
        }
        AbortReason::Failed => remote_error("the transfer failed at the contact's side"),
    }
}

/// Without frames, a stream that ends in order half way is how a contact stops.
fn closed_half_way() -> FlowEnd {
    FlowEnd::RemoteStopped(Error::Cancelled(
        "the contact closed the transfer before its end".into(),
    ))
}
