//! Who decides for a D-Bus tube: asks its [`State`], binds the socket, and says what is to be done.

use std::{collections::VecDeque, sync::Arc};

use super::{
    DBusTubeMessage,
    handshake::Guid,
    state::{Effect, FlowEnd, Input, State},
};
use crate::{
    endpoint::Token,
    model::{AccessControl, AccessRule, AddressType, Error, Result, TubeParameters},
    ports::DBusTubeSignal,
    runtime::{Decider, Decision, DeskEvent, Points, Reply},
    supervisor::{ListeningSocket, LocalSockets},
};

/// What the channel supervisor tells the tube.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// An application's socket waits under this token.
    Accepted(Token),
    /// The offer was written, or could not be.
    Offered(Result<()>),
    /// The bytestream is open.
    Opened { encrypted: bool },
    /// The flow is over.
    Ended(FlowEnd),
    /// A sibling failed past its limit.
    SiblingFailed(String),
}

/// What the channel supervisor does for the tube.
pub(crate) enum Command {
    Signal(DBusTubeSignal),
    Listen(Arc<dyn ListeningSocket>, AccessControl),
    StopListening,
    Offer(TubeParameters),
    Agree,
    Flow,
    Attach(Token),
    Discard(Token),
    StopFlow,
    /// Keep this until the offer is on its way: it would be lost with the tube.
    KeepOfferer(Reply<Result<String>>),
    AnswerOffer(Result<String>),
    AwaitClosed(Reply<()>),
    Finish,
}

/// What every incarnation of a channel's tube is made from.
#[derive(Clone)]
pub(crate) struct TubeSeed {
    pub(crate) sockets: Arc<dyn LocalSockets>,
    pub(crate) guid: Guid,
}

/// See the module's head.
pub(crate) struct DBusTube {
    seed: TubeSeed,
    state: State,
}

type Event = DeskEvent<DBusTube>;

/// The request that is being handled.
enum Request {
    None,
    Address(Reply<Result<String>>),
    Close(Reply<()>),
}

impl DBusTube {
    fn understand(event: Event) -> (Input, Request) {
        match event {
            Event::Message(DBusTubeMessage::Offer {
                parameters,
                access,
                reply,
            }) => (Input::Offer(parameters, access), Request::Address(reply)),
            Event::Message(DBusTubeMessage::Accept { access, reply }) => {
                (Input::Accept(access), Request::Address(reply))
            }
            Event::Message(DBusTubeMessage::Close { reply }) => {
                (Input::Close, Request::Close(reply))
            }
            Event::Message(DBusTubeMessage::RemoteClosed) => (Input::RemoteClosed, Request::None),
            Event::Message(DBusTubeMessage::ContactGone) => (Input::ContactGone, Request::None),
            Event::Fact(Fact::Accepted(token)) => (Input::Accepted(token), Request::None),
            Event::Fact(Fact::Offered(result)) => (Input::Offered(result), Request::None),
            Event::Fact(Fact::Opened { encrypted }) => (Input::Opened { encrypted }, Request::None),
            Event::Fact(Fact::Ended(end)) => (Input::Ended(end), Request::None),
            Event::Fact(Fact::SiblingFailed(what)) => (Input::SiblingFailed(what), Request::None),
            Event::Stopped => (Input::Stopped, Request::None),
        }
    }

    fn bind(&self, access: AccessControl) -> Result<(Arc<dyn ListeningSocket>, String)> {
        let rule = match access {
            AccessControl::Localhost => AccessRule::Localhost,
            AccessControl::Credentials => AccessRule::Credentials,
            AccessControl::Port => {
                let why = "a D-Bus tube has Localhost and Credentials as access controls";
                return Err(Error::NotImplemented(why.into()));
            }
        };
        let socket = self.seed.sockets.bind(AddressType::Unix, rule)?;
        let guid = self.seed.guid.to_string();
        match socket.address().to_dbus(Some(&guid)) {
            Some(address) => Ok((socket, address)),
            None => {
                let what = format!("{} is no Unix socket", socket.address());
                Err(Error::Confused(what))
            }
        }
    }
}

impl Decider for DBusTube {
    type Seed = TubeSeed;
    type Message = DBusTubeMessage;
    type Fact = Fact;
    type Record = State;
    type Command = Command;

    const POINTS: Points = Points::TUBE;

    fn new(seed: Self::Seed, record: State) -> Self {
        DBusTube {
            seed,
            state: record,
        }
    }

    fn decide(&mut self, event: Event) -> Decision<Command> {
        let (input, request) = Self::understand(event);
        let mut decision = Decision::default();
        let mut effects: VecDeque<Effect> = self.state.apply(input).into();
        let mut waiting = None;
        match request {
            Request::Close(reply) => decision.commands.push(Command::AwaitClosed(reply)),
            Request::Address(reply) => waiting = Some(reply),
            Request::None => {}
        }
        let mut bound = None;
        while let Some(effect) = effects.pop_front() {
            decision.commands.push(match effect {
                Effect::Signal(signal) => Command::Signal(signal),
                Effect::StopListening => Command::StopListening,
                Effect::Offer(parameters) => Command::Offer(parameters),
                Effect::Agree => Command::Agree,
                Effect::Flow => Command::Flow,
                Effect::Attach(token) => Command::Attach(token),
                Effect::Discard(token) => Command::Discard(token),
                Effect::StopFlow => Command::StopFlow,
                Effect::AnswerOffer(result) => Command::AnswerOffer(result),
                Effect::Finish => Command::Finish,
                Effect::Bind(wanted) => {
                    let result = self.bind(wanted.access()).map(|(socket, address)| {
                        bound = Some(socket);
                        address
                    });
                    effects.extend(self.state.apply(Input::Bound(wanted, result)));
                    continue;
                }
                Effect::Listen(access) => match bound.take() {
                    Some(socket) => Command::Listen(socket, access),
                    None => continue,
                },
                Effect::KeepOfferer => match waiting.take() {
                    Some(reply) => Command::KeepOfferer(reply),
                    None => continue,
                },
                Effect::Answer(result) => {
                    if let Some(reply) = waiting.take() {
                        decision.answer(reply, result);
                    }
                    continue;
                }
            });
        }
        decision
    }

    fn record(&self) -> &State {
        &self.state
    }

    fn is_finished(&self) -> bool {
        self.state.is_finished()
    }
}
