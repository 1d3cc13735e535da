//! What a connection does about channels: who asks for one gets it or learns why not, the supervisor
//! makes it, and its end is told.

use std::{panic::AssertUnwindSafe, sync::Arc};

use actors::{
    dbus_tube::DBusTubeMessage,
    file_transfer::FileTransferMessage,
    limits::Limits,
    model::{AddressType, ChannelId, Error, Result, ServiceName, TubeParameters},
    ports::{
        ChannelObject, DBusTubeDescription, FileTransferDescription, Parties, StreamTubeDescription,
    },
    runtime::{Address, BoxFuture, Failure, Reply, TellError},
    stream_tube::StreamTubeMessage,
    supervisor::{DBusTubeRequest, DBusTubeWay, FileTransferRequest, FileWay, StreamTubeRequest},
};
use futures_lite::FutureExt as _;

use super::{
    actor::Connection,
    contacts::Contact,
    message::{ConnectionMessage, CreatedChannel, can_be_offered},
    outgoing::Outgoing,
    policy, protocol,
    requests::{ChannelRequest, Kind, Wanted, file::FileRequest},
    table::{Place, Waiter},
    view::{ChannelDetails, ConnectionSignal, Status},
};
use crate::session::{PeerId, TubeId};

/// What a connection tells a channel, of whichever kind.
#[derive(Clone, Copy)]
pub(super) enum News {
    /// The contact says that it closes it. A file's end is told on its bytestream: of a file, only the contact
    /// can be gone.
    ClosedByContact,
    /// The contact has been gone for longer than the grace period.
    ContactGone,
    /// Our user's rules want it closed. Nobody waits for the end.
    Close,
}

impl Connection {
    /// CreateChannel and EnsureChannel.
    pub(super) fn request_channel(
        &mut self,
        request: ChannelRequest,
        ensure: bool,
        reply: Reply<Result<CreatedChannel>>,
    ) {
        let contact = match self.requestable(&request, ensure) {
            Ok(contact) => contact,
            Err(error) => {
                reply.answer(Err(error));
                return;
            }
        };
        if ensure && let Some(tube) = request.wanted.tube() {
            if let Some(details) = self.table.our_tube(contact.handle, tube) {
                reply.answer(Ok(CreatedChannel {
                    details: details.clone(),
                    yours: false,
                    sent: None,
                }));
                return;
            }
            if let Some(opening) = self.table.our_tube_opening(contact.handle, tube) {
                opening.waiters.push(Waiter {
                    reply,
                    yours: false,
                });
                return;
            }
        }
        if let Err(error) = self.table.room() {
            reply.answer(Err(error));
            return;
        }
        let waiter = Waiter { reply, yours: true };
        match (request.wanted, self.table.fresh_id(contact.handle)) {
            (Wanted::File(file), _) => self.request_file(&contact, *file, waiter),
            (Wanted::StreamTube(service), Ok(tube)) => {
                self.request_tube(&contact, tube, service, waiter);
            }
            (Wanted::DBusTube(service), Ok(tube)) => {
                self.request_dbus_tube(&contact, tube, service, waiter);
            }
            (_, Err(error)) => waiter.reply.answer(Err(error)),
        }
    }

    /// The contact a request is for, if there can be such a channel with it.
    fn requestable(&self, request: &ChannelRequest, ensure: bool) -> Result<Arc<Contact>> {
        if self.status != Status::Connected {
            return Err(Error::Disconnected("the connection is not online".into()));
        }
        let contact = self.contacts.named(&request.target)?;
        if Some(contact.handle) == self.self_handle {
            return Err(Error::NotAvailable(
                "a channel to oneself leads nowhere".into(),
            ));
        }
        can_be_offered(contact, &request.wanted)?;
        if let Wanted::File(_) = request.wanted {
            if ensure {
                return Err(Error::NotImplemented(
                    "each file transfer is one of its own: use CreateChannel".into(),
                ));
            }
            // It is offered as soon as it is there.
            policy::permitted(&self.session().policy(), contact, &ServiceName::of_files())?;
        }
        Ok(contact.clone())
    }

    fn request_tube(
        &mut self,
        contact: &Contact,
        tube: TubeId,
        service: ServiceName,
        waiter: Waiter,
    ) {
        let description = StreamTubeDescription {
            parties: self.parties(contact, true),
            service,
            sockets: self.socket_types.clone(),
            parameters: TubeParameters::default(),
        };
        self.open_tube(&peer(contact), tube, description, vec![waiter]);
    }

