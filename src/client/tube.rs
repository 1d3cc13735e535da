//! A tube's channel: request, offer, accept, claim, read its statistics, close. What only a D-Bus tube
//! does is in `dbus_tube`.

use std::{
    borrow::Cow,
    collections::HashMap,
    ffi::OsString,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
    sync::Arc,
};

use actors::model::{AddressType, SocketAddress};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::{
    bus::Remote,
    contact::text,
    error::{Error, Kind, Result},
    managed::Handler,
};
use crate::names;

/// `Socket_Access_Control` Localhost.
const LOCALHOST: u32 = 0;

/// `Tube_Channel_State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TubeState {
    /// We offered it, nobody used it yet.
    RemotePending,
    /// The contact offers it, nobody here took it yet.
    LocalPending,
    /// In use.
    Open,
    /// Requested here and not offered yet.
    NotOffered,
    /// The service said something newer than this library.
    Unknown,
}

impl TubeState {
    /// From the number on the bus.
    pub fn from_number(number: u32) -> Self {
        use actors::model::TubeState as Known;
        match Known::from_number(number) {
            Some(Known::LocalPending) => TubeState::LocalPending,
            Some(Known::RemotePending) => TubeState::RemotePending,
            Some(Known::Open) => TubeState::Open,
            Some(Known::NotOffered) => TubeState::NotOffered,
            None => TubeState::Unknown,
        }
    }

    /// A few words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            TubeState::RemotePending => "waiting for the contact",
            TubeState::LocalPending => "offered to you",
            TubeState::Open => "open",
            TubeState::NotOffered => "not offered yet",
            TubeState::Unknown => "unknown",
        }
    }
}

/// What a tube carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TubeKind {
    /// Connections of bytes.
    Stream,
    /// D-Bus messages.
    DBus,
}

impl TubeKind {
    /// `ChannelType`
    pub(super) fn channel_type(self) -> &'static str {
        match self {
            TubeKind::Stream => names::STREAM_TUBE,
            TubeKind::DBus => names::DBUS_TUBE,
        }
    }

    /// The property that says which service it is for.
    pub(super) fn service_property(self) -> String {
        match self {
            TubeKind::Stream => format!("{}.Service", names::STREAM_TUBE),
            TubeKind::DBus => format!("{}.ServiceName", names::DBUS_TUBE),
        }
    }
}

/// What does not change about a tube: its immutable properties.
#[derive(Clone, Debug, PartialEq)]
pub struct TubeDescription {
    /// The channel's object path.
    pub path: OwnedObjectPath,
    /// `ChannelType`
    pub kind: TubeKind,
    /// `Service` or `ServiceName`
    pub service: String,
    /// `TargetHandle`: the contact at the other end.
    pub contact: u32,
    /// `TargetID`
    pub contact_id: String,
    /// `Requested`: offered by us.
    pub requested: bool,
}

impl TubeDescription {
    /// The service as people write it: one that is spoken to by D-Bus has `dbus:` before its name.
    pub fn shown(&self) -> Cow<'_, str> {
        match self.kind {
            TubeKind::Stream => Cow::from(&self.service),
            TubeKind::DBus => Cow::from(format!("dbus:{}", self.service)),
        }
    }

    /// What the user's rules know the service by: as people write it, but that no stream tube is taken for
    /// another kind of channel by its name.
    pub fn ruled(&self) -> Cow<'_, str> {
        let others = self.service.starts_with("dbus:") || self.service == "file-transfer";
        match self.kind {
            TubeKind::Stream if others => Cow::from(format!("stream:{}", self.service)),
            _ => self.shown(),
        }
    }
}

/// What went through a tube: our own statistics interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections that are open now.
    pub connections: u32,
    /// Bytes from here to the contact so far.
    pub sent: u64,
    /// Bytes from the contact so far.
    pub received: u64,
    /// The local socket, as text; empty while there is none.
    pub address: String,
    /// Whether every connection so far was encrypted on its way; before the first, whether it can be
    /// nothing else.
    pub encrypted: bool,
}

