//! The transfer as an actor: waits for what may happen, lets [`State`] decide, and hands the decision
//! on as one [`Commit`].

use std::{collections::VecDeque, sync::Arc};

use super::{
    FileTransferMessage,
    flow::Progress,
    frames::AbortReason,
    state::{Effect, FlowEnd, Input, State, Token},
};
use crate::{
    model::{Result, Resume, SocketAddress},
    ports::FileTransferSignal,
    runtime::{self, Actor, Desk, DeskEvent, Exit, FaultPoint, Flow, Mailbox, Points, Post, Reply},
    supervisor::{ListeningSocket, LocalSockets},
};

/// What the channel supervisor tells the transfer. Facts rather than messages: after a restart those
/// that still hold are told again.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    /// An application's socket waits under this token.
    Accepted(Token),
    /// The contact wants the file, from there.
    Agreed(Resume),
    /// The bytestream is open.
    Opened { offset: u64, encrypted: bool },
    /// The flow is over.
    Ended(FlowEnd),
    /// A sibling failed past its limit.
    SiblingFailed(String),
}

/// One decision, as the channel supervisor takes it.
pub(crate) type Commit = runtime::Commit<State, Command, Answer>;

/// What the channel supervisor does for the transfer.
pub(crate) enum Command {
    Signal(FileTransferSignal),
    Listen(Arc<dyn ListeningSocket>),
    Start(Resume),
    Flow,
    Attach(Token),
    Discard(Token),
    Report(u64),
    StopListening,
    StopFlow(AbortReason),
    AwaitClosed(Reply<()>),
    Finish,
}

/// An answer to a D-Bus method.
pub(crate) enum Answer {
    Address(Reply<Result<SocketAddress>>, Result<SocketAddress>),
    Unit(Reply<Result<()>>, Result<()>),
    Size(Reply<Result<Option<u64>>>, Result<Option<u64>>),
}

/// What every incarnation of a channel's transfer is made from.
#[derive(Clone)]
pub(crate) struct TransferSeed {
    pub(crate) sockets: Arc<dyn LocalSockets>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) post: Post<Fact, Commit>,
}

/// Where it may be killed.
pub(crate) const POINTS: Points = Points {
    waiting: FaultPoint::TransferWaiting,
    decide: FaultPoint::TransferDecide,
    commit: FaultPoint::TransferCommit,
    committed: FaultPoint::TransferCommitted,
};

/// See the module's head.
pub(crate) struct FileTransfer {
    seed: TransferSeed,
    desk: Desk<FileTransferMessage, Fact, Commit>,
    state: State,
}

/// What the transfer waits for.
type Event = DeskEvent<FileTransferMessage, Fact>;

/// The request that is being handled.
enum Request {
    None,
    Address(Reply<Result<SocketAddress>>),
    Unit(Reply<Result<()>>),
    Size(Reply<Result<Option<u64>>>),
    Close(Reply<()>),
}

impl FileTransfer {
    /// A transfer that goes on from `record`, reading a mailbox that was lent to it.
    pub(crate) fn new(
        seed: TransferSeed,
        mailbox: Mailbox<FileTransferMessage>,
        record: State,
    ) -> FileTransfer {
        FileTransfer {
            desk: Desk::new(seed.post.clone(), mailbox),
            seed,
            state: record.recover(),
        }
    }

    fn understand(&self, event: Event) -> Result<(Input, Request), Exit> {
        Ok(match event {
            Event::Message(FileTransferMessage::Provide {
                address_type: kind,
                access,
                from,
                reply,
            }) => (
                Input::Provide { kind, access, from },
                Request::Address(reply),
            ),
            Event::Message(FileTransferMessage::Accept {
                address_type: kind,
                access,
                from,
                stores,
                reply,
            }) => (
                Input::Accept {
                    kind,
                    access,
                    from,
                    stores,
                },
                Request::Address(reply),
            ),
            Event::Message(FileTransferMessage::SetUri { uri, reply }) => {
                (Input::SetUri(uri), Request::Unit(reply))
            }
            Event::Message(FileTransferMessage::Stored { offset, reply }) => {
                let taken = self.seed.progress.transferred();
                (Input::Stored { offset, taken }, Request::Unit(reply))
            }
            Event::Message(FileTransferMessage::IsVerified { reply }) => {
                let verified = self.seed.progress.verified();
                (Input::IsVerified(verified), Request::Size(reply))
            }
            Event::Message(FileTransferMessage::Close { reply }) => {
                (Input::Close, Request::Close(reply))
            }
            Event::Message(FileTransferMessage::Abandoned) => (Input::Abandoned, Request::None),
            Event::Message(FileTransferMessage::ContactGone) => (Input::ContactGone, Request::None),
            Event::Fact(fact) => (fact.into(), Request::None),
            Event::Stopped => (Input::Stopped, Request::None),
            Event::Orphaned => return Err(Exit::Stopped),
            Event::Fault(failure) => return Err(Exit::Failed(failure)),
        })
    }

