//! What every command works with: output, the bus, the account online and let go again, the wait
//! for a contact, and being stopped by the user.
//!
//! ```text
//!   with_connection:  service runs ─► connection ─► online ─► the command ─► let go
//!                                                                │             ▲
//!                                        Ctrl-C, an error ───────┴─────────────┘
//! ```
//!
//! A command may end at any moment; letting go is never skipped.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

use actors::runtime::{Clock, Spawner, Stop, Time};
use futures_lite::FutureExt as _;

use super::{
    args::Global,
    failure::{Code, Failure, Outcome},
    output::Output,
    select::{Selection, is_blocked, select},
    text,
};
use crate::client::{
    self, Account, Bus, Connection, Contact, Decision, Event, Events, Kind, Lease, ManagedAccount,
    Program, Status, Stay, Trust,
};

/// How long going online may take where `--timeout` says nothing sensible about it.
const ONLINE_DEADLINE: Duration = Duration::from_secs(30);

/// How long a connection that is in the way of ours may take until it can be seen.
const APPEARING: Duration = Duration::from_secs(2);

/// See the module's head.
pub struct App {
    /// Where to write.
    pub out: Output,
    /// The options.
    pub global: Global,
    /// The account the options name.
    pub account: Account,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The executor.
    pub spawner: Spawner,
    /// Stopped when the user presses Ctrl-C or the process is told to end.
    pub stop: Stop,
}

/// Our part in keeping the account online.
enum Part {
    /// We have none: somebody else brought it online, or `--detach` leaves it so.
    None,
    /// In a connection of the connection manager's.
    Lease(Lease),
    /// In an account of Mission Control's.
    Stay(Stay),
}

/// What a contact must be before a command goes on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Known, on the network or not.
    Known,
    /// Known, or a stranger on the network.
    Present,
    /// On the network and able to take tubes.
    Tubes,
}

/// Whether whoever is selected was confirmed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirm<'a> {
    /// A stranger takes a confirmation.
    Ask,
    /// The same, unless our user's policy allows this service of its key.
    Service(&'a str),
    /// The command is a confirmation of its own kind.
    Never,
}

impl App {
    /// Where the profile's account is online, or would be: the session bus, or the connection
    /// manager's own socket. `None` where there is neither: then nothing is online.
    ///
    /// # Errors
    /// Code 6.
    pub async fn bus(&self) -> Outcome<Option<Bus>> {
        let (spawner, clock) = (self.spawner.clone(), self.clock.clone());
        Ok(Bus::find(self.account.profile(), spawner, clock).await?)
    }

    /// Runs `command` with the account online, and lets go of it afterwards whatever happened.
    ///
    /// # Errors
    /// The command's own, and what keeps the account from getting online.
    pub async fn with_connection<T>(
        &self,
        command: impl AsyncFnOnce(&Connection) -> Outcome<T>,
    ) -> Outcome<T> {
        self.with_connection_expecting(None, command).await
    }

    /// The same, where a tube of this contact for this service may be on its way as soon as the account
    /// is online.
    ///
    /// # Errors
    /// As [`App::with_connection`].
    pub async fn with_connection_expecting<T>(
        &self,
        expected: Option<(&str, &str)>,
        command: impl AsyncFnOnce(&Connection) -> Outcome<T>,
    ) -> Outcome<T> {
        let program = service_program();
        let (bus, started) = client::find_or_start(
            self.account.profile(),
            &self.spawner,
            &self.clock,
            program.as_ref(),
        )
        .await?;
        if started == client::Started::Spawned {
            self.out.remark("Started the connection manager.");
        }
        let (connection, part) = self.online(&bus, expected).await?;
        let outcome = command(&connection).await;
        let let_go = self.let_go(&connection, part).await;
        match (outcome, let_go) {
            (Ok(value), Ok(())) => Ok(value),
            (Ok(_), Err(error)) => Err(error),
            // What went wrong first matters more.
            (Err(error), _) => Err(error),
        }
    }

