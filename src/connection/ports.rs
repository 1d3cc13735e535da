//! What connections need from the floors above and beside them, as traits, so that tests bring
//! their own.

use std::sync::Arc;

use actors::{
    model::{Error, OwnerId},
    ports::{DBusTubeObject, FileTransferObject, StreamTubeObject},
    runtime::BoxFuture,
    supervisor::{
        DBusTubeRequest, FileTransferRequest, LocalSockets, StreamTubeRequest, SupervisorHandle,
    },
};
use async_channel::Receiver;

use super::{message::ConnectionHandle, parameters::Account, view::ConnectionSignal};
use crate::session::{Session, SessionEvent};

/// The tree of objects that presents connections to their users; `dbus/` implements it.
pub trait ConnectionTree: Send + Sync + 'static {
    /// Makes a connection visible: its object, then its bus name.
    ///
    /// # Errors
    /// `NotAvailable` when the name belongs to somebody else.
    fn publish(&self, connection: ConnectionHandle) -> BoxFuture<'static, Result<(), Error>>;

    /// Emits a signal of a connection that was published.
    fn emit(&self, connection: OwnerId, signal: ConnectionSignal) -> BoxFuture<'static, ()>;

    /// Takes the connection's object away and releases its name.
    fn withdraw(&self, connection: OwnerId) -> BoxFuture<'static, ()>;
}

/// Opens channels: the root supervisor, or a fake.
pub trait ChannelOpener: Send + Sync + 'static {
    /// Opens a stream tube; its object is there when this returns.
    ///
    /// # Errors
    /// What the supervisor answers.
    fn open_stream_tube(
        &self,
        request: StreamTubeRequest,
    ) -> BoxFuture<'static, Result<StreamTubeObject, Error>>;

    /// Opens a file transfer; its object is there when this returns.
    ///
    /// # Errors
    /// What the supervisor answers.
    fn open_file_transfer(
        &self,
        request: FileTransferRequest,
    ) -> BoxFuture<'static, Result<FileTransferObject, Error>>;

    /// Opens a D-Bus tube; its object is there when this returns.
    ///
    /// # Errors
    /// What the supervisor answers.
    fn open_dbus_tube(
        &self,
        request: DBusTubeRequest,
    ) -> BoxFuture<'static, Result<DBusTubeObject, Error>>;

    /// Closes all channels of one connection, in order.
    fn close_owner(&self, owner: OwnerId) -> BoxFuture<'static, ()>;

    /// Completes when there is no supervisor any more: every connection ends then.
    fn gone(&self) -> BoxFuture<'static, ()>;
}

impl ChannelOpener for SupervisorHandle {
    fn open_stream_tube(
        &self,
        request: StreamTubeRequest,
    ) -> BoxFuture<'static, Result<StreamTubeObject, Error>> {
        let supervisor = self.clone();
        Box::pin(async move { SupervisorHandle::open_stream_tube(&supervisor, request).await })
    }

    fn open_file_transfer(
        &self,
        request: FileTransferRequest,
    ) -> BoxFuture<'static, Result<FileTransferObject, Error>> {
        let supervisor = self.clone();
        Box::pin(async move { SupervisorHandle::open_file_transfer(&supervisor, request).await })
    }

    fn open_dbus_tube(
        &self,
        request: DBusTubeRequest,
    ) -> BoxFuture<'static, Result<DBusTubeObject, Error>> {
        let supervisor = self.clone();
        Box::pin(async move { SupervisorHandle::open_dbus_tube(&supervisor, request).await })
    }

    fn close_owner(&self, owner: OwnerId) -> BoxFuture<'static, ()> {
        let supervisor = self.clone();
        Box::pin(async move { SupervisorHandle::close_owner(&supervisor, owner).await })
    }

    fn gone(&self) -> BoxFuture<'static, ()> {
        let supervisor = self.clone();
        Box::pin(async move { SupervisorHandle::gone(&supervisor).await })
    }
}

/// The local sockets of a connection, by its account's parameters: the machine's, or a fake.
pub type SocketsOf = Arc<dyn Fn(&Account) -> Arc<dyn LocalSockets> + Send + Sync>;

/// A session and what happens on it, as a protocol's start gives them.
pub type StartedSession = (Arc<dyn Session>, Receiver<SessionEvent>);

/// Starts sessions: the protocol, or a fake.
pub trait SessionFactory: Send + Sync + 'static {
    /// Starts a session for an account; it is not online yet.
    ///
    /// # Errors
    /// `NotAvailable` when the account's profile is in use, and what the protocol adds.
    fn start(&self, account: &Account) -> BoxFuture<'static, Result<StartedSession, Error>>;
}
