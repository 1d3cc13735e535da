//! The service as a program: arguments, logging, threads, signals. `telepathy-pneuma` is nothing
//! else, and `pneuma service` is the same, for where only the command line is built.

use std::{
    ffi::OsString, io::IsTerminal as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration,
};

use actors::runtime::{Clock, SystemClock};
use async_signal::{Signal, Signals};
use clap::{CommandFactory as _, Parser, ValueEnum};
use futures_lite::{FutureExt as _, StreamExt as _};
use smol::Executor;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    Layer as _, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{Builder, End, Levels, Log, Service, place, threads};

/// The Pneuma connection manager for Telepathy: tubes between people on one network.
#[derive(Debug, Parser)]
#[command(name = "telepathy-pneuma", version)]
struct Arguments {
    /// Stay although nobody has a connection.
    #[arg(long)]
    persist: bool,
    /// Seconds to stay without a connection.
    #[arg(long, value_name = "SECONDS", default_value_t = Service::IDLE.as_secs())]
    leave_after: u64,
    /// Where to serve: on the session bus, at a private socket for programs of this user without a bus,
    /// or both; by default on the session bus where there is one, else at the socket.
    #[arg(long, value_enum, value_name = "WHERE")]
    serve: Option<Serve>,
    /// The private socket; $XDG_RUNTIME_DIR/pneuma/bus by default
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Where to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Serve {
    /// On the session bus.
    Bus,
    /// At the private socket.
    Private,
    /// At both.
    Both,
}

impl Arguments {
    fn place(&self, builder: Builder) -> Builder {
        let socket = || self.socket.clone().unwrap_or_else(place::private_socket);
        match (self.serve, place::session_bus()) {
            (Some(Serve::Private), _) | (None, None) => {
                builder.without_bus().private_socket(socket())
            }
            // The library says where it looked for one.
            (_, None) => builder,
            (Some(Serve::Both), Some(bus)) => builder.address(bus).private_socket(socket()),
            (Some(Serve::Bus) | None, Some(bus)) => builder.address(bus),
        }
    }
}

/// Most threads that run the executor, see [`threads`]: what costs time is few streams' encryption.
const THREADS: usize = 4;

/// Most descriptors the process asks for, as the systemd unit does.
const DESCRIPTORS: u64 = 65_536;

/// The journal's priorities as other services use them: Info is no notice.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// Takes as many descriptors as the system allows, [`DESCRIPTORS`] at most. Most sessions start their
/// programs with 1024, for the sake of `select`, which nobody uses here; the bounds of streams and
/// connections together are above that, so that one contact could take all there are.
fn raise_descriptor_limit() -> std::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS);
    if limit.current.is_some_and(|current| current < most) {
        limit.current = Some(most);
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(())
}

/// The command line of [`service_main`], for what is made from it: its manual page.
pub fn service_command() -> clap::Command {
    Arguments::command()
}

/// Runs the connection manager, on the session bus or without one, until it is told to end, or nobody has needed it
/// for a while. `arguments` are those after the program's name. Meant to be all that a process does:
/// it sets the process's logging up, starts threads and watches signals. An embedder takes
/// [`Service`] instead.
pub fn service_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = std::iter::once(OsString::from("telepathy-pneuma")).chain(arguments);
    let arguments = match Arguments::try_parse_from(line) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors.
            error.print().unwrap_or_default();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let clock: Arc<dyn Clock> = SystemClock::new();
    let log = start_logging(&clock);
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(%error, "there may be too few descriptors");
    }
    let executor = Arc::new(Executor::new());
    let others = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS)
        - 1;
    let outcome = threads::run(
        &executor,
        &clock,
        others,
        serve(&arguments, executor.clone(), log),
    );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Sends what is said to the journal, where standard error is the journal's, else to standard error;
