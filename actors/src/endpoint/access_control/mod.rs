//! Who may use a local socket. Every rule is here and is applied to every accepted connection
//! before anything learns of it. Nothing of the stream is read from the socket meanwhile, so nothing
//! a client sends early is lost.
//!
//! | socket | rule | with `any_local_user` |
//! | --- | --- | --- |
//! | Unix, `Localhost` | directory 0700, file 0600, and the peer's uid (`SO_PEERCRED`) is ours | file permissions only |
//! | abstract Unix, `Localhost` | a name of 128 random bits, and the peer's uid is ours | any process that knows the name, which `/proc/net/unix` tells |
//! | Unix and abstract, `Credentials` | the same, and a byte comes first; if credentials are attached to it, their uid is ours | the same as without |
//! | loopback TCP, `Localhost` | the kernel says that the other end is a socket of our uid | any process of this machine |
//! | loopback TCP, `Port` | the same, and it has the address and port that were named | any process that has the address and port |
//!
//! # The other end of a TCP connection
//! The kernel is asked (`NETLINK_SOCK_DIAG`) for the socket with exactly the client's pair of
//! addresses. It passes when
//!
//! 1. it is open: established, or has merely shut its writing half down (`nc -N` sends its request
//!    and does that before we look), or `CLOSE_WAIT`;
//! 2. it has an inode: a process still holds it. A socket that was closed already has none and shows
//!    uid 0 on many kernels, which would pass for root's; nobody could be answered there anyway;
//! 3. its uid is ours;
//! 4. and then, asked *after* that, our own end is still connected (established or `CLOSE_WAIT`)
//!    and is the socket in our hand. Otherwise the client could have closed, its port been taken
//!    anew by another program, and that one's uid been taken for the client's.
//!
//! Everything else is refused, above all the kernel's silence. The uid is that of the process that
//! *made* the socket; who hands a socket of its own to a stranger hands over its rights.
//!
//! # What this does not do
//! It does not stop a browser, or any other program of the same user that a stranger steers. It
//! does not look at the *server* that [`dial`](super::dial) connects to: the user named that
//! address, and services of other users (root's ssh server) are what tubes are for; a user whose
//! service has ended may find another local user on its port, as with any TCP client.

mod sock_diag;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::{fs::fstat, net::sockopt::socket_peercred, process::geteuid};

pub(super) use sock_diag::SockDiag;
use sock_diag::{Found, TcpState};

use super::{EndpointConfig, LocalStream};
use crate::{model::AccessRule, runtime::Clock};

/// How long the kernel may take to say whose socket a client is; then the client is refused. It
/// answers within the very system call that asks, in microseconds, so this is for a kernel that
/// never will.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The rule of one listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// Only processes of this user; `None` is whoever reaches the socket.
    user: Option<u32>,
    /// Only from here; an unspecified address is any.
    from: Option<SocketAddr>,
    /// Only who says a byte first.
    byte: bool,
}

/// Why somebody is refused; for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it belongs to the user {0}")]
    Uid(u32),
    #[error("it has closed its socket already")]
    Gone,
    #[error("it comes from {0}, not from {1}")]
    Elsewhere(SocketAddr, SocketAddr),
    #[error("it did not say its byte")]
    Silent,
    #[error("its socket is in the state {0:?}")]
    State(TcpState),
    #[error("the kernel does not say whose it is: {0}")]
    Unknown(#[from] io::Error),
}

impl Refusal {
    /// Whether it came and went: it was refused because there is nobody left to look at.
    pub(super) fn has_vanished(&self) -> bool {
        match self {
            Refusal::Gone => true,
            Refusal::State(state) => matches!(state, TcpState::Other(_)),
            // Reset before its address could be asked for.
            Refusal::Unknown(error) => error.kind() == io::ErrorKind::NotConnected,
            Refusal::Uid(_) | Refusal::Elsewhere(..) | Refusal::Silent => false,
        }
    }
}

