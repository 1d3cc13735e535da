//! What somebody may use of us: how many connections at once, and how many bytes a second each way.
//!
//! ```text
//!   whoever decides ── set ──► Limits ──┬─► Slots of each tube       connections, tube by tube
//!                                       └─► Share of each direction  bytes per second, all together
//!                                           of each relay, each file
//! ```
//!
//! Handed in with the [`StreamTubeRequest`](crate::supervisor::StreamTubeRequest) or the
//! [`FileTransferRequest`](crate::supervisor::FileTransferRequest) and changed while the channels are
//! open. Tubes and transfers that are given the same [`Limits`] share the bytes between them. Without a
//! limit, asking costs one atomic load for each read.

mod bucket;

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use event_listener::{Event, EventListener};

use self::bucket::Bucket;
pub use self::bucket::{Share, TURN};
use crate::runtime::Clock;

/// What is allowed at most. Nothing set means no limit but the supervisor's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// Connections at once, of each tube.
    pub connections: Option<usize>,
    /// Bytes a second in each direction, of all tubes with these limits together.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// The limits of one or several tubes; see the module's head. Cheap to clone; clones are the same.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `usize::MAX` for no limit.
    connections: AtomicUsize,
    connections_changed: Event,
    sending: Arc<Bucket>,
    receiving: Arc<Bucket>,
}

impl Limits {
    /// None, for now.
    pub fn new(clock: &Arc<dyn Clock>) -> Self {
        Limits(Arc::new(Shared {
            connections: AtomicUsize::new(usize::MAX),
            connections_changed: Event::new(),
            sending: Bucket::new(clock.clone()),
            receiving: Bucket::new(clock.clone()),
        }))
    }

    /// Sets them. Fewer bytes per second act at once, on what is open too; fewer connections concern
    /// new ones, and those that are open go on.
    pub fn set(&self, caps: Caps) {
        let connections = caps.connections.unwrap_or(usize::MAX);
        let before = self.0.connections.swap(connections, Ordering::AcqRel);
        if connections > before {
            self.0.connections_changed.notify(usize::MAX);
        }
        self.0.sending.set(caps.bytes_per_second);
        self.0.receiving.set(caps.bytes_per_second);
    }

    /// What they are now.
    pub fn caps(&self) -> Caps {
        let connections = self.connections();
        Caps {
            connections: (connections != usize::MAX).then_some(connections),
            bytes_per_second: self.0.sending.rate(),
        }
    }

    /// How many connections a tube may have at once; `usize::MAX` for any number.
    pub(crate) fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Acquire)
    }

    /// Completes when more connections are allowed than when it was called.
    pub(crate) fn more_connections(&self) -> EventListener {
        self.0.connections_changed.listen()
    }

    /// What one relay sends, as a part of all that is sent.
    pub fn sending(&self) -> Share {
        Share::of(&self.0.sending)
    }

    /// The same for what it receives.
    pub fn receiving(&self) -> Share {
        Share::of(&self.0.receiving)
    }
}
