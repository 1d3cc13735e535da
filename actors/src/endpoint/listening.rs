//! A bound, listening socket. It belongs to whoever supervises the channel, not to the actor that
//! accepts from it: a restarted listener goes on with the same descriptor, the address stays, and
//! no client that waits in the kernel's queue is lost. A connection that has been accepted but not
//! yet handed over is kept here too, for the same reason, and so are those who have not said their
//! byte yet.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use async_io::Async;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, chmod, unlink},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind, getsockname,
        ipproto, listen, socket_with,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};

use super::{
    Accepted, EndpointConfig, LocalStream, Slot,
    access_control::{Admission, Refusal, SockDiag},
    check_combination, check_target, credentials, directory,
    lobby::Lobby,
    socket_error,
};
use crate::{
    model::{AccessControl, AccessRule, AddressType, BytestreamId, Error, SocketAddress},
    runtime::{BoxFuture, Time},
};

/// Most clients that may wait in the kernel's queue. Beyond it a Unix client's `connect` blocks
/// (or says `EAGAIN`), and a TCP client's is tried again by its own kernel. The kernel may have a
/// lower limit of its own (`net.core.somaxconn`).
pub const BACKLOG: i32 = 1024;

/// How often a socket may say in a row that a client waits when none does. A client that gave up in
/// between is a reason for one.
const FALSE_ALARMS: usize = 16;

/// A bound socket; see the module's head. Dropping it closes the socket, which refuses the clients
/// that still wait, and removes its file.
#[derive(Debug)]
pub struct Listening {
    descriptor: Async<OwnedFd>,
    address: SocketAddress,
    admission: Admission,
    in_hand: Mutex<InHand>,
    lobby: Mutex<Lobby>,
    served: AtomicBool,
    refused: AtomicU64,
    // Last, so that the descriptor is closed first: nobody connects to a file that is going.
    _file: Option<SocketFile>,
}

/// The one connection that is on its way from the kernel's queue to the tube.
#[derive(Default)]
pub(super) enum InHand {
    #[default]
    Nothing,
    /// Accepted; who it is has not been established.
    Accepted(Accepted),
    /// Let in, and nobody has begun to hand it over.
    Admitted(Accepted),
    /// This owns it until the tube has it.
    Delivering(BoxFuture<'static, bool>),
}

impl std::fmt::Debug for InHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            InHand::Nothing => "Nothing",
            InHand::Accepted(_) => "Accepted",
            InHand::Admitted(_) => "Admitted",
            InHand::Delivering(_) => "Delivering",
        })
    }
}

/// The name of a Unix socket in the file system, removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = unlink(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a socket's file");
        }
    }
}

impl Listening {
    /// Binds a socket of this kind and listens, at an address nobody can guess (Unix, abstract or not)
    /// or that the kernel chooses (IP). Makes a few system calls and never waits for anybody.
    ///
    /// # Errors
    /// `NotImplemented` for an access control that such sockets do not have, `InvalidArgument` for one
    /// that nobody could pass, `PermissionDenied` when the directory for sockets is not private,
    /// `ResourceUnavailable` without descriptors, `NotAvailable` otherwise.
    pub fn bind(
        kind: AddressType,
        rule: AccessRule,
        config: &EndpointConfig,
    ) -> Result<Listening, Error> {
        check_combination(kind, rule.control())?;
        if let AccessRule::Port(from) = rule {
            check_from(kind, from)?;
        }
        let (descriptor, address, file) = match kind {
            AddressType::Unix => {
                let (descriptor, file) = bind_unix(&config.socket_directory)?;
                (descriptor, SocketAddress::Unix(file.0.clone()), Some(file))
            }
            AddressType::Ipv4 | AddressType::Ipv6 => {
                let (descriptor, address) = bind_loopback(kind).map_err(|error| {
                    socket_error("cannot listen on the loopback address", &error)
                })?;
                (descriptor, address, None)
            }
            AddressType::AbstractUnix => {
                let (descriptor, name) = bind_random_name()?;
                (descriptor, SocketAddress::AbstractUnix(name), None)
            }
        };
        Listening::of(descriptor, address, file, rule, config)
    }

