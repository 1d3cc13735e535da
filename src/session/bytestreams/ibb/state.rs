//! What one end of an in-band bytestream knows. Pure: no lock, no waker, no stanza.
//!
//! ```text
//!            ┌── dropped, closed in plaintext, something broke ──▶ Wanted ── sent ──▶ Sent ──┐ answered
//!  our end: Open                                                     │                       ├─▶ Over
//!            └── the peer's <close/>, once what waits is sent ───────┴── its <close/> ───────┘
//! ```
//!
//! A block's bytes are acknowledged, by the iq's result, when they lie within [`ROOM`] bytes of what has been
//! read: so a reader that stalls stops the writer at the other end, whose blocks stay unanswered. What may
//! be unanswered at once is the sender's choice; ours is [`Limits::window`] blocks.
//!
//! | bound | what happens there |
//! | --- | --- |
//! | [`ROOM`] bytes not read | blocks are not answered until the reader goes on |
//! | [`MOST`] bytes not read, or [`MOST_BLOCKS`] blocks not answered | this bytestream is closed: the peer does not wait for results |
//! | [`OUT`] bytes not sent | the writer waits |
//! | [`Limits::window`] blocks, [`WINDOW_BYTES`] not answered | nothing more is sent |
//!
//! What is given up gives its memory back too, not only its bytes: an end may stay for a while after that.

use std::{collections::VecDeque, io::ErrorKind};

use crate::session::lane::Ticket;

/// Bytes that may wait for our reader before blocks stay unanswered.
pub(in super::super) const ROOM: usize = 64 * 1024;
/// Bytes that may wait for our reader at all.
pub(in super::super) const MOST: usize = 256 * 1024;
/// Blocks that may wait for their answer.
pub(in super::super) const MOST_BLOCKS: usize = 64;
/// Bytes that may wait for their turn.
pub(in super::super) const OUT: usize = 64 * 1024;
/// Bytes that may be sent and not acknowledged.
pub(in super::super) const WINDOW_BYTES: usize = 128 * 1024;

/// What may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most bytes of a block that we send or take; XEP-0047 allows 65535. A block is what others
    /// on the same XML stream wait for.
    pub block: u16,
    /// Most blocks that may be sent and not acknowledged. 1: one block a round trip.
    pub window: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            block: 16 * 1024,
            window: 16,
        }
    }
}

/// Why a block of the peer's cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its number is not the next one.
    Number,
    /// It is larger than agreed.
    Size,
    /// There is no room: its sender does not wait for results.
    Room,
}

/// What becomes of a block that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is acknowledged now.
    Now,
    /// It is acknowledged when [`State::acknowledged`] says so.
    Later,
}

/// Our end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    Wanted { reset: bool },
    Sent,
    Over,
}

/// The peer's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theirs {
    Open,
    Ended,
    Reset,
}

/// What to send next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Block { seq: u16, bytes: Vec<u8> },
    Close { reset: bool },
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    End,
    Broken(ErrorKind),
    Nothing,
}

/// What becomes of the peer's `<close/>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It is answered now.
    Now,
    /// It is answered when [`State::is_over`]: what was written here goes first.
    Later,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct State {
    block: usize,
    window: usize,
    /// TLS lies above and says by itself when one direction has ended.
    secured: bool,
    /// The carrier is there.
    held: bool,
    out: VecDeque<u8>,
    flushing: bool,
    next_out: u16,
    flying: usize,
    flying_bytes: usize,
    ring: VecDeque<u8>,
    next_in: u16,
    /// All bytes that came so far.
    came: u64,
    /// Where blocks that are not acknowledged end, among all bytes that came.
    unanswered: VecDeque<u64>,
    end: End,
    theirs: Theirs,
    broken: Option<ErrorKind>,
}

