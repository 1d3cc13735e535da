//! The socket bridge: a socket at an address of the user's choice, joined to the socket that the
//! connection manager chose. Where the two run on different machines (later), the one here is what
//! keeps strangers out; where they run on one, it is merely a name one can remember.
//!
//! ```text
//!   application ──► Bridge (address of the user's choice, access control)
//!                     └── relay, one for each connection ──► the connection manager's socket
//! ```
//!
//! Bounds: [`MOST_CONNECTIONS`] at a time; the next application waits in the kernel's queue.

use std::sync::Arc;

use actors::{
    endpoint::{Accepted, EndpointConfig, Introduction, Listening, Slots, dial, listen},
    model::{Error as ModelError, SocketAddress},
    ports::Bytestream,
    relay::{self, Meters},
    runtime::{Exit, Stop},
};

use super::{
    bus::Bus,
    error::{Error, Kind, Result},
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
    /// [`Kind::Io`] and [`Kind::PermissionDenied`], with a sentence.
    pub fn bind(address: &SocketAddress, any_local_user: bool) -> Result<Self> {
        let config = Arc::new(EndpointConfig {
            // The user names every path himself here.
            socket_directory: std::path::PathBuf::new(),
            any_local_user,
        });
        let listening = Listening::bind_at(address, &config).map_err(local)?;
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

    /// Bytes that went through it so far: to the connection manager, and from it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.meters.sent(), self.meters.received())
    }

    /// Joins every connection to one of `target`'s until `stop`. Ends by itself only when its socket
    /// fails.
    pub async fn run(&self, bus: &Bus, target: &SocketAddress, stop: &Stop) -> Error {
        let deliver = |accepted: Accepted| {
            let (config, clock) = (self.config.clone(), bus.clock().clone());
            let (meters, stop, target) = (self.meters.clone(), stop.clone(), target.clone());
            let task = bus.spawner().spawn("bridge", async move {
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
        let exit = listen(
            self.listening.clone(),
            Slots::new(MOST_CONNECTIONS),
            bus.clock().clone(),
            deliver,
            stop,
        )
        .await;
        match exit {
            Exit::Stopped | Exit::Finished => Error::new(Kind::Cancelled, "the bridge was closed"),
            Exit::Failed(failure) => Error::new(Kind::Io, format!("the bridge {failure}")),
        }
    }
}

/// What the endpoint says, as an error of this library.
fn local(error: ModelError) -> Error {
    let kind = match &error {
        ModelError::PermissionDenied(_) => Kind::PermissionDenied,
        ModelError::InvalidArgument(_) => Kind::InvalidArgument,
        ModelError::ResourceUnavailable(_) => Kind::ResourceUnavailable,
        _ => Kind::Io,
    };
    Error::new(kind, error.to_string())
}
