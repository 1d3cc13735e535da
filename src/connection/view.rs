//! What a connection publishes: the snapshot that properties and reading methods are answered
//! from, and the signals it emits.

use std::{collections::BTreeMap, sync::Arc};

use actors::{
    model::{ChannelId, ContactHandle, Error},
    ports::{ChannelDescription, Parties, StreamTubeDescription},
};

use super::contacts::{Contact, Contacts, MAX_HANDLES};
use crate::session::trust::{Scope, Terms};

/// `Connection_Status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Connected (0)
    Connected = 0,
    /// Connecting (1)
    Connecting = 1,
    /// Disconnected (2): not connected yet, or never again.
    Disconnected = 2,
}

/// `Connection_Status_Reason`, those that can happen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusReason {
    /// None_Specified (0)
    NoneSpecified = 0,
    /// Requested (1)
    Requested = 1,
    /// Network_Error (2)
    NetworkError = 2,
    /// Authentication_Failed (3)
    AuthenticationFailed = 3,
    /// Encryption_Error (4)
    EncryptionError = 4,
    /// Name_In_Use (5)
    NameInUse = 5,
    /// Cert_Fingerprint_Mismatch (11)
    CertFingerprintMismatch = 11,
}

impl StatusReason {
    /// The reason that says an error best.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::NetworkError(_)
            | Error::ConnectionFailed(_)
            | Error::ConnectionLost(_)
            | Error::ConnectionRefused(_) => StatusReason::NetworkError,
            Error::EncryptionNotAvailable(_) => StatusReason::EncryptionError,
            Error::CertFingerprintMismatch(_) => StatusReason::CertFingerprintMismatch,
            Error::CertInvalid(_) => StatusReason::AuthenticationFailed,
            Error::AlreadyConnected(_) => StatusReason::NameInUse,
            _ => StatusReason::NoneSpecified,
        }
    }
}

/// `Contact_List_State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContactListState {
    /// None (0)
    None = 0,
    /// Waiting (1)
    Waiting = 1,
    /// Success (3)
    Success = 3,
}

/// One channel: where it is, and its immutable properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelDetails {
    /// Which.
    pub id: ChannelId,
    /// Its object path.
    pub path: String,
    /// What is fixed about it.
    pub description: ChannelDescription,
}

impl ChannelDetails {
    /// With whom, and whose wish.
    pub fn parties(&self) -> &Parties {
        self.description.parties()
    }

    /// What is fixed about a stream tube, if it is one.
    pub fn stream_tube(&self) -> Option<&StreamTubeDescription> {
        self.description.stream_tube()
    }
}

/// Everything that can be read of a connection. Replaced as a whole, before the signals that tell
/// of the change are emitted.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// `Status`
    pub status: Status,
    /// `SelfHandle`; `None` (0 on the bus) before Connected.
    pub self_handle: Option<ContactHandle>,
    /// `ContactListState`
    pub contact_list: ContactListState,
    /// Everybody with a handle.
    pub contacts: Arc<Contacts>,
    /// `Requests.Channels`
    pub channels: Arc<BTreeMap<ChannelId, Arc<ChannelDetails>>>,
}

impl ConnectionView {
    /// That of a connection that is not connected yet.
    pub fn new() -> Self {
        ConnectionView {
            status: Status::Disconnected,
            self_handle: None,
            contact_list: ContactListState::None,
            contacts: Arc::default(),
            channels: Arc::default(),
        }
    }

    /// Ourselves, once connected.
    pub fn myself(&self) -> Option<&Arc<Contact>> {
        self.contacts.get(self.self_handle?).ok()
    }

    /// Succeeds while connected.
    ///
    /// # Errors
    /// `Disconnected`.
    pub fn connected(&self) -> Result<(), Error> {
        if self.status == Status::Connected {
            Ok(())
        } else {
            Err(Error::Disconnected("the connection is not online".into()))
        }
    }

    /// The contacts behind these handles.
    ///
    /// # Errors
    /// `Disconnected`, `InvalidHandle` for the first that is nobody's, `InvalidArgument` for more
    /// handles than there can be contacts.
    pub fn contacts_of(&self, handles: &[u32]) -> Result<Vec<Arc<Contact>>, Error> {
        self.connected()?;
        at_once(handles.len())?;
        handles
            .iter()
            .map(|handle| self.contacts.get(ContactHandle(*handle)).cloned())
            .collect()
    }
}

impl Default for ConnectionView {
    fn default() -> Self {
        ConnectionView::new()
    }
}

/// Whether one call may ask for so many contacts.
///
/// # Errors
/// `InvalidArgument` for more than there can be.
pub fn at_once(count: usize) -> Result<(), Error> {
    if count > MAX_HANDLES {
        return Err(Error::InvalidArgument(format!(
            "one call asks for at most {MAX_HANDLES} contacts"
        )));
    }
    Ok(())
}

/// A signal of a connection, in the order they are emitted.
#[derive(Clone, Debug, PartialEq)]
pub enum ConnectionSignal {
    /// `Connection.StatusChanged`
    StatusChanged(Status, StatusReason),
    /// `Connection.ConnectionError`
    ConnectionError(Error),
    /// `Connection.SelfContactChanged`, and the older `SelfHandleChanged`
    SelfContactChanged(Arc<Contact>),
    /// `ContactList.ContactListStateChanged`
    ContactListStateChanged(ContactListState),
    /// `ContactList.ContactsChangedWithID`, and the older `ContactsChanged`
    ContactsChanged {
        /// Those who are on the list now.
        changed: Vec<Arc<Contact>>,
        /// Those who are not any more.
        removed: Vec<Arc<Contact>>,
    },
    /// `Aliasing.AliasesChanged`
    AliasesChanged(Vec<Arc<Contact>>),
    /// `SimplePresence.PresencesChanged`
    PresencesChanged(Vec<Arc<Contact>>),
    /// `ContactCapabilities.ContactCapabilitiesChanged`
    CapabilitiesChanged(Vec<Arc<Contact>>),
    /// `Pneuma.Trust1.TrustChanged`
    TrustChanged(Arc<Contact>),
    /// `Pneuma.Policy1.PolicyChanged`
    PolicyChanged {
        /// Rules that are new or say something else.
        set: BTreeMap<Scope, Terms>,
        /// Rules that are gone.
        removed: Vec<Scope>,
    },
    /// `Requests.NewChannels`, and the older `NewChannel`
    NewChannels(Arc<ChannelDetails>),
    /// `Requests.ChannelClosed`
    ChannelClosed(Arc<ChannelDetails>),
}
