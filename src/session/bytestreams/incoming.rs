//! Answering: the side that gets the `<si/>`, dials, and is the TLS server.

use std::{collections::hash_map::Entry, net::SocketAddr, sync::Arc};

use actors::{
    model::{BytestreamId, Error},
    ports::{Bytestream, IncomingBytestream},
    runtime::{BoxFuture, Pending, Reply, within},
};
use futures_lite::FutureExt as _;
use minidom::Element;

use super::{
    Answer, Bytestreams, Key, Methods, Mode, Offered, Place, Waiting,
    carrier::TcpCarrier,
    group::Group,
    key,
    offers::Waited,
    refuse,
    secure::{self, Expected, Proven},
    socket, streamhosts,
};
use crate::{
    session::link::{Link, StanzaError},
    xmpp::{
        Condition, ErrorKind, ns,
        payload::{
            bytestreams::{Streamhosts, destination, streamhost_used},
            pneuma, si, tube,
        },
    },
};

/// A stream initiation that was understood.
pub(super) struct Offer {
    pub(super) sid: String,
    /// What it offers and we allow, in its order; one, unless it takes several. Not empty.
    pub(super) methods: Vec<&'static str>,
    pub(super) id: BytestreamId,
    pub(super) mode: Mode,
    /// Its place among those that are being opened, once it is.
    pub(super) place: Option<Place>,
    /// Of an offer that a person decides on.
    pub(super) person: Option<Waited>,
}

impl Offer {
    /// Which bytestream it must turn out to be, where that can be told.
    fn expected(&self) -> Option<Expected> {
        match &self.mode {
            Mode::Secured(link) => Some(Expected {
                sid: self.sid.clone(),
                id: self.id,
                link: link.clone(),
            }),
            Mode::Plain => None,
        }
    }

    /// Waits for the peer's next step.
    async fn step(&self, pending: Pending<Offered>) -> Result<Offered, Error> {
        let came = async { pending.wait().await.map_err(|_| gone()) };
        let taken_back = async {
            match &self.person {
                Some(person) => person.end().stopped().await,
                None => std::future::pending().await,
            }
            Err(Error::Rejected("the contact took its offer back".into()))
        };
        came.or(taken_back).await
    }
}

/// The same, waiting for a decision. Dropping it refuses it.
pub struct Incoming {
    streams: Arc<Bytestreams>,
    link: Arc<dyn Link>,
    id: BytestreamId,
    /// What [`IncomingBytestream::accept`] takes; dropping it refuses.
    undecided: Option<(Offer, Answer)>,
}

impl Incoming {
    pub(super) fn new(
        streams: Arc<Bytestreams>,
        link: Arc<dyn Link>,
        offer: Offer,
        answer: Answer,
    ) -> Self {
        Incoming {
            streams,
            link,
            id: offer.id,
            undecided: Some((offer, answer)),
        }
    }

    /// Whether TLS goes inside.
    pub(super) fn is_secured(&self) -> bool {
        let offer = self.undecided.as_ref().map(|(offer, _)| offer);
        offer.is_some_and(|offer| matches!(offer.mode, Mode::Secured(_)))
    }

    /// Completes when the peer takes the offer back, or its XML stream ends. For those that a person
    /// decides on.
    pub(super) fn withdrawn(&self) -> BoxFuture<'static, ()> {
        let person = |(offer, _): &(Offer, Answer)| offer.person.as_ref().map(Waited::end);
        let end = self.undecided.as_ref().and_then(person);
        Box::pin(async move {
            match end {
                Some(end) => end.stopped().await,
                None => std::future::pending().await,
            }
        })
    }

    /// Refuses. The reason is for our side; the peer learns no more than what to do about it.
    pub(super) fn decline(self, why: &Error) {
        self.answer(declined(match why {
            Error::ResourceUnavailable(_) => Condition::ResourceConstraint,
            Error::NotAvailable(_) => Condition::ItemNotFound,
            Error::NotCapable(_) => Condition::ServiceUnavailable,
            _ => Condition::Forbidden,
        }));
    }

    /// Refuses with this.
    pub(super) fn answer(mut self, error: StanzaError) {
        if let Some((_, answer)) = self.undecided.take() {
            refuse(answer, error);
        }
    }

    /// Agrees, with these elements in the answer, and waits until the bytes can flow. `patient`: what the
    /// peer does next has no limit on time, as somebody there may have to do it.
    pub(super) fn agree(
        mut self,
        extra: Vec<Element>,
        patient: bool,
    ) -> BoxFuture<'static, Result<Bytestream, Error>> {
        let undecided = self.undecided.take();
        let (streams, link) = (self.streams.clone(), self.link.clone());
        Box::pin(async move {
            let Some((mut offer, answer)) = undecided else {
                return Err(Error::unanswered());
            };
            if offer.place.is_none() {
                offer.place = streams.place(&streams.incoming, &*link);
            }
            if offer.place.is_none() {
                refuse(answer, declined(Condition::ResourceConstraint));
                return Err(Error::ResourceUnavailable(
                    "too many connections are being opened".into(),
                ));
            }
            let (clock, time) = (&*streams.clock, streams.config.negotiation);
            let begin = streams.begun(&*link, &offer, answer, extra);
            let opened = if patient {
                // Dropped from here on, nobody waits for it any more, whatever the reason, which the peer would
                // not notice otherwise.
                let standing = link.lane().stand(offer.sid.clone());
                let begun = begin.await;
                standing.over();
                let begun = begun?;
                within(clock, time, streams.gone_on(&*link, &offer, begun)).await
            } else {
                let all = async { streams.gone_on(&*link, &offer, begin.await?).await };
                within(clock, time, all).await
            };
            opened.unwrap_or_else(|| {
                Err(Error::ConnectionFailed(
                    "the contact did not go on in time".into(),
                ))
            })
        })
    }
}

