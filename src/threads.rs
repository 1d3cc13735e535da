//! The service's threads. One of them does everything for as long as it keeps up; the others help
//! only while it does not.
//!
//! ```text
//!   first:    ticks ──────► busy? ──no──► ticks …
//!                             │yes
//!                             ▼ wakes
//!   others:   asleep ────► Helping, one shift ────► asleep …
//! ```
//!
//! Threads that all wait for the same sockets wake each other for every event, and a wake-up across
//! threads costs more than the relaying of a small message. With one thread awake a round trip
//! through a relay costs no such wake-up; under load, when there is no waiting, the others share the
//! work. Only the two programs use this; an embedder runs its executor as it likes.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actors::runtime::{Clock, Time};
use event_listener::{Event, Listener as _};
use futures_lite::{FutureExt as _, future::yield_now};
use rustix::time::{ClockId, clock_gettime};
use smol::Executor;

/// After so many tasks the first thread looks at the sockets again, and at how busy it is.
const TASKS_BETWEEN_LOOKS: usize = 64;
/// How busy is not judged over less time than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(5);
/// Busy is who computed for more than this share of the time, in percent.
const BUSY_PERCENT: u32 = 70;
/// How long the others help before they see whether they are still needed.
const SHIFT: Duration = Duration::from_millis(50);

/// Runs `executor` and `main` until `main` ends, with this thread and at most `others` more that
/// help under load. A thread that cannot be started is one fewer, with a warning.
pub fn run<T>(
    executor: &Arc<Executor<'static>>,
    clock: &Arc<dyn Clock>,
    others: usize,
    main: impl Future<Output = T>,
) -> T {
    let shared = Arc::new(Shared::default());
    // The others end when this is dropped, by a panic of `main` too.
    let _end = End(shared.clone());
    for number in 1..=others {
        let (executor, clock, shared) = (executor.clone(), clock.clone(), shared.clone());
        let started = std::thread::Builder::new()
            .name(format!("pneuma-{number}"))
            .spawn(move || help(&executor, &*clock, &shared));
        if let Err(error) = started {
            tracing::warn!(%error, "one thread fewer");
        }
    }
    let ticks = async {
        let mut load = Load::new(&**clock);
        loop {
            for _ in 0..TASKS_BETWEEN_LOOKS {
                executor.tick().await;
            }
            if load.is_high() && !shared.wanted.swap(true, Ordering::AcqRel) {
                shared.changed.notify(usize::MAX);
            }
            yield_now().await;
        }
    };
    async_io::block_on(main.or(ticks))
}

/// What the threads tell each other.
#[derive(Debug, Default)]
struct Shared {
    wanted: AtomicBool,
    ended: AtomicBool,
    changed: Event,
}

struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.changed.notify(usize::MAX);
    }
}

fn help(executor: &Executor<'static>, clock: &dyn Clock, shared: &Shared) {
    while !shared.ended.load(Ordering::Acquire) {
        let changed = shared.changed.listen();
        if shared.ended.load(Ordering::Acquire) {
            return;
        }
        if !shared.wanted.load(Ordering::Acquire) {
            // Blocks the thread itself: one that waits in async-io takes the sockets' events from
            // the first thread, which is what this module is against.
            changed.wait();
            continue;
        }
        async_io::block_on(executor.run(clock.sleep(SHIFT)));
        shared.wanted.store(false, Ordering::Release);
    }
}

/// How much of its time a thread computed since it was last asked.
struct Load<'a> {
    clock: &'a dyn Clock,
    since: Time,
    computed: Duration,
}

impl<'a> Load<'a> {
    fn new(clock: &'a dyn Clock) -> Self {
        Load {
            clock,
            since: clock.now(),
            computed: thread_time(),
        }
    }

    fn is_high(&mut self) -> bool {
        let now = self.clock.now();
        let elapsed = now.saturating_sub(self.since);
        if elapsed < SHORTEST_LOOK {
            return false;
        }
        let before = std::mem::replace(&mut self.computed, thread_time());
        self.since = now;
        self.computed.saturating_sub(before) * 100 > elapsed * BUSY_PERCENT
    }
}

/// The processor time of the calling thread.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::Mutex,
        thread::{self, ThreadId},
    };

    use actors::runtime::SystemClock;

    use super::*;

    /// Runs a few tasks that each compute for `work` at a time, until `enough` of the threads they
    /// ran on or until the time is over, and tells how many threads that were.
    fn threads_of(work: Duration, limit: Duration, enough: usize) -> usize {
        let executor = Arc::new(Executor::new());
        let clock: Arc<dyn Clock> = SystemClock::new();
        let seen = Arc::new(Mutex::new(HashSet::<ThreadId>::new()));
        let end = clock.now() + limit;
        let all: Vec<_> = (0..6)
            .map(|_| {
                let (seen, clock) = (seen.clone(), clock.clone());
                executor.spawn(async move {
                    while clock.now() < end && seen.lock().unwrap().len() < enough {
                        seen.lock().unwrap().insert(thread::current().id());
                        let computed = thread_time() + work;
                        while thread_time() < computed {
                            std::hint::spin_loop();
                        }
                        if work.is_zero() {
                            clock.sleep(Duration::from_millis(1)).await;
                        } else {
                            yield_now().await;
                        }
                    }
                })
            })
            .collect();
        run(&executor, &clock, 3, async {
            for task in all {
                task.await;
            }
        });
        seen.lock().unwrap().len()
    }

    #[test]
    fn little_work_stays_on_one_thread() {
        assert_eq!(threads_of(Duration::ZERO, Duration::from_millis(100), 2), 1);
    }

    #[test]
    fn more_work_than_one_thread_can_do_is_shared() {
        // So long only where many other programs take the processors.
        let limit = Duration::from_secs(120);
        assert!(threads_of(Duration::from_millis(1), limit, 2) >= 2);
    }

    #[test]
    fn the_others_end_with_the_program() {
        let executor = Arc::new(Executor::new());
        let clock: Arc<dyn Clock> = SystemClock::new();
        let gone = Arc::downgrade(&executor);
        assert_eq!(run(&executor, &clock, 3, async { 7 }), 7);
        drop(executor);
        // Each of the others holds the executor while it lives.
        while gone.strong_count() > 0 {
            thread::yield_now();
        }
    }
}
