//! What a D-Bus tube decides, without doing any of it.
//!
//! ```text
//!  we offer                                        the contact offers
//!
//!  NotOffered ──Offer, Bound──▶ Offering           LocalPending ──Accept, Bound──▶ Accepting
//!      ▲                        │      │                                             │
//!      └──────Offered(Err)──────┘      │ Offered(Ok)                                 │ Opened
//!                                      ▼                                             ▼
//!                               RemotePending ─────────────Opened──────────────────▶ Open
//!
//!  each ── Close, Stopped, RemoteClosed, ContactGone, Ended, SiblingFailed ──▶ Closed
//! ```
//!
//! [`State::apply`] takes one [`Input`] and returns the [`Effect`]s in the order they are to be carried
//! out. The state is plain data: a clone of it is the tube's recovery record. What lives long, the offer,
//! the bytestream and the applications, is in its channel supervisor's hands and in the flow.

use super::carrying::End;
use crate::{
    endpoint::Token,
    model::{AccessControl, Error, TubeParameters, TubeState},
    ports::{DBusTubeDescription, DBusTubeSignal},
};

/// How a tube's flow ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowEnd {
    /// Nothing came of it: the contact does not want the tube, or took it back, or no bytestream opened.
    NotOpened(Error),
    /// It was open.
    Messages(End),
    /// It was told to end.
    Stopped,
    /// It failed.
    Failed(String),
}

/// What happens to a tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `DBusTube.Offer`.
    Offer(TubeParameters, AccessControl),
    /// `DBusTube.Accept`.
    Accept(AccessControl),
    /// What came of [`Effect::Bind`], at once: the address.
    Bound(Wanted, Result<String, Error>),
    /// The offer was written, or could not be.
    Offered(Result<(), Error>),
    /// The bytestream is open.
    Opened {
        /// Whether with TLS inside.
        encrypted: bool,
    },
    /// An application's socket waits under this token.
    Accepted(Token),
    /// The flow is over.
    Ended(FlowEnd),
    /// `Channel.Close`.
    Close,
    /// The channel is to close.
    Stopped,
    /// The contact says that it closes it.
    RemoteClosed,
    /// The contact has been gone for longer than the grace period.
    ContactGone,
    /// A sibling failed past its limit.
    SiblingFailed(String),
}

/// What a socket is bound for, and who may connect to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// To offer the tube with these parameters.
    Offer(TubeParameters, AccessControl),
    /// To accept it.
    Accept(AccessControl),
}

impl Wanted {
    /// Who may connect.
    pub fn access(&self) -> AccessControl {
        match self {
            Wanted::Offer(_, access) | Wanted::Accept(access) => *access,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Emit this.
    Signal(DBusTubeSignal),
    /// Bind a socket for this and come back at once with [`Input::Bound`].
    Bind(Wanted),
    /// Let applications in at the socket that was bound.
    Listen(AccessControl),
    /// Let nobody in any more.
    StopListening,
    /// Begin a flow that offers the tube.
    Offer(TubeParameters),
    /// Have the flow agree to the contact's offer.
    Agree,
    /// The messages may flow.
    Flow,
    /// Hand this socket to the flow.
    Attach(Token),
    /// Close this socket.
    Discard(Token),
    /// End the flow.
    StopFlow,
    /// Answer Accept.
    Answer(Result<String, Error>),
    /// Keep whoever asked for Offer until [`Effect::AnswerOffer`].
    KeepOfferer,
    /// Answer Offer.
    AnswerOffer(Result<String, Error>),
    /// The tube is done.
    Finish,
}

/// Where a tube stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Ours, and the contact does not know of it.
    NotOffered,
    /// Being offered.
    Offering(DBusAddress, TubeParameters),
    /// Offered.
    RemotePending(DBusAddress),
    /// The contact's, and our user has not agreed.
    LocalPending,
    /// Agreed to; the bytestream is opening.
    Accepting(DBusAddress),
    /// Open.
    Open(DBusAddress),
    /// Over; this is the state it was seen in last.
    Closed(TubeState),
}

/// The D-Bus address applications connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DBusAddress(pub String);

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    phase: Phase,
    parameters: TubeParameters,
    accepted: bool,
    encrypted: Option<bool>,
    error: Option<Error>,
}

