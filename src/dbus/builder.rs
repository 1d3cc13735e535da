//! What a service is put together from: its bus or its private socket, its sessions, its sockets, its
//! clock; the machine's own wherever the program that embeds it brings none.

use std::{path::PathBuf, sync::Arc, time::Duration};

use actors::{
    endpoint::EndpointConfig,
    model::{Error, Result},
    runtime::{Clock, Faults, Spawner, SystemClock},
    supervisor::{Supervisor, SupervisorConfig, SystemSockets},
};
use smol::Executor;

use super::{
    outlet::{Outlet, Outlets},
    peers::{self, Door},
    protocol::{Protocol, ProtocolPresence},
    service::{Service, Serving},
    tree::Tree,
};
use crate::{
    connection::{
        ManagerConfig, ManagerHandle,
        kept::KeptHandle,
        parameters::login_name,
        ports::{SessionFactory, SocketsOf},
        protocol,
        sessions::{LinkLocalSessions, profiles_folder},
    },
    log::Log,
    place::runtime_directory,
    runtime::OurRuntime,
};

/// How long the bus may take to answer us.
const BUS_PATIENCE: Duration = Duration::from_secs(25);

/// Which bus to serve on.
enum Bus {
    Session,
    At(String),
    None,
}

/// Prepares a [`Service`].
pub struct Builder {
    bus: Bus,
    private: Option<PathBuf>,
    persist: bool,
    idle: Duration,
    login: Option<String>,
    profiles: Option<PathBuf>,
    runtime_directory: Option<PathBuf>,
    clock: Option<Arc<dyn Clock>>,
    log: Option<Log>,
    sessions: Option<Arc<dyn SessionFactory>>,
    sockets: Option<SocketsOf>,
    supervisor: SupervisorConfig,
}

impl Builder {
    /// The bus to serve on, as a D-Bus address; the session bus by default.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.bus = Bus::At(address.into());
        self
    }

    /// Serves on no bus: at a private socket only. Without [`Builder::private_socket`] nothing is left,
    /// and [`Builder::start`] says so.
    #[must_use]
    pub fn without_bus(mut self) -> Self {
        self.bus = Bus::None;
        self
    }

    /// Serves at a Unix socket of this path, too, for programs of this user without a bus: D-Bus between
    /// two, with the same objects and signals, and without names. The socket's folder is made if it is
    /// not there, and must be this user's alone (0700); a lock file stays beside the socket. At most 64
    /// programs at once; one that does not read what it is sent is closed.
    #[must_use]
    pub fn private_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.private = Some(path.into());
        self
    }

    /// Stays although nobody has a connection.
    #[must_use]
    pub fn persist(mut self, persist: bool) -> Self {
        self.persist = persist;
        self
    }

    /// How long to stay without a connection; [`Service::IDLE`] by default.
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

    /// What clients see of the program's messages, in the Debug interface; without it there is none.
    /// [`Log::layer`] belongs into the program's subscriber then.
    #[must_use]
    pub fn log(mut self, log: Log) -> Self {
        self.log = Some(log);
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
    /// `NetworkError` without a bus, `NotAvailable` when another Pneuma owns the name or the socket,
    /// `PermissionDenied` when the socket's folder is not safe, `InvalidArgument` with nowhere to serve.
    pub async fn start(self, executor: Arc<Executor<'static>>) -> Result<Service> {
        let spawner = Spawner::new(executor);
        let clock = self.clock.unwrap_or_else(|| SystemClock::new());
        let login = self.login.unwrap_or_else(login_name);
        // Before anything else: it is what keeps a second service away.
        let door = self.private.as_deref().map(Door::open).transpose()?;
        let outlets = outlets(&self.bus, door.is_some(), &login, &spawner).await?;
        let tree = Tree::new(outlets.clone(), spawner.clone());
        let supervisor = Supervisor::start(
            spawner.clone(),
            clock.clone(),
            Arc::new(tree.clone()),
            self.supervisor,
        );
        // Other sessions have other profiles, or none.
        let kept_in = match (&self.profiles, &self.sessions) {
            (Some(folder), _) => Some(folder.clone()),
            (None, Some(_)) => None,
            (None, None) => profiles_folder(),
        };
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
                tree: Arc::new(tree.clone()),
                opener: Arc::new(supervisor.clone()),
                sessions,
                sockets,
                faults: Faults::default(),
            },
        );
        let keeper = KeptHandle::start(&spawner, &clock, &manager, kept_in);
        tree.keep_with(keeper.clone());
        let serving = Serving {
            outlets,
            door,
            tree,
            manager,
            supervisor,
            keeper,
            clock,
            log: self.log,
            idle: (!self.persist).then_some(self.idle),
        };
        serving.begin(&login, spawner).await
    }
}

impl Service {
    /// A service that is not started yet.
    pub fn builder() -> Builder {
        Builder {
            bus: Bus::Session,
            private: None,
            persist: false,
            idle: Service::IDLE,
            login: None,
            profiles: None,
            runtime_directory: None,
            clock: None,
            log: None,
            sessions: None,
            sockets: None,
            supervisor: SupervisorConfig::default(),
        }
    }
}

/// The outlets a service was asked to have.
async fn outlets(bus: &Bus, private: bool, login: &str, spawner: &Spawner) -> Result<Outlets> {
    let mut outlets = Vec::new();
    let builder = match bus {
        Bus::Session => Some(zbus::connection::Builder::session()),
        Bus::At(address) => Some(zbus::connection::Builder::address(address.as_str())),
        Bus::None => None,
    };
    if let Some(builder) = builder {
        let connection = connect(builder, login, spawner)
            .await
            .map_err(|error| Error::NetworkError(format!("no message bus: {error}")))?;
        outlets.push(Outlet::Bus(connection));
    }
    if private {
        let (peers, builder) = peers::connect();
        let connection = connect(builder, login, spawner)
            .await
            .map_err(|error| Error::Confused(format!("no objects for clients: {error}")))?;
        outlets.push(Outlet::Peers(connection, peers));
    }
    if outlets.is_empty() {
        return Err(Error::InvalidArgument(
            "a service needs a bus or a private socket".into(),
        ));
    }
    Ok(outlets.into())
}

/// A connection with the protocol's object on it. The library reads from the socket only
/// once it answers calls, if there is an object from the start; otherwise the first calls can be
/// lost.
async fn connect(
    builder: zbus::connection::Builder<'_>,
    login: &str,
    spawner: &Spawner,
) -> zbus::Result<zbus::Connection> {
    builder
        .runtime(OurRuntime::new(spawner.clone()))
        .method_timeout(BUS_PATIENCE)
        .serve_at(protocol::PROTOCOL_PATH, Protocol::new(login.to_owned()))
        .serve_at(protocol::PROTOCOL_PATH, ProtocolPresence)
        .build()
        .await
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
