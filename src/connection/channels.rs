//! What a connection does about channels: who asks for one gets it or learns why not, the supervisor
//! makes it, and its end is told.

use std::{panic::AssertUnwindSafe, sync::Arc};

use actors::{
    model::{ChannelId, ContactHandle, Error, Result, ServiceName, TubeParameters},
    ports::{ChannelDescription, Parties, StreamTubeDescription, StreamTubeObject},
    runtime::{Failure, Reply, TellError},
    stream_tube::StreamTubeMessage,
    supervisor::StreamTubeRequest,
};
use futures_lite::FutureExt as _;

use super::{
    actor::Connection,
    message::{ConnectionMessage, CreatedChannel, can_be_offered_tubes},
    outgoing::Outgoing,
    policy, protocol,
    requests::{ChannelRequest, Target},
    tubes::{Opening, Waiter, WireId},
    view::{ChannelDetails, ConnectionSignal, Status},
};
use crate::session::PeerId;

impl Connection {
    /// CreateChannel and EnsureChannel.
    pub(super) fn request_channel(
        &mut self,
        request: &ChannelRequest,
        ensure: bool,
        reply: Reply<Result<CreatedChannel>>,
    ) {
        let contact = match self.requestable(request) {
            Ok(contact) => contact,
            Err(error) => {
                reply.answer(Err(error));
                return;
            }
        };
        if ensure {
            if let Some(details) = self.tubes.ours(contact, &request.service) {
                reply.answer(Ok(CreatedChannel {
                    details: details.clone(),
                    yours: false,
                    sent: None,
                }));
                return;
            }
            if let Some(opening) = self.tubes.ours_opening(contact, &request.service) {
                opening.waiters.push(Waiter {
                    reply,
                    yours: false,
                });
                return;
            }
        }
        let begun = self.begin_request(contact, request.service.clone());
        let (peer, wire, description) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                reply.answer(Err(error));
                return;
            }
        };
        let waiters = vec![Waiter { reply, yours: true }];
        self.open(&peer, wire, description, waiters);
    }

    /// The contact a request is for, if a tube can be offered to it.
    fn requestable(&self, request: &ChannelRequest) -> Result<ContactHandle> {
        if self.status != Status::Connected {
            return Err(Error::Disconnected("the connection is not online".into()));
        }
        let contact = match &request.target {
            Target::Handle(handle) => self.contacts.get(*handle)?,
            Target::Id(id) => self.contacts.by_id(id)?,
        };
        if Some(contact.handle) == self.self_handle {
            return Err(Error::NotAvailable(
                "a tube to oneself leads nowhere".into(),
            ));
        }
        can_be_offered_tubes(contact)?;
        Ok(contact.handle)
    }

    fn begin_request(
        &self,
        target: ContactHandle,
        service: ServiceName,
    ) -> Result<(PeerId, WireId, StreamTubeDescription)> {
        self.tubes.room()?;
        let contact = self.contacts.get(target)?;
        let myself = self.contacts.get(self.self_handle.unwrap_or(target))?;
        let wire = (target, self.tubes.fresh_id(target)?);
        let peer = PeerId {
            contact: contact.contact_id(),
            resource: None,
        };
        let description = StreamTubeDescription {
            parties: Parties {
                target,
                target_id: contact.id.as_ref().to_owned(),
                initiator: myself.handle,
                initiator_id: myself.id.as_ref().to_owned(),
                requested: true,
            },
            service,
            sockets: self.socket_types.clone(),
            parameters: TubeParameters::default(),
        };
        Ok((peer, wire, description))
    }

    /// Asks the supervisor for a channel. Its answer arrives as [`ConnectionMessage::Opened`].
    pub(super) fn open(
        &mut self,
        peer: &PeerId,
        wire: WireId,
        description: StreamTubeDescription,
        waiters: Vec<Waiter>,
    ) {
        let ports = self.session().tube(peer, wire.1);
        let terms = self.contacts.get(wire.0).map(|contact| {
            policy::terms_of(&self.session().policy(), contact, &description.service)
        });
        let limits = self.enforced.limits(
            &self.parts.clock,
            wire.0,
            &description.service,
            terms.unwrap_or_default(),
        );
        let ticket = self.tubes.begin(Opening {
            wire,
            service: description.service.clone(),
            requested: description.parties.requested,
            waiters,
            closed: false,
            task: None,
        });
        let opening = self.parts.opener.open_stream_tube(StreamTubeRequest {
            owner: self.parts.handle.id,
            description,
            connector: ports.connector,
            signalling: ports.signalling,
            sockets: self.parts.handle.sockets.clone(),
            limits,
        });
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
                    });
                // If the connection is gone, its channels are being closed.
                address
                    .tell_first(ConnectionMessage::Opened { ticket, outcome })
                    .await
                    .ok();
            });
        self.tubes.opens_by(ticket, task);
    }

    pub(super) fn opened(&mut self, ticket: u64, outcome: Result<StreamTubeObject>) {
        let Some(opening) = self.tubes.ended(ticket) else {
            return;
        };
        let object = match outcome {
            Ok(object) => object,
            Err(error) => {
                for waiter in opening.waiters {
                    waiter.reply.answer(Err(error.clone()));
                }
                self.done_with(opening.wire.0, &opening.service);
                return;
            }
        };
        let description = ChannelDescription::StreamTube(object.description.clone());
        let details = Arc::new(ChannelDetails {
            id: object.id,
            path: protocol::channel_path(&self.parts.handle.path, object.id, &description),
            description,
        });
        if !self
            .tubes
            .opened(opening.wire, object.clone(), details.clone())
        {
            self.done_with(opening.wire.0, &opening.service);
            let gone = Error::Cancelled("the channel closed before it was there".into());
            for waiter in opening.waiters {
                waiter.reply.answer(Err(gone.clone()));
            }
            return;
        }
        if opening.closed {
            self.tell_tube(&object, StreamTubeMessage::RemoteClosed);
        }
        self.deny_what_opened(&object);
        self.channels.insert(object.id, details.clone());
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
        if let Some(closed) = self.tubes.closed(id) {
            if let Some(contact) = closed.taken_up {
                self.offer_rate.give_back(contact);
            }
            self.channels.remove(&id);
            if let Some(tube) = closed.details.stream_tube() {
                self.done_with(tube.parties.target, &tube.service);
            }
            self.signal(ConnectionSignal::ChannelClosed(closed.details));
        }
    }

    /// One channel of this contact and service is gone.
    fn done_with(&mut self, contact: ContactHandle, service: &ServiceName) {
        let more = self.tubes.has(contact, service);
        self.enforced.closed(contact, service, more);
    }

    /// Tells a tube something that must reach it. If it is busy, a task waits for room.
    pub(super) fn tell_tube(&self, channel: &StreamTubeObject, message: StreamTubeMessage) {
        if let Err(TellError::Full(message)) = channel.address.try_tell_first(message) {
            let address = channel.address.clone();
            self.parts
                .spawner
                .spawn("message to a busy tube", async move {
                    // A tube that has gone meanwhile needs no telling.
                    address.tell_first(message).await.ok();
                })
                .detach();
        }
    }
}