    fn decide(&mut self, input: Input, mut request: Request) -> Decision {
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
                Effect::Start(from) => Command::Start(from),
                Effect::Flow => Command::Flow,
                Effect::Attach(token) => Command::Attach(token),
                Effect::Discard(token) => Command::Discard(token),
                Effect::Report(offset) => Command::Report(offset),
                Effect::StopListening => Command::StopListening,
                Effect::StopFlow(why) => Command::StopFlow(why),
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
                    let request = std::mem::replace(&mut request, Request::None);
                    decision.answer_address(request, Ok(address));
                    match listening.take() {
                        Some(socket) => Command::Listen(socket),
                        None => continue,
                    }
                }
                Effect::Done => {
                    if let Request::Unit(reply) = std::mem::replace(&mut request, Request::None) {
                        decision.answers.push(Answer::Unit(reply, Ok(())));
                    }
                    continue;
                }
                Effect::Say(what) => {
                    if let Request::Size(reply) = std::mem::replace(&mut request, Request::None) {
                        decision.answers.push(Answer::Size(reply, Ok(what)));
                    }
                    continue;
                }
                Effect::Refuse(why) => {
                    match std::mem::replace(&mut request, Request::None) {
                        Request::Size(reply) => {
                            decision.answers.push(Answer::Size(reply, Err(why)));
                        }
                        Request::Unit(reply) => {
                            decision.answers.push(Answer::Unit(reply, Err(why)));
                        }
                        other => decision.answer_address(other, Err(why)),
                    }
                    continue;
                }
            };
            decision.commands.push(command);
        }
        decision
    }

    fn handle(&mut self, event: Event) -> Result<(), Exit> {
        let (input, request) = self.understand(event)?;
        self.desk.deciding()?;
        let Decision { commands, answers } = self.decide(input, request);
        self.desk.hand_over(self.state.clone(), commands, answers)
    }
}

#[derive(Default)]
struct Decision {
    commands: Vec<Command>,
    answers: Vec<Answer>,
}

impl Decision {
    fn answer_address(&mut self, request: Request, result: Result<SocketAddress>) {
        if let Request::Address(reply) = request {
            self.answers.push(Answer::Address(reply, result));
        }
    }
}

impl From<Fact> for Input {
    fn from(fact: Fact) -> Self {
        match fact {
            Fact::Accepted(token) => Input::Accepted(token),
            Fact::Agreed(from) => Input::Agreed(from),
            Fact::Opened { offset, encrypted } => Input::Opened { offset, encrypted },
            Fact::Ended(end) => Input::Ended(end),
            Fact::SiblingFailed(what) => Input::SiblingFailed(what),
        }
    }
}

impl Answer {
    /// Answers.
    pub(crate) fn send(self) {
        match self {
            Answer::Address(reply, result) => reply.answer(result),
            Answer::Unit(reply, result) => reply.answer(result),
            Answer::Size(reply, result) => reply.answer(result),
        }
    }
}

impl Actor for FileTransfer {
    type Event = Event;

    async fn select(&mut self) -> Event {
        self.desk.next().await
    }

    fn apply(&mut self, event: Event) -> Flow {
        match self.handle(event) {
            Err(exit) => Flow::Exit(exit),
            Ok(()) if self.state.is_finished() => Flow::Exit(Exit::Finished),
            Ok(()) => Flow::Continue,
        }
    }
}
