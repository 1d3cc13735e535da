//! XMPP input and output: what a Connection needs from a protocol, and the protocols.
//!
//! `connection/` sees only the [`Session`] trait and the [`SessionEvent`]s; only `link_local/`
//! knows what is link-local, so that a server account is a second implementation of the same trait.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use actors::{
    model::{Error, FileOffer, ServiceName, TubeParameters},
    ports::{
        BytestreamConnector, DBusTubeOffering, FileSending, IncomingBytestream, IncomingDBusTube,
        IncomingFile, TubeSignalling,
    },
    runtime::BoxFuture,
};

pub mod bytestreams;
pub mod lane;
pub mod link;
pub mod link_local;
pub mod tls;
pub mod trust;

use trust::{KeyId, Policy, Scope, Terms};

/// Whom a stanza goes to: a contact and, where the protocol has them, one of its resources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId {
    /// The contact's identifier, as `Contact_ID` on D-Bus.
    pub contact: ContactId,
    /// A resource of it; link-local contacts have none.
    pub resource: Option<String>,
}

/// A contact's identifier as this protocol normalises it (`Connection.Interface.Contacts/contact-id`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContactId(pub String);

impl std::fmt::Display for ContactId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `id` of a tube on the wire: random, 1 to 2³²−1, chosen by the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TubeId(pub u32);

/// `Connection_Presence_Type`, as far as link-local has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Show {
    /// Not on the network.
    Offline,
    /// `avail`
    Available,
    /// `away`
    Away,
    /// `dnd`
    Busy,
}

/// A presence and its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The kind.
    pub show: Show,
    /// What the person wrote beside it.
    pub message: String,
}

/// How far a contact's key is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The contact announces no key (a plain XEP-0174 client).
    NoKey,
    /// A key was announced or seen, and our user never had to do with it.
    Unpinned,
    /// Our user dealt with the contact: this key and no other belongs to it.
    Pinned {
        /// Since when.
        since: SystemTime,
    },
    /// Our user compared codes.
    Verified {
        /// Since when the key is pinned.
        since: SystemTime,
        /// When the codes were compared.
        verified: SystemTime,
    },
    /// The name is pinned to another key. Nothing goes to or comes from it.
    Blocked {
        /// The key that is pinned for the name.
        pinned: KeyId,
    },
}

/// What is known of a contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its identifier. For a second contact under a pinned name: the name and a part of the key.
    pub id: ContactId,
    /// The name it gives itself; never selects a contact.
    pub alias: String,
    /// Its presence; Offline for a pinned contact that is not on the network.
    pub presence: Presence,
    /// Features from service discovery inside an authenticated stream (or, where plaintext is
    /// allowed, an unauthenticated one). `None` until it has answered.
    pub features: Option<Arc<BTreeSet<String>>>,
    /// The key it proved, or, while it proved none, the one it announces.
    pub key: Option<KeyId>,
    /// How far that key is trusted.
    pub trust: Trust,
}

/// What happens on a session, in order. The channel is bounded; a session waits for its reader.
pub enum SessionEvent {
    /// Online, under this identifier.
    Connected {
        /// Our own identifier, after conflicts of names were resolved.
        self_id: ContactId,
        /// Our own alias.
        alias: String,
    },
    /// Our own identifier changed (somebody else has the name).
    SelfIdChanged(ContactId),
    /// A contact appeared or changed.
    Contact(Contact),
    /// A contact that is not pinned disappeared from the network and is forgotten.
    ContactRemoved(ContactId),
    /// A contact has had no live authenticated stream for the grace period since it was last seen,
    /// or its program was started anew, or its name belongs to another key now, or our user had its key forgotten:
    /// its tubes close.
    ContactLost(ContactId),
    /// A contact offers a stream tube.
    TubeOffered {
        /// Who.
        from: PeerId,
        /// The tube.
        tube: TubeId,
        /// `StreamTube.Service`.
        service: ServiceName,
        /// `Tube.Parameters`.
        parameters: TubeParameters,
    },
    /// A contact closed a tube.
    TubeClosed {
        /// Who.
        from: PeerId,
        /// The tube.
        tube: TubeId,
    },
    /// A contact asks for a connection through a tube that we offered. Dropping the stream
    /// refuses it.
    StreamOffered {
        /// Who.
        from: PeerId,
        /// The tube.
        tube: TubeId,
        /// The bytestream.
        stream: Box<dyn IncomingBytestream>,
    },
    /// A contact offers a file. Dropping it declines it.
    FileOffered {
        /// Who.
        from: PeerId,
        /// The file; its bounds are kept ([`FileOffer::check`]), and everything in it is the peer's word.
        file: FileOffer,
        /// The offer.
        incoming: Box<dyn IncomingFile>,
    },
    /// A contact offers a D-Bus tube. Dropping it declines it.
    DBusTubeOffered {
        /// Who.
        from: PeerId,
        /// The tube.
        tube: TubeId,
        /// `DBusTube.ServiceName`, a bus name.
        service: ServiceName,
        /// `Tube.Parameters`.
        parameters: TubeParameters,
        /// The offer.
        incoming: Box<dyn IncomingDBusTube>,
    },
    /// Offline for good.
    Disconnected(Error),
}

