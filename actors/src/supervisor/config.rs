//! The supervisor's numbers: bounds, and how often what may restart.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::runtime::{Faults, Time};

/// What the supervisor is started with.
#[derive(Clone)]
pub struct SupervisorConfig {
    /// Most channels at once, over all owners. One more is answered `ResourceUnavailable`.
    pub max_channels: usize,
    /// Most connections at once through one tube, those that are still opening or closing counted.
    /// At the bound a local application waits in the socket's queue, and a contact's request is
    /// refused with `ResourceUnavailable`.
    pub max_connections: usize,
    /// Messages one tube's mailbox holds; whoever sends one more waits.
    pub mailbox: usize,
    /// How long a bytestream may take to open after its connection was made.
    pub opening_limit: Duration,
    /// How long the connections of a closing tube go on while the contact is being told. Past it
    /// they are cut, and the contact may take them for lost.
    pub farewell_grace: Duration,
    /// How long they go on after that, for the contact to cut them. The word and a cut of ours
    /// travel by different sockets, so the cut could overtake it; whoever has read the word cuts,
    /// and then nothing can be taken for lost.
    pub cut_grace: Duration,
    /// How long a channel that is withdrawn already waits for the contact to be told, and a file transfer
    /// that is over for the contact to have heard the last word.
    pub farewell_limit: Duration,
    /// How long the tree may take: to publish a channel (after that the request is answered
    /// `NotAvailable`), to emit the signals that are left of a channel that ends (after that they
    /// are lost), and to withdraw it (after that it counts as gone). While a channel is open, a
    /// tree that takes no signals merely holds up new connections.
    pub tree_limit: Duration,
    /// How often the bytes in `StreamTubeView` are brought up to date while connections are open, and
    /// a file transfer's progress is announced.
    pub meter_period: Duration,
    /// How long a file transfer waits for a program, ours or the contact's, to do what needs no person:
    /// to provide a file that is wanted, to connect to its socket, to open the bytestream that was agreed
    /// on, to say that all that it was handed is stored. Then it is cancelled.
    pub application_limit: Duration,
    /// How long a file transfer whose bytes could flow waits for another application when one has connected
    /// and was gone before it could be let in: by TCP the kernel does not say any more whose a closed
    /// socket was. Then it is cancelled. Another user of this machine can do that, too, and shorten to
    /// this what an application may take to connect.
    pub vanished_grace: Duration,
    /// How often an actor may fail.
    pub restart: RestartPolicy,
    /// Where tests kill actors; nothing at all in what we ship.
    pub faults: Faults,
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        SupervisorConfig {
            max_channels: 1024,
            max_connections: 256,
            mailbox: 64,
            opening_limit: Duration::from_secs(120),
            farewell_grace: Duration::from_secs(1),
            cut_grace: Duration::from_secs(2),
            farewell_limit: Duration::from_secs(5),
            tree_limit: Duration::from_secs(5),
            meter_period: Duration::from_secs(1),
            application_limit: Duration::from_secs(600),
            vanished_grace: Duration::from_secs(10),
            restart: RestartPolicy::default(),
            faults: Faults::default(),
        }
    }
}

/// Restarts are limited in number per time, with a growing pause; past the limit the failure moves
/// up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// So many restarts ...
    pub restarts: usize,
    /// ... within so much time.
    pub within: Duration,
    /// The pause before the first restart; each further one within the time doubles it.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            restarts: 5,
            within: Duration::from_secs(60),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
        }
    }
}

/// The failures of one actor, against its policy.
#[derive(Debug)]
pub(super) struct RestartBudget {
    policy: RestartPolicy,
    failures: VecDeque<Time>,
}

impl RestartBudget {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        RestartBudget {
            policy,
            failures: VecDeque::new(),
        }
    }

    /// Counts a failure. How long to wait before the restart, or `None` when there were too many.
    pub(super) fn failed(&mut self, now: Time) -> Option<Duration> {
        while let Some(first) = self.failures.front()
            && now.saturating_sub(*first) >= self.policy.within
        {
            self.failures.pop_front();
        }
        if self.failures.len() >= self.policy.restarts {
            return None;
        }
        let doublings = u32::try_from(self.failures.len())
            .unwrap_or(u32::MAX)
            .min(20);
        self.failures.push_back(now);
        Some(
            self.policy
                .first_pause
                .saturating_mul(1 << doublings)
                .min(self.policy.longest_pause),
        )
    }
}

/// How often each kind of actor failed so far, over all channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartCounts {
    /// Tubes that were restarted.
    pub tubes: u64,
    /// File transfers that were restarted.
    pub transfers: u64,
    /// Listeners that were restarted.
    pub listeners: u64,
    /// Diallers that were restarted.
    pub diallers: u64,
    /// Announcers that were restarted.
    pub announcers: u64,
    /// Relays that failed; these are not restarted, their connection closes.
    pub relays: u64,
    /// Flows of files that failed; these are not restarted, their transfer is cancelled.
    pub flows: u64,
    /// Channels that closed because of a failure past its limit.
    pub channels: u64,
}

/// The counters behind [`RestartCounts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) tubes: AtomicU64,
    pub(super) transfers: AtomicU64,
    pub(super) listeners: AtomicU64,
    pub(super) diallers: AtomicU64,
    pub(super) announcers: AtomicU64,
    pub(super) relays: AtomicU64,
    pub(super) flows: AtomicU64,
    pub(super) channels: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> RestartCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RestartCounts {
            tubes: read(&self.tubes),
            transfers: read(&self.transfers),
            listeners: read(&self.listeners),
            diallers: read(&self.diallers),
            announcers: read(&self.announcers),
            relays: read(&self.relays),
            flows: read(&self.flows),
            channels: read(&self.channels),
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::{Duration, RestartBudget, RestartPolicy};

    #[test]
    fn pauses_grow_and_end_at_the_limit() {
        let mut budget = RestartBudget::new(RestartPolicy {
            restarts: 4,
            within: Duration::from_secs(60),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_millis(300),
        });
        let at = Duration::from_secs;
        let pauses: Vec<_> = (0..5).map(|second| budget.failed(at(second))).collect();
        let millis = |ms| Some(Duration::from_millis(ms));
        assert_eq!(
            pauses,
            [millis(100), millis(200), millis(300), millis(300), None]
        );
        // The first two are forgotten a minute later.
        assert_eq!(budget.failed(at(61)), millis(300));
    }

    #[test]
    fn failures_far_apart_are_each_the_first() {
        let mut budget = RestartBudget::new(RestartPolicy::default());
        for hour in 0..1000 {
            let pause = budget.failed(Duration::from_secs(3600 * hour));
            assert_eq!(pause, Some(RestartPolicy::default().first_pause));
        }
    }
}
