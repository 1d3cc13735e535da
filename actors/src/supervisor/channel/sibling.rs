//! The actors of a channel that restart, each with its budget.

use std::sync::atomic::AtomicU64;

use crate::{
    runtime::{Stopper, Task, Time},
    supervisor::{
        RestartPolicy,
        config::{Counters, RestartBudget},
    },
};

/// The actors of a channel that restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::supervisor) enum SiblingKind {
    /// Before the others: what it failed at is said first.
    Announcer,
    Tube,
    Transfer,
    Listener,
    Dialler,
}

impl SiblingKind {
    pub(in crate::supervisor) fn name(self) -> &'static str {
        match self {
            SiblingKind::Announcer => "announcer",
            SiblingKind::Tube => "tube",
            SiblingKind::Transfer => "transfer",
            SiblingKind::Listener => "listener",
            SiblingKind::Dialler => "dialler",
        }
    }

    pub(super) fn counter(self, counters: &Counters) -> &AtomicU64 {
        match self {
            SiblingKind::Announcer => &counters.announcers,
            SiblingKind::Tube => &counters.tubes,
            SiblingKind::Transfer => &counters.transfers,
            SiblingKind::Listener => &counters.listeners,
            SiblingKind::Dialler => &counters.diallers,
        }
    }
}

/// One of them.
///
/// ```text
///  Idle ──start──▶ Running ──failed──▶ Pausing ──pause over──▶ Running
///                     │ told to stop
///                     ▼
///                  Stopping ──ended──▶ Idle
/// ```
pub(super) struct Sibling {
    pub(super) budget: RestartBudget,
    /// How many lives it has had, this one counted.
    pub(super) lives: u64,
    pub(super) life: Life,
}

pub(super) enum Life {
    Idle,
    Running {
        task: Task<()>,
        stopper: Stopper,
    },
    /// Told to stop, and not heard of yet.
    Stopping {
        task: Task<()>,
    },
    Pausing {
        until: Time,
    },
}

impl Sibling {
    pub(super) fn new(policy: RestartPolicy) -> Self {
        Sibling {
            budget: RestartBudget::new(policy),
            lives: 0,
            life: Life::Idle,
        }
    }

    pub(super) fn is_started(&self) -> bool {
        !matches!(self.life, Life::Idle)
    }

    pub(super) fn is_pausing(&self) -> bool {
        matches!(self.life, Life::Pausing { .. })
    }

    /// When its pause is over.
    pub(super) fn due(&self) -> Option<Time> {
        match self.life {
            Life::Pausing { until } => Some(until),
            _ => None,
        }
    }

    /// Asks it to stop and does not restart it; what is still running is waited for by
    /// [`Sibling::end`].
    pub(super) fn stop(&mut self) {
        self.life = match std::mem::replace(&mut self.life, Life::Idle) {
            Life::Running { task, stopper } => {
                stopper.stop();
                Life::Stopping { task }
            }
            Life::Stopping { task } => Life::Stopping { task },
            Life::Pausing { .. } | Life::Idle => Life::Idle,
        }
    }

    /// Cancels it, and waits until it is gone.
    pub(super) async fn end(&mut self) {
        let life = std::mem::replace(&mut self.life, Life::Idle);
        if let Life::Running { task, .. } | Life::Stopping { task } = life {
            task.cancel().await;
        }
    }
}
