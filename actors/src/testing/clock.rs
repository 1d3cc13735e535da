//! A clock that stands still until it is told to move.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
    time::{Duration, SystemTime},
};

use super::lock;
use crate::runtime::{BoxFuture, Clock, Time};

/// Where the wall clock of every test begins: some moment in 2026.
const ORIGIN: Duration = Duration::from_secs(1_780_000_000);

/// Virtual time. Starts at zero and moves by [`VirtualClock::advance`], or, under
/// [`super::Sim::run`], to the next sleeper whenever nothing else can happen.
#[derive(Debug, Default)]
pub struct VirtualClock(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    now: Time,
    next_key: u64,
    sleepers: BTreeMap<(Time, u64), Waker>,
}

impl VirtualClock {
    /// A clock at zero.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Moves time on, waking the sleepers whose deadline is reached. Those woken run when the
    /// executor is turned, all of them seeing the new time.
    pub fn advance(&self, by: Duration) {
        let now = lock(&self.0).now;
        self.advance_to(now.saturating_add(by));
    }

    /// The earliest deadline somebody sleeps for.
    pub fn next_deadline(&self) -> Option<Time> {
        lock(&self.0)
            .sleepers
            .first_key_value()
            .map(|((deadline, _), _)| *deadline)
    }

    /// Moves time to a moment; a moment that has passed changes nothing.
    pub fn advance_to(&self, moment: Time) {
        let woken: Vec<Waker> = {
            let mut inner = lock(&self.0);
            inner.now = inner.now.max(moment);
            let later = inner.now.saturating_add(Duration::from_nanos(1));
            let rest = inner.sleepers.split_off(&(later, 0));
            std::mem::replace(&mut inner.sleepers, rest)
                .into_values()
                .collect()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// How many sleep now.
    pub fn sleepers(&self) -> usize {
        lock(&self.0).sleepers.len()
    }
}

struct Sleep {
    clock: Arc<Mutex<Inner>>,
    deadline: Time,
    key: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<()> {
        let clock = self.clock.clone();
        let mut inner = lock(&clock);
        if inner.now >= self.deadline {
            self.key = None;
            return Poll::Ready(());
        }
        let key = *self.key.get_or_insert_with(|| {
            inner.next_key += 1;
            inner.next_key
        });
        inner
            .sleepers
            .insert((self.deadline, key), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            lock(&self.clock).sleepers.remove(&(self.deadline, key));
        }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Time {
        lock(&self.0).now
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + ORIGIN + self.now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        Box::pin(Sleep {
            clock: self.0.clone(),
            deadline,
            key: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock, Duration, VirtualClock};
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn wakes_only_those_whose_time_has_come() {
        let clock = VirtualClock::new();
        let mut early = clock.sleep(Duration::from_secs(1));
        let mut late = clock.sleep(Duration::from_secs(2));
        assert!(block_on(poll_once(&mut early)).is_none());
        assert!(block_on(poll_once(&mut late)).is_none());
        assert_eq!(clock.sleepers(), 2);
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.next_deadline(), Some(Duration::from_secs(2)));
        assert!(block_on(poll_once(&mut early)).is_some());
        assert!(block_on(poll_once(&mut late)).is_none());
        drop(late);
        assert_eq!(clock.sleepers(), 0);
    }
}
