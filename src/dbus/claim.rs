//! `Channel.Interface.Pneuma.Claim1`, our own: a channel that closes when whoever claimed it
//! leaves the bus. Mission Control deals with handlers that crash; our command line, which talks to
//! us directly, claims what it uses, so that Ctrl-C leaves nothing behind.
//!
//! ```text
//!  free ──Claim──> claimed ──Release, by the same caller──> free
//!                   │ ▲
//!                   │ └──requested so (`Claimed`): there is no moment in which it is nobody's
//!                   └──the caller is gone──> the channel closes; a contact's file that it had not
//!                                            taken is free again
//! ```
//!
//! A file is offered as soon as its channel is there. Whoever died between that and a Claim would leave an
//! offer that a contact takes and nobody provides.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actors::{
    model::{Error, Result as Outcome},
    ports::ChannelObject,
    runtime::{Spawner, Task},
};
use zbus::message::Header;

use super::{
    caller::Caller,
    error::{Result, answered},
    outlet::Outlet,
};

/// The interface, on one outlet.
pub struct Claim {
    state: Arc<State>,
    outlet: Outlet,
}

/// What the outlets share: one channel has one claim.
pub struct State {
    object: ChannelObject,
    spawner: Spawner,
    claimed: Mutex<Option<Claimed>>,
}

struct Claimed {
    by: Caller,
    /// Waits for the caller to leave; then the claim is nobody's. Dropped with the object, or by Release.
    watch: Task<()>,
}

impl Claimed {
    /// Whether the caller is still there.
    fn holds(&self) -> bool {
        !self.watch.is_finished()
    }
}

impl State {
    /// Of this channel; nobody has claimed it.
    pub fn new(object: ChannelObject, spawner: Spawner) -> Arc<Self> {
        Arc::new(State {
            object,
            spawner,
            claimed: Mutex::new(None),
        })
    }

    /// One assignment is the only change ever made, so the value is whole whatever panicked.
    fn claimed(&self) -> MutexGuard<'_, Option<Claimed>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this caller holds the claim; an error when another does.
    fn is_held_by(&self, caller: &Caller) -> Outcome<bool> {
        match self.claimed().as_ref().filter(|claimed| claimed.holds()) {
            None => Ok(false),
            Some(claimed) if claimed.by == *caller => Ok(true),
            Some(_) => Err(Error::NotYours("somebody else has claimed it".into())),
        }
    }
}

impl Claim {
    /// On this outlet.
    pub(super) fn new(state: Arc<State>, outlet: Outlet) -> Self {
        Claim { state, outlet }
    }

    /// [`Claim::hold`]; a channel that cannot be claimed closes.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn hold_or_close(&self, header: &Header<'_>) -> Outcome<()> {
        let held = self.hold(header).await;
        if held.is_err() {
            self.state.object.close().await;
        }
        held
    }

    /// Claims the channel for whoever sent the message with this header. It may be gone already, as if it
    /// left afterwards.
    ///
    /// # Errors
    /// `NotYours` when somebody else has claimed it, and what [`Caller::watch`] says.
    pub(super) async fn hold(&self, header: &Header<'_>) -> Outcome<()> {
        let state = &self.state;
        let caller = Caller::of(header, &self.outlet)?;
        if state.is_held_by(&caller)? {
            return Ok(());
        }
        let gone = caller.watch().await?;
        let object = state.object.clone();
        let watch = state.spawner.spawn("watch over a claim", async move {
            gone.await;
            tracing::debug!("whoever claimed a channel is gone");
            object.abandon().await;
        });
        let mut claimed = state.claimed();
        match &*claimed {
            // Somebody was faster while we asked the bus.
            Some(other) if other.by != caller && other.holds() => {
                Err(Error::NotYours("somebody else has claimed it".into()))
            }
            _ => {
                *claimed = Some(Claimed { by: caller, watch });
                Ok(())
            }
        }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Claim1",
    introspection_docs = false
)]
impl Claim {
    async fn claim(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        answered("Claim", self.hold(&header)).await
    }

    async fn release(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        answered("Release", async {
            if !self.state.is_held_by(&Caller::of(&header, &self.outlet)?)? {
                return Err(Error::NotAvailable("nobody has claimed it".into()));
            }
            *self.state.claimed() = None;
            Ok(())
        })
        .await
    }
}
