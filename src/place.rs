//! Where the connection manager is found on this machine, for both of its sides: on the session bus
//! where there is one, at a private socket where there is none.

use std::{
    ffi::OsString,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// What the private socket is called; see [`private_socket`].
const SOCKET: &str = "bus";

/// The session bus's address as D-Bus writes it: the one the environment names, or the user's own bus
/// (`$XDG_RUNTIME_DIR/bus`) where somebody listens there. `None` where there is no session bus. An
/// address that the environment names is taken at its word: who sets one means it.
pub fn session_bus() -> Option<String> {
    if let Some(named) = variable("DBUS_SESSION_BUS_ADDRESS") {
        return named.into_string().ok();
    }
    let usual = session_runtime_directory()
        .unwrap_or_else(|| format!("/run/user/{}", own_uid()).into())
        .join("bus");
    // A Unix socket is connected at once or not at all.
    UnixStream::connect(&usual).ok()?;
    Some(format!("unix:path={}", usual.to_str()?))
}

/// Where the service's Unix sockets lie: a folder of this user's in the session's runtime directory;
/// where the session has none, one below the folder for temporary files. Either is used only if nobody
/// else can get into it.
pub fn runtime_directory() -> PathBuf {
    session_runtime_directory().map_or_else(
        || std::env::temp_dir().join(format!("pneuma-{}", own_uid())),
        |directory| directory.join("pneuma"),
    )
}

/// The socket at which the service is found without a bus.
pub fn private_socket() -> PathBuf {
    runtime_directory().join(SOCKET)
}

fn session_runtime_directory() -> Option<PathBuf> {
    variable("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|directory| Path::is_absolute(directory))
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The user whose processes we take for ourselves.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
