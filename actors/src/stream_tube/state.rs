//! What a stream tube decides, without doing any of it.
//!
//! ```text
//!  we offer                                      the contact offers
//!
//!  NotOffered ──Offer──▶ Offering                LocalPending ──Accept, Bound──▶ Open(Accepting)
//!      ▲                 │     │
//!      └── offer failed ─┘     │ offer sent                     any state but Closed
//!                              ▼                                        │ Close, RemoteClosed,
//!                        RemotePending                                  │ ContactGone (not before it was offered), Stopped,
//!                              │ first connection dialled               ▼ SiblingFailed
//!                              ▼                                     Closing ──last connection ended──▶ Closed
//!                        Open(Offering)
//! ```
//!
//! [`State::apply`] takes one [`Input`] and returns the [`Effect`]s in the order they are to be
//! carried out. The state is plain data: a clone of it is the tube's recovery record, from which a
//! successor goes on after [`State::recover`].
//!
//! Promises, kept whatever the order of inputs (the tests draw thousands of orders):
//! - a connection id is given once, in the order of accepting or dialling;
//! - each id is announced by one `New…Connection` and ended by one `ConnectionClosed`;
//! - nothing is announced after [`Effect::Finish`], and no connection after the tube began to close;
//! - `TubeChannelStateChanged` is announced for each change of the state the specification sees.

use std::collections::BTreeSet;

use crate::{
    endpoint::Token,
    model::{
        AccessControl, AccessRule, AddressType, ConnectionId, ConnectionParameter, ContactHandle,
        Error, SocketAddress, TubeParameters, TubeState,
    },
    ports::{StreamTubeDescription, StreamTubeSignal},
};

/// The local service behind an offered tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddress,
    /// How we prove ourselves to it.
    pub access: AccessControl,
}

/// Which end of an open tube we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// We offered: connections are dialled to the target.
    Offering(Target),
    /// We accepted: applications connect here.
    Accepting(SocketAddress),
}

/// Why a tube closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Our user or our Connection wants it so.
    Ours,
    /// The contact closed it.
    Theirs,
    /// The contact is gone.
    ContactGone,
    /// Something of ours failed too often; the sentence says what.
    Failed(String),
}

/// Where the tube stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// `NotOffered`
    NotOffered,
    /// Still `NotOffered` to others: the offer is on its way.
    Offering(Target, TubeParameters),
    /// `RemotePending`
    RemotePending(Target),
    /// `LocalPending`
    LocalPending,
    /// `Open`
    Open(Side),
    /// No new connections; those that were open are ending.
    Closing {
        /// Why.
        why: Closing,
        /// The contact is being told, and cuts the connections once it knows: word and cut travel by
        /// different sockets, so ours could overtake the word and look like bytestreams that broke.
        /// [`Input::Overdue`] ends the wait.
        telling: bool,
        /// What others still see.
        seen: TubeState,
    },
    /// Nothing is left.
    Closed(TubeState),
}

/// How a connection ended, as its relay tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// Both sides closed in order.
    Finished,
    /// It never opened: the contact or its service refused, or no way to it was found.
    /// `NotAvailable` says that the contact does not know this tube: then it has closed it.
    Refused(Error),
    /// The contact asked for it, its connection to the service was made, and the bytestream did
    /// not open.
    NotOpened(Error),
    /// The application here reset its socket.
    LocalReset,
    /// The application at the contact's side reset its socket.
    RemoteReset,
    /// The bytestream broke.
    RemoteLost(String),
    /// The application's socket broke.
    LocalFailed(String),
    /// It was told to stop.
    Stopped,
    /// Its relay failed.
    Failed(String),
}

