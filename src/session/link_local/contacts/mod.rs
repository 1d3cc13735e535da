//! Who is who: the contact table. Pure: sightings, streams, trust and the time come from outside.
//!
//! ```text
//!  sighting (name, key it claims)      trust table              contact
//!  ─────────────────────────────────────────────────────────────────────────────────────────
//!  any name, a pinned key          ──  row of that key     ──▶  the pinned contact
//!  a pinned name, another key      ──  row of that name    ──▶  "name (abcd1234)", blocked
//!  a pinned name, no key           ──  row of that name    ──▶  "name (no key)", blocked
//!  any other name                  ──  nothing             ──▶  "name", not pinned
//! ```
//!
//! The whole table is worked out anew from sightings and trust after each change (`Contacts::refresh`),
//! so that no order of events can leave it in a state that another order would not.
//!
//! A contact that nobody sees any more and that has no live stream is offline; after [`GRACE`] it is
//! lost, and forgotten if it is not pinned. A goodbye, which anybody can forge, thus ends nothing by
//! itself: it makes us look ([`Change::Probe`]) whether the contact is still there.
//!
//! Bounds: [`MAX_SIGHTINGS`] in all and [`MAX_PER_ADDRESS`] at one address, beyond which sightings that
//! claim no pinned key are not taken; one that claims a pinned key pushes out one that does not.
//! At most [`MAX_CLAIMS`] names may claim one pinned key; the name it was pinned under always may.
//! Of contacts that are not pinned at most [`MAX_LOST`] wait out of sight for the end of their grace;
//! one more is lost at once.

mod claims;
mod derive;
mod trust;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actors::{model::Error, runtime::Time};

use super::{
    discovery::{MAX_ADDRESSES, Sighting},
    network::Known,
};
use crate::session::{
    Contact, ContactId, Presence, Show, Trust,
    trust::{KeyId, RunId, TrustTable},
};

/// Telepathy's name of the protocol, as in trust rows.
pub const PROTOCOL: &str = "local-xmpp";
/// Most sightings that are kept.
pub const MAX_SIGHTINGS: usize = 1024;
/// Most sightings that share their first address and claim no pinned key.
pub const MAX_PER_ADDRESS: usize = 64;
/// Most names that may claim one pinned key.
pub const MAX_CLAIMS: usize = 4;
/// Most contacts that are not pinned and out of sight.
pub const MAX_LOST: usize = 256;
/// How long a contact may be out of sight without a live stream before its tubes close.
pub const GRACE: Duration = Duration::from_secs(30);
/// Addresses tried for one contact.
const MAX_ROUTE: usize = 8;

/// What follows from a change, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// What is known of the contact changed.
    Changed(ContactId),
    /// The contact is forgotten.
    Removed(ContactId),
    /// [`GRACE`] has passed, or its program was started anew: tubes with the contact close.
    Lost(ContactId),
    /// Its features are not known or have changed: ask.
    Ask(ContactId),
    /// It went out of sight: see whether it answers all the same.
    Probe(ContactId),
    /// Streams with the contact that proved another key, or none, are those of somebody else now.
    Rekeyed(ContactId),
}

/// Where a contact can be reached, and who has to answer there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its addresses, the best first, each with the name that was seen there: `to` of the stream.
    pub ways: Vec<(SocketAddr, String)>,
    /// The key that has to be proved; `None` for a stream in plaintext.
    pub key: Option<KeyId>,
}

/// Whether somebody who opened a stream is who it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is this contact.
    Is(ContactId),
    /// No record says so yet; it may still come.
    Unknown,
    /// It is not, or must not be.
    Refused(&'static str),
}

