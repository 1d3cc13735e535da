//! The service: a bus connection, the manager and protocol objects, the supervisor of channels,
//! and when it all ends.
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

use std::{path::PathBuf, sync::Arc, time::Duration};

use actors::{
    endpoint::EndpointConfig,
    model::{Error, Result},
    runtime::{Clock, Faults, Snapshot, SnapshotWriter, Spawner, Stop, Stopper, SystemClock, within},
    supervisor::{Supervisor, SupervisorConfig, SupervisorHandle, SystemSockets},
};
use futures_lite::FutureExt as _;
use smol::Executor;

use super::{
    manager::ConnectionManager,
    name,
    protocol::{Protocol, ProtocolPresence},
    tree::Tree,
};
use crate::connection::{
    ManagerConfig, ManagerHandle,
    parameters::login_name,
    ports::{SessionFactory, SocketsOf},
    protocol,
    sessions::LinkLocalSessions,
};
use crate::runtime::OurRuntime;

/// How long the service stays without a connection. Other managers leave after five seconds,
/// which is shorter than a person takes between two commands; starting again costs a client a
/// noticeable moment.
pub const IDLE: Duration = Duration::from_secs(30);
/// How long a name that was given up is still answered for: a call that was on its way arrives.
const LINGER: Duration = Duration::from_millis(500);
/// How long the bus may take to answer us.
const BUS_PATIENCE: Duration = Duration::from_secs(25);
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

/// Prepares a [`Service`].
pub struct Builder {
    address: Option<String>,
    persist: bool,
    idle: Duration,
    login: Option<String>,
    profiles: Option<PathBuf>,
    runtime_directory: Option<PathBuf>,
    clock: Option<Arc<dyn Clock>>,
    sessions: Option<Arc<dyn SessionFactory>>,
    sockets: Option<SocketsOf>,
    supervisor: SupervisorConfig,
}

impl Builder {
    /// The bus to serve on, as a D-Bus address; the session bus by default.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Stays although nobody has a connection.
    #[must_use]
    pub fn persist(mut self, persist: bool) -> Self {
        self.persist = persist;
        self
    }

    /// How long to stay without a connection; [`IDLE`] by default.
    #[must_use]
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// What `published-name` is where an account does not give it; the login name by default.
    #[must_use]
    pub fn login(mut self, login: impl Into<String>) -> Self {
        self.login = Some(login.into());
        self
    }

    /// The folder with the profiles: keys, and whom they trust; `$XDG_STATE_HOME/pneuma` by default.
    #[must_use]
    pub fn profiles(mut self, folder: impl Into<PathBuf>) -> Self {
        self.profiles = Some(folder.into());
        self
    }

    /// The folder for Unix sockets, made when it is needed; `$XDG_RUNTIME_DIR/pneuma` by default.
    /// Their paths must fit into 107 bytes.
    #[must_use]
    pub fn runtime_directory(mut self, folder: impl Into<PathBuf>) -> Self {
        self.runtime_directory = Some(folder.into());
        self
    }

    /// The clock; the machine's own by default.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Where sessions come from; `local-xmpp` by default.
    #[must_use]
    pub fn sessions(mut self, sessions: Arc<dyn SessionFactory>) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Where local sockets come from; the machine's by default.
    #[must_use]
    pub fn sockets(mut self, sockets: SocketsOf) -> Self {
        self.sockets = Some(sockets);
        self
    }

    /// The bounds of channels.
    #[must_use]
    pub fn supervisor(mut self, config: SupervisorConfig) -> Self {
        self.supervisor = config;
        self
    }

