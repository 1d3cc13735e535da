//! The session bus, the connection manager on it, and the files by which others find it.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use actors::runtime::within;

use super::Finding;
use crate::{
    cli::app::App,
    client::{self, Bus, Kind},
    names,
};

/// How long the connection manager may take to say which it is. It needs no time for that.
const PATIENCE: Duration = Duration::from_secs(5);

/// The checks, and the bus if there is one.
pub(super) async fn look(app: &App) -> (Vec<Finding>, Option<Bus>) {
    let mut found = Vec::new();
    let bus = match app.bus().await {
        Ok(bus) => bus,
        Err(_) => {
            let address = std::env::var_os("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
            found.push(Finding::wrong(
                "session-bus",
                format!(
                    "the session bus at {} does not answer",
                    address.to_string_lossy()
                ),
                "log in anew; in a terminal that outlived its session, unset DBUS_SESSION_BUS_ADDRESS",
            ));
            found.extend(files());
            return (found, None);
        }
    };
    found.push(match &bus {
        Some(bus) if !bus.is_private() => Finding::good("session-bus", "the session bus answers"),
        _ => Finding::note(
            "session-bus",
            "there is no session bus; this program does without one, other Telepathy clients do not",
            "for those, log in to a session that has one, or put `dbus-run-session --` before the command",
        ),
    });
    found.push(match &bus {
        Some(bus) => manager(app, bus).await.unwrap_or_else(|error| {
            Finding::wrong(
                "manager",
                format!("the session bus does not say who is on it: {error}"),
                "log in anew",
            )
        }),
        None => Finding::good(
            "manager",
            "the connection manager does not run; the first command that needs it starts it",
        ),
    });
    found.extend(files());
    (found, bus)
}

async fn manager(app: &App, bus: &Bus) -> client::Result<Finding> {
    if !client::is_running(bus).await? {
        return Ok(if client::is_activatable(bus).await? {
            Finding::good(
                "manager",
                "the connection manager does not run; D-Bus starts it when it is needed",
            )
        } else {
            Finding::note(
                "manager",
                "the connection manager does not run and D-Bus does not know how to start it; this program can, other Telepathy clients cannot",
                "install it with `pneuma install`; a bus that runs already finds it after a new login",
            )
        });
    }
    if bus.is_private() {
        return Ok(private(app, bus).await);
    }
    let process = client::process(bus).await?;
    let stop =
        format!("stop it with `kill {process}`: the next command that needs it starts the new one");
    let ours = env!("CARGO_PKG_VERSION");
    let program = std::fs::read_link(format!("/proc/{process}/exe"));
    let replaced = program.is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"));
    Ok(match version(app, bus).await {
        Ok(version) if version == ours && replaced => Finding::wrong(
            "manager",
            format!(
                "the connection manager that runs (process {process}) was replaced on the disk since it started"
            ),
            stop,
        ),
        Ok(version) if version == ours => Finding::good(
            "manager",
            format!("the connection manager runs as process {process}, in version {version}"),
        ),
        Ok(version) => Finding::wrong(
            "manager",
            format!("the connection manager that runs has version {version}, this program {ours}"),
            stop,
        ),
        Err(error) if error.kind == Kind::NotImplemented => Finding::wrong(
            "manager",
            format!(
                "the connection manager that runs (process {process}) is older than this program"
            ),
            stop,
        ),
        Err(error) => Finding::wrong(
            "manager",
            format!(
                "the connection manager that runs (process {process}) does not answer: {error}"
            ),
            format!("stop it with `kill {process}`"),
        ),
    })
}

async fn version(app: &App, bus: &Bus) -> client::Result<String> {
    let silent = Err(client::Error::new(Kind::TimedOut, "it says nothing"));
    let version = within(&*app.clock, PATIENCE, client::version(bus)).await;
    version.unwrap_or(silent)
}

/// The connection manager at its own socket, which nobody there can be asked the process of.
async fn private(app: &App, bus: &Bus) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let stop =
        "stop it with `pkill telepathy-pneuma`: the next command that needs it starts the new one";
    match version(app, bus).await {
        Ok(version) if version == ours => Finding::good(
            "manager",
            format!("the connection manager answers at its own socket, in version {version}"),
        ),
        Ok(version) => Finding::wrong(
            "manager",
            format!("the connection manager that runs has version {version}, this program {ours}"),
            stop,
        ),
        Err(error) => Finding::wrong(
            "manager",
            format!("the connection manager at its own socket does not answer: {error}"),
            stop,
        ),
    }
}

/// The files that D-Bus and Telepathy clients look for.
fn files() -> Vec<Finding> {
    let folders = data_folders();
    let activation = format!("dbus-1/services/{}.service", names::MANAGER_BUS_NAME);
    let mut found = Vec::new();
    found.push(match first(&folders, &activation) {
        None => missing(
            "activation-file",
            &activation,
            "D-Bus cannot start the connection manager",
        ),
        Some(file) => program(&file),
    });
    let manager = "telepathy/managers/pneuma.manager";
    found.push(match first(&folders, manager) {
        None => missing(
            "manager-file",
            manager,
            "Telepathy clients do not see it while it does not run",
        ),
        Some(file) => Finding::good(
            "manager-file",
            format!("Telepathy clients find {}", file.display()),
        ),
    });
    found
}

fn missing(check: &'static str, file: &str, so: &str) -> Finding {
    Finding::note(
        check,
        format!("no folder of XDG_DATA_DIRS has {file}, so {so}"),
        "`pneuma install` puts it there",
    )
}

/// Whether the program that an activation file names is there.
fn program(file: &Path) -> Finding {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Exec="));
    let Some(program) = line.and_then(|line| line.split_whitespace().next()) else {
        return Finding::wrong(
            "activation-file",
            format!("{} names no program", file.display()),
            "write it anew with `pneuma install`",
        );
    };
    let runs = std::fs::metadata(program)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if runs {
        Finding::good("activation-file", format!("D-Bus finds {}", file.display()))
    } else {
        Finding::wrong(
            "activation-file",
            format!(
                "{} names {program}, which is no program that can be run",
                file.display()
            ),
            "install it anew with `pneuma install`, or remove the file",
        )
    }
}

/// Where sessions look for data (XDG base directories).
fn data_folders() -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    let others = set("XDG_DATA_DIRS").unwrap_or_else(|| "/usr/local/share:/usr/share".into());
    home.into_iter()
        .chain(std::env::split_paths(&others))
        .collect()
}

fn first(folders: &[PathBuf], file: &str) -> Option<PathBuf> {
    folders
        .iter()
        .map(|folder| folder.join(file))
        .find(|path| path.exists())
}
