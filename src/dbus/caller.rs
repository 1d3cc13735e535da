//! Who calls, and when it is gone.

use actors::{
    model::{Error, Result},
    runtime::BoxFuture,
};
use futures_lite::StreamExt as _;
use zbus::{
    message::Header,
    names::{BusName, OwnedUniqueName},
};

use super::{outlet::Outlet, peers::Peers};

/// A caller. Each outlet has names of its own.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A client on the bus, by its unique name.
    Bus(OwnedUniqueName, zbus::Connection),
    /// A client without a bus, by the name that its connection has among ours.
    Peer(OwnedUniqueName, Peers),
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Caller::Bus(one, _), Caller::Bus(other, _))
            | (Caller::Peer(one, _), Caller::Peer(other, _)) => one == other,
            _ => false,
        }
    }
}

impl Caller {
    /// Whoever sent the message with this header to this outlet.
    ///
    /// # Errors
    /// `Confused` when nobody says who it was, which neither a bus does nor we.
    pub(super) fn of(header: &Header<'_>, outlet: &Outlet) -> Result<Self> {
        let name = header
            .sender()
            .ok_or_else(|| Error::Confused("the call has no sender".into()))?;
        let name = OwnedUniqueName::from(name.to_owned());
        Ok(match outlet {
            Outlet::Bus(bus) => Caller::Bus(name, bus.clone()),
            Outlet::Peers(_, peers) => Caller::Peer(name, peers.clone()),
        })
    }

    /// Starts watching. The future that comes back completes when the caller is gone; a caller that
    /// was gone already completes it at once.
    ///
    /// # Errors
    /// `NotAvailable` when the bus does not answer.
    pub async fn watch(&self) -> Result<BoxFuture<'static, ()>> {
        match self {
            Caller::Peer(name, peers) => Ok(Box::pin(peers.watch(name))),
            Caller::Bus(name, bus) => watch_on(bus, name).await,
        }
    }
}

async fn watch_on(
    connection: &zbus::Connection,
    name: &OwnedUniqueName,
) -> Result<BoxFuture<'static, ()>> {
    let fails =
        |error: zbus::Error| Error::NotAvailable(format!("the bus does not answer: {error}"));
    let bus = zbus::fdo::DBusProxy::new(connection).await.map_err(fails)?;
    let mut changes = bus
        .receive_name_owner_changed_with_args(&[(0, name.as_str()), (2, "")])
        .await
        .map_err(fails)?;
    // Asked after the subscription, so that no moment is missed.
    let alive = bus
        .name_has_owner(BusName::from(name.as_ref()))
        .await
        .map_err(|error| fails(error.into()))?;
    Ok(Box::pin(async move {
        if alive {
            // The end of the stream is the end of the bus: then everybody is gone.
            changes.next().await;
        }
    }))
}
