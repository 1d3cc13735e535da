//! What a file transfer decides, without doing any of it.
//!
//! ```text
//!  we send                                            the contact sends
//!
//!  Offered ──Agreed──▶ Agreed ──Provide, Bound─┐      Asked ──Accept, Bound─┐
//!     │                                        │                            │
//!     └─Provide, Bound─▶ Offered(provided) ────┤Agreed                      │
//!                                              ▼                            ▼
//!                                           Opening ◀───────────────────────┘
//!                                              │ Opened
//!                                              ▼
//!                                            Open ──Ended(Completed)──▶ Completed
//!
//!  each but Completed ── Close, Stopped, ContactGone, SiblingFailed, Ended(anything else) ──▶ Cancelled
//! ```
//!
//! | phase | `File_Transfer_State` |
//! | --- | --- |
//! | `Offered`, `Asked` | Pending |
//! | `Agreed`, `Opening` | Accepted |
//! | `Open`, `Completed`, `Cancelled` | the same |
//!
//! [`State::apply`] takes one [`Input`] and returns the [`Effect`]s in the order they are to be
//! carried out. The state is plain data: a clone of it is the transfer's recovery record, from which a
//! successor goes on. Nothing in it depends on something that dies with an actor: the offer, the
//! bytestream and the bytes are the flow's, which outlives the actor.
//!
//! Promises, kept whatever the order of inputs (the tests draw thousands of orders):
//! - the state only goes on, each change is announced once, and nothing is announced after
//!   [`Effect::Finish`];
//! - a reason is given with Cancelled, and with no other state;
//! - `InitialOffsetDefined` is announced once, before Open, and is what was asked for or 0;
//! - one application's socket is attached at most, every other one is discarded;
//! - what is stored only grows, and never beyond what was handed over.
//!
//! A receiving application that [stores](State::stores) has the last word: the flow ends Completed only
//! after it has reported all of the file.

use crate::{
    endpoint::Token,
    file_transfer::frames::AbortReason,
    model::{
        AccessRule, AddressType, Error, FileTransferReason, FileTransferState, MAX_URI, Resume,
        SocketAddress,
    },
    ports::{FileTransferDescription, FileTransferSignal},
};

/// Where the transfer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// We send, and the contact has not answered. With where the application begins, if it has provided
    /// the file already.
    Offered(Option<Beginning>),
    /// We send, the contact wants it from there, and the application has not provided it.
    Agreed(Resume),
    /// The contact sends, and we have not answered.
    Asked,
    /// Both sides want it, and the bytestream is being opened.
    Opening,
    /// It flows.
    Open,
    /// All has arrived.
    Completed,
    /// It ended before that.
    Cancelled(FileTransferReason, Error),
}

/// Where the sending application begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Where the contact wants it.
    AsAsked,
    /// At the file's beginning, whatever the contact wants.
    AtZero,
}

/// Which way the file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the contact.
    Sending,
    /// From the contact.
    Receiving,
}

/// How a flow ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowEnd {
    /// All bytes are where they belong, and are the right ones.
    Completed,
    /// The contact declined, or stopped it.
    RemoteStopped(Error),
    /// Something is wrong on this side: the application, its file.
    LocalError(Error),
    /// Something is wrong at the contact's or on the way.
    RemoteError(Error),
    /// It was told to stop.
    Stopped,
}

