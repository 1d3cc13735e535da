//! Streams that there are: who is believed, which one stays, what they tell, how they end.

use std::{collections::BTreeMap, sync::Arc};

use actors::{model::Error, runtime::Stopper};
use futures_lite::FutureExt as _;

use super::super::{
    contacts::Claim,
    network::{Connection, Permit},
    peers::{Keep, Side, keep},
    stream::{
        self, Admission, Admitted, Command, StreamEvent, StreamId, StreamLink, StreamRequest,
    },
};
use crate::{
    session::{
        ContactId, PeerId, SessionEvent, TubeId,
        trust::{KeyId, RunId},
    },
    xmpp::{ns, stream::Role},
};

use super::{
    MAX_RETRIES, MAX_STREAMS, MAX_STREAMS_EACH, MAX_STREAMS_OF_STRANGERS, MAX_UNKNOWN,
    MAX_UNKNOWN_EACH, RECORD, RETRY, SessionActor, StreamEntry, Unknown, forget,
};

impl SessionActor {
    pub(super) fn accepted(&mut self, connection: Connection) {
        if !self.is_online() || self.streams.len() >= MAX_STREAMS {
            return;
        }
        let stream = self.fresh_stream();
        let (mailbox, commands) = stream::mailbox();
        let (stopper, stop) = Stopper::new();
        self.streams.insert(
            stream,
            StreamEntry {
                role: Role::Recipient,
                contact: None,
                key: None,
                run: None,
                commands: commands.clone(),
                link: None,
                _stopper: stopper,
            },
        );
        let request = StreamRequest {
            id: stream,
            role: Role::Recipient,
            us: self.self_name.clone(),
            them: None,
            expected: None,
            require_tls: self.parts.require_encryption,
            local: connection.local,
            peer: connection.peer,
        };
        let context = self.parts.streams.clone();
        let permit: Option<Permit> = connection.permit;
        let task = async move {
            let stopped = async {
                stop.stopped().await;
                Err(Error::Cancelled("the stream is not wanted".into()))
            };
            let established = stream::establish(context, request, connection.carrier)
                .or(stopped)
                .await?;
            drop(permit);
            established.run(mailbox, commands, &stop).await
        };
        self.supervise(stream, task);
    }

    pub(super) fn stream_event(&mut self, id: StreamId, event: StreamEvent) {
        if let StreamEvent::Admit(admission) = event {
            self.admit(id, admission);
            return;
        }
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        let Some(contact) = entry.contact.clone() else {
            return;
        };
        let from = || PeerId {
            contact: contact.clone(),
            resource: None,
        };
        match event {
            // Taken care of above.
            StreamEvent::Admit(_) => {}
            StreamEvent::Ready(link) => {
                entry.link = Some(link);
                self.serve(&contact);
            }
            StreamEvent::Features(info) => {
                if let Some(peer) = self.peers.get_mut(&contact) {
                    (peer.ask_at, peer.attempts) = (None, 0);
                }
                let changes = self.parts.contacts.answered(&contact, info.features);
                self.follow(changes);
            }
            StreamEvent::Offered(offer) => {
                let from = from();
                self.emit(SessionEvent::TubeOffered {
                    from,
                    tube: TubeId(offer.id),
                    service: offer.service,
                    parameters: offer.parameters,
                });
            }
            StreamEvent::Closed(tube) => {
                let from = from();
                self.emit(SessionEvent::TubeClosed {
                    from,
                    tube: TubeId(tube),
                });
            }
            StreamEvent::Connection(tube, stream) => {
                let from = from();
                self.emit(SessionEvent::StreamOffered {
                    from,
                    tube: TubeId(tube),
                    stream,
                });
            }
            StreamEvent::DBusTube(offer, incoming) => {
                let from = from();
                self.emit(SessionEvent::DBusTubeOffered {
                    from,
                    tube: TubeId(offer.id),
                    service: offer.service,
                    parameters: offer.parameters,
                    incoming,
                });
            }
            StreamEvent::File(file, incoming) => {
                let from = from();
                self.emit(SessionEvent::FileOffered {
                    from,
                    file: *file,
                    incoming,
                });
            }
        }
    }

    pub(super) fn admit(&mut self, id: StreamId, admission: Admission) {
        let Some(entry) = self.streams.get(&id) else {
            return;
        };
        if !self.is_online() {
            return;
        }
        if let Some(contact) = entry.contact.clone() {
            if self.parts.contacts.is_key_of(&contact, admission.key) {
                self.believe(id, contact, admission);
            } else {
                let error = Error::CertFingerprintMismatch(format!(
                    "{contact} has another key now than when the stream was opened"
                ));
                forget(admission.reply.send(Err(error)));
            }
            return;
        }
        let address = admission.peer.ip();
        let claim = self
            .parts
            .contacts
            .claim(&admission.from, admission.key, address);
        match claim {
            Claim::Is(contact) => self.believe(id, contact, admission),
            Claim::Unknown => self.wait_for_record(id, admission),
            Claim::Refused(why) => refuse(admission, why),
        }
    }

