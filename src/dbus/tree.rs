//! The tree of objects on the bus. Implements the [`ObjectTree`] port for channels and the
//! [`ConnectionTree`] port for connections.
//!
//! ```text
//!  /org/freedesktop/Telepathy/ConnectionManager/pneuma             the manager
//!  /org/freedesktop/Telepathy/ConnectionManager/pneuma/local_xmpp  the protocol
//!  /org/freedesktop/Telepathy/Connection/pneuma/local_xmpp/NAME    a connection
//!  .../NAME/StreamTubeN                                            a channel
//! ```
//!
//! The maps in here only say where things are; who may be there, and how many, is decided by the
//! actors that publish. A bus that is gone makes signals vanish: who listened is gone with it, and
//! the service is shutting down.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use actors::{
    model::{ChannelId, Error, OwnerId, Result},
    ports::{ChannelObject, ChannelSignal, ObjectTree},
    runtime::{BoxFuture, Spawner, Task},
};
use zbus::object_server::SignalEmitter;

use super::{
    aliasing::Aliasing,
    capabilities::ContactCapabilities,
    channel::{Channel, Tube},
    claim::Claim,
    connection::Connection,
    contact_list::ContactList,
    contacts::Contacts,
    emit,
    kept::Kept,
    manager::ConnectionManager,
    name,
    presence::SimplePresence,
    requests::Requests,
    statistics::Statistics,
    stream_tube::StreamTube,
    trust::Trust,
};
use crate::connection::{
    ConnectionHandle, kept::KeptHandle, message::ConnectionMessage, ports::ConnectionTree,
    protocol, view::ConnectionSignal,
};

/// See the module's head. Cheap to clone.
#[derive(Clone)]
pub struct Tree(Arc<Shared>);

struct Shared {
    bus: zbus::Connection,
    spawner: Spawner,
    places: Mutex<Places>,
    /// Set before there is anything in the tree.
    keeper: OnceLock<KeptHandle>,
}

#[derive(Default)]
struct Places {
    connections: BTreeMap<OwnerId, ConnectionHandle>,
    channels: BTreeMap<ChannelId, (OwnerId, String)>,
    /// For each connection: waits until nobody wants it any more. Dropped with the connection.
    watches: BTreeMap<OwnerId, Task<()>>,
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
    /// A tree on a bus.
    pub fn new(bus: zbus::Connection, spawner: Spawner) -> Self {
        Tree(Arc::new(Shared {
            bus,
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

    fn connection(&self, id: OwnerId) -> Option<ConnectionHandle> {
        self.places().connections.get(&id).cloned()
    }

    fn channel(&self, id: ChannelId) -> Option<(OwnerId, String)> {
        self.places().channels.get(&id).cloned()
    }

    async fn publish_connection(&self, connection: ConnectionHandle) -> Result<()> {
        let bus = &self.0.bus;
        let path = &*connection.path;
        let server = bus.object_server();
        self.places()
            .connections
            .insert(connection.id, connection.clone());
        put(server, path, Connection::new(connection.clone())).await?;
        put(server, path, Requests::new(connection.clone())).await?;
        put(server, path, Contacts::new(connection.clone())).await?;
        put(server, path, ContactList::new(connection.clone())).await?;
        put(server, path, SimplePresence::new(connection.clone())).await?;
        put(server, path, Aliasing::new(connection.clone())).await?;
        put(server, path, ContactCapabilities::new(connection.clone())).await?;
        put(server, path, Trust::new(connection.clone())).await?;
        let keeper = self.0.keeper.get().cloned();
        if let Some(keeper) = keeper.clone() {
            put(server, path, Kept::new(connection.clone(), keeper)).await?;
        }
        name::own(bus, &connection.bus_name).await?;
        // Before anybody hears of the connection, so that no moment is missed.
        let unwanted = super::lease::watch(bus, &connection.bus_name).await?;
        let watched = connection.clone();
        let watch = self
            .0
            .spawner
            .spawn("watch over those who want a connection", async move {
                unwanted.await;
                if keeper.is_some_and(|keeper| !keeper.of(&watched.profile).is_empty()) {
                    tracing::debug!("an account stays online for the tubes it keeps");
                    return;
                }
                tracing::debug!("whoever kept a connection online is gone: it goes offline");
                watched.disconnect().await;
            });
        self.places().watches.insert(connection.id, watch);
        let announced = async {
            let manager = SignalEmitter::new(bus, protocol::MANAGER_PATH)?;
            let path = zbus::ObjectPath::try_from(path)?;
            ConnectionManager::new_connection(
                &manager,
                &connection.bus_name,
                path,
                protocol::PROTOCOL,
            )
            .await
        };
        emit::lost(announced.await);
        Ok(())
    }

    async fn withdraw_connection(&self, id: OwnerId) {
        let Some(connection) = self.places().connections.remove(&id) else {
            return;
        };
        let watch = self.places().watches.remove(&id);
        drop(watch);
        let path = &*connection.path;
        let server = self.0.bus.object_server();
        take::<Kept>(server, path).await;
        take::<Trust>(server, path).await;
        take::<ContactCapabilities>(server, path).await;
        take::<Aliasing>(server, path).await;
        take::<SimplePresence>(server, path).await;
        take::<ContactList>(server, path).await;
        take::<Contacts>(server, path).await;
        take::<Requests>(server, path).await;
        take::<Connection>(server, path).await;
        if let Err(error) = self.0.bus.release_name(&*connection.bus_name).await {
            tracing::debug!(%error, "a name could not be released");
        }
    }

    async fn publish_channel(&self, object: ChannelObject) -> Result<()> {
        let connection = self
            .connection(object.owner)
            .ok_or_else(|| Error::Disconnected("the channel's connection is closed".into()))?;
        let path = protocol::channel_path(&connection.path, object.id);
        let server = self.0.bus.object_server();
        self.places()
            .channels
            .insert(object.id, (object.owner, path.clone()));
        let put_all = async {
            put(server, &path, Channel::new(object.clone())).await?;
            put(server, &path, Tube::new(object.clone())).await?;
            put(
                server,
                &path,
                Statistics::new(object.clone(), connection.clone()),
            )
            .await?;
            let claim = Claim::new(object.clone(), self.0.spawner.clone());
            put(server, &path, claim).await?;
            put(
                server,
                &path,
                StreamTube::new(object.clone(), connection.clone()),
            )
            .await
        };
        let outcome = put_all.await;
        if outcome.is_err() {
            self.remove_channel(object.id).await;
        }
        outcome
    }

    async fn withdraw_channel(&self, id: ChannelId) {
        let Some((owner, path)) = self.channel(id) else {
            return;
        };
        emit::channel_closed(&self.0.bus, &path).await;
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
        let Some((_, path)) = self.places().channels.remove(&id) else {
            return;
        };
        let server = self.0.bus.object_server();
        take::<StreamTube>(server, &path).await;
        take::<Claim>(server, &path).await;
        take::<Statistics>(server, &path).await;
        take::<Tube>(server, &path).await;
        take::<Channel>(server, &path).await;
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
                // Not before the answers are out that were read before this.
                let order = connection.order().write().await;
                emit::of_connection(&tree.0.bus, &connection.path, signal).await;
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
            if let Some((_, path)) = tree.channel(id) {
                emit::of_channel(&tree.0.bus, &path, signal).await;
            }
        })
    }

    fn withdraw(&self, id: ChannelId) -> BoxFuture<'static, ()> {
        let tree = self.clone();
        Box::pin(async move { tree.withdraw_channel(id).await })
    }
}
