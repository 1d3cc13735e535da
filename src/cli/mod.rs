//! The command line `pneuma`: arguments in, the client library at work, sentences or JSON out.
//!
//! One file per command; what they share is in `app` (the account online, the wait for a contact),
//! `output`, `failure` (exit codes and sentences), `select` (whom the user means) and `text` (what a
//! peer wrote, made safe). Runs on one thread and one executor of its own; the binary hands in
//! what lies outside these floors.

mod accept;
mod address;
mod again;
mod app;
mod args;
mod ask;
mod bars;
mod contacts;
mod crowd;
mod demo;
mod doctor;
mod failure;
mod install;
mod log_level;
mod offer;
mod output;
mod pages;
mod policy;
mod receive;
mod select;
mod send;
mod share;
mod standing;
mod status;
mod stdio;
mod text;
mod tubes;
mod verify;

use std::{ffi::OsString, process::ExitCode, sync::Arc};

use actors::runtime::{Spawner, Stopper, SystemClock};
use async_signal::{Signal, Signals};
use clap::Parser as _;
use futures_lite::StreamExt as _;

use app::App;
use args::{Cli, Command, PolicyCommand};
use failure::{Failure, Outcome};
use output::Output;

/// What the binary brings from other floors.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// Runs the connection manager, with its arguments.
    pub service: fn(Vec<OsString>) -> ExitCode,
    /// Its own command line, which its manual page is made from.
    pub service_command: fn() -> clap::Command,
}

/// Runs the command line of this process to its end.
pub fn main(outside: Outside) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and a reader that left is none either.
            error.print().unwrap_or_default();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Command::Service { arguments } = cli.command {
        return (outside.service)(arguments);
    }
    let out = Output::new(cli.global.json, cli.global.quiet, cli.global.colour);
    match run(cli, out.clone(), outside) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Runs one command on an executor of its own.
fn run(cli: Cli, out: Output, outside: Outside) -> Outcome {
    let executor = Arc::new(smol::Executor::new());
    let spawner = Spawner::new(executor.clone());
    let (stopper, stop) = Stopper::new();
    let app = App {
        out,
        account: cli.global.account.account(),
        global: cli.global,
        clock: SystemClock::new(),
        spawner: spawner.clone(),
        stop,
    };
    smol::block_on(executor.run(async {
        let signals = spawner.spawn("signals", stop_on_signals(stopper));
        let outcome = dispatch(&app, cli.command, outside).await;
        signals.cancel().await;
        outcome
    }))
}

