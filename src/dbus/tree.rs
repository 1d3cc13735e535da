//! The tree of objects on the bus. Implements the [`ObjectTree`] port for channels and the
//! [`ConnectionTree`] port for connections.
//!
//! ```text
//!  /org/freedesktop/Telepathy/ConnectionManager/pneuma             the manager
//!  /org/freedesktop/Telepathy/ConnectionManager/pneuma/local_xmpp  the protocol
//!  /org/freedesktop/Telepathy/Connection/pneuma/local_xmpp/NAME    a connection
//!  .../NAME/StreamTubeN, .../DBusTubeN, .../FileTransferN          a channel
//! ```
//!
//! The maps in here only say where things are; who may be there, and how many, is decided by the
//! actors that publish. The tree is the same on every outlet. A bus that is gone makes signals vanish:
//! who listened is gone with it, and the service is shutting down.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::{
    aliasing::Aliasing,
    capabilities::ContactCapabilities,
    channel::{Channel, Tube},
    claim::{self, Claim},
    connection::Connection,
    contact_groups::ContactGroups,
    contact_list::ContactList,
    contacts::Contacts,
    dbus_tube::DBusTube,
    discovery::Discovery,
    emit,
    file_transfer::FileTransfer,
    file_transfer_metadata::FileTransferMetadata,
    kept::Kept,
    lease::{self, Lease},
    outlet::{Outlet, Outlets},
    policy::Policy,
    presence::SimplePresence,
    requests::Requests,
    statistics::Statistics,
    stream_tube::StreamTube,
    transfer::Transfer,
    trust::Trust,
};
use crate::connection::{
    ConnectionHandle, kept::KeptHandle, message::ConnectionMessage, ports::ConnectionTree,
    protocol, view::ConnectionSignal,
};
use actors::{
    model::{ChannelId, Error, OwnerId, Result},
    ports::{ChannelObject, ChannelSignal, ObjectTree},
    runtime::{BoxFuture, Spawner},
};

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct Tree(Arc<Shared>);

struct Shared {
    outlets: Outlets,
    spawner: Spawner,
    places: Mutex<Places>,
    /// Set before there is anything in the tree.
    keeper: OnceLock<KeptHandle>,
}

#[derive(Default)]
struct Places {
    connections: BTreeMap<OwnerId, ConnectionHandle>,
    channels: BTreeMap<ChannelId, ChannelPlace>,
}

/// Where a channel is, and what it is there.
#[derive(Clone)]
struct ChannelPlace {
    owner: OwnerId,
    path: String,
    kind: ChannelKind,
}

/// Which interfaces a channel has beside those that all have.
#[derive(Clone, Copy)]
enum ChannelKind {
    StreamTube,
    DBusTube,
    FileTransfer,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = self.places();
        f.debug_struct("Tree")
            .field("connections", &places.connections.len())
            .field("channels", &places.channels.len())
            .finish_non_exhaustive()
    }
}

impl Tree {
    /// A tree on these.
    pub(super) fn new(outlets: Outlets, spawner: Spawner) -> Self {
        Tree(Arc::new(Shared {
            outlets,
            spawner,
            places: Mutex::default(),
            keeper: OnceLock::new(),
        }))
    }

    /// Who keeps tubes: made after the tree, because it needs a manager, which needs the tree.
    pub fn keep_with(&self, keeper: KeptHandle) {
        if self.0.keeper.set(keeper).is_err() {
            tracing::error!("a tree has one keeper");
        }
    }

    /// Each change to the maps is one insertion or one removal, so they are whole whatever
    /// panicked.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All connections that are to be seen.
    pub(super) fn connections(&self) -> Vec<ConnectionHandle> {
        self.places().connections.values().cloned().collect()
    }

    fn connection(&self, id: OwnerId) -> Option<ConnectionHandle> {
        self.places().connections.get(&id).cloned()
    }

    fn channel(&self, id: ChannelId) -> Option<ChannelPlace> {
        self.places().channels.get(&id).cloned()
    }

    async fn publish_connection(&self, connection: ConnectionHandle) -> Result<()> {
        self.places()
            .connections
            .insert(connection.id, connection.clone());
        let keeper = self.0.keeper.get().cloned();
        let spawner = self.0.spawner.clone();
        let leases = lease::State::new(connection.clone(), keeper.clone(), spawner);
        for outlet in &*self.0.outlets {
            let lease = Lease::new(leases.clone(), outlet.clone());
            put_connection(outlet, &connection, lease).await?;
            if let Some(keeper) = keeper.clone() {
                let server = outlet.connection().object_server();
                put(
                    server,
                    &connection.path,
                    Kept::new(connection.clone(), keeper),
                )
                .await?;
            }
        }
        for outlet in &*self.0.outlets {
            outlet.own(&connection.bus_name).await?;
        }
        tracing::debug!(name = &*connection.bus_name, "a connection is there");
        for outlet in &*self.0.outlets {
            let bus = outlet.connection();
            emit::new_connection(bus, &connection.bus_name, &connection.path).await;
        }
        Ok(())
    }

