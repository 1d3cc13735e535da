//! Who is on the network, as the daemon tells it, and who of them is looked at. Pure.
//!
//! The browser tells where an instance is heard ([`Place`]); a resolver for each place tells address and
//! record, once and whenever they change, for as long as it is kept.
//!
//! ```text
//!  ItemNew ──▶ Queued ── Prepare ──▶ Preparing ── Start ──▶ Watched ── Failure, or others' turn ──▶ Resting
//!                ▲                                             │ Found                                │
//!                └─────────────── one each REVISIT ────────────┼──────────────────────────────────────┘
//!  ItemRemove ──▶ gone                                         └──▶ Seen
//! ```
//!
//! Bounds, since anybody can make names: [`MAX_PLACES`] are known; one more takes the place of nobody but
//! is left out, unless it is favoured. [`MAX_WATCHED`] resolvers exist (the daemon allows a program 1,024
//! objects): one more takes the turn of one that has answered and is not favoured, and [`MAX_UNANSWERED`]
//! are waited for at a time. Who rests is looked at again in turn: each time one of the pinned names,
//! which those who make names cannot hold up, and one of the others, which they in turn do not starve.
//!
//! Favoured are the names that keys were pinned under, all of them, and of the other names whose records
//! claim a pinned key [`MAX_CLAIMED`] for each key, as long as they do. Claims are free: they give way to
//! the pinned names.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use actors::runtime::Time;

use super::{
    super::{MAX_ADDRESSES, MAX_INSTANCE, PresenceText, Sighting, clean},
    wire::{Call, Place},
};
use crate::session::trust::KeyId;

/// Most places that are known. The daemon itself remembers 4,096 records for each interface.
pub const MAX_PLACES: usize = 4096;
/// Most resolvers.
pub const MAX_WATCHED: usize = 768;
/// Most resolvers that have not answered. Those of names that nobody answers for go after five seconds.
pub const MAX_UNANSWERED: usize = 192;
/// Most names besides the one it was pinned under that are favoured for claiming a pinned key. Others are
/// strangers'.
pub const MAX_CLAIMED: usize = 2;
/// How often one of the pinned names that rest is looked at again, and one of the others.
pub const REVISIT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Queued,
    Preparing,
    Watched { path: String, answered: bool },
    Resting,
}

#[derive(Debug)]
struct Heard {
    progress: Progress,
    address: Option<SocketAddr>,
    /// Whether address and record were found, now or before.
    found: bool,
}

#[derive(Debug, Default)]
struct Instance {
    /// By interface and protocol.
    places: BTreeMap<(i32, i32), Heard>,
    /// The latest record.
    text: PresenceText,
}

/// What follows for the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Somebody is there, like this.
    Seen(Box<Sighting>),
    /// Nobody is there any more.
    Gone(String),
}

/// How the daemon answered a `ServiceResolverPrepare`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// With a resolver.
    Made(String),
    /// We have too many objects.
    TooMany,
    /// Otherwise.
    Refused,
}

/// See the module's head.
#[derive(Debug)]
pub struct Neighbours {
    instances: BTreeMap<String, Instance>,
    places: usize,
    /// Whose resolver it is, by its path.
    paths: BTreeMap<String, Place>,
    preparing: usize,
    unanswered: usize,
    queue: VecDeque<Place>,
    resting: VecDeque<Place>,
    revisit_at: Option<Time>,
    /// Pinned keys.
    pinned: BTreeSet<KeyId>,
    /// The names that they were pinned under.
    names: BTreeSet<String>,
    /// Other names that are heard, and the pinned key that the latest record of each claims.
    claimed: BTreeMap<String, KeyId>,
    /// [`MAX_WATCHED`], or less where the daemon allows less.
    most: usize,
}

impl Default for Neighbours {
    fn default() -> Self {
        Neighbours {
            instances: BTreeMap::new(),
            places: 0,
            paths: BTreeMap::new(),
            preparing: 0,
            unanswered: 0,
            queue: VecDeque::new(),
            resting: VecDeque::new(),
            revisit_at: None,
            pinned: BTreeSet::new(),
            names: BTreeSet::new(),
            claimed: BTreeMap::new(),
            most: MAX_WATCHED,
        }
    }
}