/// and keeps it for clients.
fn start_logging(clock: &Arc<dyn Clock>) -> Log {
    let wanted = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let levels = wanted.as_deref().map(str::parse::<Levels>);
    let log = Log::new(
        levels.clone().and_then(Result::ok).unwrap_or_default(),
        clock.clone(),
    );
    // The journal's own protocol keeps levels and fields.
    let journal = (stderr_is_the_journal().then(tracing_journald::layer)).and_then(Result::ok);
    let journal = journal.map(|journal| journal.with_priority_mappings(PRIORITIES));
    let output: Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync> = match journal {
        Some(journal) => Box::new(journal.with_filter(log.filter())),
        None => Box::new(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                // It would say so on standard error, and panic because that is what is gone.
                .log_internal_errors(false)
                .with_filter(log.filter()),
        ),
    };
    tracing_subscriber::registry()
        .with(output)
        .with(log.layer())
        .init();
    if let Some(Err(error)) = levels {
        tracing::warn!(%error, "RUST_LOG is not understood");
    }
    log
}

/// Whether what we write to standard error goes to the journal: systemd says in `JOURNAL_STREAM` which
/// file that is, so that one who inherits the variable and writes elsewhere is not mistaken.
fn stderr_is_the_journal() -> bool {
    let (Ok(stream), Ok(found)) = (
        std::env::var("JOURNAL_STREAM"),
        rustix::fs::fstat(std::io::stderr()),
    ) else {
        return false;
    };
    is_this(&stream, found.st_dev, found.st_ino)
}

/// Whether `device:inode` names this file.
fn is_this(stream: &str, device: u64, inode: u64) -> bool {
    let named = stream.split_once(':');
    named.is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

async fn serve(
    arguments: &Arguments,
    executor: Arc<Executor<'static>>,
    log: Log,
) -> Result<(), Box<dyn std::error::Error>> {
    let ending = [Signal::Term, Signal::Int].into_iter();
    // A terminal that is closed takes us with it, in order, unless somebody (nohup) said otherwise.
    let hangup = (!hangup_is_ignored()).then_some(Signal::Hup);
    let mut signals = Signals::new(ending.chain(hangup))?;
    let starting = arguments
        .place(Service::builder())
        .log(log)
        .persist(arguments.persist)
        .idle(Duration::from_secs(arguments.leave_after))
        .start(executor);
    // A bus may take a connection and never say a word.
    let given_up = async {
        asked(&mut signals).await;
        Ok(None)
    };
    let Some(service) = given_up.or(async { starting.await.map(Some) }).await? else {
        return Ok(());
    };
    let asked = async {
        asked(&mut signals).await;
        service.shutdown().await
    };
    match asked.or(service.ended()).await {
        End::Failed => {
            Err("a part failed without which nothing goes on; see the messages before".into())
        }
        End::Stopped | End::Idle | End::BusGone => Ok(()),
    }
}

/// Whether SIGHUP was being ignored when we were started. `/proc` tells it; where there is none, it was
/// not, as is the rule.
fn hangup_is_ignored() -> bool {
    let ignored = |status: &str| {
        let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Signal number n is bit n - 1; SIGHUP is number one everywhere.
    ignored(&status).is_some_and(|mask| mask & 1 != 0)
}

/// Waits until somebody wants us to end.
async fn asked(signals: &mut Signals) {
    while let Some(signal) = signals.next().await {
        match signal {
            Ok(signal) => {
                tracing::info!(?signal, "asked to end");
                return;
            }
            Err(error) => tracing::warn!(%error, "a signal could not be read"),
        }
    }
    // Nobody can ask any more.
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit, setrlimit};

    use super::{DESCRIPTORS, is_this, raise_descriptor_limit};

    #[test]
    fn only_the_file_that_systemd_names_is_the_journal() {
        assert!(is_this("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", ":", "8:1234:1", "8: 1234"] {
            assert!(!is_this(other, 8, 1234), "{other}");
        }
    }

    #[test]
    fn a_low_limit_of_descriptors_is_raised() {
        let before = getrlimit(Resource::Nofile);
        let most = before.maximum.unwrap_or(u64::MAX).min(DESCRIPTORS);
        let mut low = before;
        low.current = Some(most / 2);
        setrlimit(Resource::Nofile, low).unwrap();
        raise_descriptor_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(most));
        setrlimit(Resource::Nofile, before).unwrap();
    }
}
