//! Bytes per second, shared by many who read.
//!
//! ```text
//!   Share: wants to read ──► line: 7 ─ 9 ─ 12 ─ …      one ticket each, first come, first served
//!                                  │ first, and nothing owed
//!                                  ▼
//!                            reads one turn's worth ──► what it read is owed: paid off by time
//!                                  │
//!                                  └─► the next in line; with more to read, at the end of it again
//! ```
//!
//! Whoever is first reads at most [`TURN`] (less where the rate is low), so those who have something
//! to read go round in circles, and each of them gets the same. Whoever finds nothing to read leaves
//! the line at once. What has been read is owed, as a time: nobody reads while something is owed. A
//! clock that wakes late loses nothing, because up to [`BURST`] of time that nobody used counts; and
//! the first in line sleeps a little past the debt ([`PAUSE`]), so that a high rate costs a hundred
//! wakings a second and not one for each turn.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use crate::runtime::{BoxFuture, Clock, Time};

/// Most bytes of one turn: what fits into one TLS record.
pub const TURN: usize = 16 * 1024;
/// A turn lasts no longer than this, so that a low rate does not make others wait for a whole record
/// of each.
const TURN_TIME: Duration = Duration::from_millis(50);
/// So much time that nobody used is made up for.
const BURST: Duration = Duration::from_millis(50);
/// How long the first in line sleeps beyond what is owed.
const PAUSE: Duration = Duration::from_millis(10);
const NANOS: u128 = 1_000_000_000;

/// One direction; see the module's head.
pub(super) struct Bucket {
    clock: Arc<dyn Clock>,
    /// Bytes per second; 0 for no limit. Written with the line locked.
    rate: AtomicU64,
    line: Mutex<Line>,
}

#[derive(Default)]
struct Line {
    /// When all that was read is paid off.
    paid: Time,
    next: u64,
    /// Who waits, by ticket; at most one for each direction of a relay.
    waiting: BTreeMap<u64, Option<Waker>>,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// Without a limit.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Bucket {
            clock,
            rate: AtomicU64::new(0),
            line: Mutex::default(),
        })
    }

    /// The line is whole after each of its changes, whatever panicked.
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit.
    pub(super) fn rate(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.rate.load(Ordering::Relaxed))
    }

    /// Sets the limit. Whoever waits looks again.
    pub(super) fn set(&self, rate: Option<NonZeroU64>) {
        let mut line = self.line();
        let new = rate.map_or(0, NonZeroU64::get);
        if self.rate.swap(new, Ordering::Relaxed) == new {
            return;
        }
        // What was read under the old limit is not owed for longer than one turn.
        line.paid = line.paid.min(self.clock.now().saturating_add(TURN_TIME));
        let wakers: Vec<Waker> = line.waiting.values_mut().filter_map(Option::take).collect();
        drop(line);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Somebody leaves the line, having read so much.
    fn leave(&self, ticket: u64, bytes: usize) {
        let mut line = self.line();
        line.waiting.remove(&ticket);
        if let Some(rate) = self.rate().filter(|_| bytes > 0) {
            let unused = self.clock.now().saturating_sub(BURST);
            line.paid = line.paid.max(unused).saturating_add(time_for(bytes, rate));
        }
        let next = line.waiting.first_entry();
        let next = next.and_then(|mut entry| entry.get_mut().take());
        drop(line);
        next.into_iter().for_each(Waker::wake);
    }
}

/// How long these bytes take, rounded up.
fn time_for(bytes: usize, rate: NonZeroU64) -> Duration {
    let nanos = (bytes as u128 * NANOS).div_ceil(u128::from(rate.get()));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How much one turn reads at this rate.
fn turn(rate: NonZeroU64) -> usize {
    let bytes = u128::from(rate.get()) * TURN_TIME.as_nanos() / NANOS;
    usize::try_from(bytes).unwrap_or(usize::MAX).clamp(1, TURN)
}

/// One reader's part in a direction's bytes per second. Dropping it gives its place in the line up.
#[derive(Default)]
pub struct Share {
    bucket: Option<Arc<Bucket>>,
    ticket: Option<u64>,
    pause: Option<(Time, BoxFuture<'static, ()>)>,
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share")
            .field("bucket", &self.bucket)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

impl Share {
    /// Of something that has no limit and never gets one.
    pub fn unlimited() -> Self {
        Share::default()
    }

    pub(super) fn of(bucket: &Arc<Bucket>) -> Self {
        Share {
            bucket: Some(bucket.clone()),
            ticket: None,
            pause: None,
        }
    }

    /// Waits for a turn, and gives how many bytes may be read now; `usize::MAX` without a limit. The
    /// reader reads at once, or finds that there is nothing, and says so with [`Share::spent`].
    pub fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        let Some(bucket) = &self.bucket else {
            return Poll::Ready(usize::MAX);
        };
        if self.ticket.is_none() && bucket.rate().is_none() {
            return Poll::Ready(usize::MAX);
        }
        let bucket = bucket.clone();
        loop {
            let until = {
                let mut line = bucket.line();
                let Some(rate) = bucket.rate() else {
                    // There was a limit when the line was joined.
                    drop(line);
                    self.spent(0);
                    return Poll::Ready(usize::MAX);
                };
                let ticket = *self.ticket.get_or_insert_with(|| {
                    line.next += 1;
                    line.next
                });
                let waker = Some(context.waker().clone());
                line.waiting.insert(ticket, waker);
                if line.waiting.first_key_value().map(|(first, _)| *first) != Some(ticket) {
                    self.pause = None;
                    return Poll::Pending;
                }
                if line.paid <= bucket.clock.now() {
                    self.pause = None;
                    return Poll::Ready(turn(rate));
                }
                line.paid.saturating_add(PAUSE)
            };
            if self.pause.as_ref().is_none_or(|(due, _)| *due != until) {
                self.pause = None;
            }
            let clock = &bucket.clock;
            let (_, pause) = self
                .pause
                .get_or_insert_with(|| (until, clock.sleep_until(until)));
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
    }

    /// The turn is over: so many bytes were read.
    pub fn spent(&mut self, bytes: usize) {
        if let (Some(ticket), Some(bucket)) = (self.ticket.take(), &self.bucket) {
            self.pause = None;
            bucket.leave(ticket, bytes);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.spent(0);
    }
}
