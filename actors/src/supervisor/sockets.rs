//! Where a tube's local sockets come from: the operating system's, by [`SystemSockets`], or a fake
//! world of sockets in memory (`testing::FakeSockets`), so that actor tests need no descriptors.

use std::sync::Arc;

use crate::{
    model::{AccessControl, AddressType, Error, Result, SocketAddress},
    ports::Duplex,
    runtime::BoxFuture,
};

/// A connection to a local service.
pub struct DialledSocket {
    /// The bytes.
    pub stream: Box<dyn Duplex>,
    /// The address we dialled from, where the service was promised to recognise us by it
    /// (`Socket_Access_Control_Port`).
    pub from: Option<SocketAddress>,
}

/// A bound and listening socket. It outlives the listener actor that accepts from it; dropping the
/// last reference closes it and removes its file.
pub trait ListeningSocket: Send + Sync + 'static {
    /// What applications connect to.
    fn address(&self) -> &SocketAddress;

    /// Waits for the next application that passes the access control; others are turned away
    /// without a word. Cancel-safe: an application is either given out or still in the queue.
    ///
    /// # Errors
    /// When the socket can accept no more, now or ever.
    fn accept(&self) -> BoxFuture<'_, Result<Box<dyn Duplex>>>;
}

/// Local sockets. What comes from here has passed the access control.
pub trait LocalSockets: Send + Sync + 'static {
    /// `StreamTube.SupportedSocketTypes`: exactly what [`LocalSockets::bind`] and
    /// [`LocalSockets::dial`] can do.
    fn supported(&self) -> Vec<(AddressType, Vec<AccessControl>)>;

    /// Whether an address offered to us could be dialled.
    ///
    /// # Errors
    /// `InvalidArgument` for an address nobody can listen on (a path too long, port 0),
    /// `NotImplemented` for a combination that is not supported.
    fn check(&self, address: &SocketAddress, access: AccessControl) -> Result<()>;

    /// Binds a fresh socket and listens on it. Does not block.
    ///
    /// # Errors
    /// `NotImplemented` for a combination that is not supported, `ResourceUnavailable` when the
    /// system has no descriptor or no place for it.
    fn bind(&self, kind: AddressType, access: AccessControl) -> Result<Arc<dyn ListeningSocket>>;

    /// Dials a local service.
    ///
    /// # Errors
    /// `ConnectionRefused`, `ConnectionFailed` (also after the endpoint's own time limit),
    /// `PermissionDenied`.
    fn dial(
        &self,
        address: &SocketAddress,
        access: AccessControl,
    ) -> BoxFuture<'static, Result<DialledSocket>>;
}

/// The operating system's sockets.
#[derive(Clone, Debug, Default)]
pub struct SystemSockets {}

impl SystemSockets {
    fn missing() -> Error {
        Error::NotImplemented("this build has no local sockets".into())
    }
}

impl LocalSockets for SystemSockets {
    fn supported(&self) -> Vec<(AddressType, Vec<AccessControl>)> {
        Vec::new()
    }

    fn check(&self, _: &SocketAddress, _: AccessControl) -> Result<()> {
        Err(Self::missing())
    }

    fn bind(&self, _: AddressType, _: AccessControl) -> Result<Arc<dyn ListeningSocket>> {
        Err(Self::missing())
    }

    fn dial(
        &self,
        _: &SocketAddress,
        _: AccessControl,
    ) -> BoxFuture<'static, Result<DialledSocket>> {
        Box::pin(async { Err(Self::missing()) })
    }
}