    /// Binds at an address that the user chose, with `Localhost`: a path, which must be absolute, an
    /// abstract name, or a port of the loopback interface (0: the kernel chooses). The same people are
    /// let in as everywhere: a Unix socket has mode 0600 wherever it lies. The file of a socket that
    /// nobody listens on any more is replaced.
    ///
    /// # Errors
    /// `InvalidArgument` for a path no socket can have, `PermissionDenied` for an address others
    /// than this machine reach and where the file system says so, `NotAvailable` when the address
    /// is taken, and as [`Listening::bind`].
    pub fn bind_at(address: &SocketAddress, config: &EndpointConfig) -> Result<Listening, Error> {
        let taken = |error: io::Error| socket_error(&format!("cannot listen on {address}"), &error);
        let (descriptor, bound, file) = match address {
            SocketAddress::Unix(path) => {
                check_target(address, AccessControl::Localhost)?;
                let (descriptor, file) = bind_path(path).map_err(taken)?;
                (descriptor, address.clone(), Some(file))
            }
            SocketAddress::Ipv4(ip) if ip.ip().is_loopback() => {
                let (descriptor, bound) = bind_ip(SocketAddr::V4(*ip)).map_err(taken)?;
                (descriptor, bound, None)
            }
            SocketAddress::Ipv6(ip) if ip.ip().is_loopback() => {
                let (descriptor, bound) = bind_ip(SocketAddr::V6(*ip)).map_err(taken)?;
                (descriptor, bound, None)
            }
            SocketAddress::Ipv4(_) | SocketAddress::Ipv6(_) => {
                return Err(Error::PermissionDenied(format!(
                    "{address} is not an address of this machine alone; everybody on the network would get in"
                )));
            }
            SocketAddress::AbstractUnix(name) => {
                check_target(address, AccessControl::Localhost)?;
                let descriptor = bind_name(name).map_err(taken)?;
                (descriptor, address.clone(), None)
            }
        };
        Listening::of(descriptor, bound, file, AccessRule::Localhost, config)
    }

    fn of(
        descriptor: OwnedFd,
        address: SocketAddress,
        file: Option<SocketFile>,
        rule: AccessRule,
        config: &EndpointConfig,
    ) -> Result<Listening, Error> {
        let admission = Admission::new(rule, config);
        if admission.wants_a_byte() {
            // Those accepted from it inherit this.
            credentials::ask_for_credentials(&descriptor)
                .map_err(|error| socket_error("the kernel does not tell who says what", &error))?;
        }
        if let Some(ip) = ip_of(&address)
            && admission.asks_the_kernel()
        {
            // Learns now rather than at the first client whether the kernel can tell who connects.
            SockDiag::open()
                .and_then(|mut kernel| kernel.probe(ip))
                .map_err(|error| {
                    socket_error(
                        "the kernel does not tell who connects, so nobody could",
                        &error,
                    )
                })?;
        }
        Ok(Listening {
            descriptor: Async::new_nonblocking(descriptor)
                .map_err(|error| socket_error("cannot watch the new socket", &error))?,
            address,
            admission,
            in_hand: Mutex::default(),
            lobby: Mutex::default(),
            served: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            _file: file,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &SocketAddress {
        &self.address
    }

    /// How many connections the access control has refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Counts a refusal. Says whether it is worth a line in the log: one who knocks ten thousand
    /// times gets fourteen lines.
    pub(super) fn count_refusal(&self) -> bool {
        (self.refused.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two()
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The descriptor, for tests that break it.
    #[cfg(test)]
    pub(super) fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// The right to accept from it: one listener at a time.
    pub(super) fn serve(&self) -> Option<Serving<'_>> {
        // Made only when it is given out: dropping one gives the right back.
        (!self.served.swap(true, Ordering::AcqRel)).then(|| Serving(self))
    }
}

/// The one listener that accepts; see [`Listening::serve`].
#[derive(Debug)]
pub(super) struct Serving<'a>(&'a Listening);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.served.store(false, Ordering::Release);
    }
}

impl Serving<'_> {
    /// Waits for a client and takes it in hand. Cancel-safe: nothing is waited for after `accept`.
    ///
    /// # Errors
    /// What `accept` says; `EAGAIN` when the socket says again and again that somebody waits, and
    /// nobody does: so does a Unix socket that was shut down, and it must not keep us busy.
    pub(super) async fn accept(&self, slot: Slot) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..FALSE_ALARMS {
            match acceptfrom_with(&self.0.descriptor, flags) {
                Ok((socket, _)) => {
                    let kind = self.0.address.address_type();
                    let stream = LocalStream::from_connected(kind, socket)?;
                    *self.in_hand() = InHand::Accepted(Accepted { stream, slot });
                    return Ok(());
                }
                Err(Errno::AGAIN) => self.0.descriptor.readable().await?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// Waits until somebody waits in the kernel's queue, without accepting.
    pub(super) async fn somebody_waits(&self) {
        let mut queue = [PollFd::new(&self.0.descriptor, PollFlags::IN)];
        // The kernel's answer of now; what it says to the reactor may be on its way.
        if poll(&mut queue, Some(&Timespec::default())) == Ok(0)
            && self.0.descriptor.readable().await.is_err()
        {
            // Accepting says why.
            std::future::pending().await
        }
    }

    /// Those who have been accepted and let in, and have not said their byte.
    pub(super) fn lobby(&self) -> std::sync::MutexGuard<'_, Lobby> {
        // A guest leaves it in one call, so a panic elsewhere leaves nothing half done.
        self.0.lobby.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the connection in hand, which may come in, wait for its byte.
    pub(super) fn send_to_lobby(&self, now: Time) {
        if let InHand::Accepted(accepted) = self.take_in_hand() {
            self.lobby().enter(accepted, now);
        }
    }

    /// Waits until one in the lobby has said something. It is in hand then, or, with the reason,
    /// refused.
    pub(super) fn poll_word(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), (Accepted, Refusal)>> {
        let admission = self.0.admission();
        self.lobby()
            .poll_word(admission, context)
            .map(|(accepted, verdict)| match verdict {
                Ok(()) => {
                    *self.in_hand() = InHand::Admitted(accepted);
                    Ok(())
                }
                Err(why) => Err((accepted, why)),
            })
    }

    /// The connection that was accepted and not yet handed over, perhaps by a predecessor.
    pub(super) fn in_hand(&self) -> std::sync::MutexGuard<'_, InHand> {
        // Every change is one assignment, so a panic elsewhere leaves nothing half done.
        self.0
            .in_hand
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, taken out.
    pub(super) fn take_in_hand(&self) -> InHand {
        std::mem::take(&mut *self.in_hand())
    }

    /// Goes on with a delivery. It lies here whenever it waits, so that whoever drops the listener
    /// does not drop the connection; a delivery that panics is not kept.
    pub(super) fn poll_delivery(&self, context: &mut Context<'_>) -> Poll<bool> {
        let InHand::Delivering(mut delivery) = self.take_in_hand() else {
            return Poll::Ready(true);
        };
        let delivered = delivery.as_mut().poll(context);
        if delivered.is_pending() {
            *self.in_hand() = InHand::Delivering(delivery);
        }
        delivered
    }
}

fn ip_of(address: &SocketAddress) -> Option<SocketAddr> {
    match address {
        SocketAddress::Ipv4(ip) => Some(SocketAddr::V4(*ip)),
        SocketAddress::Ipv6(ip) => Some(SocketAddr::V6(*ip)),
        SocketAddress::Unix(_) | SocketAddress::AbstractUnix(_) => None,
    }
}

/// Whether a socket of this kind can be had on this machine at all. A shortage of descriptors will
/// pass and is no reason to say no.
pub(super) fn is_possible(kind: AddressType) -> bool {
    match kind {
        AddressType::Unix | AddressType::AbstractUnix => true,
        AddressType::Ipv4 | AddressType::Ipv6 => match try_loopback(kind) {
            Ok(()) => true,
            Err(error) => matches!(
                Errno::from_io_error(&error),
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
            ),
        },
    }
}

fn try_loopback(kind: AddressType) -> io::Result<()> {
    let (_descriptor, address) = bind_loopback(kind)?;
    match ip_of(&address) {
        Some(ip) => SockDiag::open()?.probe(ip),
        None => Ok(()),
    }
}

fn new_socket(
    family: AddressFamily,
    protocol: Option<rustix::net::Protocol>,
) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, protocol)?)
}

