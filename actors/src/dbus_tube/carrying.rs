//! The messages of a D-Bus tube on their way between one application at a time and one bytestream.
//!
//! ```text
//!   application ──read──► [ held until it is whole ] ──write──► contact
//!               ◄──write── [ queue, QUEUE bytes ] ◄──read──
//! ```
//!
//! Which application that is, whether it has begun, and whether it still takes anything: `seat` has these states.
//!
//! # To the contact
//! Not a byte of a message is written before all of it is there, so an application that dies half way
//! leaves no half message in the stream; the one after it begins with a whole one. One that stops within a
//! message for [`FINISH_WITHIN`] is cut off, as others may wait for its place. While messages are
//! written nothing more is read: the application's socket fills, and that is the back-pressure. So there
//! are held at most one message ([`MAX_MESSAGE`](super::splitter::MAX_MESSAGE)) and one read; a
//! buffer grows only as bytes come.
//!
//! # To the application
//! Messages are handed over as they come, in pieces too. With nobody there, and while an application does
//! not read, [`QUEUE`] bytes wait here, then the bytestream is not read any more: the contact's program
//! feels it as it would feel a slow application. Of a message that an application took half of, the rest
//! is thrown away.
//!
//! # The ends
//! | what happens | what follows |
//! | --- | --- |
//! | the application closes, or breaks | what it wrote whole is written; the next one may come |
//! | the application writes what is no message | it is cut off; the next one may come |
//! | the contact closes between two messages | what waits is handed over within [`HAND_OVER_WITHIN`]; `Closed` |
//! | the contact closes within a message, or takes nothing any more | the same; `Lost` |
//! | the bytestream cannot be read any more | `Lost` |
//! | the contact sends what is no message | `Malformed` |
//!
//! What waits at the end is for whoever is there, or begins in that time if nobody ever was: a contact may
//! be done before our application has come. An application that has gone takes it with it. What applications
//! write meanwhile goes to the contact if it still reads, and otherwise nowhere.

mod seat;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_channel::Receiver;

use super::{
    handshake::Guid,
    splitter::{Malformed, Splitter},
};
use crate::{
    limits::{Limits, Share},
    model::AccessControl,
    relay::{CHUNK, Wire},
    runtime::{BoxFuture, Clock, Failure, FaultPoint, Faults},
    supervisor::AcceptedSocket,
};
use seat::{Greeted, Seat};

/// Most bytes from the contact that wait for an application.
pub const QUEUE: usize = 1024 * 1024;
/// How long an application may take to begin. Nobody else is let in meanwhile.
pub const GREET_WITHIN: Duration = Duration::from_secs(10);
/// How long an application may write nothing when it has begun a message.
pub const FINISH_WITHIN: Duration = Duration::from_secs(60);
/// How long an application may take to read what the contact wrote before it closed the tube.
pub const HAND_OVER_WITHIN: Duration = Duration::from_secs(10);

/// Most bytes that are read at once.
const READ: usize = 64 * 1024;
/// How many times it reads and writes before it lets others run.
const TURNS: usize = 4;
/// Why it ends then, which cannot be: they are split alike both times.
const REFUSED_LATE: &str =
    "the queue holds bytes the splitter refuses, although it took them on arrival";

/// Why messages stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The contact closed the tube, after a whole message.
    Closed,
    /// The connection to the contact broke.
    Lost(String),
    /// The contact sent what may not go through a tube.
    Malformed(Malformed),
}

/// What went through a tube so far, readable at any time.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    connected: AtomicBool,
}

impl Traffic {
    /// Bytes that went to the contact.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of the contact's that an application took.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether an application is there that has begun.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// How applications are let in.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// The address's.
    pub guid: Guid,
    /// What the socket demanded before an application came here.
    pub access: AccessControl,
}

/// See the module's head.
pub struct Carrying {
    door: Door,
    coming: Pin<Box<Receiver<AcceptedSocket>>>,
    seat: Seat,
    /// An application has been there that had begun.
    was_used: bool,
    scratch: Box<[u8]>,
    outgoing: Outgoing,
    incoming: Incoming,
    traffic: Arc<Traffic>,
    clock: Arc<dyn Clock>,
    faults: Faults,
}

struct Outgoing {
    bytes: Vec<u8>,
    /// So many of them are whole messages.
    whole: usize,
    /// So many of them have been put on the wire.
    taken: usize,
    splitter: Splitter,
    share: Share,
    /// The contact takes nothing any more: what is written goes nowhere.
    unheard: bool,
}

