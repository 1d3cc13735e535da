//! What a session actor is made of and what it is told.

use std::{collections::BTreeSet, sync::Arc};

use actors::{
    model::Error,
    runtime::{BoxFuture, Clock, Mailbox, Reply, SnapshotWriter, Spawner},
};
use async_channel::{Receiver, Sender};

use super::super::{
    contacts::Contacts,
    discovery::{Discovery, DiscoveryEvent, PresenceText},
    network::{Listening, Network},
    stream::{StreamContext, StreamEvent, StreamId, StreamLink},
};
use crate::{
    session::{
        ContactId, Presence, SessionEvent,
        bytestreams::Methods,
        trust::{KeyId, Policy, Profile, Scope, Terms, TrustTable},
    },
    xmpp::{ns, payload::disco},
};

/// A stream to a contact, for whoever asked.
#[derive(Clone, Debug)]
pub struct Linked {
    /// The stream.
    pub link: Arc<StreamLink>,
    /// The contact's features, if it answered.
    pub features: Option<Arc<BTreeSet<String>>>,
}

/// What the session is told and asked.
pub enum Message {
    /// [`crate::session::Session::connect`]
    Connect(Reply<Result<(), Error>>),
    /// Discovery and listeners are started.
    Started(Result<(Listening, Receiver<DiscoveryEvent>), Error>),
    /// [`crate::session::Session::disconnect`]
    Disconnect(Reply<()>),
    /// Discovery has said goodbye.
    Withdrawn,
    /// [`crate::session::Session::set_presence`]
    SetPresence(Presence, Reply<Result<(), Error>>),
    /// [`crate::session::Session::set_alias`]
    SetAlias(String, Reply<Result<(), Error>>),
    /// [`crate::session::Session::set_features`]
    SetFeatures(BTreeSet<String>, Reply<()>),
    /// A stream to a contact is wanted.
    Link {
        /// To whom.
        contact: ContactId,
        /// The one there was turned out to be gone.
        gone: Option<Arc<StreamLink>>,
        /// Done when it is open.
        reply: Reply<Result<Linked, Error>>,
    },
    /// [`crate::session::Session::pin`]
    Pin {
        /// Whom.
        contact: ContactId,
        /// The key our user was shown.
        expected: Option<KeyId>,
        /// Done when it is stored.
        reply: Reply<Result<(), Error>>,
    },
    /// [`crate::session::Session::verify`]
    Verify {
        /// Whom.
        contact: ContactId,
        /// The code our user compared.
        code: String,
        /// Whether a pinned key may be replaced.
        replace: bool,
        /// Done when it is stored.
        reply: Reply<Result<(), Error>>,
    },
    /// [`crate::session::Session::set_rule`]
    SetRule(Scope, Option<Terms>, Reply<Result<(), Error>>),
    /// [`crate::session::Session::forget`]
    Forget(ContactId, Reply<Result<(), Error>>),
    /// The table of trusted keys was written, or could not be.
    Saved(Result<(), Error>),
    /// A stream's task ended.
    Ended(StreamId, Result<(), Error>),
}

/// Our names and presence, as they are announced.
#[derive(Clone, Debug, Default)]
pub struct Identification {
    /// `user@machine`, before conflicts.
    pub name: String,
    /// The TXT record's personal part.
    pub text: PresenceText,
}

/// Where the table of trusted keys is kept.
pub trait TrustStore: Send + Sync + 'static {
    /// Writes it; it survives a crash when this is done.
    fn save(&self, table: TrustTable) -> BoxFuture<'static, Result<(), Error>>;
}

impl TrustStore for Arc<Profile> {
    fn save(&self, table: TrustTable) -> BoxFuture<'static, Result<(), Error>> {
        let profile = self.clone();
        // The disk may be slow; the executor must not wait for it.
        Box::pin(smol::unblock(move || profile.save_trust(&table)))
    }
}

/// What a session actor is made of.
pub struct Parts {
    /// Who we are.
    pub identification: Identification,
    /// Whether plaintext is out of the question.
    pub require_encryption: bool,
    /// What streams share.
    pub streams: StreamContext,
    /// Their events.
    pub stream_events: Mailbox<(StreamId, StreamEvent)>,
    /// Our features, as streams answer them.
    pub info: SnapshotWriter<disco::Info>,
    /// Who is who.
    pub contacts: Contacts,
    /// What our user lets whom do, as far as it is stored.
    pub policy: SnapshotWriter<Policy>,
    /// Stores the table of trusted keys.
    pub store: Arc<dyn TrustStore>,
    /// Finds contacts.
    pub discovery: Arc<dyn Discovery>,
    /// Connects.
    pub network: Arc<dyn Network>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Runs tasks.
    pub spawner: Spawner,
    /// Where events go.
    pub events: Sender<SessionEvent>,
}

/// `node` of our capabilities (XEP-0115).
pub(super) const NODE: &str = "https://telepathy.freedesktop.org/pneuma";

/// What we answer to service discovery, with these features beside our own.
pub fn info(methods: Methods, more: BTreeSet<String>) -> disco::Info {
    let own = [
        ns::DISCO_INFO,
        ns::SI,
        ns::TUBES,
        ns::PNEUMA,
        "urn:xmpp:ping",
    ];
    disco::Info {
        node: None,
        identities: BTreeSet::from([disco::Identity {
            category: "client".into(),
            kind: "pc".into(),
            lang: String::new(),
            name: "Pneuma".into(),
        }]),
        features: own
            .into_iter()
            .chain(methods.namespaces())
            .map(str::to_owned)
            .chain(more)
            .collect(),
    }
}
