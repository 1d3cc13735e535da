//! The tube as an actor: waits for what may happen, lets [`State`] decide, and hands the decision
//! on as one [`Commit`].

use std::sync::Arc;

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{
    StreamTubeMessage,
    state::{ConnectionEnd, Effect, Input, Phase, State, Target, Token},
};
use crate::{
    endpoint::{Slot, Slots},
    model::{ConnectionId, ConnectionParameter, Result, ServiceName, SocketAddress},
    ports::{IncomingBytestream, StreamTubeSignal, TubeSignalling},
    runtime::{
        self, Actor, BoxFuture, Exit, Failure, FaultPoint, Faults, Flow, Mailbox, Pending, Reply,
        Stop,
    },
    supervisor::{ListeningSocket, LocalSockets},
};

/// What the channel supervisor tells the tube. Facts rather than messages: after a restart those
/// that still hold are told again.
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
}

/// One decision, as the channel supervisor takes it.
pub(crate) type Commit = runtime::Commit<State, Command, Answer>;

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

/// An answer to a D-Bus method.
pub(crate) enum Answer {
    Offer(Reply<Result<()>>, Result<()>),
    Accept(Reply<Result<SocketAddress>>, Result<SocketAddress>),
}

/// What every incarnation of a channel's tube is made from.
#[derive(Clone)]
pub(crate) struct TubeSeed {
    pub(crate) service: ServiceName,
    pub(crate) signalling: Arc<dyn TubeSignalling>,
    pub(crate) sockets: Arc<dyn LocalSockets>,
    pub(crate) slots: Slots,
    pub(crate) facts: Receiver<Fact>,
    pub(crate) commits: Sender<Commit>,
    /// Asks the channel to close in order.
    pub(crate) stop: Stop,
    pub(crate) faults: Faults,
}

/// See the module's head.
pub(crate) struct StreamTube {
    seed: TubeSeed,
    mailbox: Mailbox<StreamTubeMessage>,
    state: State,
    offer: Option<Offer>,
    committed: Option<Pending<()>>,
}

/// An offer on its way, and who waits for it.
struct Offer {
    sending: BoxFuture<'static, Result<()>>,
    reply: Reply<Result<()>>,
}

/// What the tube waits for.
pub(crate) enum Event {
    Message(StreamTubeMessage),
    Fact(Fact),
    OfferSent(Result<()>),
    Stopped,
    /// The channel supervisor is gone: there is nobody to work for.
    Orphaned,
    Fault(Failure),
}

/// The request that is being handled.
enum Request {
    None,
    Offer(Reply<Result<()>>),
    Accept(Reply<Result<SocketAddress>>),
    Incoming(Box<dyn IncomingBytestream>, Option<Slot>),
    Close(Reply<()>),
}

impl StreamTube {
    /// A tube that goes on from `record`, reading a mailbox that was lent to it.
    pub(crate) fn new(
        seed: TubeSeed,
        mailbox: Mailbox<StreamTubeMessage>,
        record: State,
    ) -> StreamTube {
        StreamTube {
            seed,
            mailbox,
            state: record.recover(),
            offer: None,
            committed: None,
        }
    }

    fn is_closing(&self) -> bool {
        matches!(self.state.phase(), Phase::Closing { .. } | Phase::Closed(_))
    }

    fn understand(&self, event: Event) -> Result<(Input, Request), Exit> {
        Ok(match event {
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
            Event::OfferSent(result) => (Input::OfferSent(result), Request::None),
            Event::Stopped => (Input::Stopped, Request::None),
            Event::Orphaned => return Err(Exit::Stopped),
            Event::Fault(failure) => return Err(Exit::Failed(failure)),
        })
    }

