//! A socket at an address of the user's choice, joined to another local socket: what a tube's own
//! socket, whose address nobody can choose, is reached by.
//!
//! ```text
//!   application ──► Bridge (address of the user's choice, access control)
//!                     └── relay, one for each connection ──► the socket behind it
//! ```
//!
//! The address outlives what is behind it: [`Bridge::run`] can be called again with another target,
//! and applications that come in between wait in the kernel's queue.
//!
//! Bounds: [`MOST_CONNECTIONS`] at a time; the next application waits in the kernel's queue.

use std::sync::Arc;

use crate::{
    endpoint::{Accepted, EndpointConfig, Introduction, Listening, Slots, dial, listen},
    model::{Error, SocketAddress},
    ports::Bytestream,
    relay::{self, Meters},
    runtime::{Clock, Exit, Spawner, Stop},
};

/// Most connections at a time.
const MOST_CONNECTIONS: usize = 256;

/// A bound socket. Dropping it closes it and removes its file.
#[derive(Debug)]
pub struct Bridge {
    listening: Arc<Listening>,
    config: Arc<EndpointConfig>,
    meters: Arc<Meters>,
}

impl Bridge {
    /// Binds at an address of this machine. Nobody is served before [`Bridge::run`]; who comes
    /// early waits.
    ///
    /// # Errors
    /// As [`Listening::bind_at`].
    pub fn bind(address: &SocketAddress, any_local_user: bool) -> Result<Self, Error> {
        let config = Arc::new(EndpointConfig {
            // The user names every path himself here.
            socket_directory: std::path::PathBuf::new(),
            any_local_user,
        });
        let listening = Listening::bind_at(address, &config)?;
        Ok(Bridge {
            listening: Arc::new(listening),
            config,
            meters: Arc::default(),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &SocketAddress {
        self.listening.address()
    }

    /// Bytes that went through it so far: to the socket behind it, and from there.
    pub fn bytes(&self) -> (u64, u64) {
        (self.meters.sent(), self.meters.received())
    }

    /// Joins every connection to one of `target`'s until `stop`. Ends by itself only when its socket
    /// fails.
    pub async fn run(
        &self,
        spawner: &Spawner,
        clock: &Arc<dyn Clock>,
        target: &SocketAddress,
        stop: &Stop,
    ) -> Exit {
        let deliver = |accepted: Accepted| {
            let (config, clock) = (self.config.clone(), clock.clone());
            let (meters, stop, target) = (self.meters.clone(), stop.clone(), target.clone());
            let task = spawner.spawn("bridge", async move {
                let Accepted { stream, slot } = accepted;
                match dial(&target, Introduction::None, &config, &*clock).await {
                    Ok(dialled) => {
                        let remote = Bytestream {
                            io: Box::new(dialled.stream),
                            encrypted: false,
                        };
                        relay::run(stream, remote, meters, &stop).await;
                    }
                    // The application's connection ends; why is the connection manager's to tell.
                    Err(error) => tracing::debug!(%error, "a bridged connection went nowhere"),
                }
                drop(slot);
            });
            // It ends with its connection or with `stop`.
            task.detach();
            std::future::ready(true)
        };
        listen(
            self.listening.clone(),
            Slots::new(MOST_CONNECTIONS),
            clock.clone(),
            deliver,
            stop,
        )
        .await
    }
}
