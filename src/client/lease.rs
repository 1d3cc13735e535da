//! Who keeps a connection online. Several programs may use a connection that one of them brought
//! online; the last to go takes it offline.
//!
//! The service keeps the list, and drops whoever vanishes from it. If the last one vanishes without a
//! word, the service takes the connection offline. A connection without a list was brought online by
//! somebody who does not take part (Mission Control, `--detach`), and stays.

use super::{bus::Bus, connection::Connection, error::Result};
use crate::names;

/// Our place in the list.
#[derive(Debug)]
#[must_use = "a lease that is not released keeps its place until the program ends"]
pub struct Lease {
    connection: Connection,
}

impl Lease {
    /// Begins the list of a connection that we brought online.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn begin(bus: &Bus, connection: &str) -> Result<Lease> {
        let lease = Lease::new(bus, connection)?;
        lease.call::<()>("Begin").await?;
        Ok(lease)
    }

    /// Joins the list of a connection, if it has one.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn join(bus: &Bus, connection: &str) -> Result<Option<Lease>> {
        let lease = Lease::new(bus, connection)?;
        Ok(lease.call::<bool>("Join").await?.then_some(lease))
    }

    /// Leaves the list. True when nobody is left in it: the connection may go offline.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn release(self) -> Result<bool> {
        match self.call::<bool>("Release").await {
            // The connection has ended meanwhile: there is nothing to take offline.
            Err(error) if error.kind.is_gone() => Ok(false),
            answer => answer,
        }
    }

    fn new(bus: &Bus, connection: &str) -> Result<Lease> {
        Ok(Lease {
            connection: Connection::named(bus, connection)?,
        })
    }

    async fn call<R>(&self, member: &str) -> Result<R>
    where
        R: serde::de::DeserializeOwned + zbus::Type,
    {
        self.connection
            .remote()
            .call(names::LEASE, member, &())
            .await
    }
}