    async fn withdraw_connection(&self, id: OwnerId) {
        let Some(connection) = self.places().connections.remove(&id) else {
            return;
        };
        tracing::debug!(name = &*connection.bus_name, "a connection is gone");
        let path = &*connection.path;
        for outlet in &*self.0.outlets {
            // First: while the objects go one by one, whoever calls shall hear that nobody is there, and not
            // that somebody is who cannot do it.
            outlet.disown(&connection.bus_name).await;
            let server = outlet.connection().object_server();
            take::<Kept>(server, path).await;
            take::<Lease>(server, path).await;
            take::<Discovery>(server, path).await;
            take::<Policy>(server, path).await;
            take::<Trust>(server, path).await;
            take::<ContactCapabilities>(server, path).await;
            take::<Aliasing>(server, path).await;
            take::<SimplePresence>(server, path).await;
            take::<ContactGroups>(server, path).await;
            take::<ContactList>(server, path).await;
            take::<Contacts>(server, path).await;
            take::<Requests>(server, path).await;
            take::<Connection>(server, path).await;
        }
    }

    async fn publish_channel(&self, object: ChannelObject) -> Result<()> {
        let connection = self
            .connection(object.owner())
            .ok_or_else(|| Error::Disconnected("the channel's connection is closed".into()))?;
        let path = protocol::channel_path(&connection.path, object.id(), &object.description());
        let place = ChannelPlace {
            owner: object.owner(),
            path: path.clone(),
            kind: match object {
                ChannelObject::StreamTube(_) => ChannelKind::StreamTube,
                ChannelObject::FileTransfer(_) => ChannelKind::FileTransfer,
                ChannelObject::DBusTube(_) => ChannelKind::DBusTube,
            },
        };
        self.places().channels.insert(object.id(), place);
        let claims = claim::State::new(object.clone(), self.0.spawner.clone());
        for outlet in &*self.0.outlets {
            let claim = Claim::new(claims.clone(), outlet.clone());
            let outcome = put_channel(outlet, &path, &object, &connection, claim).await;
            if outcome.is_err() {
                self.remove_channel(object.id()).await;
                return outcome;
            }
        }
        tracing::debug!(path, "a channel is there");
        Ok(())
    }

    async fn withdraw_channel(&self, id: ChannelId) {
        let Some(ChannelPlace { owner, path, .. }) = self.channel(id) else {
            return;
        };
        tracing::debug!(path, "a channel is gone");
        for outlet in &*self.0.outlets {
            emit::channel_closed(outlet.connection(), &path).await;
        }
        self.remove_channel(id).await;
        // Told last, so that the connection's ChannelClosed follows the channel's Closed. A
        // connection that is gone tells of its channels by itself.
        if let Some(connection) = self.connection(owner) {
            connection
                .address
                .tell_first(ConnectionMessage::ChannelClosed(id))
                .await
                .ok();
        }
    }

    async fn remove_channel(&self, id: ChannelId) {
        let Some(ChannelPlace { path, kind, .. }) = self.places().channels.remove(&id) else {
            return;
        };
        for outlet in &*self.0.outlets {
            let server = outlet.connection().object_server();
            match kind {
                ChannelKind::StreamTube => {
                    take::<StreamTube>(server, &path).await;
                    take::<Statistics>(server, &path).await;
                    take::<Tube>(server, &path).await;
                }
                ChannelKind::DBusTube => {
                    take::<DBusTube>(server, &path).await;
                    take::<Statistics>(server, &path).await;
                    take::<Tube>(server, &path).await;
                }
                ChannelKind::FileTransfer => {
                    take::<FileTransfer>(server, &path).await;
                    take::<Transfer>(server, &path).await;
                    take::<FileTransferMetadata>(server, &path).await;
                }
            }
            take::<Claim>(server, &path).await;
            take::<Channel>(server, &path).await;
        }
    }
}

