//! What is waiting to be told to the session: pure, coalesced and bounded.
//!
//! A flood of announcements is one anybody can make. Of each instance only the latest news waits;
//! when [`MAX_WAITING`] instances wait, news of a higher [`Rank`] pushes out that of the lowest, and
//! other news is dropped (its sender will be heard again). Unchanged news is not news: what was told
//! last is remembered for [`MAX_KNOWN`] instances, where the same ranks decide.
//!
//! Anybody can claim a pinned key, under as many names as he likes; a pinned name is one, whoever has
//! it. So a flood of claims, too, leaves the pinned names their places.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::{DiscoveryEvent, Sighting};
use crate::session::trust::KeyId;

/// Most instances whose news wait.
pub const MAX_WAITING: usize = 512;
/// Most instances that are remembered. Others are neither told nor remembered. News that waited already
/// when the last place was taken is told all the same, so that [`MAX_WAITING`] more may get in once.
pub const MAX_KNOWN: usize = 2048;

/// Who keeps a place when there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Stranger,
    /// It claims a pinned key under another name.
    Claim,
    /// A key was pinned under this name.
    Name,
}

#[derive(Debug)]
enum News {
    Seen(Box<Sighting>),
    Gone,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Pending {
    first: Option<DiscoveryEvent>,
    order: VecDeque<String>,
    news: HashMap<String, News>,
    /// What the session was told last of each instance that it knows.
    told: HashMap<String, Sighting>,
    /// Heard of since the last [`Pending::begin_again`].
    confirmed: BTreeSet<String>,
    /// Pinned keys.
    pinned: BTreeSet<KeyId>,
    /// The names that they were pinned under.
    names: BTreeSet<String>,
    /// How many news were dropped.
    pub dropped: u64,
}

impl Pending {
    /// Whose news push out others: pinned keys, and the name that each was pinned under.
    pub fn set_pinned(&mut self, pinned: &BTreeMap<KeyId, String>) {
        self.pinned = pinned.keys().copied().collect();
        self.names = pinned.values().cloned().collect();
    }

    /// Somebody was heard.
    pub fn seen(&mut self, sighting: Sighting) {
        let instance = sighting.instance.clone();
        if self.confirmed.len() < MAX_KNOWN {
            self.confirmed.insert(instance.clone());
        }
        if self.told.get(&instance) == Some(&sighting) {
            // Back to what the session believes anyway.
            self.withdraw(&instance);
            return;
        }
        let known = self.told.contains_key(&instance);
        if !known && self.told.len() >= MAX_KNOWN && !self.make_room_in_known(&sighting) {
            self.dropped += 1;
            return;
        }
        if !self.news.contains_key(&instance) {
            if self.order.len() >= MAX_WAITING && !known && !self.make_room(&sighting) {
                self.dropped += 1;
                return;
            }
            self.order.push_back(instance.clone());
        }
        self.news.insert(instance, News::Seen(Box::new(sighting)));
    }

    /// Somebody is gone.
    pub fn gone(&mut self, instance: &str) {
        self.confirmed.remove(instance);
        if !self.told.contains_key(instance) {
            self.withdraw(instance);
        } else if self.news.insert(instance.to_owned(), News::Gone).is_none() {
            // At most MAX_KNOWN of these: only those that were told.
            self.order.push_back(instance.to_owned());
        }
    }

    /// Browsing begins anew, after a subscription was lost.
    pub fn begin_again(&mut self) {
        self.confirmed.clear();
    }

    /// Everybody who has had time to be heard has been heard: the others are gone.
    pub fn settle(&mut self) {
        let lost: Vec<String> = self
            .told
            .keys()
            .filter(|instance| !self.confirmed.contains(*instance))
            .cloned()
            .collect();
        for instance in lost {
            self.gone(&instance);
        }
    }

    /// News of ourselves, before any other.
    pub fn tell_first(&mut self, event: DiscoveryEvent) {
        self.first = Some(event);
    }

    /// The next news for the session, which counts as told.
    pub fn pop(&mut self) -> Option<DiscoveryEvent> {
        if let Some(event) = self.first.take() {
            return Some(event);
        }
        loop {
            let instance = self.order.pop_front()?;
            match self.news.remove(&instance) {
                Some(News::Seen(sighting)) => {
                    self.told.insert(instance, (*sighting).clone());
                    return Some(DiscoveryEvent::Seen(sighting));
                }
                Some(News::Gone) => {
                    self.told.remove(&instance);
                    return Some(DiscoveryEvent::Gone(instance));
                }
                None => {}
            }
        }
    }

