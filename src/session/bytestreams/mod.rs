//! Bytestreams: negotiated by stream initiation, carried by SOCKS5 or in-band, secured by TLS and binding.
//!
//! ```text
//!  open()                                          on_request(), accept()
//!  Negotiating ──<si/> SID, methods, id──────────► offered to the layer above
//!       │        ◄──────── methods, the same id─── Waiting        (or refused)
//!       ▼                                            │
//!  Listening ────<query/> streamhosts─────────────►  ▼
//!       │        ◄──────── TCP, SOCKS5, TLS, binding Dialling     several streamhosts side by side
//!       ├──▶ open ◄─────── streamhost-used───────────┼──▶ open
//!       │        ◄──────── item-not-found────────────▼            none of them can be had
//!  In-band ──────<open/>──────────────────────────► Waiting
//!       ▼        ◄──────── TLS, binding in blocks──► ▼
//!  open                                            open
//! ```
//!
//! The sender of the `<si/>` is XEP-0065's initiator: it offers streamhosts, and it is the TLS client
//! though it is dialled. It listens on the address its XML stream has, for one bytestream, only while that
//! bytestream is being opened. Whoever connects is a candidate; several may be tried at once, and the
//! bytestream is the first that proves to be the peer, so that somebody who has seen the SID and connects
//! first gains and spoils nothing. The receiver dials the streamhosts that it is given one a little after
//! the other and takes the first that proves to be the sender; only then does it give its own proof, so both
//! take the same.
//!
//! Where both know in-band bytestreams (`ibb/`), these follow when no streamhost can be had: the answer names
//! both methods in Gabble's `si-multiple`. A peer that does not know that chooses one from the form.
//!
//! There is no task and no actor here: all of it happens inside the futures that [`Bytestreams::open`] and
//! [`IncomingBytestream::accept`] give. Dropping one closes its sockets at once.
//!
//! | bound | what happens there |
//! | --- | --- |
//! | [`Config::max_pending`] and [`Config::max_pending_each`] opening each way | `open` fails, an offer is answered `resource-constraint` |
//! | [`Config::max_offers`] and [`Config::max_offers_each`] that wait for a person, each way | ours fails, the peer's is answered `resource-constraint` |
//! | [`Config::handshake`] for one connection | that candidate is dropped |
//! | [`Config::negotiation`] for one bytestream | it fails |
//! | 16 candidates for one bytestream | the least likely makes room: `socket::MAX_CANDIDATES` |
//! | 8 streamhosts, the peer's own address only | others are passed over |
//! | [`Config::reach`] for a streamhost, where there is another way | the other way is taken |
//! | [`Config::max_in_band`] and [`Config::max_in_band_each`] in-band | `open` fails, the peer's `<open/>` is answered `not-acceptable` |
//!
//! What an in-band bytestream may hold, about half a MiB each at both ends together, is in `ibb/state`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actors::{
    model::{BytestreamId, Error},
    ports::Bytestream,
    runtime::{BoxFuture, Clock, Reply, within},
};
use minidom::Element;

use super::{
    link::{IncomingRequest, Link, LinkSecurity, RequestError, StanzaError},
    trust::Identity,
};
use crate::xmpp::{
    Condition, ErrorKind, ns,
    payload::{bytestreams::Streamhosts, pneuma, si},
};

mod carrier;
mod dbus_tubes;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod group;
pub mod ibb;
mod in_band;
mod incoming;
mod offers;
mod open;
mod places;
mod secure;
mod socket;
mod socks5;
mod streamhosts;

pub use incoming::Incoming;
use places::{Peer, Place, Places};

#[cfg(test)]
mod tests;

/// How bytestreams are to be. See the module's head for what happens at each bound.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whether bytestreams without TLS are allowed, over XML streams without TLS
    /// (`require-encryption` false).
    pub allow_plaintext: bool,
    /// Most bytestreams that may be opening at the same time, each way.
    pub max_pending: usize,
    /// The same with one peer, over however many XML streams.
    pub max_pending_each: usize,
    /// Most offers that may wait for a person's answer at the same time, each way; those that a person
    /// has agreed to and that are not open yet count too.
    pub max_offers: usize,
    /// The same with one peer.
    pub max_offers_each: usize,
    /// How long one connection may take from the first byte to the binding.
    pub handshake: Duration,
    /// How long a streamhost may take until SOCKS5 has succeeded, where the peer knows another way.
    pub reach: Duration,
    /// How long after one streamhost the next one is dialled, while the first says nothing (RFC 8305
    /// section 5).
    pub stagger: Duration,
    /// How long one bytestream may take from the first stanza to the binding.
    pub negotiation: Duration,
    /// Which ways may be used.
    pub methods: Methods,
    /// How in-band bytestreams are to be.
    pub in_band: ibb::Limits,
    /// Most in-band bytestreams at the same time, whoever opened them.
    pub max_in_band: usize,
    /// The same with one peer.
    pub max_in_band_each: usize,
}

