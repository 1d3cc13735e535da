//! Who decides for a stream tube: asks its [`State`], binds the socket, sends the offer, and says what is to
//! be done.

use std::{collections::VecDeque, sync::Arc};

use super::{
    StreamTubeMessage,
    state::{ConnectionEnd, Effect, Input, Phase, State, Target},
};
use crate::{
    endpoint::{Slot, Slots, Token},
    model::{ConnectionId, ConnectionParameter, Result, ServiceName, SocketAddress},
    ports::{IncomingBytestream, StreamTubeSignal, TubeSignalling},
    runtime::{BoxFuture, Decider, Decision, DeskEvent, Points, Reply},
    supervisor::{ListeningSocket, LocalSockets},
};

/// What the channel supervisor tells the tube.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// An application's socket waits under this token.
    Accepted(Token),
    /// The service took a connection; its socket waits under this token.
    Dialled(Token, ConnectionParameter),
    /// A relay is gone.
    Ended(ConnectionId, ConnectionEnd),
    /// The contact has had its time to be told of the close and to cut the connections.
    Overdue,
    /// A sibling failed past its limit.
    SiblingFailed(String),
    /// What came of the offer that the tube sends; this one it learns by itself.
    OfferSent(Result<()>),
}

/// What the channel supervisor does for the tube.
pub(crate) enum Command {
    Signal(StreamTubeSignal),
    Listen(Arc<dyn ListeningSocket>),
    Dial {
        target: Target,
        incoming: Box<dyn IncomingBytestream>,
        slot: Slot,
    },
    Relay(Token, ConnectionId),
    Discard(Token),
    StopOpening,
    Farewell,
    Cut,
    AwaitClosed(Reply<()>),
    Finish,
}

/// What every incarnation of a channel's tube is made from.
#[derive(Clone)]
pub(crate) struct TubeSeed {
    pub(crate) service: ServiceName,
    pub(crate) signalling: Arc<dyn TubeSignalling>,
    pub(crate) sockets: Arc<dyn LocalSockets>,
    pub(crate) slots: Slots,
}

/// See the module's head.
pub(crate) struct StreamTube {
    seed: TubeSeed,
    state: State,
    offer: Option<Offer>,
}

/// An offer on its way, and who waits for it.
struct Offer {
    sending: BoxFuture<'static, Result<()>>,
    reply: Reply<Result<()>>,
}

type Event = DeskEvent<StreamTube>;

/// The request that is being handled.
enum Request {
    None,
    Offer(Reply<Result<()>>),
    Accept(Reply<Result<SocketAddress>>),
    Incoming(Box<dyn IncomingBytestream>, Option<Slot>),
    Close(Reply<()>),
}

impl StreamTube {
    fn understand(&self, event: Event) -> (Input, Request) {
        match event {
            Event::Message(StreamTubeMessage::Offer {
                address,
                access,
                parameters,
                reply,
            }) => {
                let check = self.seed.sockets.check(&address, access);
                let target = Target { address, access };
                let input = Input::Offer {
                    target,
                    parameters,
                    check,
                };
                (input, Request::Offer(reply))
            }
            Event::Message(StreamTubeMessage::Accept {
                address_type: kind,
                access,
                reply,
            }) => (Input::Accept { kind, access }, Request::Accept(reply)),
            Event::Message(StreamTubeMessage::Close { reply }) => {
                (Input::Close, Request::Close(reply))
            }
            Event::Message(StreamTubeMessage::Incoming(incoming)) => {
                let slot = self.seed.slots.try_reserve();
                let room = slot.is_some();
                (Input::Incoming { room }, Request::Incoming(incoming, slot))
            }
            Event::Message(StreamTubeMessage::RemoteClosed) => (Input::RemoteClosed, Request::None),
            Event::Message(StreamTubeMessage::ContactGone) => (Input::ContactGone, Request::None),
            Event::Fact(fact) => (fact.into(), Request::None),
            Event::Stopped => (Input::Stopped, Request::None),
        }
    }
}

impl Decider for StreamTube {
    type Seed = TubeSeed;
    type Message = StreamTubeMessage;
    type Fact = Fact;
    type Record = State;
    type Command = Command;

