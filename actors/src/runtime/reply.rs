//! The one answer to one question. A reply dropped unanswered becomes [`Dropped`], never a hang.

/// Whoever was asked went away without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request was dropped unanswered")]
pub struct Dropped;

/// The answering half: travels inside a message.
#[derive(Debug)]
pub struct Reply<T>(async_channel::Sender<T>);

/// The asking half.
#[derive(Debug)]
pub struct Pending<T>(async_channel::Receiver<T>);

impl<T> Reply<T> {
    /// A reply and the place where its answer arrives.
    pub fn new() -> (Reply<T>, Pending<T>) {
        let (sender, receiver) = async_channel::bounded(1);
        (Reply(sender), Pending(receiver))
    }

    /// Answers. If nobody waits any more the answer comes back, so that what it owns can be
    /// taken care of.
    ///
    /// # Errors
    /// The answer itself.
    pub fn send(self, answer: T) -> Result<(), T> {
        self.0.try_send(answer).map_err(|error| error.into_inner())
    }

    /// Answers. An answer nobody waits for any more is dropped; use [`Reply::send`] where it owns
    /// something that must be taken care of.
    pub fn answer(self, answer: T) {
        drop(self.0.try_send(answer).err());
    }

    /// Whether somebody still waits.
    pub fn is_wanted(&self) -> bool {
        !self.0.is_closed()
    }
}

impl<T> Pending<T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Dropped`] when the reply was dropped unanswered.
    pub async fn wait(self) -> Result<T, Dropped> {
        self.0.recv().await.map_err(|_| Dropped)
    }

    /// The answer, or that there will be none, if that is known now. It is given once.
    pub fn now(&mut self) -> Option<Result<T, Dropped>> {
        match self.0.try_recv() {
            Ok(answer) => Some(Ok(answer)),
            Err(async_channel::TryRecvError::Closed) => Some(Err(Dropped)),
            Err(async_channel::TryRecvError::Empty) => None,
        }
    }

    /// Waits until it is answered or dropped, whichever it is; the answer is thrown away.
    /// Cancel-safe.
    pub async fn ready(&mut self) {
        drop(self.0.recv().await.ok());
    }
}