impl Admission {
    pub(super) fn new(rule: AccessRule, config: &EndpointConfig) -> Self {
        // What is relaxed is `Localhost`; `Credentials` means the user's own processes everywhere.
        let anybody = config.any_local_user && rule != AccessRule::Credentials;
        Admission {
            user: (!anybody).then(|| geteuid().as_raw()),
            from: match rule {
                AccessRule::Port(from) => Some(from),
                AccessRule::Localhost | AccessRule::Credentials => None,
            },
            byte: rule == AccessRule::Credentials,
        }
    }

    /// Whether TCP connections need [`SockDiag`].
    pub(super) fn asks_the_kernel(self) -> bool {
        self.user.is_some()
    }

    /// Whether a client that may come in says a byte first.
    pub(super) fn wants_a_byte(self) -> bool {
        self.byte
    }

    /// Whether the byte counts; `writer` is the uid attached to it.
    pub(super) fn check_writer(self, writer: Option<u32>) -> Result<(), Refusal> {
        match (self.user, writer) {
            (Some(user), Some(writer)) => is_ours(writer, user),
            // Who connected was looked at before.
            (_, None) | (None, _) => Ok(()),
        }
    }

    /// Whether this connection may come in.
    pub(super) async fn check(
        self,
        stream: Checked,
        kernel: Option<&mut SockDiag>,
        clock: &dyn Clock,
    ) -> Result<(), Refusal> {
        let stream = match (stream, self.from) {
            (Checked::Tcp(ends), Some(from)) => {
                let ends = ends?;
                judge_address(ends.peer, from)?;
                Checked::Tcp(Ok(ends))
            }
            (stream, _) => stream,
        };
        let Some(uid) = self.user else {
            return Ok(());
        };
        match (stream, kernel) {
            (Checked::Unix { uid: peer }, _) => is_ours(peer?, uid),
            (Checked::Tcp(_), None) => Err(Refusal::Unknown(io::ErrorKind::Unsupported.into())),
            (Checked::Tcp(ends), Some(kernel)) => {
                let ends = ends?;
                let client = kernel.find(ends.peer, ends.own, clock).await?;
                judge_client(client, uid)?;
                let own = kernel.find(ends.own, ends.peer, clock).await?;
                judge_own_end(own, ends.inode)
            }
        }
    }
}

/// What of a connection is looked at; taken out of it so that the connection itself stays where a
/// failing listener cannot take it along.
#[derive(Debug)]
pub(super) enum Checked {
    Unix { uid: io::Result<u32> },
    Tcp(io::Result<Ends>),
}

#[derive(Debug)]
pub(super) struct Ends {
    own: SocketAddr,
    peer: SocketAddr,
    inode: u32,
}

impl Checked {
    pub(super) fn of(stream: &LocalStream) -> Self {
        match stream.tcp_ends() {
            None => Checked::Unix {
                uid: peer_uid(stream.as_fd()),
            },
            Some(ends) => Checked::Tcp(ends.and_then(|(own, peer)| {
                Ok(Ends {
                    own,
                    peer,
                    inode: short_inode(fstat(stream)?.st_ino),
                })
            })),
        }
    }
}

/// The uid of the process at the other end of a Unix socket, as it was when it connected, or began
/// to listen.
pub(super) fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(socket_peercred(socket)?.uid.as_raw())
}

/// Netlink has 32 bits for an inode, and so have the kernel's sockets.
fn short_inode(inode: u64) -> u32 {
    (inode & u64::from(u32::MAX)) as u32
}

fn judge_address(peer: SocketAddr, wanted: SocketAddr) -> Result<(), Refusal> {
    let any = wanted.ip().is_unspecified();
    if peer.port() == wanted.port() && (any || peer.ip() == wanted.ip()) {
        Ok(())
    } else {
        Err(Refusal::Elsewhere(peer, wanted))
    }
}

fn is_ours(uid: u32, ours: u32) -> Result<(), Refusal> {
    if uid == ours {
        Ok(())
    } else {
        Err(Refusal::Uid(uid))
    }
}

fn judge_client(client: Option<Found>, ours: u32) -> Result<(), Refusal> {
    let client = client.ok_or(Refusal::Gone)?;
    match client.state {
        TcpState::Established | TcpState::FinWait | TcpState::CloseWait => {}
        TcpState::Other(_) => return Err(Refusal::State(client.state)),
    }
    if client.inode == 0 {
        return Err(Refusal::Gone);
    }
    is_ours(client.uid, ours)
}

