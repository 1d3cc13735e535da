//! Between D-Bus values and the typed ones of the floors below.

use std::collections::{BTreeMap, HashMap};

use actors::model::{
    AccessControl, AddressType, Error, ParameterValue, Result, SocketAddress, TubeParameters,
};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::connection::{
    protocol::{self, ChannelClass, Parameter, ParameterDefault, ParameterKind},
    value::{Given, GivenMap},
};

/// `a{sv}` as it is sent.
pub type Map = HashMap<String, Variant<'static>>;
/// `a{sv}` as it is received.
pub type ReceivedMap = HashMap<String, OwnedVariant>;
/// `Requestable_Channel_Class` on the bus.
pub type Class = (Map, Vec<String>);
/// `Param_Spec` on the bus.
pub type ParamSpec = (String, u32, String, Variant<'static>);
/// `Simple_Status_Spec` on the bus.
pub type StatusSpec = (u32, bool, bool);

/// What a caller filled in, as the floors below take it.
pub fn given_map(map: &ReceivedMap) -> GivenMap {
    map.iter()
        .map(|(name, value)| (name.clone(), given(value)))
        .collect()
}

/// One such value. A variant in a variant, which some bindings make, counts as what is in it.
pub fn given(value: &Variant<'_>) -> Given {
    match value {
        Variant::Str(text) => Given::Text(text.as_str().to_owned()),
        Variant::ObjectPath(path) => Given::Text(path.as_str().to_owned()),
        Variant::Bool(value) => Given::Bool(*value),
        Variant::U32(number) => Given::Uint(*number),
        Variant::U8(number) => Given::Integer((*number).into()),
        Variant::I16(number) => Given::Integer((*number).into()),
        Variant::U16(number) => Given::Integer((*number).into()),
        Variant::I32(number) => Given::Integer((*number).into()),
        Variant::I64(number) => Given::Integer((*number).into()),
        Variant::U64(number) => Given::Integer((*number).into()),
        Variant::Variant(inner) if !matches!(**inner, Variant::Variant(_)) => given(inner),
        Variant::Array(array) if array.element_signature() == &zbus::Signature::Str => {
            Given::Texts(
                array
                    .inner()
                    .iter()
                    .filter_map(|item| match item {
                        Variant::Str(text) => Some(text.as_str().to_owned()),
                        _ => None,
                    })
                    .collect(),
            )
        }
        other => Given::Other(other.value_signature().to_string()),
    }
}

/// A value to send.
pub fn variant(given: &Given) -> Variant<'static> {
    match given {
        Given::Text(text) => Variant::new(text.clone()),
        Given::Bool(value) => Variant::new(*value),
        Given::Uint(number) => Variant::new(*number),
        // We send none of the other kinds; an i64 holds what a table could say.
        Given::Integer(number) => Variant::new(i64::try_from(*number).unwrap_or_default()),
        Given::Texts(texts) => Variant::new(texts.clone()),
        Given::Other(signature) => Variant::new(signature.clone()),
    }
}

/// A channel class to send.
pub fn class(class: &ChannelClass) -> Class {
    (
        class
            .fixed
            .iter()
            .map(|(name, value)| ((*name).to_owned(), variant(value)))
            .collect(),
        strings(&class.allowed),
    )
}

/// `Param_Spec` of a parameter.
pub fn param_spec(parameter: &Parameter) -> ParamSpec {
    let default = match (parameter.default, parameter.kind) {
        (Some(ParameterDefault::Text(text)), _) => Variant::new(text),
        (Some(ParameterDefault::Bool(value)), _) => Variant::new(value),
        (Some(ParameterDefault::Port(port)), _) => Variant::new(port),
        // No default: some value of the right type.
        (None, ParameterKind::Text) => Variant::new(""),
        (None, ParameterKind::Bool) => Variant::new(false),
        (None, ParameterKind::Port) => Variant::new(0_u16),
    };
    (
        parameter.name.to_owned(),
        parameter.flags(),
        parameter.kind.signature().to_owned(),
        default,
    )
}

/// `Protocol.Parameters`.
pub fn param_specs() -> Vec<ParamSpec> {
    protocol::PARAMETERS.iter().map(param_spec).collect()
}

/// `Statuses`.
pub fn statuses() -> BTreeMap<String, StatusSpec> {
    protocol::STATUSES
        .iter()
        .map(|status| {
            (
                status.name.to_owned(),
                (status.presence as u32, status.settable, status.message),
            )
        })
        .collect()
}

/// Names as a list to send.
pub fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// An object path of ours as a value.
///
/// # Errors
/// `Confused` when it is none, which would be a bug.
pub fn object_path(path: &str) -> Result<OwnedObjectPath> {
    OwnedObjectPath::try_from(path.to_owned())
        .map_err(|error| Error::Confused(format!("'{path}' is no object path: {error}")))
}