#[derive(Debug)]
struct Seen {
    sighting: Sighting,
    order: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: Option<KeyId>,
    trust: Trust,
    /// Names under which it is seen, the oldest first.
    instances: Vec<String>,
    /// The last sighting there was, kept for a contact out of sight.
    last: Option<Sighting>,
    /// Where it last proved its key to us who dialled.
    proven: Option<SocketAddr>,
    /// Where it last proved its key, whoever dialled.
    proven_from: Option<IpAddr>,
    live: bool,
    lost_at: Option<Time>,
    probed_twice: bool,
    asked: Option<String>,
    plain_features: Option<Arc<BTreeSet<String>>>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Contacts {
    own_key: KeyId,
    own_name: String,
    require_encryption: bool,
    trust: TrustTable,
    sightings: BTreeMap<String, Seen>,
    entries: BTreeMap<ContactId, Entry>,
    by_instance: BTreeMap<String, ContactId>,
    /// Features by key and the `ver` they were asked under; only of keys that are in the table.
    features: BTreeMap<KeyId, (String, Arc<BTreeSet<String>>)>,
    /// The run of the program that each key was last seen in; only of keys that are in the table.
    runs: BTreeMap<KeyId, RunId>,
    next_order: u64,
}

impl Contacts {
    /// The table with nobody in sight.
    pub fn new(own_key: KeyId, require_encryption: bool, trust: TrustTable) -> Self {
        let mut contacts = Contacts {
            own_key,
            own_name: String::new(),
            require_encryption,
            trust,
            sightings: BTreeMap::new(),
            entries: BTreeMap::new(),
            by_instance: BTreeMap::new(),
            features: BTreeMap::new(),
            runs: BTreeMap::new(),
            next_order: 0,
        };
        // Nobody is told yet: whoever begins to listen asks for everybody.
        drop(contacts.refresh(Time::ZERO));
        contacts
    }

    /// The table of trusted keys, to be stored.
    pub fn trust(&self) -> &TrustTable {
        &self.trust
    }

    /// Goes back to an earlier table.
    pub fn restore(&mut self, trust: TrustTable, now: Time) -> Vec<Change> {
        self.trust = trust;
        self.refresh(now)
    }

    /// All pinned keys, and the name that each was pinned under.
    pub fn pinned(&self) -> BTreeMap<KeyId, String> {
        let rows = self.trust.rows().iter();
        rows.filter(|row| row.protocol == PROTOCOL)
            .map(|row| (row.key, row.contact.clone()))
            .collect()
    }

    /// Our own name changed.
    pub fn set_own_name(&mut self, name: &str, now: Time) -> Vec<Change> {
        self.own_name = name.to_owned();
        self.sightings.remove(name);
        self.refresh(now)
    }

    /// Somebody was seen.
    pub fn seen(&mut self, sighting: Sighting, now: Time) -> Vec<Change> {
        if sighting.instance == self.own_name || sighting.text.key == Some(self.own_key) {
            return Vec::new();
        }
        if !self.sightings.contains_key(&sighting.instance) && !self.has_room(&sighting) {
            return Vec::new();
        }
        let (instance, text) = (sighting.instance.clone(), sighting.text.clone());
        let order = match self.sightings.get(&instance) {
            Some(seen) if seen.sighting.text.key == text.key => seen.order,
            _ => {
                self.next_order += 1;
                self.next_order
            }
        };
        let before = self
            .sightings
            .insert(instance.clone(), Seen { sighting, order });
        let mut changes = self.refresh(now);
        let text_changed = before.is_none_or(|before| before.sighting.text != text);
        if let Some(id) = self.by_instance.get(&instance).cloned() {
            if text_changed && !changes.contains(&Change::Changed(id.clone())) {
                changes.push(Change::Changed(id.clone()));
            }
            changes.extend(self.ask(&id, &text.ver));
        }
        changes
    }

    /// Somebody said goodbye, or so it seems.
    pub fn gone(&mut self, instance: &str, now: Time) -> Vec<Change> {
        match self.sightings.remove(instance) {
            Some(_) => self.refresh(now),
            None => Vec::new(),
        }
    }

    /// A stream with the contact was authenticated, or, in plaintext, believed.
    pub fn stream_up(
        &mut self,
        id: &ContactId,
        peer: SocketAddr,
        port_is_its: bool,
        now: Time,
    ) -> Vec<Change> {
        let Some(entry) = self.entries.get_mut(id) else {
            return Vec::new();
        };
        entry.proven_from = Some(peer.ip());
        if port_is_its {
            entry.proven = Some(peer);
        }
        let was_offline = !entry.live && entry.instances.is_empty();
        entry.live = true;
        entry.lost_at = None;
        entry.probed_twice = false;
        let mut changes = self.refresh(now);
        if was_offline {
            changes.push(Change::Changed(id.clone()));
        }
        changes
    }