    fn withdraw(&mut self, instance: &str) {
        if self.news.remove(instance).is_some() {
            self.order.retain(|other| other != instance);
        }
    }

    fn rank(&self, sighting: &Sighting) -> Rank {
        let claimed = |key| self.pinned.contains(&key);
        if self.names.contains(&sighting.instance) {
            Rank::Name
        } else if sighting.text.key.is_some_and(claimed) {
            Rank::Claim
        } else {
            Rank::Stranger
        }
    }

    /// Of these, one of the lowest rank that `may_go`, if that is below the newcomer's. Nothing is
    /// searched for strangers: a flood of them costs no more than its reading.
    fn victim<'a>(
        &'a self,
        newcomer: &Sighting,
        others: impl Iterator<Item = &'a Sighting> + Clone,
        may_go: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let ranks = [Rank::Stranger, Rank::Claim];
        let newcomer = self.rank(newcomer);
        let mut below = ranks.into_iter().filter(|rank| *rank < newcomer);
        let found = below.find_map(|rank| {
            let fits = |other: &&Sighting| self.rank(other) == rank && may_go(&other.instance);
            others.clone().find(fits)
        });
        found.map(|other| other.instance.clone())
    }

    fn make_room(&mut self, newcomer: &Sighting) -> bool {
        let waiting = self
            .order
            .iter()
            .filter_map(|name| match self.news.get(name) {
                Some(News::Seen(other)) => Some(&**other),
                _ => None,
            });
        // News of those that were told are bounded by their number.
        let may_go = |name: &str| !self.told.contains_key(name);
        let Some(victim) = self.victim(newcomer, waiting, may_go) else {
            return false;
        };
        self.dropped += 1;
        self.withdraw(&victim);
        true
    }

