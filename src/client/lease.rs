//! Who keeps a connection online. Several programs may use a connection that one of them brought
//! online; the last to go takes it offline.
//!
//! The bus keeps the list: everybody queues for one well-known name that belongs to the
//! connection, and the bus drops whoever vanishes. If the last one vanishes without a word, the
//! service takes the connection offline. A connection without that name was brought
//! online by somebody who does not take part (Mission Control, `--detach`), and stays.

use super::{bus::Bus, error::Result};
use crate::names;

/// Our place in the queue.
#[derive(Debug)]
#[must_use = "a lease that is not released keeps its place until the program ends"]
pub struct Lease {
    bus: Bus,
    name: String,
}

impl Lease {
    /// Begins the queue of a connection that we brought online.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn begin(bus: &Bus, connection: &str) -> Result<Lease> {
        let lease = Lease::new(bus, connection);
        lease.queue().await?;
        Ok(lease)
    }

    /// Joins the queue of a connection, if it has one.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn join(bus: &Bus, connection: &str) -> Result<Option<Lease>> {
        let lease = Lease::new(bus, connection);
        // Not by trying: a name that was owned and is no more takes the connection offline.
        if bus.owner(&lease.name).await?.is_none() {
            return Ok(None);
        }
        if lease.queue().await? {
            // First in the queue: the last has left it meanwhile, and the connection ends.
            lease.leave().await?;
            return Ok(None);
        }
        Ok(Some(lease))
    }

    /// Leaves the queue. True when nobody is left in it: the connection may go offline.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn release(self) -> Result<bool> {
        self.leave().await?;
        Ok(self.bus.owner(&self.name).await?.is_none())
    }

    fn new(bus: &Bus, connection: &str) -> Lease {
        let account = connection
            .strip_prefix(names::CONNECTION_PREFIX)
            .unwrap_or("account");
        Lease {
            bus: bus.clone(),
            name: format!("{}{account}", names::LEASE_PREFIX),
        }
    }

    /// Queues. True when we own the name.
    async fn queue(&self) -> Result<bool> {
        let answer: u32 = self
            .bus
            .call_daemon("RequestName", &(self.name.as_str(), 0u32))
            .await?;
        // 1: primary owner, 4: already owner, 2: in the queue.
        Ok(matches!(answer, 1 | 4))
    }

    async fn leave(&self) -> Result<()> {
        let _released: u32 = self
            .bus
            .call_daemon("ReleaseName", &self.name.as_str())
            .await?;
        Ok(())
    }
}
