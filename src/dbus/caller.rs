//! Who calls, and when it is gone.

use actors::model::{Error, Result};
use futures_lite::StreamExt as _;
use zbus::{
    message::Header,
    names::{BusName, OwnedUniqueName},
};

/// A caller. Messages on a peer-to-peer connection have no sender: there the connection itself is
/// the caller.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A client on the bus, by its unique name.
    Bus(OwnedUniqueName, zbus::Connection),
    /// The other end of a peer-to-peer connection.
    Peer(zbus::Connection),
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Caller::Bus(one, _), Caller::Bus(other, _)) => one == other,
            (Caller::Peer(one), Caller::Peer(other)) => {
                std::ptr::eq(one.object_server(), other.object_server())
            }
            _ => false,
        }
    }
}

impl Caller {
    /// Whoever sent the message with this header over this connection.
    pub fn of(header: &Header<'_>, connection: &zbus::Connection) -> Self {
        match header.sender() {
            Some(name) if connection.is_bus() => {
                Caller::Bus(name.to_owned().into(), connection.clone())
            }
            _ => Caller::Peer(connection.clone()),
        }
    }

    /// Starts watching. The future that comes back completes when the caller is gone; a caller that
    /// was gone already completes it at once.
    ///
    /// # Errors
    /// `NotAvailable` when the bus does not answer.
    pub async fn watch(&self) -> Result<impl Future<Output = ()> + Send + 'static + use<>> {
        let (name, connection) = match self {
            Caller::Peer(connection) => (None, connection),
            Caller::Bus(name, connection) => (Some(name.clone()), connection),
        };
        let bus_fails =
            |error: zbus::Error| Error::NotAvailable(format!("the bus does not answer: {error}"));
        let mut vanishing = match name {
            None => None,
            Some(name) => {
                let bus = zbus::fdo::DBusProxy::new(connection)
                    .await
                    .map_err(bus_fails)?;
                let changes = bus
                    .receive_name_owner_changed_with_args(&[(0, name.as_str()), (2, "")])
                    .await
                    .map_err(bus_fails)?;
                // Asked after the subscription, so that no moment is missed.
                let alive = bus
                    .name_has_owner(BusName::from(name.as_ref()))
                    .await
                    .map_err(|error| bus_fails(error.into()))?;
                Some((changes, alive))
            }
        };
        let connection = connection.clone();
        Ok(async move {
            match &mut vanishing {
                None => connection.closed().await,
                Some((_, false)) => {}
                Some((changes, true)) => {
                    // The end of the stream is the end of the bus: then everybody is gone.
                    changes.next().await;
                }
            }
        })
    }
}
