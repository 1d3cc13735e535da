//! Local socket addresses and who may use them: `Socket_Address_Type` and
//! `Socket_Access_Control` of the specification's generic types.

use std::{
    fmt,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

/// `Socket_Address_Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// A Unix socket in the file system (0).
    Unix,
    /// A Unix socket in Linux's abstract namespace (1).
    AbstractUnix,
    /// TCP over IPv4 (2).
    Ipv4,
    /// TCP over IPv6 (3).
    Ipv6,
}

/// `Socket_Access_Control`. `Netmask` (2) is deprecated and is answered NotImplemented, so it is
/// not represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessControl {
    /// Anybody on this machine by the specification (0); of the same user here, unless the
    /// connection's parameter relaxes it.
    Localhost,
    /// Only from one address and port (1).
    Port,
    /// Only who sends the right byte with its credentials (3).
    Credentials,
}

/// What a socket of ours demands of whoever connects: a `Socket_Access_Control` with its parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessRule {
    /// See [`AccessControl::Localhost`].
    Localhost,
    /// Whoever connects has this address and port. An unspecified address (`0.0.0.0`, `::`) is any
    /// address; the port is not 0.
    Port(SocketAddr),
    /// Whoever connects is of our user, and says a byte first that is no part of the stream.
    Credentials,
}

impl AccessRule {
    /// The rule without its parameter.
    pub fn control(&self) -> AccessControl {
        match self {
            AccessRule::Localhost => AccessControl::Localhost,
            AccessRule::Port(_) => AccessControl::Port,
            AccessRule::Credentials => AccessControl::Credentials,
        }
    }
}

/// How a local service recognises a connection that we dialled: `Connection_Param` of
/// `NewRemoteConnection`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConnectionParameter {
    /// By nothing (`Localhost`).
    #[default]
    Nothing,
    /// By the address we dialled from (`Port`).
    From(SocketAddress),
    /// By the byte we sent with our credentials (`Credentials`).
    Byte(u8),
}

/// An address an endpoint listens on or dials.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// A path in the file system.
    Unix(PathBuf),
    /// A name in Linux's abstract namespace, without the leading NUL byte. Up to 107 bytes, any
    /// bytes.
    AbstractUnix(Vec<u8>),
    /// An IPv4 address and port.
    Ipv4(SocketAddrV4),
    /// An IPv6 address, port and scope.
    Ipv6(SocketAddrV6),
}

impl SocketAddress {
    /// Which kind of address it is.
    pub fn address_type(&self) -> AddressType {
        match self {
            SocketAddress::Unix(_) => AddressType::Unix,
            SocketAddress::AbstractUnix(_) => AddressType::AbstractUnix,
            SocketAddress::Ipv4(_) => AddressType::Ipv4,
            SocketAddress::Ipv6(_) => AddressType::Ipv6,
        }
    }

    /// As D-Bus writes the address of a server: `unix:path=…,guid=…`. `guid` tells one server's address from
    /// another's, in hexadecimal digits. `None` for TCP, where Pneuma serves no D-Bus.
    ///
    /// Every byte is escaped but letters, digits and `-_/.`, which every version of the D-Bus specification
    /// ("Server Addresses") lets stand for itself.
    pub fn to_dbus(&self, guid: Option<&str>) -> Option<String> {
        let (key, bytes) = match self {
            SocketAddress::Unix(path) => ("path", path.as_os_str().as_bytes()),
            SocketAddress::AbstractUnix(name) => ("abstract", name.as_slice()),
            SocketAddress::Ipv4(_) | SocketAddress::Ipv6(_) => return None,
        };
        let escaped = bytes.iter().map(|byte| match byte {
            b'-' | b'_' | b'/' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                char::from(*byte).to_string()
            }
            other => format!("%{other:02x}"),
        });
        let guid = guid.map(|guid| format!(",guid={guid}")).unwrap_or_default();
        Some(format!("unix:{key}={}{guid}", escaped.collect::<String>()))
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            SocketAddress::AbstractUnix(name) => write!(f, "abstract:{}", name.escape_ascii()),
            SocketAddress::Ipv4(address) => address.fmt(f),
            SocketAddress::Ipv6(address) => address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_dbus_has_it() {
        let path = SocketAddress::Unix("/run/a b,c=d;é*/s-1_2.x".into());
        let written = "unix:path=/run/a%20b%2cc%3dd%3b%c3%a9%2a/s-1_2.x";
        assert_eq!(path.to_dbus(None).as_deref(), Some(written));
        let with_guid = format!("{written},guid=0f0f");
        assert_eq!(path.to_dbus(Some("0f0f")), Some(with_guid));
        let name = SocketAddress::AbstractUnix(b"a\0\\b".to_vec());
        let written = "unix:abstract=a%00%5cb";
        assert_eq!(name.to_dbus(None).as_deref(), Some(written));
        let tcp = SocketAddress::Ipv4("127.0.0.1:80".parse().unwrap());
        assert_eq!(tcp.to_dbus(None), None);
    }
}