/// What happens to a tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `StreamTube.Offer`; `check` is what the endpoint thinks of the target.
    Offer {
        /// The service.
        target: Target,
        /// `parameters`
        parameters: TubeParameters,
        /// Whether such a target could be dialled.
        check: Result<(), Error>,
    },
    /// The offer was written to the contact's stream, or could not be.
    OfferSent(Result<(), Error>),
    /// `StreamTube.Accept`.
    Accept {
        /// `address_type`
        kind: AddressType,
        /// `access_control` and its parameter.
        access: AccessRule,
    },
    /// The answer to [`Effect::Bind`].
    Bound(Result<SocketAddress, Error>),
    /// The contact asks for a connection; `room` tells whether a slot is free for it.
    Incoming {
        /// Whether the bound on connections allows one more.
        room: bool,
    },
    /// The service took a connection.
    Dialled {
        /// The socket.
        token: Token,
        /// How the service recognises it.
        parameter: ConnectionParameter,
    },
    /// An application connected to our socket.
    Accepted(Token),
    /// A connection ended.
    Ended(ConnectionId, ConnectionEnd),
    /// `Channel.Close`.
    Close,
    /// The Connection goes offline or the service ends.
    Stopped,
    /// The contact closed the tube.
    RemoteClosed,
    /// The contact has been gone for longer than the grace period, or its program was started anew:
    /// what was agreed on with it is void.
    ContactGone,
    /// The contact has had its time to be told of the close and to cut the connections.
    Overdue,
    /// An actor beside the tube failed too often.
    SiblingFailed(String),
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Emit a signal.
    Signal(StreamTubeSignal),
    /// Send the offer with these parameters, then come back with [`Input::OfferSent`].
    SendOffer(TubeParameters),
    /// Forget an offer that is on its way.
    AbandonOffer(Error),
    /// Answer the request that is being handled (Offer or Accept): nothing more comes of it.
    Refuse(Error),
    /// Answer the offer.
    Offered(Result<(), Error>),
    /// Bind a socket and come back at once with [`Input::Bound`].
    Bind(AddressType, AccessRule),
    /// Answer the accept: the socket that was bound is to be listened on.
    Listen(SocketAddress),
    /// Dial the target for the request that is being handled.
    Dial(Target),
    /// Refuse the contact's request that is being handled.
    RefuseIncoming(Error),
    /// Join this socket to a bytestream under this id.
    Relay(Token, ConnectionId),
    /// Close this socket.
    Discard(Token),
    /// Accept no more applications and dial no more services.
    StopOpening,
    /// Tell the contact that the tube is closed.
    Farewell,
    /// Cut every connection; each ends with [`Input::Ended`].
    Cut,
    /// The tube is done.
    Finish,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    phase: Phase,
    contact: ContactHandle,
    parameters: TubeParameters,
    next_id: u32,
    connections: BTreeSet<ConnectionId>,
}

impl State {
    /// A tube that has just appeared.
    pub fn new(description: &StreamTubeDescription) -> Self {
        State {
            phase: if description.parties.requested {
                Phase::NotOffered
            } else {
                Phase::LocalPending
            },
            contact: description.parties.target,
            parameters: description.parameters.clone(),
            next_id: 1,
            connections: BTreeSet::new(),
        }
    }

    /// What a successor starts from. An offer that was on its way died with its predecessor, and
    /// whoever asked for it has been told; it may be offered again.
    #[must_use]
    pub fn recover(mut self) -> Self {
        if let Phase::Offering(..) = self.phase {
            self.phase = Phase::NotOffered;
        }
        self
    }

    /// Where the tube stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// `Tube.State`.
    pub fn tube_state(&self) -> TubeState {
        match &self.phase {
            Phase::NotOffered | Phase::Offering(..) => TubeState::NotOffered,
            Phase::RemotePending(_) => TubeState::RemotePending,
            Phase::LocalPending => TubeState::LocalPending,
            Phase::Open(_) => TubeState::Open,
            Phase::Closing { seen, .. } | Phase::Closed(seen) => *seen,
        }
    }

    /// `Tube.Parameters`.
    pub fn parameters(&self) -> &TubeParameters {
        &self.parameters
    }

