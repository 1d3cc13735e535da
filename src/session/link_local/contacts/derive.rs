//! Contacts, worked out from sightings and trust.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use actors::runtime::Time;

use super::super::discovery::Sighting;
use crate::session::{ContactId, Trust, trust::KeyId};

use super::{
    Change, Contacts, Entry, GRACE, MAX_CLAIMS, MAX_LOST, MAX_PER_ADDRESS, MAX_SIGHTINGS, PROTOCOL,
    Seen,
};

impl Contacts {
    pub(super) fn is_pinned(&self, sighting: &Sighting) -> bool {
        let key = sighting.text.key;
        key.is_some_and(|key| self.trust.by_key(PROTOCOL, key).is_some())
    }

    pub(super) fn has_room(&mut self, newcomer: &Sighting) -> bool {
        let others = || self.sightings.values().map(|seen| &seen.sighting);
        let key = newcomer.text.key;
        if let Some(row) = key.and_then(|key| self.trust.by_key(PROTOCOL, key)) {
            let same = || {
                self.sightings
                    .values()
                    .filter(|seen| seen.sighting.text.key == key)
            };
            if same().count() >= MAX_CLAIMS {
                // Claims are free: they must not keep out the one name that is known.
                if newcomer.instance != row.contact {
                    return false;
                }
                let newest = same().max_by_key(|seen| seen.order);
                let victim = newest.map(|seen| seen.sighting.instance.clone());
                return victim.is_some_and(|victim| self.sightings.remove(&victim).is_some());
            }
            if self.sightings.len() < MAX_SIGHTINGS {
                return true;
            }
            let victim = self
                .sightings
                .values()
                .filter(|seen| !self.is_pinned(&seen.sighting))
                .min_by_key(|seen| seen.order)
                .map(|seen| seen.sighting.instance.clone());
            return victim.is_some_and(|victim| self.sightings.remove(&victim).is_some());
        }
        let address = newcomer.addresses.first().map(SocketAddr::ip);
        self.sightings.len() < MAX_SIGHTINGS
            && others()
                .filter(|other| other.addresses.first().map(SocketAddr::ip) == address)
                .count()
                < MAX_PER_ADDRESS
    }

    /// Works the table out anew and tells what changed.
    pub(super) fn refresh(&mut self, now: Time) -> Vec<Change> {
        let mut fresh: BTreeMap<ContactId, (Option<KeyId>, Trust, Vec<String>)> = BTreeMap::new();
        // Looked up once for each sighting, of which a flood brings many.
        let (mut by_key, mut by_name) = (HashMap::new(), HashMap::new());
        for row in self
            .trust
            .rows()
            .iter()
            .filter(|row| row.protocol == PROTOCOL)
        {
            let trust = match row.verified {
                Some(verified) => Trust::Verified {
                    since: row.first_seen,
                    verified,
                },
                None => Trust::Pinned {
                    since: row.first_seen,
                },
            };
            by_key.insert(row.key, row);
            by_name.insert(row.contact.to_lowercase(), row);
            fresh.insert(
                ContactId(row.contact.clone()),
                (Some(row.key), trust, Vec::new()),
            );
        }
        let mut seen: Vec<&Seen> = self.sightings.values().collect();
        seen.sort_by_key(|seen| seen.order);
        self.by_instance.clear();
        for Seen { sighting, .. } in seen {
            let (name, key) = (&sighting.instance, sighting.text.key);
            let pinned = key.and_then(|key| by_key.get(&key));
            let (mut id, trust) = if let Some(row) = pinned {
                let id = ContactId(row.contact.clone());
                if let Some((_, _, instances)) = fresh.get_mut(&id) {
                    instances.push(name.clone());
                }
                self.by_instance.insert(name.clone(), id);
                continue;
            } else if let Some(row) = by_name.get(&name.to_lowercase()) {
                // Names that differ in case only are one name in DNS, and to the eye.
                let part = key.map_or_else(|| "no key".to_owned(), |key| key.short());
                let trust = Trust::Blocked { pinned: row.key };
                (ContactId(format!("{name} ({part})")), trust)
            } else {
                let trust = key.map_or(Trust::NoKey, |_| Trust::Unpinned);
                (ContactId(name.clone()), trust)
            };
            if fresh.contains_key(&id) {
                // Somebody chose a name that looks like ours for a blocked contact.
                let Some(key) = key else { continue };
                id = ContactId(format!("{name} ({key})"));
                if fresh.contains_key(&id) {
                    continue;
                }
            }
            self.by_instance.insert(name.clone(), id.clone());
            fresh.insert(id, (key, trust, vec![name.clone()]));
        }
        self.adopt(fresh, now)
    }

