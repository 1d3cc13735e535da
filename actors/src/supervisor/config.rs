//! The supervisor's numbers: bounds, and how often what may restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{LocalSockets, SystemSockets};

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
    /// How long a closing channel waits for the contact to be told.
    pub farewell_limit: Duration,
    /// How often an actor may fail.
    pub restart: RestartPolicy,
    /// Where local sockets come from.
    pub sockets: Arc<dyn LocalSockets>,
}

impl Default for SupervisorConfig {
    fn default() -> Self {
        SupervisorConfig {
            max_channels: 1024,
            max_connections: 256,
            mailbox: 64,
            opening_limit: Duration::from_secs(120),
            farewell_limit: Duration::from_secs(5),
            restart: RestartPolicy::default(),
            sockets: Arc::new(SystemSockets::default()),
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

/// How often each kind of actor failed so far, over all channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartCounts {
    /// Tubes that were restarted.
    pub tubes: u64,
    /// Listeners that were restarted.
    pub listeners: u64,
    /// Diallers that were restarted.
    pub diallers: u64,
    /// Announcers that were restarted.
    pub announcers: u64,
    /// Relays that failed; these are not restarted, their connection closes.
    pub relays: u64,
    /// Channels that closed because of a failure past its limit.
    pub channels: u64,
}

/// The counters behind [`RestartCounts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) tubes: AtomicU64,
    pub(super) listeners: AtomicU64,
    pub(super) diallers: AtomicU64,
    pub(super) announcers: AtomicU64,
    pub(super) relays: AtomicU64,
    pub(super) channels: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> RestartCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RestartCounts {
            tubes: read(&self.tubes),
            listeners: read(&self.listeners),
            diallers: read(&self.diallers),
            announcers: read(&self.announcers),
            relays: read(&self.relays),
            channels: read(&self.channels),
        }
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
