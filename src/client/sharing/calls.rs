//! Calls that went on under another number and wait for their answer.
//!
//! ```text
//!   whoever called ── call ──► pass_on ── under a fresh number, counted ──► whoever is called
//!                 ◄── answer ── Caller ◄── answered, once ◄── answer ──────────┘
//! ```

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use actors::runtime::Time;
use zbus::{Message, message::Header};

use super::{
    envelope::{Envelope, rewrap},
    words::{Refusal, error, wants_answer},
};

/// Most calls that wait for an answer, at either side: of all local programs where it is accepted, and of the
/// contact where it is shared, those too that want none. One more is answered `LimitsExceeded`, or thrown
/// away. The bus keeps the answers for a contact that does not read.
pub const MAX_CALLS: usize = 256;
/// Most calls of one local program that wait for their answer.
pub const MAX_CLIENT_CALLS: usize = 128;
/// How long a call may wait for its answer. The bus itself says so at once when whoever was called
/// leaves; this is for who never answers.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Who called, and under which number.
#[derive(Clone, Debug)]
pub struct Caller<W> {
    /// Who it is on its own bus.
    pub who: W,
    serial: NonZeroU32,
    wants_answer: bool,
}

impl<W> Caller<W> {
    /// Who sent a call with this header.
    pub fn of(call: &Header<'_>, who: W) -> Self {
        Caller {
            who,
            serial: call.primary().serial_num(),
            wants_answer: wants_answer(call),
        }
    }

    /// An answer for it, in this envelope, if it waits for one. Whatever was answered, it hears something: an
    /// error, when the answer cannot be passed on.
    pub fn answer(&self, message: &Message, envelope: Envelope<'_>) -> Option<Message> {
        if !self.wants_answer {
            return None;
        }
        let envelope = Envelope {
            reply_serial: Some(self.serial),
            ..envelope
        };
        rewrap(message, &envelope).ok().or_else(|| {
            let failed = error(self.serial, ("Failed", "the answer cannot be passed on"))?;
            rewrap(&failed, &envelope).ok()
        })
    }

    /// An error for it, in this envelope, if it waits for an answer.
    pub fn refuse(&self, why: (&str, &str), envelope: Envelope<'_>) -> Option<Message> {
        self.answer(&error(self.serial, why)?, envelope)
    }
}

/// Calls by the number that they went on under, with what is needed to answer whoever called.
#[derive(Debug)]
pub struct Calls<W> {
    waiting: BTreeMap<NonZeroU32, Waiting<W>>,
    capacity: usize,
    /// Of one caller.
    most_each: usize,
    /// Of all that wait.
    bytes: usize,
    most_bytes: usize,
}

#[derive(Debug)]
struct Waiting<W> {
    caller: Caller<W>,
    bytes: usize,
    until: Time,
}

impl<W: Clone + PartialEq> Calls<W> {
    /// None, with room for so many. One more is not passed on.
    pub fn new(capacity: usize) -> Self {
        Calls {
            waiting: BTreeMap::new(),
            capacity,
            most_each: usize::MAX,
            bytes: 0,
            most_bytes: usize::MAX,
        }
    }

    /// The same, with room for so many of each caller.
    pub fn of_each(mut self, most: usize) -> Self {
        self.most_each = most;
        self
    }

    /// The same, with room for so many bytes of all together.
    pub fn of_bytes(mut self, most: usize) -> Self {
        self.most_bytes = most;
        self
    }

    /// A call in its envelope, to be sent. If there will be an answer, it counts until then.
    ///
    /// # Errors
    /// What the caller is to hear when it cannot be passed on, or there is no room.
    pub fn pass_on(
        &mut self,
        call: &Message,
        envelope: &Envelope<'_>,
        caller: &Caller<W>,
        now: Time,
    ) -> Result<Message, Refusal> {
        let call =
            rewrap(call, envelope).map_err(|_| ("InvalidArgs", "the call cannot be passed on"))?;
        let counts = caller.wants_answer || envelope.answered;
        if counts && !self.insert(envelope.serial, caller.clone(), call.data().len(), now) {
            return Err(("LimitsExceeded", "too many calls wait for their answer"));
        }
        Ok(call)
    }

    /// Takes note of a call of so many bytes. False when there is no room, or the number is taken.
    fn insert(&mut self, serial: NonZeroU32, caller: Caller<W>, bytes: usize, now: Time) -> bool {
        let all = self.waiting.values();
        let own = all.filter(|call| call.caller.who == caller.who).count();
        let has_room = self.waiting.len() < self.capacity
            && own < self.most_each
            && self.bytes.saturating_add(bytes) <= self.most_bytes;
        if !has_room || self.waits(serial) {
            return false;
        }
        let until = now.saturating_add(PATIENCE);
        self.bytes += bytes;
        let waiting = Waiting {
            caller,
            bytes,
            until,
        };
        self.waiting.insert(serial, waiting).is_none()
    }

    /// Whether the call under this number still waits.
    pub fn waits(&self, serial: NonZeroU32) -> bool {
        self.waiting.contains_key(&serial)
    }

