//! What is waiting to be told to the session: pure, coalesced and bounded.
//!
//! A flood of announcements is one anybody can make. Of each instance only the latest news waits;
//! when [`MAX_WAITING`] instances wait, news of somebody who claims a pinned key pushes out that of
//! somebody who does not, and other news is dropped (its sender will be heard again). Unchanged news
//! is not news: what was told last is remembered for [`MAX_KNOWN`] instances.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::{DiscoveryEvent, Sighting};
use crate::session::trust::KeyId;

/// Most instances whose news wait.
pub const MAX_WAITING: usize = 512;
/// Most instances that are remembered. Others are neither told nor remembered.
pub const MAX_KNOWN: usize = 2048;

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
    pinned: BTreeSet<KeyId>,
    /// How many news were dropped.
    pub dropped: u64,
}

impl Pending {
    /// Whose news push out others.
    pub fn set_pinned(&mut self, keys: BTreeSet<KeyId>) {
        self.pinned = keys;
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

    fn is_pinned(&self, sighting: &Sighting) -> bool {
        sighting
            .text
            .key
            .is_some_and(|key| self.pinned.contains(&key))
    }

    fn make_room(&mut self, newcomer: &Sighting) -> bool {
        if !self.is_pinned(newcomer) {
            return false;
        }
        let victim = self.order.iter().find(|instance| {
            matches!(self.news.get(*instance), Some(News::Seen(other)) if !self.is_pinned(other))
                && !self.told.contains_key(*instance)
        });
        let Some(victim) = victim.cloned() else {
            return false;
        };
        self.dropped += 1;
        self.withdraw(&victim);
        true
    }

    fn make_room_in_known(&mut self, newcomer: &Sighting) -> bool {
        if !self.is_pinned(newcomer) {
            return false;
        }
        let victim = self
            .told
            .values()
            .find(|other| !self.is_pinned(other))
            .map(|other| other.instance.clone());
        let Some(victim) = victim else {
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
        pending.set_pinned([KeyId([1; 32])].into());
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
        pending.set_pinned([KeyId([1; 32])].into());
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
