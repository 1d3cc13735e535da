//! Calls that went on under another number and wait for their answer.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use actors::runtime::Time;

/// How long a call may wait for its answer. The bus itself says so at once when whoever was called
/// leaves; this is for who never answers.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Calls by the number that they went on under, with what is needed to answer whoever called.
#[derive(Debug)]
pub struct Calls<C> {
    waiting: BTreeMap<NonZeroU32, Waiting<C>>,
    capacity: usize,
    /// Of all that wait.
    bytes: usize,
    most_bytes: usize,
}

#[derive(Debug)]
struct Waiting<C> {
    call: C,
    bytes: usize,
    until: Time,
}

impl<C> Calls<C> {
    /// None, with room for so many. One more is not passed on.
    pub fn new(capacity: usize) -> Self {
        Calls {
            waiting: BTreeMap::new(),
            capacity,
            bytes: 0,
            most_bytes: usize::MAX,
        }
    }

    /// The same, with room for so many bytes of all together.
    pub fn of_bytes(mut self, most: usize) -> Self {
        self.most_bytes = most;
        self
    }

    /// Whether there is room for one more of so many bytes.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.waiting.len() < self.capacity && self.bytes.saturating_add(bytes) <= self.most_bytes
    }

    /// How many of those for which this holds.
    pub fn count(&self, holds: impl Fn(&C) -> bool) -> usize {
        self.waiting
            .values()
            .filter(|waiting| holds(&waiting.call))
            .count()
    }

    /// Whether the call under this number still waits.
    pub fn waits(&self, serial: NonZeroU32) -> bool {
        self.waiting.contains_key(&serial)
    }

    /// Takes note of a call of so many bytes. False when there is no room, or the number is taken.
    pub fn insert(&mut self, serial: NonZeroU32, call: C, bytes: usize, now: Time) -> bool {
        if !self.has_room(bytes) || self.waits(serial) {
            return false;
        }
        let until = now.saturating_add(PATIENCE);
        self.bytes += bytes;
        let waiting = Waiting { call, bytes, until };
        self.waiting.insert(serial, waiting).is_none()
    }

    /// Who is to have the answer; it can be had once.
    pub fn answered(&mut self, serial: NonZeroU32) -> Option<C> {
        let waiting = self.waiting.remove(&serial)?;
        self.bytes -= waiting.bytes;
        Some(waiting.call)
    }

    /// Those that wait, to be changed. A call whose caller has gone stays: whoever was called does not know
    /// that, and counts it.
    pub fn each(&mut self) -> impl Iterator<Item = &mut C> {
        self.waiting.values_mut().map(|waiting| &mut waiting.call)
    }

    /// All that waited too long.
    pub fn expire(&mut self, now: Time) -> Vec<C> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (late, waiting): (BTreeMap<_, _>, _) = all.partition(|(_, call)| call.until <= now);
        self.waiting = waiting;
        self.count_bytes();
        late.into_values().map(|waiting| waiting.call).collect()
    }

    fn count_bytes(&mut self) {
        self.bytes = self.waiting.values().map(|waiting| waiting.bytes).sum();
    }

    /// All of them: there will be no answer.
    pub fn end(&mut self) -> Vec<C> {
        let all = std::mem::take(&mut self.waiting).into_values();
        self.bytes = 0;
        all.map(|waiting| waiting.call).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn serial(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    #[test]
    fn an_answer_can_be_had_once() {
        let mut calls = Calls::new(2);
        assert!(calls.insert(serial(1), 'a', 0, Time::ZERO));
        assert!(!calls.insert(serial(1), 'b', 0, Time::ZERO));
        assert!(calls.insert(serial(2), 'c', 0, Time::ZERO));
        assert!(!calls.insert(serial(3), 'd', 0, Time::ZERO), "full");
        assert_eq!(calls.answered(serial(1)), Some('a'));
        assert_eq!(calls.answered(serial(1)), None);
        assert!(calls.insert(serial(3), 'd', 0, Time::ZERO));
    }

    #[test]
    fn bytes_are_counted_until_the_answer() {
        let mut calls = Calls::new(8).of_bytes(100);
        assert!(calls.insert(serial(1), 'a', 60, Time::ZERO));
        assert!(!calls.insert(serial(2), 'b', 41, Time::ZERO));
        assert!(calls.insert(serial(2), 'b', 40, Time::ZERO));
        assert!(!calls.has_room(1) && calls.has_room(0));
        calls.answered(serial(1));
        assert!(calls.has_room(60) && !calls.has_room(61));
        calls.answered(serial(2));
        assert!(calls.insert(serial(3), 'c', 100, Time::ZERO));
        calls.expire(PATIENCE);
        assert!(calls.insert(serial(4), 'd', 100, Time::ZERO));
        assert_eq!(calls.end(), ['d']);
        assert!(calls.has_room(100));
    }

    #[test]
    fn who_waits_too_long_hears_so_once() {
        let mut calls = Calls::new(8);
        calls.insert(serial(1), 'a', 0, Time::ZERO);
        calls.insert(serial(2), 'b', 0, Duration::from_secs(1));
        assert!(calls.expire(PATIENCE - Duration::from_millis(1)).is_empty());
        assert_eq!(calls.expire(PATIENCE), ['a']);
        assert!(calls.expire(PATIENCE).is_empty());
        assert_eq!(calls.answered(serial(1)), None);
        assert_eq!(calls.answered(serial(2)), Some('b'));
    }

    proptest! {
        #[test]
        fn there_are_never_more_than_there_is_room_for(
            steps in prop::collection::vec((any::<bool>(), 1u32..40), 0..200)
        ) {
            let mut calls = Calls::new(16);
            let mut model = std::collections::BTreeMap::new();
            for (step, (asks, number)) in steps.into_iter().enumerate() {
                if asks {
                    let expected = model.len() < 16 && !model.contains_key(&number);
                    prop_assert_eq!(calls.insert(serial(number), step, 0, Time::ZERO), expected);
                    if expected {
                        model.insert(number, step);
                    }
                } else {
                    prop_assert_eq!(calls.answered(serial(number)), model.remove(&number));
                }
                prop_assert_eq!(calls.count(|_| true), model.len());
            }
        }
    }
}