/// XEP-0095 section 4.2: a declined offer.
fn declined(condition: Condition) -> StanzaError {
    StanzaError {
        kind: ErrorKind::Cancel,
        condition,
        text: None,
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some((_, answer)) = self.undecided.take() {
            refuse(answer, declined(Condition::Forbidden));
        }
    }
}

impl IncomingBytestream for Incoming {
    fn id(&self) -> BytestreamId {
        self.id
    }

    fn accept(self: Box<Self>) -> BoxFuture<'static, Result<Bytestream, Error>> {
        self.agree(vec![tube::agreed()], false)
    }

    fn refuse(self: Box<Self>, why: Error) {
        self.decline(&why);
    }
}

/// An entry among those that wait for what comes next; taken out when it is dropped.
struct Waiter<'a> {
    streams: &'a Bytestreams,
    key: Key,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.streams.waiting().remove(&self.key);
    }
}

/// What waits for the peer's next step, and the first step that came.
struct Begun {
    methods: Methods,
    came: Offered,
}

fn gone() -> Error {
    Error::Offline("the stream to the contact ended".into())
}

impl Bytestreams {
    /// Agrees, and waits for the peer's first step.
    async fn begun(
        &self,
        link: &dyn Link,
        offer: &Offer,
        answer: Answer,
        mut extra: Vec<Element>,
    ) -> Result<Begun, Error> {
        let methods = Methods {
            socks5: offer.methods.contains(&ns::BYTESTREAMS),
            in_band: offer.methods.contains(&ns::IBB),
        };
        let Some((waiting, pending)) = self.wait_for(link, offer, methods) else {
            refuse(answer, declined(Condition::Conflict));
            return Err(Error::ConnectionFailed(
                "the contact used the name of one bytestream for two".into(),
            ));
        };
        // It may have ended while the service was dialled. It says so before what waits is taken out,
        // so either this is noticed here or the wait that has just begun ends.
        if link.has_ended() {
            return Err(gone());
        }
        if matches!(offer.mode, Mode::Secured(_)) {
            extra.push(pneuma::secured(offer.id));
        }
        let agreed = si::Answer {
            methods: offer.methods.iter().map(|&m| m.to_owned()).collect(),
            multiple: offer.methods.len() > 1,
            extra,
        };
        answer
            .send(Ok(Some(agreed.to_element())))
            .map_err(|_| gone())?;
        let came = offer.step(pending).await?;
        drop(waiting);
        Ok(Begun { methods, came })
    }

    /// Goes the ways that the peer goes, until one leads to it.
    async fn gone_on(
        &self,
        link: &dyn Link,
        offer: &Offer,
        begun: Begun,
    ) -> Result<Bytestream, Error> {
        let Begun {
            mut methods,
            mut came,
        } = begun;
        let expected = offer.expected();
        loop {
            let (hosts, answer) = match came {
                Offered::InBand(carrier) => {
                    return self.accept_in_band(carrier, expected.as_ref()).await;
                }
                Offered::Streamhosts(hosts, answer) => (hosts, answer),
            };
            let dialled = self
                .dialled(link, &offer.sid, expected.as_ref(), hosts, methods.in_band)
                .await;
            if let Some((bytestream, jid)) = dialled {
                let used = streamhost_used(&offer.sid, &jid);
                // A peer whose XML stream ended meanwhile still has the bytestream.
                if answer.send(Ok(Some(used))).is_err() {
                    tracing::debug!("the XML stream ended before its answer");
                }
                return Ok(bytestream);
            }
            methods.socks5 = false;
            let again = methods
                .in_band
                .then(|| self.wait_for(link, offer, methods))
                .flatten();
            // After that, so that what the peer does upon it is waited for.
            refuse(answer, declined(Condition::ItemNotFound));
            let Some((waiting, pending)) = again else {
                return Err(Error::ConnectionFailed(
                    "the contact cannot be reached at the addresses it gave".into(),
                ));
            };
            if link.has_ended() {
                return Err(gone());
            }
            came = offer.step(pending).await?;
            drop(waiting);
        }
    }