/// What happens to a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// `FileTransfer.ProvideFile`.
    Provide {
        /// `Address_Type`
        kind: AddressType,
        /// `Access_Control` and its parameter.
        access: AccessRule,
        /// Where the application begins; nothing for where the contact wants it.
        from: Option<u64>,
    },
    /// `FileTransfer.AcceptFile`.
    Accept {
        /// `Address_Type`
        kind: AddressType,
        /// `Access_Control` and its parameter.
        access: AccessRule,
        /// Where it is to begin.
        from: Resume,
        /// It is completed only once the application has stored all of it.
        stores: bool,
    },
    /// The answer to [`Effect::Bind`].
    Bound(Result<SocketAddress, Error>),
    /// Setting `URI`.
    SetUri(String),
    /// The application has stored so much; `taken` is how many bytes this transfer has handed to it.
    Stored {
        /// Counted from the file's beginning.
        offset: u64,
        /// Counted from the initial offset.
        taken: u64,
    },
    /// The application asks whether all has come and is what was sent; if so, the file is so long.
    IsVerified(Option<u64>),
    /// The contact wants the file, from there.
    Agreed(Resume),
    /// The bytestream is open, and the bytes begin there.
    Opened {
        /// Counted from the file's beginning.
        offset: u64,
        /// TLS lies inside.
        encrypted: bool,
    },
    /// An application connected to our socket.
    Accepted(Token),
    /// The flow is over.
    Ended(FlowEnd),
    /// `Channel.Close`.
    Close,
    /// The program that had claimed the channel is gone.
    Abandoned,
    /// The Connection goes offline or the service ends.
    Stopped,
    /// The contact has been gone for longer than the grace period.
    ContactGone,
    /// An actor beside the transfer failed too often.
    SiblingFailed(String),
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Emit a signal.
    Signal(FileTransferSignal),
    /// Answer the request that is being handled: nothing comes of it.
    Refuse(Error),
    /// Answer the request that is being handled (SetUri or Stored): it is done.
    Done,
    /// Answer the request that is being handled (IsVerified): this.
    Say(Option<u64>),
    /// Bind a socket and come back at once with [`Input::Bound`].
    Bind(AddressType, AccessRule),
    /// Answer the request that is being handled (Provide or Accept): the socket that was bound is to be
    /// listened on.
    Listen(SocketAddress),
    /// Let the flow open the bytestream: the bytes are to begin there.
    Start(Resume),
    /// Let the bytes flow.
    Flow,
    /// Give the flow this application's socket.
    Attach(Token),
    /// Close this socket.
    Discard(Token),
    /// Tell the contact what is stored.
    Report(u64),
    /// Accept no more applications, and close the socket they connect to.
    StopListening,
    /// End the flow, and tell the contact why, as far as it can be told.
    StopFlow(AbortReason),
    /// The transfer is done.
    Finish,
}

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    phase: Phase,
    way: Way,
    size: Option<u64>,
    /// The sender can begin elsewhere than at the beginning.
    has_ranges: bool,
    /// Where the receiver wants it to begin, once it has said so.
    asked: Option<Resume>,
    initial_offset: Option<u64>,
    encrypted: Option<bool>,
    address: Option<SocketAddress>,
    /// What the request in hand has asked for, between `Bind` and `Bound`.
    binding: Option<Binding>,
    attached: bool,
    uri: String,
    /// The application says what it stores, and all waits for that.
    stores: bool,
    stored: u64,
    finished: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Binding {
    Provide(Beginning),
    Accept { from: Resume, stores: bool },
}

impl State {
    /// A transfer that has just appeared.
    pub fn new(description: &FileTransferDescription, way: Way) -> Self {
        State {
            phase: match way {
                Way::Sending => Phase::Offered(None),
                Way::Receiving => Phase::Asked,
            },
            way,
            size: description.file.size,
            has_ranges: description.has_ranges,
            asked: None,
            initial_offset: None,
            encrypted: None,
            address: None,
            binding: None,
            attached: false,
            uri: description.uri.clone(),
            stores: false,
            stored: 0,
            finished: false,
        }
    }

    /// What a successor starts from. A request that was in its predecessor's hand died with it, and
    /// whoever made it has been told.
    #[must_use]
    pub fn recover(mut self) -> Self {
        self.binding = None;
        self
    }

