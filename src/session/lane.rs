//! What goes through one XML stream in bulk, by turns, beside its other stanzas.
//!
//! ```text
//!  in-band bytestream ─┐  queue                    one request of each, in turn
//!  in-band bytestream ─┼────────▶ Lane ─ poll_turn ─────────────────────▶ XML stream ──▶ peer
//!  in-band bytestream ─┘ ◀─────────────────────────── answered ───────────────┘
//! ```
//!
//! A [`Source`] queues itself when it has something to send; the XML stream takes its next request when it
//! has room and nothing better to say, and the source goes to the end of the queue if it has more. So
//! nothing waits in the lane but the sources themselves, each once, and no source waits for another
//! one's peer.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use minidom::Element;

use super::link::RequestError;

/// Which of its requests a source is told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// A block of so many bytes. Its answer may take for as long as the peer's reader does.
    Block(usize),
    /// The last one. Its answer takes no longer than any request's.
    Close,
}

/// Who has requests to send by turns.
pub trait Source: Send + Sync + 'static {
    /// It is this source's turn: its next request, if it has one now. Queues itself again if it has
    /// more.
    fn next(self: Arc<Self>) -> Option<(Element, Ticket)>;

    /// The peer answered, or the stream ended first.
    fn answered(self: Arc<Self>, ticket: Ticket, answer: Result<(), RequestError>);

    /// Whether no answer changes anything for it any more, now and for ever. It is so before its
    /// [`User`] is dropped, so that the XML stream can forget it then.
    fn is_over(&self) -> bool;
}

/// See the module's head.
#[derive(Default)]
pub struct Lane(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Arc<dyn Source>>,
    /// Whom to wake when one comes.
    waker: Option<Waker>,
    users: usize,
    /// Somebody has left since the last turn.
    left: bool,
    /// Offers of ours that stand no longer, by their SIDs, and of which the peer does not know it.
    taken_back: Vec<String>,
    /// The stream has ended; nobody's turn comes any more.
    ended: bool,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        f.debug_struct("Lane")
            .field("users", &inner.users)
            .field("waiting", &inner.waiting.len())
            .finish()
    }
}

/// Somebody for whom the stream must stay open, though nothing is said.
#[derive(Debug)]
pub struct User(Arc<Lane>);

impl Drop for User {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.users -= 1;
        inner.left = true;
        let waker = inner.waker.take();
        drop(inner);
        // A stream that nobody uses may be idle now.
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// An offer of ours that a person decides on at the other end: the stream stays open for it. When it is
/// dropped, the stream tells the peer that the offer does not stand any more.
#[derive(Debug)]
pub struct Standing {
    user: User,
    sid: Option<String>,
}

impl Standing {
    /// What was offered has come about: there is nothing to take back.
    pub fn over(mut self) {
        self.sid = None;
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        if let Some(sid) = self.sid.take() {
            let mut inner = self.user.0.lock();
            if !inner.ended && inner.taken_back.len() < MAX_TAKEN_BACK {
                inner.taken_back.push(sid);
            }
        }
        // The user leaves after this, which wakes the stream.
    }
}

/// Most offers whose end waits to be told. They are told before anything is sent in bulk, so there are
/// more only if somebody offers and takes back faster than the stream runs; those stand at the peer
/// until the stream ends.
const MAX_TAKEN_BACK: usize = 256;

impl Lane {
    /// Counts an offer in, by the SID it has.
    pub fn stand(self: &Arc<Self>, sid: String) -> Standing {
        Standing {
            user: self.enter(),
            sid: Some(sid),
        }
    }

    /// The offers whose end the peer is to be told.
    pub fn taken_back(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().taken_back)
    }

    /// Counts somebody in until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> User {
        self.lock().users += 1;
        User(self.clone())
    }

    /// For how many the stream must stay open.
    pub fn users(&self) -> usize {
        self.lock().users
    }

    /// Puts a source at the end. It sees to it that it is there once only.
    pub fn queue(&self, source: Arc<dyn Source>) {
        let mut inner = self.lock();
        if inner.ended {
            // Not while the lane is locked: the source may be a user of it.
            drop(inner);
            drop(source);
            return;
        }
        inner.waiting.push_back(source);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The stream has ended: who waits, waits no longer.
    pub fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
    }

    /// Whose turn it is, or `None` when somebody has left; pending while there is nothing to be done.
    /// Nothing is lost when the caller gives up while it is pending.
    pub fn poll_turn(&self, context: &mut Context<'_>) -> Poll<Option<Arc<dyn Source>>> {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.left) {
            return Poll::Ready(None);
        }
        if let Some(source) = inner.waiting.pop_front() {
            return Poll::Ready(Some(source));
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Every change is one step, so the queue stays valid whatever panicked while it was locked.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
