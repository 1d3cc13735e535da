//! The tables: what this manager and its protocol `local-xmpp` are on D-Bus. RequestConnection
//! checks against them, Protocol answers from them, and `pneuma.manager`, the activation file and
//! the systemd unit are made from them, so nothing is said twice.

use actors::{
    model::{ChannelId, HashKind},
    ports::ChannelDescription,
};

use super::value::Given;
use crate::names;
pub use crate::names::{MANAGER_BUS_NAME, MANAGER_PATH, PROTOCOL};

/// `Connection_Manager_Name`.
pub const MANAGER: &str = "pneuma";
/// The same where a name must be an identifier: in object paths and bus names.
pub const PROTOCOL_IDENTIFIER: &str = "local_xmpp";
/// The Protocol object's path.
pub const PROTOCOL_PATH: &str = "/org/freedesktop/Telepathy/ConnectionManager/pneuma/local_xmpp";
/// `Protocol.EnglishName`.
pub const ENGLISH_NAME: &str = "People nearby";
/// `Protocol.Icon`.
pub const ICON: &str = "im-local-xmpp";
/// `Protocol.VCardField`: there is none.
pub const VCARD_FIELD: &str = "";

/// Most bytes a status message may have; the rest is cut off, as `MaximumStatusMessageLength` says.
pub const MAX_STATUS_MESSAGE: usize = 250;
/// Most bytes an alias may have; a longer one is refused.
pub const MAX_ALIAS: usize = 200;
/// `ConnectionManager.Interfaces`: the specification defines none.
pub const MANAGER_INTERFACES: &[&str] = &[names::MANAGER_CONNECTIONS, names::ABOUT];
/// `Protocol.Interfaces`.
pub const PROTOCOL_INTERFACES: &[&str] = &[names::PROTOCOL_PRESENCE];
/// `Protocol.AuthenticationTypes`: nothing is ever asked before Connected.
pub const AUTHENTICATION_TYPES: &[&str] = &[];
/// `Protocol.ConnectionInterfaces` and `Connection.Interfaces`: all of them are there from the
/// start, so the property never changes.
pub const CONNECTION_INTERFACES: &[&str] = &[
    names::REQUESTS,
    names::CONTACTS,
    names::CONTACT_LIST,
    names::CONTACT_GROUPS,
    names::SIMPLE_PRESENCE,
    names::ALIASING,
    names::CONTACT_CAPABILITIES,
    names::TRUST,
    names::POLICY,
    names::LEASE,
    names::DISCOVERY,
    names::KEPT,
];
/// `Contacts.ContactAttributeInterfaces`.
pub const ATTRIBUTE_INTERFACES: &[&str] = &[
    names::CONNECTION,
    names::CONTACT_LIST,
    names::CONTACT_GROUPS,
    names::SIMPLE_PRESENCE,
    names::ALIASING,
    names::CONTACT_CAPABILITIES,
    names::TRUST,
];
/// `Channel.Interfaces` of a stream tube.
pub const STREAM_TUBE_INTERFACES: &[&str] = &[names::TUBE, names::STATISTICS, names::CLAIM];

/// `Channel.Interfaces` of a file transfer.
pub const FILE_TRANSFER_INTERFACES: &[&str] =
    &[names::FILE_TRANSFER_METADATA, names::TRANSFER, names::CLAIM];

/// `Channel.Interfaces` of a D-Bus tube.
pub const DBUS_TUBE_INTERFACES: &[&str] = &[names::TUBE, names::STATISTICS, names::CLAIM];

