//! In-band bytestreams (XEP-0047): blocks inside the XML stream, for when no connection of its own can
//! be made.
//!
//! ```text
//!  relay ◄─► TLS ◄─► Carrier ◄─► Stream ◄──── take, closed ───── XML stream ◄── <data/>, <close/>
//!                               (a ring     ──── queue ──▶ Lane ──▶      │
//!                                each way)  ◄── next, answered ──────────┴───▶ <data/>, <close/>
//! ```
//!
//! The [`Stream`] is what both sides share: the carrier reads and writes its rings, the XML stream fills
//! the one and takes blocks from the other. Neither ever waits for the other: a block that has no room yet
//! is simply not answered. There is no task here. What one end knows, and its bounds, is in [`state`].
//!
//! In-band bytestreams know no half-close. Between two Pneumas TLS says that a direction has ended, and the
//! carrier stays until both have. In plaintext the first end is the end: what was written before it, on
//! either side, still arrives; what would have been written afterwards fails.
//!
//! An entry on the [`Shelf`] lives from the `<open/>` until both ends know of the end, or the XML stream is
//! gone; so does its place among those that may be open.

use std::{
    collections::{HashMap, VecDeque},
    io::ErrorKind,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Waker,
};

use minidom::Element;

use super::{Answer, Key, Place, refuse};
use crate::{
    session::{
        lane::{Lane, Source, Ticket, User},
        link::{RequestError, StanzaError},
    },
    xmpp::{
        Condition, ErrorKind as StanzaKind,
        payload::ibb::{self, Data},
    },
};

mod carrier;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod state;

pub(super) use carrier::Carrier;
pub use state::Limits;
use state::{Closed, Next, Refusal, State, Taken};
#[cfg(test)]
pub(super) use state::{MOST, OUT, ROOM, WINDOW_BYTES};

/// The smallest block we ask for: a peer that takes none as large takes nothing.
pub(super) const SMALLEST_BLOCK: u16 = 256;
/// The block that we ask peers for that are no Pneuma: what XEP-0047 recommends.
pub(super) const USUAL_BLOCK: u16 = 4096;

/// The in-band bytestreams of one account, by XML stream and SID.
#[derive(Default)]
pub(super) struct Shelf(Mutex<HashMap<Key, Arc<Stream>>>);