    /// The profile's connection, online, and our part in keeping it so.
    async fn online(
        &self,
        bus: &Bus,
        expected: Option<(&str, &str)>,
    ) -> Outcome<(Connection, Part)> {
        let profile = self.account.profile();
        let deadline = self.global.timeout.0.unwrap_or(ONLINE_DEADLINE);
        let account = ManagedAccount::of_profile(bus, profile, true).await?;
        let connection = Connection::of_profile(bus, profile).await?;
        if let Some(account) = account
            && account.has(connection.as_ref()).await?
        {
            return self.by_mission_control(account, deadline, expected).await;
        }
        if let Some(connection) = connection {
            return self.join(bus, connection, deadline).await;
        }
        match Connection::request(bus, &self.account).await {
            Ok(connection) => {
                let part = if self.global.detach {
                    Part::None
                } else {
                    Part::Lease(Lease::begin(bus, connection.bus_name()).await?)
                };
                let connected = self
                    .interruptible(async { Ok(connection.connect(deadline).await?) })
                    .await;
                if let Err(error) = connected {
                    self.let_go(&connection, part).await?;
                    return Err(error);
                }
                self.say_who(&connection).await?;
                Ok((connection, part))
            }
            // Somebody else was quicker.
            Err(error) if error.kind == Kind::NotAvailable => {
                match self.appearing(bus, profile).await? {
                    Some(connection) => self.join(bus, connection, deadline).await,
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The profile's connection, which somebody else has just asked for: it can be in the way of ours a
    /// moment before it can be seen.
    async fn appearing(&self, bus: &Bus, profile: &str) -> Outcome<Option<Connection>> {
        let deadline = self.clock.now().saturating_add(APPEARING);
        loop {
            let found = Connection::of_profile(bus, profile).await?;
            if found.is_some() || self.clock.now() >= deadline {
                return Ok(found);
            }
            self.clock.sleep(APPEARING / 50).await;
        }
    }

    /// Takes part in a connection that is there already.
    async fn join(
        &self,
        bus: &Bus,
        connection: Connection,
        deadline: Duration,
    ) -> Outcome<(Connection, Part)> {
        let lease = if self.global.detach {
            None
        } else {
            Lease::join(bus, connection.bus_name()).await?
        };
        if connection.status().await? != Status::Connected {
            self.interruptible(async { Ok(connection.connect(deadline).await?) })
                .await?;
        }
        Ok((connection, lease.map_or(Part::None, Part::Lease)))
    }

    /// Has Mission Control bring the account that it manages online.
    async fn by_mission_control(
        &self,
        account: ManagedAccount,
        deadline: Duration,
        expected: Option<(&str, &str)>,
    ) -> Outcome<(Connection, Part)> {
        let stay = if self.global.detach {
            None
        } else {
            Stay::begin(&account).await?
        };
        let online = self
            .interruptible(async { Ok(account.go_online(deadline, expected).await?) })
            .await;
        match online {
            Ok((connection, brought)) => {
                if brought {
                    self.say_who(&connection).await?;
                }
                Ok((connection, stay.map_or(Part::None, Part::Stay)))
            }
            Err(error) => {
                if let Some(stay) = stay
                    && let Err(also) = stay.end().await
                {
                    // What went wrong first matters more.
                    tracing::debug!(%also, "the account could not be let go");
                }
                Err(error)
            }
        }
    }

    async fn say_who(&self, connection: &Connection) -> Outcome {
        let id = connection.self_id().await?;
        self.out.remark(format!("Online as {}.", text::safe(&id)));
        Ok(())
    }

    /// Takes the account offline if we are the last of those who keep it online, unless it keeps tubes.
    async fn let_go(&self, connection: &Connection, part: Part) -> Outcome {
        let lease = match part {
            Part::None => return Ok(()),
            Part::Stay(stay) => {
                // Mission Control knows nothing of kept tubes. A connection that cannot say what it
                // keeps is gone, or about to be.
                let keeps = connection.kept().await.is_ok_and(|kept| !kept.is_empty());
                let let_go = if keeps {
                    stay.leave().await
                } else {
                    stay.end().await
                };
                return Ok(let_go?);
            }
            Part::Lease(lease) => lease,
        };
        if lease.release().await? {
            match connection.disconnect().await {
                // It is offline already, which is what we want.
                Err(error)
                    if matches!(
                        error.kind,
                        Kind::NoService | Kind::ServiceGone | Kind::NotAvailable
                    ) => {}
                answer => answer?,
            }
        }
        Ok(())
    }

    /// The moment `--timeout` ends, if it does.
    pub fn deadline(&self) -> Option<Time> {
        let timeout = self.global.timeout.0?;
        Some(self.clock.now().saturating_add(timeout))
    }

    /// Waits for `future`, until the user stops us.
    ///
    /// # Errors
    /// [`Failure::Interrupted`], and the future's own.
    pub async fn interruptible<T>(&self, future: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let stopped = async {
            self.stop.stopped().await;
            Err(Failure::Interrupted)
        };
        stopped.or(future).await
    }

    /// Waits for `future`, until `deadline` or the user stops us. `None` when it is too late.
    ///
    /// # Errors
    /// As [`App::interruptible`].
    pub async fn before<T>(
        &self,
        deadline: Option<Time>,
        future: impl Future<Output = Outcome<T>>,
    ) -> Outcome<Option<T>> {
        let late = async {
            match deadline {
                Some(deadline) => self.clock.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
            Ok(None)
        };
        self.interruptible(async { future.await.map(Some) }.or(late))
            .await
    }

    /// The contact that `wanted` selects, once it is what the command needs.
    ///
    /// # Errors
    /// Codes 3, 4 and 130.
    pub async fn contact(
        &self,
        connection: &Connection,
        wanted: &str,
        need: Need,
        confirm: Confirm<'_>,
    ) -> Outcome<Contact> {
        let mut events = connection.events().await?;
        let deadline = self.deadline();
        let mut said = false;
        loop {
            let contacts = connection.contacts().await?;
            let (found, sentence) = match select(wanted, &contacts) {
                Selection::Known(contact) => (Some((contact, false)), String::new()),
                Selection::Stranger(contact) => (Some((contact, true)), String::new()),
                Selection::Ambiguous(sentence) => {
                    return Err(Failure::new(Code::NotFound, "ambiguous", sentence));
                }
                Selection::Nobody(sentence) => (None, sentence),
            };
            if let Some((contact, stranger)) = found {
                if is_blocked(contact) && confirm != Confirm::Never {
                    return Err(self.blocked(connection, contact).await?);
                }
                let ready = match need {
                    Need::Known => true,
                    Need::Present => !stranger || contact.show.is_online(),
                    Need::Tubes => contact.show.is_online() && contact.tubes,
                };
                if ready {
                    let mut chosen = contact.clone();
                    if stranger && self.asks(connection, contact, confirm).await? {
                        chosen.trust = self.confirm_stranger(connection, contact).await?;
                    }
                    return Ok(chosen);
                }
            } else if !wanted.contains('@') {
                // A part of a name selects only who is known already: nothing to wait for.
                return Err(Failure::new(Code::NotFound, "not-found", sentence));
            }
            if !said {
                said = true;
                self.out
                    .remark(format!("Waiting for {} …", text::safe(wanted)));
            }
            let changed = self
                .before(deadline, next_change_of_contacts(&mut events))
                .await?;
            if changed.is_none() {
                return match found {
                    // It is there and has not said what it can do. The service knows best why
                    // that is not enough, and says so.
                    Some((contact, stranger)) if contact.show.is_online() => {
                        if stranger && self.asks(connection, contact, confirm).await? {
                            self.confirm_stranger(connection, contact).await?;
                        }
                        Ok(contact.clone())
                    }
                    Some((contact, _)) => Err(Failure::new(
                        Code::NotFound,
                        "offline",
                        format!(
                            "{} is not on the network; try again when it is, or wait longer with --timeout",
                            text::safe(&contact.id)
                        ),
                    )),
                    None => Err(Failure::new(Code::NotFound, "not-found", sentence)),
                };
            }
        }
    }

    /// Whether a stranger takes a confirmation.
    async fn asks(
        &self,
        connection: &Connection,
        contact: &Contact,
        confirm: Confirm<'_>,
    ) -> Outcome<bool> {
        match (confirm, &contact.trust.fingerprint) {
            (Confirm::Never, _) => Ok(false),
            (Confirm::Service(service), Some(key)) => {
                let terms = connection.terms(key, Some(service)).await?;
                Ok(terms.decision != Decision::Allow)
            }
            (Confirm::Ask | Confirm::Service(_), _) => Ok(true),
        }
    }

    /// Why nothing can be done with a blocked contact.
    async fn blocked(&self, connection: &Connection, contact: &Contact) -> Outcome<Failure> {
        let trust = connection.trust(contact.handle).await?;
        Ok(Failure::new(
            Code::Refused,
            "fingerprint-mismatch",
            format!(
                "{} shows the key {} but its name belongs to the key {}; ask the person by another way whether the machine is new: if so, `pneuma verify --replace` takes the new key, else somebody is posing",
                contact.id,
                text::fingerprint(trust.fingerprint.as_deref().unwrap_or("unknown")),
                text::fingerprint(trust.pinned_fingerprint.as_deref().unwrap_or("unknown")),
            ),
        ))
    }

    /// Before an offer or an accept, which would pin whatever key the contact has by then: pins the
    /// one it was chosen by. Anybody can change a stranger's record while our user looks at its key.
    ///
    /// # Errors
    /// Code 4 when it has another key by now, and what the service answers.
    pub async fn same_key(&self, connection: &Connection, contact: &Contact) -> Outcome {
        let Some(key) = key_to_pin(&contact.trust) else {
            return Ok(());
        };
        match connection.pin(contact.handle, key).await {
            Err(error) if error.kind == Kind::FingerprintMismatch => Err(Failure::new(
                Code::Refused,
                "fingerprint-mismatch",
                format!(
                    "{} has another key now than when it was chosen, so nothing was done; somebody may be posing as it",
                    text::safe(&contact.id)
                ),
            )),
            answer => Ok(answer?),
        }
    }

    /// Asks whether to deal with somebody new, and gives what was said of its key.
    async fn confirm_stranger(&self, connection: &Connection, contact: &Contact) -> Outcome<Trust> {
        if self.global.yes {
            return Ok(contact.trust.clone());
        }
        let id = text::safe(&contact.id);
        if !can_ask() {
            return Err(Failure::new(
                Code::Refused,
                "not-confirmed",
                format!(
                    "{id} is not one of your contacts and there is no terminal to ask whether you mean it; add --yes if you do"
                ),
            ));
        }
        let trust = connection.trust(contact.handle).await?;
        self.out.prompt(format!(
            "{id} is not one of your contacts yet.{}",
            if contact.alias.is_empty() || contact.alias == contact.id {
                String::new()
            } else {
                format!(" It calls itself “{}”.", text::safe_short(&contact.alias))
            }
        ));
        match &trust.fingerprint {
            Some(key) => self.out.prompt(format!(
                "Its key is {}.\nIf you go on, this key and no other belongs to the name.",
                text::fingerprint(key)
            )),
            None => self
                .out
                .prompt("It shows no key: nobody can tell who it is, and nothing is encrypted."),
        }
        if self.ask("Do you mean it?").await? {
            Ok(trust)
        } else {
            Err(Failure::new(
                Code::Refused,
                "not-confirmed",
                format!("nothing was done with {id}"),
            ))
        }
    }

    /// Asks a question on the terminal. Everything but a clear yes is a no.
    ///
    /// # Errors
    /// [`Failure::Interrupted`], and when the terminal cannot be read.
    pub async fn ask(&self, question: &str) -> Outcome<bool> {
        let mut err = std::io::stderr().lock();
        err.write_all(format!("{question} [y/N] ").as_bytes())?;
        err.flush()?;
        drop(err);
        // The thread that reads may outlive an interruption; it holds nothing and ends with us.
        let answer = self
            .interruptible(async {
                smol::unblock(|| {
                    let mut line = String::new();
                    std::io::stdin().read_line(&mut line).map(|_| line)
                })
                .await
                .map_err(|error| Failure::failed(format!("the answer could not be read: {error}")))
            })
            .await?;
        Ok(is_yes(&answer))
    }
}

/// The key that a stranger was chosen by. Other contacts' keys do not change by themselves, and where
/// there was no key there is none to pin.
fn key_to_pin(chosen: &Trust) -> Option<&str> {
    let key = chosen.fingerprint.as_deref();
    key.filter(|_| !chosen.is_pinned())
}

/// Whether there is somebody to ask.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Waits until the contacts have to be read again.
async fn next_change_of_contacts(events: &mut Events) -> Outcome {
    loop {
        match events.next().await? {
            Event::Contacts => return Ok(()),
            event => still_online(&event)?,
        }
    }
}

/// An error when the event says that the connection ended.
///
/// # Errors
/// Codes 1 and 6.
pub fn still_online(event: &Event) -> Outcome {
    Ok(event.still_online()?)
}

/// The program that is the connection manager, for where D-Bus knows none: the one beside ours,
/// else ourselves.
fn service_program() -> Option<Program> {
    let own = std::env::current_exe().ok()?;
    let beside = own.with_file_name("telepathy-pneuma");
    if beside.is_file() {
        return Some(Program {
            path: beside,
            arguments: vec![],
        });
    }
    Some(Program {
        path: own,
        arguments: vec!["service".into()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stranger_s_key_is_pinned() {
        let trust = |level, key: Option<&str>| Trust {
            level,
            fingerprint: key.map(str::to_owned),
            ..Trust::default()
        };
        let (new, own) = (client::TrustLevel::Unpinned, client::TrustLevel::Pinned);
        assert_eq!(key_to_pin(&trust(new, Some("aa"))), Some("aa"));
        assert_eq!(key_to_pin(&trust(own, Some("aa"))), None);
        assert_eq!(key_to_pin(&trust(client::TrustLevel::NoKey, None)), None);
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        for yes in ["y\n", "YES", " Yes \n"] {
            assert!(is_yes(yes), "{yes}");
        }
        for no in ["", "\n", "n", "yy", "ja", "yes please"] {
            assert!(!is_yes(no), "{no}");
        }
    }

    #[test]
    fn an_ended_connection_is_an_error() {
        let status = |status| Event::Status { status, reason: 0 };
        assert!(still_online(&status(0)).is_ok());
        assert!(still_online(&Event::Contacts).is_ok());
        assert_eq!(
            still_online(&status(2)).map_err(|failure| failure.exit_code()),
            Err(1)
        );
        assert_eq!(
            still_online(&Event::ServiceGone).map_err(|failure| failure.exit_code()),
            Err(6)
        );
    }
}
