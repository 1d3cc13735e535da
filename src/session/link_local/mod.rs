//! The link-local protocol (XEP-0174): discovery, XML streams, contacts.
//!
//! ```text
//!  connection/ ── Session ──▶ handle ──▶ actor ──┬── contacts (pure: who is who, whom to trust)
//!              ◀─ SessionEvent ──────────┘       ├── discovery (mDNS: ours or the Avahi daemon's)
//!                                                ├── network (TCP, listeners)
//!  tubes ── TubeSignalling, BytestreamConnector  └── stream (one task for each XML stream)
//!  files ── FileSending                                   │
//!              └──────── Link ────────────────────────────┘
//! ```
//!
//! One [`start`] for each account. An embedder should know: mdns-sd has a thread of its own, timers and
//! sockets use async-io's thread, and the table of trusted keys is written on the blocking pool of smol;
//! these three are global to the process. Everything else runs on the executor handed in.

use std::{path::PathBuf, sync::Arc};

use actors::{
    model::Error,
    runtime::{Clock, Mailbox, Snapshot, Spawner, Stopper, catch},
};
use async_channel::Receiver;

use super::{
    Session, SessionEvent,
    bytestreams::{self, Bytestreams},
    trust::{Identity, Profile, TrustTable},
};
use crate::runtime::OurRuntime;

mod actor;
pub mod contacts;
mod dbus_tubes;
pub mod discovery;
mod fault;
mod files;
mod handle;
pub mod network;
pub mod peers;
pub mod stream;
#[cfg(test)]
mod tests;

use actor::{Identification, Parts, SessionActor, TrustStore};
use contacts::Contacts;
use discovery::{
    Discovery, MAX_INSTANCE, Method, PresenceText, avahi, clean,
    driver::{MulticastDns, Settings},
    truncated,
};
use fault::Faults;
use network::{Network, Tcp};
use stream::StreamContext;

/// The port of multicast DNS (RFC 6762).
pub const MDNS_PORT: u16 = 5353;
/// Commands that may wait for the session.
const MAILBOX: usize = 256;
/// Events of all streams that may wait for the session.
const STREAM_EVENTS: usize = 64;
/// Events that may wait for the connection above, beside the outbox.
const EVENTS: usize = 64;

/// An account, by the names `.manager` files use.
#[derive(Clone, Debug)]
pub struct LinkLocalConfig {
    /// `published-name`: the part before `@machine`. Not empty.
    pub published_name: String,
    /// `first-name`
    pub first_name: String,
    /// `last-name`
    pub last_name: String,
    /// `nickname`
    pub nickname: String,
    /// `email`
    pub email: String,
    /// `jid`
    pub jid: String,
    /// `require-encryption`: false allows contacts that offer no encryption and are not pinned.
    pub require_encryption: bool,
    /// Where key and trust lie: `$XDG_STATE_HOME/pneuma/PROFILE`.
    pub profile_dir: PathBuf,
    /// The only interface to be used; else all of them, loopback included.
    pub interface: Option<String>,
    /// [`MDNS_PORT`], but in tests. Avahi knows no other.
    pub mdns_port: u16,
    /// `pneuma-discovery`: who speaks multicast DNS for us.
    pub discovery: Method,
    /// `pneuma-bytestreams`: which ways the bytes may go.
    pub bytestreams: bytestreams::Methods,
}

/// Opens the profile (which blocks for as long as the disk takes) and starts the session's actor,
/// offline. The session ends when its last handle is dropped, or after
/// [`SessionEvent::Disconnected`].
///
/// # Errors
/// `InvalidArgument` for an empty name, and what [`Profile::open`] says.
pub fn start(
    config: LinkLocalConfig,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<dyn Session>, Receiver<SessionEvent>), Error> {
    let profile = Profile::open(&config.profile_dir)?;
    let identity = profile.identity()?;
    let discovery = MulticastDns::new(Settings {
        method: config.discovery,
        port: config.mdns_port,
        interface: config.interface.clone(),
        key: identity.id(),
        spawner: spawner.clone(),
        clock: clock.clone(),
        bus: avahi::system_bus(OurRuntime::new(spawner.clone())),
    });
    let loopback = config.interface.as_deref() == Some("lo");
    let network = Tcp::new(loopback, clock.clone(), spawner.clone());
    start_with(
        &config,
        Surroundings {
            identity,
            trust: profile.trust()?,
            store: Arc::new(Arc::new(profile)),
            discovery: Arc::new(discovery),
            network: Arc::new(network),
            spawner,
            clock,
            faults: Faults::default(),
        },
    )
}

