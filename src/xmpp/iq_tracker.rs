//! The iqs we have sent and whose answers we wait for.
//!
//! Pure: ids, deadlines and the time come from outside. Only the peer that was asked can answer
//! (RFC 6120 section 8.1.2.1: on a stream between two peers an absent `from` is the peer's).

use std::{collections::HashMap, time::Duration};

use super::stanza::{Iq, IqKind};

/// Most iqs that may wait on one stream, if nothing else is said; one more is refused.
pub const MAX_PENDING: usize = 256;

/// Pending iqs of one stream, each with what waits for its answer.
#[derive(Debug)]
pub struct IqTracker<W> {
    peer: String,
    room: usize,
    pending: HashMap<String, Pending<W>>,
}

#[derive(Debug)]
struct Pending<W> {
    deadline: Duration,
    waiter: W,
}

/// Why an iq cannot be tracked; what would have waited comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackError<W> {
    /// As many are waiting as may.
    Full(W),
    /// One with this id is waiting.
    SameId(W),
}

impl<W> IqTracker<W> {
    /// A tracker for the stream to `peer`, named as in `to`.
    pub fn new(peer: impl Into<String>) -> Self {
        IqTracker::with_room(peer, MAX_PENDING)
    }

    /// The same for another number of iqs.
    pub fn with_room(peer: impl Into<String>, room: usize) -> Self {
        IqTracker {
            peer: peer.into(),
            room,
            pending: HashMap::new(),
        }
    }

    /// Remembers an iq that is about to be sent.
    ///
    /// # Errors
    /// [`TrackError`] with the waiter when it cannot; then nothing may be sent.
    pub fn track(&mut self, id: &str, deadline: Duration, waiter: W) -> Result<(), TrackError<W>> {
        if self.pending.contains_key(id) {
            return Err(TrackError::SameId(waiter));
        }
        if self.pending.len() >= self.room {
            return Err(TrackError::Full(waiter));
        }
        self.pending
            .insert(id.to_owned(), Pending { deadline, waiter });
        Ok(())
    }

    /// Who waits for this answer; `None` when it is not an answer, when nobody waits for it, or
    /// when it comes from somebody else.
    pub fn answered(&mut self, iq: &Iq) -> Option<W> {
        if !matches!(iq.kind, IqKind::Result(_) | IqKind::Error(_)) {
            return None;
        }
        if iq.from.as_deref().is_some_and(|from| from != self.peer) {
            return None;
        }
        self.pending.remove(&iq.id).map(|pending| pending.waiter)
    }

    /// Nobody waits for this one any more.
    pub fn forget(&mut self, id: &str) -> Option<W> {
        self.pending.remove(id).map(|pending| pending.waiter)
    }

    /// Forgets all but those who still wait, as `waits` says.
    pub fn retain(&mut self, waits: impl Fn(&W) -> bool) {
        self.pending.retain(|_, pending| waits(&pending.waiter));
    }

    /// Takes out those whose deadline is not after `now`.
    pub fn expire(&mut self, now: Duration) -> Vec<W> {
        self.pending
            .extract_if(|_, pending| pending.deadline <= now)
            .map(|(_, pending)| pending.waiter)
            .collect()
    }

    /// When [`IqTracker::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.pending.values().map(|pending| pending.deadline).min()
    }

    /// Takes out all: the stream has ended.
    pub fn drain(&mut self) -> Vec<W> {
        self.pending
            .drain()
            .map(|(_, pending)| pending.waiter)
            .collect()
    }

    /// Whether one of those who wait is such.
    pub fn any(&self, such: impl Fn(&W) -> bool) -> bool {
        self.pending.values().any(|pending| such(&pending.waiter))
    }

    /// How many are waiting.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether none is waiting.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::payload::builder;

    fn result(from: Option<&str>, id: &str) -> Iq {
        Iq {
            from: from.map(str::to_owned),
            to: None,
            id: id.into(),
            kind: IqKind::Result(None),
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn only_the_peer_that_was_asked_answers_and_only_once() {
        let mut tracker = IqTracker::new("romeo@forza");
        tracker.track("1", at(9), 'a').unwrap();
        tracker.track("2", at(9), 'b').unwrap();
        assert_eq!(tracker.answered(&result(Some("mallory@x"), "1")), None);
        assert_eq!(tracker.answered(&result(Some("romeo@forza"), "3")), None);
        let mut question = result(None, "1");
        question.kind = IqKind::Get(builder("x", "y").build());
        assert_eq!(tracker.answered(&question), None);
        assert_eq!(
            tracker.answered(&result(Some("romeo@forza"), "1")),
            Some('a')
        );
        assert_eq!(tracker.answered(&result(Some("romeo@forza"), "1")), None);
        assert_eq!(tracker.answered(&result(None, "2")), Some('b'));
    }

    #[test]
    fn deadlines_come_from_outside() {
        let mut tracker = IqTracker::new("p");
        tracker.track("1", at(5), 1).unwrap();
        tracker.track("2", at(3), 2).unwrap();
        assert_eq!(tracker.next_deadline(), Some(at(3)));
        assert!(tracker.expire(at(2)).is_empty());
        assert_eq!(tracker.expire(at(3)), vec![2]);
        assert_eq!(tracker.next_deadline(), Some(at(5)));
        assert_eq!(tracker.drain(), vec![1]);
        assert!(tracker.is_empty() && tracker.next_deadline().is_none());
    }

    #[test]
    fn it_is_bounded_and_an_id_is_used_once() {
        let mut tracker = IqTracker::new("p");
        for number in 0..MAX_PENDING {
            tracker.track(&number.to_string(), at(1), number).unwrap();
        }
        assert_eq!(tracker.track("x", at(1), 7), Err(TrackError::Full(7)));
        assert_eq!(tracker.track("0", at(1), 7), Err(TrackError::SameId(7)));
        assert_eq!(tracker.forget("0"), Some(0));
        tracker.track("x", at(1), 7).unwrap();
        assert_eq!(tracker.len(), MAX_PENDING);
        tracker.retain(|number| *number == 9);
        assert_eq!(tracker.answered(&result(None, "8")), None);
        assert_eq!(tracker.drain(), vec![9]);
    }
}
