//! What a connection does about its session's events: it goes online, contacts come and change, they
//! offer tubes and open connections through them. Channels are asked for in `channels`.

use std::sync::Arc;

use actors::{
    model::{Error, Result, ServiceName, TubeParameters},
    ports::{IncomingBytestream, Parties, StreamTubeDescription, StreamTubeObject},
    runtime::{Flow, TellError},
    stream_tube::StreamTubeMessage,
};

use super::{
    actor::Connection,
    policy,
    tubes::WireId,
    view::{ConnectionSignal, ContactListState, Status, StatusReason},
};
use crate::session::{ContactId, PeerId, SessionEvent, Trust, TubeId};

impl Connection {
    pub(super) fn session_event(&mut self, event: SessionEvent) -> Flow {
        match event {
            SessionEvent::Connected { self_id, alias } => return self.connected(&self_id, alias),
            SessionEvent::SelfIdChanged(id) => self.renamed(&id),
            SessionEvent::Contact(contact) => match self.contacts.update(contact) {
                Ok(handle) => {
                    self.touched.insert(handle);
                }
                // The flood's own log line would be a flood.
                Err(error) => tracing::debug!(%error, "a contact is not shown"),
            },
            SessionEvent::ContactRemoved(id) => {
                if let Some(handle) = self.contacts.remove(&id) {
                    self.touched.insert(handle);
                }
            }
            SessionEvent::ContactLost(id) => self.lost(&id),
            SessionEvent::TubeOffered {
                from,
                tube,
                service,
                parameters,
            } => self.offered(&from, tube, service, parameters),
            SessionEvent::TubeClosed { from, tube } => {
                if let Some(wire) = self.wire(&from, tube)
                    && !self.tubes.close_opening(wire)
                    && let Some(channel) = self.tubes.on_wire(wire)
                {
                    self.tell_tube(&channel.clone(), StreamTubeMessage::RemoteClosed);
                }
            }
            SessionEvent::StreamOffered { from, tube, stream } => {
                self.stream_offered(&from, tube, stream);
            }
            SessionEvent::FileOffered { incoming, .. } => {
                let why = Error::NotImplemented("file transfers are not there yet".into());
                incoming.decline(why);
            }
            SessionEvent::Disconnected(error) => {
                return self.end(StatusReason::of(&error), Some(error), Vec::new());
            }
        }
        Flow::Continue
    }

    fn connected(&mut self, self_id: &ContactId, alias: String) -> Flow {
        let handle = match self.contacts.ensure(&self_id.0, true) {
            Ok(handle) => handle,
            Err(error) => return self.end(StatusReason::NoneSpecified, Some(error), Vec::new()),
        };
        let (presence, capabilities) = (self.presence.clone(), Arc::new(self.own.together()));
        self.contacts.change(handle, |myself| {
            myself.presence = presence;
            myself.capabilities = Some(capabilities);
            if !alias.is_empty() {
                myself.alias = alias;
            }
        });
        self.self_handle = Some(handle);
        self.status = Status::Connected;
        // Everything is published before the first of these is emitted; ourselves are told of here,
        // in the order clients rely on, and not once more with the others.
        self.touched.remove(&handle);
        self.changed_quietly = true;
        if let Ok(myself) = self.contacts.get(handle).cloned() {
            self.signal(ConnectionSignal::SelfContactChanged(myself.clone()));
            self.signal(ConnectionSignal::PresencesChanged(vec![myself]));
        }
        self.signal(ConnectionSignal::StatusChanged(
            Status::Connected,
            StatusReason::Requested,
        ));
        self.signal(ConnectionSignal::ContactListStateChanged(
            ContactListState::Success,
        ));
        Flow::Continue
    }

    fn renamed(&mut self, id: &ContactId) {
        let Some(old) = self.self_handle else {
            return;
        };
        let Ok(handle) = self.contacts.ensure(&id.0, true) else {
            return;
        };
        if handle == old {
            return;
        }
        let Ok(before) = self.contacts.get(old).cloned() else {
            return;
        };
        self.contacts.change(handle, |myself| {
            myself.presence = before.presence.clone();
            myself.capabilities = before.capabilities.clone();
            if before.alias != *before.id {
                myself.alias.clone_from(&before.alias);
            }
        });
        self.contacts.remove(&before.contact_id());
        self.self_handle = Some(handle);
        self.touched.extend([old, handle]);
        if let Ok(myself) = self.contacts.get(handle).cloned() {
            self.signal(ConnectionSignal::SelfContactChanged(myself));
        }
    }

