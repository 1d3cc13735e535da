//! The clock is handed in, so that tests run hours in milliseconds and an embedder may bring its
//! own. Nothing else in this crate reads the time.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::BoxFuture;

/// A moment on a [`Clock`]: the time since that clock's origin. Monotonic.
pub type Time = Duration;

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Now, on the monotonic clock.
    fn now(&self) -> Time;

    /// Now, as people write it down.
    fn wall(&self) -> SystemTime;

    /// Completes when `now` has reached `deadline`. Dropping it cancels.
    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()>;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.sleep_until(self.now().saturating_add(duration))
    }
}

/// The machine's own clock, by async-io's timers.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose origin is now.
    pub fn new() -> Arc<Self> {
        Arc::new(SystemClock {
            origin: Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        self.origin.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        let timer = match self.origin.checked_add(deadline) {
            Some(instant) => async_io::Timer::at(instant),
            None => async_io::Timer::never(),
        };
        Box::pin(async move {
            timer.await;
        })
    }
}
