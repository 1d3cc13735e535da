//! Who decides for a file transfer: asks its [`State`], binds the socket, and says what is to be done.

use std::{collections::VecDeque, sync::Arc};

use super::{
    FileTransferMessage,
    flow::Progress,
    frames::AbortReason,
    state::{Effect, FlowEnd, Input, State},
};
use crate::{
    endpoint::Token,
    model::{Result, Resume, SocketAddress},
    ports::FileTransferSignal,
    runtime::{Decider, Decision, DeskEvent, FaultPoint, Points, Reply},
    supervisor::{ListeningSocket, LocalSockets},
};

/// What the channel supervisor tells the transfer.
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

/// What every incarnation of a channel's transfer is made from.
#[derive(Clone)]
pub(crate) struct TransferSeed {
    pub(crate) sockets: Arc<dyn LocalSockets>,
    pub(crate) progress: Arc<Progress>,
}

/// See the module's head.
pub(crate) struct FileTransfer {
    seed: TransferSeed,
    state: State,
}

type Event = DeskEvent<FileTransfer>;

/// The request that is being handled.
enum Request {
    None,
    Address(Reply<Result<SocketAddress>>),
    Unit(Reply<Result<()>>),
    Size(Reply<Result<Option<u64>>>),
    Close(Reply<()>),
}

impl FileTransfer {
    fn understand(&self, event: Event) -> (Input, Request) {
        match event {
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
        }
    }
}

impl Decider for FileTransfer {
    type Seed = TransferSeed;
    type Message = FileTransferMessage;
    type Fact = Fact;
    type Record = State;
    type Command = Command;

    const POINTS: Points = Points {
        waiting: FaultPoint::TransferWaiting,
        decide: FaultPoint::TransferDecide,
        commit: FaultPoint::TransferCommit,
        committed: FaultPoint::TransferCommitted,
    };

    fn new(seed: Self::Seed, record: State) -> Self {
        FileTransfer {
            seed,
            state: record.recover(),
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
                    if let Request::Address(reply) = request.take() {
                        decision.answer(reply, Ok(address));
                    }
                    match listening.take() {
                        Some(socket) => Command::Listen(socket),
                        None => continue,
                    }
                }
                Effect::Done => {
                    if let Request::Unit(reply) = request.take() {
                        decision.answer(reply, Ok(()));
                    }
                    continue;
                }
                Effect::Say(what) => {
                    if let Request::Size(reply) = request.take() {
                        decision.answer(reply, Ok(what));
                    }
                    continue;
                }
                Effect::Refuse(why) => {
                    match request.take() {
                        Request::Address(reply) => decision.answer(reply, Err(why)),
                        Request::Unit(reply) => decision.answer(reply, Err(why)),
                        Request::Size(reply) => decision.answer(reply, Err(why)),
                        Request::None | Request::Close(_) => {}
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
        self.state.is_finished()
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
            Fact::Agreed(from) => Input::Agreed(from),
            Fact::Opened { offset, encrypted } => Input::Opened { offset, encrypted },
            Fact::Ended(end) => Input::Ended(end),
            Fact::SiblingFailed(what) => Input::SiblingFailed(what),
        }
    }
}
