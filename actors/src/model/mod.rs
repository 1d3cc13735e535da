//! What the actors talk about: the specification's enumerations, addresses, ids and errors.
//!
//! Nothing here does I/O and nothing here knows D-Bus or XML. The floors above translate these
//! types to their own formats: `dbus/` to D-Bus values, `xmpp/` to stanzas.

mod error;
mod id;
mod socket;
mod transfer;
mod tube;

pub use error::{Error, Result};
pub use id::{
    BytestreamId, ChannelId, ConnectionId, ContactHandle, OwnerId, ParseBytestreamIdError,
};
pub use socket::{AccessControl, AccessRule, AddressType, ConnectionParameter, SocketAddress};
pub use transfer::{
    ContentHash, FileOffer, FileTransferReason, FileTransferState, HashKind, MAX_DESCRIPTION,
    MAX_FILE_NAME, MAX_METADATA_BYTES, MAX_URI, MAX_WORD, Resume, Sha256Digest, TransferId,
    UNKNOWN_CONTENT,
};
pub use tube::{
    MAX_PARAMETER_BYTES, MAX_PARAMETERS, MAX_SERVICE_NAME, ParameterValue, ServiceName,
    TubeParameters, TubeState,
};