    fn make_room_in_known(&mut self, newcomer: &Sighting) -> bool {
        // One that is about to go makes room for one only.
        let may_go = |name: &str| !matches!(self.news.get(name), Some(News::Gone));
        let Some(victim) = self.victim(newcomer, self.told.values(), may_go) else {
            return false;
        };
        self.dropped += 1;
        self.gone(&victim);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::link_local::discovery::PresenceText;

    fn sighting(name: &str, message: &str, key: Option<u8>) -> Sighting {
        Sighting {
            instance: name.into(),
            addresses: Vec::new(),
            text: PresenceText {
                message: message.into(),
                key: key.map(|key| KeyId([key; 32])),
                ..PresenceText::default()
            },
        }
    }

    /// Key 1, under the name "romeo".
    fn romeo_pinned() -> BTreeMap<KeyId, String> {
        [(KeyId([1; 32]), "romeo".into())].into()
    }

    #[test]
    fn of_each_instance_only_the_latest_waits() {
        let mut pending = Pending::default();
        for n in 0..1000 {
            pending.seen(sighting("romeo", &n.to_string(), None));
        }
        let Some(DiscoveryEvent::Seen(seen)) = pending.pop() else {
            panic!("news expected");
        };
        assert_eq!(seen.text.message, "999");
        assert_eq!(pending.pop(), None);
    }

    #[test]
    fn unchanged_news_is_no_news() {
        let mut pending = Pending::default();
        pending.seen(sighting("romeo", "a", None));
        assert!(pending.pop().is_some());
        pending.seen(sighting("romeo", "a", None));
        assert_eq!(pending.pop(), None);
        pending.seen(sighting("romeo", "b", None));
        pending.seen(sighting("romeo", "a", None));
        assert_eq!(pending.pop(), None, "it is back to what was told");
    }

    #[test]
    fn gone_is_told_only_of_those_that_were_told() {
        let mut pending = Pending::default();
        pending.seen(sighting("romeo", "", None));
        pending.gone("romeo");
        pending.gone("juliet");
        assert_eq!(pending.pop(), None);
        pending.seen(sighting("romeo", "", None));
        pending.pop();
        pending.gone("romeo");
        pending.gone("romeo");
        assert_eq!(pending.pop(), Some(DiscoveryEvent::Gone("romeo".into())));
        assert_eq!(pending.pop(), None);
    }

    #[test]
    fn a_flood_is_capped_and_does_not_push_out_a_pinned_contact() {
        let mut pending = Pending::default();
        pending.set_pinned(&romeo_pinned());
        for n in 0..100_000 {
            pending.seen(sighting(&format!("stranger {n}"), "", Some(9)));
        }
        pending.seen(sighting("romeo", "", Some(1)));
        for n in 0..1000 {
            pending.seen(sighting(&format!("late {n}"), "", None));
        }
        let mut told = Vec::new();
        while let Some(DiscoveryEvent::Seen(seen)) = pending.pop() {
            told.push(seen.instance);
        }
        assert_eq!(told.len(), MAX_WAITING);
        assert!(told.contains(&"romeo".to_owned()));
    }

    #[test]
    fn the_known_are_capped_and_make_room_for_a_pinned_contact() {
        let mut pending = Pending::default();
        pending.set_pinned(&romeo_pinned());
        for n in 0..2 * MAX_KNOWN {
            pending.seen(sighting(&format!("stranger {n}"), "", None));
            pending.pop();
        }
        assert_eq!(pending.told.len(), MAX_KNOWN);
        pending.seen(sighting("romeo", "", Some(1)));
        let mut events = std::iter::from_fn(|| pending.pop()).collect::<Vec<_>>();
        assert!(
            matches!(events.pop(), Some(DiscoveryEvent::Seen(seen)) if seen.instance == "romeo")
        );
        assert!(matches!(events.pop(), Some(DiscoveryEvent::Gone(_))));
    }

    #[test]
    fn a_flood_of_claims_pushes_out_strangers_and_no_pinned_name() {
        let mut pending = Pending::default();
        pending.set_pinned(&romeo_pinned());
        pending.seen(sighting("stranger", "", Some(9)));
        for n in 0..2 * MAX_WAITING {
            pending.seen(sighting(&format!("forged {n}"), "", Some(1)));
        }
        // It comes last, and with another key, which the session is to show.
        pending.seen(sighting("romeo", "", Some(2)));
        for n in 0..2 * MAX_WAITING {
            pending.seen(sighting(&format!("late {n}"), "", Some(1)));
        }
        let mut told = Vec::new();
        while let Some(DiscoveryEvent::Seen(seen)) = pending.pop() {
            told.push(seen.instance);
        }
        assert_eq!(told.len(), MAX_WAITING);
        assert!(told.contains(&"romeo".to_owned()));
        assert!(!told.contains(&"stranger".to_owned()));
    }

    #[test]
    fn among_the_known_strangers_go_first_then_claims_and_each_makes_room_for_one() {
        let mut pending = Pending::default();
        let pinned = [(1, "romeo"), (2, "juliet")];
        let pinned = pinned.map(|(key, name)| (KeyId([key; 32]), name.to_owned()));
        pending.set_pinned(&pinned.into());
        pending.seen(sighting("romeo", "", Some(1)));
        pending.pop();
        pending.seen(sighting("stranger", "", None));
        pending.pop();
        for n in 0..2 * MAX_KNOWN {
            pending.seen(sighting(&format!("forged {n}"), "", Some(1)));
            while pending.pop().is_some() {}
            assert!(pending.told.len() <= MAX_KNOWN);
        }
        let names = |pending: &Pending| pending.told.keys().cloned().collect::<BTreeSet<_>>();
        assert!(!names(&pending).contains("stranger"), "it went first");
        // While the session does not listen, nobody takes the place of one that goes already.
        pending.told.remove("romeo");
        pending.seen(sighting("forged again", "", Some(1)));
        while pending.pop().is_some() {}
        for name in ["romeo", "juliet"] {
            pending.seen(sighting(name, "", None));
        }
        let events = std::iter::from_fn(|| pending.pop()).collect::<Vec<_>>();
        let gone = |event: &&DiscoveryEvent| matches!(event, DiscoveryEvent::Gone(_));
        assert_eq!(events.iter().filter(gone).count(), 2);
        assert_eq!(pending.told.len(), MAX_KNOWN);
        let told = names(&pending);
        assert!(told.contains("romeo") && told.contains("juliet"));
    }

    #[test]
    fn after_browsing_again_those_not_heard_of_are_gone() {
        let mut pending = Pending::default();
        for name in ["romeo", "juliet"] {
            pending.seen(sighting(name, "", None));
            pending.pop();
        }
        pending.begin_again();
        pending.seen(sighting("romeo", "", None));
        pending.settle();
        assert_eq!(pending.pop(), Some(DiscoveryEvent::Gone("juliet".into())));
        assert_eq!(pending.pop(), None);
    }
}