impl State {
    /// A tube that has just appeared.
    pub fn new(description: &DBusTubeDescription) -> Self {
        State {
            phase: if description.parties.requested {
                Phase::NotOffered
            } else {
                Phase::LocalPending
            },
            parameters: description.parameters.clone(),
            accepted: false,
            encrypted: None,
            error: None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// `Tube.State`.
    pub fn tube_state(&self) -> TubeState {
        match &self.phase {
            Phase::NotOffered | Phase::Offering(..) => TubeState::NotOffered,
            Phase::RemotePending(_) => TubeState::RemotePending,
            Phase::LocalPending | Phase::Accepting(_) => TubeState::LocalPending,
            Phase::Open(_) => TubeState::Open,
            Phase::Closed(seen) => *seen,
        }
    }

    /// `Tube.Parameters`.
    pub fn parameters(&self) -> &TubeParameters {
        &self.parameters
    }

    /// The D-Bus address applications connect to.
    pub fn address(&self) -> Option<&str> {
        match &self.phase {
            Phase::RemotePending(address) | Phase::Accepting(address) | Phase::Open(address) => {
                Some(&address.0)
            }
            _ => None,
        }
    }

    /// Whether our user agreed to it, ever.
    pub fn was_accepted(&self) -> bool {
        self.accepted
    }

    /// Whether the bytestream had TLS inside.
    pub fn encrypted(&self) -> Option<bool> {
        self.encrypted
    }

    /// Why it closed, where something went wrong.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether it is over.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Closed(_))
    }

    /// Takes one input and says what is to be done about it.
    pub fn apply(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Offer(parameters, access) => match &self.phase {
                Phase::NotOffered => vec![Effect::Bind(Wanted::Offer(parameters, access))],
                Phase::LocalPending | Phase::Accepting(_) => {
                    refuse("the contact offers this tube; accept it instead")
                }
                Phase::Closed(_) => refuse("this tube is closing"),
                _ => refuse("this tube was offered already"),
            },
            Input::Accept(access) => match &self.phase {
                Phase::LocalPending => vec![Effect::Bind(Wanted::Accept(access))],
                Phase::NotOffered | Phase::Offering(..) | Phase::RemotePending(_) => {
                    refuse("we offer this tube; the contact accepts it")
                }
                Phase::Closed(_) => refuse("this tube is closing"),
                _ => refuse("this tube was accepted already"),
            },
            Input::Bound(wanted, result) => self.bound(wanted, result),
            Input::Offered(result) => self.offered(result),
            Input::Opened { encrypted } => self.opened(encrypted),
            Input::Accepted(token) => vec![match &self.phase {
                Phase::NotOffered | Phase::LocalPending | Phase::Closed(_) => {
                    Effect::Discard(token)
                }
                _ => Effect::Attach(token),
            }],
            Input::Ended(end) => self.ended(end),
            Input::Close | Input::Stopped | Input::RemoteClosed => self.close(None),
            // Nothing was agreed on before it is offered; where the contact is really gone, offering fails.
            Input::ContactGone => match self.phase {
                Phase::NotOffered | Phase::Offering(..) => Vec::new(),
                _ => self.close(Some(Error::Offline("the contact is gone".into()))),
            },
            Input::SiblingFailed(what) => self.close(Some(Error::Confused(what))),
        }
    }

    fn bound(&mut self, wanted: Wanted, result: Result<String, Error>) -> Vec<Effect> {
        let address = match result {
            Ok(address) => address,
            Err(why) => return vec![Effect::Answer(Err(why))],
        };
        match wanted {
            Wanted::Offer(parameters, access) => {
                self.phase = Phase::Offering(DBusAddress(address), parameters.clone());
                vec![
                    Effect::KeepOfferer,
                    Effect::Listen(access),
                    Effect::Offer(parameters),
                ]
            }
            Wanted::Accept(access) => {
                self.phase = Phase::Accepting(DBusAddress(address.clone()));
                self.accepted = true;
                vec![
                    Effect::Listen(access),
                    Effect::Agree,
                    Effect::Answer(Ok(address)),
                ]
            }
        }
    }

    fn offered(&mut self, result: Result<(), Error>) -> Vec<Effect> {
        let Phase::Offering(address, parameters) = &self.phase else {
            return Vec::new();
        };
        match result {
            Ok(()) => {
                self.parameters = parameters.clone();
                let answer = Effect::AnswerOffer(Ok(address.0.clone()));
                self.phase = Phase::RemotePending(address.clone());
                vec![self.state_changed(), answer]
            }
            Err(why) => {
                self.phase = Phase::NotOffered;
                vec![Effect::StopListening, Effect::AnswerOffer(Err(why))]
            }
        }
    }

    fn opened(&mut self, encrypted: bool) -> Vec<Effect> {
        let (Phase::RemotePending(address) | Phase::Accepting(address)) = &self.phase else {
            return Vec::new();
        };
        self.phase = Phase::Open(address.clone());
        self.encrypted = Some(encrypted);
        vec![self.state_changed(), Effect::Flow]
    }

    fn ended(&mut self, end: FlowEnd) -> Vec<Effect> {
        let why = match end {
            FlowEnd::Stopped | FlowEnd::Messages(End::Closed) => None,
            FlowEnd::NotOpened(why) => Some(why),
            FlowEnd::Messages(End::Lost(text)) => Some(Error::ConnectionLost(text)),
            FlowEnd::Messages(End::Malformed(what)) => {
                let text = format!("the contact sent {what}");
                Some(Error::Confused(text))
            }
            FlowEnd::Failed(text) => Some(Error::Confused(text)),
        };
        self.close(why)
    }

    fn close(&mut self, why: Option<Error>) -> Vec<Effect> {
        if self.is_finished() {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if let Phase::Offering(..) = self.phase {
            let text = "the tube was closed while it was being offered";
            let told = why.clone().unwrap_or(Error::Cancelled(text.into()));
            effects.push(Effect::AnswerOffer(Err(told)));
        }
        self.phase = Phase::Closed(self.tube_state());
        self.error = why;
        effects.extend([Effect::StopListening, Effect::StopFlow, Effect::Finish]);
        effects
    }

    fn state_changed(&self) -> Effect {
        Effect::Signal(DBusTubeSignal::TubeStateChanged(self.tube_state()))
    }
}

fn refuse(text: &str) -> Vec<Effect> {
    vec![Effect::Answer(Err(Error::NotAvailable(text.to_owned())))]
}
