//! Streams that we open, and those who wait for them.

use std::sync::Arc;

use actors::{model::Error, runtime::Stopper};
use futures_lite::FutureExt as _;

use super::super::stream::{self, Command, StreamId, StreamLink, StreamRequest};
use crate::{
    session::{ContactId, link::Link as _},
    xmpp::stream::Role,
};

use super::{
    Linked, MAX_BACKGROUND, MAX_WAITERS, Message, OPENING, SessionActor, StreamEntry, Waiter,
    forget,
};

impl SessionActor {
    /// Somebody needs a stream to a contact.
    pub(super) fn want(&mut self, id: ContactId, waiter: Waiter) {
        if !self.is_online() {
            waiter.fail(Error::Disconnected("the account is not online".into()));
            return;
        }
        if let Err(error) = self.parts.contacts.route(&id) {
            waiter.fail(error);
            return;
        }
        let until = self.now() + OPENING;
        let peer = self.peers.entry(id.clone()).or_default();
        if peer.waiters.len() >= MAX_WAITERS {
            waiter.fail(Error::ResourceUnavailable(format!(
                "too many requests wait for {id}"
            )));
            return;
        }
        peer.waiters.push((until, waiter));
        self.serve(&id);
    }

    /// Gives the waiters what they wait for, or sees to it that they get it.
    pub(super) fn serve(&mut self, id: &ContactId) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if peer.waiters.is_empty() {
            return;
        }
        match peer.current {
            Some(current) => {
                let Some(link) = self.streams.get(&current).and_then(|s| s.link.clone()) else {
                    return;
                };
                let waiters = std::mem::take(&mut peer.waiters);
                for (_, waiter) in waiters {
                    self.satisfy(id, waiter, &link);
                }
            }
            None if peer.dialling.is_some() => {}
            None => self.dial(id),
        }
    }

    pub(super) fn satisfy(&mut self, id: &ContactId, waiter: Waiter, link: &Arc<StreamLink>) {
        match waiter {
            Waiter::Link(reply) => {
                let features = self.parts.contacts.contact(id).and_then(|c| c.features);
                let linked = Linked {
                    link: link.clone(),
                    features,
                };
                forget(reply.send(Ok(linked)));
            }
            Waiter::Pin(expected, reply) => {
                let (wall, now) = (self.parts.clock.wall(), self.now());
                let proved = link.security().map(|security| security.peer);
                let contacts = &mut self.parts.contacts;
                let result = contacts.pin(id, proved, expected, wall, now);
                self.trust_changed(result, reply);
            }
        }
    }

    pub(super) fn probe(&mut self, id: ContactId) {
        let current = self.peers.get(&id).and_then(|peer| peer.current);
        match current.and_then(|current| self.streams.get(&current)) {
            Some(entry) => {
                // A mailbox that is full is that of a stream with much to say.
                let told = entry.commands.try_tell(Command::Ping).is_ok();
                tracing::debug!(contact = %id, told, "is it still there?");
            }
            // A stranger is looked for only while there is room: thousands who come and go would
            // have us open thousands of connections, to wherever they say.
            None if self.is_online()
                && self.peers.get(&id).is_none_or(|p| p.dialling.is_none())
                && self.room_in_background(&id) =>
            {
                self.dial(&id);
            }
            None => {}
        }
    }

    /// Whether one more stream may be opened that nobody waits for.
    fn room_in_background(&self, id: &ContactId) -> bool {
        let pinned = self.parts.contacts.has_pin(id);
        self.in_background(pinned) < MAX_BACKGROUND
    }

    /// How many streams are being opened that nobody waits for, to pinned contacts or to others.
    pub(super) fn in_background(&self, pinned: bool) -> usize {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.dialling.is_some() && peer.waiters.is_empty())
            .filter(|(id, _)| self.parts.contacts.has_pin(id) == pinned)
            .count()
    }

    /// Asks those whose turn has come for their features.
    pub(super) fn ask_around(&mut self) {
        let now = self.now();
        let due: Vec<ContactId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.ask_at.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if self.parts.contacts.known_features(&id).is_some() {
                peer.ask_at = None;
                continue;
            }
            if let Some(entry) = peer.current.and_then(|current| self.streams.get(&current)) {
                peer.ask_at = None;
                // A stream that is not ready asks by itself.
                if entry.link.is_some() && entry.commands.try_tell(Command::Ask).is_err() {
                    tracing::debug!(contact = %id, "the stream is too busy to be asked");
                }
                continue;
            }
            if peer.dialling.is_some() {
                continue;
            }
            if self.room_in_background(&id) {
                self.dial(&id);
            }
        }
    }

    /// Opens a stream; its end says how it went.
    pub(super) fn dial(&mut self, id: &ContactId) {
        let route = match self.parts.contacts.route(id) {
            Ok(route) => route,
            Err(error) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.ask_at = None;
                    for (_, waiter) in std::mem::take(&mut peer.waiters) {
                        waiter.fail(error.clone());
                    }
                }
                return;
            }
        };
        let stream = self.fresh_stream();
        let peer = self.peers.entry(id.clone()).or_default();
        peer.dialling = Some(stream);
        let (mailbox, commands) = stream::mailbox();
        let (stopper, stop) = Stopper::new();
        self.streams.insert(
            stream,
            StreamEntry {
                role: Role::Initiator,
                contact: Some(id.clone()),
                key: route.key,
                run: None,
                commands: commands.clone(),
                link: None,
                _stopper: stopper,
            },
        );
        let require_tls = self.parts.require_encryption || route.key.is_some();
        let (network, context) = (self.parts.network.clone(), self.parts.streams.clone());
        let (us, ways) = (self.self_name.clone(), route.ways);
        let clock = self.parts.clock.clone();
        let opening = async move {
            let mut last = Error::Offline("the contact has no address".into());
            for (address, them) in ways {
                let connection = match network.dial(address).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        last = Error::ConnectionFailed(format!(
                            "the contact cannot be reached at {address}: {error}"
                        ));
                        continue;
                    }
                };
                let request = StreamRequest {
                    id: stream,
                    role: Role::Initiator,
                    us: us.clone(),
                    them: Some(them),
                    expected: route.key,
                    require_tls,
                    local: connection.local,
                    peer: connection.peer,
                };
                match stream::establish(context.clone(), request, connection.carrier).await {
                    Ok(established) => return Ok(established),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let task = async move {
            let late = async {
                clock.sleep(OPENING).await;
                Err(Error::ConnectionFailed(
                    "the contact could not be reached in time".into(),
                ))
            };
            let stopped = async {
                stop.stopped().await;
                Err(Error::Cancelled("the stream is not wanted".into()))
            };
            let established = opening.or(late).or(stopped).await?;
            established.run(mailbox, commands, &stop).await
        };
        self.supervise(stream, task);
    }

    pub(super) fn fresh_stream(&mut self) -> StreamId {
        self.next_stream += 1;
        StreamId(self.next_stream)
    }

    /// Runs a stream's task, and another that tells us how it ended, a panic included.
    pub(super) fn supervise(
        &self,
        id: StreamId,
        task: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) {
        let task = self.parts.spawner.spawn("xml stream", task);
        let address = self.address.clone();
        let watch = async move {
            let result = task
                .await
                .unwrap_or_else(|failure| Err(Error::Confused(failure.to_string())));
            address
                .tell_first(Message::Ended(id, result))
                .await
                .unwrap_or(());
        };
        self.parts
            .spawner
            .spawn("xml stream watcher", watch)
            .detach();
    }
}
