//! Finds the connection manager, or starts it: by D-Bus activation where it is installed, else by
//! running a program; where there is no bus, by running a program that serves at a socket of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actors::runtime::{Clock, Spawner};
use futures_lite::{FutureExt as _, StreamExt as _};
use smol::process::{Child, Command, Stdio};
use zbus::{MatchRule, MessageStream, message};

use super::{
    bus::{Bus, path, within},
    error::{Error, Kind, Result},
};
use crate::{names, place};

/// How long a started service may take until it owns its name.
const START_DEADLINE: Duration = Duration::from_secs(15);

/// How long another service may take to answer that has the socket already.
const OTHER_DEADLINE: Duration = Duration::from_secs(5);

/// How the service came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// It ran already.
    Running,
    /// The bus started it.
    Activated,
    /// We started the program.
    Spawned,
}

/// A program that is the connection manager, for where D-Bus knows none.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Whether the connection manager runs.
///
/// # Errors
/// What the bus answers.
pub async fn is_running(bus: &Bus) -> Result<bool> {
    Ok(bus.owner(names::MANAGER_BUS_NAME).await?.is_some())
}

/// The version of the connection manager that runs.
///
/// # Errors
/// [`Kind::NotImplemented`] from one that is too old to say, and what the bus answers.
pub async fn version(bus: &Bus) -> Result<String> {
    bus.remote(names::MANAGER_BUS_NAME, path(names::MANAGER_PATH)?)
        .get(names::ABOUT, "Version")
        .await
}

/// The process that is the connection manager.
///
/// # Errors
/// What the bus answers; [`Kind::NoService`] when it does not run.
pub async fn process(bus: &Bus) -> Result<u32> {
    bus.call_daemon("GetConnectionUnixProcessID", &names::MANAGER_BUS_NAME)
        .await
}

/// Whether the bus would start the connection manager.
///
/// # Errors
/// What the bus answers.
pub async fn is_activatable(bus: &Bus) -> Result<bool> {
    let names: Vec<String> = bus.call_daemon("ListActivatableNames", &()).await?;
    Ok(names.iter().any(|name| name == names::MANAGER_BUS_NAME))
}

/// Makes sure that the connection manager runs.
///
/// # Errors
/// [`Kind::NoService`] when it cannot be started.
pub async fn start(bus: &Bus, program: Option<&Program>) -> Result<Started> {
    if is_running(bus).await? {
        return Ok(Started::Running);
    }
    let activated: Result<u32> = bus
        .call_daemon("StartServiceByName", &(names::MANAGER_BUS_NAME, 0u32))
        .await;
    match (activated, program) {
        (Ok(_), _) => Ok(Started::Activated),
        (Err(error), Some(program)) if error.kind == Kind::NoService => {
            spawn(bus, program).await.map(|()| Started::Spawned)
        }
        (Err(error), _) => Err(Error::new(
            Kind::NoService,
            format!("the connection manager could not be started: {error}"),
        )),
    }
}

/// Finds the connection manager wherever it runs and has the profile's account online
/// ([`Bus::find`]), or starts it: on the session bus where there is one, else at
/// [its own socket](Bus::private). Of several who do so at once, all find the same one: only
/// one service gets the socket.
///
/// # Errors
/// [`Kind::NoService`] when it cannot be started, [`Kind::NoBus`] when the environment names a bus that
/// does not work.
pub async fn find_or_start(
    profile: &str,
    spawner: &Spawner,
    clock: &Arc<dyn Clock>,
    program: Option<&Program>,
) -> Result<(Bus, Started)> {
    let found = Bus::find(profile, spawner.clone(), clock.clone()).await?;
    match (found, program) {
        (Some(bus), _) if bus.is_private() => Ok((bus, Started::Running)),
        (Some(bus), program) => {
            let started = start(&bus, program).await?;
            Ok((bus, started))
        }
        (None, Some(program)) => start_private(spawner, clock, program).await,
        (None, None) => Err(Error::new(
            Kind::NoBus,
            "there is no session bus, and no connection manager that serves without one",
        )),
    }
}

/// Runs the program without a bus and waits until it, or whoever was quicker, answers.
async fn start_private(
    spawner: &Spawner,
    clock: &Arc<dyn Clock>,
    program: &Program,
) -> Result<(Bus, Started)> {
    let socket = place::private_socket();
    let shown = program.path.display().to_string();
    let arguments = ["--serve".into(), "private".into()];
    let mut child = run(program, &arguments)?;
    let answers = answers(&socket, spawner, clock);
    let ended = async {
        let status = child
            .status()
            .await
            .map_err(|error| Error::io(format!("{shown} cannot be watched"), &error))?;
        // Another has the socket, and is about to answer; or nobody ever will.
        let late = Error::new(Kind::NoService, format!("{shown} ended at once ({status})"));
        let other = self::answers(&socket, spawner, clock);
        within(clock, OTHER_DEADLINE, late, other).await
    };
    let late = Error::new(
        Kind::NoService,
        format!("{shown} did not answer at {}", socket.display()),
    );
    let bus = within(clock, START_DEADLINE, late, answers.or(ended)).await?;
    Ok((bus, Started::Spawned))
}

/// Waits until somebody answers at the socket. Nobody tells when that is so.
async fn answers(socket: &Path, spawner: &Spawner, clock: &Arc<dyn Clock>) -> Result<Bus> {
    let mut pause = Duration::from_millis(5);
    loop {
        match Bus::private(socket, spawner.clone(), clock.clone()).await {
            Ok(bus) => return Ok(bus),
            // Waiting makes no place safe.
            Err(error) if error.kind == Kind::PermissionDenied => return Err(error),
            Err(_) => clock.sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Runs the program and waits until it owns the service's name.
async fn spawn(bus: &Bus, program: &Program) -> Result<()> {
    let shown = program.path.display().to_string();
    let mut child = run(program, &[])?;
    appears(bus, &shown, &mut child).await
}

fn run(program: &Program, more: &[String]) -> Result<Child> {
    let mut command = std::process::Command::new(&program.path);
    command.args(&program.arguments).args(more);
    // Its own process group: what stops us at a terminal is not meant for the service, which
    // others may use by then.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            Error::new(
                Kind::NoService,
                format!("{} could not be run: {error}", program.path.display()),
            )
        })
}

/// Waits until the connection manager that was started as `child` is on the bus. Dropping the
/// child afterwards lets it live on.
///
/// # Errors
/// [`Kind::NoService`] when it ends first, or takes too long.
pub async fn appears(bus: &Bus, shown: &str, child: &mut Child) -> Result<()> {
    let rule = MatchRule::builder()
        .msg_type(message::Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, names::MANAGER_BUS_NAME)
        .build()?;
    let mut owners = MessageStream::for_match_rule(rule, bus.connection(), None).await?;
    let owned = async {
        // It may be quicker than we are.
        while !is_running(bus).await? {
            owners
                .next()
                .await
                .ok_or_else(|| Error::new(Kind::NoBus, "the session bus is gone"))??;
        }
        Ok(())
    };
    let ended = async {
        let status = child
            .status()
            .await
            .map_err(|error| Error::io(format!("{shown} cannot be watched"), &error))?;
        // Somebody else may have been quicker than both of us.
        if is_running(bus).await? {
            return Ok(());
        }
        Err(Error::new(
            Kind::NoService,
            format!("{shown} ended at once ({status})"),
        ))
    };
    let late = Error::new(
        Kind::NoService,
        format!("{shown} did not appear on the session bus"),
    );
    within(bus.clock(), START_DEADLINE, late, owned.or(ended)).await
}
