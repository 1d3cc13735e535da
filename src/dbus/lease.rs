//! `Connection.Interface.Pneuma.Lease1`, our own: who keeps a connection online. The command line's
//! programs hold a lease each; the last of them that ends in order takes the connection offline itself,
//! and when it is killed, we do. A connection that nobody ever had a lease on (Mission Control's, one of
//! `--detach`) stays.
//!
//! ```text
//!  nobody's ──Begin──> kept ──Join──> kept by more
//!                       │ ▲──Release, or its holder is gone, of one of several
//!                       ├──Release of the last──> nobody's: the holder is told, and disconnects
//!                       └──the last is gone──> nobody's, and the connection disconnects
//! ```
//!
//! "Disconnects" is said of a connection that keeps no tubes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use actors::{
    model::{Error, Result as Outcome},
    runtime::{Spawner, Task},
};
use zbus::message::Header;

use super::{
    caller::Caller,
    error::{Result, answered},
    outlet::Outlet,
};
use crate::connection::{ConnectionHandle, kept::KeptHandle};

/// Most holders of one connection's leases; one more is answered `ResourceUnavailable`.
const MAX_HOLDERS: usize = 1024;

/// The interface, on one outlet.
pub struct Lease {
    state: Arc<State>,
    outlet: Outlet,
}

/// What the outlets share.
pub struct State {
    connection: ConnectionHandle,
    /// Who knows whether it keeps tubes.
    keeper: Option<KeptHandle>,
    spawner: Spawner,
    holders: Mutex<Vec<Holder>>,
}

struct Holder {
    who: Caller,
    /// Waits for the holder to leave. Dropped with the object, or by Release.
    _watch: Task<()>,
}

/// How many are left when one has gone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nobody,
    Others,
    /// It had no lease.
    WasNone,
}

impl State {
    /// Of this connection; nobody has a lease.
    pub fn new(
        connection: ConnectionHandle,
        keeper: Option<KeptHandle>,
        spawner: Spawner,
    ) -> Arc<Self> {
        Arc::new(State {
            connection,
            keeper,
            spawner,
            holders: Mutex::default(),
        })
    }

    fn keeps_tubes(&self) -> bool {
        let keeper = self.keeper.as_ref();
        keeper.is_some_and(|keeper| !keeper.of(&self.connection.profile).is_empty())
    }

    /// Each change is one insertion or one removal, so the list is whole whatever panicked.
    fn holders(&self) -> MutexGuard<'_, Vec<Holder>> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a holder, `first` or only to others. False when it would have been the first.
    async fn add(self: &Arc<Self>, who: Caller, first: bool) -> Outcome<bool> {
        let gone = who.watch().await?;
        let mut holders = self.holders();
        if holders.iter().any(|holder| holder.who == who) {
            return Ok(true);
        }
        if holders.is_empty() && !first {
            return Ok(false);
        }
        if holders.len() >= MAX_HOLDERS {
            return Err(Error::ResourceUnavailable(format!(
                "{MAX_HOLDERS} programs keep the connection online already"
            )));
        }
        let (state, name) = (Arc::downgrade(self), who.clone());
        // It finds the holder in the list, however soon it is gone: we have the list.
        let watch = self.spawner.spawn("watch over a lease", async move {
            gone.await;
            vanished(&state, &name).await;
        });
        holders.push(Holder { who, _watch: watch });
        Ok(true)
    }

    /// The holder is taken out of the list; its watch is cancelled when it is dropped.
    fn remove(&self, who: &Caller) -> (Option<Holder>, Left) {
        let mut holders = self.holders();
        match holders.iter().position(|holder| holder.who == *who) {
            None => (None, Left::WasNone),
            Some(place) => {
                let holder = holders.swap_remove(place);
                let left = if holders.is_empty() {
                    Left::Nobody
                } else {
                    Left::Others
                };
                (Some(holder), left)
            }
        }
    }
}

/// The end of a holder that said nothing.
async fn vanished(state: &Weak<State>, who: &Caller) {
    let Some(state) = state.upgrade() else {
        return;
    };
    let (holder, left) = state.remove(who);
    if left == Left::Nobody && state.keeps_tubes() {
        tracing::debug!("an account stays online for the tubes it keeps");
    } else if left == Left::Nobody {
        tracing::debug!("whoever kept a connection online is gone: it goes offline");
        let connection = state.connection.clone();
        let ending = state.spawner.spawn(
            "end of a lease",
            async move { connection.disconnect().await },
        );
        ending.detach();
    }
    // Last: the task that runs this is the holder's own.
    drop(holder);
}

impl Lease {
    /// On this outlet.
    pub(super) fn new(state: Arc<State>, outlet: Outlet) -> Self {
        Lease { state, outlet }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Lease1",
    introspection_docs = false
)]
impl Lease {
    /// By whoever brings the connection online and wants it no longer than it lives.
    async fn begin(&self, #[zbus(header)] header: Header<'_>) -> Result<()> {
        answered("Begin", async {
            let who = Caller::of(&header, &self.outlet)?;
            self.state.add(who, true).await.map(drop)
        })
        .await
    }

    /// By whoever uses a connection that is there. False when nobody has a lease: then none is
    /// given.
    #[zbus(out_args("Joined"))]
    async fn join(&self, #[zbus(header)] header: Header<'_>) -> Result<bool> {
        answered("Join", async {
            let who = Caller::of(&header, &self.outlet)?;
            self.state.add(who, false).await
        })
        .await
    }

    /// True for the last: it may take the connection offline, unless tubes are kept that need it.
    #[zbus(out_args("Last"))]
    async fn release(&self, #[zbus(header)] header: Header<'_>) -> Result<bool> {
        answered("Release", async {
            let who = Caller::of(&header, &self.outlet)?;
            match self.state.remove(&who).1 {
                Left::Nobody => Ok(!self.state.keeps_tubes()),
                Left::Others => Ok(false),
                Left::WasNone => Err(Error::NotAvailable("you have no lease".into())),
            }
        })
        .await
    }
}
