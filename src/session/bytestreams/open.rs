//! Opening: the side that sends the `<si/>`, listens, and is the TLS client.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actors::{
    model::{BytestreamId, Error},
    ports::Bytestream,
    runtime::{Reply, within},
};
use async_net::TcpStream;
use minidom::Element;

use super::{
    Bytestreams, Mode, Purpose,
    carrier::TcpCarrier,
    random_id, request_failed,
    secure::{self, Expected},
    socket::{self, Door},
    streamhosts,
};
use crate::{
    session::link::{Link, RequestError},
    xmpp::{
        Condition, ns,
        payload::{
            bytestreams::{Streamhosts, destination, parse_streamhost_used},
            pneuma, si,
        },
    },
};

/// A bytestream of ours, from before it is offered.
pub(super) struct Draft {
    pub(super) sid: String,
    id: BytestreamId,
    /// Which one it must turn out to be, where that can be told.
    pub(super) expected: Option<Expected>,
}

/// Who answers an offer of ours.
pub(super) enum Asked {
    Program,
    /// Where it is told that the offer is written.
    Person(Written),
}

/// Answered when an offer has been written, dropped when it is not.
pub(super) type Written = Reply<Result<(), RequestError>>;

/// What the peer agreed to.
pub(super) struct Agreement {
    /// The methods, in the order in which they are tried.
    methods: Vec<&'static str>,
    /// What else its answer holds.
    pub(super) extra: Vec<Element>,
}

/// Why nothing was agreed on.
pub(super) enum NotAgreed {
    /// The XML stream ended before the peer saw the offer.
    Unseen,
    Failed(Error),
}

impl From<NotAgreed> for Error {
    fn from(why: NotAgreed) -> Self {
        match why {
            NotAgreed::Unseen => request_failed(RequestError::NotSent, Error::Offline),
            NotAgreed::Failed(error) => error,
        }
    }
}

impl Bytestreams {
    /// The whole of [`Bytestreams::open`] but its bounds.
    pub(super) async fn opened(
        &self,
        link: &dyn Link,
        id: BytestreamId,
        purpose: Purpose,
    ) -> Result<Bytestream, Error> {
        let draft = self.draft(link, id)?;
        // First, so that without descriptors nobody is asked: the peer connects to its service when
        // it agrees, and would wait for us until its time is over.
        let door = self.door(link).await?;
        let agreement = self
            .negotiate(link, &draft, purpose, Asked::Program)
            .await?;
        self.reached(link, &draft, agreement, door).await
    }

    /// A bytestream that may be offered through this link.
    pub(super) fn draft(&self, link: &dyn Link, id: BytestreamId) -> Result<Draft, Error> {
        let mode = match link.security() {
            Some(security) if security.pneuma => Mode::Secured(security),
            None if self.config.allow_plaintext => Mode::Plain,
            _ => {
                return Err(Error::EncryptionNotAvailable(
                    "the contact's client cannot secure this connection".into(),
                ));
            }
        };
        let sid = random_id()?.to_string();
        let expected = match mode {
            Mode::Secured(link) => Some(Expected {
                sid: sid.clone(),
                id,
                link,
            }),
            Mode::Plain => None,
        };
        Ok(Draft { sid, id, expected })
    }

    /// Where the peer can come in, if it may come that way.
    pub(super) async fn door(&self, link: &dyn Link) -> Result<Option<Door<Bytestream>>, Error> {
        if !self.config.methods.socks5 {
            return Ok(None);
        }
        let address = streamhosts::listen_address(link.local_address());
        let opened = Door::open(address, link.peer_address()).await;
        opened.map(Some).map_err(no_listener)
    }

    /// Goes the ways that were agreed on, until one leads to the peer.
    pub(super) async fn reached(
        &self,
        link: &dyn Link,
        draft: &Draft,
        agreement: Agreement,
        mut door: Option<Door<Bytestream>>,
    ) -> Result<Bytestream, Error> {
        let expected = draft.expected.as_ref();
        let mut failed = None;
        for method in agreement.methods {
            let tried = if method == ns::IBB {
                self.open_in_band(link, &draft.sid, expected).await
            } else if let Some(door) = door.take() {
                self.awaited(door, link, &draft.sid, expected).await
            } else {
                continue;
            };
            match tried {
                Err(error) if !matches!(error, Error::Offline(_)) => {
                    tracing::debug!(%method, %error, "one way to the contact cannot be had");
                    failed = Some(error);
                }
                ended => return ended,
            }
        }
        Err(failed.unwrap_or_else(no_sense))
    }

    /// Waits for the peer at `door`.
    async fn awaited(
        &self,
        mut door: Door<Bytestream>,
        link: &dyn Link,
        sid: &str,
        expected: Option<&Expected>,
    ) -> Result<Bytestream, Error> {
        let offer = Streamhosts {
            sid: sid.to_owned(),
            hosts: vec![streamhosts::offer(
                link.us(),
                door.address().map_err(no_listener)?,
            )],
        };
        let chosen = link.request(offer.to_element(), None);
        let name = destination(sid, link.us(), link.them());
        let examine = |stream, named| self.candidate(stream, named, &name, expected);
        let there = async {
            // Without TLS the address is all there is to go by.
            let strangers = expected.is_some();
            door.authenticated(strangers, examine)
                .await
                .map_err(no_listener)
        };
        let word = async { streamhost_chosen(chosen.await) };
        if expected.is_none() {
            // Nothing but the peer's word tells that it agrees to this connection.
            let (stream, ()) = futures_lite::future::try_zip(there, word).await?;
            return Ok(stream);
        }
        // A bytestream that is authenticated needs no word: the binding is one. A good word before
        // that means that the binding is on its way; a bad one is the end.
        let no_word = async {
            word.await?;
            std::future::pending().await
        };
        futures_lite::future::or(there, no_word).await
    }

