//! Finds the connection manager, or starts it: by D-Bus activation where it is installed, else by
//! running a program.

use std::{path::PathBuf, time::Duration};

use futures_lite::{FutureExt as _, StreamExt as _};
use smol::process::{Child, Command, Stdio};
use zbus::{MatchRule, MessageStream, message};

use super::{
    bus::{Bus, path, within},
    error::{Error, Kind, Result},
};
use crate::names;

/// How long a started service may take until it owns its name.
const START_DEADLINE: Duration = Duration::from_secs(15);

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

/// Runs the program and waits until it owns the service's name.
async fn spawn(bus: &Bus, program: &Program) -> Result<()> {
    let shown = program.path.display().to_string();
    let mut command = std::process::Command::new(&program.path);
    command.args(&program.arguments);
    // Its own process group: what stops us at a terminal is not meant for the service, which
    // others may use by then.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            Error::new(
                Kind::NoService,
                format!("{shown} could not be run: {error}"),
            )
        })?;
    appears(bus, &shown, &mut child).await
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