/// Reads the immutable properties of a channel, if it is a tube.
pub(super) fn tube_from_properties(
    path: OwnedObjectPath,
    properties: &HashMap<String, OwnedVariant>,
) -> Option<TubeDescription> {
    let channel_type = text(properties, &format!("{}.ChannelType", names::CHANNEL))?;
    let kind = [TubeKind::Stream, TubeKind::DBus]
        .into_iter()
        .find(|kind| kind.channel_type() == channel_type)?;
    let number = |name: &str| match &**properties.get(&format!("{}.{name}", names::CHANNEL))? {
        Variant::U32(number) => Some(*number),
        _ => None,
    };
    let requested = match &**properties.get(&format!("{}.Requested", names::CHANNEL))? {
        Variant::Bool(requested) => *requested,
        _ => return None,
    };
    Some(TubeDescription {
        path,
        kind,
        service: text(properties, &kind.service_property())?,
        contact: number("TargetHandle")?,
        contact_id: text(properties, &format!("{}.TargetID", names::CHANNEL))?,
        requested,
    })
}

/// A tube's channel. Cheap to clone; dropping it leaves the channel as it is.
#[derive(Clone, Debug)]
pub struct Tube {
    pub(super) remote: Remote,
    description: TubeDescription,
    /// Keeps our Handler on the bus, so that Mission Control knows whose the channel is even after a
    /// crash of its own.
    handler: Option<Arc<Handler>>,
}

impl Tube {
    pub(super) fn new(remote: Remote, description: TubeDescription) -> Self {
        Tube {
            remote,
            description,
            handler: None,
        }
    }

    /// The same tube, with the Handler that Mission Control gave it to.
    pub(super) fn handled_by(self, handler: Arc<Handler>) -> Self {
        Tube {
            handler: Some(handler),
            ..self
        }
    }

    /// Its immutable properties.
    pub fn description(&self) -> &TubeDescription {
        &self.description
    }

    /// Its object path.
    pub fn path(&self) -> &OwnedObjectPath {
        &self.description.path
    }

    /// `Tube.State`
    ///
    /// # Errors
    /// What the service answers.
    pub async fn state(&self) -> Result<TubeState> {
        let number: u32 = self.remote.get(names::TUBE, "State").await?;
        Ok(TubeState::from_number(number))
    }

    /// Offers the local service at `address` to the contact.
    ///
    /// # Errors
    /// What the service answers; `NotCapable`, `Offline` and `FingerprintMismatch` among them.
    pub async fn offer(&self, address: &SocketAddress) -> Result<()> {
        let parameters: HashMap<&str, Variant<'_>> = HashMap::new();
        self.remote
            .call(
                names::STREAM_TUBE,
                "Offer",
                &(
                    type_number(address.address_type()),
                    address_to_variant(address),
                    LOCALHOST,
                    parameters,
                ),
            )
            .await
    }