    /// Offers it.
    pub(super) async fn negotiate(
        &self,
        link: &dyn Link,
        draft: &Draft,
        purpose: Purpose,
        asked: Asked,
    ) -> Result<Agreement, NotAgreed> {
        let methods: Vec<&'static str> = self.config.methods.namespaces().collect();
        let secured = draft.expected.is_some().then_some(draft.id);
        let offer = si::Offer {
            id: draft.sid.clone(),
            profile: purpose.profile.to_owned(),
            mime_type: purpose.mime_type,
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            multiple: methods.len() > 1,
            extra: purpose
                .elements
                .into_iter()
                .chain(secured.map(pneuma::secured))
                .collect(),
        };
        // The iq's id is the SID: Pidgin declines by the SID.
        let (payload, iq) = (offer.to_element(), draft.sid.clone());
        let (answer, refused): (_, fn(RequestError) -> Error) = match asked {
            Asked::Program => (link.request(payload, Some(iq)).await, not_opened),
            Asked::Person(written) => (link.ask(payload, iq, written).await, not_agreed),
        };
        let answer = answer.map_err(|error| match error {
            RequestError::NotSent => NotAgreed::Unseen,
            error => NotAgreed::Failed(refused(error)),
        })?;
        let answer = answer.as_ref().map(si::Answer::parse);
        let Some(Ok(answer)) = answer else {
            return Err(NotAgreed::Failed(no_sense()));
        };
        let mut agreed = Vec::new();
        for chosen in &answer.methods {
            let ours = methods.iter().find(|method| *method == chosen);
            if let Some(&method) = ours.filter(|method| !agreed.contains(*method)) {
                agreed.push(method);
            }
        }
        if agreed.is_empty() {
            return Err(NotAgreed::Failed(no_sense()));
        }
        if secured.is_some() && pneuma::find(&answer.extra).ok().flatten() != secured {
            return Err(NotAgreed::Failed(Error::EncryptionNotAvailable(
                "the contact did not agree to secure this connection".into(),
            )));
        }
        Ok(Agreement {
            methods: agreed,
            extra: answer.extra,
        })
    }

    /// Whether a connection is the peer's: SOCKS5 and, where it is secured, TLS and binding, in the
    /// time a handshake may take.
    fn candidate(
        &self,
        stream: TcpStream,
        named: Arc<AtomicBool>,
        name: &str,
        expected: Option<&Expected>,
    ) -> impl Future<Output = Option<Bytestream>> + Send + 'static {
        let (clock, time) = (self.clock.clone(), self.config.handshake);
        let (identity, expected) = (self.identity.clone(), expected.cloned());
        let name = name.to_owned();
        async move {
            let examined = within(&*clock, time, async {
                let stream = socket::welcome(stream, name)
                    .await
                    .map_err(|error| error.to_string())?;
                named.store(true, Ordering::Relaxed);
                let carrier = TcpCarrier::new(stream);
                let Some(expected) = expected else {
                    return Ok(Bytestream {
                        io: Box::new(carrier),
                        encrypted: false,
                    });
                };
                let stream = secure::client(carrier, &identity, &expected)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(Bytestream {
                    io: Box::new(stream),
                    encrypted: true,
                })
            })
            .await
            .unwrap_or_else(|| Err("it took too long".into()));
            examined
                .inspect_err(|reason: &String| {
                    tracing::debug!(reason, "a connection is not the bytestream");
                })
                .ok()
        }
    }
}

/// A program did not agree to a bytestream.
fn not_opened(error: RequestError) -> Error {
    match error.condition() {
        Some(Condition::ItemNotFound) => request_failed(error, Error::NotAvailable),
        _ => request_failed(error, Error::ConnectionRefused),
    }
}

/// A person did not agree to it; or the program could not ask anybody.
fn not_agreed(error: RequestError) -> Error {
    match error.condition() {
        Some(
            Condition::ServiceUnavailable
            | Condition::FeatureNotImplemented
            | Condition::BadRequest
            | Condition::NotAcceptable,
        ) => request_failed(error, Error::NotCapable),
        Some(Condition::ResourceConstraint) => request_failed(error, Error::ResourceUnavailable),
        Some(Condition::PolicyViolation) => request_failed(error, Error::InvalidArgument),
        _ => request_failed(error, Error::Rejected),
    }
}

fn streamhost_chosen(answer: Result<Option<Element>, RequestError>) -> Result<(), Error> {
    let answer = answer.map_err(|error| request_failed(error, Error::ConnectionFailed))?;
    answer
        .as_ref()
        .and_then(|element| parse_streamhost_used(element).ok())
        .map(|_| ())
        .ok_or_else(no_sense)
}

fn no_sense() -> Error {
    Error::ConnectionFailed("the contact's answer cannot be understood".into())
}

fn no_listener(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::AddrNotAvailable {
        // The machine has lost the address that its end of the XML stream has: another network, or
        // the interface is gone. Nothing comes through that stream any more.
        return Error::Offline(format!("this machine's address has changed: {error}"));
    }
    Error::ResourceUnavailable(format!("the contact cannot be waited for: {error}"))
}
