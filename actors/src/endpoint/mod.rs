//! The local socket side of a tube or transfer: listens or dials, and applies the access control.
//!
//! ```text
//!   tube that accepts                              tube that offers
//!        │ bind                                         │ dial
//!        ▼                                              ▼
//!   Listening ── lives with the channel            LocalStream ──► relay
//!        │        supervisor, outlives
//!        │        its listener
//!   listen(…) ── reserve a slot ─► accept ─► admit ─► Accepted {stream, slot} ──► tube
//! ```
//!
//! Who may come in is decided in one place, [`access_control`]. Sockets carry bytes straight into
//! the relay; nothing here reads or writes one, but for the byte of `Credentials`, which is none of the
//! stream's.
//!
//! # What is bounded
//! Connections by [`Slots`] (the next client waits in the kernel's queue until one is free), that
//! queue by [`BACKLOG`], a dial by [`DIAL_WITHIN`], the kernel's answer about a client by
//! [`access_control::ANSWER_WITHIN`], clients that have a byte to say by [`MOST_SILENT`], and each of
//! them by [`FIRST_WORD_WITHIN`].

use std::path::PathBuf;

use crate::model::{AccessControl, AddressType, Error};

pub mod access_control;
mod credentials;
mod dialer;
mod directory;
mod listener;
mod listening;
mod lobby;
mod slots;
mod stream;

pub(crate) use dialer::dial_until;
pub use dialer::{DIAL_WITHIN, Dialled, Introduction, check_target, dial};
pub use directory::{ensure_private, is_there_and_private};
pub(crate) use listener::listen_until;
pub use listener::{Accepted, listen};
pub use listening::{BACKLOG, Listening, sweep};
pub use lobby::{FIRST_WORD_WITHIN, MOST_SILENT, PATIENCE};
pub use slots::{Slot, Slots};
pub use stream::LocalStream;

/// A socket that waits in a channel supervisor's hands until it is decided what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// How this service treats local sockets; the same for all channels of one Connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// Where Unix sockets are put: a directory of this user's alone, under `$XDG_RUNTIME_DIR`. It
    /// is made (mode 0700) when the first socket is bound, and checked every time.
    pub socket_directory: PathBuf,
    /// Takes the specification's word for `Localhost`, *any* user of this machine, on loopback TCP
    /// and abstract Unix sockets too; and leaves `Port` to the port alone. Unix sockets stay closed to
    /// others by their file permissions.
    pub any_local_user: bool,
}

/// The sockets this endpoint can really listen on and dial, as `SupportedSocketTypes` and
/// `AvailableSocketTypes` list them. IP sockets are left out where the machine has no such
/// loopback address, and where the kernel does not say who connects: a socket nobody could use
/// would be no offer.
pub fn supported_sockets() -> Vec<(AddressType, Vec<AccessControl>)> {
    [
        AddressType::Unix,
        AddressType::AbstractUnix,
        AddressType::Ipv4,
        AddressType::Ipv6,
    ]
    .into_iter()
    .filter(|kind| listening::is_possible(*kind))
    .map(|kind| (kind, access_controls(kind).to_vec()))
    .collect()
}

/// What a socket of this kind can demand, and a service behind one.
fn access_controls(kind: AddressType) -> &'static [AccessControl] {
    match kind {
        AddressType::Unix | AddressType::AbstractUnix => {
            &[AccessControl::Localhost, AccessControl::Credentials]
        }
        AddressType::Ipv4 | AddressType::Ipv6 => &[AccessControl::Localhost, AccessControl::Port],
    }
}

fn check_combination(kind: AddressType, access: AccessControl) -> Result<(), Error> {
    if access_controls(kind).contains(&access) {
        return Ok(());
    }
    Err(Error::NotImplemented(format!(
        "{kind:?} sockets have no access control {access:?}; use Localhost"
    )))
}

/// What a system call that makes a socket says, as an error of ours.
fn socket_error(doing: &str, error: &std::io::Error) -> Error {
    use rustix::io::Errno;
    let text = format!("{doing}: {error}");
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC) => {
            Error::ResourceUnavailable(text)
        }
        Some(Errno::ACCESS | Errno::PERM) => Error::PermissionDenied(text),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL | Errno::PROTONOSUPPORT) => {
            Error::NotImplemented(text)
        }
        _ => Error::NotAvailable(text),
    }
}

#[cfg(test)]
mod tests;