    fn wait_for_record(&mut self, stream: StreamId, admission: Admission) {
        const TOO_MANY: &str = "too many strangers wait for their records";
        let address = admission.peer.ip();
        let same = |unknown: &Unknown| unknown.admission.peer.ip() == address;
        if self.unknown.iter().filter(|unknown| same(unknown)).count() >= MAX_UNKNOWN_EACH {
            if let Some(oldest) = self.unknown.iter().position(same) {
                refuse(self.unknown.remove(oldest).admission, TOO_MANY);
            }
        } else if self.unknown.len() >= MAX_UNKNOWN {
            refuse(admission, TOO_MANY);
            return;
        }
        let until = self.now() + RECORD;
        self.unknown.push(Unknown {
            stream,
            admission,
            until,
        });
    }

    pub(super) fn look_again_at_unknown(&mut self) {
        for Unknown {
            stream,
            admission,
            until,
        } in std::mem::take(&mut self.unknown)
        {
            let (from, key) = (&admission.from, admission.key);
            match self.parts.contacts.claim(from, key, admission.peer.ip()) {
                Claim::Is(contact) => self.believe(stream, contact, admission),
                Claim::Unknown => self.unknown.push(Unknown {
                    stream,
                    admission,
                    until,
                }),
                Claim::Refused(why) => refuse(admission, why),
            }
        }
    }

    /// The stream is the contact's. If there is another one, one of the two is retired.
    pub(super) fn believe(&mut self, id: StreamId, contact: ContactId, admission: Admission) {
        let now = self.now();
        let own = Side::Key(self.own_key());
        let (us, them) = match admission.key {
            Some(key) => (own, Side::Key(key)),
            None => (
                Side::Name(self.self_name.clone()),
                Side::Name(admission.from.clone()),
            ),
        };
        let same = |entry: &&StreamEntry| entry.contact.as_ref() == Some(&contact);
        if self.streams.values().filter(same).count() >= MAX_STREAMS_EACH
            && admission.role == Role::Recipient
        {
            refuse(admission, "it has too many streams");
            return;
        }
        if admission.role == Role::Recipient
            && !self.parts.contacts.has_pin(&contact)
            && self.streams_of_strangers() >= MAX_STREAMS_OF_STRANGERS
        {
            refuse(admission, "strangers have too many streams");
            return;
        }
        let Some(entry) = self.streams.get_mut(&id) else {
            return;
        };
        entry.contact = Some(contact.clone());
        entry.key = admission.key;
        entry.run = admission.run;
        // Before anything that is said on this stream, so that it ends what was and not what comes.
        if let Some((key, run)) = admission.key.zip(admission.run) {
            let changes = self.parts.contacts.runs_as(key, run);
            if !changes.is_empty() {
                self.drop_streams_of_other_runs(key, run);
                self.follow(changes);
            }
        }
        let pneuma = self
            .parts
            .contacts
            .known_features(&contact)
            .map(|features| features.contains(ns::PNEUMA));
        let announced = match (admission.key, self.parts.contacts.route(&contact)) {
            (None, Ok(route)) => route.ways.iter().map(|(address, _)| address.ip()).collect(),
            _ => Vec::new(),
        };
        let admitted = Admitted {
            contact: contact.clone(),
            pneuma,
            announced,
        };
        if admission.reply.send(Ok(admitted)).is_err() {
            return;
        }
        let peer = self.peers.entry(contact.clone()).or_default();
        if peer.dialling == Some(id) {
            peer.dialling = None;
        }
        let existing = peer
            .current
            .filter(|current| *current != id)
            .and_then(|current| Some((current, self.streams.get(&current)?)));
        let retired = match existing {
            None => {
                peer.current = Some(id);
                None
            }
            Some((current, existing)) => match keep(&us, &them, existing.role, admission.role) {
                Keep::Existing => Some(id),
                Keep::Newcomer => {
                    peer.current = Some(id);
                    Some(current)
                }
            },
        };
        // A peer that opens another one has perhaps lost the one there was, and nobody told us.
        if let Some(entry) = peer.current.filter(|current| *current != id)
            && let Some(entry) = self.streams.get(&entry)
            && entry.link.is_some()
            && entry.commands.try_tell_first(Command::Ping).is_err()
        {
            tracing::debug!(%contact, "a stream is too busy to be asked whether it is alive");
        }
        if let Some(entry) = retired.and_then(|retired| self.streams.get(&retired)) {
            // One that is too busy to be told is found by its idleness later.
            if entry.commands.try_tell_first(Command::Retire).is_err() {
                tracing::debug!(%contact, "a stream could not be retired");
            }
        }
        let dialled = admission.role == Role::Initiator;
        let changes = self
            .parts
            .contacts
            .stream_up(&contact, admission.peer, dialled, now);
        self.follow(changes);
        self.serve(&contact);
    }

