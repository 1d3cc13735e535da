//! A file from a contact, through one channel: from our agreement to its end.
//!
//! ```text
//!  what is there, and its SHA-256 ──► agreed ──► Open ──► a thread writes NAME.part ──► all is there
//!                                                              │ every two seconds          │
//!                                                              └─ synced, and said so       ▼
//!  verified, for Partial::finish ◄── Completed ◄── verified by the service ◄── synced, and said so
//! ```

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use actors::runtime::Stop;
use futures_lite::FutureExt as _;

use super::{
    End, Partial, Progress, Resume, Transfer,
    following::{Following, Step, connect, shut},
    send::open,
};
use crate::client::{
    connection::Connection,
    error::{Error, Kind, Result},
};

/// How many bytes are read at a time.
const CHUNK: usize = 256 * 1024;
/// How often a user sees how far it is.
const TELL: Duration = Duration::from_millis(500);
/// After how many of these what has come is synced.
const TELLS_TO_SYNC: u32 = 4;

/// Where bytes come from and how many have come.
#[derive(Debug)]
struct Inlet {
    socket: File,
    /// How far the file is written.
    at: AtomicU64,
    off: AtomicBool,
}

/// Has the thread that reads stop, when whoever waits for it goes.
struct Leash(Arc<Inlet>);

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.off.store(true, Ordering::Relaxed);
        shut(&self.0.socket);
    }
}

/// Why bytes stopped to come.
enum Cut {
    /// The disk.
    Disk(io::Error),
    /// There are more than were allowed.
    TooMany,
}

/// Agrees to what a contact sends and writes it into `partial`, at most so many bytes, until the transfer
/// ends; [`End::Completed`] means that all of it is there, verified and synced. `watch` is told how it goes.
///
/// With `stop` it breaks, as if by accident, so that the sender goes on as soon as somebody takes it again.
/// To close the channel would tell the contact that it is not wanted.
///
/// # Errors
/// [`Kind::NotAvailable`] when the offer does not stand any more, or another program took it; that the
/// connection ended; and what cannot be written here.
pub async fn receive(
    connection: &Connection,
    transfer: &Transfer,
    mut partial: Partial,
    most: Option<u64>,
    stop: &Stop,
    mut watch: impl FnMut(Progress),
) -> Result<(Partial, End), (Partial, Error)> {
    let end = through(connection, transfer, &mut partial, most, stop, &mut watch).await;
    let closed = match &end {
        Err(error) if error.kind == Kind::NotAvailable => transfer.close_if_cancelled().await,
        _ => transfer.close().await,
    };
    if let Err(error) = closed {
        tracing::debug!(%error, "a transfer's channel could not be closed");
    }
    match end {
        Ok(end) => Ok((partial, end)),
        Err(error) => Err((partial, error)),
    }
}

