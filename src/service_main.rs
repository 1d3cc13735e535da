//! The service as a program: arguments, logging, threads, signals. `telepathy-pneuma` is nothing
//! else, and `pneuma service` is the same, for where only the command line is built.

use std::{ffi::OsString, io::IsTerminal as _, process::ExitCode, sync::Arc, time::Duration};

use actors::runtime::{Clock, SystemClock};
use async_signal::{Signal, Signals};
use clap::{CommandFactory as _, Parser};
use futures_lite::{FutureExt as _, StreamExt as _};
use smol::Executor;
use tracing_subscriber::EnvFilter;

use crate::{End, Service, threads};

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
}

/// Most threads that run the executor, see [`threads`]: what costs time is few streams' encryption.
const THREADS: usize = 4;

/// Most descriptors the process asks for, as the systemd unit does.
const DESCRIPTORS: u64 = 65_536;

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

/// Runs the connection manager on the session bus until it is told to end, or nobody has needed it
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
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say so on standard error, and panic because that is what is gone.
        .log_internal_errors(false)
        .init();
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(%error, "there may be too few descriptors");
    }
    let executor = Arc::new(Executor::new());
    let clock: Arc<dyn Clock> = SystemClock::new();
    let others = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS)
        - 1;
    let outcome = threads::run(
        &executor,
        &clock,
        others,
        serve(&arguments, executor.clone()),
    );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(
    arguments: &Arguments,
    executor: Arc<Executor<'static>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let ending = [Signal::Term, Signal::Int].into_iter();
    // A terminal that is closed takes us with it, in order, unless somebody (nohup) said otherwise.
    let hangup = (!hangup_is_ignored()).then_some(Signal::Hup);
    let mut signals = Signals::new(ending.chain(hangup))?;
    let starting = Service::builder()
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

    use super::{DESCRIPTORS, raise_descriptor_limit};

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
