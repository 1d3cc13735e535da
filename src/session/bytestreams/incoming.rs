//! Answering: the side that gets the `<si/>`, dials, and is the TLS server.

use std::{collections::hash_map::Entry, sync::Arc};

use actors::{
    model::{BytestreamId, Error},
    ports::{Bytestream, IncomingBytestream},
    runtime::{BoxFuture, Reply, within},
};
use minidom::Element;

use super::{
    Answer, Bytestreams, Key, Mode, Offered, Place,
    carrier::TcpCarrier,
    key, refuse,
    secure::{self, Expected},
    socket, streamhosts,
};
use crate::{
    session::link::{Link, StanzaError},
    xmpp::{
        Condition, ErrorKind, ns,
        payload::{
            bytestreams::{destination, streamhost_used},
            pneuma, si, tube,
        },
    },
};

/// A stream initiation that was understood.
pub(super) struct Offer {
    pub(super) sid: String,
    pub(super) profile: String,
    pub(super) purpose: Element,
    pub(super) id: BytestreamId,
    pub(super) mode: Mode,
    pub(super) _place: Place,
}

/// The same, waiting for a decision.
pub(super) struct Incoming {
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

    fn accept(mut self: Box<Self>) -> BoxFuture<'static, Result<Bytestream, Error>> {
        let undecided = self.undecided.take();
        let (streams, link) = (self.streams.clone(), self.link.clone());
        Box::pin(async move {
            let Some((offer, answer)) = undecided else {
                return Err(Error::unanswered());
            };
            let time = streams.config.negotiation;
            within(
                &*streams.clock,
                time,
                streams.accepted(&*link, offer, answer),
            )
            .await
            .unwrap_or_else(|| {
                Err(Error::ConnectionFailed(
                    "the contact did not go on in time".into(),
                ))
            })
        })
    }

    fn refuse(mut self: Box<Self>, why: Error) {
        if let Some((_, answer)) = self.undecided.take() {
            // The reason is for our side; the peer learns no more than what to do about it.
            refuse(
                answer,
                declined(match why {
                    Error::ResourceUnavailable(_) => Condition::ResourceConstraint,
                    Error::NotAvailable(_) => Condition::ItemNotFound,
                    _ => Condition::Forbidden,
                }),
            );
        }
    }
}

/// An entry among those that wait for streamhosts; taken out when it is dropped.
struct Waiting<'a> {
    streams: &'a Bytestreams,
    key: Key,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.streams.waiting().remove(&self.key);
    }
}

impl Bytestreams {
    async fn accepted(
        &self,
        link: &dyn Link,
        offer: Offer,
        answer: Answer,
    ) -> Result<Bytestream, Error> {
        let gone = || Error::Offline("the stream to the contact ended".into());
        let (reply, pending) = Reply::new();
        let Some(waiting) = self.wait_for_streamhosts(link, &offer.sid, reply) else {
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
        let agreed = si::Answer {
            methods: vec![ns::BYTESTREAMS.to_owned()],
            multiple: false,
            extra: (offer.profile == ns::TUBES)
                .then(tube::agreed)
                .into_iter()
                .chain(matches!(offer.mode, Mode::Secured(_)).then(|| pneuma::secured(offer.id)))
                .collect(),
        };
        answer
            .send(Ok(Some(agreed.to_element())))
            .map_err(|_| gone())?;
        let offered = pending.wait().await.map_err(|_| gone())?;
        drop(waiting);
        self.dialled(link, offer, offered).await
    }

    /// `None` when one with this SID waits already.
    fn wait_for_streamhosts(
        &self,
        link: &dyn Link,
        sid: &str,
        reply: Reply<Offered>,
    ) -> Option<Waiting<'_>> {
        let key = key(link, sid);
        match self.waiting().entry(key.clone()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                entry.insert(reply);
                Some(Waiting { streams: self, key })
            }
        }
    }

    /// Tries the streamhosts one after the other until one is the peer.
    async fn dialled(
        &self,
        link: &dyn Link,
        offer: Offer,
        (hosts, answer): Offered,
    ) -> Result<Bytestream, Error> {
        let name = destination(&offer.sid, link.them(), link.us());
        for (address, jid) in streamhosts::acceptable(&hosts.hosts, link.peer_address()) {
            let tried = within(&*self.clock, self.config.handshake, async {
                let stream = socket::dial(address, name.clone())
                    .await
                    .map_err(|error| error.to_string())?;
                self.secured(TcpCarrier::new(stream), &offer).await
            })
            .await
            .unwrap_or_else(|| Err("it took too long".into()));
            match tried {
                Ok(bytestream) => {
                    let used = streamhost_used(&offer.sid, &jid);
                    // A peer whose XML stream ended meanwhile still has the bytestream.
                    if answer.send(Ok(Some(used))).is_err() {
                        tracing::debug!("the XML stream ended before its answer");
                    }
                    return Ok(bytestream);
                }
                Err(reason) => {
                    tracing::debug!(%address, reason, "a streamhost cannot be used");
                }
            }
        }
        refuse(answer, declined(Condition::ItemNotFound));
        Err(Error::ConnectionFailed(
            "the contact cannot be reached at the addresses it gave".into(),
        ))
    }

    async fn secured(&self, carrier: TcpCarrier, offer: &Offer) -> Result<Bytestream, String> {
        match &offer.mode {
            Mode::Plain => Ok(Bytestream {
                io: Box::new(carrier),
                encrypted: false,
            }),
            Mode::Secured(security) => {
                let expected = Expected {
                    sid: offer.sid.clone(),
                    id: offer.id,
                    link: security.clone(),
                };
                let stream = secure::server(carrier, &self.identity, &expected)
                    .await
                    .map_err(|error| error.to_string())?;
                Ok(Bytestream {
                    io: Box::new(stream),
                    encrypted: true,
                })
            }
        }
    }
}