/// Whether anybody can have the address that a client must have.
fn check_from(kind: AddressType, from: SocketAddr) -> Result<(), Error> {
    if from.port() == 0 {
        return Err(Error::InvalidArgument(
            "no program connects from the port 0; name the port that yours is bound to".into(),
        ));
    }
    if from.is_ipv4() != (kind == AddressType::Ipv4) {
        return Err(Error::InvalidArgument(format!(
            "nobody at {from} can connect to a socket of the other IP version"
        )));
    }
    Ok(())
}

fn bind_loopback(kind: AddressType) -> io::Result<(OwnedFd, SocketAddress)> {
    bind_ip(if kind == AddressType::Ipv4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into()
    } else {
        SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0).into()
    })
}

fn bind_ip(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddress)> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let descriptor = new_socket(family, Some(ipproto::TCP))?;
    if address.is_ipv6() {
        // Never a second way in for IPv4, whatever the machine's default is.
        set_ipv6_v6only(&descriptor, true)?;
    }
    // A port that was in use a minute ago may be taken again; one in use now may not. Not while the kernel
    // chooses: it could choose what another socket has, and does not listen at yet.
    let chosen = address.port() != 0;
    if chosen {
        set_socket_reuseaddr(&descriptor, true)?;
    }
    bind(&descriptor, &address)?;
    listen(&descriptor, BACKLOG)?;
    if !chosen {
        // Those accepted from it inherit this, too: what is left of them keeps the port from nobody who
        // binds it by its number, as we do after a restart.
        set_socket_reuseaddr(&descriptor, true)?;
    }
    let address = match SocketAddr::try_from(getsockname(&descriptor)?)? {
        SocketAddr::V4(address) => SocketAddress::Ipv4(address),
        SocketAddr::V6(address) => SocketAddress::Ipv6(address),
    };
    Ok((descriptor, address))
}

