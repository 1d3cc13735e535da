//! The socket that peers connect to: who may have it, and who may come in.
//!
//! The socket lies in a folder of this user's alone, with a lock file beside it that is held for as
//! long as the socket is served. Whoever has the lock owns the socket, so a file that a killed service
//! left there is replaced, and one that is served never. The lock file itself stays: to remove it would
//! let two hold locks on two files of one name.
//!
//! Every connection is asked about at the kernel before a byte of it is read: the process that made it
//! must be of our user, even if it is root's.

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::FileTypeExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actors::{
    endpoint::BACKLOG,
    model::{Error, Result},
    runtime::{Clock, Spawner, Stop},
};
use async_io::Async;
use futures_lite::FutureExt as _;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, chmod, flock, open},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
    },
};
use zbus::Guid;

use super::{Peers, peer};
use crate::place::own_uid;

/// How long nobody is accepted after the system had no room for one more.
const PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub(in crate::dbus) struct Door {
    listener: Async<UnixListener>,
    path: PathBuf,
    // After the file: dropped in this order.
    _lock: OwnedFd,
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the private socket is gone already");
        }
    }
}

impl Door {
    /// Listens at `path`, in a folder that is made if it is not there.
    ///
    /// # Errors
    /// `NotAvailable` when another service serves there or the path is too long for a socket,
    /// `PermissionDenied` when the folder is not this user's alone or something else lies there, and
    /// what the system says.
    pub(in crate::dbus) fn open(path: &Path) -> Result<Self> {
        let fails = |error: io::Error| {
            Error::NotAvailable(format!(
                "there can be no socket at {}: {error}",
                path.display()
            ))
        };
        let folder = path.parent().unwrap_or(Path::new("/"));
        actors::endpoint::ensure_private(folder)?;
        let lock = take_lock(path, &fails)?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                std::fs::remove_file(path).map_err(fails)?
            }
            Ok(_) => {
                return Err(Error::PermissionDenied(format!(
                    "{} is there and is no socket",
                    path.display()
                )));
            }
            Err(_) => {}
        }
        let address = SocketAddrUnix::new(path.as_os_str().as_bytes())
            .map_err(|error| fails(error.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| fails(error.into()))?;
        bind(&socket, &address).map_err(|error| fails(error.into()))?;
        // Nobody can connect before it listens.
        chmod(path, Mode::RUSR | Mode::WUSR)
            .and_then(|()| listen(&socket, BACKLOG))
            .map_err(|error| fails(error.into()))?;
        Ok(Door {
            listener: Async::new(UnixListener::from(socket)).map_err(fails)?,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Lets peers in until it is told to stop. Each has a task of its own, which ends with the same
    /// word.
    pub(in crate::dbus) async fn serve(
        self,
        peers: Peers,
        spawner: Spawner,
        clock: Arc<dyn Clock>,
        stop: Stop,
    ) {
        let guid = Guid::generate();
        let accepting = async {
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => {
                        let Some(uid) = own_user(&stream) else {
                            tracing::warn!("somebody else's process at the private socket");
                            continue;
                        };
                        let peer = peer::serve(
                            peers.clone(),
                            spawner.clone(),
                            clock.clone(),
                            guid.clone(),
                            stream,
                            uid,
                        );
                        spawner.spawn("a client without a bus", peer).detach();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "nobody can be accepted at the private socket");
                        clock.sleep(PAUSE).await;
                    }
                }
            }
        };
        stop.stopped().or(accepting).await;
    }
}

fn take_lock(path: &Path, fails: &impl Fn(io::Error) -> Error) -> Result<OwnedFd> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = open(Path::new(&name), flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| fails(error.into()))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => {
            Error::NotAvailable(format!("another service serves at {}", path.display()))
        }
        error => fails(error.into()),
    })?;
    Ok(lock)
}

/// The user of the process that connected, if it is ours.
fn own_user(stream: &Async<UnixStream>) -> Option<u32> {
    let uid = sockopt::socket_peercred(stream.get_ref())
        .ok()?
        .uid
        .as_raw();
    (uid == own_uid()).then_some(uid)
}
