//! Local sockets on D-Bus: `Socket_Address_Type`, `Socket_Access_Control` and the addresses that go
//! with them (generic-types.xml of the specification), both ways.

use std::{
    collections::HashMap,
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use actors::model::{
    AccessControl, AccessRule, AddressType, ConnectionParameter, Error, Result, SocketAddress,
};
use zbus::Variant;

use super::values;
use crate::connection::contacts::shortened;

/// `Socket_Address_Type` as a number.
fn address_type_number(kind: AddressType) -> u32 {
    match kind {
        AddressType::Unix => 0,
        AddressType::AbstractUnix => 1,
        AddressType::Ipv4 => 2,
        AddressType::Ipv6 => 3,
    }
}

/// `Socket_Address_Type`.
///
/// # Errors
/// `InvalidArgument` for a number that means nothing.
pub fn address_type(number: u32) -> Result<AddressType> {
    match number {
        0 => Ok(AddressType::Unix),
        1 => Ok(AddressType::AbstractUnix),
        2 => Ok(AddressType::Ipv4),
        3 => Ok(AddressType::Ipv6),
        _ => Err(Error::InvalidArgument(format!(
            "{number} is no type of socket address"
        ))),
    }
}

/// `Socket_Access_Control` as a number.
fn access_control_number(access: AccessControl) -> u32 {
    match access {
        AccessControl::Localhost => 0,
        AccessControl::Port => 1,
        AccessControl::Credentials => 3,
    }
}

/// `Socket_Access_Control`.
///
/// # Errors
/// `NotImplemented` for Netmask, which is deprecated and never was implemented anywhere;
/// `InvalidArgument` for a number that means nothing.
pub fn access_control(number: u32) -> Result<AccessControl> {
    match number {
        0 => Ok(AccessControl::Localhost),
        1 => Ok(AccessControl::Port),
        2 => Err(Error::NotImplemented(
            "access control by netmask is deprecated and not offered".into(),
        )),
        3 => Ok(AccessControl::Credentials),
        _ => Err(Error::InvalidArgument(format!(
            "{number} is no access control"
        ))),
    }
}

/// The combination, if these have it.
///
/// # Errors
/// `NotImplemented` when they do not; `InvalidArgument` for numbers that mean nothing.
pub fn supported(
    sockets: &[(AddressType, Vec<AccessControl>)],
    address_type_number: u32,
    access_number: u32,
) -> Result<(AddressType, AccessControl)> {
    let (kind, access) = (
        address_type(address_type_number)?,
        access_control(access_number)?,
    );
    let supported = sockets
        .iter()
        .any(|(listed, with)| *listed == kind && with.contains(&access));
    if supported {
        return Ok((kind, access));
    }
    Err(Error::NotImplemented(format!(
        "sockets of type {address_type_number} with access control {access_number} are not supported"
    )))
}

/// The access control, if these have it.
///
/// # Errors
/// As [`supported`] says.
pub fn supported_access(supported: &[AccessControl], access_number: u32) -> Result<AccessControl> {
    let access = access_control(access_number)?;
    if supported.contains(&access) {
        return Ok(access);
    }
    Err(Error::NotImplemented(format!(
        "access control {access_number} is not supported here"
    )))
}

/// What Accept demands of those who connect: `access_control` with `access_control_param`.
///
/// The parameter means something for Port only; elsewhere clients send all sorts of things. It is an
/// address `(sq)`, where an unspecified one stands for any address with this port, or a bare port:
/// telepathy-glib sends the one that its socket is bound to, as `u`.
///
/// # Errors
/// `InvalidArgument` for a parameter that is none of these, or that nobody who connects could match.
pub fn access_rule(
    kind: AddressType,
    access: AccessControl,
    parameter: &Variant<'_>,
) -> Result<AccessRule> {
    match access {
        AccessControl::Localhost => return Ok(AccessRule::Localhost),
        AccessControl::Credentials => return Ok(AccessRule::Credentials),
        AccessControl::Port => {}
    }
    let from = match (kind, inner(parameter)) {
        (_, Variant::U32(port)) => {
            let any: IpAddr = match kind {
                AddressType::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
                _ => Ipv4Addr::UNSPECIFIED.into(),
            };
            let port = u16::try_from(*port)
                .map_err(|_| Error::InvalidArgument(format!("{port} is no port")))?;
            SocketAddr::new(any, port)
        }
        (_, address) => match given_address(kind, address)? {
            SocketAddress::Ipv4(address) => address.into(),
            SocketAddress::Ipv6(address) => address.into(),
            SocketAddress::Unix(_) | SocketAddress::AbstractUnix(_) => {
                return Err(Error::NotImplemented(
                    "Unix sockets have no ports; use Localhost or Credentials".into(),
                ));
            }
        },
    };
    if from.port() == 0 {
        return Err(Error::InvalidArgument(
            "access control by port needs the port that the client is bound to".into(),
        ));
    }
    Ok(AccessRule::Port(from))
}

/// `Connection_Param` of NewRemoteConnection. Where it means nothing it has to be something; this is
/// what other managers send.
pub fn connection_parameter(parameter: &ConnectionParameter) -> Variant<'static> {
    match parameter {
        ConnectionParameter::Nothing => Variant::new(0_u32),
        ConnectionParameter::From(from) => address(from),
        ConnectionParameter::Byte(byte) => Variant::new(*byte),
    }
}