    /// `None` when one with this SID waits already, or is open.
    fn wait_for(
        &self,
        link: &dyn Link,
        offer: &Offer,
        methods: Methods,
    ) -> Option<(Waiter<'_>, Pending<Offered>)> {
        let key = key(link, &offer.sid);
        if self.shelf.has(&key) {
            return None;
        }
        match self.waiting().entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                let (reply, pending) = Reply::new();
                entry.insert(Waiting {
                    methods,
                    secured: matches!(offer.mode, Mode::Secured(_)),
                    reply,
                });
                Some((Waiter { streams: self, key }, pending))
            }
        }
    }

    /// Tries the streamhosts side by side, each a little after the one before, until one is the peer.
    /// Gives the bytestream and what the peer calls the streamhost. `hasty`: there is another way.
    async fn dialled(
        &self,
        link: &dyn Link,
        sid: &str,
        expected: Option<&Expected>,
        hosts: Streamhosts,
        hasty: bool,
    ) -> Option<(Bytestream, String)> {
        let name = destination(sid, link.them(), link.us());
        let mut rest = streamhosts::acceptable(&hosts.hosts, link.peer_address(), link.announced())
            .into_iter();
        let mut tried: Group<(), Result<(Found, String), String>> = Group::new();
        loop {
            if let Some((address, jid)) = rest.next() {
                let found = self.found(address, name.clone(), expected.cloned(), hasty);
                tried.push(
                    (),
                    Box::pin(async move {
                        match found.await {
                            Ok(found) => Ok((found, jid)),
                            Err(reason) => Err(format!("{address}: {reason}")),
                        }
                    }),
                );
            } else if tried.keys().next().is_none() {
                return None;
            }
            let last = rest.len() == 0;
            let pause = async {
                if last {
                    std::future::pending().await
                } else {
                    self.clock.sleep(self.config.stagger).await;
                    None
                }
            };
            let ended = async { Some(tried.next().await) };
            let reason = match futures_lite::future::or(ended, pause).await {
                None => continue,
                Some(Err(reason)) => reason,
                Some(Ok((found, jid))) => {
                    let time = self.config.handshake;
                    match within(&*self.clock, time, found.commit()).await {
                        Some(Ok(bytestream)) => return Some((bytestream, jid)),
                        Some(Err(reason)) => reason,
                        None => "it took too long".into(),
                    }
                }
            };
            tracing::debug!(reason, "a streamhost cannot be used");
        }
    }

    /// One streamhost, until its other end has proved to be the peer; where it cannot prove it, until it
    /// says that it has this bytestream.
    fn found(
        &self,
        address: SocketAddr,
        name: String,
        expected: Option<Expected>,
        hasty: bool,
    ) -> impl Future<Output = Result<Found, String>> + Send + 'static {
        let (clock, identity) = (self.clock.clone(), self.identity.clone());
        let time = self.config.handshake;
        let reach = if hasty { self.config.reach } else { time };
        let late = || String::from("it took too long");
        async move {
            let stream = within(&*clock, reach, socket::dial(address, name))
                .await
                .ok_or_else(late)?
                .map_err(|error| error.to_string())?;
            let carrier = TcpCarrier::new(stream);
            let Some(expected) = expected else {
                return Ok(Found::Plain(carrier));
            };
            let proved = within(&*clock, time, secure::prove(carrier, &identity, &expected))
                .await
                .ok_or_else(late)?
                .map_err(|error| error.to_string())?;
            Ok(Found::Proven(Box::new(proved)))
        }
    }
}

/// A streamhost that may be the bytestream.
enum Found {
    Plain(TcpCarrier),
    Proven(Box<Proven<TcpCarrier>>),
}

impl Found {
    /// Takes this one. The peer learns it first.
    async fn commit(self) -> Result<Bytestream, String> {
        Ok(match self {
            Found::Plain(carrier) => Bytestream {
                io: Box::new(carrier),
                encrypted: false,
            },
            Found::Proven(proven) => {
                let stream = proven.commit().await.map_err(|error| error.to_string())?;
                Bytestream {
                    io: Box::new(stream),
                    encrypted: true,
                }
            }
        })
    }
}
