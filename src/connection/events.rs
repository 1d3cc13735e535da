//! What a connection does about its session's events: it goes online, contacts come and change, they
//! offer tubes and files, and open connections through tubes. Channels are asked for in `channels`.

use std::sync::Arc;

use actors::{
    model::{ContactHandle, Error, FileOffer, Result, ServiceName, TubeParameters},
    ports::{
        ChannelObject, FileTransferDescription, IncomingBytestream, IncomingDBusTube, IncomingFile,
        StreamTubeDescription,
    },
    runtime::{Flow, TellError},
    stream_tube::StreamTubeMessage,
    supervisor::{DBusTubeWay, FileWay},
};

use super::{
    actor::Connection,
    channels::News,
    contacts::Contact,
    policy,
    requests::Kind,
    table::WireId,
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
                    && !self.table.close_opening(wire)
                {
                    self.closed_by_contact(wire);
                }
            }
            SessionEvent::StreamOffered { from, tube, stream } => {
                self.stream_offered(&from, tube, stream);
            }
            SessionEvent::FileOffered {
                from,
                file,
                incoming,
            } => self.file_offered(&from, file, incoming),
            SessionEvent::DBusTubeOffered {
                from,
                tube,
                service,
                parameters,
                incoming,
            } => self.dbus_tube_offered(&from, tube, service, parameters, incoming),
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
        self.table.close_openings_with(contact.handle);
        for channel in self.table.with(contact.handle) {
            self.tell(channel, News::ContactGone);
        }
    }

    fn closed_by_contact(&self, wire: WireId) {
        if let Some(channel) = self.table.on_wire(wire) {
            self.tell(channel, News::ClosedByContact);
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
            Some(wire) if self.table.is_theirs(wire, &service) => return,
            None => "somebody we do not see offers it".to_owned(),
            Some(wire) => match self.room_for_tube(wire, Kind::StreamTube, &service) {
                Ok(contact) => {
                    let description = StreamTubeDescription {
                        parties: self.parties(&contact, false),
                        service,
                        sockets: self.socket_types.clone(),
                        parameters,
                    };
                    self.open_tube(from, tube, description, Vec::new());
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

    fn room_for_tube(
        &mut self,
        wire: WireId,
        kind: Kind,
        service: &ServiceName,
    ) -> Result<Arc<Contact>> {
        if self.table.knows(wire) {
            return Err(Error::NotAvailable("its id is taken".into()));
        }
        self.room_for_offer(wire.0, &kind.ruled(service))
    }

    /// Whether a contact's offer becomes a channel; counts it then.
    fn room_for_offer(
        &mut self,
        contact: ContactHandle,
        service: &ServiceName,
    ) -> Result<Arc<Contact>> {
        let offering = self.contacts.get(contact)?.clone();
        if matches!(offering.trust, Trust::Blocked { .. }) {
            return Err(Error::CertFingerprintMismatch(
                "the contact is blocked".into(),
            ));
        }
        if self.status != Status::Connected {
            return Err(Error::Disconnected("we are not online yet".into()));
        }
        policy::permitted(&self.session().policy(), &offering, service)?;
        let pinned = |contact| {
            let contact = self.contacts.get(contact);
            contact.is_ok_and(|contact| contact.is_pinned())
        };
        self.table.room_for_offer(contact, pinned)?;
        let now = self.parts.clock.now();
        self.offer_rate.take(contact, offering.is_pinned(), now)?;
        Ok(offering)
    }

    fn file_offered(&mut self, from: &PeerId, file: FileOffer, incoming: Box<dyn IncomingFile>) {
        let handle = self.contacts.by_id(&from.contact.0).map(|who| who.handle);
        let offering =
            handle.and_then(|handle| self.room_for_offer(handle, &ServiceName::of_files()));
        match offering {
            Ok(contact) => {
                let description = FileTransferDescription {
                    parties: self.parties(&contact, false),
                    file: file.into(),
                    sockets: self.socket_types.clone(),
                    uri: String::new(),
                    has_ranges: incoming.has_ranges(),
                };
                self.open_file(description, FileWay::Receive(incoming), Vec::new());
            }
            Err(refusal) => {
                tracing::debug!(from = %from.contact, %refusal, "an offered file is declined");
                incoming.decline(refusal);
            }
        }
    }

    fn dbus_tube_offered(
        &mut self,
        from: &PeerId,
        tube: TubeId,
        service: ServiceName,
        parameters: TubeParameters,
        incoming: Box<dyn IncomingDBusTube>,
    ) {
        let offering = match self.wire(from, tube) {
            Some(wire) => self.room_for_tube(wire, Kind::DBusTube, &service),
            None => Err(Error::NotAvailable(
                "somebody we do not see offers it".into(),
            )),
        };
        match offering {
            Ok(contact) => {
                let parties = self.parties(&contact, false);
                let description = self.dbus_tube(parties, service, parameters);
                self.open_dbus_tube(tube, description, DBusTubeWay::Accept(incoming), Vec::new());
            }
            // Dropped, the offer is declined.
            Err(refusal) => {
                tracing::debug!(from = %from.contact, %refusal, "an offered D-Bus tube is declined");
            }
        }
    }

    fn stream_offered(&self, from: &PeerId, tube: TubeId, stream: Box<dyn IncomingBytestream>) {
        let channel = self
            .wire(from, tube)
            .and_then(|wire| self.table.on_wire(wire))
            .and_then(ChannelObject::stream_tube)
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