    fn decide(&mut self, input: Input, mut request: Request) -> Decision {
        let mut decision = Decision::default();
        let mut listening = None;
        let mut effects: std::collections::VecDeque<Effect> = self.state.apply(input).into();
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
                    if let Request::Accept(reply) = std::mem::replace(&mut request, Request::None) {
                        decision.answers.push(Answer::Accept(reply, Ok(address)));
                    }
                    match listening.take() {
                        Some(socket) => Command::Listen(socket),
                        None => continue,
                    }
                }
                Effect::SendOffer(parameters) => {
                    if let Request::Offer(reply) = std::mem::replace(&mut request, Request::None) {
                        let service = &self.seed.service;
                        let sending = self.seed.signalling.offer(service, &parameters);
                        self.offer = Some(Offer { sending, reply });
                    }
                    continue;
                }
                Effect::AbandonOffer(why) => {
                    let abandoned = self.offer.take();
                    decision
                        .answers
                        .extend(abandoned.map(|offer| Answer::Offer(offer.reply, Err(why))));
                    continue;
                }
                Effect::Offered(result) => {
                    let answered = self.offer.take();
                    decision
                        .answers
                        .extend(answered.map(|offer| Answer::Offer(offer.reply, result)));
                    continue;
                }
                Effect::Refuse(why) => {
                    match std::mem::replace(&mut request, Request::None) {
                        Request::Offer(reply) => {
                            decision.answers.push(Answer::Offer(reply, Err(why)));
                        }
                        Request::Accept(reply) => {
                            decision.answers.push(Answer::Accept(reply, Err(why)));
                        }
                        other => request = other,
                    }
                    continue;
                }
                Effect::Dial(target) => match std::mem::replace(&mut request, Request::None) {
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
                    if let Request::Incoming(incoming, _) =
                        std::mem::replace(&mut request, Request::None)
                    {
                        incoming.refuse(why);
                    }
                    continue;
                }
            };
            decision.commands.push(command);
        }
        decision
    }

    fn handle(&mut self, event: Event) -> Result<(), Exit> {
        let fault = |failure| Exit::Failed(failure);
        let (input, request) = self.understand(event)?;
        self.seed
            .faults
            .hit(FaultPoint::TubeDecide)
            .map_err(fault)?;
        let decision = self.decide(input, request);
        self.seed
            .faults
            .hit(FaultPoint::TubeCommit)
            .map_err(fault)?;
        let (taken, committed) = Reply::new();
        let commit = Commit {
            record: self.state.clone(),
            commands: decision.commands,
            answers: decision.answers,
            taken,
        };
        // There is room: the one before was taken, or `select` would not have returned.
        self.seed
            .commits
            .try_send(commit)
            .map_err(|_| Exit::Stopped)?;
        self.committed = Some(committed);
        self.seed
            .faults
            .hit(FaultPoint::TubeCommitted)
            .map_err(fault)
    }
}

#[derive(Default)]
struct Decision {
    commands: Vec<Command>,
    answers: Vec<Answer>,
}

impl From<Fact> for Input {
    fn from(fact: Fact) -> Self {
        match fact {
            Fact::Accepted(token) => Input::Accepted(token),
            Fact::Dialled(token, parameter) => Input::Dialled { token, parameter },
            Fact::Ended(id, end) => Input::Ended(id, end),
            Fact::Overdue => Input::Overdue,
            Fact::SiblingFailed(what) => Input::SiblingFailed(what),
        }
    }
}

impl Answer {
    /// Answers.
    pub(crate) fn send(self) {
        match self {
            Answer::Offer(reply, result) => reply.answer(result),
            Answer::Accept(reply, result) => reply.answer(result),
        }
    }
}

impl Actor for StreamTube {
    type Event = Event;

    /// Waits, in this order, for: the last decision to be taken, the stop token, facts, the
    /// offer that is on its way, and messages (the priority inbox first).
    async fn select(&mut self) -> Event {
        if let Some(committed) = &mut self.committed {
            // Taken or dropped, both tell that the channel supervisor has seen it.
            committed.ready().await;
            self.committed = None;
        }
        let closing = self.is_closing();
        let stopped = async {
            if closing {
                std::future::pending::<()>().await;
            }
            self.seed.stop.stopped().await;
            Event::Stopped
        };
        let fact = async {
            match self.seed.facts.recv().await {
                Ok(fact) => Event::Fact(fact),
                Err(_) => Event::Orphaned,
            }
        };
        let message = async {
            match self.mailbox.next().await {
                Some(message) => Event::Message(message),
                // The channel supervisor holds an address, so it is gone.
                None => Event::Orphaned,
            }
        };
        let offer = async {
            match &mut self.offer {
                Some(offer) => Event::OfferSent((&mut offer.sending).await),
                None => std::future::pending().await,
            }
        };
        let event = stopped.or(fact).or(offer).or(message);
        match self
            .seed
            .faults
            .survive(FaultPoint::TubeWaiting, event)
            .await
        {
            Ok(event) => event,
            Err(failure) => Event::Fault(failure),
        }
    }

    fn apply(&mut self, event: Event) -> Flow {
        match self.handle(event) {
            Err(exit) => Flow::Exit(exit),
            Ok(()) if matches!(self.state.phase(), Phase::Closed(_)) => Flow::Exit(Exit::Finished),
            Ok(()) => Flow::Continue,
        }
    }
}
