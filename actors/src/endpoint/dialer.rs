//! Connects to the service behind an offered tube.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    time::Duration,
};

use async_io::Async;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::geteuid,
};

use super::{
    EndpointConfig, LocalStream, access_control::peer_uid, check_combination, credentials,
};
use crate::{
    model::{AccessControl, AddressType, Error, SocketAddress},
    runtime::{Clock, Failure, FaultPoint, Faults, within},
};

/// How long a service may take to accept a connection. It is on this machine or near it.
pub const DIAL_WITHIN: Duration = Duration::from_secs(10);
/// How long a Unix service whose queue is full is left alone before the next attempt: a
/// non-blocking `connect` cannot be waited for there.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// A connection to a local service.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: LocalStream,
    /// The address we dialled from; IP sockets have one. `NewRemoteConnection` carries it for
    /// `Port`.
    pub from: Option<SocketAddress>,
}

/// How we introduce ourselves to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Introduction {
    /// Not at all: it looks at our address or at nothing (`Port`, `Localhost`).
    None,
    /// With this byte, our credentials attached (`Credentials`); it is no part of the stream. Only
    /// Unix sockets have that, and only a service of our own user is told.
    Byte(u8),
}

impl Introduction {
    fn access(self) -> AccessControl {
        match self {
            Introduction::None => AccessControl::Localhost,
            Introduction::Byte(_) => AccessControl::Credentials,
        }
    }
}

/// Whether an address could be dialled at all: for `StreamTube.Offer`, which is answered before
/// anybody dials. Looks at the address only, not at what is there.
///
/// # Errors
/// `InvalidArgument` for an address no service can have, `NotImplemented` for an access control that
/// sockets of this kind do not have.
pub fn check_target(address: &SocketAddress, access: AccessControl) -> Result<(), Error> {
    check_combination(address.address_type(), access)?;
    match address {
        SocketAddress::Unix(path) => unix_address(path).map(drop),
        SocketAddress::AbstractUnix(name) => abstract_address(name).map(drop),
        SocketAddress::Ipv4(address) => check_port(address.port()),
        SocketAddress::Ipv6(address) => check_port(address.port()),
    }
}

fn check_port(port: u16) -> Result<(), Error> {
    if port == 0 {
        return Err(Error::InvalidArgument("no service has the port 0".into()));
    }
    Ok(())
}

fn unix_address(path: &Path) -> Result<SocketAddrUnix, Error> {
    let bytes = path.as_os_str().as_bytes();
    // An empty name would bind an abstract one; a relative one would depend on where we run.
    if !path.is_absolute() {
        return Err(Error::InvalidArgument(format!(
            "the path of a Unix socket must be absolute: {}",
            path.display()
        )));
    }
    SocketAddrUnix::new(bytes).map_err(|error| {
        Error::InvalidArgument(if error == Errno::NAMETOOLONG {
            format!(
                "the path of a Unix socket may have 108 bytes, this one has {}: {}",
                bytes.len(),
                path.display()
            )
        } else {
            format!(
                "no Unix socket can have this path: {}",
                bytes.escape_ascii()
            )
        })
    })
}

fn abstract_address(name: &[u8]) -> Result<SocketAddrUnix, Error> {
    // An empty name would have the kernel choose one.
    if name.is_empty() {
        return Err(Error::InvalidArgument(
            "an abstract Unix socket has a name".into(),
        ));
    }
    SocketAddrUnix::new_abstract_name(name).map_err(|_| {
        Error::InvalidArgument(format!(
            "the name of an abstract Unix socket may have 107 bytes, this one has {}: {}",
            name.len(),
            name.escape_ascii()
        ))
    })
}

/// Connects to a service. Dropping the future gives the attempt up and leaves nothing behind.
///
/// # Errors
/// As [`check_target`]; `ConnectionRefused` when nothing listens there, `NetworkError` when there is
/// no way there, `ConnectionFailed` when it does not answer within [`DIAL_WITHIN`] or breaks off,
/// `PermissionDenied` when a Unix socket is not ours to use, or is another user's and we are to
/// introduce ourselves, `ResourceUnavailable` without descriptors.
pub async fn dial(
    address: &SocketAddress,
    introduction: Introduction,
    _config: &EndpointConfig,
    clock: &dyn Clock,
) -> Result<Dialled, Error> {
    dial_until(address, introduction, clock, &Faults::default()).await
}

/// The same, until a test kills it.
pub(crate) async fn dial_until(
    address: &SocketAddress,
    introduction: Introduction,
    clock: &dyn Clock,
    faults: &Faults,
) -> Result<Dialled, Error> {
    check_target(address, introduction.access())?;
    let dying = |failure: Failure| Error::ConnectionFailed(failure.to_string());
    let attempt = async {
        let dialled = match address {
            SocketAddress::Ipv4(ip) => dial_tcp(SocketAddr::V4(*ip)).await,
            SocketAddress::Ipv6(ip) => dial_tcp(SocketAddr::V6(*ip)).await,
            SocketAddress::Unix(path) => dial_unix(&unix_address(path)?, clock).await,
            SocketAddress::AbstractUnix(name) => dial_unix(&abstract_address(name)?, clock).await,
        };
        let dialled = dialled.map_err(|error| explain(address, &error))?;
        if let (Introduction::Byte(byte), LocalStream::Unix(service)) =
            (introduction, &dialled.stream)
        {
            check_service(address, service.as_fd())?;
            let saying = credentials::say(service, byte);
            let said = faults.survive(FaultPoint::DiallerSaying, saying).await;
            said.map_err(dying)?
                .map_err(|error| explain(address, &error))?;
        }
        Ok(dialled)
    };
    let attempt = within(clock, DIAL_WITHIN, attempt);
    let attempt = faults.survive(FaultPoint::DiallerConnecting, attempt).await;
    let dialled = attempt.map_err(dying)?.unwrap_or_else(|| {
        Err(Error::ConnectionFailed(format!(
            "{address} did not answer within {} seconds",
            DIAL_WITHIN.as_secs()
        )))
    })?;
    faults.hit(FaultPoint::DiallerConnected).map_err(dying)?;
    Ok(dialled)
}