async fn put_connection(
    outlet: &Outlet,
    connection: &ConnectionHandle,
    lease: Lease,
) -> Result<()> {
    let server = outlet.connection().object_server();
    let path = &*connection.path;
    put(server, path, Connection::new(connection.clone())).await?;
    put(server, path, Requests::new(connection.clone())).await?;
    put(server, path, Contacts::new(connection.clone())).await?;
    put(server, path, ContactList::new(connection.clone())).await?;
    put(server, path, ContactGroups::new(connection.clone())).await?;
    put(server, path, SimplePresence::new(connection.clone())).await?;
    put(server, path, Aliasing::new(connection.clone())).await?;
    put(server, path, ContactCapabilities::new(connection.clone())).await?;
    put(server, path, Trust::new(connection.clone())).await?;
    put(server, path, Policy::new(connection.clone())).await?;
    put(server, path, Discovery::new(connection.clone())).await?;
    put(server, path, lease).await
}

async fn put_channel(
    outlet: &Outlet,
    path: &str,
    object: &ChannelObject,
    connection: &ConnectionHandle,
    claim: Claim,
) -> Result<()> {
    let server = outlet.connection().object_server();
    put(server, path, Channel::new(object.clone())).await?;
    put(server, path, claim).await?;
    match object {
        ChannelObject::StreamTube(tube) => {
            put(server, path, Tube::new(tube.clone())).await?;
            let statistics = Statistics::new(tube.clone(), connection.clone());
            put(server, path, statistics).await?;
            let stream_tube = StreamTube::new(tube.clone(), connection.clone());
            put(server, path, stream_tube).await
        }
        ChannelObject::FileTransfer(transfer) => {
            let metadata = FileTransferMetadata::new(transfer.clone());
            put(server, path, metadata).await?;
            let ours = Transfer::new(transfer.clone(), connection.clone());
            put(server, path, ours).await?;
            let file_transfer = FileTransfer::new(transfer.clone(), connection.clone());
            put(server, path, file_transfer).await
        }
        ChannelObject::DBusTube(tube) => {
            put(server, path, Tube::new(tube.clone())).await?;
            let statistics = Statistics::new(tube.clone(), connection.clone());
            put(server, path, statistics).await?;
            let dbus_tube = DBusTube::new(tube.clone(), connection.clone());
            put(server, path, dbus_tube).await
        }
    }
}

async fn put<I: zbus::object_server::Interface>(
    server: &zbus::ObjectServer,
    path: &str,
    interface: I,
) -> Result<()> {
    match server.at(path, interface).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Error::NotAvailable(format!("{path} is there already"))),
        Err(error) => Err(Error::Confused(format!("{path} cannot be: {error}"))),
    }
}

async fn take<I: zbus::object_server::Interface>(server: &zbus::ObjectServer, path: &str) {
    // One that never was there, because its object could not be put together, is no surprise.
    if let Err(error) = server.remove::<I, _>(path).await {
        tracing::debug!(%error, path, "an interface was not there");
    }
}

impl ConnectionTree for Tree {
    fn publish(&self, connection: ConnectionHandle) -> BoxFuture<'static, Result<()>> {
        let tree = self.clone();
        Box::pin(async move { tree.publish_connection(connection).await })
    }

    fn emit(&self, id: OwnerId, signal: ConnectionSignal) -> BoxFuture<'static, ()> {
        let tree = self.clone();
        Box::pin(async move {
            if let Some(connection) = tree.connection(id) {
                if let ConnectionSignal::StatusChanged(status, reason) = &signal {
                    tracing::debug!(
                        name = &*connection.bus_name,
                        ?status,
                        ?reason,
                        "another status"
                    );
                }
                // Not before the answers are out that were read before this.
                let order = connection.order().write().await;
                for outlet in &*tree.0.outlets {
                    let bus = outlet.connection();
                    emit::of_connection(bus, &connection.path, signal.clone()).await;
                }
                drop(order);
            }
        })
    }

    fn withdraw(&self, id: OwnerId) -> BoxFuture<'static, ()> {
        let tree = self.clone();
        Box::pin(async move { tree.withdraw_connection(id).await })
    }
}

impl ObjectTree for Tree {
    fn publish(&self, object: ChannelObject) -> BoxFuture<'static, Result<()>> {
        let tree = self.clone();
        Box::pin(async move { tree.publish_channel(object).await })
    }

    fn emit(&self, id: ChannelId, signal: ChannelSignal) -> BoxFuture<'static, ()> {
        let tree = self.clone();
        Box::pin(async move {
            if let Some(ChannelPlace { path, .. }) = tree.channel(id) {
                tracing::debug!(path, ?signal, "something happens on a channel");
                for outlet in &*tree.0.outlets {
                    emit::of_channel(outlet.connection(), &path, signal.clone()).await;
                }
            }
        })
    }

    fn withdraw(&self, id: ChannelId) -> BoxFuture<'static, ()> {
        let tree = self.clone();
        Box::pin(async move { tree.withdraw_channel(id).await })
    }
}