/// Which ways bytestreams may go; the account's choice. One at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Methods {
    /// Connections of their own (XEP-0065).
    pub socks5: bool,
    /// Inside the XML stream (XEP-0047), when there is no other way.
    pub in_band: bool,
}

impl Methods {
    /// All there are.
    pub const ALL: Methods = Methods {
        socks5: true,
        in_band: true,
    };

    /// Their namespaces, the preferred first.
    pub fn namespaces(self) -> impl Iterator<Item = &'static str> {
        let socks5 = self.socks5.then_some(ns::BYTESTREAMS);
        socks5.into_iter().chain(self.in_band.then_some(ns::IBB))
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            allow_plaintext: false,
            max_pending: 256,
            max_pending_each: 64,
            max_offers: 256,
            max_offers_each: 32,
            handshake: Duration::from_secs(10),
            reach: Duration::from_secs(3),
            stagger: Duration::from_millis(250),
            negotiation: Duration::from_secs(60),
            methods: Methods::ALL,
            in_band: ibb::Limits::default(),
            max_in_band: 64,
            max_in_band_each: 32,
        }
    }
}

/// Opens and answers bytestreams for all XML streams of one account.
pub struct Bytestreams {
    clock: Arc<dyn Clock>,
    identity: Arc<Identity>,
    config: Config,
    outgoing: Places,
    incoming: Places,
    in_band: Places,
    /// Offers of ours that wait for a person, and the peers' that do.
    offering: Places,
    offered: Places,
    /// The peers', until they are open.
    undecided: offers::Undecided,
    /// Ours, of which the peer may still say that it does not wait for them any more. The end of the XML stream
    /// says nothing of the kind: then the bytestream does not open.
    agreed: offers::Undecided,
    /// Accepted offers that wait for what comes next, by XML stream and SID.
    waiting: Mutex<HashMap<Key, Waiting>>,
    /// In-band bytestreams, from their opening to their end.
    shelf: Arc<ibb::Shelf>,
}

/// Where a request of the peer's is answered.
type Answer = Reply<Result<Option<Element>, StanzaError>>;

/// What comes after an offer was accepted.
enum Offered {
    /// Streamhosts, and where the choice among them is answered.
    Streamhosts(Streamhosts, Answer),
    /// It has been opened in-band.
    InBand(ibb::Carrier),
}

/// An accepted offer that waits for what comes next.
struct Waiting {
    /// What may come.
    methods: Methods,
    /// Whether TLS goes inside.
    secured: bool,
    reply: Reply<Offered>,
}

/// What a bytestream of ours is for.
#[derive(Clone, Debug)]
pub struct Purpose {
    /// `profile`
    pub profile: &'static str,
    /// `mime-type`
    pub mime_type: Option<String>,
    /// The profile's own elements.
    pub elements: Vec<Element>,
}

/// A peer's stream initiation that the layer above has to decide on.
pub struct SiOffer {
    /// `profile`
    pub profile: String,
    /// `mime-type`
    pub mime_type: Option<String>,
    /// The profile's own elements, one at least.
    pub elements: Vec<Element>,
    /// The bytestream; dropping it refuses.
    pub incoming: Box<Incoming>,
}

impl std::fmt::Debug for SiOffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiOffer")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Bytestreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bytestreams")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

/// Whether TLS goes inside.
enum Mode {
    Secured(LinkSecurity),
    Plain,
}

impl Bytestreams {
    /// Bytestreams of an account with this key.
    pub fn new(clock: Arc<dyn Clock>, identity: Arc<Identity>, config: Config) -> Arc<Self> {
        Arc::new(Bytestreams {
            clock,
            identity,
            config,
            outgoing: Places::default(),
            incoming: Places::default(),
            in_band: Places::default(),
            offering: Places::default(),
            offered: Places::default(),
            undecided: offers::Undecided::default(),
            agreed: offers::Undecided::default(),
            waiting: Mutex::default(),
            shelf: Arc::default(),
        })
    }

    /// Which ways they go.
    pub fn methods(&self) -> Methods {
        self.config.methods
    }

    /// How many bytestreams are being opened now, both ways together.
    pub fn pending(&self) -> usize {
        self.outgoing.taken() + self.incoming.taken()
    }

    /// How many offers wait for a person's answer or for what comes after it, both ways together.
    pub fn offers(&self) -> usize {
        self.offering.taken() + self.offered.taken()
    }