async fn dispatch(app: &App, command: Command, outside: Outside) -> Outcome {
    match command {
        Command::Status => status::run(app).await,
        Command::Contacts { watch } => contacts::run(app, watch).await,
        Command::Offer {
            service,
            address,
            to,
            again,
            shared,
        } => {
            if let Some(name) = share::name_of(&service) {
                if address.is_some() {
                    return Err(Failure::usage(
                        "a service of the session bus has no address: write `pneuma offer dbus:NAME --to CONTACT`",
                    ));
                }
                let wish = share::Wish {
                    name,
                    to: &to,
                    again,
                    objects: &shared.objects,
                    interfaces: &shared.interfaces,
                    read_only: shared.read_only,
                };
                return share::offer(app, &wish).await;
            }
            if shared.is_some() {
                return Err(Failure::usage(
                    "--object, --dbus-interface and --read-only are for a service of the session bus: dbus:NAME",
                ));
            }
            let address = address.ok_or_else(|| {
                Failure::usage(format!(
                    "where {} listens is missing: a port, host:port, [v6]:port, unix:/path or abstract:name",
                    text::safe(&service)
                ))
            })?;
            let wish = offer::Wish {
                service: &service,
                address: &address,
                to: &to,
                again,
            };
            offer::run(app, &wish).await
        }
        Command::Accept {
            contact,
            service,
            allowed,
            listen,
            stdio,
            own,
            heard,
        } => {
            let (Some(contact), Some(service), false) = (contact, service, allowed) else {
                return standing::run(app).await;
            };
            if let Some(name) = share::name_of(&service) {
                if stdio {
                    return Err(Failure::usage(
                        "a service of the contact's session bus is no stream: leave --stdio out",
                    ));
                }
                let place = match &own {
                    Some(own) => share::Place::Named {
                        own,
                        objects: &heard.objects,
                        interfaces: &heard.interfaces,
                    },
                    None if heard.is_some() => {
                        return Err(Failure::usage(
                            "--object and --dbus-interface say which signals come to your session bus: give the service a name there with --own",
                        ));
                    }
                    None => share::Place::Small(listen.as_ref()),
                };
                return share::accept(app, &contact, name, place).await;
            }
            if own.is_some() || heard.is_some() {
                return Err(Failure::usage(
                    "--own, --object and --dbus-interface are for a service of the contact's session bus: dbus:NAME",
                ));
            }
            let way = match (listen, stdio) {
                (Some(address), _) => accept::Way::Listen(address),
                (None, true) => accept::Way::Stdio,
                (None, false) => accept::Way::Socket,
            };
            accept::run(app, &contact, &service, way).await
        }
        Command::Send {
            paths,
            contact,
            name,
        } => {
            let wish = send::Wish {
                paths: &paths,
                contact: &contact,
                name: name.as_deref(),
            };
            send::run(app, &wish).await
        }
        Command::Receive {
            from,
            dir,
            accept,
            max_size,
            count,
            once,
        } => {
            let wish = receive::Wish {
                from: from.as_deref(),
                folder: &dir,
                accept,
                most: max_size,
                count: count.or(once.then_some(1)),
            };
            receive::run(app, &wish).await
        }
        Command::Policy { what } => match what {
            None => policy::list(app).await,
            Some(PolicyCommand::Set {
                place,
                decision,
                max_connections: connections,
                max_rate: rate,
            }) => {
                let change = policy::Change {
                    decision: decision.decision(),
                    connections,
                    rate,
                };
                policy::set(app, place.place(), change).await
            }
            Some(PolicyCommand::Unset { place }) => policy::unset(app, place.place()).await,
        },
        Command::Tubes { watch, close } => match close {
            Some(which) => tubes::close(app, &which).await,
            None => tubes::run(app, watch).await,
        },
        Command::Verify {
            contact,
            code,
            replace,
        } => verify::run(app, &contact, code.as_deref(), replace).await,
        Command::Forget { contact } => verify::forget(app, &contact).await,
        Command::LogLevel { levels } => log_level::run(app, levels.as_deref()).await,
        Command::Disconnect => status::disconnect(app).await,
        Command::Doctor => doctor::run(app).await,
        Command::Demo { size, keep } => demo::run(app, size, keep).await,
        Command::Install {
            prefix,
            destdir,
            libexecdir,
            from,
            dry_run,
        } => install::run(
            app,
            outside,
            &install::Wish {
                prefix,
                // An empty DESTDIR is what make hands on when there is none.
                destdir: destdir.filter(|folder| !folder.as_os_str().is_empty()),
                libexecdir,
                from,
                dry_run,
            },
        ),
        Command::Completions { shell } => pages::completions(app, shell),
        Command::Man { dir } => pages::manual(app, outside, dir.as_deref()),
        Command::CompleteContacts => pages::contacts(app).await,
        // Taken before there was an executor.
        Command::Service { .. } => Ok(()),
    }
}

/// The first Ctrl-C (or SIGTERM, or the terminal's end) ends in order, the second at once.
async fn stop_on_signals(stopper: Stopper) {
    let mut signals = match Signals::new([Signal::Int, Signal::Term, Signal::Hup]) {
        Ok(signals) => signals,
        Err(error) => {
            tracing::warn!(%error, "signals cannot be watched; Ctrl-C ends at once");
            // Dropping the stopper would stop everything.
            return std::future::pending().await;
        }
    };
    if signals.next().await.is_some() {
        stopper.stop();
    }
    if signals.next().await.is_some() {
        std::process::exit(failure::Code::Interrupted as i32);
    }
}
