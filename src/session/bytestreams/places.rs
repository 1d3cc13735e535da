//! How many bytestreams may be opening at the same time: altogether, and with one peer, so that a
//! contact that lets them hang keeps nobody else out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::session::trust::KeyId;

/// A peer, whichever of its XML streams it uses: it may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// Whoever proved this key.
    Key(KeyId),
    /// Whoever is there, in plaintext.
    Address(IpAddr),
}

/// The places of one direction.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<Peer, usize>>>);

/// One place; given back when it is dropped.
pub(super) struct Place {
    places: Places,
    peer: Peer,
}

impl Places {
    /// Takes a place, unless `most` are taken altogether or `most_each` by this peer.
    pub(super) fn take(&self, peer: Peer, most: usize, most_each: usize) -> Option<Place> {
        let mut taken = self.lock();
        let all: usize = taken.values().sum();
        let here = taken.get(&peer).copied().unwrap_or(0);
        if all >= most || here >= most_each {
            return None;
        }
        taken.insert(peer, here + 1);
        Some(Place {
            places: self.clone(),
            peer,
        })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.lock().values().sum()
    }

    /// The counts stay right whatever panicked while they were locked: each change is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<Peer, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.peer) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> Peer {
        Peer::Key(KeyId([number; 32]))
    }

    #[test]
    fn one_peer_cannot_take_all_places() {
        let places = Places::default();
        let mut held: Vec<Place> = (0..2)
            .map(|_| places.take(peer(2), 3, 2).unwrap())
            .collect();
        assert!(places.take(peer(2), 3, 2).is_none());
        let other = places.take(peer(3), 3, 2).unwrap();
        assert!(places.take(peer(4), 3, 2).is_none());
        drop(other);
        assert_eq!(places.taken(), 2);
        held.pop();
        assert!(places.take(peer(2), 3, 2).is_some());
        held.clear();
        assert_eq!(places.taken(), 0);
        assert!(places.lock().is_empty());
    }
}
