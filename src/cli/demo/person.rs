//! One of the demo's people: a folder, a private bus, a connection manager, an account.
//!
//! Every process is a child of ours in a process group of its own, stopped by its id: told to end,
//! waited for, and killed when it does not.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::UdpSocket,
    path::{Path, PathBuf},
    time::Duration,
};

use actors::runtime::within;
use rustix::process::{Pid, Signal, kill_process};
use smol::process::{Child, Command, Stdio};

use crate::{
    cli::{
        app::App,
        failure::{Failure, Outcome},
        text::safe,
    },
    client::{self, Account, Bus, Connection},
};

/// How long a process may take to start or to end.
const PROCESS_DEADLINE: Duration = Duration::from_secs(10);
/// How much of a log is shown when something failed.
const LINES_SHOWN: usize = 20;

/// See the module's head.
pub struct Person {
    name: &'static str,
    folder: PathBuf,
    address: String,
    account: Account,
    processes: Vec<(&'static str, Child)>,
}

/// A UDP port nobody uses.
///
/// # Errors
/// When the kernel has none.
pub fn free_discovery_port() -> Outcome<u16> {
    UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::failed(format!("no UDP port can be had: {error}")))
}

impl Person {
    /// Starts the bus. The connection manager follows with [`Person::go_online`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(base: &Path, name: &'static str, port: u16) -> Outcome<Self> {
        let folder = base.join(name);
        for part in ["state", "runtime", "data", "config"] {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(folder.join(part))
                .map_err(|error| Failure::failed(format!("no folder can be made: {error}")))?;
        }
        let mut person = Person {
            name,
            address: format!("unix:path={}", folder.join("bus").display()),
            account: Account {
                published_name: Some(name.to_owned()),
                profile: Some("demo".to_owned()),
                interface: Some("lo".to_owned()),
                mdns_port: Some(port),
                ..Account::default()
            },
            folder,
            processes: vec![],
        };
        let configuration = person.folder.join("bus.conf");
        std::fs::write(&configuration, bus_configuration(&person.address))
            .map_err(|error| Failure::failed(format!("no file can be written: {error}")))?;
        let mut argument = std::ffi::OsString::from("--config-file=");
        argument.push(&configuration);
        let daemon = person.run("dbus-daemon", "dbus-daemon", |command| {
            command.arg(argument).args(["--nofork", "--nopidfile"]);
        });
        daemon.map_err(|error| {
            Failure::failed(format!(
                "dbus-daemon cannot be run ({error}); install the package that has it, `dbus` on Debian"
            ))
        })?;
        Ok(person)
    }

    /// Runs a program with this person's environment; what it writes goes to its log.
    fn run(
        &mut self,
        what: &'static str,
        program: impl AsRef<std::ffi::OsStr>,
        arguments: impl FnOnce(&mut std::process::Command),
    ) -> std::io::Result<()> {
        let log = File::create(self.log(what))?;
        let mut command = std::process::Command::new(program);
        arguments(&mut command);
        command
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address)
            .env("XDG_STATE_HOME", self.folder.join("state"))
            .env("XDG_RUNTIME_DIR", self.folder.join("runtime"))
            .env("XDG_DATA_HOME", self.folder.join("data"))
            .env("XDG_CONFIG_HOME", self.folder.join("config"))
            .current_dir(&self.folder);
        // Ctrl-C at the terminal is for us; we then stop the others in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = Command::from(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.processes.push((what, child));
        Ok(())
    }

    fn log(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{what}.log"))
    }

    /// Connects to the bus once it is there.
    async fn bus(&self, app: &App) -> Outcome<Bus> {
        let deadline = app.clock.now().saturating_add(PROCESS_DEADLINE);
        let mut pause = Duration::from_millis(5);
        loop {
            let bus = Bus::at(&self.address, app.spawner.clone(), app.clock.clone()).await;
            match bus {
                Ok(bus) => return Ok(bus),
                Err(error) if app.clock.now() >= deadline => return Err(error.into()),
                // A new bus says nothing when it is ready but that one can connect.
                Err(_) => app.clock.sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Starts the connection manager and brings the account online.
    ///
    /// # Errors
    /// When either does not work.
    pub async fn go_online(&mut self, app: &App) -> Outcome<Connection> {
        let bus = self.bus(app).await?;
        let own = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("this program is nowhere: {error}")))?;
        self.run("service", &own, |command| {
            command.args(["service", "--persist"]);
        })
        .map_err(|error| {
            Failure::failed(format!("the connection manager cannot be run: {error}"))
        })?;
        let Some((_, service)) = self.processes.last_mut() else {
            return Err(Failure::failed("the connection manager does not run"));
        };
        client::appears(&bus, &own.display().to_string(), service).await?;
        let connection = Connection::request(&bus, &self.account).await?;
        connection.connect(PROCESS_DEADLINE * 2).await?;
        Ok(connection)
    }

    /// Shows the end of what the connection manager wrote.
    pub fn show_log(&self, app: &App) {
        let Ok(log) = File::open(self.log("service")) else {
            return;
        };
        let mut lines = std::collections::VecDeque::new();
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if lines.len() == LINES_SHOWN {
                lines.pop_front();
            }
            lines.push_back(line);
        }
        if !lines.is_empty() {
            app.out.prompt(format!(
                "What the connection manager of {} wrote:",
                self.name
            ));
        }
        for line in lines {
            app.out.prompt(format!("  {}", safe(&line)));
        }
    }

    /// Stops all processes, the last first. Gives what could not be stopped.
    pub async fn stop(self, app: &App) -> Vec<String> {
        let mut left = Vec::new();
        for (what, mut child) in self.processes.into_iter().rev() {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
                && let Err(error) = kill_process(pid, Signal::TERM)
            {
                tracing::debug!(what, %error, "the process is gone already");
            }
            let ended = within(&*app.clock, PROCESS_DEADLINE, child.status()).await;
            if !matches!(ended, Some(Ok(_))) {
                left.push(format!("{what} of {} had to be killed", self.name));
                if let Err(error) = child.kill() {
                    left.push(format!("{what} of {} lives on: {error}", self.name));
                }
            }
        }
        left
    }
}

/// A private bus that takes no part in the session's.
fn bus_configuration(address: &str) -> String {
    format!(
        r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#
    )
}