fn judge_own_end(own: Option<Found>, inode: u32) -> Result<(), Refusal> {
    match own {
        Some(own) if own.inode == inode => match own.state {
            TcpState::Established | TcpState::CloseWait => Ok(()),
            state => Err(Refusal::State(state)),
        },
        _ => Err(Refusal::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(state: TcpState, uid: u32, inode: u32) -> Option<Found> {
        Some(Found { state, uid, inode })
    }

    #[test]
    fn an_open_socket_of_ours_passes_in_every_state_a_live_client_can_be_in() {
        for state in [
            TcpState::Established,
            TcpState::FinWait,
            TcpState::CloseWait,
        ] {
            assert!(
                judge_client(found(state, 1000, 7), 1000).is_ok(),
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_socket_that_nobody_holds_is_refused_even_when_its_uid_looks_right() {
        // What a closed socket shows: no inode, and uid 0 on many kernels. We may be root.
        for state in [
            TcpState::Established,
            TcpState::FinWait,
            TcpState::CloseWait,
        ] {
            assert!(matches!(
                judge_client(found(state, 0, 0), 0),
                Err(Refusal::Gone)
            ));
        }
        assert!(matches!(judge_client(None, 0), Err(Refusal::Gone)));
    }

    #[test]
    fn another_users_socket_is_refused_root_included() {
        for uid in [0, 999, 1001, u32::MAX] {
            assert!(matches!(
                judge_client(found(TcpState::Established, uid, 7), 1000),
                Err(Refusal::Uid(refused)) if refused == uid
            ));
        }
    }

    #[test]
    fn a_socket_that_only_begins_or_listens_is_not_the_client() {
        for code in [2, 3, 6, 7, 9, 10, 11, 12, 255] {
            assert!(matches!(
                judge_client(found(TcpState::Other(code), 1000, 7), 1000),
                Err(Refusal::State(_))
            ));
        }
    }

    #[test]
    fn an_address_is_compared_whole_and_an_unspecified_one_by_its_port() {
        for (peer, wanted, in_place) in [
            ("127.0.0.1:4000", "127.0.0.1:4000", true),
            ("127.0.0.1:4001", "127.0.0.1:4000", false),
            ("127.0.0.2:4000", "127.0.0.1:4000", false),
            ("127.0.0.2:4000", "0.0.0.0:4000", true),
            ("127.0.0.2:4001", "0.0.0.0:4000", false),
            ("[::1]:4000", "[::1]:4000", true),
            ("[::1]:4000", "[::]:4000", true),
            ("[::1]:4001", "[::]:4000", false),
            ("[::2]:4000", "[::1]:4000", false),
        ] {
            let verdict = judge_address(peer.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(verdict.is_ok(), in_place, "{peer} where {wanted} is wanted");
        }
    }

    #[test]
    fn who_wrote_the_byte_counts_if_it_is_said_and_any_local_user_changes_nothing() {
        let config = EndpointConfig {
            socket_directory: "/nowhere".into(),
            any_local_user: true,
        };
        let admission = Admission::new(AccessRule::Credentials, &config);
        let ours = geteuid().as_raw();
        assert!(admission.wants_a_byte() && admission.asks_the_kernel());
        assert!(admission.check_writer(Some(ours)).is_ok());
        assert!(admission.check_writer(None).is_ok());
        for uid in [ours ^ 1, 65534] {
            assert!(matches!(
                admission.check_writer(Some(uid)),
                Err(Refusal::Uid(refused)) if refused == uid
            ));
        }
    }

    #[test]
    fn our_own_end_must_be_the_socket_in_hand_and_still_connected() {
        assert!(judge_own_end(found(TcpState::Established, 1000, 7), 7).is_ok());
        assert!(judge_own_end(found(TcpState::CloseWait, 1000, 7), 7).is_ok());
        assert!(judge_own_end(found(TcpState::Established, 1000, 8), 7).is_err());
        assert!(judge_own_end(found(TcpState::FinWait, 1000, 7), 7).is_err());
        assert!(judge_own_end(found(TcpState::Other(7), 1000, 7), 7).is_err());
        assert!(judge_own_end(None, 7).is_err());
    }
}