impl Neighbours {
    /// Whose resolvers are kept: pinned keys, and the name that each was pinned under.
    pub fn set_pinned(&mut self, pinned: BTreeMap<KeyId, String>) {
        self.pinned = pinned.keys().copied().collect();
        self.names = pinned.into_values().collect();
        // Those that are favoured already come first.
        let before = std::mem::take(&mut self.claimed);
        let claims = self.instances.iter();
        let claims = claims.filter_map(|(name, each)| Some((name.clone(), each.text.key?)));
        let claims: Vec<(String, KeyId)> = before.into_iter().chain(claims).collect();
        for (name, key) in claims {
            self.claims(&name, Some(key));
        }
    }

    /// The daemon is gone; nobody is gone with it.
    pub fn lost(&mut self) {
        *self = Neighbours {
            pinned: std::mem::take(&mut self.pinned),
            names: std::mem::take(&mut self.names),
            ..Neighbours::default()
        };
    }

    /// The record of a name claims this key now.
    fn claims(&mut self, name: &str, key: Option<KeyId>) {
        if key.is_some() && self.claimed.get(name).copied() == key {
            return;
        }
        self.claimed.remove(name);
        let pinned = key.filter(|key| self.pinned.contains(key) && !self.names.contains(name));
        let Some(key) = pinned else {
            return;
        };
        if self.claimed.values().filter(|each| **each == key).count() < MAX_CLAIMED {
            self.claimed.insert(name.to_owned(), key);
        }
    }

    fn enqueue(&mut self, place: Place) {
        // Nobody else can hold up a pinned name.
        match self.names.contains(&place.name) {
            true => self.queue.push_front(place),
            false => self.queue.push_back(place),
        }
    }

    fn heard(&mut self, place: &Place) -> Option<&mut Heard> {
        let instance = self.instances.get_mut(&place.name)?;
        instance.places.get_mut(&(place.interface, place.protocol))
    }

    /// Somebody is heard at a place. A stranger chose the name.
    pub fn appeared(&mut self, place: Place) {
        let name = &place.name;
        let fits = !name.is_empty() && name.len() <= MAX_INSTANCE && clean(name) == *name;
        if !fits || self.heard(&place).is_some() {
            return;
        }
        let favoured = self.names.contains(name) || self.claimed.contains_key(name);
        if self.places >= MAX_PLACES && !favoured {
            tracing::debug!("too many names on the network: one is left out");
            return;
        }
        self.places += 1;
        let heard = Heard {
            progress: Progress::Queued,
            address: None,
            found: false,
        };
        self.instances
            .entry(name.clone())
            .or_default()
            .places
            .insert((place.interface, place.protocol), heard);
        self.enqueue(place);
    }

    /// Nobody is heard there any more.
    pub fn removed(&mut self, place: &Place, calls: &mut VecDeque<Call>) -> Option<News> {
        let instance = self.instances.get_mut(&place.name)?;
        let heard = instance.places.remove(&(place.interface, place.protocol))?;
        self.places -= 1;
        match heard.progress {
            Progress::Watched { path, answered } => {
                self.unanswered -= usize::from(!answered);
                self.paths.remove(&path);
                calls.push_back(Call::FreeResolver(path));
            }
            Progress::Queued => self.queue.retain(|queued| queued != place),
            Progress::Resting => self.resting.retain(|resting| resting != place),
            // Freed when it is answered.
            Progress::Preparing => {}
        }
        let instance = self.instances.get(&place.name)?;
        if instance.places.is_empty() {
            self.instances.remove(&place.name);
            self.claimed.remove(&place.name);
            return heard.found.then(|| News::Gone(place.name.clone()));
        }
        if !heard.found {
            return None;
        }
        // Others may still have to answer: who is heard elsewhere is not gone.
        self.seen(&place.name)
    }

    /// Resolvers to be made, as many as there is room for.
    pub fn next_calls(&mut self, now: Time, calls: &mut VecDeque<Call>) {
        if self.revisit_at.is_some_and(|at| at <= now) {
            self.revisit_at = None;
            for pinned in [false, true] {
                let fits = |place: &Place| self.names.contains(&place.name) == pinned;
                let first = self.resting.iter().position(fits);
                let Some(place) = first.and_then(|first| self.resting.remove(first)) else {
                    continue;
                };
                if let Some(heard) = self.heard(&place) {
                    heard.progress = Progress::Queued;
                }
                self.enqueue(place);
            }
        }
        while self.preparing + self.unanswered < MAX_UNANSWERED && !self.queue.is_empty() {
            if self.preparing + self.paths.len() >= self.most && !self.make_room(calls) {
                break;
            }
            let Some(place) = self.queue.pop_front() else {
                break;
            };
            let Some(heard) = self.heard(&place) else {
                continue;
            };
            heard.progress = Progress::Preparing;
            self.preparing += 1;
            calls.push_back(Call::PrepareResolver(place));
        }
        if !self.resting.is_empty() {
            self.revisit_at.get_or_insert(now + REVISIT);
        }
    }