/// `Socket_Address_Type` as a number.
pub fn address_type_number(kind: AddressType) -> u32 {
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
pub fn access_control_number(access: AccessControl) -> u32 {
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

/// `StreamTube.SupportedSocketTypes`.
pub fn socket_types(sockets: &[(AddressType, Vec<AccessControl>)]) -> HashMap<u32, Vec<u32>> {
    sockets
        .iter()
        .map(|(kind, access)| {
            let access = access.iter().copied().map(access_control_number).collect();
            (address_type_number(*kind), access)
        })
        .collect()
}

/// A socket address to send: `ay` or `(sq)`.
pub fn address(address: &SocketAddress) -> Variant<'static> {
    use std::os::unix::ffi::OsStrExt as _;
    match address {
        SocketAddress::Unix(path) => Variant::new(path.as_os_str().as_bytes().to_vec()),
        SocketAddress::AbstractUnix(name) => Variant::new(name.clone()),
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

/// A socket address as a caller gives it.
///
/// # Errors
/// `InvalidArgument` when it is not of the type that it should be, or not an address.
pub fn given_address(kind: AddressType, value: &Variant<'_>) -> Result<SocketAddress> {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt as _};
    let value = match value {
        Variant::Variant(inner) => inner,
        other => other,
    };
    match kind {
        AddressType::Unix => {
            let mut path = bytes(value)?;
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
            let mut name = bytes(value)?;
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
            Ok(SocketAddress::Ipv4(std::net::SocketAddrV4::new(host, port)))
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

fn no_literal(wanted: &str, host: &str) -> Error {
    Error::InvalidArgument(format!(
        "'{}' is not {wanted} as a literal",
        crate::connection::contacts::shortened(host)
    ))
}

fn bytes(value: &Variant<'_>) -> Result<Vec<u8>> {
    let wrong = || {
        Error::InvalidArgument(format!(
            "a Unix socket's address is an array of bytes (ay), not '{}'",
            value.value_signature()
        ))
    };
    let Variant::Array(array) = value else {
        return Err(wrong());
    };
    if array.element_signature() != &zbus::Signature::U8 {
        return Err(wrong());
    }
    array
        .inner()
        .iter()
        .map(|byte| match byte {
            Variant::U8(byte) => Ok(*byte),
            _ => Err(wrong()),
        })
        .collect()
}

fn host_and_port(value: &Variant<'_>) -> Result<(String, u16)> {
    if let Variant::Structure(fields) = value
        && let [Variant::Str(host), Variant::U16(port)] = fields.fields()
    {
        return Ok((host.as_str().to_owned(), *port));
    }
    Err(Error::InvalidArgument(format!(
        "an IP address is a structure of text and port (sq), not '{}'",
        value.value_signature()
    )))
}

/// `Tube.Parameters` to send.
pub fn tube_parameters(parameters: &TubeParameters) -> Map {
    parameters
        .values()
        .iter()
        .map(|(name, value)| {
            let value = match value {
                ParameterValue::Text(text) => Variant::new(text.clone()),
                ParameterValue::Bytes(bytes) => Variant::new(bytes.clone()),
                ParameterValue::Int(number) => Variant::new(*number),
                ParameterValue::Uint(number) => Variant::new(*number),
                ParameterValue::Bool(value) => Variant::new(*value),
            };
            (name.clone(), value)
        })
        .collect()
}

/// `parameters` of an offer.
///
/// # Errors
/// `InvalidArgument` for a value of any but the five types that a tube carries, and beyond the
/// bounds of [`TubeParameters`].
pub fn given_tube_parameters(map: &ReceivedMap) -> Result<TubeParameters> {
    let value = |name: &str, value: &Variant<'_>| match value {
        Variant::Str(text) => Ok(ParameterValue::Text(text.as_str().to_owned())),
        Variant::I32(number) => Ok(ParameterValue::Int(*number)),
        Variant::U32(number) => Ok(ParameterValue::Uint(*number)),
        Variant::Bool(value) => Ok(ParameterValue::Bool(*value)),
        Variant::Array(array) if array.element_signature() == &zbus::Signature::U8 => {
            bytes(value).map(ParameterValue::Bytes)
        }
        other => Err(Error::InvalidArgument(format!(
            "the parameter '{}' is of type '{}'; tubes carry s, ay, u, i and b",
            crate::connection::contacts::shortened(name),
            other.value_signature()
        ))),
    };
    let mut values = BTreeMap::new();
    for (name, given) in map {
        values.insert(name.clone(), value(name, given)?);
    }
    TubeParameters::new(values)
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
    fn what_is_no_address_is_refused() {
        refused(AddressType::Unix, &Variant::new("/a/string"));
        refused(AddressType::Unix, &Variant::new(Vec::<u8>::new()));
        refused(AddressType::Unix, &Variant::new(b"a\0b".to_vec()));
        refused(AddressType::AbstractUnix, &Variant::new(vec![0_u8]));
        refused(AddressType::Ipv4, &Variant::new(("localhost", 80_u16)));
        refused(AddressType::Ipv4, &Variant::new(("127.0.0.1", 80_u32)));
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
    fn parameters_of_the_five_types_go_there_and_back() {
        let wanted = TubeParameters::new(BTreeMap::from([
            ("s".into(), ParameterValue::Text("t".into())),
            ("ay".into(), ParameterValue::Bytes(vec![0, 255])),
            ("i".into(), ParameterValue::Int(-1)),
            ("u".into(), ParameterValue::Uint(1)),
            ("b".into(), ParameterValue::Bool(true)),
        ]))
        .unwrap();
        let received: ReceivedMap = tube_parameters(&wanted)
            .into_iter()
            .map(|(name, value)| (name, value.try_into_owned().unwrap()))
            .collect();
        assert_eq!(given_tube_parameters(&received), Ok(wanted));
        for wrong in [
            Variant::new(1.5),
            Variant::new(1_u64),
            Variant::new(vec!["x"]),
        ] {
            let map = ReceivedMap::from([("x".into(), wrong.try_into_owned().unwrap())]);
            assert!(matches!(
                given_tube_parameters(&map),
                Err(Error::InvalidArgument(_))
            ));
        }
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