    /// Opens a bytestream to the link's peer, whose program decides: `profile` and `purpose` say what for, `id` is the
    /// connection's. Dropping the future gives up and leaves nothing behind.
    ///
    /// # Errors
    /// `NotAvailable` when the peer does not know what it is for, `ConnectionRefused` when it or its
    /// service refuses, `ConnectionFailed` when no
    /// connection can be made or proves to be the peer's, `EncryptionNotAvailable` when it would be
    /// in plaintext and may not, `Offline` when the XML stream ends, `ResourceUnavailable` at
    /// [`Config::max_pending`] or without descriptors.
    pub fn open(
        self: &Arc<Self>,
        link: Arc<dyn Link>,
        id: BytestreamId,
        profile: &'static str,
        purpose: Element,
    ) -> BoxFuture<'static, Result<Bytestream, Error>> {
        let this = self.clone();
        let purpose = Purpose {
            profile,
            mime_type: None,
            elements: vec![purpose],
        };
        Box::pin(async move {
            let _place = this.place(&this.outgoing, &*link).ok_or_else(|| {
                Error::ResourceUnavailable("too many connections are being opened".into())
            })?;
            let time = this.config.negotiation;
            within(&*this.clock, time, this.opened(&*link, id, purpose))
                .await
                .unwrap_or_else(|| {
                    Err(Error::ConnectionFailed(
                        "the contact did not connect in time".into(),
                    ))
                })
        })
    }

    /// Whether [`Bytestreams::on_request`] answers a request with this payload.
    pub fn understands(payload: &Element) -> bool {
        payload.is("si", ns::SI)
            || payload.is("query", ns::BYTESTREAMS)
            || Bytestreams::is_in_band(payload)
    }

    /// Whether a request belongs to an in-band bytestream. Those come many at a time, and have
    /// bounds of their own.
    pub fn is_in_band(payload: &Element) -> bool {
        payload.has_ns(ns::IBB)
    }

    /// Whether it is a person who answers a request with this payload. Those wait for as long as that
    /// takes, and have bounds of their own.
    pub fn is_for_a_person(payload: &Element) -> bool {
        payload.is("si", ns::SI)
            && payload
                .attr("profile")
                .is_some_and(|profile| offers::is_for_a_person(profile, payload.children()))
    }

    /// Takes a request of the link's peer (`<iq type='set'/>` with `<si/>`, with streamhosts or for
    /// in-band bytestreams). A stream initiation that can be had is handed back to be decided on;
    /// everything else is answered here.
    pub fn on_request(
        self: &Arc<Self>,
        link: &Arc<dyn Link>,
        request: IncomingRequest,
    ) -> Option<SiOffer> {
        let IncomingRequest { payload, answer } = request;
        let result = if payload.is("si", ns::SI) {
            self.offered(link, &payload)
        } else if payload.is("query", ns::BYTESTREAMS) {
            match self.streamhosts(&**link, &payload, answer) {
                Ok(()) => return None,
                Err((answer, error)) => {
                    refuse(answer, error);
                    return None;
                }
            }
        } else if Bytestreams::is_in_band(&payload) {
            self.in_band(&**link, &payload, answer);
            return None;
        } else {
            Err(StanzaError::new(Condition::ServiceUnavailable))
        };
        match result {
            Ok((said, offer)) => Some(SiOffer {
                profile: said.profile,
                mime_type: said.mime_type,
                elements: said.extra,
                incoming: Box::new(Incoming::new(self.clone(), link.clone(), offer, answer)),
            }),
            Err(error) => {
                refuse(answer, error);
                None
            }
        }
    }

    /// The link's XML stream has ended: what still waits for it fails now rather than at the end of
    /// its time. Bytestreams that are open stay open, but for those that it carries in-band.
    pub fn link_ended(&self, link: &dyn Link) {
        let ended = stream(link);
        self.waiting().retain(|(stream, _), _| *stream != ended);
        self.undecided.link_ended(ended);
        self.shelf.link_ended(ended);
        link.lane().end();
    }

    /// What it says, without our own word about TLS, and what is made of it.
    fn offered(
        self: &Arc<Self>,
        link: &Arc<dyn Link>,
        payload: &Element,
    ) -> Result<(si::Offer, incoming::Offer), StanzaError> {
        let bad = |error: crate::xmpp::payload::Malformed| {
            StanzaError::with_text(Condition::BadRequest, error.0)
        };
        let mut offer = si::Offer::parse(payload).map_err(bad)?;
        let id = pneuma::find(&offer.extra).map_err(bad)?;
        let methods: Vec<&'static str> = offer
            .methods
            .iter()
            .filter_map(|offered| {
                self.config
                    .methods
                    .namespaces()
                    .find(|ours| ours == offered)
            })
            // Without Gabble's word the first is all there is.
            .take(if offer.multiple { 2 } else { 1 })
            .collect();
        if methods.is_empty() {
            return Err(StanzaError {
                kind: ErrorKind::Cancel,
                condition: Condition::BadRequest,
                text: Some("no stream method in common".into()),
            });
        }
        let mode = match (link.security(), id) {
            // The element says it inside an authenticated stream, which is as good as service
            // discovery there.
            (Some(security), Some(_)) => Mode::Secured(security),
            (None, None) if self.config.allow_plaintext => Mode::Plain,
            _ => {
                return Err(StanzaError::with_text(
                    Condition::NotAcceptable,
                    "connections have to be secured",
                ));
            }
        };
        let id = match id {
            Some(id) => id,
            None => random_id().map_err(|_| StanzaError::new(Condition::InternalServerError))?,
        };
        offer
            .extra
            .retain(|element| !element.is("secured", ns::PNEUMA));
        if offer.extra.is_empty() {
            return Err(StanzaError::with_text(
                Condition::BadRequest,
                "a stream without a purpose",
            ));
        }
        let full = || StanzaError::new(Condition::ResourceConstraint);
        let (place, person) = if offers::is_for_a_person(&offer.profile, offer.extra.iter()) {
            (None, Some(self.undecided(link, &offer.id)?))
        } else {
            let place = self.place(&self.incoming, &**link).ok_or_else(full)?;
            (Some(place), None)
        };
        let made = incoming::Offer {
            sid: offer.id.clone(),
            methods,
            id,
            mode,
            place,
            person,
        };
        Ok((offer, made))
    }

    /// Hands streamhosts to the offer that waits for them; or gives back the answer's place and
    /// what to answer.
    fn streamhosts(
        &self,
        link: &dyn Link,
        payload: &Element,
        answer: Answer,
    ) -> Result<(), (Answer, StanzaError)> {
        let hosts = match Streamhosts::parse(payload) {
            Ok(hosts) => hosts,
            Err(error) => {
                let error = StanzaError::with_text(Condition::BadRequest, error.0);
                return Err((answer, error));
            }
        };
        let key = key(link, &hosts.sid);
        let waiting = self.take_waiting(&key, |waiting| waiting.methods.socks5);
        let unknown = || StanzaError::new(Condition::NotAcceptable);
        match waiting {
            None => Err((answer, unknown())),
            Some(waiting) => match waiting.reply.send(Offered::Streamhosts(hosts, answer)) {
                Err(Offered::Streamhosts(_, answer)) => Err((answer, unknown())),
                _ => Ok(()),
            },
        }
    }

    /// Takes one out that waits, if it waits for such a thing.
    fn take_waiting(&self, key: &Key, such: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let mut waiting = self.waiting();
        waiting
            .get(key)
            .is_some_and(such)
            .then(|| waiting.remove(key))?
    }

    fn place(&self, places: &Places, link: &dyn Link) -> Option<Place> {
        let config = &self.config;
        places.take(peer(link), config.max_pending, config.max_pending_each)
    }

    /// The map stays valid whatever panicked while it was locked: every change is one insertion or
    /// one removal.
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One XML stream, by its two addresses: no other's while it lives.
type Stream = (SocketAddr, SocketAddr);

