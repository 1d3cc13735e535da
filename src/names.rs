//! Names on D-Bus, for both of its sides: what the service serves is what the client library asks for.
//! Each stands in the specification's page of the same name, except those with `Pneuma` in them,
//! which are ours.

/// The bus name of the connection manager.
pub const MANAGER_BUS_NAME: &str = "org.freedesktop.Telepathy.ConnectionManager.pneuma";
/// The object path of the connection manager.
pub const MANAGER_PATH: &str = "/org/freedesktop/Telepathy/ConnectionManager/pneuma";
/// `ConnectionManager`
pub const MANAGER_INTERFACE: &str = "org.freedesktop.Telepathy.ConnectionManager";
/// Ours: which Pneuma a connection manager is.
pub const ABOUT: &str = "org.freedesktop.Telepathy.ConnectionManager.Interface.Pneuma.About1";
/// The protocol, as `.manager` files, `Protocols` and `RequestConnection` name it.
pub const PROTOCOL: &str = "local-xmpp";
/// What the bus name of each of our connections begins with.
pub const CONNECTION_PREFIX: &str = "org.freedesktop.Telepathy.Connection.pneuma.local_xmpp.";
/// What the bus names that keep a connection online begin with; see [`Lease`](crate::client::Lease).
/// Deliberately outside the namespaces whose names other clients list.
pub const LEASE_PREFIX: &str = "org.freedesktop.Telepathy.Pneuma.Lease.";
/// `Protocol.Interface.Presence`
pub const PROTOCOL_PRESENCE: &str = "org.freedesktop.Telepathy.Protocol.Interface.Presence";
/// `Connection`
pub const CONNECTION: &str = "org.freedesktop.Telepathy.Connection";
/// `Connection.Interface.Requests`
pub const REQUESTS: &str = "org.freedesktop.Telepathy.Connection.Interface.Requests";
/// `Connection.Interface.Contacts`
pub const CONTACTS: &str = "org.freedesktop.Telepathy.Connection.Interface.Contacts";
/// `Connection.Interface.ContactList`
pub const CONTACT_LIST: &str = "org.freedesktop.Telepathy.Connection.Interface.ContactList";
/// `Connection.Interface.SimplePresence`
pub const SIMPLE_PRESENCE: &str = "org.freedesktop.Telepathy.Connection.Interface.SimplePresence";
/// `Connection.Interface.Aliasing`
pub const ALIASING: &str = "org.freedesktop.Telepathy.Connection.Interface.Aliasing";
/// `Connection.Interface.ContactCapabilities`
pub const CONTACT_CAPABILITIES: &str =
    "org.freedesktop.Telepathy.Connection.Interface.ContactCapabilities";
/// Ours: whom a connection trusts, and why.
pub const TRUST: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Trust1";
/// Ours: tubes that outlive who made them.
pub const KEPT: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Kept1";
/// `Channel`
pub const CHANNEL: &str = "org.freedesktop.Telepathy.Channel";
/// `Channel.Interface.Tube`
pub const TUBE: &str = "org.freedesktop.Telepathy.Channel.Interface.Tube";
/// `Channel.Type.StreamTube`
pub const STREAM_TUBE: &str = "org.freedesktop.Telepathy.Channel.Type.StreamTube";
/// Ours: what went through a tube.
pub const STATISTICS: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Statistics1";
/// Ours: a channel that closes when whoever claimed it vanishes.
pub const CLAIM: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Claim1";
