//! In-band bytestreams (XEP-0047) as a way to go: opening them from either side, and finding the one that a
//! peer's request is about.

use actors::{model::Error, ports::Bytestream, runtime::within};
use minidom::Element;

use super::{
    Answer, Bytestreams, Offered, Waiting,
    ibb::{self, Carrier},
    key, peer, refuse, request_failed,
    secure::{self, Expected},
};
use crate::{
    session::link::{Link, RequestError, StanzaError},
    xmpp::{
        Condition, ErrorKind,
        payload::ibb::{Open, sid},
    },
};

/// A request about a bytestream that there is not (XEP-0047 section 2.2).
fn unknown() -> StanzaError {
    StanzaError::new(Condition::ItemNotFound)
}

fn cancelled(condition: Condition) -> StanzaError {
    StanzaError {
        kind: ErrorKind::Cancel,
        condition,
        text: None,
    }
}

impl Bytestreams {
    /// How many in-band bytestreams there are now, those that are being opened and closed included.
    pub fn in_band_open(&self) -> usize {
        self.in_band.taken()
    }

    /// A request of the peer's: its bytestream is opened, gets a block, or ends.
    pub(super) fn in_band(&self, link: &dyn Link, payload: &Element, answer: Answer) {
        let name = match sid(payload) {
            Ok(name) => name,
            Err(error) => {
                let error = StanzaError::with_text(Condition::BadRequest, error.0);
                return refuse(answer, error);
            }
        };
        match payload.name() {
            "open" => match self.in_band_opened(link, payload) {
                Ok((waiting, carrier)) => {
                    // Before the answer: what the peer sends upon it finds everything in place.
                    if let Err(Offered::InBand(carrier)) =
                        waiting.reply.send(Offered::InBand(carrier))
                    {
                        carrier.abandon();
                        refuse(answer, cancelled(Condition::NotAcceptable));
                    } else if answer.send(Ok(None)).is_err() {
                        tracing::debug!("the XML stream ended before its answer");
                    }
                }
                Err(error) => refuse(answer, error),
            },
            "data" => match self.shelf.get(&key(link, name)) {
                Some(stream) => stream.data(payload, answer),
                None => refuse(answer, unknown()),
            },
            "close" => match self.shelf.get(&key(link, name)) {
                Some(stream) => stream.closed(payload, answer),
                None => refuse(answer, unknown()),
            },
            _ => refuse(answer, StanzaError::new(Condition::BadRequest)),
        }
    }

    fn in_band_opened(
        &self,
        link: &dyn Link,
        payload: &Element,
    ) -> Result<(Waiting, Carrier), StanzaError> {
        let open = Open::parse(payload)
            .map_err(|error| StanzaError::with_text(Condition::BadRequest, error.0))?;
        let limits = self.config.in_band;
        let key = key(link, &open.sid);
        if self
            .waiting()
            .get(&key)
            .is_none_or(|one| !one.methods.in_band)
        {
            return Err(cancelled(Condition::NotAcceptable));
        }
        // The offer goes on waiting after these two: the peer may ask for less.
        if !open.answered {
            return Err(StanzaError {
                text: Some("blocks have to come in iqs: messages cannot be held back".into()),
                ..cancelled(Condition::FeatureNotImplemented)
            });
        }
        if open.block_size > limits.block {
            return Err(StanzaError {
                kind: ErrorKind::Modify,
                condition: Condition::ResourceConstraint,
                text: Some(format!("blocks have at most {} bytes here", limits.block)),
            });
        }
        let waiting = self
            .take_waiting(&key, |one| one.methods.in_band)
            .ok_or_else(|| cancelled(Condition::NotAcceptable))?;
        let carrier = self
            .carrier(link, &open.sid, open.block_size, waiting.secured)
            .ok_or_else(|| StanzaError {
                text: Some("too many in-band bytestreams are open".into()),
                ..cancelled(Condition::NotAcceptable)
            })?;
        Ok((waiting, carrier))
    }

    /// A new end of an in-band bytestream; `None` when there are too many, or one by this name.
    fn carrier(&self, link: &dyn Link, sid: &str, block: u16, secured: bool) -> Option<Carrier> {
        let config = &self.config;
        let (all, each) = (config.max_in_band, config.max_in_band_each);
        let place = self.in_band.take(peer(link), all, each)?;
        let sizes = (block, config.in_band.window);
        let lane = link.lane().clone();
        let carrier = ibb::open(&self.shelf, key(link, sid), lane, place, sizes, secured)?;
        // The end of the XML stream is noted before what it carries is looked through; so either this is
        // noticed here, or there.
        if link.has_ended() {
            self.link_ended(link);
        }
        Some(carrier)
    }

    /// Opens an offer that the peer has accepted in-band.
    pub(super) async fn open_in_band(
        &self,
        link: &dyn Link,
        sid: &str,
        expected: Option<&Expected>,
    ) -> Result<Bytestream, Error> {
        let most = self.config.in_band.block;
        let mut block = match expected {
            Some(_) => most,
            None => most.min(ibb::USUAL_BLOCK),
        };
        let carrier = self
            .carrier(link, sid, block, expected.is_some())
            .ok_or_else(|| {
                Error::ResourceUnavailable("too many in-band connections are open".into())
            })?;
        loop {
            let open = Open {
                sid: sid.to_owned(),
                block_size: block,
                answered: true,
            };
            match link.request(open.to_element(), None).await {
                Ok(_) => break,
                Err(RequestError::Refused { condition, .. })
                    if condition == Condition::ResourceConstraint.as_str()
                        && block / 2 >= ibb::SMALLEST_BLOCK =>
                {
                    block /= 2;
                    carrier.set_block(block);
                }
                Err(error) => {
                    if matches!(error, RequestError::Refused { .. }) {
                        carrier.abandon();
                    }
                    return Err(request_failed(error, Error::ConnectionFailed));
                }
            }
        }
        let Some(expected) = expected else {
            return Ok(Bytestream {
                io: Box::new(carrier),
                encrypted: false,
            });
        };
        self.proved(secure::client(carrier, &self.identity, expected))
            .await
    }

    /// The other side of it: the peer has opened it.
    pub(super) async fn accept_in_band(
        &self,
        carrier: Carrier,
        expected: Option<&Expected>,
    ) -> Result<Bytestream, Error> {
        let Some(expected) = expected else {
            return Ok(Bytestream {
                io: Box::new(carrier),
                encrypted: false,
            });
        };
        self.proved(secure::server(carrier, &self.identity, expected))
            .await
    }

    async fn proved(
        &self,
        handshake: impl Future<Output = Result<secure::Secured<Carrier>, secure::SecureError>>,
    ) -> Result<Bytestream, Error> {
        let stream = within(&*self.clock, self.config.handshake, handshake)
            .await
            .ok_or_else(|| Error::ConnectionFailed("the contact did not go on in time".into()))?
            .map_err(|error| Error::ConnectionFailed(error.to_string()))?;
        Ok(Bytestream {
            io: Box::new(stream),
            encrypted: true,
        })
    }
}