    /// Accepts the tube the contact offers; the service listens on a socket of this type, at the
    /// address that is returned.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn accept(&self, address_type: AddressType) -> Result<SocketAddress> {
        let address: OwnedVariant = self
            .remote
            .call(
                names::STREAM_TUBE,
                "Accept",
                &(type_number(address_type), LOCALHOST, Variant::from(0u32)),
            )
            .await?;
        address_from_variant(address_type, &address)
    }

    /// Has the service close the channel when this program vanishes.
    ///
    /// # Errors
    /// [`Kind::NotYours`] when somebody else claimed it already.
    pub async fn claim(&self) -> Result<()> {
        self.remote.call(names::CLAIM, "Claim", &()).await
    }

    /// Takes the claim back: the channel outlives this program.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn release(&self) -> Result<()> {
        self.remote.call(names::CLAIM, "Release", &()).await
    }

    /// Leaves what the contact offers to the program that it is for: takes the claim back and, where Mission
    /// Control handed it to us, has it hand the tube to another Handler. Where none takes it, it is closed
    /// when this program ends.
    ///
    /// # Errors
    /// What the service and Mission Control answer.
    pub async fn leave(&self) -> Result<()> {
        self.release().await?;
        match &self.handler {
            Some(handler) => handler.hand_on(self.path()).await,
            None => Ok(()),
        }
    }

    /// What went through it.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn statistics(&self) -> Result<Statistics> {
        let map: HashMap<String, OwnedVariant> = self
            .remote
            .call(
                "org.freedesktop.DBus.Properties",
                "GetAll",
                &names::STATISTICS,
            )
            .await?;
        let count = |name: &str| match map.get(name).map(|value| &**value) {
            Some(Variant::U64(number)) => *number,
            Some(Variant::U32(number)) => u64::from(*number),
            _ => 0,
        };
        Ok(Statistics {
            connections: u32::try_from(count("Connections")).unwrap_or(u32::MAX),
            sent: count("BytesSent"),
            received: count("BytesReceived"),
            address: text(&map, "Address").unwrap_or_default(),
            encrypted: matches!(
                map.get("Encrypted").map(|v| &**v),
                Some(Variant::Bool(true))
            ),
        })
    }

    /// Closes the channel. One that is closed already counts as closed.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn close(&self) -> Result<()> {
        match self.remote.call(names::CHANNEL, "Close", &()).await {
            Err(error) if error.kind.is_gone() => Ok(()),
            answer => answer,
        }
    }
}

/// `Socket_Address_Type`
pub(super) fn type_number(address_type: AddressType) -> u32 {
    match address_type {
        AddressType::Unix => 0,
        AddressType::AbstractUnix => 1,
        AddressType::Ipv4 => 2,
        AddressType::Ipv6 => 3,
    }
}

/// An address as the bus carries it: `ay` for Unix sockets (abstract ones with their leading zero),
/// `(sq)` for the others.
pub(super) fn address_to_variant(address: &SocketAddress) -> Variant<'_> {
    match address {
        SocketAddress::Unix(path) => Variant::from(path.as_os_str().as_bytes().to_vec()),
        SocketAddress::AbstractUnix(name) => Variant::from([&[0], name.as_slice()].concat()),
        SocketAddress::Ipv4(address) => Variant::from((address.ip().to_string(), address.port())),
        SocketAddress::Ipv6(address) => {
            let mut host = address.ip().to_string();
            if address.scope_id() != 0 {
                host.push_str(&format!("%{}", address.scope_id()));
            }
            Variant::from((host, address.port()))
        }
    }
}

/// The reverse of [`address_to_variant`].
pub(super) fn address_from_variant(
    address_type: AddressType,
    value: &Variant<'_>,
) -> Result<SocketAddress> {
    let bad = || {
        Error::new(
            Kind::BadAnswer,
            "the service listens at an address that cannot be understood",
        )
    };
    match address_type {
        AddressType::Unix | AddressType::AbstractUnix => {
            let Variant::Array(bytes) = value else {
                return Err(bad());
            };
            let mut path = Vec::with_capacity(bytes.len());
            for byte in bytes.iter() {
                let Variant::U8(byte) = byte else {
                    return Err(bad());
                };
                path.push(*byte);
            }
            if address_type == AddressType::AbstractUnix {
                // Some services leave the zero out that makes the name abstract.
                if path.first() == Some(&0) {
                    path.remove(0);
                }
                if path.is_empty() {
                    return Err(bad());
                }
                return Ok(SocketAddress::AbstractUnix(path));
            }
            // Some services end the path as C does.
            while path.last() == Some(&0) {
                path.pop();
            }
            if path.is_empty() || path.contains(&0) {
                return Err(bad());
            }
            Ok(SocketAddress::Unix(PathBuf::from(OsString::from_vec(path))))
        }
        AddressType::Ipv4 | AddressType::Ipv6 => {
            let Variant::Structure(pair) = value else {
                return Err(bad());
            };
            let [Variant::Str(host), Variant::U16(port)] = pair.fields() else {
                return Err(bad());
            };
            if address_type == AddressType::Ipv4 {
                let ip = host.parse().map_err(|_| bad())?;
                Ok(SocketAddress::Ipv4(SocketAddrV4::new(ip, *port)))
            } else {
                let (ip, scope) = host.split_once('%').unwrap_or((host, "0"));
                Ok(SocketAddress::Ipv6(SocketAddrV6::new(
                    ip.parse().map_err(|_| bad())?,
                    *port,
                    0,
                    scope.parse().map_err(|_| bad())?,
                )))
            }
        }
    }
}