/// Names of channel properties, as requests and channel classes carry them.
pub mod property {
    /// Channel.Type.DBusTube.ServiceName
    pub const SERVICE_NAME: &str = "org.freedesktop.Telepathy.Channel.Type.DBusTube.ServiceName";
    /// Channel.Type.DBusTube.SupportedAccessControls
    pub const SUPPORTED_ACCESS_CONTROLS: &str =
        "org.freedesktop.Telepathy.Channel.Type.DBusTube.SupportedAccessControls";
    /// Channel.ChannelType
    pub const CHANNEL_TYPE: &str = "org.freedesktop.Telepathy.Channel.ChannelType";
    /// Channel.Interfaces
    pub const INTERFACES: &str = "org.freedesktop.Telepathy.Channel.Interfaces";
    /// Channel.TargetHandleType
    pub const TARGET_HANDLE_TYPE: &str = "org.freedesktop.Telepathy.Channel.TargetHandleType";
    /// Channel.TargetHandle
    pub const TARGET_HANDLE: &str = "org.freedesktop.Telepathy.Channel.TargetHandle";
    /// Channel.TargetID
    pub const TARGET_ID: &str = "org.freedesktop.Telepathy.Channel.TargetID";
    /// Channel.Requested
    pub const REQUESTED: &str = "org.freedesktop.Telepathy.Channel.Requested";
    /// Channel.InitiatorHandle
    pub const INITIATOR_HANDLE: &str = "org.freedesktop.Telepathy.Channel.InitiatorHandle";
    /// Channel.InitiatorID
    pub const INITIATOR_ID: &str = "org.freedesktop.Telepathy.Channel.InitiatorID";
    /// Channel.Type.StreamTube.Service
    pub const SERVICE: &str = "org.freedesktop.Telepathy.Channel.Type.StreamTube.Service";
    /// Channel.Type.StreamTube.SupportedSocketTypes
    pub const SUPPORTED_SOCKET_TYPES: &str =
        "org.freedesktop.Telepathy.Channel.Type.StreamTube.SupportedSocketTypes";
    /// Channel.Interface.Tube.Parameters
    pub const TUBE_PARAMETERS: &str = "org.freedesktop.Telepathy.Channel.Interface.Tube.Parameters";
    /// Channel.Type.FileTransfer.ContentType
    pub const CONTENT_TYPE: &str =
        "org.freedesktop.Telepathy.Channel.Type.FileTransfer.ContentType";
    /// Channel.Type.FileTransfer.Filename
    pub const FILENAME: &str = "org.freedesktop.Telepathy.Channel.Type.FileTransfer.Filename";
    /// Channel.Type.FileTransfer.Size
    pub const SIZE: &str = "org.freedesktop.Telepathy.Channel.Type.FileTransfer.Size";
    /// Channel.Type.FileTransfer.ContentHashType
    pub const CONTENT_HASH_TYPE: &str =
        "org.freedesktop.Telepathy.Channel.Type.FileTransfer.ContentHashType";
    /// Channel.Type.FileTransfer.ContentHash
    pub const CONTENT_HASH: &str =
        "org.freedesktop.Telepathy.Channel.Type.FileTransfer.ContentHash";
    /// Channel.Type.FileTransfer.Description
    pub const DESCRIPTION: &str = "org.freedesktop.Telepathy.Channel.Type.FileTransfer.Description";
    /// Channel.Type.FileTransfer.Date
    pub const DATE: &str = "org.freedesktop.Telepathy.Channel.Type.FileTransfer.Date";
    /// Channel.Type.FileTransfer.AvailableSocketTypes
    pub const AVAILABLE_SOCKET_TYPES: &str =
        "org.freedesktop.Telepathy.Channel.Type.FileTransfer.AvailableSocketTypes";
    /// Channel.Type.FileTransfer.InitialOffset
    pub const INITIAL_OFFSET: &str =
        "org.freedesktop.Telepathy.Channel.Type.FileTransfer.InitialOffset";
    /// Channel.Type.FileTransfer.URI
    pub const URI: &str = "org.freedesktop.Telepathy.Channel.Type.FileTransfer.URI";
    /// Channel.Type.FileTransfer.FileCollection
    pub const FILE_COLLECTION: &str =
        "org.freedesktop.Telepathy.Channel.Type.FileTransfer.FileCollection";
    /// Channel.Interface.FileTransfer.Metadata.ServiceName
    pub const METADATA_SERVICE: &str =
        "org.freedesktop.Telepathy.Channel.Interface.FileTransfer.Metadata.ServiceName";
    /// Channel.Interface.FileTransfer.Metadata.Metadata
    pub const METADATA: &str =
        "org.freedesktop.Telepathy.Channel.Interface.FileTransfer.Metadata.Metadata";
    /// Channel.Interface.Pneuma.Transfer1.ID, ours
    pub const TRANSFER_ID: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Transfer1.ID";
    /// Channel.Interface.Pneuma.Transfer1.HasRanges, ours
    pub const HAS_RANGES: &str =
        "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Transfer1.HasRanges";
    /// Channel.Interface.Pneuma.Claim1.Claimed, ours: only ever part of a request, and of no class, as Mission
    /// Control asks for others and would claim what is theirs
    pub const CLAIMED: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Claim1.Claimed";
}

