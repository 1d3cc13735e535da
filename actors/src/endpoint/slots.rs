//! Counting permits: how many connections a channel may have open. One is reserved *before*
//! `accept`, so that no accepted socket waits in somebody's hand for room; clients beyond the
//! bound wait in the kernel's queue.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use event_listener::Event;
use futures_lite::FutureExt as _;

use crate::limits::Limits;

/// The permits of one channel. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    /// What may be taken of them, where that is limited further.
    limits: Option<Limits>,
    taken: AtomicUsize,
    freed: Event,
}

/// One permit. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping a slot gives it back"]
pub struct Slot(Arc<Shared>);

impl Slots {
    /// `capacity` permits. With none, nothing is ever accepted.
    pub fn new(capacity: usize) -> Self {
        Slots::with(capacity, None)
    }

    /// `capacity` permits, of which so many can be taken as `limits` allow at that moment. When those
    /// are lowered, what is taken stays taken.
    pub fn within(capacity: usize, limits: Limits) -> Self {
        Slots::with(capacity, Some(limits))
    }

    fn with(capacity: usize, limits: Option<Limits>) -> Self {
        Slots(Arc::new(Shared {
            capacity,
            limits,
            taken: AtomicUsize::new(0),
            freed: Event::new(),
        }))
    }

    /// A permit, if one is free now.
    pub fn try_reserve(&self) -> Option<Slot> {
        let limit = self
            .0
            .limits
            .as_ref()
            .map_or(usize::MAX, Limits::connections);
        let most = limit.min(self.0.capacity);
        self.0
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                (taken < most).then_some(taken + 1)
            })
            .ok()
            .map(|_| Slot(self.0.clone()))
    }

    /// Waits for a permit. Cancel-safe.
    pub async fn reserve(&self) -> Slot {
        loop {
            if let Some(slot) = self.try_reserve() {
                return slot;
            }
            let freed = self.0.freed.listen();
            let more = self.0.limits.as_ref().map(Limits::more_connections);
            if let Some(slot) = self.try_reserve() {
                return slot;
            }
            match more {
                Some(more) => freed.or(more).await,
                None => freed.await,
            }
        }
    }

    /// How many there are in all.
    pub fn capacity(&self) -> usize {
        self.0.capacity
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Acquire)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        // One more, even if another was told already and has not looked yet: each freed slot
        // wakes a waiter of its own.
        self.0.freed.notify_additional(1);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future;

    use super::*;

    #[test]
    fn no_more_are_given_than_there_are() {
        let slots = Slots::new(2);
        let first = slots.try_reserve();
        let second = slots.try_reserve();
        assert!(first.is_some() && second.is_some());
        assert!(slots.try_reserve().is_none());
        assert_eq!((slots.taken(), slots.capacity()), (2, 2));
        drop(first);
        assert_eq!(slots.taken(), 1);
        assert!(slots.try_reserve().is_some());
    }

    #[test]
    fn with_none_at_all_nobody_gets_one() {
        let slots = Slots::new(0);
        assert!(slots.try_reserve().is_none());
        assert!(future::block_on(future::poll_once(slots.reserve())).is_none());
    }

    #[test]
    fn a_limit_is_looked_at_for_each_and_a_raised_one_wakes_who_waits() {
        let sim = crate::testing::Sim::new();
        let clock: Arc<dyn crate::runtime::Clock> = sim.clock.clone();
        let limits = Limits::new(&clock);
        let cap = |connections| {
            limits.set(crate::limits::Caps {
                connections,
                bytes_per_second: None,
            });
        };
        let slots = Slots::within(3, limits.clone());
        let first = slots.try_reserve();
        let second = slots.try_reserve();
        cap(Some(1));
        assert!(first.is_some() && second.is_some() && slots.try_reserve().is_none());
        drop(first);
        // One is still taken, which is all that is allowed now.
        assert!(slots.try_reserve().is_none());
        future::block_on(async {
            let mut waiting = Box::pin(slots.reserve());
            assert!(future::poll_once(&mut waiting).await.is_none());
            cap(Some(2));
            let _third = waiting.await;
            assert!(slots.try_reserve().is_none());
            cap(None);
            assert!(slots.try_reserve().is_some());
        });
    }

    #[test]
    fn everyone_who_waits_is_woken_when_several_come_free_at_once() {
        let slots = Slots::new(2);
        let held = [slots.try_reserve(), slots.try_reserve()];
        future::block_on(async {
            let mut first = Box::pin(slots.reserve());
            let mut second = Box::pin(slots.reserve());
            assert!(future::poll_once(&mut first).await.is_none());
            assert!(future::poll_once(&mut second).await.is_none());
            drop(held);
            let _one = first.await;
            let _two = second.await;
            assert_eq!(slots.taken(), 2);
        });
    }

    #[test]
    fn a_waiter_that_gives_up_takes_nothing_with_it() {
        let slots = Slots::new(1);
        let held = slots.try_reserve();
        future::block_on(async {
            let mut quitter = Box::pin(slots.reserve());
            let mut patient = Box::pin(slots.reserve());
            assert!(future::poll_once(&mut quitter).await.is_none());
            assert!(future::poll_once(&mut patient).await.is_none());
            drop(held);
            // The quitter has been told, and leaves without looking.
            drop(quitter);
            let _slot = patient.await;
            assert_eq!(slots.taken(), 1);
        });
        assert_eq!(slots.taken(), 0);
    }
}