/// What one tube needs of its session.
#[derive(Clone)]
pub struct TubePorts {
    /// Opens bytestreams to the contact.
    pub connector: Arc<dyn BytestreamConnector>,
    /// Tells the contact about the tube.
    pub signalling: Arc<dyn TubeSignalling>,
}

/// One account, online. Made by the protocol's `start`, which also gives the receiver of its
/// [`SessionEvent`]s. Nothing is published before [`Session::connect`].
pub trait Session: Send + Sync + 'static {
    /// Goes online; [`SessionEvent::Connected`] tells when it is.
    ///
    /// # Errors
    /// `NetworkError` and what the protocol adds.
    fn connect(&self) -> BoxFuture<'static, Result<(), Error>>;

    /// Goes offline in order: goodbye, streams closed.
    fn disconnect(&self) -> BoxFuture<'static, ()>;

    /// Sets our presence; remembered while offline.
    ///
    /// # Errors
    /// `InvalidArgument` for what cannot be announced.
    fn set_presence(&self, presence: Presence) -> BoxFuture<'static, Result<(), Error>>;

    /// Sets our alias (`nick`).
    ///
    /// # Errors
    /// `InvalidArgument` for what cannot be announced.
    fn set_alias(&self, alias: String) -> BoxFuture<'static, Result<(), Error>>;

    /// Sets the features announced beside the built-in ones: `T/stream#SERVICE` and the like.
    fn set_features(&self, features: BTreeSet<String>) -> BoxFuture<'static, ()>;

    /// The ports of a tube with `peer`.
    fn tube(&self, peer: &PeerId, tube: TubeId) -> TubePorts;

    /// The port of a file that is sent to `peer`. Nothing is said to the peer before
    /// [`FileSending::offer`].
    fn file(&self, peer: &PeerId, file: FileOffer) -> Arc<dyn FileSending>;

    /// The port of a D-Bus tube that is offered to `peer`. Nothing is said to the peer before
    /// [`DBusTubeOffering::offer`].
    fn dbus_tube(&self, peer: &PeerId, tube: TubeId) -> Arc<dyn DBusTubeOffering>;

    /// Who finds contacts for this session now, by a name of the protocol's; nobody where there is no
    /// choice, and before it is online.
    fn responder(&self) -> Option<&'static str> {
        None
    }

    /// Our own key, once the profile is open.
    fn self_key(&self) -> KeyId;

    /// Our user deals with this contact: pins the key it proves (an offer, an accept). A contact
    /// without a key stays as it is where plaintext is allowed. `expected` is the key our user was
    /// shown, where that is known: no other one is pinned.
    ///
    /// # Errors
    /// `CertFingerprintMismatch` for a blocked contact or another key than the expected one,
    /// `EncryptionNotAvailable` for one without a key where encryption is required, `Offline`.
    fn pin(
        &self,
        contact: &ContactId,
        expected: Option<KeyId>,
    ) -> BoxFuture<'static, Result<(), Error>>;

    /// Marks a contact verified: `code` is what our user compared. With `replace`, the key of a
    /// blocked contact takes the place of the pinned one.
    ///
    /// # Errors
    /// `InvalidArgument` when the code is not the right one, `CertFingerprintMismatch` for a
    /// blocked contact without `replace`, `NotAvailable` for one without a key.
    fn verify(
        &self,
        contact: &ContactId,
        code: &str,
        replace: bool,
    ) -> BoxFuture<'static, Result<(), Error>>;

    /// What our user lets whom do, as it is stored.
    fn policy(&self) -> Arc<Policy>;

    /// Makes a rule, or, with `None`, takes it back. When this is done it is stored, and
    /// [`Session::policy`] has it.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no rule, `ResourceUnavailable` for one too many, `NotAvailable`
    /// when there is none to take back.
    fn set_rule(&self, scope: Scope, terms: Option<Terms>)
    -> BoxFuture<'static, Result<(), Error>>;

    /// Forgets a contact's key and the rules for it; its tubes close ([`SessionEvent::ContactLost`]).
    ///
    /// # Errors
    /// `NotAvailable` when nothing is pinned.
    fn forget(&self, contact: &ContactId) -> BoxFuture<'static, Result<(), Error>>;
}