    pub(super) fn adopt(
        &mut self,
        fresh: BTreeMap<ContactId, (Option<KeyId>, Trust, Vec<String>)>,
        now: Time,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let absent = self
            .entries
            .keys()
            .filter(|id| !fresh.contains_key(id))
            .cloned()
            .collect::<Vec<_>>();
        for id in absent {
            if let Some(entry) = self.entries.get_mut(&id) {
                let was_pinned =
                    matches!(entry.trust, Trust::Pinned { .. } | Trust::Verified { .. });
                if was_pinned {
                    entry.trust = Trust::Unpinned;
                    changes.push(Change::Changed(id.clone()));
                }
                out_of_sight(&id, entry, now, &mut changes);
            }
        }
        for (id, (key, trust, instances)) in fresh {
            let last = instances
                .last()
                .and_then(|instance| self.sightings.get(instance))
                .map(|seen| seen.sighting.clone());
            let Some(entry) = self.entries.get_mut(&id) else {
                self.entries.insert(
                    id.clone(),
                    Entry {
                        key,
                        trust,
                        instances,
                        last,
                        proven: None,
                        proven_from: None,
                        live: false,
                        lost_at: None,
                        probed_twice: false,
                        asked: None,
                        plain_features: None,
                    },
                );
                changes.push(Change::Changed(id));
                continue;
            };
            if entry.key != key {
                entry.key = key;
                entry.proven = None;
                entry.proven_from = None;
                entry.asked = None;
                entry.plain_features = None;
                entry.live = false;
                changes.push(Change::Rekeyed(id.clone()));
                changes.push(Change::Changed(id.clone()));
            }
            if entry.trust != trust {
                entry.trust = trust;
                changes.push(Change::Changed(id.clone()));
            }
            if instances.is_empty() {
                out_of_sight(&id, entry, now, &mut changes);
                continue;
            }
            if entry.instances != instances {
                entry.instances = instances;
                changes.push(Change::Changed(id.clone()));
            }
            entry.last = last;
            entry.lost_at = None;
            entry.probed_twice = false;
        }
        self.lose_some(&mut changes);
        changes.extend(self.forget_lost());
        let mut told = Vec::new();
        changes.retain(|change| {
            let first = !told.contains(change);
            told.push(change.clone());
            first
        });
        changes
    }

    /// Ends the grace of those beyond [`MAX_LOST`], the earliest first.
    fn lose_some(&mut self, changes: &mut Vec<Change>) {
        let mut waiting: Vec<(Time, ContactId)> = self
            .entries
            .iter()
            .filter(|(id, entry)| !entry.live && !self.has_pin(id))
            .filter_map(|(id, entry)| Some((entry.lost_at?, id.clone())))
            .collect();
        if waiting.len() <= MAX_LOST {
            return;
        }
        waiting.sort();
        let excess = waiting.len() - MAX_LOST;
        for (_, id) in waiting.into_iter().take(excess) {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.lost_at = None;
                entry.probed_twice = true;
                changes.push(Change::Lost(id));
            }
        }
    }

    /// Takes out those that are out of sight, not live, past their grace and not pinned.
    pub(super) fn forget_lost(&mut self) -> Vec<Change> {
        let keep = |entry: &Entry| {
            entry.live
                || entry.lost_at.is_some()
                || !entry.instances.is_empty()
                || matches!(entry.trust, Trust::Pinned { .. } | Trust::Verified { .. })
        };
        let mut changes = Vec::new();
        self.entries.retain(|id, entry| {
            let keep = keep(entry);
            if !keep {
                changes.push(Change::Removed(id.clone()));
            }
            keep
        });
        let keys: BTreeSet<KeyId> = self
            .entries
            .values()
            .filter_map(|entry| entry.key)
            .collect();
        self.features.retain(|key, _| keys.contains(key));
        // A run that said goodbye closed its tubes itself; whoever waits for the next must not lose
        // what is offered to that.
        let present: BTreeSet<KeyId> = self
            .entries
            .values()
            .filter(|entry| entry.live || !entry.instances.is_empty())
            .filter_map(|entry| entry.key)
            .collect();
        self.runs.retain(|key, _| present.contains(key));
        changes
    }
}

/// Nobody claims to be this contact now.
fn out_of_sight(id: &ContactId, entry: &mut Entry, now: Time, changes: &mut Vec<Change>) {
    let vanished = !entry.instances.is_empty();
    entry.instances.clear();
    if vanished {
        changes.push(Change::Changed(id.clone()));
    }
    if entry.live {
        if vanished {
            changes.push(Change::Probe(id.clone()));
        }
    } else if entry.lost_at.is_none() && entry.last.is_some() && (vanished || !entry.probed_twice) {
        entry.lost_at = Some(now + GRACE);
        entry.probed_twice = false;
        changes.push(Change::Changed(id.clone()));
        changes.push(Change::Probe(id.clone()));
    }
}