/// An abstract Unix socket whose name nobody can guess.
fn bind_random_name() -> Result<(OwnedFd, Vec<u8>), Error> {
    let fails = |error: io::Error| socket_error("cannot make an abstract Unix socket", &error);
    let random = BytestreamId::random().map_err(fails)?;
    let name = format!("pneuma-{random}").into_bytes();
    Ok((bind_name(&name).map_err(fails)?, name))
}

fn bind_name(name: &[u8]) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new_abstract_name(name)?;
    let descriptor = new_socket(AddressFamily::UNIX, None)?;
    bind(&descriptor, &address)?;
    listen(&descriptor, BACKLOG)?;
    Ok(descriptor)
}

/// A Unix socket at a path of the user's choice.
fn bind_path(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let address = SocketAddrUnix::new(path.as_os_str().as_bytes())?;
    let descriptor = new_socket(AddressFamily::UNIX, None)?;
    match bind(&descriptor, &address) {
        Err(Errno::ADDRINUSE) if is_dead(path, &address)? => {
            unlink(path)?;
            bind(&descriptor, &address)?;
        }
        outcome => outcome?,
    }
    // From here on the file is there and must go if anything fails. Until the chmod others may
    // connect where the folder lets them; the check of every client's user turns them away.
    let file = SocketFile(path.to_owned());
    chmod(&file.0, Mode::RUSR | Mode::WUSR)?;
    listen(&descriptor, BACKLOG)?;
    Ok((descriptor, file))
}

/// Whether a path is that of a socket that nobody has any more. Whoever has it does not notice: no
/// connection is made to it, because the kernel refuses a probe of another type as soon as it finds
/// the socket (`EPROTOTYPE`), and for another reason when there is none behind the file.
fn is_dead(path: &Path, address: &SocketAddrUnix) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt as _;
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    Ok(matches!(
        rustix::net::connect(&probe, address),
        Err(Errno::CONNREFUSED)
    ))
}

/// So many names of a directory are looked at by one [`sweep`].
const SWEPT: usize = 4096;
/// A file younger than this may have no socket behind it *yet*: the kernel makes the one shortly
/// before the other, perhaps for another service of this user.
const YOUNG: Duration = Duration::from_secs(2);

/// Removes the sockets in `directory` that a service left there when it was killed. Takes only what
/// looks like ours, is a socket, is older than two seconds by `now`, and has nobody behind it; whoever
/// has one does not notice. Follows no links: a directory that is one, or not this user's alone, is
/// left as it is. Makes several system calls for each; gives how many it removed.
///
/// # Errors
/// What the system says of the directory; one that is not there has nothing to sweep.
pub fn sweep(directory: &Path, now: SystemTime) -> Result<usize, Error> {
    let Some(opened) = directory::existing(directory)? else {
        return Ok(0);
    };
    // Through the descriptor, so that the directory stays the one that was looked at.
    let through = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let fails = |error: io::Error| socket_error("the directory for sockets cannot be read", &error);
    let mut removed = 0;
    for entry in std::fs::read_dir(through).map_err(fails)?.take(SWEPT) {
        let entry = entry.map_err(fails)?;
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.parse::<BytestreamId>().is_ok());
        // One that goes while we look is somebody else's to remove.
        if ours && is_left_over(&entry.path(), now).unwrap_or(false) && unlink(entry.path()).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_left_over(path: &Path, now: SystemTime) -> io::Result<bool> {
    let made = std::fs::symlink_metadata(path)?.modified()?;
    let address = SocketAddrUnix::new(path.as_os_str().as_bytes())?;
    Ok(now.duration_since(made).is_ok_and(|age| age >= YOUNG) && is_dead(path, &address)?)
}

fn bind_unix(directory: &Path) -> Result<(OwnedFd, SocketFile), Error> {
    directory::ensure_private(directory)?;
    let fails = |error: io::Error| socket_error("cannot make a Unix socket", &error);
    let name = BytestreamId::random().map_err(fails)?.to_string();
    let path = directory.join(name);
    let address = SocketAddrUnix::new(path.as_os_str().as_bytes()).map_err(|_| {
        Error::NotAvailable(format!(
            "the directory for Unix sockets has too long a name: {}",
            directory.display()
        ))
    })?;
    let descriptor = new_socket(AddressFamily::UNIX, None).map_err(fails)?;
    bind(&descriptor, &address).map_err(|error| fails(error.into()))?;
    // From here on the file is there and must go if anything fails.
    let file = SocketFile(path);
    chmod(&file.0, Mode::RUSR | Mode::WUSR).map_err(|error| fails(error.into()))?;
    listen(descriptor.as_fd(), BACKLOG).map_err(|error| fails(error.into()))?;
    Ok((descriptor, file))
}
