//! Going online and offline, and what we announce.

use actors::{
    model::Error,
    runtime::{Reply, catch},
};
use async_channel::Receiver;

use super::super::{
    discovery::{Announcement, DiscoveryEvent, PresenceText},
    fault::Point,
    network::Listening,
    stream::Command,
};
use crate::session::{Presence, SessionEvent, Show};

use super::parts::NODE;
use super::{ANNOUNCE, LEAVING, Message, SessionActor, State, forget};

impl SessionActor {
    pub(super) fn connect(&mut self, reply: Reply<Result<(), Error>>) {
        if !matches!(self.state, State::Offline) {
            let error = Error::NotAvailable("this session was online already".into());
            forget(reply.send(Err(error)));
            return;
        }
        self.state = State::Starting {
            reply: Some(reply),
            until: self.now() + ANNOUNCE,
        };
        let (network, discovery) = (self.parts.network.clone(), self.parts.discovery.clone());
        let identification = self.parts.identification.clone();
        let text = self.text();
        discovery.set_pinned(self.parts.contacts.pinned());
        let address = self.address.clone();
        let (faults, late) = (self.parts.streams.faults.clone(), discovery.clone());
        let starting = async move {
            let listening = network.listen().map_err(|error| {
                Error::NetworkError(format!("no port can be listened on: {error}"))
            })?;
            let announcement = Announcement {
                name: identification.name,
                port: listening.port,
                text,
            };
            let sightings = discovery.start(announcement).await?;
            Ok((listening, sightings))
        };
        let start = async move {
            let starting = faults.survive(Point::SessionStarting, starting);
            let result = match catch("session start", starting).await {
                Ok(Ok(result)) => result,
                Ok(Err(failure)) | Err(failure) => {
                    Err(Error::Confused(format!("going online {failure}")))
                }
            };
            if address.tell_first(Message::Started(result)).await.is_err() {
                // The session is gone, and perhaps said goodbye before this began.
                late.stop().await;
            }
        };
        self.parts.spawner.spawn("session start", start).detach();
    }

    pub(super) fn started(&mut self, result: Result<(Listening, Receiver<DiscoveryEvent>), Error>) {
        let State::Starting { reply, .. } = &mut self.state else {
            // We are leaving already, and said goodbye perhaps before this began.
            let discovery = self.parts.discovery.clone();
            let goodbye = async move { discovery.stop().await };
            self.parts.spawner.spawn("late goodbye", goodbye).detach();
            return;
        };
        let reply = reply.take();
        match result {
            Ok((listening, sightings)) => {
                self.port = listening.port;
                self.accepted = Some(listening.accepted);
                self.accepting = listening.tasks;
                self.strangers = listening.strangers;
                self.strangers.keep_for(self.known.clone());
                self.sightings = Some(sightings);
                // What was set in the meantime.
                self.announce();
                if let Some(reply) = reply {
                    forget(reply.send(Ok(())));
                }
            }
            Err(error) => {
                if let Some(reply) = reply {
                    forget(reply.send(Err(error.clone())));
                }
                self.leave(error, None);
            }
        }
    }

    /// Goes offline: no new streams, goodbye, streams closed, `Disconnected`. Once.
    pub(super) fn leave(&mut self, why: Error, reply: Option<Reply<()>>) {
        if self.over {
            if let Some(reply) = reply {
                forget(reply.send(()));
            }
            return;
        }
        if let State::Leaving { replies, .. } = &mut self.state {
            replies.extend(reply);
            return;
        }
        self.accepted = None;
        self.accepting.clear();
        self.sightings = None;
        self.unknown.clear();
        for peer in std::mem::take(&mut self.peers).into_values() {
            for (_, waiter) in peer.waiters {
                waiter.fail(Error::Disconnected("the account went offline".into()));
            }
        }
        for entry in self.streams.values() {
            // One whose mailbox is full is closed with its stopper, at the end.
            if entry.commands.try_tell_first(Command::Close).is_err() {
                tracing::debug!("a stream is too busy to be closed in order");
            }
        }
        self.state = State::Leaving {
            replies: reply.into_iter().collect(),
            why,
            until: self.now() + LEAVING,
            withdrawn: false,
        };
        let (discovery, address) = (self.parts.discovery.clone(), self.address.clone());
        let faults = self.parts.streams.faults.clone();
        let goodbye = async move {
            let stopped = faults.survive(Point::SessionGoodbye, discovery.stop());
            // A goodbye that fails has been said.
            catch("goodbye", stopped).await.ok();
            address.tell_first(Message::Withdrawn).await.unwrap_or(());
        };
        self.parts.spawner.spawn("goodbye", goodbye).detach();
    }

    pub(super) fn finish_leaving(&mut self) {
        let now = self.now();
        let State::Leaving {
            replies,
            why,
            until,
            withdrawn,
        } = &mut self.state
        else {
            return;
        };
        if self.over || !(*until <= now || *withdrawn && self.streams.is_empty()) {
            return;
        }
        let (replies, why) = (std::mem::take(replies), why.clone());
        self.streams.clear();
        self.emit(SessionEvent::Disconnected(why));
        self.over = true;
        for reply in replies {
            forget(reply.send(()));
        }
    }

    pub(super) fn set_presence(&mut self, presence: Presence) -> Result<(), Error> {
        if presence.show == Show::Offline {
            return Err(Error::InvalidArgument("to be offline, disconnect".into()));
        }
        let text = &mut self.parts.identification.text;
        text.show = Some(presence.show);
        text.message = super::super::discovery::clean(&presence.message);
        self.announce();
        Ok(())
    }

    /// The TXT record as it is now.
    pub(super) fn text(&self) -> PresenceText {
        PresenceText {
            node: NODE.into(),
            ver: self.parts.info.get().ver(),
            hash: "sha-1".into(),
            key: Some(self.parts.streams.identity.id()),
            ..self.parts.identification.text.clone()
        }
    }

    pub(super) fn announce(&mut self) {
        if self.sightings.is_some() {
            self.parts.discovery.update(self.text());
        }
    }
}