    /// Who is to have the answer; it can be had once.
    pub fn answered(&mut self, serial: NonZeroU32) -> Option<Caller<W>> {
        let waiting = self.waiting.remove(&serial)?;
        self.bytes -= waiting.bytes;
        Some(waiting.caller)
    }

    /// A caller has gone, and is not answered. Its calls stay: whoever was called does not know that, and
    /// counts them.
    pub fn gone<Q: ?Sized>(&mut self, who: &Q)
    where
        W: PartialEq<Q>,
    {
        let callers = self.waiting.values_mut().map(|waiting| &mut waiting.caller);
        for caller in callers.filter(|caller| caller.who == *who) {
            caller.wants_answer = false;
        }
    }

    /// All that waited too long.
    pub fn expire(&mut self, now: Time) -> Vec<Caller<W>> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (late, waiting): (BTreeMap<_, _>, _) = all.partition(|(_, call)| call.until <= now);
        self.waiting = waiting;
        self.bytes = self.waiting.values().map(|waiting| waiting.bytes).sum();
        late.into_values().map(|waiting| waiting.caller).collect()
    }

    /// All of them: there will be no answer.
    pub fn end(&mut self) -> Vec<Caller<W>> {
        let all = std::mem::take(&mut self.waiting).into_values();
        self.bytes = 0;
        all.map(|waiting| waiting.caller).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn serial(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn by<W>(who: W) -> Caller<W> {
        Caller {
            who,
            serial: serial(1),
            wants_answer: true,
        }
    }

    fn who<W>(callers: impl IntoIterator<Item = Caller<W>>) -> Vec<W> {
        callers.into_iter().map(|caller| caller.who).collect()
    }

    #[test]
    fn an_answer_can_be_had_once() {
        let mut calls = Calls::new(2);
        assert!(calls.insert(serial(1), by('a'), 0, Time::ZERO));
        assert!(!calls.insert(serial(1), by('b'), 0, Time::ZERO));
        assert!(calls.insert(serial(2), by('c'), 0, Time::ZERO));
        assert!(!calls.insert(serial(3), by('d'), 0, Time::ZERO), "full");
        assert_eq!(who(calls.answered(serial(1))), ['a']);
        assert!(calls.answered(serial(1)).is_none());
        assert!(calls.insert(serial(3), by('d'), 0, Time::ZERO));
    }

    #[test]
    fn bytes_are_counted_until_the_answer() {
        let mut calls = Calls::new(8).of_bytes(100);
        assert!(calls.insert(serial(1), by('a'), 60, Time::ZERO));
        assert!(!calls.insert(serial(2), by('b'), 41, Time::ZERO));
        assert!(calls.insert(serial(2), by('b'), 40, Time::ZERO));
        assert!(!calls.insert(serial(3), by('c'), 1, Time::ZERO));
        assert!(calls.insert(serial(3), by('c'), 0, Time::ZERO));
        calls.answered(serial(1));
        calls.answered(serial(3));
        assert!(!calls.insert(serial(3), by('c'), 61, Time::ZERO));
        calls.answered(serial(2));
        assert!(calls.insert(serial(3), by('c'), 100, Time::ZERO));
        calls.expire(PATIENCE);
        assert!(calls.insert(serial(4), by('d'), 100, Time::ZERO));
        assert_eq!(who(calls.end()), ['d']);
        assert!(calls.insert(serial(4), by('d'), 100, Time::ZERO));
    }

    #[test]
    fn calls_of_one_are_counted_until_the_answer_though_it_has_gone() {
        let mut calls = Calls::new(8).of_each(1);
        for (number, who) in [(1, 'a'), (2, 'b')] {
            assert!(calls.insert(serial(number), by(who), 0, Time::ZERO));
            assert!(!calls.insert(serial(3), by(who), 0, Time::ZERO));
        }
        calls.gone(&'a');
        assert!(!calls.insert(serial(3), by('a'), 0, Time::ZERO));
        let answered = [1, 2].map(|number| calls.answered(serial(number)).unwrap());
        assert_eq!(answered.map(|caller| caller.wants_answer), [false, true]);
        assert!(calls.insert(serial(3), by('a'), 0, Time::ZERO));
    }

    #[test]
    fn who_waits_too_long_hears_so_once() {
        let mut calls = Calls::new(8);
        calls.insert(serial(1), by('a'), 0, Time::ZERO);
        calls.insert(serial(2), by('b'), 0, Duration::from_secs(1));
        assert!(calls.expire(PATIENCE - Duration::from_millis(1)).is_empty());
        assert_eq!(who(calls.expire(PATIENCE)), ['a']);
        assert!(calls.expire(PATIENCE).is_empty());
        assert!(calls.answered(serial(1)).is_none());
        assert_eq!(who(calls.answered(serial(2))), ['b']);
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
                    prop_assert_eq!(calls.insert(serial(number), by(step), 0, Time::ZERO), expected);
                    if expected {
                        model.insert(number, step);
                    }
                } else {
                    let answered = calls.answered(serial(number)).map(|caller| caller.who);
                    prop_assert_eq!(answered, model.remove(&number));
                }
                prop_assert_eq!(calls.waiting.len(), model.len());
            }
        }
    }
}