/// A socket address of the standard library as one of ours.
pub fn from_ip(address: SocketAddr) -> SocketAddress {
    match address {
        SocketAddr::V4(address) => SocketAddress::Ipv4(address),
        SocketAddr::V6(address) => SocketAddress::Ipv6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_bus() {
        for address in [
            SocketAddress::Unix("/run/user/7/x y".into()),
            SocketAddress::AbstractUnix(b"a\0b".to_vec()),
            SocketAddress::Ipv4("127.0.0.1:5900".parse().expect("an address")),
            SocketAddress::Ipv6("[fe80::1%3]:80".parse().expect("an address")),
            SocketAddress::Ipv6("[::1]:80".parse().expect("an address")),
        ] {
            let value = address_to_variant(&address);
            assert_eq!(
                address_from_variant(address.address_type(), &value),
                Ok(address)
            );
        }
    }

    #[test]
    fn states_have_the_numbers_of_the_specification() {
        let states = [0, 1, 2, 3, 4].map(TubeState::from_number);
        assert_eq!(
            states,
            [
                TubeState::LocalPending,
                TubeState::RemotePending,
                TubeState::Open,
                TubeState::NotOffered,
                TubeState::Unknown,
            ]
        );
    }

    #[test]
    fn a_path_may_end_as_in_c() {
        let value = Variant::from(b"/tmp/x\0".to_vec());
        assert_eq!(
            address_from_variant(AddressType::Unix, &value),
            Ok(SocketAddress::Unix("/tmp/x".into()))
        );
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for (kind, value) in [
            (AddressType::Unix, Variant::from("path")),
            (AddressType::Unix, Variant::from(Vec::<u8>::new())),
            (AddressType::AbstractUnix, Variant::from(vec![0u8])),
            (AddressType::Unix, Variant::from(b"/a\0b".to_vec())),
            (AddressType::Ipv4, Variant::from(("::1", 80u16))),
            (AddressType::Ipv4, Variant::from(("127.0.0.1", 80u32))),
            (AddressType::Ipv6, Variant::from(("127.0.0.1", 80u16))),
            (AddressType::Ipv6, Variant::from(("fe80::1%x", 80u16))),
        ] {
            let answer = address_from_variant(kind, &value);
            assert_eq!(answer.map_err(|error| error.kind), Err(Kind::BadAnswer));
        }
    }

    #[test]
    fn only_complete_stream_tubes_are_tubes() {
        let owned =
            |value: Variant<'static>| OwnedVariant::try_from(value).expect("no descriptors in it");
        let path = OwnedObjectPath::try_from("/a/b").expect("a path");
        let mut properties = HashMap::from([
            (
                format!("{}.ChannelType", names::CHANNEL),
                owned(names::STREAM_TUBE.into()),
            ),
            (format!("{}.Requested", names::CHANNEL), owned(true.into())),
            (
                format!("{}.TargetHandle", names::CHANNEL),
                owned(4u32.into()),
            ),
            (
                format!("{}.TargetID", names::CHANNEL),
                owned("bob@desk".into()),
            ),
            (
                format!("{}.Service", names::STREAM_TUBE),
                owned("rfb".into()),
            ),
        ]);
        let tube = tube_from_properties(path.clone(), &properties).expect("it is one");
        assert_eq!((tube.contact, tube.requested), (4, true));
        assert_eq!(
            (tube.contact_id.as_str(), tube.service.as_str()),
            ("bob@desk", "rfb")
        );
        properties.remove(&format!("{}.Service", names::STREAM_TUBE));
        assert_eq!(tube_from_properties(path, &properties), None);
    }
}