    /// Starts the service on an executor that somebody runs, and returns once it owns its name.
    ///
    /// # Errors
    /// `NetworkError` without a bus, `NotAvailable` when another Pneuma owns the name.
    pub async fn start(self, executor: Arc<Executor<'static>>) -> Result<Service> {
        let spawner = Spawner::new(executor);
        let clock = self.clock.unwrap_or_else(|| SystemClock::new());
        let login = self.login.unwrap_or_else(login_name);
        let bus = connect(self.address.as_deref(), &login, &spawner).await?;
        let tree = Tree::new(bus.clone(), spawner.clone());
        let supervisor = Supervisor::start(
            spawner.clone(),
            clock.clone(),
            Arc::new(tree.clone()),
            self.supervisor,
        );
        let sessions = self.sessions.unwrap_or_else(|| {
            let (spawner, clock) = (spawner.clone(), clock.clone());
            Arc::new(match self.profiles {
                Some(folder) => LinkLocalSessions::in_folder(spawner, clock, folder),
                None => LinkLocalSessions::new(spawner, clock),
            })
        });
        let sockets = self.sockets.unwrap_or_else(|| {
            let directory = self.runtime_directory.unwrap_or_else(runtime_directory);
            sweep(&spawner, &clock, directory.clone());
            system_sockets(&clock, directory)
        });
        let manager = ManagerHandle::start(
            &spawner,
            &clock,
            ManagerConfig {
                tree: Arc::new(tree),
                opener: Arc::new(supervisor.clone()),
                sessions,
                sockets,
                faults: Faults::default(),
            },
        );
        let serving = Serving {
            bus,
            manager,
            supervisor,
            clock,
            idle: (!self.persist).then_some(self.idle),
        };
        if let Err(error) = serving.appear(&login).await {
            serving.close().await;
            return Err(error);
        }
        tracing::info!(name = protocol::MANAGER_BUS_NAME, "serving");
        let (stopper, stop) = Stopper::new();
        let (writer, ended) = Snapshot::new(None);
        spawner
            .spawn("service", serving.serve(stop, writer))
            .detach();
        Ok(Service {
            stopper,
            ended,
            spawner,
        })
    }
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
    /// A service that is not started yet.
    pub fn builder() -> Builder {
        Builder {
            address: None,
            persist: false,
            idle: IDLE,
            login: None,
            profiles: None,
            runtime_directory: None,
            clock: None,
            sessions: None,
            sockets: None,
            supervisor: SupervisorConfig::default(),
        }
    }

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

/// A connection to the bus with the protocol's object on it. The library reads from the socket only
/// once it answers calls, if there is an object from the start; otherwise the first calls can be
/// lost.
async fn connect(
    address: Option<&str>,
    login: &str,
    spawner: &Spawner,
) -> Result<zbus::Connection> {
    let builder = match address {
        Some(address) => zbus::connection::Builder::address(address),
        None => zbus::connection::Builder::session(),
    };
    builder
        .runtime(OurRuntime::new(spawner.clone()))
        .method_timeout(BUS_PATIENCE)
        .serve_at(protocol::PROTOCOL_PATH, Protocol::new(login.to_owned()))
        .serve_at(protocol::PROTOCOL_PATH, ProtocolPresence)
        .build()
        .await
        .map_err(|error| Error::NetworkError(format!("no message bus: {error}")))
}

/// The machine's sockets. Unix sockets lie in a folder of the user's runtime directory; where the
/// session has none, in one of the user's own below the folder for temporary files, which is only
/// used if nobody else can get into it.
fn system_sockets(clock: &Arc<dyn Clock>, socket_directory: PathBuf) -> SocketsOf {
    let clock = clock.clone();
    Arc::new(move |account| {
        let config = EndpointConfig {
            socket_directory: socket_directory.clone(),
            any_local_user: account.any_local_user,
        };
        Arc::new(SystemSockets::new(config, clock.clone()))
    })
}

/// Removes, in the background, what an earlier service left behind when it was killed.
fn sweep(spawner: &Spawner, clock: &Arc<dyn Clock>, directory: PathBuf) {
    let now = clock.wall();
    let swept = smol::unblock(move || actors::endpoint::sweep(&directory, now));
    let sweeping = async move {
        match swept.await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed sockets nobody listens on"),
            Err(error) => tracing::debug!(%error, "the folder for sockets cannot be swept"),
        }
    };
    spawner.spawn("sweep", sweeping).detach();
}

fn runtime_directory() -> PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|directory| directory.is_absolute())
        .map_or_else(
            || {
                let uid = rustix::process::getuid().as_raw();
                std::env::temp_dir().join(format!("pneuma-{uid}"))
            },
            |directory| directory.join("pneuma"),
        )
}

struct Serving {
    bus: zbus::Connection,
    manager: ManagerHandle,
    supervisor: SupervisorHandle,
    clock: Arc<dyn Clock>,
    idle: Option<Duration>,
}

impl Serving {
    /// Puts the manager's object beside the protocol's and takes the name.
    async fn appear(&self, login: &str) -> Result<()> {
        let server = self.bus.object_server();
        let confused =
            |error: zbus::Error| Error::Confused(format!("an object cannot be: {error}"));
        let manager = ConnectionManager::new(self.manager.clone(), login.to_owned());
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
            if self.somebody_comes_within(idle).await {
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