    const POINTS: Points = Points::TUBE;

    fn new(seed: Self::Seed, record: State) -> Self {
        StreamTube {
            seed,
            state: record.recover(),
            offer: None,
        }
    }

    fn decide(&mut self, event: Event) -> Decision<Command> {
        let (input, mut request) = self.understand(event);
        let mut decision = Decision::default();
        let mut listening = None;
        let mut effects: VecDeque<Effect> = self.state.apply(input).into();
        if let Request::Close(reply) = request {
            decision.commands.push(Command::AwaitClosed(reply));
            request = Request::None;
        }
        while let Some(effect) = effects.pop_front() {
            let command = match effect {
                Effect::Signal(signal) => Command::Signal(signal),
                Effect::Relay(token, id) => Command::Relay(token, id),
                Effect::Discard(token) => Command::Discard(token),
                Effect::StopOpening => Command::StopOpening,
                Effect::Farewell => Command::Farewell,
                Effect::Cut => Command::Cut,
                Effect::Finish => Command::Finish,
                Effect::Bind(kind, access) => {
                    let bound = self.seed.sockets.bind(kind, access).map(|socket| {
                        let address = socket.address().clone();
                        listening = Some(socket);
                        address
                    });
                    effects.extend(self.state.apply(Input::Bound(bound)));
                    continue;
                }
                Effect::Listen(address) => {
                    if let Request::Accept(reply) = request.take() {
                        decision.answer(reply, Ok(address));
                    }
                    match listening.take() {
                        Some(socket) => Command::Listen(socket),
                        None => continue,
                    }
                }
                Effect::SendOffer(parameters) => {
                    if let Request::Offer(reply) = request.take() {
                        let service = &self.seed.service;
                        let sending = self.seed.signalling.offer(service, &parameters);
                        self.offer = Some(Offer { sending, reply });
                    }
                    continue;
                }
                Effect::AbandonOffer(why) => {
                    if let Some(abandoned) = self.offer.take() {
                        decision.answer(abandoned.reply, Err(why));
                    }
                    continue;
                }
                Effect::Offered(result) => {
                    if let Some(answered) = self.offer.take() {
                        decision.answer(answered.reply, result);
                    }
                    continue;
                }
                Effect::Refuse(why) => {
                    match request.take() {
                        Request::Offer(reply) => decision.answer(reply, Err(why)),
                        Request::Accept(reply) => decision.answer(reply, Err(why)),
                        other => request = other,
                    }
                    continue;
                }
                Effect::Dial(target) => match request.take() {
                    Request::Incoming(incoming, Some(slot)) => Command::Dial {
                        target,
                        incoming,
                        slot,
                    },
                    other => {
                        request = other;
                        continue;
                    }
                },
                Effect::RefuseIncoming(why) => {
                    if let Request::Incoming(incoming, _) = request.take() {
                        incoming.refuse(why);
                    }
                    continue;
                }
            };
            decision.commands.push(command);
        }
        decision
    }

    fn record(&self) -> &State {
        &self.state
    }

    fn is_finished(&self) -> bool {
        matches!(self.state.phase(), Phase::Closed(_))
    }

    fn is_closing(&self) -> bool {
        matches!(self.state.phase(), Phase::Closing { .. } | Phase::Closed(_))
    }

    async fn own_fact(&mut self) -> Fact {
        match &mut self.offer {
            Some(offer) => Fact::OfferSent((&mut offer.sending).await),
            None => std::future::pending().await,
        }
    }
}

impl Request {
    fn take(&mut self) -> Request {
        std::mem::replace(self, Request::None)
    }
}

impl From<Fact> for Input {
    fn from(fact: Fact) -> Self {
        match fact {
            Fact::Accepted(token) => Input::Accepted(token),
            Fact::Dialled(token, parameter) => Input::Dialled { token, parameter },
            Fact::Ended(id, end) => Input::Ended(id, end),
            Fact::Overdue => Input::Overdue,
            Fact::SiblingFailed(what) => Input::SiblingFailed(what),
            Fact::OfferSent(result) => Input::OfferSent(result),
        }
    }
}