async fn dial_tcp(address: SocketAddr) -> io::Result<Dialled> {
    let stream = Async::<TcpStream>::connect(address).await?;
    let socket = stream.get_ref();
    let own = socket.local_addr()?;
    if own == socket.peer_addr()? {
        // Nobody listened, and the kernel happened to give us the very port we dialled: a TCP
        // socket can connect to itself.
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    socket.set_nodelay(true)?;
    Ok(Dialled {
        stream: LocalStream::Tcp(stream),
        from: Some(match own {
            SocketAddr::V4(own) => SocketAddress::Ipv4(own),
            SocketAddr::V6(own) => SocketAddress::Ipv6(own),
        }),
    })
}

async fn dial_unix(address: &SocketAddrUnix, clock: &dyn Clock) -> io::Result<Dialled> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, address) {
            Ok(()) => break,
            Err(Errno::AGAIN) => clock.sleep(BUSY_PAUSE).await,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Dialled {
        stream: LocalStream::from_connected(AddressType::Unix, socket)?,
        from: None,
    })
}

/// `Credentials` means that only one user deals with a tube, so the service must be ours too. That
/// also keeps somebody else out who took the service's abstract name once it had ended.
fn check_service(address: &SocketAddress, service: BorrowedFd<'_>) -> Result<(), Error> {
    let uid = peer_uid(service).map_err(|error| explain(address, &error))?;
    if uid == geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::PermissionDenied(format!(
        "{address} is a socket of the user {uid}, and access control by credentials is for one's own"
    )))
}

/// One sentence for a person, and the error a program can tell from others.
fn explain(address: &SocketAddress, error: &io::Error) -> Error {
    match Errno::from_io_error(error) {
        _ if error.kind() == io::ErrorKind::ConnectionRefused => {
            Error::ConnectionRefused(format!("nothing listens on {address}"))
        }
        Some(Errno::NOENT | Errno::NOTDIR) => {
            Error::ConnectionRefused(format!("there is no socket {address}"))
        }
        Some(Errno::NOTSOCK | Errno::PROTOTYPE) => {
            Error::ConnectionRefused(format!("{address} is not a stream socket"))
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            Error::PermissionDenied(format!("this user may not connect to {address}"))
        }
        Some(
            Errno::NETUNREACH
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
            | Errno::HOSTDOWN
            | Errno::ADDRNOTAVAIL
            | Errno::AFNOSUPPORT,
        ) => Error::NetworkError(format!("there is no way to {address}: {error}")),
        Some(Errno::INVAL) => {
            Error::InvalidArgument(format!("{address} cannot be connected to: {error}"))
        }
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
            Error::ResourceUnavailable(format!("cannot connect to {address}: {error}"))
        }
        _ => Error::ConnectionFailed(format!("cannot connect to {address}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::mem::discriminant;

    use super::*;

    #[test]
    fn each_way_to_fail_has_its_error_and_names_the_address() {
        let address = SocketAddress::Ipv4("192.0.2.1:80".parse().unwrap());
        let text = String::new;
        for (errno, expected) in [
            (Errno::CONNREFUSED, Error::ConnectionRefused(text())),
            (Errno::NOENT, Error::ConnectionRefused(text())),
            (Errno::NOTDIR, Error::ConnectionRefused(text())),
            (Errno::PROTOTYPE, Error::ConnectionRefused(text())),
            (Errno::ACCESS, Error::PermissionDenied(text())),
            (Errno::PERM, Error::PermissionDenied(text())),
            (Errno::NETUNREACH, Error::NetworkError(text())),
            (Errno::HOSTUNREACH, Error::NetworkError(text())),
            (Errno::AFNOSUPPORT, Error::NetworkError(text())),
            (Errno::INVAL, Error::InvalidArgument(text())),
            (Errno::MFILE, Error::ResourceUnavailable(text())),
            (Errno::NOMEM, Error::ResourceUnavailable(text())),
            (Errno::TIMEDOUT, Error::ConnectionFailed(text())),
            (Errno::CONNRESET, Error::ConnectionFailed(text())),
        ] {
            let error = explain(&address, &errno.into());
            assert_eq!(discriminant(&error), discriminant(&expected), "{error:?}");
            assert!(error.to_string().contains("192.0.2.1:80"), "{error}");
        }
        // A socket that was connected to itself comes without a number.
        let itself = io::ErrorKind::ConnectionRefused.into();
        let error = explain(&address, &itself);
        assert!(matches!(error, Error::ConnectionRefused(_)), "{error:?}");
    }
}
