//! A file from a contact, through one channel: from our agreement to its end.
//!
//! ```text
//!  what is there, and its SHA-256 ──► agreed ──► Open ──► a thread writes NAME.part ──► all is there
//!                                                              │ every two seconds          │
//!                                                              └─ synced, and said so       ▼
//!  for Partial::finish ◄── Completed ◄── said so ◄── synced and noted ◄── verified by the service
//! ```
//!
//! A sender may throw its file away once it hears that all is well, which it does after we have said that all
//! is stored. So that is said only when the disk has it, and has it as verified: whatever dies from
//! then on, the file gets its name.

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

use actors::{
    model::{FileTransferState, SocketAddress},
    runtime::{Clock, Stop},
};
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
/// How often it is said again that all is stored, where the service had its troubles when it was said.
const REPORTS: u32 = 20;
/// After how many of these what has come is synced.
const TELLS_TO_SYNC: u32 = 4;

/// How long a contact may take to notice that all of what it offers again is here, besides what it takes to
/// read it, at so many bytes a second.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(60);
const SLOWLY: u64 = 50_000_000;

/// Where bytes come from and how many have come.
#[derive(Debug)]
struct Inlet {
    socket: File,
    /// How far the file is written.
    at: AtomicU64,
    off: AtomicBool,
}

impl Inlet {
    fn from(socket: File, offset: u64) -> Arc<Self> {
        Arc::new(Inlet {
            socket,
            at: AtomicU64::new(offset),
            off: AtomicBool::new(false),
        })
    }
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

/// How bytes ended where nothing cut them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    InOrder,
    /// The service says why by other means.
    Reset,
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
    let address = take(transfer, &from).await?;
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
    let_go(transfer).await;
    let inlet = Inlet::from(socket, offset);
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
            Copied(Result<Ended, Cut>),
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
    // Where it broke, that may have been behind the last byte: the service knows.
    let may_be_whole = !stopped && matches!(ended, None | Some(End::Broken(_)));
    let whole = matches!(copied, Ok(Ended::InOrder)) && may_be_whole;
    let mut failed = match copied {
        Ok(_) => None,
        Err(Cut::Disk(error)) => Some(partial.unwritable(error)),
        Err(Cut::TooMany) => Some(Error::new(
            Kind::TooLarge,
            "the contact sends more than it said, or than you allow with --max-size",
        )),
    };
    let whole = whole && is_all(&*clock, transfer, at).await;
    if whole {
        failed = blocking(partial, move |partial| partial.verified(at))
            .await
            .err();
    }
    if let Some(error) = failed {
        // The sender is to hear that it broke, which the end of the socket says, before the channel goes.
        shut(&inlet.socket);
        following.verdict(connection.bus()).await?;
        return Err(error);
    }
    if whole {
        if let Some(end) = report_all(connection, transfer, &mut following, at).await {
            tracing::debug!(%end, "a file is here, and its sender may not have heard so");
        }
        return Ok(End::Completed);
    }
    sync(transfer, partial, at, ended.is_none()).await?;
    let end = match ended {
        Some(end) => end,
        None => following.verdict(connection.bus()).await?,
    };
    if matches!(end, End::Completed) {
        // The service did not say that all has come, or another program said that it is stored.
        if transfer.reached().await? != at {
            let why = "the transfer ended, and not all of it came here";
            return Ok(End::Broken(Error::new(Kind::ConnectionLost, why)));
        }
        blocking(partial, move |partial| partial.verified(at)).await?;
    }
    Ok(end)
}

/// Agrees to what a contact sends, and holds the channel: were this program killed before the service has its
/// socket, nothing else would say so, and the service and the sender would wait for it.
///
/// # Errors
/// As [`receive`].
async fn take(transfer: &Transfer, from: &Resume) -> Result<SocketAddress> {
    match transfer.claim().await {
        Err(error) if error.kind == Kind::NotYours => {
            let why = "another program is taking this file";
            return Err(Error::new(Kind::NotAvailable, why));
        }
        // A service that knows no claims.
        Err(error) if error.kind == Kind::NotImplemented => {}
        answer => answer?,
    }
    let taken = transfer.accept(from).await;
    if taken.is_err() {
        let_go(transfer).await;
    }
    taken
}

/// The service has our socket, which says by itself when this program is gone; or the file is another's.
async fn let_go(transfer: &Transfer) {
    if let Err(error) = transfer.release().await {
        tracing::debug!(%error, "a transfer's channel could not be let go");
    }
}

/// Whether what has come is all there is, and what was sent.
async fn is_all(clock: &dyn Clock, transfer: &Transfer, at: u64) -> bool {
    for _ in 0..REPORTS {
        let error = match transfer.verified().await {
            Ok(size) => return size == Some(at),
            Err(error) => error,
        };
        // Broken, gone, or it knows nothing of that: then its sender hears no better.
        tracing::debug!(%error, "the service does not say that all has come");
        // An actor of the service's that is restarted loses what was in its hands.
        if !matches!(transfer.state().await, Ok(FileTransferState::Open)) {
            break;
        }
        clock.sleep(TELL).await;
    }
    false
}