/// What [`start_with`] is given in place of the machine's own.
struct Surroundings {
    identity: Identity,
    trust: TrustTable,
    store: Arc<dyn TrustStore>,
    discovery: Arc<dyn Discovery>,
    network: Arc<dyn Network>,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    faults: Faults,
}

fn start_with(
    config: &LinkLocalConfig,
    surroundings: Surroundings,
) -> Result<(Arc<dyn Session>, Receiver<SessionEvent>), Error> {
    let Surroundings {
        identity,
        trust,
        store,
        discovery,
        network,
        spawner,
        clock,
        faults,
    } = surroundings;
    let identity = identity
        .for_this_run()
        .map_err(|error| Error::Confused(error.to_string()))?;
    let identity = Arc::new(identity);
    let (policy_writer, policy) = Snapshot::new(trust.policy().clone());
    let contacts = Contacts::new(identity.id(), config.require_encryption, trust);
    let identification = Identification {
        name: instance_name(&config.published_name)?,
        text: PresenceText {
            first_name: clean(&config.first_name),
            last_name: clean(&config.last_name),
            nickname: clean(&config.nickname),
            email: clean(&config.email),
            jid: clean(&config.jid),
            ..PresenceText::default()
        },
    };
    let bytestreams = Bytestreams::new(
        clock.clone(),
        identity.clone(),
        bytestreams::Config {
            allow_plaintext: !config.require_encryption,
            methods: config.bytestreams,
            ..bytestreams::Config::default()
        },
    );
    let (info_writer, info) = Snapshot::new(actor::info(
        config.bytestreams,
        std::collections::BTreeSet::new(),
    ));
    let (mailbox, address) = Mailbox::new(MAILBOX);
    let (stream_events, stream_address) = Mailbox::new(STREAM_EVENTS);
    let (events, receiver) = async_channel::bounded(EVENTS);
    let (stopper, stop) = Stopper::new();
    let streams = StreamContext {
        identity: identity.clone(),
        info,
        bytestreams: bytestreams.clone(),
        clock: clock.clone(),
        spawner: spawner.clone(),
        events: stream_address,
        faults,
    };
    let (failed, announced) = (events.clone(), discovery.clone());
    let found_by = discovery.clone();
    let parts = Parts {
        identification,
        require_encryption: config.require_encryption,
        streams,
        stream_events,
        info: info_writer,
        contacts,
        policy: policy_writer,
        store,
        discovery,
        network,
        clock: clock.clone(),
        spawner: spawner.clone(),
        events,
    };
    let actor = SessionActor::new(parts, mailbox, address.clone(), stop);
    let task = spawner.spawn("link-local session", actor.run());
    // A session whose actor has failed is offline for good; its streams end with it.
    let watch = async move {
        let (Ok(Err(failure)) | Err(failure)) = task.await else {
            return;
        };
        tracing::error!(%failure, "a session ends because it failed");
        let error = Error::Confused(format!("the session {failure}"));
        // Whoever does not listen any more need not know.
        let told = async {
            failed
                .send(SessionEvent::Disconnected(error))
                .await
                .unwrap_or(())
        };
        // What was announced would lead others to a port nobody listens on.
        let withdrawn = async { catch("goodbye", announced.stop()).await.unwrap_or(()) };
        futures_lite::future::zip(told, withdrawn).await;
    };
    spawner.spawn("link-local session watcher", watch).detach();
    let session = handle::LocalSession {
        address,
        key: identity.id(),
        policy,
        bytestreams,
        clock,
        discovery: found_by,
        _stopper: stopper,
    };
    Ok((Arc::new(session), receiver))
}

/// `user@machine` (XEP-0174 section 3), of a length DNS can carry.
fn instance_name(published: &str) -> Result<String, Error> {
    let published = clean(published);
    if published.is_empty() {
        return Err(Error::InvalidArgument(
            "the published name must not be empty".into(),
        ));
    }
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let host = clean(host.split('.').next().unwrap_or_default());
    let host = match truncated(&host, 20) {
        "" => "localhost",
        host => host,
    };
    let published = truncated(&published, MAX_INSTANCE - host.len() - 1);
    Ok(format!("{published}@{host}"))
}
