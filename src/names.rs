//! Names on D-Bus, for both of its sides: what the service serves is what the client library asks for.
//! Each stands in the specification's page of the same name, except those with `Pneuma` in them,
//! which are ours.

/// The bus name of the connection manager.
pub const MANAGER_BUS_NAME: &str = "org.freedesktop.Telepathy.ConnectionManager.pneuma";
/// The object path of the connection manager.
pub const MANAGER_PATH: &str = "/org/freedesktop/Telepathy/ConnectionManager/pneuma";
/// `ConnectionManager`
pub const MANAGER_INTERFACE: &str = "org.freedesktop.Telepathy.ConnectionManager";
/// Ours: which connections there are.
pub const MANAGER_CONNECTIONS: &str =
    "org.freedesktop.Telepathy.ConnectionManager.Interface.Pneuma.Connections1";
/// Where viewers of messages look for them.
pub const DEBUG_PATH: &str = "/org/freedesktop/Telepathy/debug";
/// Ours: how much there is to be seen there.
pub const DEBUG_LEVELS: &str = "org.freedesktop.Telepathy.Debug.Interface.Pneuma.Levels1";
/// Ours: which Pneuma a connection manager is.
pub const ABOUT: &str = "org.freedesktop.Telepathy.ConnectionManager.Interface.Pneuma.About1";
/// The protocol, as `.manager` files, `Protocols` and `RequestConnection` name it.
pub const PROTOCOL: &str = "local-xmpp";
/// What the bus name of each of our connections begins with.
pub const CONNECTION_PREFIX: &str = "org.freedesktop.Telepathy.Connection.pneuma.local_xmpp.";
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
/// `Connection.Interface.ContactGroups`
pub const CONTACT_GROUPS: &str = "org.freedesktop.Telepathy.Connection.Interface.ContactGroups";
/// `Connection.Interface.SimplePresence`
pub const SIMPLE_PRESENCE: &str = "org.freedesktop.Telepathy.Connection.Interface.SimplePresence";
/// `Connection.Interface.Aliasing`
pub const ALIASING: &str = "org.freedesktop.Telepathy.Connection.Interface.Aliasing";
/// `Connection.Interface.ContactCapabilities`
pub const CONTACT_CAPABILITIES: &str =
    "org.freedesktop.Telepathy.Connection.Interface.ContactCapabilities";
/// Ours: whom a connection trusts, and why.
pub const TRUST: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Trust1";
/// Ours: what our user lets whom do.
pub const POLICY: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Policy1";
/// Ours: who keeps a connection online.
pub const LEASE: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Lease1";
/// Ours: who finds contacts for a connection.
pub const DISCOVERY: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Discovery1";
/// Ours: tubes that outlive who made them.
pub const KEPT: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Kept1";
/// `Channel`
pub const CHANNEL: &str = "org.freedesktop.Telepathy.Channel";
/// `Channel.Interface.Tube`
pub const TUBE: &str = "org.freedesktop.Telepathy.Channel.Interface.Tube";
/// `Channel.Type.StreamTube`
pub const STREAM_TUBE: &str = "org.freedesktop.Telepathy.Channel.Type.StreamTube";
/// `Channel.Type.DBusTube`
pub const DBUS_TUBE: &str = "org.freedesktop.Telepathy.Channel.Type.DBusTube";
/// `Channel.Type.FileTransfer`
pub const FILE_TRANSFER: &str = "org.freedesktop.Telepathy.Channel.Type.FileTransfer";
/// `Channel.Interface.FileTransfer.Metadata`
pub const FILE_TRANSFER_METADATA: &str =
    "org.freedesktop.Telepathy.Channel.Interface.FileTransfer.Metadata";
/// Ours: a transfer that lasts longer than its channel.
pub const TRANSFER: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Transfer1";
/// Ours: what went through a tube.
pub const STATISTICS: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Statistics1";
/// Ours: a channel that closes when whoever claimed it vanishes.
pub const CLAIM: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Claim1";
/// The bus name and the interface of Mission Control's accounts.
pub const ACCOUNT_MANAGER: &str = "org.freedesktop.Telepathy.AccountManager";
/// The object path of the account manager.
pub const ACCOUNT_MANAGER_PATH: &str = "/org/freedesktop/Telepathy/AccountManager";
/// `Account`
pub const ACCOUNT: &str = "org.freedesktop.Telepathy.Account";
/// What the object path of every account that uses us begins with.
pub const ACCOUNT_PREFIX: &str = "/org/freedesktop/Telepathy/Account/pneuma/local_xmpp/";
/// What the bus names that keep an account online begin with; the account's own name follows.
pub const STAY_PREFIX: &str = "org.freedesktop.Telepathy.Pneuma.Stay.";
/// The bus name and the interface of the channel dispatcher.
pub const CHANNEL_DISPATCHER: &str = "org.freedesktop.Telepathy.ChannelDispatcher";
/// The object path of the channel dispatcher.
pub const CHANNEL_DISPATCHER_PATH: &str = "/org/freedesktop/Telepathy/ChannelDispatcher";
/// `ChannelRequest`
pub const CHANNEL_REQUEST: &str = "org.freedesktop.Telepathy.ChannelRequest";
/// `Client.Handler`
pub const HANDLER: &str = "org.freedesktop.Telepathy.Client.Handler";
/// What the bus names of our own command line begin with, as a client of Mission Control.
pub const CLIENT_PREFIX: &str = "org.freedesktop.Telepathy.Client.Pneuma.";
