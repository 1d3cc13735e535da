//! Where the service's objects are to be seen: on a message bus, by peers without one, or both. The
//! same objects are put on each, and every signal goes to all of them.

use std::sync::Arc;

use actors::model::Result;

use super::{name, peers::Peers};

/// One of them.
#[derive(Clone, Debug)]
pub(super) enum Outlet {
    /// A bus.
    Bus(zbus::Connection),
    /// All peers together.
    Peers(zbus::Connection, Peers),
}

/// All of them; there is one at least.
pub(super) type Outlets = Arc<[Outlet]>;

impl Outlet {
    /// What objects are served on and signals are sent through.
    pub(super) fn connection(&self) -> &zbus::Connection {
        match self {
            Outlet::Bus(connection) | Outlet::Peers(connection, _) => connection,
        }
    }

    /// Owns a name, where there are names.
    ///
    /// # Errors
    /// `NotAvailable` when it belongs to somebody else.
    pub(super) async fn own(&self, wanted: &str) -> Result<()> {
        match self {
            Outlet::Bus(bus) => name::own(bus, wanted).await,
            Outlet::Peers(..) => Ok(()),
        }
    }

    /// Gives a name up. Failing means that it is gone already.
    pub(super) async fn disown(&self, owned: &str) {
        let Outlet::Bus(bus) = self else {
            return;
        };
        if let Err(error) = bus.release_name(owned).await {
            tracing::debug!(%error, "a name could not be given up");
        }
    }
}
