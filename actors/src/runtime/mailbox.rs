//! Bounded mailboxes: an inbox and, beside it, a priority inbox that is always read first.
//!
//! A full inbox makes `tell` wait and `try_tell` say so; nothing is ever dropped silently. The
//! priority inbox is for the few messages that must not queue behind work (close, a child's exit).

use async_channel::{Receiver, Sender, TryRecvError, TrySendError};
use futures_lite::FutureExt as _;

use super::{Dropped, Reply};

/// The receiving end; read by one actor at a time. Dropping it drops what is still inside, so that
/// whoever waits for an answer gets one ([`Dropped`]); one that was [lent](Mailbox::lend) leaves
/// everything where it is.
pub struct Mailbox<M> {
    inbox: Receiver<M>,
    priority: Receiver<M>,
    lent: bool,
}

/// The sending end; cheap to clone.
pub struct Address<M> {
    inbox: Sender<M>,
    priority: Sender<M>,
}

impl<M> std::fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address")
            .field("waiting", &self.inbox.len())
            .finish_non_exhaustive()
    }
}

impl<M> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox")
            .field("waiting", &self.inbox.len())
            .finish_non_exhaustive()
    }
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Address {
            inbox: self.inbox.clone(),
            priority: self.priority.clone(),
        }
    }
}

/// The actor has stopped; the message comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the actor has stopped")]
pub struct Gone<M>(pub M);

/// Why a message could not be put into the mailbox at once; the message comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TellError<M> {
    /// The mailbox is full.
    #[error("the actor's mailbox is full")]
    Full(M),
    /// The actor has stopped.
    #[error("the actor has stopped")]
    Gone(M),
}

impl<M> std::fmt::Debug for Gone<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gone")
    }
}

impl<M> std::fmt::Debug for TellError<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            TellError::Full(_) => "Full",
            TellError::Gone(_) => "Gone",
        })
    }
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The actor had stopped before the question reached it.
    #[error("the actor has stopped")]
    Gone,
    /// The actor dropped the question unanswered.
    #[error("the request was dropped unanswered")]
    Dropped,
}

impl From<AskError> for crate::model::Error {
    fn from(_: AskError) -> Self {
        crate::model::Error::unanswered()
    }
}

impl<M> Mailbox<M> {
    /// A mailbox whose inbox holds `capacity` messages and whose priority inbox holds as many.
    pub fn new(capacity: usize) -> (Mailbox<M>, Address<M>) {
        let (inbox_sender, inbox) = async_channel::bounded(capacity);
        let (priority_sender, priority) = async_channel::bounded(capacity);
        (
            Mailbox {
                inbox,
                priority,
                lent: false,
            },
            Address {
                inbox: inbox_sender,
                priority: priority_sender,
            },
        )
    }

    /// Waits for the next message, the priority inbox first. `None` once every address is gone and
    /// both inboxes are empty. Cancel-safe.
    pub async fn next(&mut self) -> Option<M> {
        match self.try_next() {
            Ok(message) => return Some(message),
            Err(TryRecvError::Closed) => return None,
            Err(TryRecvError::Empty) => {}
        }
        let first = async {
            match self.priority.recv().await {
                Ok(message) => Some(message),
                // Every address is gone. What was put into the inbox just before still counts.
                Err(_) => self.inbox.recv().await.ok(),
            }
        };
        first.or(async { self.inbox.recv().await.ok() }).await
    }

    /// The same mailbox for an actor that may fail: its supervisor keeps this one and lends another
    /// to the successor. Messages nobody has taken stay. Two at once would share the messages
    /// between them; nobody wants that.
    #[must_use]
    pub fn lend(&self) -> Mailbox<M> {
        Mailbox {
            inbox: self.inbox.clone(),
            priority: self.priority.clone(),
            lent: true,
        }
    }

    /// The next message if there is one now.
    ///
    /// # Errors
    /// `Empty` when there is none yet, `Closed` when there never will be.
    pub fn try_next(&mut self) -> Result<M, TryRecvError> {
        self.priority.try_recv().or_else(|_| self.inbox.try_recv())
    }
}

impl<M> Drop for Mailbox<M> {
    fn drop(&mut self) {
        if self.lent {
            return;
        }
        // A closed channel keeps its messages while a sender lives, and a question among them
        // would never be answered.
        self.inbox.close();
        self.priority.close();
        while self.try_next().is_ok() {}
    }
}

impl<M> Address<M> {
    /// Puts a message into the inbox, waiting for room.
    ///
    /// # Errors
    /// [`Gone`] with the message when the actor has stopped.
    pub async fn tell(&self, message: M) -> Result<(), Gone<M>> {
        self.inbox
            .send(message)
            .await
            .map_err(|error| Gone(error.into_inner()))
    }

    /// Puts a message into the inbox if there is room now.
    ///
    /// # Errors
    /// [`TellError`] with the message.
    pub fn try_tell(&self, message: M) -> Result<(), TellError<M>> {
        self.inbox.try_send(message).map_err(tell_error)
    }

    /// Puts a message into the priority inbox, waiting for room.
    ///
    /// # Errors
    /// [`Gone`] with the message when the actor has stopped.
    pub async fn tell_first(&self, message: M) -> Result<(), Gone<M>> {
        self.priority
            .send(message)
            .await
            .map_err(|error| Gone(error.into_inner()))
    }

    /// Puts a message into the priority inbox if there is room now.
    ///
    /// # Errors
    /// [`TellError`] with the message.
    pub fn try_tell_first(&self, message: M) -> Result<(), TellError<M>> {
        self.priority.try_send(message).map_err(tell_error)
    }

    /// Sends a question and waits for its answer.
    ///
    /// # Errors
    /// [`AskError`] when there will be none.
    pub async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> M) -> Result<T, AskError> {
        let (reply, pending) = Reply::new();
        self.tell(question(reply))
            .await
            .map_err(|_| AskError::Gone)?;
        pending.wait().await.map_err(|Dropped| AskError::Dropped)
    }

    /// The same through the priority inbox.
    ///
    /// # Errors
    /// [`AskError`] when there will be no answer.
    pub async fn ask_first<T>(&self, question: impl FnOnce(Reply<T>) -> M) -> Result<T, AskError> {
        let (reply, pending) = Reply::new();
        self.tell_first(question(reply))
            .await
            .map_err(|_| AskError::Gone)?;
        pending.wait().await.map_err(|Dropped| AskError::Dropped)
    }

    /// Whether the actor has stopped.
    pub fn is_gone(&self) -> bool {
        self.inbox.is_closed()
    }
}

fn tell_error<M>(error: TrySendError<M>) -> TellError<M> {
    match error {
        TrySendError::Full(message) => TellError::Full(message),
        TrySendError::Closed(message) => TellError::Gone(message),
    }
}
