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
        let secured = matches!(mode, Mode::Secured(_)).then_some(id);
        // First, so that without descriptors nobody is asked: the peer connects to its service when
        // it agrees, and would wait for us until its time is over.
        let address = streamhosts::listen_address(link.local_address());
        let mut door = Door::open(address, link.peer_address())
            .await
            .map_err(no_listener)?;
        self.negotiate(link, &sid, secured, profile, purpose)
            .await?;

        let offer = Streamhosts {
            sid: sid.clone(),
            hosts: vec![streamhosts::offer(
                link.us(),
                door.address().map_err(no_listener)?,
            )],
        };
        let chosen = link.request(offer.to_element(), None);
        let name = destination(&sid, link.us(), link.them());
        let expected = match mode {
            Mode::Secured(link) => Some(Expected { sid, id, link }),
            Mode::Plain => None,
        };
        let examine = |stream, named| self.candidate(stream, named, &name, expected.as_ref());
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

    async fn negotiate(
        &self,
        link: &dyn Link,
        sid: &str,
        secured: Option<BytestreamId>,
        profile: String,
        purpose: Element,
    ) -> Result<(), Error> {
        let offer = si::Offer {
            id: sid.to_owned(),
            profile,
            methods: vec![ns::BYTESTREAMS.to_owned()],
            multiple: false,
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
        let malformed =
            |_| Error::ConnectionFailed("the contact's answer cannot be understood".into());
        let answer = answer.ok_or_else(|| malformed(()))?;
        let answer = si::Answer::parse(&answer).map_err(|_| malformed(()))?;
        if !answer.methods.iter().any(|m| m == ns::BYTESTREAMS) {
            return Err(malformed(()));
        }
        if secured.is_some() && pneuma::find(&answer.extra).ok().flatten() != secured {
            return Err(Error::EncryptionNotAvailable(
                "the contact did not agree to secure this connection".into(),
            ));
        }
        Ok(())
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
        .ok_or_else(|| Error::ConnectionFailed("the contact's answer cannot be understood".into()))
}

fn no_listener(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::AddrNotAvailable {
        // The machine has lost the address that its end of the XML stream has: another network, or
        // the interface is gone. Nothing comes through that stream any more.
        return Error::Offline(format!("this machine's address has changed: {error}"));
    }
    Error::ResourceUnavailable(format!("the contact cannot be waited for: {error}"))
}
