//! What the actors talk about: the specification's enumerations, addresses, ids and errors.
//!
//! Nothing here does I/O and nothing here knows D-Bus or XML. The floors above translate these
//! types to their own formats: `dbus/` to D-Bus values, `xmpp/` to stanzas.

mod error;
mod id;
mod socket;
mod tube;

pub use error::{Error, Result};
pub use id::{
    BytestreamId, ChannelId, ConnectionId, ContactHandle, OwnerId, ParseBytestreamIdError,
};
pub use socket::{AccessControl, AccessRule, AddressType, ConnectionParameter, SocketAddress};
pub use tube::{
    MAX_PARAMETER_BYTES, MAX_PARAMETERS, MAX_SERVICE_NAME, ParameterValue, ServiceName,
    TubeParameters, TubeState,
};
