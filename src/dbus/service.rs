//! The service: its outlets (a bus, a private socket), the manager and protocol objects, the supervisor
//! of channels, and when it all ends. `builder` puts it together.
//!
//! ```text
//!  start ──> serving ──┬─ shutdown()                       ──┐
//!               ^      ├─ the bus is gone, a root failed   ──┤──> connections close in order
//!               │      └─ idle: name and door given up     ──┘    objects and names go
//!               │              │ somebody came meanwhile          bus, clients' connections close
//!               └──────────────┘
//! ```
//!
//! Everything runs on the executor that was handed in. Global all the same, and therefore shared
//! with an embedding program: async-io's reactor thread, smol's pool for blocking work, and the
//! thread of the mDNS responder.

use std::{sync::Arc, time::Duration};

use actors::{
    model::{Error, Result},
    runtime::{BoxFuture, Clock, Snapshot, SnapshotWriter, Spawner, Stop, Stopper, within},
    supervisor::SupervisorHandle,
};
use futures_lite::FutureExt as _;

use super::{
    about::About,
    connections::Connections,
    debug::{self, Debug, LogLevels},
    manager::ConnectionManager,
    outlet::{Outlet, Outlets},
    peers::{Door, Peers},
    protocol::{Protocol, ProtocolPresence},
    tree::Tree,
};
use crate::{
    connection::{ManagerHandle, kept::KeptHandle, protocol},
    log::Log,
    names::DEBUG_PATH,
};

/// How long a name that was given up is still answered for: a call that was on its way arrives.
const LINGER: Duration = Duration::from_millis(500);
/// How long closing everything in order may take; what is not closed by then is dropped.
const CLOSING: Duration = Duration::from_secs(20);
/// How long taking leave of the bus and of clients may take after that; who does not answer or read
/// keeps nobody.
const PARTING: Duration = Duration::from_secs(2);

/// Why the service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// It had no connection for a while, and no client without a bus.
    Idle,
    /// The bus closed its connection to us.
    BusGone,
    /// The manager or the supervisor of channels failed. A program ends non-zero then, and is
    /// started again by whoever started it.
    Failed,
}

/// A running connection manager. Dropping it closes everything in order too, in the background, if
/// its executor goes on running; [`Service::shutdown`] waits for that.
pub struct Service {
    stopper: Stopper,
    ended: Snapshot<Option<End>>,
    spawner: Spawner,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("ended", &*self.ended.get())
            .field("tasks", &self.tasks())
            .finish_non_exhaustive()
    }
}

impl Service {
    /// How long it stays without a connection. Other managers leave after five seconds, which is
    /// shorter than a person takes between two commands; starting again costs a client a
    /// noticeable moment.
    pub const IDLE: Duration = Duration::from_secs(30);

    /// Waits until it has ended, whatever the reason, and everything is closed.
    pub async fn ended(&self) -> End {
        let ended = self.ended.wait_for(Option::is_some).await;
        ended.unwrap_or(End::Stopped)
    }

    /// Closes all in order: channels, goodbyes on the network, objects, names. Doing it twice does
    /// nothing more.
    pub async fn shutdown(&self) -> End {
        self.stopper.stop();
        self.ended().await
    }

    /// How many tasks it has on the executor, those of the D-Bus library included.
    pub fn tasks(&self) -> usize {
        self.spawner.running()
    }
}

/// A service before it is one, and at work.
pub(super) struct Serving {
    pub(super) outlets: Outlets,
    /// Where clients without a bus come in.
    pub(super) door: Option<Door>,
    pub(super) tree: Tree,
    pub(super) manager: ManagerHandle,
    pub(super) supervisor: SupervisorHandle,
    pub(super) keeper: KeptHandle,
    pub(super) clock: Arc<dyn Clock>,
    /// What is shown of messages, if anything.
    pub(super) log: Option<Log>,
    /// How long to stay without a connection; for ever if absent.
    pub(super) idle: Option<Duration>,
}

impl Serving {
    /// Takes the name, opens the door, and serves from now on, in a task of its own.
    ///
    /// # Errors
    /// `NotAvailable` when another Pneuma owns the name. Everything is closed then.
    pub(super) async fn begin(mut self, login: &str, spawner: Spawner) -> Result<Service> {
        if let Err(error) = self.appear(login).await {
            self.close().await;
            return Err(error);
        }
        let (door_stopper, door_stop) = Stopper::new();
        if let (Some(door), Some(peers)) = (self.door.take(), self.peers()) {
            let serving = door.serve(
                peers.clone(),
                spawner.clone(),
                self.clock.clone(),
                door_stop,
            );
            spawner.spawn("door", serving).detach();
        }
        tracing::info!(name = protocol::MANAGER_BUS_NAME, "serving");
        self.keeper.restore();
        let (stopper, stop) = Stopper::new();
        let (writer, ended) = Snapshot::new(None);
        let log = self.log.as_ref();
        let told = log.map(|log| debug::tell(log, self.outlets.clone(), &spawner));
        let serving = async move {
            self.serve(stop, writer).await;
            drop((door_stopper, told));
        };
        spawner.spawn("service", serving).detach();
        Ok(Service {
            stopper,
            ended,
            spawner,
        })
    }

    /// Those without a bus, where they are let in.
    fn peers(&self) -> Option<&Peers> {
        self.outlets.iter().find_map(|outlet| match outlet {
            Outlet::Peers(_, peers) => Some(peers),
            Outlet::Bus(_) => None,
        })
    }