/// `StreamTube.SupportedSocketTypes`.
pub fn socket_types(sockets: &[(AddressType, Vec<AccessControl>)]) -> HashMap<u32, Vec<u32>> {
    sockets
        .iter()
        .map(|(kind, access)| (address_type_number(*kind), access_controls(access)))
        .collect()
}

/// `DBusTube.SupportedAccessControls`.
pub fn access_controls(access: &[AccessControl]) -> Vec<u32> {
    access.iter().copied().map(access_control_number).collect()
}

/// A socket address to send: `ay` or `(sq)`.
pub fn address(address: &SocketAddress) -> Variant<'static> {
    match address {
        SocketAddress::Unix(path) => Variant::new(path.as_os_str().as_bytes().to_vec()),
        SocketAddress::AbstractUnix(name) => {
            let mut whole = vec![0];
            whole.extend_from_slice(name);
            Variant::new(whole)
        }
        SocketAddress::Ipv4(address) => Variant::new((address.ip().to_string(), address.port())),
        SocketAddress::Ipv6(address) => {
            let scope = match address.scope_id() {
                0 => String::new(),
                scope => format!("%{scope}"),
            };
            Variant::new((format!("{}{scope}", address.ip()), address.port()))
        }
    }
}

/// A socket address as a caller gives it. An IP address may be `(su)` too.
///
/// # Errors
/// `InvalidArgument` when it is not of the type that it should be, or not an address.
pub fn given_address(kind: AddressType, value: &Variant<'_>) -> Result<SocketAddress> {
    let value = inner(value);
    match kind {
        AddressType::Unix => {
            let mut path = path_or_name(value)?;
            // Some callers send C strings whole.
            while path.last() == Some(&0) {
                path.pop();
            }
            if path.is_empty() || path.contains(&0) {
                return Err(Error::InvalidArgument(
                    "a Unix socket's path is not empty and has no NUL bytes".into(),
                ));
            }
            Ok(SocketAddress::Unix(OsString::from_vec(path).into()))
        }
        AddressType::AbstractUnix => {
            let mut name = path_or_name(value)?;
            // With or without the byte that makes it abstract.
            if name.first() == Some(&0) {
                name.remove(0);
            }
            if name.is_empty() {
                return Err(Error::InvalidArgument(
                    "an abstract Unix socket has a name".into(),
                ));
            }
            Ok(SocketAddress::AbstractUnix(name))
        }
        AddressType::Ipv4 => {
            let (host, port) = host_and_port(value)?;
            let host = host
                .parse()
                .map_err(|_| no_literal("an IPv4 address", &host))?;
            Ok(SocketAddress::Ipv4(SocketAddrV4::new(host, port)))
        }
        AddressType::Ipv6 => {
            let (host, port) = host_and_port(value)?;
            // Parsed with its port, because only that form takes a scope.
            let address = format!("[{host}]:{port}")
                .parse()
                .map_err(|_| no_literal("an IPv6 address", &host))?;
            Ok(SocketAddress::Ipv6(address))
        }
    }
}

/// What is in a variant in a variant.
fn inner<'v>(value: &'v Variant<'v>) -> &'v Variant<'v> {
    match value {
        Variant::Variant(inner) => inner,
        other => other,
    }
}

fn no_literal(wanted: &str, host: &str) -> Error {
    Error::InvalidArgument(format!(
        "'{}' is not {wanted} as a literal",
        shortened(host)
    ))
}

fn host_and_port(value: &Variant<'_>) -> Result<(String, u16)> {
    if let Variant::Structure(fields) = value
        && let [Variant::Str(host), port] = fields.fields()
    {
        let port = match port {
            Variant::U16(port) => Some(*port),
            // telepathy-glib's form.
            Variant::U32(port) => u16::try_from(*port).ok(),
            _ => None,
        };
        if let Some(port) = port {
            return Ok((host.as_str().to_owned(), port));
        }
    }
    Err(Error::InvalidArgument(format!(
        "an IP address is a structure of text and port (sq), not '{}'",
        value.value_signature()
    )))
}

