//! The actor behind one Connection: status, contacts, capabilities, channels.
//!
//! ```text
//!                 Connect                 session: Connected
//!  Disconnected ─────────> Connecting ──────────────────────> Connected
//!       │                      │                                  │
//!       └──────────────────────┴── Disconnect, session lost ──────┴──> the end (see `lifecycle`)
//! ```
//!
//! What is set while Disconnected (presence, alias, capabilities) is remembered, and the session
//! takes it along when it connects. What takes time (the session, the supervisor) is done by chores
//! and openings, whose results come back as messages; [`Connection::apply`] never waits. After each
//! event the changed contacts are compared with what was published, the new view is published, and
//! the signals that tell of the difference are queued: nobody sees a signal before its state.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use actors::{
    model::{AccessControl, AddressType, ChannelId, ContactHandle, Error, Result},
    runtime::{
        Actor, Clock, Exit, Failure, Faults, Flow, Mailbox, Reply, SnapshotWriter, Spawner, Task,
        Time,
    },
};
use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{
    capabilities::OwnCapabilities,
    contacts::Contacts,
    fault::Point,
    message::{ConnectionHandle, ConnectionMessage},
    offer_rate::OfferRate,
    outgoing::{Ending, Outgoing},
    parameters::Account,
    policy::Enforced,
    ports::ChannelOpener,
    protocol::MAX_ALIAS,
    table::Table,
    view::{
        ChannelDetails, ConnectionSignal, ConnectionView, ContactListState, Status, StatusReason,
    },
};
use crate::session::{Presence, Session, SessionEvent, Show};

/// Session events taken together, so that a crowd that appears at once is one signal and not a
/// thousand.
const BATCH: usize = 64;
/// Changes of presence, alias and capabilities that wait for the session. One more is answered
/// `ResourceUnavailable`.
const MAX_CHORES: usize = 64;
/// How long a connection may be Connecting, whatever its session waits for. The session's own limits
/// are shorter; this one is for what has none. Past it the connection ends with a network error.
const CONNECTING: Duration = Duration::from_secs(60);

/// What a connection is made of.
pub(super) struct Parts {
    pub(super) handle: ConnectionHandle,
    pub(super) account: Account,
    pub(super) events: Receiver<SessionEvent>,
    pub(super) mailbox: Mailbox<ConnectionMessage>,
    pub(super) view: Arc<SnapshotWriter<ConnectionView>>,
    pub(super) announcer: Sender<Outgoing>,
    pub(super) ending: Sender<Ending>,
    pub(super) spawner: Spawner,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) opener: Arc<dyn ChannelOpener>,
    pub(super) faults: Faults<Point>,
}

/// The actor; see the module's head.
pub(super) struct Connection {
    pub(super) parts: Parts,
    /// `StreamTube.SupportedSocketTypes`, the same for all channels.
    pub(super) socket_types: Vec<(AddressType, Vec<AccessControl>)>,
    pub(super) status: Status,
    pub(super) self_handle: Option<ContactHandle>,
    pub(super) contacts: Contacts,
    /// Contacts that changed since the last publication.
    pub(super) touched: BTreeSet<ContactHandle>,
    /// Contacts changed in a way that is told of by itself.
    pub(super) changed_quietly: bool,
    pub(super) channels: BTreeMap<ChannelId, Arc<ChannelDetails>>,
    pub(super) table: Table,
    pub(super) offer_rate: OfferRate,
    pub(super) enforced: Enforced,
    pub(super) presence: Presence,
    alias: String,
    pub(super) own: OwnCapabilities,
    /// The first is being done.
    chores: VecDeque<Chore>,
    chore: Option<Task<()>>,
    pub(super) outbox: VecDeque<Outgoing>,
    /// Tells a contact that an offer beyond our bounds is closed.
    pub(super) farewell: Option<Task<()>>,
    /// Which side the next event is taken from if both have one, so that neither starves.
    session_first: bool,
    /// When it has been Connecting for too long.
    connected_by: Option<Time>,
}

