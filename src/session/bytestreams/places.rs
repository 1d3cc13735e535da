//! How many bytestreams may be opening at the same time: altogether, and with one peer, so that a
//! contact that lets them hang keeps nobody else out.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One XML stream, by its two addresses: no other's while it lives.
pub(super) type Stream = (SocketAddr, SocketAddr);

/// The places of one direction.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<Stream, usize>>>);

/// One place; given back when it is dropped.
pub(super) struct Place {
    places: Places,
    stream: Stream,
}

impl Places {
    /// Takes a place, unless `most` are taken altogether or `most_each` by this stream.
    pub(super) fn take(&self, stream: Stream, most: usize, most_each: usize) -> Option<Place> {
        let mut taken = self.lock();
        let all: usize = taken.values().sum();
        let here = taken.get(&stream).copied().unwrap_or(0);
        if all >= most || here >= most_each {
            return None;
        }
        taken.insert(stream, here + 1);
        Some(Place {
            places: self.clone(),
            stream,
        })
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.lock().values().sum()
    }

    /// The counts stay right whatever panicked while they were locked: each change is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<Stream, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        match taken.get_mut(&self.stream) {
            Some(here) if *here > 1 => *here -= 1,
            _ => {
                taken.remove(&self.stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(port: u16) -> Stream {
        let end = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (end(1), end(port))
    }

    #[test]
    fn one_stream_cannot_take_all_places() {
        let places = Places::default();
        let mut held: Vec<Place> = (0..2)
            .map(|_| places.take(stream(2), 3, 2).unwrap())
            .collect();
        assert!(places.take(stream(2), 3, 2).is_none());
        let other = places.take(stream(3), 3, 2).unwrap();
        assert!(places.take(stream(4), 3, 2).is_none());
        drop(other);
        assert_eq!(places.taken(), 2);
        held.pop();
        assert!(places.take(stream(2), 3, 2).is_some());
        held.clear();
        assert_eq!(places.taken(), 0);
        assert!(places.lock().is_empty());
    }
}