    /// What the endpoint listens on or dials.
    pub fn address(&self) -> Option<&SocketAddress> {
        match &self.phase {
            Phase::RemotePending(target) | Phase::Open(Side::Offering(target)) => {
                Some(&target.address)
            }
            Phase::Open(Side::Accepting(address)) => Some(address),
            _ => None,
        }
    }

    /// The connections that were announced and have not ended.
    pub fn connections(&self) -> &BTreeSet<ConnectionId> {
        &self.connections
    }

    /// Whether the contact knows of this tube and has not closed it or gone itself.
    pub fn concerns_the_contact(&self) -> bool {
        match &self.phase {
            Phase::NotOffered | Phase::Closed(_) => false,
            Phase::Closing { why, .. } => matches!(why, Closing::Ours | Closing::Failed(_)),
            Phase::Offering(..) | Phase::RemotePending(_) => true,
            Phase::LocalPending | Phase::Open(_) => true,
        }
    }

    /// Takes one input and says what is to be done about it.
    pub fn apply(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Offer {
                target,
                parameters,
                check,
            } => self.offer(target, parameters, check),
            Input::OfferSent(result) => self.offer_sent(result),
            Input::Accept { kind, access } => self.accept(kind, access),
            Input::Bound(result) => self.bound(result),
            Input::Incoming { room } => self.incoming(room),
            Input::Dialled { token, parameter } => self.dialled(token, parameter),
            Input::Accepted(token) => self.accepted(token),
            Input::Ended(id, end) => self.ended(id, end),
            Input::Close | Input::Stopped => self.close(Closing::Ours),
            Input::RemoteClosed => self.close(Closing::Theirs),
            Input::ContactGone => self.contact_gone(),
            Input::SiblingFailed(what) => self.close(Closing::Failed(what)),
            Input::Overdue => self.overdue(),
        }
    }

    fn offer(
        &mut self,
        target: Target,
        parameters: TubeParameters,
        check: Result<(), Error>,
    ) -> Vec<Effect> {
        let refusal = match (&self.phase, check) {
            (Phase::NotOffered, Ok(())) => {
                self.phase = Phase::Offering(target, parameters.clone());
                return vec![Effect::SendOffer(parameters)];
            }
            (Phase::NotOffered, Err(why)) => why,
            (Phase::Offering(..) | Phase::RemotePending(_) | Phase::Open(Side::Offering(_)), _) => {
                not_available("this tube was offered already")
            }
            (Phase::LocalPending | Phase::Open(Side::Accepting(_)), _) => {
                not_available("the contact offers this tube; accept it instead")
            }
            (Phase::Closing { .. } | Phase::Closed(_), _) => closing(),
        };
        vec![Effect::Refuse(refusal)]
    }

    fn offer_sent(&mut self, result: Result<(), Error>) -> Vec<Effect> {
        let Phase::Offering(target, parameters) = &self.phase else {
            return Vec::new();
        };
        if result.is_err() {
            self.phase = Phase::NotOffered;
            return vec![Effect::Offered(result)];
        }
        self.parameters = parameters.clone();
        self.phase = Phase::RemotePending(target.clone());
        vec![self.state_changed(), Effect::Offered(Ok(()))]
    }

    fn accept(&mut self, kind: AddressType, access: AccessRule) -> Vec<Effect> {
        vec![match &self.phase {
            Phase::LocalPending => Effect::Bind(kind, access),
            Phase::Open(Side::Accepting(_)) => {
                Effect::Refuse(not_available("this tube was accepted already"))
            }
            Phase::Closing { .. } | Phase::Closed(_) => Effect::Refuse(closing()),
            _ => Effect::Refuse(not_available("we offer this tube; the contact accepts it")),
        }]
    }

    fn bound(&mut self, result: Result<SocketAddress, Error>) -> Vec<Effect> {
        match (&self.phase, result) {
            (Phase::LocalPending, Ok(address)) => {
                self.phase = Phase::Open(Side::Accepting(address.clone()));
                vec![self.state_changed(), Effect::Listen(address)]
            }
            (_, Ok(_)) => vec![Effect::Refuse(closing())],
            (_, Err(why)) => vec![Effect::Refuse(why)],
        }
    }

    fn incoming(&mut self, room: bool) -> Vec<Effect> {
        // The contact can be faster than the word that our offer has been written. It has it.
        let mut effects = match &self.phase {
            Phase::Offering(..) => self.offer_sent(Ok(())),
            _ => Vec::new(),
        };
        effects.push(self.incoming_to_offered(room));
        effects
    }

    fn incoming_to_offered(&self, room: bool) -> Effect {
        let refusal = match &self.phase {
            Phase::RemotePending(target) | Phase::Open(Side::Offering(target)) if room => {
                return Effect::Dial(target.clone());
            }
            Phase::RemotePending(_) | Phase::Open(Side::Offering(_)) => {
                Error::ResourceUnavailable("this tube has as many connections as it may".into())
            }
            Phase::Closing { .. } | Phase::Closed(_) => closing(),
            _ => not_available("this tube was not offered to the contact"),
        };
        Effect::RefuseIncoming(refusal)
    }

    fn dialled(&mut self, token: Token, parameter: ConnectionParameter) -> Vec<Effect> {
        let mut effects = Vec::new();
        match &self.phase {
            Phase::RemotePending(target) => {
                self.phase = Phase::Open(Side::Offering(target.clone()));
                effects.push(self.state_changed());
            }
            Phase::Open(Side::Offering(_)) => {}
            _ => return vec![Effect::Discard(token)],
        }
        let Some(id) = self.new_id() else {
            effects.push(Effect::Discard(token));
            return effects;
        };
        effects.push(Effect::Signal(StreamTubeSignal::NewRemoteConnection {
            contact: self.contact,
            parameter,
            id,
        }));
        effects.push(Effect::Relay(token, id));
        effects
    }

    fn accepted(&mut self, token: Token) -> Vec<Effect> {
        let Phase::Open(Side::Accepting(_)) = &self.phase else {
            return vec![Effect::Discard(token)];
        };
        let Some(id) = self.new_id() else {
            return vec![Effect::Discard(token)];
        };
        vec![
            Effect::Signal(StreamTubeSignal::NewLocalConnection(id)),
            Effect::Relay(token, id),
        ]
    }

    /// The next id. `None` after 2³²−1 connections: ids are not used twice, so such a tube serves
    /// those it has and takes no more.
    fn new_id(&mut self) -> Option<ConnectionId> {
        let id = ConnectionId(self.next_id);
        self.next_id = self.next_id.checked_add(1)?;
        self.connections.insert(id);
        Some(id)
    }

    fn ended(&mut self, id: ConnectionId, end: ConnectionEnd) -> Vec<Effect> {
        if !self.connections.remove(&id) {
            return Vec::new();
        }
        let unknown = matches!(
            (&self.phase, &end),
            (
                Phase::Open(Side::Accepting(_)),
                ConnectionEnd::Refused(Error::NotAvailable(_))
            )
        );
        let why = match &self.phase {
            Phase::Closing { why, .. } => why.of_connection(),
            _ => end.why(),
        };
        let mut effects = vec![Effect::Signal(StreamTubeSignal::ConnectionClosed {
            id,
            why,
        })];
        if unknown {
            // Its program was killed and started anew, or its farewell got lost.
            effects.extend(self.close(Closing::Theirs));
        } else {
            effects.extend(self.finish_if_empty());
        }
        effects
    }

    /// A tube that is not offered yet stays: nothing was agreed on, and it may be this very offer that
    /// found the contact's program started anew. Where the contact is really gone, offering fails.
    fn contact_gone(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::NotOffered | Phase::Offering(..) => Vec::new(),
            _ => self.close(Closing::ContactGone),
        }
    }

    fn close(&mut self, why: Closing) -> Vec<Effect> {
        let seen = self.tube_state();
        let (was_offered, offering) = match &mut self.phase {
            Phase::Closed(_) => return Vec::new(),
            Phase::Closing {
                why: first,
                telling,
                ..
            } => {
                // Closed by both sides at once, or the contact vanished while it was being told:
                // there is nobody left to be polite to.
                let was_telling = std::mem::replace(telling, false);
                if why != Closing::Ours && was_telling {
                    return vec![Effect::Cut];
                }
                *telling = was_telling;
                if matches!(why, Closing::Failed(_)) {
                    *first = why;
                }
                return Vec::new();
            }
            Phase::NotOffered => (false, false),
            Phase::Offering(..) => (true, true),
            Phase::RemotePending(_) | Phase::LocalPending | Phase::Open(_) => (true, false),
        };
        let mut effects = Vec::new();
        if offering {
            effects.push(Effect::AbandonOffer(Error::Cancelled(
                "the tube was closed while it was being offered".into(),
            )));
        }
        effects.push(Effect::StopOpening);
        let tell = was_offered && matches!(why, Closing::Ours | Closing::Failed(_));
        if tell {
            effects.push(Effect::Farewell);
        }
        let telling = tell && !self.connections.is_empty();
        if !telling && !self.connections.is_empty() {
            effects.push(Effect::Cut);
        }
        self.phase = Phase::Closing { why, telling, seen };
        effects.extend(self.finish_if_empty());
        effects
    }

    fn overdue(&mut self) -> Vec<Effect> {
        match &mut self.phase {
            Phase::Closing { telling, .. } if *telling => {
                *telling = false;
                vec![Effect::Cut]
            }
            _ => Vec::new(),
        }
    }

    fn finish_if_empty(&mut self) -> Option<Effect> {
        match &self.phase {
            Phase::Closing { seen, .. } if self.connections.is_empty() => {
                self.phase = Phase::Closed(*seen);
                Some(Effect::Finish)
            }
            _ => None,
        }
    }

    fn state_changed(&self) -> Effect {
        Effect::Signal(StreamTubeSignal::TubeStateChanged(self.tube_state()))
    }
}