/// What is asked of the session, one at a time and in order.
enum Chore {
    Connect,
    SetPresence(Presence, Reply<Result<()>>),
    SetAlias(String, Reply<Result<()>>),
    SetCapabilities(Reply<Result<()>>),
}

/// What happens to it.
pub(super) enum Event {
    /// Somebody says or asks something; `None` when nobody can any more.
    Message(Option<ConnectionMessage>),
    /// The session tells something, several things at once perhaps.
    Session(Vec<SessionEvent>),
    /// The session is gone without a word.
    SessionGone,
    /// A test kills the actor in its wait.
    Killed(Failure),
    /// It has been Connecting for too long.
    TooLate,
}

impl Connection {
    pub(super) fn new(parts: Parts) -> Self {
        let alias = parts.account.nickname.clone();
        let plaintext = !parts.account.require_encryption;
        let socket_types = parts.handle.sockets.supported();
        let enforced = Enforced::new(parts.handle.session.policy());
        Connection {
            parts,
            socket_types,
            status: Status::Disconnected,
            self_handle: None,
            contacts: Contacts::new(plaintext),
            touched: BTreeSet::new(),
            changed_quietly: false,
            channels: BTreeMap::new(),
            table: Table::default(),
            offer_rate: OfferRate::default(),
            enforced,
            presence: Presence {
                show: Show::Available,
                message: String::new(),
            },
            alias,
            own: OwnCapabilities::default(),
            chores: VecDeque::new(),
            chore: None,
            outbox: VecDeque::new(),
            farewell: None,
            session_first: false,
            connected_by: None,
        }
    }

    pub(super) fn session(&self) -> &Arc<dyn Session> {
        &self.parts.handle.session
    }

    pub(super) fn signal(&mut self, signal: ConnectionSignal) {
        self.outbox.push_back(Outgoing::Signal(signal));
    }

    pub(super) fn end(
        &mut self,
        reason: StatusReason,
        error: Option<Error>,
        replies: Vec<Reply<()>>,
    ) -> Flow {
        // What is queued is emitted before the end's own signals.
        self.publish();
        let ending = Ending {
            reason,
            error,
            replies,
            outbox: std::mem::take(&mut self.outbox),
        };
        // There is room: an actor ends once.
        if self.parts.ending.try_send(ending).is_err() {
            tracing::error!("a connection ended twice");
        }
        Flow::Exit(Exit::Finished)
    }

    fn message(&mut self, message: ConnectionMessage) -> Flow {
        match message {
            ConnectionMessage::Connect { reply } => {
                if self.status == Status::Disconnected {
                    self.status = Status::Connecting;
                    self.connected_by = Some(self.parts.clock.now() + CONNECTING);
                    self.signal(ConnectionSignal::StatusChanged(
                        Status::Connecting,
                        StatusReason::Requested,
                    ));
                    self.chores.push_back(Chore::Connect);
                    self.begin_chore();
                }
                reply.answer(());
            }
            ConnectionMessage::Disconnect { reply } => {
                return self.end(StatusReason::Requested, None, vec![reply]);
            }
            ConnectionMessage::SetPresence { presence, reply } => {
                self.add_chore(|reply| Chore::SetPresence(presence, reply), reply);
            }
            ConnectionMessage::SetAliases { aliases, reply } => self.set_aliases(aliases, reply),
            ConnectionMessage::UpdateCapabilities { clients, reply } => {
                self.own.update(clients);
                self.add_chore(Chore::SetCapabilities, reply);
            }
            ConnectionMessage::RequestChannel {
                request,
                ensure,
                reply,
            } => self.request_channel(request, ensure, reply),
            ConnectionMessage::PolicyChanged { reply } => self.policy_changed(reply),
            ConnectionMessage::Channel { channel, reply } => {
                reply.answer(self.table.object(channel).cloned());
            }
            ConnectionMessage::ChannelClosed(id) => self.channel_closed(id),
            ConnectionMessage::Opened { ticket, outcome } => self.opened(ticket, outcome),
            ConnectionMessage::ChoreDone(outcome) => return self.chore_done(outcome),
        }
        Flow::Continue
    }

