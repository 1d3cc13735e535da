//! The socket bridge: a socket at an address of the user's choice, joined to the socket that the
//! connection manager chose ([`actors::bridge`]): a name one can remember, in front of one that nobody
//! can choose.

use actors::{
    bridge,
    model::{Error as ModelError, SocketAddress},
    runtime::{Exit, Stop},
};

use super::{
    bus::Bus,
    error::{Error, Kind, Result},
};

/// A bound socket. Dropping it closes it and removes its file.
#[derive(Debug)]
pub struct Bridge(bridge::Bridge);

impl Bridge {
    /// Binds at an address of this machine. Nobody is served before [`Bridge::run`]; who comes
    /// early waits.
    ///
    /// # Errors
    /// [`Kind::Io`] and [`Kind::PermissionDenied`], with a sentence.
    pub fn bind(address: &SocketAddress, any_local_user: bool) -> Result<Self> {
        bridge::Bridge::bind(address, any_local_user)
            .map(Bridge)
            .map_err(local)
    }

    /// Where it listens.
    pub fn address(&self) -> &SocketAddress {
        self.0.address()
    }

    /// Bytes that went through it so far: to the connection manager, and from it.
    pub fn bytes(&self) -> (u64, u64) {
        self.0.bytes()
    }

    /// Joins every connection to one of `target`'s until `stop`. Ends by itself only when its socket
    /// fails.
    pub async fn run(&self, bus: &Bus, target: &SocketAddress, stop: &Stop) -> Error {
        match self.0.run(bus.spawner(), bus.clock(), target, stop).await {
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