    /// Whoever has this key is at this run of its program, as it proved in TLS. If it was at another
    /// one, that has ended without a word, and tubes that were agreed on with it lead nowhere.
    pub fn runs_as(&mut self, key: KeyId, run: RunId) -> Vec<Change> {
        match self.runs.insert(key, run) {
            Some(before) if before != run => {
                let same = |(_, entry): &(&ContactId, &Entry)| entry.key == Some(key);
                let ids = self.entries.iter().filter(same).map(|(id, _)| id.clone());
                ids.map(Change::Lost).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The contact's last stream ended.
    pub fn stream_down(&mut self, id: &ContactId, now: Time) -> Vec<Change> {
        let Some(entry) = self.entries.get_mut(id) else {
            return Vec::new();
        };
        entry.live = false;
        // Whoever has to be asked again is asked on the next stream.
        entry.asked = None;
        self.refresh(now)
    }

    /// A contact answered service discovery.
    pub fn answered(&mut self, id: &ContactId, features: BTreeSet<String>) -> Vec<Change> {
        let ver = self.ver(id);
        let Some(entry) = self.entries.get_mut(id) else {
            return Vec::new();
        };
        let features = Arc::new(features);
        match entry.key {
            Some(key) => {
                self.features.insert(key, (ver, features));
                // One key may have several contacts; those that are not pinned.
                let same = |(_, entry): &(&ContactId, &Entry)| entry.key == Some(key);
                let ids = self.entries.iter().filter(same).map(|(id, _)| id.clone());
                ids.map(Change::Changed).collect()
            }
            None => {
                entry.plain_features = Some(features);
                vec![Change::Changed(id.clone())]
            }
        }
    }

    /// Features asked under the `ver` the contact announces now; asking again is not needed.
    pub fn known_features(&self, id: &ContactId) -> Option<Arc<BTreeSet<String>>> {
        let (ver, features) = self.features.get(&self.entries.get(id)?.key?)?;
        (!ver.is_empty() && *ver == self.ver(id)).then(|| features.clone())
    }

    /// When [`Contacts::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        let deadline = |entry: &Entry| {
            entry.lost_at.map(|at| {
                if entry.probed_twice {
                    at
                } else {
                    at.saturating_sub(GRACE / 2)
                }
            })
        };
        self.entries.values().filter_map(deadline).min()
    }

    /// Time has passed.
    pub fn expire(&mut self, now: Time) -> Vec<Change> {
        let mut changes = Vec::new();
        for (id, entry) in &mut self.entries {
            match entry.lost_at {
                Some(at) if at <= now => {
                    entry.lost_at = None;
                    entry.probed_twice = true;
                    changes.push(Change::Lost(id.clone()));
                }
                Some(at) if !entry.probed_twice && at.saturating_sub(GRACE / 2) <= now => {
                    entry.probed_twice = true;
                    changes.push(Change::Probe(id.clone()));
                }
                _ => {}
            }
        }
        changes.extend(self.forget_lost());
        changes
    }

    /// What is known of a contact.
    pub fn contact(&self, id: &ContactId) -> Option<Contact> {
        let entry = self.entries.get(id)?;
        let visible = entry.live || !entry.instances.is_empty();
        let sighting = self.sighting_of(entry);
        Some(Contact {
            id: id.clone(),
            alias: sighting.map_or_else(
                || id.0.clone(),
                |sighting| sighting.text.alias(&sighting.instance),
            ),
            presence: sighting
                .filter(|_| visible)
                .map_or_else(offline, |sighting| sighting.text.presence()),
            features: match entry.key {
                Some(key) => self
                    .features
                    .get(&key)
                    .map(|(_, features)| features.clone()),
                None => entry.plain_features.clone(),
            },
            key: entry.key,
            trust: entry.trust.clone(),
        })
    }

    /// Whether our user dealt with the contact: its key is pinned.
    pub fn has_pin(&self, id: &ContactId) -> bool {
        let pinned =
            |entry: &Entry| matches!(entry.trust, Trust::Pinned { .. } | Trust::Verified { .. });
        self.entries.get(id).is_some_and(pinned)
    }

    /// The addresses of the pinned contacts.
    pub fn known(&self) -> Known {
        let mut known = Known::default();
        for (id, entry) in &self.entries {
            if !self.has_pin(id) {
                continue;
            }
            known.proven.extend(entry.proven_from);
            let seen = entry.instances.iter();
            let claims = seen
                .filter_map(|instance| self.sightings.get(instance))
                .map(|seen| &seen.sighting)
                .chain(&entry.last);
            let addresses = claims.flat_map(|claim| &claim.addresses);
            known.claimed.extend(addresses.map(SocketAddr::ip));
        }
        known
    }

    /// Everybody.
    pub fn ids(&self) -> Vec<ContactId> {
        self.entries.keys().cloned().collect()
    }

    /// Where to reach a contact.
    ///
    /// # Errors
    /// `CertFingerprintMismatch` for a blocked one, `EncryptionNotAvailable` for one without a key
    /// where encryption is required, `Offline` for one whose addresses are not known, `NotAvailable`
    /// for one that does not exist.
    pub fn route(&self, id: &ContactId) -> Result<Route, Error> {
        let entry = self.entry(id)?;
        if let Trust::Blocked { pinned } = &entry.trust {
            return Err(blocked(id, *pinned, entry.key));
        }
        if entry.key.is_none() && self.require_encryption {
            return Err(Error::EncryptionNotAvailable(format!(
                "{id} offers no encryption, and this account requires it"
            )));
        }
        let offline = || Error::Offline(format!("{id} is not on the network"));
        let seen = entry.instances.iter().rev();
        let mut claims: Vec<&Sighting> = seen
            .filter_map(|instance| self.sightings.get(instance))
            .map(|seen| &seen.sighting)
            .chain(&entry.last)
            .collect();
        // Anybody can claim a key, under any name and with any addresses; a stream shows who has
        // it. So each claim has its turn, that of the name we know first.
        claims.sort_by_key(|claim| claim.instance != id.0);
        let way = |address: SocketAddr, claim: &Sighting| (address, claim.instance.clone());
        let mut ways = Vec::new();
        if let Some(proven) = entry.proven {
            let there = |claim: &&&Sighting| claim.addresses.contains(&proven);
            ways.extend(claims.iter().filter(there).map(|claim| way(proven, claim)));
            if ways.is_empty() {
                ways.extend(claims.first().map(|claim| way(proven, claim)));
            }
        }
        for turn in 0..MAX_ADDRESSES {
            let of = |claim: &&Sighting| Some(way(*claim.addresses.get(turn)?, claim));
            ways.extend(claims.iter().filter_map(of));
        }
        let mut unique = BTreeSet::new();
        ways.retain(|way| unique.insert(way.clone()));
        ways.truncate(MAX_ROUTE);
        if ways.is_empty() {
            return Err(offline());
        }
        Ok(Route {
            ways,
            key: entry.key,
        })
    }

    fn entry(&self, id: &ContactId) -> Result<&Entry, Error> {
        self.entries
            .get(id)
            .ok_or_else(|| Error::NotAvailable(format!("{id} is not known")))
    }

    /// The newest claim that is in sight, else the last there was.
    fn sighting_of<'a>(&'a self, entry: &'a Entry) -> Option<&'a Sighting> {
        entry
            .instances
            .last()
            .and_then(|instance| self.sightings.get(instance))
            .map(|seen| &seen.sighting)
            .or(entry.last.as_ref())
    }

    fn ver(&self, id: &ContactId) -> String {
        self.entries
            .get(id)
            .and_then(|entry| self.sighting_of(entry))
            .map(|sighting| sighting.text.ver.clone())
            .unwrap_or_default()
    }

    fn ask(&mut self, id: &ContactId, ver: &str) -> Option<Change> {
        if self.known_features(id).is_some() || self.route(id).is_err() {
            return None;
        }
        let entry = self.entries.get_mut(id)?;
        if entry.asked.as_deref() == Some(ver) {
            return None;
        }
        entry.asked = Some(ver.to_owned());
        Some(Change::Ask(id.clone()))
    }
}

fn offline() -> Presence {
    Presence {
        show: Show::Offline,
        message: String::new(),
    }
}

fn blocked(id: &ContactId, pinned: KeyId, key: Option<KeyId>) -> Error {
    let key = key.map_or_else(|| "none".to_owned(), |key| key.to_string());
    Error::CertFingerprintMismatch(format!(
        "{id} is blocked: the key pinned for this name is {pinned}, this one's is {key}"
    ))
}

#[cfg(test)]
mod tests;