impl Shelf {
    pub(super) fn get(&self, key: &Key) -> Option<Arc<Stream>> {
        self.lock().get(key).cloned()
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.lock().contains_key(key)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The link's XML stream has ended.
    pub(super) fn link_ended(&self, link: super::Stream) {
        let of_it = |key: &Key| key.0 == link;
        let ended: Vec<Arc<Stream>> = self
            .lock()
            .iter()
            .filter(|(key, _)| of_it(key))
            .map(|(_, stream)| stream.clone())
            .collect();
        for stream in ended {
            stream.lost();
        }
    }

    /// Every change is one insertion or removal, so the map stays valid whatever panicked.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Stream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One bytestream, as the carrier and the XML stream share it.
pub(super) struct Stream {
    me: Weak<Stream>,
    key: Key,
    lane: Arc<Lane>,
    shelf: Weak<Shelf>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// Where the blocks are answered that the state says are not, the oldest first.
    answers: VecDeque<Answer>,
    /// Where the peer's `<close/>` is answered.
    closing: Option<Answer>,
    /// It waits in the lane.
    queued: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Given back when it is over.
    place: Option<(Place, User)>,
}

impl Inner {
    fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn wake(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }
}

/// Puts a new bytestream on the shelf; `None` when its SID is taken.
pub(super) fn open(
    shelf: &Arc<Shelf>,
    key: Key,
    lane: Arc<Lane>,
    place: Place,
    (block, window): (u16, usize),
    secured: bool,
) -> Option<Carrier> {
    use std::collections::hash_map::Entry;
    let mut shelved = shelf.lock();
    let Entry::Vacant(entry) = shelved.entry(key.clone()) else {
        return None;
    };
    let user = lane.enter();
    let stream = Arc::new_cyclic(|me| Stream {
        me: me.clone(),
        key,
        lane,
        shelf: Arc::downgrade(shelf),
        inner: Mutex::new(Inner {
            state: State::new(block, window, secured),
            answers: VecDeque::new(),
            closing: None,
            queued: false,
            reader: None,
            writer: None,
            place: Some((place, user)),
        }),
    });
    entry.insert(stream.clone());
    Some(Carrier::new(stream))
}

fn well(answer: Answer) {
    // When nobody waits for the answer any more, the XML stream is gone.
    answer.send(Ok(None)).ok();
}

fn error(condition: Condition, text: &str) -> StanzaError {
    StanzaError {
        kind: StanzaKind::Cancel,
        condition,
        text: Some(text.to_owned()),
    }
}

impl Stream {
    /// The state may be half-way only if its own code panicked; the bytes are then not to be
    /// trusted, which TLS above would notice.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what follows from a change of the state.
    fn settle(&self, mut inner: MutexGuard<'_, Inner>) {
        let acknowledged = inner.state.acknowledged().min(inner.answers.len());
        inner.answers.drain(..acknowledged).for_each(well);
        if inner.state.is_over() {
            if let Some(closing) = inner.closing.take() {
                well(closing);
            }
            let gone = (
                inner.place.take(),
                self.shelf.upgrade().and_then(|shelf| shelf.remove(self)),
            );
            inner.wake();
            drop(inner);
            drop(gone);
            return;
        }
        if inner.state.has_next()
            && !inner.queued
            && let Some(me) = self.me.upgrade()
        {
            inner.queued = true;
            drop(inner);
            self.lane.queue(me);
        }
    }

    /// The peer has agreed to blocks of this size.
    pub(super) fn set_block(&self, block: u16) {
        self.lock().state.set_block(block);
    }

    /// A `<data/>` of the peer's.
    pub(super) fn data(&self, payload: &Element, answer: Answer) {
        let data = Data::parse(payload);
        let mut inner = self.lock();
        let refused = match data {
            Ok(data) => match inner.state.take(data.seq, &data.bytes) {
                Ok(Taken::Now) => {
                    well(answer);
                    inner.wake_reader();
                    return self.settle(inner);
                }
                Ok(Taken::Later) => {
                    inner.answers.push_back(answer);
                    inner.wake_reader();
                    return self.settle(inner);
                }
                Err(Refusal::Number) => {
                    error(Condition::UnexpectedRequest, "a block out of its order")
                }
                Err(Refusal::Size) => {
                    error(Condition::BadRequest, "a block larger than was agreed")
                }
                Err(Refusal::Room) => error(
                    Condition::ResourceConstraint,
                    "blocks that do not wait for the results of others",
                ),
            },
            Err(malformed) => {
                inner.state.fail(ErrorKind::InvalidData);
                error(Condition::BadRequest, malformed.0)
            }
        };
        inner.wake();
        self.settle(inner);
        refuse(answer, refused);
    }

    /// A `<close/>` of the peer's.
    pub(super) fn closed(&self, payload: &Element, answer: Answer) {
        let mut inner = self.lock();
        // A second one takes the place of the first, which is answered.
        let answered = match inner.state.closed(ibb::is_reset(payload)) {
            Closed::Later => inner.closing.replace(answer),
            Closed::Now => Some(answer),
        };
        if let Some(answer) = answered {
            well(answer);
        }
        inner.wake();
        self.settle(inner);
    }

    /// The XML stream has ended.
    pub(super) fn lost(&self) {
        let mut inner = self.lock();
        inner.state.lost();
        inner.wake();
        self.settle(inner);
    }
}

impl Shelf {
    fn remove(&self, stream: &Stream) -> Option<Arc<Stream>> {
        let mut shelved = self.lock();
        let it = shelved.get(&stream.key)?;
        if !std::ptr::eq(Arc::as_ptr(it), stream) {
            return None;
        }
        shelved.remove(&stream.key)
    }
}

impl Source for Stream {
    fn next(self: Arc<Self>) -> Option<(Element, Ticket)> {
        let mut inner = self.lock();
        inner.queued = false;
        let next = inner.state.next();
        inner.wake_writer();
        self.settle(inner);
        let sid = &self.key.1;
        Some(match next? {
            Next::Block { seq, bytes } => (ibb::data(sid, seq, &bytes), Ticket::Block(bytes.len())),
            Next::Close { reset } => (ibb::close(sid, reset), Ticket::Close),
        })
    }

    fn answered(self: Arc<Self>, ticket: Ticket, answer: Result<(), RequestError>) {
        let mut inner = self.lock();
        match answer {
            Err(RequestError::Gone) => inner.state.lost(),
            answer => inner.state.answered(ticket, answer.is_ok()),
        }
        // A block that is acknowledged gives a turn to others, and nobody anything to read or room to
        // write.
        if inner.state.is_broken() {
            inner.wake();
        }
        self.settle(inner);
    }

    fn is_over(&self) -> bool {
        self.lock().state.is_over()
    }
}