struct Incoming {
    queue: VecDeque<u8>,
    arriving: Splitter,
    leaving: Splitter,
    /// The rest of the message in front is nobody's.
    dropping: bool,
    /// No more comes, and until when somebody may take what is there.
    ended: Option<(End, BoxFuture<'static, ()>)>,
    share: Share,
}

/// What came of looking after the contact.
enum Step {
    /// Nothing moved.
    Idle,
    /// Something did.
    Moved,
    /// It is over.
    Ended(End),
}

/// Who had nothing more to read since we were woken, and wakes us for what comes: to ask again before that is a
/// system call for nothing.
#[derive(Default)]
struct Quiet {
    application: bool,
    contact: bool,
}

impl Carrying {
    /// For the applications that come from there, one after the other.
    pub fn new(
        door: Door,
        coming: Receiver<AcceptedSocket>,
        limits: &Limits,
        traffic: Arc<Traffic>,
        clock: Arc<dyn Clock>,
        faults: Faults,
    ) -> Self {
        Carrying {
            door,
            coming: Box::pin(coming),
            seat: Seat::Empty,
            was_used: false,
            scratch: vec![0; READ].into(),
            outgoing: Outgoing {
                bytes: Vec::new(),
                whole: 0,
                taken: 0,
                splitter: Splitter::default(),
                share: limits.sending(),
                unheard: false,
            },
            incoming: Incoming {
                queue: VecDeque::new(),
                arriving: Splitter::default(),
                leaving: Splitter::default(),
                dropping: false,
                ended: None,
                share: limits.receiving(),
            },
            traffic,
            clock,
            faults,
        }
    }