    fn set_aliases(&mut self, aliases: BTreeMap<u32, String>, reply: Reply<Result<()>>) {
        let mut own = None;
        for (handle, alias) in aliases {
            match self.self_handle {
                Some(myself) if myself.0 == handle => own = Some(alias),
                _ => {
                    let refusal = match self.contacts.get(ContactHandle(handle)) {
                        Ok(contact) => {
                            Error::PermissionDenied(format!("{} chooses its own alias", contact.id))
                        }
                        Err(error) => error,
                    };
                    reply.answer(Err(refusal));
                    return;
                }
            }
        }
        match own {
            None => reply.answer(Ok(())),
            Some(alias) if alias.len() > MAX_ALIAS || alias.chars().any(char::is_control) => {
                reply.answer(Err(Error::InvalidArgument(format!(
                    "an alias has at most {MAX_ALIAS} bytes and no control characters"
                ))));
            }
            Some(alias) => self.add_chore(|reply| Chore::SetAlias(alias, reply), reply),
        }
    }

    fn add_chore(
        &mut self,
        chore: impl FnOnce(Reply<Result<()>>) -> Chore,
        reply: Reply<Result<()>>,
    ) {
        if self.chores.len() >= MAX_CHORES {
            reply.answer(Err(Error::ResourceUnavailable(
                "too many changes of this connection wait already".into(),
            )));
            return;
        }
        self.chores.push_back(chore(reply));
        self.begin_chore();
    }

    /// Begins the next chore if none is being done.
    fn begin_chore(&mut self) {
        if self.chore.is_some() {
            return;
        }
        let Some(chore) = self.chores.front() else {
            return;
        };
        let session = self.session().clone();
        let work = match chore {
            Chore::Connect => session.connect(),
            Chore::SetPresence(presence, _) => session.set_presence(presence.clone()),
            Chore::SetAlias(alias, _) => session.set_alias(alias.clone()),
            Chore::SetCapabilities(_) => {
                let done = session.set_features(self.own.features());
                Box::pin(async move {
                    done.await;
                    Ok(())
                })
            }
        };
        let address = self.parts.handle.address.clone();
        self.chore = Some(self.parts.spawner.spawn("connection chore", async move {
            let outcome = AssertUnwindSafe(work)
                .catch_unwind()
                .await
                .unwrap_or_else(|payload| {
                    let failure = Failure::from_panic(&*payload);
                    Err(Error::Confused(format!("the session {failure}")))
                });
            // If the connection is gone, so is the interest in the outcome.
            address
                .tell_first(ConnectionMessage::ChoreDone(outcome))
                .await
                .ok();
        }));
    }

    fn chore_done(&mut self, outcome: Result<()>) -> Flow {
        self.chore = None;
        let Some(chore) = self.chores.pop_front() else {
            return Flow::Continue;
        };
        match (chore, outcome) {
            (Chore::Connect, Err(error)) => {
                return self.end(StatusReason::of(&error), Some(error), Vec::new());
            }
            (Chore::Connect, Ok(())) => {}
            (Chore::SetPresence(presence, reply), Ok(())) => {
                self.presence = presence.clone();
                self.change_myself(|myself| myself.presence = presence);
                self.publish();
                reply.answer(Ok(()));
            }
            (Chore::SetAlias(alias, reply), Ok(())) => {
                self.alias.clone_from(&alias);
                self.change_myself(|myself| {
                    myself.alias = if alias.is_empty() {
                        myself.id.as_ref().to_owned()
                    } else {
                        alias
                    };
                });
                self.publish();
                reply.answer(Ok(()));
            }
            (Chore::SetCapabilities(reply), Ok(())) => {
                let capabilities = Arc::new(self.own.together());
                self.change_myself(|myself| myself.capabilities = Some(capabilities));
                self.publish();
                reply.answer(Ok(()));
            }
            (
                Chore::SetPresence(_, reply)
                | Chore::SetAlias(_, reply)
                | Chore::SetCapabilities(reply),
                Err(error),
            ) => reply.answer(Err(error)),
        }
        self.begin_chore();
        Flow::Continue
    }