/// One bytestream of one XML stream. SIDs are the peer's choice, so they mean something only
/// together with the stream they came through.
type Key = (Stream, String);

fn stream(link: &dyn Link) -> Stream {
    (link.local_address(), link.peer_address())
}

fn key(link: &dyn Link, sid: &str) -> Key {
    (stream(link), sid.to_owned())
}

fn peer(link: &dyn Link) -> Peer {
    match link.security() {
        Some(security) => Peer::Key(security.peer),
        None => Peer::Address(link.peer_address().ip().to_canonical()),
    }
}

fn random_id() -> Result<BytestreamId, Error> {
    BytestreamId::random()
        .map_err(|error| Error::Confused(format!("the system has no random bytes: {error}")))
}

/// Answers with an error. When nobody waits for the answer any more the XML stream is gone, and so
/// is the request.
fn refuse(answer: Answer, error: StanzaError) {
    tracing::debug!(%error, "a stream initiation was refused");
    if answer.send(Err(error)).is_err() {
        tracing::debug!("the XML stream ended before its answer");
    }
}

/// What the layer above is told when a request of ours has no result. `refused`: what it means that
/// the peer answered with an error.
fn request_failed(error: RequestError, refused: fn(String) -> Error) -> Error {
    let text = error.to_string();
    match error {
        RequestError::Refused { .. } => refused(text),
        RequestError::TimedOut => Error::ConnectionFailed(text),
        RequestError::Gone | RequestError::NotSent => Error::Offline(text),
    }
}