    fn lost(&mut self, id: &ContactId) {
        let Ok(contact) = self.contacts.by_id(&id.0).cloned() else {
            return;
        };
        self.tubes.close_openings_with(contact.handle);
        let channels: Vec<StreamTubeObject> = self.tubes.with(contact.handle).cloned().collect();
        for channel in channels {
            self.tell_tube(&channel, StreamTubeMessage::ContactGone);
        }
    }

    /// The tube a peer speaks of, as we know it.
    fn wire(&self, from: &PeerId, tube: TubeId) -> Option<WireId> {
        let contact = self.contacts.by_id(&from.contact.0).ok()?;
        Some((contact.handle, tube))
    }

    fn offered(
        &mut self,
        from: &PeerId,
        tube: TubeId,
        service: ServiceName,
        parameters: TubeParameters,
    ) {
        let refusal = match self.wire(from, tube) {
            // A stream broke before the contact knew that its offer had arrived: it offered again.
            Some(wire) if self.tubes.is_theirs(wire, &service) => return,
            None => "somebody we do not see offers it".to_owned(),
            Some(wire) => match self.room_for_offer(wire, &service) {
                Ok(()) => {
                    self.open_offered(from, wire, service, parameters);
                    return;
                }
                Err(error) => error.to_string(),
            },
        };
        tracing::debug!(from = %from.contact, tube = tube.0, refusal, "an offered tube is closed");
        // One farewell at a time is enough for a flood; the others close when the stream does.
        let signalling = self.session().tube(from, tube).signalling;
        if self
            .farewell
            .as_ref()
            .is_none_or(actors::runtime::Task::is_finished)
        {
            self.farewell = Some(
                self.parts
                    .spawner
                    .spawn("refusal of a tube", async move { signalling.close().await }),
            );
        }
    }

    fn room_for_offer(&mut self, wire: WireId, service: &ServiceName) -> Result<()> {
        let contact = self.contacts.get(wire.0)?;
        if matches!(contact.trust, Trust::Blocked { .. }) {
            return Err(Error::CertFingerprintMismatch(
                "the contact is blocked".into(),
            ));
        }
        if self.status != Status::Connected {
            return Err(Error::Disconnected("we are not online yet".into()));
        }
        policy::permitted(&self.session().policy(), contact, service)?;
        if self.tubes.knows(wire) {
            return Err(Error::NotAvailable("its id is taken".into()));
        }
        let pinned = |contact| {
            let contact = self.contacts.get(contact);
            contact.is_ok_and(|contact| contact.is_pinned())
        };
        self.tubes.room_for_offer(wire.0, pinned)?;
        let now = self.parts.clock.now();
        self.offer_rate.take(wire.0, pinned(wire.0), now)
    }

    fn open_offered(
        &mut self,
        from: &PeerId,
        wire: WireId,
        service: ServiceName,
        parameters: TubeParameters,
    ) {
        let Ok(contact) = self.contacts.get(wire.0).cloned() else {
            return;
        };
        self.open(
            from,
            wire,
            StreamTubeDescription {
                parties: Parties {
                    target: contact.handle,
                    target_id: contact.id.as_ref().to_owned(),
                    initiator: contact.handle,
                    initiator_id: contact.id.as_ref().to_owned(),
                    requested: false,
                },
                service,
                sockets: self.socket_types.clone(),
                parameters,
            },
            Vec::new(),
        );
    }

    fn stream_offered(&self, from: &PeerId, tube: TubeId, stream: Box<dyn IncomingBytestream>) {
        let channel = self
            .wire(from, tube)
            .and_then(|wire| self.tubes.on_wire(wire))
            .filter(|channel| channel.description.parties.requested);
        let Some(channel) = channel else {
            stream.refuse(Error::NotAvailable("there is no such tube".into()));
            return;
        };
        match channel
            .address
            .try_tell(StreamTubeMessage::Incoming(stream))
        {
            Ok(()) => {}
            Err(
                TellError::Full(StreamTubeMessage::Incoming(stream))
                | TellError::Gone(StreamTubeMessage::Incoming(stream)),
            ) => stream.refuse(Error::ResourceUnavailable("the tube is busy".into())),
            // It gives back what it was given.
            Err(_) => {}
        }
    }
}
