//! The fuzzing target of in-band bytestreams: one end, to which the input says what happens. See
//! [`crate::fuzzing`].

use std::collections::VecDeque;

use super::state::{Closed, MOST, MOST_BLOCKS, Next, OUT, Read, State, Taken, WINDOW_BYTES};
use crate::session::lane::Ticket;

/// What must be true of the end, from outside.
struct Model {
    state: State,
    block: usize,
    /// What was taken and not read, while anybody reads.
    unread: VecDeque<u8>,
    held: bool,
    reset: bool,
    /// Blocks taken whose acknowledgement is owed.
    owed: usize,
    next_in: u16,
    /// What was written and not sent.
    unsent: VecDeque<u8>,
    next_out: u16,
    /// Sizes of blocks that were sent and not answered.
    flying: VecDeque<usize>,
    close_sent: bool,
    over: bool,
    came: u8,
    went: u8,
}

impl Model {
    fn new(block: u16, window: usize, secured: bool) -> Self {
        Model {
            state: State::new(block, window, secured),
            block: block.into(),
            unread: VecDeque::new(),
            held: true,
            reset: false,
            owed: 0,
            next_in: 0,
            unsent: VecDeque::new(),
            next_out: 0,
            flying: VecDeque::new(),
            close_sent: false,
            over: false,
            came: 0,
            went: 0,
        }
    }

    /// Bytes that tell their place, so that a lost or a doubled one shows.
    fn bytes(counter: &mut u8, count: usize) -> Vec<u8> {
        let bytes: Vec<u8> = (0..count)
            .map(|at| counter.wrapping_add(at as u8))
            .collect();
        *counter = counter.wrapping_add(count as u8);
        bytes
    }

    fn take(&mut self, seq: u16, count: usize) {
        let mut counter = self.came;
        let bytes = Self::bytes(&mut counter, count);
        let read = self.held && !self.state.is_broken();
        match self.state.take(seq, &bytes) {
            Ok(taken) => {
                assert!(seq == self.next_in && count <= self.block);
                self.came = counter;
                self.next_in = seq.wrapping_add(1);
                if read {
                    self.unread.extend(bytes);
                } else {
                    assert_eq!(taken, Taken::Now);
                }
                self.owed += usize::from(taken == Taken::Later);
            }
            Err(_) => assert!(
                self.state.is_broken(),
                "a refused block breaks the bytestream"
            ),
        }
    }

    fn read(&mut self, count: usize) {
        let mut out = vec![0; count];
        if !self.held {
            return;
        }
        match self.state.read(&mut out) {
            Read::Bytes(read) => {
                assert!(0 < read && read <= count && !self.reset);
                let expected: Vec<u8> = self.unread.drain(..read).collect();
                assert_eq!(out[..read], expected);
            }
            // Whatever came can be read before the end, unless it was a reset.
            Read::End => assert!(self.unread.is_empty() || count == 0),
            Read::Broken(_) => assert!(self.reset || self.unread.is_empty() || count == 0),
            Read::Nothing => assert!(self.unread.is_empty() || count == 0),
        }
    }

    fn write(&mut self, count: usize) {
        let mut counter = self.went;
        let bytes = Self::bytes(&mut counter, count);
        if let Ok(taken) = self.state.write(&bytes) {
            assert!(taken <= count && !self.over);
            self.went = self.went.wrapping_add(taken as u8);
            self.unsent.extend(&bytes[..taken]);
        }
    }

    fn next(&mut self) {
        let promised = self.state.has_next();
        match self.state.next() {
            None => assert!(!promised),
            Some(Next::Block { seq, bytes }) => {
                assert!(promised && !self.close_sent && !self.over);
                assert!(!bytes.is_empty() && bytes.len() <= self.block);
                assert_eq!(seq, self.next_out);
                self.next_out = seq.wrapping_add(1);
                let expected: Vec<u8> = self.unsent.drain(..bytes.len()).collect();
                assert_eq!(bytes, expected);
                self.flying.push_back(bytes.len());
            }
            Some(Next::Close { .. }) => {
                assert!(promised && !self.close_sent && !self.over, "two ends");
                self.close_sent = true;
            }
        }
    }

    fn answered(&mut self, well: bool) {
        if let Some(size) = self.flying.pop_front() {
            self.state.answered(Ticket::Block(size), well);
        } else if self.close_sent {
            self.state.answered(Ticket::Close, well);
        }
    }

    fn step(&mut self, what: u8, how: u8) {
        let count = usize::from(how);
        match what % 16 {
            0 | 1 => self.take(self.next_in, count),
            2 => self.take(self.next_in, count * 64),
            3 => self.take(how.into(), 1),
            4 | 5 => self.read(count * 16),
            6 | 7 => self.write(count * 16),
            8 => drop(self.state.flush()),
            9 | 10 => self.next(),
            11 => self.answered(true),
            12 => self.answered(how.is_multiple_of(2)),
            // Once, and rarely: what comes afterwards is short.
            13 if how == 0 => self.state.close(),
            13 if how == 1 => {
                self.state.drop_carrier(how.is_multiple_of(2));
                self.held = false;
            }
            13 if how == 2 => self.state.lost(),
            13 if how <= 4 => {
                let later = self.state.closed(how == 4) == Closed::Later;
                self.reset = matches!(self.state.read(&mut []), Read::Broken(kind)
                    if kind == std::io::ErrorKind::ConnectionReset);
                assert!(!later || !self.unsent.is_empty());
            }
            _ => {
                let done = self.state.acknowledged();
                assert!(done <= self.owed, "an answer that nobody waits for");
                self.owed -= done;
            }
        }
        let over = self.state.is_over();
        // An end that is broken, given up or over sends nothing more.
        if over || self.state.is_broken() || !self.held {
            self.unsent.clear();
        }
        assert!(over || !self.over, "what is over stays so");
        self.over = over;
        assert!(!over || !self.state.has_next());
        assert!(self.unread.len() <= MOST && self.owed <= MOST_BLOCKS);
        assert!(self.unsent.len() <= OUT || self.over);
        let flying: usize = self.flying.iter().sum();
        assert!(flying <= WINDOW_BYTES.max(self.block));
    }
}

/// One end of an in-band bytestream. The first byte chooses what was agreed on; then each pair of bytes
/// is something that happens.
pub fn ibb(data: &[u8]) {
    let Some((agreed, steps)) = data.split_first() else {
        return;
    };
    let block = 1_u16 << (agreed & 0x0f).min(14);
    let window = usize::from(agreed >> 4 & 7);
    let mut model = Model::new(block, window, agreed & 0x80 != 0);
    for step in steps.chunks_exact(2) {
        model.step(step[0], step[1]);
    }
}