    fn request_dbus_tube(
        &mut self,
        contact: &Contact,
        tube: TubeId,
        service: ServiceName,
        waiter: Waiter,
    ) {
        let offering = self.session().dbus_tube(&peer(contact), tube);
        let parties = self.parties(contact, true);
        let description = self.dbus_tube(parties, service, TubeParameters::default());
        self.open_dbus_tube(
            tube,
            description,
            DBusTubeWay::Offer(offering),
            vec![waiter],
        );
    }

    /// What is fixed about a D-Bus tube. It listens at Unix sockets only.
    pub(super) fn dbus_tube(
        &self,
        parties: Parties,
        service: ServiceName,
        parameters: TubeParameters,
    ) -> DBusTubeDescription {
        let unix = self.socket_types.iter();
        let unix = unix.filter(|(kind, _)| *kind == AddressType::Unix);
        DBusTubeDescription {
            parties,
            service,
            accesses: unix.flat_map(|(_, accesses)| accesses).copied().collect(),
            parameters,
        }
    }

    fn request_file(&mut self, contact: &Contact, request: FileRequest, waiter: Waiter) {
        let sending = self.session().file(&peer(contact), request.file.clone());
        let description = FileTransferDescription {
            parties: self.parties(contact, true),
            file: request.file.into(),
            sockets: self.socket_types.clone(),
            uri: request.uri,
            has_ranges: true,
        };
        self.open_file(description, FileWay::Send(sending), vec![waiter]);
    }

    /// With whom a channel is, and whose wish it is.
    pub(super) fn parties(&self, contact: &Contact, requested: bool) -> Parties {
        let myself = self.self_handle.and_then(|me| self.contacts.get(me).ok());
        let initiator = match myself {
            Some(myself) if requested => myself,
            _ => contact,
        };
        Parties {
            target: contact.handle,
            target_id: contact.id.as_ref().to_owned(),
            initiator: initiator.handle,
            initiator_id: initiator.id.as_ref().to_owned(),
            requested,
        }
    }

    /// Asks the supervisor for a tube.
    pub(super) fn open_tube(
        &mut self,
        peer: &PeerId,
        tube: TubeId,
        description: StreamTubeDescription,
        waiters: Vec<Waiter>,
    ) {
        let ports = self.session().tube(peer, tube);
        let service = Kind::StreamTube.ruled(&description.service);
        let place = Place::of(&description.parties, Kind::StreamTube, Some(tube), service);
        let limits = self.limits(&place);
        let opening = self.parts.opener.open_stream_tube(StreamTubeRequest {
            owner: self.parts.handle.id,
            description,
            connector: ports.connector,
            signalling: ports.signalling,
            sockets: self.parts.handle.sockets.clone(),
            limits,
        });
        self.open(place, waiters, opening);
    }

    /// Asks the supervisor for a file transfer.
    pub(super) fn open_file(
        &mut self,
        description: FileTransferDescription,
        way: FileWay,
        waiters: Vec<Waiter>,
    ) {
        let service = ServiceName::of_files();
        let place = Place::of(&description.parties, Kind::File, None, service);
        let limits = self.limits(&place);
        let opening = self.parts.opener.open_file_transfer(FileTransferRequest {
            owner: self.parts.handle.id,
            description,
            way,
            sockets: self.parts.handle.sockets.clone(),
            limits,
        });
        self.open(place, waiters, opening);
    }

    /// Asks the supervisor for a D-Bus tube.
    pub(super) fn open_dbus_tube(
        &mut self,
        tube: TubeId,
        description: DBusTubeDescription,
        way: DBusTubeWay,
        waiters: Vec<Waiter>,
    ) {
        let service = Kind::DBusTube.ruled(&description.service);
        let place = Place::of(&description.parties, Kind::DBusTube, Some(tube), service);
        let limits = self.limits(&place);
        let opening = self.parts.opener.open_dbus_tube(DBusTubeRequest {
            owner: self.parts.handle.id,
            description,
            way,
            sockets: self.parts.handle.sockets.clone(),
            limits,
        });
        self.open(place, waiters, opening);
    }

    fn limits(&mut self, place: &Place) -> Limits {
        let terms = self
            .contacts
            .get(place.contact)
            .map(|contact| policy::terms_of(&self.session().policy(), contact, &place.service));
        self.enforced.limits(
            &self.parts.clock,
            place.contact,
            &place.service,
            terms.unwrap_or_default(),
        )
    }