/// `Handle_Type_Contact`, the only type of handle there is here.
pub const HANDLE_TYPE_CONTACT: u32 = 1;

/// `Requestable_Channel_Class`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelClass {
    /// `Fixed_Properties`
    pub fixed: Vec<(&'static str, Given)>,
    /// `Allowed_Properties`
    pub allowed: Vec<&'static str>,
}

/// What can be asked of any connection: tubes of both types and a file transfer to a contact.
/// telepathy-glib wants the fixed properties to be exactly these two.
pub fn requestable_channel_classes() -> Vec<ChannelClass> {
    [stream_tube_class(None), dbus_tube_class(None)]
        .into_iter()
        .chain(file_transfer_classes())
        .collect()
}

/// The classes of file transfers: with a hash of any type or none, and beside it, as the specification
/// of ContentHashType asks, one for each type.
pub fn file_transfer_classes() -> Vec<ChannelClass> {
    std::iter::once(file_transfer_class(None))
        .chain(HashKind::ALL.map(|kind| file_transfer_class(Some(kind))))
        .collect()
}

fn file_transfer_class(hash: Option<HashKind>) -> ChannelClass {
    let mut class = class_of(names::FILE_TRANSFER);
    match hash {
        Some(kind) => class
            .fixed
            .push((property::CONTENT_HASH_TYPE, Given::Uint(kind.number()))),
        None => class.allowed.push(property::CONTENT_HASH_TYPE),
    }
    class.allowed.extend([
        property::CONTENT_HASH,
        property::CONTENT_TYPE,
        property::FILENAME,
        property::SIZE,
        property::DESCRIPTION,
        property::DATE,
        property::INITIAL_OFFSET,
        property::URI,
        property::METADATA_SERVICE,
        property::METADATA,
        property::TRANSFER_ID,
    ]);
    class
}

/// The class of all channels of a type to a contact.
fn class_of(channel_type: &str) -> ChannelClass {
    ChannelClass {
        fixed: vec![
            (property::CHANNEL_TYPE, Given::Text(channel_type.into())),
            (
                property::TARGET_HANDLE_TYPE,
                Given::Uint(HANDLE_TYPE_CONTACT),
            ),
        ],
        allowed: vec![property::TARGET_HANDLE, property::TARGET_ID],
    }
}

/// The class of stream tubes, or that of stream tubes for one service, which some clients want
/// beside the other one in a contact's capabilities.
pub fn stream_tube_class(service: Option<&str>) -> ChannelClass {
    let mut class = class_of(names::STREAM_TUBE);
    match service {
        Some(service) => class
            .fixed
            .push((property::SERVICE, Given::Text(service.into()))),
        None => class.allowed.push(property::SERVICE),
    }
    class
}

/// The same of D-Bus tubes.
pub fn dbus_tube_class(service: Option<&str>) -> ChannelClass {
    let mut class = class_of(names::DBUS_TUBE);
    match service {
        Some(service) => class
            .fixed
            .push((property::SERVICE_NAME, Given::Text(service.into()))),
        None => class.allowed.push(property::SERVICE_NAME),
    }
    class
}