    /// Streams that contacts opened whom our user never dealt with.
    fn streams_of_strangers(&self) -> usize {
        let contacts = &self.parts.contacts;
        self.streams
            .values()
            .filter(|entry| entry.role == Role::Recipient)
            .filter_map(|entry| entry.contact.as_ref())
            .filter(|contact| !contacts.has_pin(contact))
            .count()
    }

    pub(super) fn stream_ended(&mut self, id: StreamId, result: Result<(), Error>) {
        self.unknown.retain(|unknown| unknown.stream != id);
        let Some(entry) = self.streams.remove(&id) else {
            return;
        };
        if let Err(error) = &result {
            tracing::debug!(stream = id.0, %error, "a stream ended");
        }
        let Some(contact) = entry.contact else {
            return;
        };
        let now = self.now();
        let other = live(&self.streams, &contact);
        let Some(peer) = self.peers.get_mut(&contact) else {
            return;
        };
        if peer.dialling == Some(id) {
            peer.dialling = None;
        }
        let was_current = peer.current == Some(id);
        if was_current {
            peer.current = other;
        }
        let idle = peer.current.is_none() && peer.dialling.is_none();
        // One that was never ready has served nobody; those who waited for it do not wait for ever.
        if idle && entry.link.is_none() {
            let error = result.err().unwrap_or_else(Error::unanswered);
            for (_, waiter) in std::mem::take(&mut peer.waiters) {
                waiter.fail(error.clone());
            }
        }
        let unasked = self
            .parts
            .contacts
            .contact(&contact)
            .is_some_and(|contact| contact.features.is_none());
        if idle && unasked && peer.attempts < MAX_RETRIES {
            peer.attempts += 1;
            peer.ask_at = Some(now + RETRY * peer.attempts);
        } else if idle {
            peer.ask_at = None;
        }
        let alive = peer.current.is_some();
        if was_current && !alive {
            let changes = self.parts.contacts.stream_down(&contact, now);
            self.follow(changes);
        }
        self.serve(&contact);
    }

    /// Somebody found that a stream takes nothing any more, before we heard of its end: it is
    /// closing, or has just failed. It serves nobody else.
    pub(super) fn turned_out_gone(&mut self, contact: &ContactId, gone: &Arc<StreamLink>) {
        let Some(peer) = self.peers.get_mut(contact) else {
            return;
        };
        let is_it = |entry: &StreamEntry| {
            let link = entry.link.as_ref();
            link.is_some_and(|link| Arc::ptr_eq(link, gone))
        };
        let Some((id, entry)) = self.streams.iter_mut().find(|(_, entry)| is_it(entry)) else {
            return;
        };
        entry.link = None;
        // One that is too busy to be told is found by its idleness later.
        if entry.commands.try_tell_first(Command::Retire).is_err() {
            tracing::debug!(%contact, "a stream that is gone could not be retired");
        }
        if peer.current != Some(*id) {
            return;
        }
        peer.current = live(&self.streams, contact);
        if peer.current.is_none() {
            let now = self.now();
            let changes = self.parts.contacts.stream_down(contact, now);
            self.follow(changes);
        }
    }

    /// Whoever holds these streams is not the contact any more.
    pub(super) fn drop_streams_of(&mut self, id: &ContactId) {
        let contacts = &self.parts.contacts;
        self.streams.retain(|_, entry| {
            entry.contact.as_ref() != Some(id) || contacts.is_key_of(id, entry.key)
        });
        if let Some(peer) = self.peers.get_mut(id) {
            peer.current = peer.current.filter(|id| self.streams.contains_key(id));
            peer.dialling = peer.dialling.filter(|id| self.streams.contains_key(id));
        }
        self.serve(id);
    }

    /// The contact's program was started anew: what it had open before leads nowhere.
    fn drop_streams_of_other_runs(&mut self, key: KeyId, run: RunId) {
        self.streams.retain(|_, entry| {
            entry.key != Some(key) || entry.run.is_none_or(|other| other == run)
        });
        for peer in self.peers.values_mut() {
            peer.current = peer.current.filter(|id| self.streams.contains_key(id));
        }
    }

    // --- time ----------------------------------------------------------------------------------
}

/// The newest stream of a contact that can be used.
fn live(streams: &BTreeMap<StreamId, StreamEntry>, contact: &ContactId) -> Option<StreamId> {
    let usable =
        |entry: &StreamEntry| entry.contact.as_ref() == Some(contact) && entry.link.is_some();
    let newest = streams.iter().rfind(|(_, entry)| usable(entry));
    newest.map(|(id, _)| *id)
}

pub(super) fn refuse(admission: Admission, why: &str) {
    tracing::debug!(from = admission.from, peer = %admission.peer, why, "an inbound stream is refused");
    let error = Error::PermissionDenied(format!("{} is not believed: {why}", admission.from));
    forget(admission.reply.send(Err(error)));
}