    /// Waits for the supervisor's answer, which arrives as [`ConnectionMessage::Opened`].
    fn open<O: Into<ChannelObject> + 'static>(
        &mut self,
        place: Place,
        waiters: Vec<Waiter>,
        opening: BoxFuture<'static, Result<O>>,
    ) {
        let ticket = self.table.begin(place, waiters);
        let address = self.parts.handle.address.clone();
        let task = self
            .parts
            .spawner
            .spawn("opening of a channel", async move {
                let outcome = AssertUnwindSafe(opening)
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|payload| {
                        let failure = Failure::from_panic(&*payload);
                        Err(Error::Confused(format!("the supervisor {failure}")))
                    })
                    .map(O::into);
                // If the connection is gone, its channels are being closed.
                address
                    .tell_first(ConnectionMessage::Opened { ticket, outcome })
                    .await
                    .ok();
            });
        self.table.opens_by(ticket, task);
    }

    pub(super) fn opened(&mut self, ticket: u64, outcome: Result<ChannelObject>) {
        let Some(opening) = self.table.ended(ticket) else {
            return;
        };
        let object = match outcome {
            Ok(object) => object,
            Err(error) => {
                for waiter in opening.waiters {
                    waiter.reply.answer(Err(error.clone()));
                }
                self.done_with(&opening.place);
                return;
            }
        };
        let (id, description) = (object.id(), object.description());
        let details = Arc::new(ChannelDetails {
            id,
            path: protocol::channel_path(&self.parts.handle.path, id, &description),
            description,
        });
        let place = opening.place;
        if !self
            .table
            .opened(place.clone(), object.clone(), details.clone())
        {
            self.done_with(&place);
            let gone = Error::Cancelled("the channel closed before it was there".into());
            for waiter in opening.waiters {
                waiter.reply.answer(Err(gone.clone()));
            }
            return;
        }
        if opening.closed {
            self.tell(&object, News::ClosedByContact);
        }
        self.deny_what_opened(&place, &object);
        self.channels.insert(id, details.clone());
        self.publish();
        let mut announced = false;
        for waiter in opening.waiters {
            let sent = waiter.yours.then(|| {
                let (reply, pending) = Reply::new();
                self.outbox.push_back(Outgoing::After(
                    pending,
                    ConnectionSignal::NewChannels(details.clone()),
                ));
                announced = true;
                reply
            });
            waiter.reply.answer(Ok(CreatedChannel {
                details: details.clone(),
                yours: waiter.yours,
                sent,
            }));
        }
        if !announced {
            self.signal(ConnectionSignal::NewChannels(details));
        }
    }

    pub(super) fn channel_closed(&mut self, id: ChannelId) {
        if let Some(closed) = self.table.closed(id) {
            if closed.taken_up {
                self.offer_rate.give_back(closed.place.contact);
            }
            self.channels.remove(&id);
            self.done_with(&closed.place);
            self.signal(ConnectionSignal::ChannelClosed(closed.details));
        }
    }

    /// One channel of this contact and service is gone.
    fn done_with(&mut self, place: &Place) {
        let more = self.table.has(place.contact, &place.service);
        self.enforced.closed(place.contact, &place.service, more);
    }

    /// Tells a channel something that must reach it.
    pub(super) fn tell(&self, channel: &ChannelObject, news: News) {
        let nobody = || Reply::new().0;
        match channel {
            ChannelObject::StreamTube(tube) => {
                let message = match news {
                    News::ClosedByContact => StreamTubeMessage::RemoteClosed,
                    News::ContactGone => StreamTubeMessage::ContactGone,
                    News::Close => StreamTubeMessage::Close { reply: nobody() },
                };
                self.send(&tube.address, message);
            }
            ChannelObject::DBusTube(tube) => {
                let message = match news {
                    News::ClosedByContact => DBusTubeMessage::RemoteClosed,
                    News::ContactGone => DBusTubeMessage::ContactGone,
                    News::Close => DBusTubeMessage::Close { reply: nobody() },
                };
                self.send(&tube.address, message);
            }
            ChannelObject::FileTransfer(transfer) => {
                let message = match news {
                    News::ClosedByContact | News::ContactGone => FileTransferMessage::ContactGone,
                    News::Close => FileTransferMessage::Close { reply: nobody() },
                };
                self.send(&transfer.address, message);
            }
        }
    }

    /// If it is busy, a task waits for room.
    fn send<Message: Send + 'static>(&self, address: &Address<Message>, message: Message) {
        if let Err(TellError::Full(message)) = address.try_tell_first(message) {
            let address = address.clone();
            self.parts
                .spawner
                .spawn("message to a busy channel", async move {
                    // A channel that has gone meanwhile needs no telling.
                    address.tell_first(message).await.ok();
                })
                .detach();
        }
    }
}

/// A contact as the session takes it.
fn peer(contact: &Contact) -> PeerId {
    PeerId {
        contact: contact.contact_id(),
        resource: None,
    }
}
