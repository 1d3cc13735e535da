//! Where a tube's local sockets come from: the operating system's, by [`SystemSockets`], or a
//! world of sockets in memory (`testing::FakeSockets`), so that actor tests need no descriptors.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use async_channel::Sender;

use crate::{
    endpoint::{self, EndpointConfig, Introduction, Listening, Slot, Slots},
    model::{AccessControl, AccessRule, AddressType, ConnectionParameter, Result, SocketAddress},
    ports::Duplex,
    runtime::{BoxFuture, Clock, Exit, Faults, Stop},
};

/// A connection to a local service.
pub struct DialledSocket {
    /// The bytes.
    pub stream: Box<dyn Duplex>,
    /// How the service recognises it.
    pub parameter: ConnectionParameter,
}

/// An application's connection that has passed the access control.
pub struct AcceptedSocket {
    /// The bytes.
    pub stream: Box<dyn Duplex>,
    /// The permit it occupies.
    pub slot: Slot,
    /// The user whose process connected, where the kernel says so: on Unix sockets.
    pub user: Option<u32>,
}

/// What a listener is to do.
pub struct ListenJob {
    /// A slot is reserved here before each accept.
    pub slots: Slots,
    /// Where each connection goes. `false`: nobody takes them any more.
    pub deliver: Box<dyn FnMut(AcceptedSocket) -> BoxFuture<'static, bool> + Send>,
    /// Who wants to know of an application that connected and was gone before it could be let in; with
    /// room for one word, which says it of all.
    pub vanished: Option<Sender<()>>,
    /// Ends the listener.
    pub stop: Stop,
}

/// A bound and listening socket. It outlives the listener actor that accepts from it; dropping the
/// last reference closes it and removes its file.
pub trait ListeningSocket: Send + Sync + 'static {
    /// What applications connect to.
    fn address(&self) -> &SocketAddress;

    /// The listener actor: accepts and delivers until it is stopped. Dropping it, or its panic,
    /// loses no application that waits in the socket's queue or in its hand: a second one goes on
    /// where the first was.
    fn listen(self: Arc<Self>, job: ListenJob) -> BoxFuture<'static, Exit>;
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
    /// `NotImplemented` for a combination that is not supported, `InvalidArgument` for a rule nobody
    /// could keep, `ResourceUnavailable` when the system has no descriptor or no place for it.
    fn bind(&self, kind: AddressType, access: AccessRule) -> Result<Arc<dyn ListeningSocket>>;

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

/// The operating system's sockets, treated as one Connection's parameters say.
#[derive(Clone)]
pub struct SystemSockets {
    config: EndpointConfig,
    clock: Arc<dyn Clock>,
    /// The byte that the next service is told which wants one. Each gets another, so that 256
    /// connections in a row can be told apart.
    next_byte: Arc<AtomicU8>,
    faults: Faults,
}

impl std::fmt::Debug for SystemSockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.config.fmt(f)
    }
}

impl SystemSockets {
    /// Sockets by this configuration; the clock is for their time limits.
    pub fn new(config: EndpointConfig, clock: Arc<dyn Clock>) -> Self {
        SystemSockets {
            config,
            clock,
            next_byte: Arc::default(),
            faults: Faults::default(),
        }
    }

    /// The same, with places where a test kills who listens and dials.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        SystemSockets { faults, ..self }
    }
}

impl LocalSockets for SystemSockets {
    fn supported(&self) -> Vec<(AddressType, Vec<AccessControl>)> {
        endpoint::supported_sockets()
    }

    fn check(&self, address: &SocketAddress, access: AccessControl) -> Result<()> {
        endpoint::check_target(address, access)
    }

    fn bind(&self, kind: AddressType, access: AccessRule) -> Result<Arc<dyn ListeningSocket>> {
        Ok(Arc::new(SystemListening {
            socket: Arc::new(Listening::bind(kind, access, &self.config)?),
            clock: self.clock.clone(),
            faults: self.faults.clone(),
        }))
    }

    fn dial(
        &self,
        address: &SocketAddress,
        access: AccessControl,
    ) -> BoxFuture<'static, Result<DialledSocket>> {
        let (faults, clock, address) = (self.faults.clone(), self.clock.clone(), address.clone());
        let introduction = match access {
            AccessControl::Localhost | AccessControl::Port => Introduction::None,
            AccessControl::Credentials => {
                Introduction::Byte(self.next_byte.fetch_add(1, Ordering::Relaxed))
            }
        };
        Box::pin(async move {
            let dialled = endpoint::dial_until(&address, introduction, &*clock, &faults).await?;
            let parameter = match (access, introduction, dialled.from) {
                (AccessControl::Port, _, Some(from)) => ConnectionParameter::From(from),
                (_, Introduction::Byte(byte), _) => ConnectionParameter::Byte(byte),
                _ => ConnectionParameter::Nothing,
            };
            Ok(DialledSocket {
                stream: Box::new(dialled.stream),
                parameter,
            })
        })
    }
}

struct SystemListening {
    socket: Arc<Listening>,
    clock: Arc<dyn Clock>,
    faults: Faults,
}

impl ListeningSocket for SystemListening {
    fn address(&self) -> &SocketAddress {
        self.socket.address()
    }

    fn listen(self: Arc<Self>, job: ListenJob) -> BoxFuture<'static, Exit> {
        let ListenJob {
            slots,
            mut deliver,
            vanished,
            stop,
        } = job;
        Box::pin(async move {
            let deliver = |accepted: endpoint::Accepted| {
                deliver(AcceptedSocket {
                    user: accepted.stream.peer_user(),
                    stream: Box::new(accepted.stream),
                    slot: accepted.slot,
                })
            };
            let (socket, clock) = (self.socket.clone(), self.clock.clone());
            let faults = &self.faults;
            endpoint::listen_until(socket, slots, clock, deliver, vanished, &stop, faults).await
        })
    }
}