impl Closing {
    /// The `ConnectionClosed` error of connections that end because the tube does.
    pub fn of_connection(&self) -> Error {
        match self {
            Closing::Ours => Error::Cancelled("the tube was closed".into()),
            Closing::Theirs => Error::Cancelled("the contact closed the tube".into()),
            Closing::ContactGone => Error::ConnectionLost("the contact is gone".into()),
            Closing::Failed(what) => Error::ConnectionLost(what.clone()),
        }
    }
}

impl ConnectionEnd {
    /// The `Error` and `Message` of `ConnectionClosed`, one of the three errors the specification
    /// has for it.
    ///
    /// | end | error |
    /// | --- | --- |
    /// | closed in order, or the application here went away | `Cancelled` |
    /// | never opened on the accepting side | `ConnectionRefused` |
    /// | everything that broke, here or there | `ConnectionLost` |
    pub fn why(self) -> Error {
        let lost = |text: &str| Error::ConnectionLost(text.to_owned());
        match self {
            ConnectionEnd::Finished => Error::Cancelled("both sides closed it".into()),
            ConnectionEnd::LocalReset => {
                Error::Cancelled("the application here broke it off".into())
            }
            ConnectionEnd::LocalFailed(text) => {
                Error::Cancelled(format!("the application's socket failed: {text}"))
            }
            ConnectionEnd::Stopped => Error::Cancelled("it was cut here".into()),
            ConnectionEnd::Refused(why) => Error::ConnectionRefused(why.to_string()),
            ConnectionEnd::NotOpened(why) => Error::ConnectionLost(why.to_string()),
            ConnectionEnd::RemoteReset => lost("the contact's application broke it off"),
            ConnectionEnd::RemoteLost(text) | ConnectionEnd::Failed(text) => lost(&text),
        }
    }
}

fn not_available(text: &str) -> Error {
    Error::NotAvailable(text.to_owned())
}

fn closing() -> Error {
    not_available("this tube is closing")
}

#[cfg(test)]
mod tests;