/// The type of a parameter's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// `s`
    Text,
    /// `b`
    Bool,
    /// `q`
    Port,
}

impl ParameterKind {
    /// The D-Bus signature.
    pub fn signature(self) -> &'static str {
        match self {
            ParameterKind::Text => "s",
            ParameterKind::Bool => "b",
            ParameterKind::Port => "q",
        }
    }
}

/// The default of a parameter, where it is the same for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterDefault {
    /// `s`
    Text(&'static str),
    /// `b`
    Bool(bool),
    /// `q`
    Port(u16),
}

/// `Param_Spec`. None is required and none is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// `Name`
    pub name: &'static str,
    /// Gives `Signature`.
    pub kind: ParameterKind,
    /// `Default_Value` and the flag Has_Default.
    pub default: Option<ParameterDefault>,
}

impl Parameter {
    /// `Conn_Mgr_Param_Flags`: Has_Default (4) or nothing.
    pub fn flags(&self) -> u32 {
        if self.default.is_some() { 4 } else { 0 }
    }
}

const fn text(name: &'static str) -> Parameter {
    Parameter {
        name,
        kind: ParameterKind::Text,
        default: None,
    }
}

/// The parameters of a `local-xmpp` connection. The first seven have Telepathy's well-known names;
/// those with our prefix are ours. `published-name` is the login name where it is not given, which
/// is not the same for everybody and therefore no default in the table's sense.
pub const PARAMETERS: &[Parameter] = &[
    text("published-name"),
    text("first-name"),
    text("last-name"),
    text("nickname"),
    text("email"),
    text("jid"),
    Parameter {
        name: "require-encryption",
        kind: ParameterKind::Bool,
        default: Some(ParameterDefault::Bool(true)),
    },
    Parameter {
        name: "pneuma-profile",
        kind: ParameterKind::Text,
        default: Some(ParameterDefault::Text("default")),
    },
    text("pneuma-interface"),
    Parameter {
        name: "pneuma-mdns-port",
        kind: ParameterKind::Port,
        default: Some(ParameterDefault::Port(5353)),
    },
    Parameter {
        name: "pneuma-discovery",
        kind: ParameterKind::Text,
        default: Some(ParameterDefault::Text("auto")),
    },
    Parameter {
        name: "pneuma-bytestreams",
        kind: ParameterKind::Text,
        default: Some(ParameterDefault::Text("socks5,ibb")),
    },
    Parameter {
        name: "pneuma-any-local-user",
        kind: ParameterKind::Bool,
        default: Some(ParameterDefault::Bool(false)),
    },
];

/// `Connection_Presence_Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceType {
    /// Offline (1)
    Offline = 1,
    /// Available (2)
    Available = 2,
    /// Away (3)
    Away = 3,
    /// Busy (6)
    Busy = 6,
}

/// `Simple_Status_Spec`, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The status identifier.
    pub name: &'static str,
    /// `Type`
    pub presence: PresenceType,
    /// `May_Set_On_Self`
    pub settable: bool,
    /// `Can_Have_Message`
    pub message: bool,
}

/// `SimplePresence.Statuses` and `Protocol.Interface.Presence.Statuses`: what the TXT record's
/// `status` can say (XEP-0174), and that a contact is gone. There is no "unknown" on a network
/// where everybody is seen or is not there.
pub const STATUSES: &[Status] = &[
    Status {
        name: "offline",
        presence: PresenceType::Offline,
        settable: false,
        message: false,
    },
    Status {
        name: "available",
        presence: PresenceType::Available,
        settable: true,
        message: true,
    },
    Status {
        name: "away",
        presence: PresenceType::Away,
        settable: true,
        message: true,
    },
    Status {
        name: "dnd",
        presence: PresenceType::Busy,
        settable: true,
        message: true,
    },
];

