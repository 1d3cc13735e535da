//! Who keeps a connection online. Several programs may use a connection that one of them brought
//! online; the last to go takes it offline.
//!
//! If the last one vanishes without a word, the service takes the connection offline. A connection
//! without a queue was brought online by somebody who does not take part (Mission Control,
//! `--detach`), and stays.

use super::{bus::Bus, error::Result, queue::Queue};
use crate::names;

/// Our place in the queue.
#[derive(Debug)]
#[must_use = "a lease that is not released keeps its place until the program ends"]
pub struct Lease(Queue);

impl Lease {
    /// Begins the queue of a connection that we brought online.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn begin(bus: &Bus, connection: &str) -> Result<Lease> {
        Queue::begin(bus, name(connection)).await.map(Lease)
    }

    /// Joins the queue of a connection, if it has one.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn join(bus: &Bus, connection: &str) -> Result<Option<Lease>> {
        let queue = Queue::join(bus, name(connection)).await?;
        Ok(queue.map(Lease))
    }

    /// Leaves the queue. True when nobody is left in it: the connection may go offline.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn release(self) -> Result<bool> {
        self.0.release().await
    }
}

fn name(connection: &str) -> String {
    let account = connection
        .strip_prefix(names::CONNECTION_PREFIX)
        .unwrap_or("account");
    format!("{}{account}", names::LEASE_PREFIX)
}