    /// Where the transfer stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether [`Effect::Finish`] was given.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether it is completed or cancelled.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Completed | Phase::Cancelled(..))
    }

    /// `FileTransfer.State`.
    pub fn transfer_state(&self) -> FileTransferState {
        match self.phase {
            Phase::Offered(_) | Phase::Asked => FileTransferState::Pending,
            Phase::Agreed(_) | Phase::Opening => FileTransferState::Accepted,
            Phase::Open => FileTransferState::Open,
            Phase::Completed => FileTransferState::Completed,
            Phase::Cancelled(..) => FileTransferState::Cancelled,
        }
    }

    /// Why it is cancelled, if it is.
    pub fn reason(&self) -> FileTransferReason {
        match self.phase {
            Phase::Cancelled(reason, _) => reason,
            _ => FileTransferReason::None,
        }
    }

    /// What went wrong, if something did.
    pub fn error(&self) -> Option<&Error> {
        match &self.phase {
            Phase::Cancelled(_, error) => Some(error),
            _ => None,
        }
    }

    /// Where the contact wants the file to begin, once it has said so (we send).
    pub fn asked(&self) -> Option<&Resume> {
        self.asked.as_ref().filter(|_| self.way == Way::Sending)
    }

    /// `FileTransfer.InitialOffset`, once it is defined.
    pub fn initial_offset(&self) -> Option<u64> {
        self.initial_offset
    }

    /// Whether TLS lies inside the bytestream, once it is open.
    pub fn encrypted(&self) -> Option<bool> {
        self.encrypted
    }

    /// What the application connects to, once there is something.
    pub fn address(&self) -> Option<&SocketAddress> {
        self.address.as_ref()
    }

    /// `FileTransfer.URI`; empty while there is none.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// What the application here has said it has stored.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Whether it is completed only once the application here has said that it has stored all of it.
    pub fn stores(&self) -> bool {
        self.stores
    }

    /// Takes one input and says what is to be done about it.
    pub fn apply(&mut self, input: Input) -> Vec<Effect> {
        match input {
            Input::Provide { kind, access, from } => vec![self.provide(kind, access, from)],
            Input::Accept {
                kind,
                access,
                from,
                stores,
            } => vec![self.accept(kind, access, from, stores)],
            Input::Bound(result) => self.bound(result),
            Input::SetUri(uri) => self.set_uri(uri),
            Input::Stored { offset, taken } => self.report(offset, taken),
            Input::IsVerified(_) if self.way == Way::Sending => {
                vec![refuse("the contact verifies this file")]
            }
            Input::IsVerified(verified) => vec![Effect::Say(verified)],
            Input::Agreed(from) => self.agreed(from),
            Input::Opened { offset, encrypted } => self.opened(offset, encrypted),
            Input::Accepted(token) => self.accepted(token),
            Input::Ended(end) => self.ended(end),
            // That a program crashed before it took the file is no answer of its user's.
            Input::Abandoned if matches!(self.phase, Phase::Asked) && self.binding.is_none() => {
                Vec::new()
            }
            Input::Close | Input::Abandoned | Input::Stopped => self.close(),
            Input::ContactGone => {
                let why = Error::Offline("the contact is gone".into());
                self.cancel(FileTransferReason::RemoteError, why)
            }
            Input::SiblingFailed(what) => {
                self.cancel(FileTransferReason::LocalError, Error::Confused(what))
            }
        }
    }

    fn provide(&mut self, kind: AddressType, access: AccessRule, from: Option<u64>) -> Effect {
        let asked = match &self.phase {
            Phase::Offered(None) => None,
            Phase::Agreed(asked) => Some(asked.offset),
            Phase::Asked | Phase::Opening | Phase::Open if self.way != Way::Sending => {
                return refuse("the contact sends this file; accept it instead");
            }
            Phase::Offered(Some(_)) | Phase::Opening | Phase::Open | Phase::Asked => {
                return refuse("this file was provided already");
            }
            Phase::Completed | Phase::Cancelled(..) => return self.refuse_over(),
        };
        let beginning = match (from, asked) {
            (None, _) => Beginning::AsAsked,
            (Some(0), _) => Beginning::AtZero,
            (Some(from), Some(asked)) if from == asked => Beginning::AsAsked,
            (Some(_), Some(asked)) => {
                return Effect::Refuse(Error::InvalidArgument(format!(
                    "this file may begin at 0 or at {asked}, where the contact wants it"
                )));
            }
            (Some(_), None) => {
                return refuse("the contact has not said yet where it wants the file to begin");
            }
        };
        self.binding = Some(Binding::Provide(beginning));
        Effect::Bind(kind, access)
    }

    fn accept(
        &mut self,
        kind: AddressType,
        access: AccessRule,
        from: Resume,
        stores: bool,
    ) -> Effect {
        match (&self.phase, self.way) {
            (Phase::Asked, _) => {
                if let Some(size) = self.size
                    && from.offset > size
                {
                    return Effect::Refuse(Error::InvalidArgument(format!(
                        "this file has {size} bytes and cannot begin at {}",
                        from.offset
                    )));
                }
                let from = if self.has_ranges {
                    from
                } else {
                    Resume::default()
                };
                self.binding = Some(Binding::Accept { from, stores });
                Effect::Bind(kind, access)
            }
            (Phase::Completed | Phase::Cancelled(..), _) => self.refuse_over(),
            (_, Way::Sending) => refuse("we send this file; provide it instead"),
            _ => refuse("this file was accepted already"),
        }
    }

    fn bound(&mut self, result: Result<SocketAddress, Error>) -> Vec<Effect> {
        let (binding, address) = match (self.binding.take(), result) {
            (Some(binding), Ok(address)) => (binding, address),
            (_, Err(why)) => return vec![Effect::Refuse(why)],
            // Nothing was asked for.
            (None, Ok(_)) => return Vec::new(),
        };
        let mut effects = vec![Effect::Listen(address.clone())];
        self.address = Some(address);
        match (binding, &self.phase) {
            (Binding::Provide(beginning), Phase::Agreed(asked)) => {
                let from = beginning.of(asked);
                self.phase = Phase::Opening;
                effects.push(Effect::Start(from));
            }
            (Binding::Provide(beginning), _) => self.phase = Phase::Offered(Some(beginning)),
            (Binding::Accept { from, stores }, _) => {
                self.stores = stores;
                self.asked = Some(from.clone());
                self.phase = Phase::Opening;
                effects.push(self.state_changed());
                effects.push(Effect::Start(from));
            }
        }
        effects
    }

    fn set_uri(&mut self, uri: String) -> Vec<Effect> {
        vec![match (&self.phase, self.way) {
            (_, Way::Sending) => refuse("the URI of a file that we send is fixed"),
            (Phase::Asked, _) if uri.len() > MAX_URI => Effect::Refuse(Error::InvalidArgument(
                format!("a URI has at most {MAX_URI} bytes"),
            )),
            // Whoever handles the channel has to keep to what an approver has set.
            (Phase::Asked, _) if !self.uri.is_empty() => refuse("the URI is set already"),
            (Phase::Asked, _) if uri.is_empty() => {
                Effect::Refuse(Error::InvalidArgument("a URI is not empty".into()))
            }
            (Phase::Asked, _) => {
                self.uri.clone_from(&uri);
                return vec![
                    Effect::Signal(FileTransferSignal::UriDefined(uri)),
                    Effect::Done,
                ];
            }
            _ => refuse("the URI is set before the file is accepted"),
        }]
    }

    fn report(&mut self, offset: u64, taken: u64) -> Vec<Effect> {
        let initial = match (self.way, &self.phase, self.initial_offset) {
            (Way::Sending, ..) => return vec![refuse("the contact stores this file")],
            (_, Phase::Open | Phase::Completed, Some(initial)) => initial,
            (_, Phase::Cancelled(..), _) => return vec![self.refuse_over()],
            _ => return vec![refuse("nothing of this file has come yet")],
        };
        let handed = initial.saturating_add(taken);
        if offset > handed {
            return vec![Effect::Refuse(Error::InvalidArgument(format!(
                "only {handed} bytes of this file have been handed over"
            )))];
        }
        if offset < self.stored {
            return vec![Effect::Refuse(Error::InvalidArgument(format!(
                "{} bytes of this file were stored already",
                self.stored
            )))];
        }
        self.stored = offset;
        vec![Effect::Report(offset), Effect::Done]
    }

    fn agreed(&mut self, from: Resume) -> Vec<Effect> {
        let Phase::Offered(provided) = &self.phase else {
            return Vec::new();
        };
        if self.size.is_some_and(|size| from.offset > size) {
            let why = "the contact wants the file to begin behind its end";
            return self.cancel(
                FileTransferReason::RemoteError,
                Error::InvalidArgument(why.into()),
            );
        }
        self.asked = Some(from.clone());
        let start = provided.map(|beginning| beginning.of(&from));
        self.phase = match &start {
            Some(_) => Phase::Opening,
            None => Phase::Agreed(from),
        };
        let asked = self.asked.clone().unwrap_or_default();
        let mut effects = vec![
            Effect::Signal(FileTransferSignal::AskedDefined(asked)),
            self.state_changed(),
        ];
        effects.extend(start.map(Effect::Start));
        effects
    }

    fn opened(&mut self, offset: u64, encrypted: bool) -> Vec<Effect> {
        let Phase::Opening = self.phase else {
            return Vec::new();
        };
        self.phase = Phase::Open;
        self.initial_offset = Some(offset);
        self.encrypted = Some(encrypted);
        if self.way != Way::Sending {
            // What lies before it is stored, or it would not have been asked for.
            self.stored = offset;
        }
        vec![
            Effect::Signal(FileTransferSignal::InitialOffsetDefined(offset)),
            self.state_changed(),
            Effect::Flow,
        ]
    }

    fn accepted(&mut self, token: Token) -> Vec<Effect> {
        if self.attached || self.is_over() || self.address.is_none() {
            return vec![Effect::Discard(token)];
        }
        self.attached = true;
        vec![Effect::Attach(token), Effect::StopListening]
    }

    fn ended(&mut self, end: FlowEnd) -> Vec<Effect> {
        let (reason, why) = match end {
            FlowEnd::Completed if self.phase == Phase::Open => {
                self.phase = Phase::Completed;
                return vec![Effect::StopListening, self.state_changed()];
            }
            // A flow opens before it completes, and stops when it is told to.
            FlowEnd::Completed | FlowEnd::Stopped => (
                FileTransferReason::LocalError,
                Error::Confused("the transfer ended by itself".into()),
            ),
            FlowEnd::RemoteStopped(why) => (FileTransferReason::RemoteStopped, why),
            FlowEnd::LocalError(why) => (FileTransferReason::LocalError, why),
            FlowEnd::RemoteError(why) => (FileTransferReason::RemoteError, why),
        };
        self.cancel(reason, why)
    }

    fn cancel(&mut self, reason: FileTransferReason, why: Error) -> Vec<Effect> {
        if self.is_over() {
            return Vec::new();
        }
        self.phase = Phase::Cancelled(reason, why);
        let abort = match reason {
            FileTransferReason::LocalStopped => AbortReason::Stopped,
            _ => AbortReason::Failed,
        };
        vec![
            Effect::StopListening,
            Effect::StopFlow(abort),
            self.state_changed(),
        ]
    }

    fn close(&mut self) -> Vec<Effect> {
        if self.finished {
            return Vec::new();
        }
        let why = Error::Cancelled("the transfer was cancelled here".into());
        let mut effects = self.cancel(FileTransferReason::LocalStopped, why);
        self.finished = true;
        effects.push(Effect::Finish);
        effects
    }

    fn state_changed(&self) -> Effect {
        let (state, reason) = (self.transfer_state(), self.reason());
        Effect::Signal(FileTransferSignal::StateChanged(state, reason))
    }

    fn refuse_over(&self) -> Effect {
        refuse(match self.phase {
            Phase::Completed => "this transfer is completed",
            _ => "this transfer was cancelled",
        })
    }
}

impl Beginning {
    fn of(self, asked: &Resume) -> Resume {
        match self {
            Beginning::AsAsked => asked.clone(),
            Beginning::AtZero => Resume::default(),
        }
    }
}

fn refuse(text: &str) -> Effect {
    Effect::Refuse(Error::NotAvailable(text.to_owned()))
}

#[cfg(test)]
mod tests;