/// The last component of a connection's bus name and path for an account: every byte that is not
/// an ASCII letter or digit becomes `_` and two hexadecimal digits, and so does a digit in front.
/// Different accounts have different escaped names.
pub fn escape(account: &str) -> String {
    if account.is_empty() {
        return "_".into();
    }
    let mut escaped = String::with_capacity(account.len());
    for (at, byte) in account.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (byte.is_ascii_digit() && at > 0) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("_{byte:02x}"));
        }
    }
    escaped
}

/// The bus name of the connection of an account.
pub fn connection_bus_name(account: &str) -> String {
    format!(
        "org.freedesktop.Telepathy.Connection.{MANAGER}.{PROTOCOL_IDENTIFIER}.{}",
        escape(account)
    )
}

/// The object path of the connection of an account.
pub fn connection_path(account: &str) -> String {
    format!("/{}", connection_bus_name(account).replace('.', "/"))
}

/// `Channel.ChannelType`
pub fn channel_type(description: &ChannelDescription) -> &'static str {
    match description {
        ChannelDescription::StreamTube(_) => names::STREAM_TUBE,
        ChannelDescription::FileTransfer(_) => names::FILE_TRANSFER,
        ChannelDescription::DBusTube(_) => names::DBUS_TUBE,
    }
}

/// `Channel.Interfaces`
pub fn channel_interfaces(description: &ChannelDescription) -> &'static [&'static str] {
    match description {
        ChannelDescription::StreamTube(_) => STREAM_TUBE_INTERFACES,
        ChannelDescription::FileTransfer(_) => FILE_TRANSFER_INTERFACES,
        ChannelDescription::DBusTube(_) => DBUS_TUBE_INTERFACES,
    }
}

/// The object path of a channel of the connection at `connection`.
pub fn channel_path(
    connection: &str,
    channel: ChannelId,
    description: &ChannelDescription,
) -> String {
    let kind = match description {
        ChannelDescription::StreamTube(_) => "StreamTube",
        ChannelDescription::FileTransfer(_) => "FileTransfer",
        ChannelDescription::DBusTube(_) => "DBusTube",
    };
    format!("{connection}/{kind}{}", channel.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_into_identifiers_and_stay_different() {
        assert_eq!(escape("ada"), "ada");
        assert_eq!(escape("7of9"), "_37of9");
        assert_eq!(escape("romeo@forza #2"), "romeo_40forza_20_232");
        assert_eq!(escape("a_b"), "a_5fb");
        assert_eq!(escape("é"), "_c3_a9");
        assert_eq!(escape(""), "_");
        assert_ne!(escape("a.b"), escape("a_b"));
    }

    #[test]
    fn a_connections_names_fit_the_bus_at_their_longest() {
        let longest = "ä".repeat(super::super::parameters::MAX_PUBLISHED_NAME / 2);
        assert!(connection_bus_name(&longest).len() <= 255);
    }

    #[test]
    fn the_tables_agree_with_themselves() {
        for parameter in PARAMETERS {
            let fits = match parameter.default {
                None => true,
                Some(ParameterDefault::Text(_)) => parameter.kind == ParameterKind::Text,
                Some(ParameterDefault::Bool(_)) => parameter.kind == ParameterKind::Bool,
                Some(ParameterDefault::Port(_)) => parameter.kind == ParameterKind::Port,
            };
            assert!(fits, "{} has a default of another type", parameter.name);
        }
        assert!(STATUSES.iter().all(|status| !status.settable
            || !matches!(status.presence, PresenceType::Offline)));
        assert_eq!(
            MANAGER_PATH,
            format!("/{}", MANAGER_BUS_NAME.replace('.', "/"))
        );
        assert_eq!(
            PROTOCOL_PATH,
            format!("{MANAGER_PATH}/{PROTOCOL_IDENTIFIER}")
        );
        assert_eq!(PROTOCOL_IDENTIFIER, PROTOCOL.replace('-', "_"));
    }
}
