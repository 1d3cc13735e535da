//! The clock is handed in, so that tests run hours in milliseconds and an embedder may bring its
//! own. Nothing else in this crate reads the time.

use std::{
    future::poll_fn,
    sync::Arc,
    task::Poll,
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

/// What the future gives, or `None` when so much time has passed first; then it is dropped. The
/// time begins with the first poll. When both are ready, the future counts.
pub fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    future: impl Future<Output = T>,
) -> impl Future<Output = Option<T>> {
    // Boxed, so that whoever awaits a handshake does not grow by twice its size.
    let mut future = Box::pin(future);
    let mut late = None;
    poll_fn(move |context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        late.get_or_insert_with(|| clock.sleep(limit))
            .as_mut()
            .poll(context)
            .map(|()| None)
    })
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