async fn through(
    connection: &Connection,
    transfer: &Transfer,
    partial: &mut Partial,
    most: Option<u64>,
    stop: &Stop,
    watch: &mut impl FnMut(Progress),
) -> Result<End> {
    let mut following = Following::new(connection.events().await?, transfer);
    let from = if transfer.description().has_ranges {
        blocking(partial, |partial| partial.prefix()).await?
    } else {
        Resume::default()
    };
    let address = transfer.accept(&from).await?;
    watch(Progress::Agreed);
    if let Some(end) = open(&mut following).await? {
        return Ok(end);
    }
    let offset = transfer.initial_offset().await?;
    blocking(partial, move |partial| partial.begin_at(offset)).await?;
    watch(Progress::From(offset));
    let socket = match connect(address).await {
        Ok(socket) => socket,
        Err(error) => {
            tracing::debug!(%error, "the service's socket cannot be reached");
            return following.verdict(connection.bus()).await;
        }
    };
    let inlet = Arc::new(Inlet {
        socket,
        at: AtomicU64::new(offset),
        off: AtomicBool::new(false),
    });
    let _leash = Leash(inlet.clone());
    let most = most
        .unwrap_or(u64::MAX)
        .min(partial.size().unwrap_or(u64::MAX));
    let mut copying = {
        let (inlet, file) = (inlet.clone(), partial.file());
        smol::unblock(move || copy(&inlet, &file, most))
    };
    let clock = connection.bus().clock().clone();
    let mut ended = None;
    let mut stopped = false;
    let mut tells = 0;
    // Until the bytes end; the verdict may come first, or be what ends them.
    let copied = loop {
        enum Either {
            Copied(Result<(), Cut>),
            Step(Result<Step>),
            Stop,
            Tick,
        }
        let done = async { Either::Copied((&mut copying).await) };
        let told = async {
            if stopped {
                return std::future::pending().await;
            }
            stop.stopped().await;
            Either::Stop
        };
        let step = async {
            if ended.is_some() {
                return std::future::pending().await;
            }
            Either::Step(following.next().await)
        };
        let tick = async {
            clock.sleep(TELL).await;
            Either::Tick
        };
        match done.or(step).or(told).or(tick).await {
            Either::Copied(copied) => break copied,
            Either::Step(step) => {
                ended = following.end(step?).await?;
                if ended.is_some() {
                    // Nothing more comes; what is in the socket already is worth having.
                    shut(&inlet.socket);
                }
            }
            Either::Stop => {
                stopped = true;
                shut(&inlet.socket);
            }
            Either::Tick => {
                let at = inlet.at.load(Ordering::Relaxed);
                watch(Progress::At(at));
                tells += 1;
                if tells % TELLS_TO_SYNC == 0 {
                    sync(transfer, partial, at, ended.is_none()).await?;
                }
            }
        }
    };
    let at = inlet.at.load(Ordering::Relaxed);
    watch(Progress::At(at));
    watch(Progress::Handed(at.saturating_sub(offset)));
    let failed = match copied {
        Ok(()) => None,
        Err(Cut::Disk(error)) => Some(partial.unwritable(error)),
        Err(Cut::TooMany) => Some(Error::new(
            Kind::TooLarge,
            "the contact sends more than it said, or than you allow with --max-size",
        )),
    };
    if let Some(error) = failed {
        // The sender is to hear that it broke, which the end of the socket says, before the channel goes.
        shut(&inlet.socket);
        following.verdict(connection.bus()).await?;
        return Err(error);
    }
    sync(transfer, partial, at, ended.is_none()).await?;
    let end = match ended {
        Some(end) => end,
        None => following.verdict(connection.bus()).await?,
    };
    if end == End::Completed {
        return match blocking(partial, move |partial| partial.verified(at)).await {
            Err(error) if error.kind == Kind::ConnectionLost => Ok(End::Broken(error)),
            verified => verified.map(|()| end),
        };
    }
    Ok(end)
}

/// Syncs what has come, and says so.
async fn sync(transfer: &Transfer, partial: &mut Partial, at: u64, tell: bool) -> Result<()> {
    blocking(partial, move |partial| partial.sync(at)).await?;
    if !tell {
        return Ok(());
    }
    match transfer.report_stored(at).await {
        // The transfer ended meanwhile, of which an event tells.
        Err(error)
            if matches!(
                error.kind,
                Kind::NotAvailable | Kind::InvalidArgument | Kind::NotImplemented
            ) =>
        {
            Ok(())
        }
        answer => answer,
    }
}

/// What takes the disk's time, on a thread of its own.
async fn blocking<T: Send + 'static>(
    partial: &mut Partial,
    what: impl FnOnce(&mut Partial) -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut there = partial.clone();
    let (there, done) = smol::unblock(move || {
        let done = what(&mut there);
        (there, done)
    })
    .await;
    *partial = there;
    done
}

/// Reads the socket to its end, on a thread of its own.
fn copy(inlet: &Inlet, file: &File, most: u64) -> Result<(), Cut> {
    let mut buffer = vec![0; CHUNK];
    let mut at = inlet.at.load(Ordering::Relaxed);
    while !inlet.off.load(Ordering::Relaxed) {
        let read = match (&inlet.socket).read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // Reset by the service, which says why by other means.
            Err(_) => return Ok(()),
        };
        if at + read as u64 > most {
            return Err(Cut::TooMany);
        }
        file.write_all_at(&buffer[..read], at).map_err(Cut::Disk)?;
        at += read as u64;
        inlet.at.store(at, Ordering::Relaxed);
    }
    Ok(())
}