    /// When to look again.
    pub fn next_deadline(&self) -> Option<Time> {
        self.revisit_at
    }

    fn make_room(&mut self, calls: &mut VecDeque<Call>) -> bool {
        let answered = |place: &Place| {
            let instance = self.instances.get(&place.name)?;
            let heard = instance.places.get(&(place.interface, place.protocol))?;
            Some(matches!(
                heard.progress,
                Progress::Watched { answered: true, .. }
            ))
        };
        let for_pinned = |place: &Place| self.names.contains(&place.name);
        let for_pinned = self.queue.front().is_some_and(for_pinned);
        let victim = self
            .paths
            .iter()
            .filter(|(_, place)| {
                let claimed = self.claimed.contains_key(&place.name);
                !self.names.contains(&place.name)
                    && (for_pinned || !claimed)
                    && answered(place).unwrap_or(false)
            })
            .min_by_key(|(_, place)| self.claimed.contains_key(&place.name));
        let Some((path, place)) = victim.map(|(path, place)| (path.clone(), place.clone())) else {
            return false;
        };
        self.rest(&path, &place, calls);
        true
    }

    fn rest(&mut self, path: &str, place: &Place, calls: &mut VecDeque<Call>) {
        self.paths.remove(path);
        calls.push_back(Call::FreeResolver(path.to_owned()));
        let Some(heard) = self.heard(place) else {
            return;
        };
        let before = std::mem::replace(&mut heard.progress, Progress::Resting);
        if matches!(
            before,
            Progress::Watched {
                answered: false,
                ..
            }
        ) {
            self.unanswered -= 1;
        }
        self.resting.push_back(place.clone());
    }

    /// The daemon made a resolver, or refused to: because there are too many, or for another reason.
    pub fn prepared(&mut self, place: &Place, made: Prepared, calls: &mut VecDeque<Call>) {
        self.preparing = self.preparing.saturating_sub(1);
        if made == Prepared::TooMany {
            // The daemon's own bound, which its administrator set.
            self.most = self.most.min(self.paths.len().max(1));
        }
        let waits = self
            .heard(place)
            .filter(|heard| heard.progress == Progress::Preparing);
        match (waits, made) {
            (Some(heard), Prepared::Made(path)) => {
                heard.progress = Progress::Watched {
                    path: path.clone(),
                    answered: false,
                };
                self.unanswered += 1;
                self.paths.insert(path.clone(), place.clone());
                calls.push_back(Call::StartResolver(path));
            }
            // Gone meanwhile.
            (None, Prepared::Made(path)) => calls.push_back(Call::FreeResolver(path)),
            (Some(heard), Prepared::TooMany | Prepared::Refused) => {
                heard.progress = Progress::Resting;
                self.resting.push_back(place.clone());
            }
            (None, _) => {}
        }
    }

    /// A resolver found address and record.
    pub fn found(
        &mut self,
        path: &str,
        address: Option<SocketAddr>,
        text: PresenceText,
    ) -> Option<News> {
        let place = self.paths.get(path)?.clone();
        let instance = self.instances.get_mut(&place.name)?;
        let heard = instance
            .places
            .get_mut(&(place.interface, place.protocol))?;
        heard.address = address;
        heard.found = true;
        let key = text.key;
        instance.text = text;
        if let Progress::Watched { answered, .. } = &mut heard.progress {
            self.unanswered -= usize::from(!std::mem::replace(answered, true));
        }
        self.claims(&place.name, key);
        self.seen(&place.name)
    }

    /// A resolver found nobody.
    pub fn not_found(&mut self, path: &str, calls: &mut VecDeque<Call>) {
        if let Some(place) = self.paths.get(path).cloned() {
            self.rest(path, &place, calls);
        }
    }

    fn seen(&self, name: &str) -> Option<News> {
        let instance = self.instances.get(name)?;
        let mut addresses: Vec<SocketAddr> = instance
            .places
            .values()
            .filter_map(|heard| heard.address)
            .collect();
        // In the order the other responder has, so that a change of responders is no news.
        addresses.sort_by_key(|address| (address.is_ipv6(), *address));
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        Some(News::Seen(Box::new(Sighting {
            instance: name.to_owned(),
            addresses,
            text: instance.text.clone(),
        })))
    }
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;
