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
    runtime::within,
};
use async_net::TcpStream;
use minidom::Element;

use super::{
    Bytestreams, Mode,
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

impl Bytestreams {
    /// The whole of [`Bytestreams::open`] but its bounds.
    pub(super) async fn opened(
        &self,
        link: &dyn Link,
        id: BytestreamId,
        profile: String,
        purpose: Element,
    ) -> Result<Bytestream, Error> {
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
        let secured = expected.is_some().then_some(id);
        // First, so that without descriptors nobody is asked: the peer connects to its service when
        // it agrees, and would wait for us until its time is over.
        let mut door = None;
        if self.config.methods.socks5 {
            let address = streamhosts::listen_address(link.local_address());
            let opened = Door::open(address, link.peer_address()).await;
            door = Some(opened.map_err(no_listener)?);
        }
        let methods = self
            .negotiate(link, &sid, secured, profile, purpose)
            .await?;
        let mut failed = None;
        for method in methods {
            let tried = if method == ns::IBB {
                self.open_in_band(link, &sid, expected.as_ref()).await
            } else if let Some(door) = door.take() {
                self.awaited(door, link, &sid, expected.as_ref()).await
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

    /// The methods that the peer agrees to, in the order in which they are tried.
    async fn negotiate(
        &self,
        link: &dyn Link,
        sid: &str,
        secured: Option<BytestreamId>,
        profile: String,
        purpose: Element,
    ) -> Result<Vec<&'static str>, Error> {
        let methods: Vec<&'static str> = self.config.methods.namespaces().collect();
        let offer = si::Offer {
            id: sid.to_owned(),
            profile,
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            multiple: methods.len() > 1,
            extra: [purpose]
                .into_iter()
                .chain(secured.map(pneuma::secured))
                .collect(),
        };
        // The iq's id is the SID: Pidgin declines by the SID.
        let answer = link
            .request(offer.to_element(), Some(sid.to_owned()))
            .await
            .map_err(|error| {
                let unknown = matches!(&error, RequestError::Refused { condition, .. }
                    if condition == Condition::ItemNotFound.as_str());
                let refused = if unknown {
                    Error::NotAvailable
                } else {
                    Error::ConnectionRefused
                };
                request_failed(error, refused)
            })?;
        let answer = answer.ok_or_else(no_sense)?;
        let answer = si::Answer::parse(&answer).map_err(|_| no_sense())?;
        let mut agreed = Vec::new();
        for chosen in &answer.methods {
            let ours = methods.iter().find(|method| *method == chosen);
            if let Some(&method) = ours.filter(|method| !agreed.contains(*method)) {
                agreed.push(method);
            }
        }
        if agreed.is_empty() {
            return Err(no_sense());
        }
        if secured.is_some() && pneuma::find(&answer.extra).ok().flatten() != secured {
            return Err(Error::EncryptionNotAvailable(
                "the contact did not agree to secure this connection".into(),
            ));
        }
        Ok(agreed)
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
