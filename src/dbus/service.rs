//! The service: a bus connection, the manager and protocol objects, the supervisor of channels,
//! and when it all ends. `builder` puts it together.
//!
//! ```text
//!  start ──> serving ──┬─ shutdown()                       ──┐
//!               ^      ├─ the bus is gone, a root failed   ──┤──> connections close in order
//!               │      └─ idle: name given up              ──┘    objects and names go
//!               │              │ somebody came meanwhile          the bus connection closes
//!               └──────────────┘
//! ```
//!
//! Everything runs on the executor that was handed in. Global all the same, and therefore shared
//! with an embedding program: async-io's reactor thread, smol's pool for blocking work, and the
//! thread of the mDNS responder.

use std::{sync::Arc, time::Duration};

use actors::{
    model::{Error, Result},
    runtime::{Clock, Snapshot, SnapshotWriter, Spawner, Stop, Stopper, within},
    supervisor::SupervisorHandle,
};
use futures_lite::FutureExt as _;

use super::{
    about::About,
    manager::ConnectionManager,
    name,
    protocol::{Protocol, ProtocolPresence},
};
use crate::connection::{ManagerHandle, kept::KeptHandle, protocol};

/// How long a name that was given up is still answered for: a call that was on its way arrives.
const LINGER: Duration = Duration::from_millis(500);
/// How long closing everything in order may take; what is not closed by then is dropped.
const CLOSING: Duration = Duration::from_secs(20);
/// How long taking leave of the bus may take after that; a bus that does not answer keeps nobody.
const PARTING: Duration = Duration::from_secs(2);

/// Why the service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// It had no connection for a while.
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
    pub(super) bus: zbus::Connection,
    pub(super) manager: ManagerHandle,
    pub(super) supervisor: SupervisorHandle,
    pub(super) keeper: KeptHandle,
    pub(super) clock: Arc<dyn Clock>,
    /// How long to stay without a connection; for ever if absent.
    pub(super) idle: Option<Duration>,
}

impl Serving {
    /// Takes the name and serves from now on, in a task of its own.
    ///
    /// # Errors
    /// `NotAvailable` when another Pneuma owns the name. Everything is closed then.
    pub(super) async fn begin(self, login: &str, spawner: Spawner) -> Result<Service> {
        if let Err(error) = self.appear(login).await {
            self.close().await;
            return Err(error);
        }
        tracing::info!(name = protocol::MANAGER_BUS_NAME, "serving");
        self.keeper.restore();
        let (stopper, stop) = Stopper::new();
        let (writer, ended) = Snapshot::new(None);
        spawner.spawn("service", self.serve(stop, writer)).detach();
        Ok(Service {
            stopper,
            ended,
            spawner,
        })
    }

    /// Puts the manager's object beside the protocol's and takes the name.
    async fn appear(&self, login: &str) -> Result<()> {
        let server = self.bus.object_server();
        let confused =
            |error: zbus::Error| Error::Confused(format!("an object cannot be: {error}"));
        server
            .at(protocol::MANAGER_PATH, About)
            .await
            .map_err(confused)?;
        let manager = ConnectionManager::new(self.keeper.clone(), login.to_owned());
        server
            .at(protocol::MANAGER_PATH, manager)
            .await
            .map_err(confused)?;
        name::own(&self.bus, protocol::MANAGER_BUS_NAME).await
    }

    async fn serve(self, stop: Stop, ended: SnapshotWriter<Option<End>>) {
        let end = async {
            stop.stopped().await;
            End::Stopped
        }
        .or(async {
            self.bus.closed().await;
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

    /// Completes when there was no connection for long enough and the name has been given up.
    async fn idle(&self) -> End {
        let Some(idle) = self.idle else {
            return std::future::pending().await;
        };
        let connections = self.manager.connections();
        loop {
            connections.wait_for(|count| *count == 0).await;
            // Accounts with kept tubes are tried again and again by a service that is there.
            if self.somebody_comes_within(idle).await || self.keeper.is_going_online() {
                continue;
            }
            if let Err(error) = self.bus.release_name(protocol::MANAGER_BUS_NAME).await {
                tracing::debug!(%error, "the name could not be given up");
                return End::Idle;
            }
            if !self.somebody_comes_within(LINGER).await {
                return End::Idle;
            }
            // If somebody else has the name by now, this instance serves those it has and leaves.
            if let Err(error) = name::own(&self.bus, protocol::MANAGER_BUS_NAME).await {
                tracing::info!(%error, "serving without the name");
            }
        }
    }

    async fn somebody_comes_within(&self, time: Duration) -> bool {
        let connections = self.manager.connections();
        let comes = connections.wait_for(|count| *count > 0);
        within(&*self.clock, time, comes).await.is_some()
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
        let parting = self.leave_the_bus();
        if within(&*self.clock, PARTING, parting).await.is_none() {
            tracing::warn!("the bus does not answer");
        }
    }

    async fn leave_the_bus(&self) {
        if let Err(error) = self.bus.release_name(protocol::MANAGER_BUS_NAME).await {
            tracing::debug!(%error, "the name was gone already");
        }
        let server = self.bus.object_server();
        for removed in [
            server
                .remove::<ConnectionManager, _>(protocol::MANAGER_PATH)
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
        if let Err(error) = self.bus.clone().close().await {
            tracing::debug!(%error, "the bus was gone already");
        }
    }
}