    /// Puts the manager's objects beside the protocol's and takes the name.
    async fn appear(&self, login: &str) -> Result<()> {
        let confused =
            |error: zbus::Error| Error::Confused(format!("an object cannot be: {error}"));
        for outlet in &*self.outlets {
            let server = outlet.connection().object_server();
            server
                .at(protocol::MANAGER_PATH, About)
                .await
                .map_err(confused)?;
            let manager = ConnectionManager::new(self.keeper.clone(), login.to_owned());
            server
                .at(protocol::MANAGER_PATH, manager)
                .await
                .map_err(confused)?;
            server
                .at(protocol::MANAGER_PATH, Connections::new(self.tree.clone()))
                .await
                .map_err(confused)?;
            if let Some(log) = &self.log {
                server
                    .at(DEBUG_PATH, Debug::new(log.clone()))
                    .await
                    .map_err(confused)?;
                server
                    .at(DEBUG_PATH, LogLevels::new(log.clone()))
                    .await
                    .map_err(confused)?;
            }
        }
        self.own_names().await
    }

    async fn own_names(&self) -> Result<()> {
        for outlet in &*self.outlets {
            outlet.own(protocol::MANAGER_BUS_NAME).await?;
        }
        Ok(())
    }

    async fn disown_names(&self) {
        for outlet in &*self.outlets {
            outlet.disown(protocol::MANAGER_BUS_NAME).await;
        }
    }

    async fn serve(&self, stop: Stop, ended: SnapshotWriter<Option<End>>) {
        let end = async {
            stop.stopped().await;
            End::Stopped
        }
        .or(async {
            self.outlet_gone().await;
            End::BusGone
        })
        .or(async {
            self.manager.gone().or(self.supervisor.gone()).await;
            End::Failed
        })
        .or(self.idle())
        .await;
        tracing::info!(?end, "closing");
        self.close().await;
        ended.publish(Some(end));
    }

    async fn outlet_gone(&self) {
        let mut gone: BoxFuture<'_, ()> = Box::pin(std::future::pending());
        for outlet in &*self.outlets {
            gone = Box::pin(gone.or(outlet.connection().closed()));
        }
        gone.await;
    }

    /// Completes when there was nobody for long enough, and the name and the door have been given up.
    async fn idle(&self) -> End {
        let Some(idle) = self.idle else {
            return std::future::pending().await;
        };
        let connections = self.manager.connections();
        loop {
            connections.wait_for(|count| *count == 0).await;
            if let Some(peers) = self.peers() {
                peers.count().wait_for(|count| *count == 0).await;
            }
            // Accounts with kept tubes are tried again and again by a service that is there.
            if self.somebody_comes_within(idle).await || self.keeper.is_going_online() {
                continue;
            }
            self.disown_names().await;
            let lingers = self.outlets.iter().any(|o| matches!(o, Outlet::Bus(_)));
            let came = lingers && self.somebody_comes_within(LINGER).await;
            if !came && self.peers().is_none_or(Peers::part_if_empty) {
                return End::Idle;
            }
            // If somebody else has the name by now, this instance serves those it has and leaves.
            if let Err(error) = self.own_names().await {
                tracing::info!(%error, "serving without the name");
            }
        }
    }

    async fn somebody_comes_within(&self, time: Duration) -> bool {
        let connections = self.manager.connections();
        let comes = connections.wait_for(|count| *count > 0);
        let connects = async {
            match self.peers() {
                Some(peers) => peers.count().wait_for(|count| *count > 0).await,
                None => std::future::pending().await,
            }
        };
        within(&*self.clock, time, comes.or(connects))
            .await
            .is_some()
    }

    async fn close(&self) {
        // Before the connections, so that it brings none back.
        self.keeper.stop();
        let in_order = async {
            self.manager.shutdown().await;
            self.supervisor.shutdown().await;
        };
        if within(&*self.clock, CLOSING, in_order).await.is_none() {
            tracing::warn!("not everything closed in time");
        }
        let parting = async {
            for outlet in &*self.outlets {
                leave(outlet).await;
            }
        };
        if within(&*self.clock, PARTING, parting).await.is_none() {
            tracing::warn!("not everybody let us go in time");
        }
        if let Some(peers) = self.peers() {
            peers.close();
        }
    }
}

async fn leave(outlet: &Outlet) {
    outlet.disown(protocol::MANAGER_BUS_NAME).await;
    let server = outlet.connection().object_server();
    for removed in [
        server
            .remove::<ConnectionManager, _>(protocol::MANAGER_PATH)
            .await,
        server
            .remove::<Connections, _>(protocol::MANAGER_PATH)
            .await,
        server.remove::<About, _>(protocol::MANAGER_PATH).await,
        server.remove::<Protocol, _>(protocol::PROTOCOL_PATH).await,
        server
            .remove::<ProtocolPresence, _>(protocol::PROTOCOL_PATH)
            .await,
    ] {
        if let Err(error) = removed {
            tracing::debug!(%error, "an object was gone already");
        }
    }
    if let Err(error) = outlet.connection().clone().close().await {
        tracing::debug!(%error, "the bus was gone already");
    }
    if let Outlet::Peers(_, peers) = outlet {
        peers.parted().await;
    }
}