/// The bytes of a Unix socket's path or name.
fn path_or_name(value: &Variant<'_>) -> Result<Vec<u8>> {
    values::bytes(value).ok_or_else(|| {
        Error::InvalidArgument(format!(
            "a Unix socket's address is an array of bytes (ay), not '{}'",
            value.value_signature()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: AddressType, value: &Variant<'_>) {
        let outcome = given_address(kind, value);
        assert!(
            matches!(outcome, Err(Error::InvalidArgument(_))),
            "{value:?}: {outcome:?}"
        );
    }

    #[test]
    fn addresses_go_there_and_back() {
        let addresses = [
            SocketAddress::Unix("/run/x".into()),
            SocketAddress::AbstractUnix(b"name\0x".to_vec()),
            SocketAddress::Ipv4("127.0.0.1:5900".parse().unwrap()),
            SocketAddress::Ipv6("[::1]:80".parse().unwrap()),
            SocketAddress::Ipv6("[fe80::1%3]:80".parse().unwrap()),
        ];
        for wanted in addresses {
            let value = address(&wanted);
            assert_eq!(given_address(wanted.address_type(), &value), Ok(wanted));
        }
    }

    #[test]
    fn a_port_may_be_wider_than_it_has_to() {
        assert_eq!(
            given_address(AddressType::Ipv4, &Variant::new(("127.0.0.1", 80_u32))),
            Ok(SocketAddress::Ipv4("127.0.0.1:80".parse().unwrap()))
        );
    }

    #[test]
    fn an_abstract_name_goes_with_its_leading_zero_and_comes_with_it_or_without() {
        let name = SocketAddress::AbstractUnix(b"name".to_vec());
        assert_eq!(address(&name), Variant::new(b"\0name".to_vec()));
        for given in [b"name".as_slice(), b"\0name"] {
            let given = given_address(AddressType::AbstractUnix, &Variant::new(given.to_vec()));
            assert_eq!(given, Ok(name.clone()));
        }
    }

    #[test]
    fn a_port_is_demanded_in_every_way_clients_say_it() {
        let rule = |kind, value: Variant<'_>| access_rule(kind, AccessControl::Port, &value);
        let port = |from: &str| Ok(AccessRule::Port(from.parse().unwrap()));
        let (four, six) = (AddressType::Ipv4, AddressType::Ipv6);
        let pair = |host: &'static str, port: u16| Variant::new((host, port));
        assert_eq!(rule(four, pair("127.0.0.1", 7)), port("127.0.0.1:7"));
        assert_eq!(rule(four, pair("0.0.0.0", 7)), port("0.0.0.0:7"));
        assert_eq!(rule(six, pair("::1", 7)), port("[::1]:7"));
        assert_eq!(rule(six, pair("::", 7)), port("[::]:7"));
        // telepathy-glib's port.
        assert_eq!(rule(four, Variant::new(7_u32)), port("0.0.0.0:7"));
        assert_eq!(rule(six, Variant::new(7_u32)), port("[::]:7"));
        for (kind, value) in [
            (four, Variant::new(0_u32)),
            (four, Variant::new(65536_u32)),
            (four, pair("127.0.0.1", 0)),
            (four, pair("0.0.0.0", 0)),
            (four, pair("::1", 7)),
            (six, pair("127.0.0.1", 7)),
            (four, pair("localhost", 7)),
            (four, Variant::new("127.0.0.1:7")),
            (four, Variant::new(7_u8)),
        ] {
            let outcome = rule(kind, value);
            assert!(
                matches!(outcome, Err(Error::InvalidArgument(_))),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn where_the_parameter_means_nothing_it_may_be_anything() {
        for value in [Variant::new(0_u32), Variant::new("x"), Variant::new(7_u8)] {
            for kind in [AddressType::Unix, AddressType::AbstractUnix] {
                let rule = access_rule(kind, AccessControl::Credentials, &value);
                assert_eq!(rule, Ok(AccessRule::Credentials));
            }
            for kind in [AddressType::Unix, AddressType::Ipv4, AddressType::Ipv6] {
                let rule = access_rule(kind, AccessControl::Localhost, &value);
                assert_eq!(rule, Ok(AccessRule::Localhost));
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        refused(AddressType::Unix, &Variant::new("/a/string"));
        refused(AddressType::Unix, &Variant::new(Vec::<u8>::new()));
        refused(AddressType::Unix, &Variant::new(b"a\0b".to_vec()));
        refused(AddressType::AbstractUnix, &Variant::new(vec![0_u8]));
        refused(AddressType::Ipv4, &Variant::new(("localhost", 80_u16)));
        refused(AddressType::Ipv4, &Variant::new(("127.0.0.1", 65_536_u32)));
        refused(AddressType::Ipv4, &Variant::new(("127.0.0.1", 80_i32)));
        refused(AddressType::Ipv4, &Variant::new(("::1", 80_u16)));
        refused(AddressType::Ipv6, &Variant::new(("127.0.0.1", 80_u16)));
        refused(AddressType::Ipv6, &Variant::new(("::1]:1", 80_u16)));
        refused(AddressType::Ipv6, &Variant::new(7_u32));
    }

    #[test]
    fn a_path_sent_as_a_c_string_is_a_path() {
        assert_eq!(
            given_address(AddressType::Unix, &Variant::new(b"/x\0".to_vec())),
            Ok(SocketAddress::Unix("/x".into()))
        );
    }

    #[test]
    fn access_control_by_netmask_is_not_implemented() {
        assert!(matches!(access_control(2), Err(Error::NotImplemented(_))));
        assert!(matches!(access_control(9), Err(Error::InvalidArgument(_))));
        for access in [
            AccessControl::Localhost,
            AccessControl::Port,
            AccessControl::Credentials,
        ] {
            assert_eq!(access_control(access_control_number(access)), Ok(access));
        }
    }
}
