//! What the peer's stanzas ask for.

use std::sync::Arc;

use actors::{model::Error, ports::IncomingBytestream as _, runtime::Reply};
use minidom::Element;

use super::super::StreamEvent;
use crate::{
    session::{
        bytestreams::{Bytestreams, SiOffer},
        link::{IncomingRequest, Link, RequestError},
    },
    xmpp::{
        Condition, Iq, IqKind, Message, Stanza, StanzaError, StreamCondition, ns,
        payload::{disco, file, tube},
    },
};

use super::{Command, MAX_ANSWERING, PING_NS, Running, Waiter, answer_waiter};

impl Running {
    pub(super) fn stanza(&mut self, stanza: Stanza) {
        self.last_stanza = self.now();
        let from = match &stanza {
            Stanza::Iq(iq) => iq.from.as_deref(),
            Stanza::Message(message) => message.from.as_deref(),
            Stanza::Presence(_) => None,
        };
        if from.is_some_and(|from| from != self.link.them()) {
            let actions = self
                .stream
                .refuse(StreamCondition::InvalidFrom, "a stanza from somebody else");
            self.carry_out(actions);
            return;
        }
        match stanza {
            Stanza::Iq(iq) => match &iq.kind {
                IqKind::Result(_) | IqKind::Error(_) => self.answered(iq),
                IqKind::Get(payload) => {
                    let answer = self.answer_to_get(payload);
                    self.answer(&iq.reply(answer));
                }
                IqKind::Set(_) => self.order(iq),
            },
            Stanza::Message(message) => self.message(&message),
            Stanza::Presence(_) => {}
        }
    }

    pub(super) fn answer(&mut self, iq: &Iq) {
        if let Err(error) = self.send(&iq.to_element()) {
            tracing::debug!(contact = %self.contact, %error, "an answer was not sent");
        }
    }

    pub(super) fn answered(&mut self, iq: Iq) {
        let block = self.blocks.answered(&iq);
        let waiter = match &block {
            Some(_) => None,
            None => self.tracker.answered(&iq),
        };
        let result = match iq.kind {
            IqKind::Result(payload) => Ok(payload),
            IqKind::Error(error) => Err(RequestError::Refused {
                condition: error.condition.as_str().to_owned(),
                text: error.text,
            }),
            IqKind::Get(_) | IqKind::Set(_) => return,
        };
        if let Some((source, ticket)) = block {
            source.answered(ticket, result.map(drop));
            return;
        }
        let Some(waiter) = waiter else {
            return;
        };
        match waiter {
            Waiter::Caller(_) | Waiter::Offer(_) => answer_waiter(waiter, result),
            Waiter::Ping => {}
            // An error is an answer too.
            Waiter::Message(_) => answer_waiter(waiter, Ok(None)),
            Waiter::Features => self.features(result),
        }
    }

    pub(super) fn features(&mut self, result: Result<Option<Element>, RequestError>) {
        let info = result
            .ok()
            .flatten()
            .and_then(|payload| disco::Info::parse(&payload).ok());
        if let Some(info) = info {
            self.link.set_pneuma(info.features.contains(ns::PNEUMA));
            self.telling.push_back(StreamEvent::Features(info));
        }
        self.become_ready();
    }

    pub(super) fn answer_to_get(&self, payload: &Element) -> Result<Option<Element>, StanzaError> {
        if disco::is_query(payload) {
            let mut info = (*self.info.get()).clone();
            info.node = payload.attr("node").map(str::to_owned);
            Ok(Some(info.to_element()))
        } else if payload.is("ping", PING_NS) {
            Ok(None)
        } else {
            Err(StanzaError::new(Condition::ServiceUnavailable))
        }
    }