    fn change_myself(&mut self, change: impl FnOnce(&mut super::contacts::Contact)) {
        if let Some(handle) = self.self_handle {
            self.contacts.change(handle, change);
            self.touched.insert(handle);
        }
    }

    /// Publishes what changed and queues the signals that tell of it. Before Connected nothing is
    /// said of contacts.
    pub(super) fn publish(&mut self) {
        let before = self.parts.view.get();
        let connected = self.status == Status::Connected;
        let contacts = if connected && (self.changed_quietly || !self.touched.is_empty()) {
            self.changed_quietly = false;
            Arc::new(self.contacts.clone())
        } else {
            before.contacts.clone()
        };
        let channels = if before.channels.len() == self.channels.len()
            && before.channels.keys().eq(self.channels.keys())
        {
            before.channels.clone()
        } else {
            Arc::new(self.channels.clone())
        };
        self.parts.view.publish(ConnectionView {
            status: self.status,
            self_handle: self.self_handle,
            contact_list: if connected {
                ContactListState::Success
            } else {
                ContactListState::None
            },
            contacts: contacts.clone(),
            channels,
        });
        if connected {
            let touched = std::mem::take(&mut self.touched);
            let signals = super::changes::signals(&before.contacts, &contacts, &touched);
            self.outbox
                .extend(signals.into_iter().map(Outgoing::Signal));
        }
    }
}

impl Connection {
    /// Waits for the next event.
    async fn next(&mut self) -> Event {
        // Nothing new is taken on while signals wait for the bus. Stopping here loses the one that
        // is being handed over, and then nobody is left to hear it.
        while let Some(outgoing) = self.outbox.pop_front() {
            if self.parts.announcer.send(outgoing).await.is_err() {
                // The lifecycle has noticed, and ends us.
                tracing::error!("the announcer is gone: a signal is lost");
            }
        }
        self.session_first = !self.session_first;
        let session_first = self.session_first;
        let Parts {
            mailbox,
            events,
            clock,
            ..
        } = &mut self.parts;
        let message = async { Event::Message(mailbox.next().await) };
        let session = async {
            let Ok(first) = events.recv().await else {
                return Event::SessionGone;
            };
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = events.try_recv()
            {
                batch.push(next);
            }
            Event::Session(batch)
        };
        let connecting = self.status == Status::Connecting;
        let deadline = self.connected_by.filter(|_| connecting);
        let too_late = async {
            match deadline {
                Some(deadline) => clock.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
            Event::TooLate
        };
        if session_first {
            session.or(message).or(too_late).await
        } else {
            message.or(session).or(too_late).await
        }
    }
}

impl Actor for Connection {
    type Event = Event;

    async fn select(&mut self) -> Event {
        let faults = self.parts.faults.clone();
        let next = faults.survive(Point::ConnectionWaiting, self.next()).await;
        next.unwrap_or_else(Event::Killed)
    }

    fn apply(&mut self, event: Event) -> Flow {
        if let Err(failure) = self.parts.faults.hit(Point::ConnectionDecide) {
            return Flow::Exit(Exit::Failed(failure));
        }
        let flow = match event {
            Event::Message(Some(message)) => self.message(message),
            Event::Message(None) => self.end(StatusReason::NoneSpecified, None, Vec::new()),
            Event::Session(batch) => batch
                .into_iter()
                .map(|event| self.session_event(event))
                .find(|flow| *flow != Flow::Continue)
                .unwrap_or(Flow::Continue),
            Event::TooLate => self.end(
                StatusReason::NetworkError,
                Some(Error::NetworkError(format!(
                    "the account did not get online within {} seconds",
                    CONNECTING.as_secs()
                ))),
                Vec::new(),
            ),
            Event::SessionGone => self.end(
                StatusReason::NetworkError,
                Some(Error::NetworkError("the session ended by itself".into())),
                Vec::new(),
            ),
            Event::Killed(failure) => Flow::Exit(Exit::Failed(failure)),
        };
        if flow == Flow::Continue {
            if let Err(failure) = self.parts.faults.hit(Point::ConnectionDecided) {
                return Flow::Exit(Exit::Failed(failure));
            }
            self.enforce_on_touched();
            self.publish();
        }
        flow
    }
}