/// Says that all is stored, which completes the transfer, and waits for that. Gives what it ends with where
/// that is something else: then the sender offers it again, and is told again.
async fn report_all(
    connection: &Connection,
    transfer: &Transfer,
    following: &mut Following<'_>,
    at: u64,
) -> Option<End> {
    for _ in 0..REPORTS {
        let Err(error) = transfer.report_stored(at).await else {
            break;
        };
        // An actor of the service's that is restarted loses what was in its hands.
        if !matches!(transfer.state().await, Ok(FileTransferState::Open)) {
            return Some(End::Broken(error));
        }
        connection.bus().clock().sleep(TELL).await;
    }
    match following.verdict(connection.bus()).await {
        Ok(End::Completed) => None,
        Ok(end) => Some(end),
        Err(error) => Some(End::Broken(error)),
    }
}

/// Tells the contact that what it offers again has arrived before, all `size` bytes of it.
/// [`End::Completed`] when it knows.
///
/// # Errors
/// [`Kind::BadAnswer`] when it is something else that it offers. [`Kind::NotAvailable`] when the offer does
/// not stand any more; that the connection ended.
pub async fn confirm(connection: &Connection, transfer: &Transfer, size: u64) -> Result<End> {
    let clock = connection.bus().clock();
    let late = async {
        clock
            .sleep(CONFIRMED_WITHIN.saturating_add(Duration::from_secs(size / SLOWLY)))
            .await;
        let why = "the contact did not say in time that it is done";
        Ok(End::Broken(Error::new(Kind::TimedOut, why)))
    };
    let end = confirm_open(connection, transfer, size).or(late).await;
    let closed = match &end {
        Err(error) if error.kind == Kind::NotAvailable => transfer.close_if_cancelled().await,
        _ => transfer.close().await,
    };
    if let Err(error) = closed {
        tracing::debug!(%error, "a transfer's channel could not be closed");
    }
    end
}

async fn confirm_open(connection: &Connection, transfer: &Transfer, size: u64) -> Result<End> {
    let mut following = Following::new(connection.events().await?, transfer);
    let from = Resume {
        offset: size,
        // The id that lasts stands for the file as it was.
        stored: None,
    };
    let address = take(transfer, &from).await?;
    if let Some(end) = open(&mut following).await? {
        return Ok(end);
    }
    let offset = transfer.initial_offset().await?;
    let Ok(socket) = connect(address).await else {
        return following.verdict(connection.bus()).await;
    };
    let_go(transfer).await;
    let inlet = Inlet::from(socket, offset);
    let _leash = Leash(inlet.clone());
    let other = || {
        let why = "what is offered is not what has arrived under its id";
        Error::new(Kind::BadAnswer, why)
    };
    if offset != size {
        // The sender is to hear that it broke before the channel goes.
        shut(&inlet.socket);
        following.verdict(connection.bus()).await?;
        return Err(other());
    }
    let null = File::options().write(true).open("/dev/null");
    let null = null.map_err(|error| Error::io("/dev/null cannot be opened", &error))?;
    let copying = {
        let inlet = inlet.clone();
        smol::unblock(move || copy(&inlet, &null, size))
    };
    enum Either {
        Copied(Result<Ended, Cut>),
        Over(Result<End>),
    }
    let copied = async { Either::Copied(copying.await) };
    let over = async { Either::Over(following.over().await) };
    match copied.or(over).await {
        Either::Copied(Ok(Ended::InOrder))
            if is_all(&**connection.bus().clock(), transfer, size).await =>
        {
            let broken = report_all(connection, transfer, &mut following, size).await;
            Ok(broken.unwrap_or(End::Completed))
        }
        Either::Copied(Err(Cut::TooMany)) => {
            shut(&inlet.socket);
            following.verdict(connection.bus()).await?;
            Err(other())
        }
        Either::Copied(_) => following.verdict(connection.bus()).await,
        Either::Over(end) => end,
    }
}

/// Syncs what has come, and says so; but for the last byte, of which that is said when it is known to be
/// the last and that all is right.
async fn sync(transfer: &Transfer, partial: &mut Partial, at: u64, tell: bool) -> Result<()> {
    blocking(partial, move |partial| partial.sync(at)).await?;
    if !tell || at == 0 {
        return Ok(());
    }
    match transfer.report_stored(at - 1).await {
        // The transfer ended meanwhile, of which an event tells; or no byte has come.
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
fn copy(inlet: &Inlet, file: &File, most: u64) -> Result<Ended, Cut> {
    let mut buffer = vec![0; CHUNK];
    let mut at = inlet.at.load(Ordering::Relaxed);
    while !inlet.off.load(Ordering::Relaxed) {
        let read = match (&inlet.socket).read(&mut buffer) {
            Ok(0) => return Ok(Ended::InOrder),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(Ended::Reset),
        };
        if at + read as u64 > most {
            return Err(Cut::TooMany);
        }
        file.write_all_at(&buffer[..read], at).map_err(Cut::Disk)?;
        at += read as u64;
        inlet.at.store(at, Ordering::Relaxed);
    }
    Ok(Ended::Reset)
}
