//! Who keeps an account of Mission Control online: everybody queues for one well-known name that
//! belongs to it, and the bus drops whoever vanishes. The last to leave takes it offline.

use super::{bus::Bus, error::Result};

/// Our place in the queue for a name.
#[derive(Debug)]
pub(super) struct Queue {
    bus: Bus,
    name: String,
}

impl Queue {
    /// Begins the queue of what we bring online.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn begin(bus: &Bus, name: String) -> Result<Queue> {
        let queue = Queue {
            bus: bus.clone(),
            name,
        };
        queue.enter().await?;
        Ok(queue)
    }

    /// Joins the queue, if there is one.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn join(bus: &Bus, name: String) -> Result<Option<Queue>> {
        // Not by trying: a name that was owned and is no more takes a connection offline.
        if bus.owner(&name).await?.is_none() {
            return Ok(None);
        }
        let queue = Queue {
            bus: bus.clone(),
            name,
        };
        if queue.enter().await? {
            // First in the queue: the last has left it meanwhile, and takes offline what it was for.
            queue.leave().await?;
            return Ok(None);
        }
        Ok(Some(queue))
    }

    /// Leaves the queue. True when nobody is left in it.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn release(self) -> Result<bool> {
        self.leave().await?;
        Ok(self.bus.owner(&self.name).await?.is_none())
    }

    /// True when we own the name.
    async fn enter(&self) -> Result<bool> {
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
