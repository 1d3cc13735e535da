//! The executor and the clock of a test, turned by hand.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use async_executor::Executor;

use super::VirtualClock;
use crate::runtime::{Spawner, Time};

/// Most steps one [`Sim::run`] or [`Sim::settle`] takes before it is taken for a loop that never
/// rests.
const MAX_STEPS: usize = 5_000_000;
/// How far virtual time may go in one [`Sim::run`] before whoever waits is taken to wait in vain.
const MAX_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// A world with one thread and virtual time. What it runs does the same steps every time.
#[derive(Debug)]
pub struct Sim {
    /// Runs what is started on it, when the world is turned.
    pub spawner: Spawner,
    /// The world's time.
    pub clock: Arc<VirtualClock>,
}

#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Default for Sim {
    fn default() -> Self {
        Sim::new()
    }
}

impl Sim {
    /// An empty world at time zero.
    pub fn new() -> Self {
        Sim {
            spawner: Spawner::new(Arc::new(Executor::new())),
            clock: VirtualClock::new(),
        }
    }

    /// Runs `scenario` to its end together with everything that was started. Whenever nothing can
    /// run, time moves to the next sleeper.
    ///
    /// # Panics
    /// When the scenario waits for something that can never happen (nothing can run and nobody
    /// sleeps), or for longer than a month.
    pub fn run<T>(&self, scenario: impl Future<Output = T>) -> T {
        let mut scenario = pin!(scenario);
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(flag.clone());
        let mut context = Context::from_waker(&waker);
        let limit = self.now().saturating_add(MAX_TIME);
        for _ in 0..MAX_STEPS {
            if flag.0.swap(false, Ordering::AcqRel)
                && let Poll::Ready(output) = scenario.as_mut().poll(&mut context)
            {
                return output;
            }
            if self.spawner.executor().try_tick() || flag.0.load(Ordering::Acquire) {
                continue;
            }
            let Some(deadline) = self.clock.next_deadline() else {
                panic!("the scenario waits for something that can never happen");
            };
            assert!(
                deadline <= limit,
                "the scenario waits for more than a month"
            );
            self.clock.advance_to(deadline);
        }
        panic!("the scenario never rests");
    }

    /// Runs everything that can run now, without moving time.
    ///
    /// # Panics
    /// When it never comes to rest.
    pub fn settle(&self) {
        for _ in 0..MAX_STEPS {
            if !self.spawner.executor().try_tick() {
                return;
            }
        }
        panic!("the world never comes to rest");
    }

    /// Moves time by this much, running what each moment on the way wakes.
    pub fn advance(&self, by: Duration) {
        let end = self.now().saturating_add(by);
        self.settle();
        while let Some(deadline) = self.clock.next_deadline().filter(|next| *next <= end) {
            self.clock.advance_to(deadline);
            self.settle();
        }
        self.clock.advance_to(end);
        self.settle();
    }

    /// Virtual time now.
    pub fn now(&self) -> Time {
        use crate::runtime::Clock as _;
        self.clock.now()
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Sim};
    use crate::runtime::Clock as _;

    #[test]
    fn an_hour_takes_no_time() {
        let sim = Sim::new();
        let clock = sim.clock.clone();
        let task = sim.spawner.spawn("sleeper", {
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(3600)).await;
                clock.now()
            }
        });
        assert_eq!(sim.run(task), Ok(Duration::from_secs(3600)));
        assert_eq!(sim.spawner.running(), 0);
    }

    #[test]
    #[should_panic(expected = "can never happen")]
    fn waiting_in_vain_is_noticed() {
        Sim::new().run(std::future::pending::<()>());
    }

    #[test]
    fn advance_stops_on_the_way() {
        let sim = Sim::new();
        let clock = sim.clock.clone();
        let task = sim.spawner.spawn("two naps", async move {
            clock.sleep(Duration::from_secs(1)).await;
            clock.sleep(Duration::from_secs(1)).await;
            clock.now()
        });
        sim.advance(Duration::from_secs(5));
        assert_eq!(sim.run(task), Ok(Duration::from_secs(2)));
        assert_eq!(sim.now(), Duration::from_secs(5));
    }
}