impl State {
    pub(super) fn new(block: u16, window: usize, secured: bool) -> Self {
        State {
            block: block.into(),
            window: window.max(1),
            secured,
            held: true,
            out: VecDeque::new(),
            flushing: false,
            next_out: 0,
            flying: 0,
            flying_bytes: 0,
            ring: VecDeque::new(),
            next_in: 0,
            came: 0,
            unanswered: VecDeque::new(),
            end: End::Open,
            theirs: Theirs::Open,
            broken: None,
        }
    }

    /// The peer took smaller blocks only.
    pub(super) fn set_block(&mut self, block: u16) {
        self.block = block.into();
    }

    /// Whether both ends are done with it: the peer knows, or is not there any more.
    pub(super) fn is_over(&self) -> bool {
        self.end == End::Over
    }

    /// Whether something went wrong with it.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    // Writing.

    /// Takes what there is room for; 0 when there is none now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.writable()?;
        let count = bytes.len().min(OUT - self.out.len());
        self.out.extend(&bytes[..count]);
        Ok(count)
    }

    fn writable(&self) -> Result<(), ErrorKind> {
        match (self.broken, self.theirs, self.end) {
            (Some(kind), ..) => Err(kind),
            (None, Theirs::Open, End::Open) => Ok(()),
            _ => Err(ErrorKind::BrokenPipe),
        }
    }

    /// Whether all that was written has been given to the XML stream; else it is sent as soon as it
    /// may, a block that is not full too.
    pub(super) fn flush(&mut self) -> Result<bool, ErrorKind> {
        if let Some(kind) = self.broken {
            return Err(kind);
        }
        self.flushing = !self.out.is_empty();
        Ok(!self.flushing)
    }

    /// The writer has ended, and everything it wrote was flushed. Under TLS that is all: it has said
    /// so to the peer, which may go on. In plaintext the end of one direction is the end of both.
    pub(super) fn close(&mut self) {
        if !self.secured && self.end == End::Open {
            self.end = End::Wanted { reset: false };
        }
    }

    /// The carrier is dropped. What it has not flushed is lost, as its owner wished.
    pub(super) fn drop_carrier(&mut self, reset: bool) {
        self.held = false;
        self.out = VecDeque::new();
        self.ring = VecDeque::new();
        match self.end {
            End::Open if self.theirs == Theirs::Open => {
                let reset = reset && self.secured;
                self.end = End::Wanted { reset };
            }
            End::Open => self.end = End::Over,
            _ => {}
        }
    }

    /// Whether [`State::next`] has something.
    pub(super) fn has_next(&self) -> bool {
        match self.end {
            End::Open => self.may_send(),
            End::Wanted { .. } => self.out.is_empty() || self.may_send(),
            End::Sent | End::Over => false,
        }
    }

    /// A block that is not full waits while others are on their way, unless it is flushed: the
    /// answer to one of them is its turn at the latest.
    fn may_send(&self) -> bool {
        let size = self.out.len().min(self.block);
        let whole = size == self.block || self.flushing || self.flying == 0;
        let room = self.flying == 0
            || self.flying < self.window && self.flying_bytes + size <= WINDOW_BYTES;
        size > 0 && whole && room && self.broken.is_none()
    }

    pub(super) fn next(&mut self) -> Option<Next> {
        if let End::Wanted { reset } = self.end
            && self.out.is_empty()
        {
            self.end = End::Sent;
            return Some(Next::Close { reset });
        }
        if !self.has_next() {
            return None;
        }
        let size = self.out.len().min(self.block);
        let bytes: Vec<u8> = self.out.drain(..size).collect();
        let seq = self.next_out;
        self.next_out = seq.wrapping_add(1);
        self.flying += 1;
        self.flying_bytes += size;
        if self.out.is_empty() {
            self.flushing = false;
            // The peer has closed and waits only for this.
            if self.theirs != Theirs::Open && self.end == End::Open {
                self.end = End::Over;
            }
        }
        Some(Next::Block { seq, bytes })
    }

    /// The peer has answered one of ours.
    pub(super) fn answered(&mut self, ticket: Ticket, well: bool) {
        match ticket {
            Ticket::Block(size) => {
                self.flying = self.flying.saturating_sub(1);
                self.flying_bytes = self.flying_bytes.saturating_sub(size);
                // A peer that has closed need not know the blocks that were on their way.
                if !well && self.theirs == Theirs::Open && self.end == End::Open {
                    self.fail(ErrorKind::ConnectionAborted);
                }
            }
            Ticket::Close => self.end = End::Over,
        }
    }

    // Reading.

    /// A block of the peer's.
    pub(super) fn take(&mut self, seq: u16, bytes: &[u8]) -> Result<Taken, Refusal> {
        let refusal = if seq != self.next_in {
            Some(Refusal::Number)
        } else if bytes.len() > self.block {
            Some(Refusal::Size)
        } else if self.ring.len() + bytes.len() > MOST || self.unanswered.len() >= MOST_BLOCKS {
            Some(Refusal::Room)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.fail(ErrorKind::InvalidData);
            return Err(refusal);
        }
        self.next_in = seq.wrapping_add(1);
        if !self.held || self.broken.is_some() {
            // Nobody reads it any more; the peer will hear of it.
            return Ok(Taken::Now);
        }
        self.ring.extend(bytes);
        self.came += bytes.len() as u64;
        if self.unanswered.is_empty() && self.ring.len() <= ROOM {
            return Ok(Taken::Now);
        }
        self.unanswered.push_back(self.came);
        Ok(Taken::Later)
    }

    /// How many of the blocks that wait for it are acknowledged now, the oldest first.
    pub(super) fn acknowledged(&mut self) -> usize {
        let read = self.came - self.ring.len() as u64;
        let gone = !self.held || self.broken.is_some();
        let mut count = 0;
        while let Some(end) = self.unanswered.front()
            && (gone || *end <= read + ROOM as u64)
        {
            self.unanswered.pop_front();
            count += 1;
        }
        count
    }

    pub(super) fn read(&mut self, out: &mut [u8]) -> Read {
        if self.theirs == Theirs::Reset {
            return Read::Broken(ErrorKind::ConnectionReset);
        }
        let (first, second) = self.ring.as_slices();
        let one = first.len().min(out.len());
        let two = second.len().min(out.len() - one);
        if one + two > 0 {
            out[..one].copy_from_slice(&first[..one]);
            out[one..one + two].copy_from_slice(&second[..two]);
            self.ring.drain(..one + two);
            return Read::Bytes(one + two);
        }
        match self.broken {
            Some(kind) => Read::Broken(kind),
            None if self.theirs != Theirs::Open || self.is_over() => Read::End,
            None => Read::Nothing,
        }
    }

    /// The peer's `<close/>`.
    pub(super) fn closed(&mut self, reset: bool) -> Closed {
        self.theirs = if reset && self.secured {
            Theirs::Reset
        } else {
            Theirs::Ended
        };
        match self.end {
            // Its carrier is gone, and in its last words TLS said whether all was well.
            End::Open if self.secured => {
                self.out = VecDeque::new();
                self.end = End::Over;
            }
            End::Open if !self.out.is_empty() && self.broken.is_none() => {
                self.flushing = true;
                return Closed::Later;
            }
            End::Open | End::Wanted { .. } => {
                self.out = VecDeque::new();
                self.end = End::Over;
            }
            // The answer to ours is on its way.
            End::Sent | End::Over => {}
        }
        Closed::Now
    }

    // Breaking.

    /// Something is wrong with this bytestream; the peer is told by a `<close/>`.
    pub(super) fn fail(&mut self, kind: ErrorKind) {
        self.broken.get_or_insert(kind);
        self.out = VecDeque::new();
        if self.end == End::Open {
            self.end = End::Wanted { reset: false };
        }
    }

    /// The XML stream has ended. What came before that can be read.
    pub(super) fn lost(&mut self) {
        if self.theirs == Theirs::Open && !self.is_over() {
            self.broken.get_or_insert(ErrorKind::UnexpectedEof);
        }
        self.out = VecDeque::new();
        self.end = End::Over;
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