    pub(super) fn order(&mut self, iq: Iq) {
        let IqKind::Set(payload) = &iq.kind else {
            return;
        };
        if payload.has_ns(ns::TUBES) {
            let error = StanzaError::with_text(
                Condition::NotAcceptable,
                "tubes are offered in messages, and their connections are secured",
            );
            self.answer(&iq.reply(Err(error)));
            return;
        }
        if !Bytestreams::understands(payload) {
            let error = StanzaError::new(Condition::ServiceUnavailable);
            self.answer(&iq.reply(Err(error)));
            return;
        }
        if Bytestreams::is_in_band(payload) {
            self.in_band(iq);
            return;
        }
        // How many persons have to answer, the bytestreams bound among themselves.
        let counted = !Bytestreams::is_for_a_person(payload);
        if counted && self.answering >= MAX_ANSWERING {
            let error = StanzaError::new(Condition::ResourceConstraint);
            self.answer(&iq.reply(Err(error)));
            return;
        }
        self.answering += usize::from(counted);
        let (answer, pending) = Reply::new();
        let request = IncomingRequest {
            payload: payload.clone(),
            answer,
        };
        let address = self.link.address().clone();
        self.spawner
            .spawn("iq answer", async move {
                let answer = pending
                    .wait()
                    .await
                    .unwrap_or_else(|_| Err(StanzaError::new(Condition::InternalServerError)));
                let command = if counted {
                    Command::Answer
                } else {
                    Command::AnswerUncounted
                };
                // A stream that has ended has nobody to answer.
                let command = command(iq.reply(answer));
                address.tell_first(command).await.unwrap_or(());
            })
            .detach();
        let link: Arc<dyn Link> = self.link.clone();
        if let Some(offer) = self.bytestreams.on_request(&link, request) {
            self.decided_above(offer);
        }
    }

    /// A stream initiation: what it is for decides who takes it.
    fn decided_above(&mut self, offer: SiOffer) {
        if offer.profile == ns::SI_FILE_TRANSFER {
            if let Some((file, incoming)) = offer.file() {
                self.telling
                    .push_back(StreamEvent::File(Box::new(file), incoming));
            }
            return;
        }
        if offer.profile == ns::TUBES && offer.elements.iter().any(tube::DBusOffer::is) {
            if let Some((tube, incoming)) = offer.dbus_tube() {
                self.telling
                    .push_back(StreamEvent::DBusTube(Box::new(tube), incoming));
            }
            return;
        }
        let tube = offer
            .elements
            .iter()
            .find_map(|element| tube::parse_stream(element).ok());
        match tube {
            Some(tube) if offer.profile == ns::TUBES => self
                .telling
                .push_back(StreamEvent::Connection(tube, offer.incoming)),
            _ => offer.incoming.refuse(Error::NotImplemented(
                "streams are for tubes and files here".into(),
            )),
        }
    }

    /// A request of an in-band bytestream. Most are answered at once. How many are not, the bytestreams
    /// bound among themselves: those that wait for a reader keep nothing else from being answered.
    fn in_band(&mut self, mut iq: Iq) {
        // Whoever waits for the answer need not keep the block.
        let IqKind::Set(payload) = std::mem::replace(&mut iq.kind, IqKind::Result(None)) else {
            return;
        };
        let (answer, mut pending) = Reply::new();
        let link: Arc<dyn Link> = self.link.clone();
        let request = IncomingRequest { payload, answer };
        if let Some(offer) = self.bytestreams.on_request(&link, request) {
            drop(offer);
        }
        let failed = || Err(StanzaError::new(Condition::InternalServerError));
        if let Some(answer) = pending.now() {
            self.answer(&iq.reply(answer.unwrap_or_else(|_| failed())));
            return;
        }
        let address = self.link.address().clone();
        self.spawner
            .spawn("block's answer", async move {
                let answer = pending.wait().await.unwrap_or_else(|_| failed());
                // A stream that has ended has nobody to answer.
                address
                    .tell_first(Command::AnswerUncounted(iq.reply(answer)))
                    .await
                    .unwrap_or(());
            })
            .detach();
    }

    pub(super) fn message(&mut self, message: &Message) {
        if message.kind.as_deref() == Some("error") {
            return;
        }
        let cancelled = |payload| file::parse_cancel(payload).ok();
        for sid in message.payloads.iter().filter_map(cancelled) {
            self.bytestreams.taken_back(&*self.link, sid);
        }
        for payload in message.payloads.iter().filter(|p| p.has_ns(ns::TUBES)) {
            let event = match payload.name() {
                "tube" => tube::Offer::parse(payload).map(StreamEvent::Offered),
                "close" => tube::parse_close(payload).map(StreamEvent::Closed),
                _ => continue,
            };
            match event {
                Ok(event) => self.telling.push_back(event),
                Err(error) => {
                    tracing::debug!(contact = %self.contact, %error, "a tube was not understood");
                }
            }
        }
    }
}