    /// Moves what can be moved now.
    pub(crate) fn poll(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Poll<Result<End, Failure>> {
        let ended = self.try_poll(wire, context).transpose();
        ended.map_or(Poll::Pending, Poll::Ready)
    }

    fn try_poll(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Result<Option<End>, Failure> {
        let mut quiet = Quiet::default();
        for _ in 0..TURNS {
            let coming = self.coming.as_mut();
            let clock = &*self.clock;
            let mut moved = self.seat.seat_somebody(coming, &self.door, clock, context);
            moved |= self.greet(context);
            if moved {
                quiet.application = false;
            }
            moved |= self.send(wire, context, &mut quiet)?;
            match self.receive(wire, context, &mut quiet)? {
                Step::Ended(end) => return Ok(Some(end)),
                Step::Idle if !moved => return Ok(None),
                Step::Idle | Step::Moved => {}
            }
        }
        context.waker().wake_by_ref();
        Ok(None)
    }

    /// Whoever is there goes.
    pub(crate) fn leave(&mut self) {
        self.dismiss();
    }

    /// Writes what is whole, and takes no more.
    pub(crate) fn poll_finish(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            std::task::ready!(wire.poll_empty(context))?;
            if !self.put(wire) {
                return wire.poll_flush(context);
            }
        }
    }

    /// Nobody is there any more. What was not whole never was.
    fn dismiss(&mut self) {
        self.seat = Seat::Empty;
        self.traffic.connected.store(false, Ordering::Relaxed);
        self.outgoing.bytes.truncate(self.outgoing.whole);
        self.outgoing.splitter = Splitter::default();
        self.incoming.dropping = !self.incoming.leaving.is_between();
    }

    /// Goes on with whoever has not begun. Whether anything moved.
    fn greet(&mut self, context: &mut Context<'_>) -> bool {
        match self.seat.greet(&mut self.scratch, context) {
            Greeted::Idle => return false,
            Greeted::Moved => {}
            Greeted::Wrote(range) => self.hold(range),
            Greeted::Begun => {
                self.was_used = true;
                self.traffic.connected.store(true, Ordering::Relaxed);
            }
            Greeted::Failed => self.dismiss(),
        }
        true
    }

    /// Takes bytes that an application wrote, which lie in the scratch buffer.
    fn hold(&mut self, range: std::ops::Range<usize>) {
        let outgoing = &mut self.outgoing;
        if outgoing.unheard {
            return;
        }
        let mut place = outgoing.bytes.len();
        outgoing.bytes.extend_from_slice(&self.scratch[range]);
        while place < outgoing.bytes.len() {
            match outgoing.splitter.feed(&outgoing.bytes[place..]) {
                Ok(taken) => place += taken,
                Err(why) => {
                    tracing::info!(%why, "an application is cut off: it wrote what no tube carries");
                    self.dismiss();
                    return;
                }
            }
            if outgoing.splitter.is_between() {
                outgoing.whole = place;
            }
        }
    }

    /// Puts what is whole on the wire, which is empty. Whether there was anything.
    fn put(&mut self, wire: &mut Wire) -> bool {
        let outgoing = &mut self.outgoing;
        let count = (outgoing.whole - outgoing.taken).min(CHUNK);
        if count == 0 {
            return false;
        }
        let bytes = &outgoing.bytes[outgoing.taken..outgoing.taken + count];
        wire.room()[..count].copy_from_slice(bytes);
        wire.filled(count);
        outgoing.taken += count;
        self.traffic.sent.fetch_add(count as u64, Ordering::Relaxed);
        if outgoing.taken == outgoing.whole {
            outgoing.bytes.drain(..outgoing.whole);
            (outgoing.taken, outgoing.whole) = (0, 0);
            if outgoing.bytes.is_empty() && outgoing.bytes.capacity() > CHUNK {
                // A large one is rare.
                outgoing.bytes = Vec::new();
            }
        }
        true
    }

    /// Writes what is on the wire; then reads, unless whole messages are left; and writes what is whole.
    /// Whether anything moved.
    fn send(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
        quiet: &mut Quiet,
    ) -> Result<bool, Failure> {
        if !self.outgoing.unheard {
            if !wire.is_empty() {
                self.faults.hit(FaultPoint::FlowWrite)?;
            }
            match wire.poll_empty(context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.is_unheard(&error),
            }
        }
        let nothing_left = self.outgoing.taken == self.outgoing.whole;
        let mut moved = nothing_left && self.read_application(context, quiet)?;
        if self.outgoing.unheard {
            return Ok(moved);
        }
        let written = if self.put(wire) {
            moved = true;
            self.faults.hit(FaultPoint::FlowWrite)?;
            wire.poll_empty(context)
        } else if moved {
            // More may follow at once.
            Poll::Pending
        } else {
            wire.poll_flush(context)
        };
        if let Poll::Ready(Err(error)) = written {
            self.is_unheard(&error);
            moved = true;
        }
        Ok(moved)
    }

    /// Reads from the application that is there. Whether anything moved.
    fn read_application(
        &mut self,
        context: &mut Context<'_>,
        quiet: &mut Quiet,
    ) -> Result<bool, Failure> {
        let Seat::Talking { guest, unfinished } = &mut self.seat else {
            return Ok(false);
        };
        if quiet.application {
            return Ok(false);
        }
        let share = &mut self.outgoing.share;
        let Poll::Ready(turn) = share.poll_turn(context) else {
            return Ok(false);
        };
        self.faults.hit(FaultPoint::FlowRead)?;
        let room = &mut self.scratch[..turn.min(READ)];
        let read = guest.poll_read(context, room);
        share.spent(match read {
            Poll::Ready(count) => count,
            Poll::Pending => 0,
        });
        let half = self.outgoing.bytes.len() > self.outgoing.whole;
        let too_slow = unfinished.is_too_slow(read.is_pending() && half, &*self.clock, context);
        match read {
            Poll::Ready(0) => self.dismiss(),
            Poll::Ready(count) => self.hold(0..count),
            Poll::Pending if too_slow => {
                tracing::debug!("an application did not finish a message in time");
                self.dismiss();
            }
            Poll::Pending => {
                quiet.application = true;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The contact takes nothing any more. What it said before may still be there to be read.
    fn is_unheard(&mut self, error: &io::Error) {
        tracing::debug!(%error, "the contact of a D-Bus tube takes nothing any more");
        let outgoing = &mut self.outgoing;
        outgoing.unheard = true;
        outgoing.bytes = Vec::new();
        (outgoing.taken, outgoing.whole) = (0, 0);
    }

    /// Hands over what waits; then reads, unless it has ended.
    fn receive(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
        quiet: &mut Quiet,
    ) -> Result<Step, Failure> {
        let moved = self.hand_over(context)?;
        let step = match self.end_when_handed_over(context) {
            Some(step) => step,
            None => self.read_contact(wire, context, quiet)?,
        };
        Ok(match step {
            Step::Idle if moved => Step::Moved,
            step => step,
        })
    }

    /// Ends, once nothing waits, nobody will take it, or the time for it is over. Nothing if the contact is
    /// still to be read.
    fn end_when_handed_over(&mut self, context: &mut Context<'_>) -> Option<Step> {
        let incoming = &mut self.incoming;
        let (end, patience) = incoming.ended.as_mut()?;
        let over = incoming.queue.is_empty() || self.seat.takes_no_more(self.was_used);
        if over || patience.as_mut().poll(context).is_ready() {
            return Some(Step::Ended(end.clone()));
        }
        Some(Step::Idle)
    }

    /// Reads from the contact, if there is room.
    fn read_contact(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
        quiet: &mut Quiet,
    ) -> Result<Step, Failure> {
        let incoming = &mut self.incoming;
        let room = QUEUE.saturating_sub(incoming.queue.len()).min(READ);
        let unheard = self.outgoing.unheard;
        if room == 0 || (quiet.contact && !unheard) {
            if !unheard {
                return Ok(Step::Idle);
            }
            // More is not read: it might never end.
            incoming.ended = Some((gone(), self.clock.sleep(HAND_OVER_WITHIN)));
            return Ok(Step::Moved);
        }
        let Poll::Ready(turn) = incoming.share.poll_turn(context) else {
            return Ok(Step::Idle);
        };
        self.faults.hit(FaultPoint::FlowRead)?;
        let scratch = &mut self.scratch[..room.min(turn)];
        let read = wire.poll_read(context, scratch);
        incoming.share.spent(match &read {
            Poll::Ready(Ok(count)) => *count,
            _ => 0,
        });
        let end = match read {
            Poll::Pending if unheard => gone(),
            Poll::Pending => {
                quiet.contact = true;
                return Ok(Step::Idle);
            }
            Poll::Ready(Ok(0)) if incoming.arriving.is_between() => End::Closed,
            Poll::Ready(Ok(0)) => End::Lost("the contact closed it within a message".into()),
            Poll::Ready(Ok(count)) => {
                let mut rest = &scratch[..count];
                while !rest.is_empty() {
                    match incoming.arriving.feed(rest) {
                        Ok(taken) => rest = &rest[taken..],
                        Err(why) => return Ok(Step::Ended(End::Malformed(why))),
                    }
                }
                incoming.queue.extend(&scratch[..count]);
                return Ok(Step::Moved);
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "a D-Bus tube's bytestream broke");
                return Ok(Step::Ended(gone()));
            }
        };
        incoming.ended = Some((end, self.clock.sleep(HAND_OVER_WITHIN)));
        Ok(Step::Moved)
    }

    /// Writes to the application what waits for one. Whether anything moved.
    fn hand_over(&mut self, context: &mut Context<'_>) -> Result<bool, Failure> {
        let incoming = &mut self.incoming;
        let mut moved = false;
        while !incoming.queue.is_empty() {
            let front = incoming.queue.as_slices().0;
            if incoming.dropping {
                let Ok(taken) = incoming.leaving.feed(front) else {
                    return Err(Failure::Failed(REFUSED_LATE.into()));
                };
                incoming.queue.drain(..taken);
                incoming.dropping = !incoming.leaving.is_between();
                moved = true;
                continue;
            }
            let Some(guest) = self.seat.listener() else {
                break;
            };
            self.faults.hit(FaultPoint::FlowWrite)?;
            let Poll::Ready(written) = guest.poll_write(context, front) else {
                break;
            };
            moved = true;
            if written == 0 {
                // What it wrote before it went is still there to be read.
                incoming.dropping = !incoming.leaving.is_between();
                break;
            }
            let mut rest = &front[..written];
            while !rest.is_empty() {
                let Ok(taken) = incoming.leaving.feed(rest) else {
                    return Err(Failure::Failed(REFUSED_LATE.into()));
                };
                rest = &rest[taken..];
            }
            incoming.queue.drain(..written);
            let total = &self.traffic.received;
            total.fetch_add(written as u64, Ordering::Relaxed);
        }
        if incoming.queue.is_empty() && incoming.queue.capacity() > CHUNK {
            incoming.queue = VecDeque::new();
        }
        Ok(moved)
    }
}

fn gone() -> End {
    End::Lost("the connection to the contact is lost".into())
}

#[cfg(feature = "testing")]
pub mod fuzzing;
#[cfg(test)]
mod tests;
