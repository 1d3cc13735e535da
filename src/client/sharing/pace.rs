//! How many messages a second are taken from the contact.

use std::time::Duration;

use actors::runtime::Time;

/// Lets messages through at a pace, and a burst of as many as one second's at once. Who sends faster
/// is not read from meanwhile.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    burst: Duration,
    /// When all that was taken so far would have come at the pace.
    paid: Time,
}

impl Pace {
    /// So many a second, at least one.
    pub fn new(per_second: u32) -> Self {
        let burst = Duration::from_secs(1);
        Pace {
            interval: burst / per_second.max(1),
            burst,
            paid: Time::ZERO,
        }
    }

    /// Takes one message, and says how long to wait before it counts as taken.
    pub fn take(&mut self, now: Time) -> Duration {
        self.paid = self.paid.max(now).saturating_add(self.interval);
        self.paid.saturating_sub(now.saturating_add(self.burst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_there_is_a_pace() {
        let mut pace = Pace::new(10);
        let mut now = Duration::from_secs(100);
        for _ in 0..10 {
            assert_eq!(pace.take(now), Duration::ZERO);
        }
        for _ in 0..5 {
            let wait = pace.take(now);
            assert_eq!(wait, Duration::from_millis(100));
            now += wait;
        }
        now += Duration::from_secs(1000);
        let free = (0..100).take_while(|_| pace.take(now).is_zero()).count();
        assert_eq!(free, 10, "who was silent for long has no more than a burst");
    }
}
