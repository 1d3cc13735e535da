//! What a service is put together from: its bus, its sessions, its sockets, its clock; the machine's
//! own wherever the program that embeds it brings none.

use std::{path::PathBuf, sync::Arc, time::Duration};

use actors::{
    endpoint::EndpointConfig,
    model::{Error, Result},
    runtime::{Clock, Faults, Spawner, SystemClock},
    supervisor::{Supervisor, SupervisorConfig, SystemSockets},
};
use smol::Executor;

use super::{
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
    runtime::OurRuntime,
};

/// How long the bus may take to answer us.
const BUS_PATIENCE: Duration = Duration::from_secs(25);

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
            bus,
            manager,
            supervisor,
            keeper,
            clock,
            idle: (!self.persist).then_some(self.idle),
        };
        serving.begin(&login, spawner).await
    }
}

impl Service {
    /// A service that is not started yet.
    pub fn builder() -> Builder {
        Builder {
            address: None,
            persist: false,
            idle: Service::IDLE,
            login: None,
            profiles: None,
            runtime_directory: None,
            clock: None,
            sessions: None,
            sockets: None,
            supervisor: SupervisorConfig::default(),
        }
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
