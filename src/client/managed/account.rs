//! An account of ours that Mission Control manages: found, brought online, let go again.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use futures_lite::StreamExt as _;
use zbus::{MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Variant, message};

use super::{Handler, Wish};
use crate::{
    client::{
        bus::{Bus, Remote, path, within},
        connection::Connection,
        contact::{dictionary, text},
        error::{Error, Kind, Result},
        queue::Queue,
        tube::TubeKind,
    },
    names,
};

/// How long Mission Control may take to let go of a connection.
const OFFLINE_DEADLINE: Duration = Duration::from_secs(10);
/// `Connection_Presence_Type` Offline.
const OFFLINE: u32 = 1;
/// `Connection_Status` Connected.
const CONNECTED: u32 = 0;
/// `Connection_Status` Connecting.
const CONNECTING: u32 = 1;
/// `Connection_Status` Disconnected.
const DISCONNECTED: u32 = 2;

/// `Simple_Presence`
type Presence = (u32, String, String);

/// See the module's head. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ManagedAccount {
    remote: Remote,
    /// Numbers the Handlers of this program.
    pub(super) handlers: Arc<AtomicU64>,
}

/// What a program waits for from before the account is online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// A tube of this contact, by its id, for this service.
    Tube(&'a str, TubeKind, &'a str),
    /// Files of anybody, or of this contact, by its id.
    Files(Option<&'a str>),
}

impl Expected<'_> {
    fn wish(self) -> Wish {
        match self {
            Expected::Tube(contact, kind, service) => Wish::offered(contact, kind, service),
            Expected::Files(contact) => Wish::files(contact),
        }
    }
}

/// What an account is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    enabled: bool,
    profile: String,
    /// Its connection's object path, while it has one.
    connection: Option<String>,
    status: u32,
    changing: bool,
    requested: Presence,
    automatic: Presence,
    error: Option<Error>,
}

impl ManagedAccount {
    /// The account of a profile, if Mission Control has one that is complete and enabled. With `start`,
    /// has the bus start Mission Control where it is installed and does not run.
    ///
    /// # Errors
    /// What the bus and Mission Control answer.
    pub async fn of_profile(bus: &Bus, profile: &str, start: bool) -> Result<Option<Self>> {
        if !runs(bus, start).await? {
            return Ok(None);
        }
        let manager = bus.remote(names::ACCOUNT_MANAGER, path(names::ACCOUNT_MANAGER_PATH)?);
        let valid: OwnedVariant = manager
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(names::ACCOUNT_MANAGER, "ValidAccounts"),
            )
            .await?;
        for object in ours(&valid)? {
            let account = ManagedAccount {
                remote: bus.remote(names::ACCOUNT_MANAGER, object),
                handlers: Arc::default(),
            };
            match account.state().await {
                Ok(state) if state.enabled && state.profile == profile => return Ok(Some(account)),
                Ok(_) => {}
                // It was removed since it was listed.
                Err(error) if matches!(error.kind, Kind::NotAvailable | Kind::NotImplemented) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Its object path.
    pub fn path(&self) -> &OwnedObjectPath {
        self.remote.path()
    }

    /// The bus it is on.
    pub fn bus(&self) -> &Bus {
        self.remote.bus()
    }

    /// Whether it is this account that has, or is about to have, the profile's connection. It is not
    /// when somebody talked to the connection manager behind Mission Control's back.
    ///
    /// # Errors
    /// What Mission Control answers.
    pub async fn has(&self, connection: Option<&Connection>) -> Result<bool> {
        let Some(connection) = connection else {
            return Ok(true);
        };
        let state = self.state().await?;
        Ok(state.status == CONNECTING || state.connection.as_deref() == Some(connection.path()))
    }

    /// Brings it online unless it is, and waits until it is; gives whether it was offline before. It
    /// gets the presence that its user wants for that.
    ///
    /// What is `expected` may be on its way as soon as we are online, and Mission Control closes what
    /// nobody waits for: so the Handler for it is there before.
    ///
    /// # Errors
    /// Why it did not get online; [`Kind::TimedOut`].
    pub async fn go_online(
        &self,
        deadline: Duration,
        expected: Option<Expected<'_>>,
    ) -> Result<(Connection, bool)> {
        let early = match expected {
            Some(expected) => Some(Handler::register(self, expected.wish()).await?),
            None => None,
        };
        let mut changes = self.changes().await?;
        let before = self.state().await?;
        if !before.wanted() {
            self.request(&before.automatic).await?;
        }
        let late = Error::new(
            Kind::TimedOut,
            format!(
                "Mission Control did not bring the account online within {} seconds; it waits for a default route to somewhere, unless `gsettings set im.telepathy.MissionControl.FromEmpathy use-conn false` tells it not to",
                deadline.as_secs()
            ),
        );
        let connection = within(self.bus().clock(), deadline, late, async {
            loop {
                let state = self.state().await?;
                match state {
                    State {
                        status: CONNECTED,
                        connection: Some(object),
                        ..
                    } => return Connection::at(self.bus(), &object),
                    // An old failure is forgotten as soon as a presence is requested.
                    State {
                        status: DISCONNECTED,
                        changing: false,
                        error: Some(error),
                        ..
                    } => return Err(error),
                    _ => next(&mut changes).await?,
                }
            }
        })
        .await?;
        let connection = connection.managed_by(self.clone(), early);
        Ok((connection, !before.wanted()))
    }

    /// Takes it offline and waits until it is.
    ///
    /// # Errors
    /// What Mission Control answers; [`Kind::TimedOut`].
    pub async fn go_offline(&self) -> Result<()> {
        let mut changes = self.changes().await?;
        self.request(&(OFFLINE, "offline".into(), String::new()))
            .await?;
        let late = Error::new(
            Kind::TimedOut,
            "Mission Control did not take the account offline in time",
        );
        within(self.bus().clock(), OFFLINE_DEADLINE, late, async {
            // Not by the status: an account that Mission Control keeps offline for want of a network stays
            // Connecting, without a connection.
            while self.state().await?.connection.is_some() {
                next(&mut changes).await?;
            }
            Ok(())
        })
        .await
    }

    async fn request(&self, presence: &Presence) -> Result<()> {
        self.remote
            .call(
                "org.freedesktop.DBus.Properties",
                "Set",
                &(
                    names::ACCOUNT,
                    "RequestedPresence",
                    Variant::from(presence.clone()),
                ),
            )
            .await
    }

    async fn state(&self) -> Result<State> {
        let map: HashMap<String, OwnedVariant> = self
            .remote
            .call("org.freedesktop.DBus.Properties", "GetAll", &names::ACCOUNT)
            .await?;
        Ok(State::from_map(&map))
    }

    /// Each `AccountPropertyChanged` from now on.
    async fn changes(&self) -> Result<MessageStream> {
        let bus = self.bus();
        let owner = bus.owner(names::ACCOUNT_MANAGER).await?.ok_or_else(gone)?;
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(owner.as_str())
            .path(self.remote.path())
            .interface(names::ACCOUNT)
            .member("AccountPropertyChanged")
            .build()?;
        Ok(MessageStream::for_match_rule(rule, bus.connection(), None).await?)
    }
}

impl State {
    /// What is missing or of another type is what an account that is offline has.
    fn from_map(map: &HashMap<String, OwnedVariant>) -> Self {
        let flag = |name: &str| matches!(map.get(name).map(|v| &**v), Some(Variant::Bool(true)));
        let inner = |name: &str| map.get(name).and_then(|value| dictionary(value));
        let presence = |name: &str, fallback: (u32, &str)| {
            if let Some(Variant::Structure(presence)) = map.get(name).map(|value| &**value)
                && let [
                    Variant::U32(kind),
                    Variant::Str(word),
                    Variant::Str(message),
                ] = presence.fields()
            {
                return (*kind, word.as_str().to_owned(), message.as_str().to_owned());
            }
            (fallback.0, fallback.1.to_owned(), String::new())
        };
        let connection = match map.get("Connection").map(|value| &**value) {
            Some(Variant::ObjectPath(path)) if path.as_str() != "/" => Some(path.to_string()),
            _ => None,
        };
        let error = text(map, "ConnectionError").filter(|name| !name.is_empty());
        State {
            enabled: flag("Enabled"),
            profile: inner("Parameters")
                .and_then(|parameters| text(&parameters, "pneuma-profile"))
                .unwrap_or_else(|| "default".to_owned()),
            connection,
            status: match map.get("ConnectionStatus").map(|value| &**value) {
                Some(Variant::U32(status)) => *status,
                _ => DISCONNECTED,
            },
            changing: flag("ChangingPresence"),
            requested: presence("RequestedPresence", (OFFLINE, "offline")),
            automatic: presence("AutomaticPresence", (2, "available")),
            error: error.map(|name| {
                let details = inner("ConnectionErrorDetails").unwrap_or_default();
                let message = text(&details, "debug-message").unwrap_or_default();
                Error::from_reply(&name, &message)
            }),
        }
    }

    /// Whether somebody wants it online, whether it is yet or not.
    fn wanted(&self) -> bool {
        self.requested.0 > OFFLINE
    }
}

/// Our part in keeping an account online. Several programs may use an account that one of them brought
/// online; the last to go takes it offline. An account that nobody queues for was brought online by
/// its user, or by `--detach`, and stays; so does one whose last program was killed, since Mission
/// Control shows it to its user and other programs may use it.
#[derive(Debug)]
#[must_use = "a stay that is not ended keeps its place until the program ends"]
pub struct Stay {
    account: ManagedAccount,
    queue: Queue,
}

impl Stay {
    /// Before the account is brought online: begins its queue if it is offline, joins it if there is one.
    ///
    /// # Errors
    /// What the bus and Mission Control answer.
    pub async fn begin(account: &ManagedAccount) -> Result<Option<Stay>> {
        let object = account.path().as_str();
        let its = object
            .strip_prefix(names::ACCOUNT_PREFIX)
            .unwrap_or("account");
        let name = format!("{}{its}", names::STAY_PREFIX);
        let queue = if account.state().await?.wanted() {
            Queue::join(account.bus(), name).await?
        } else {
            Some(Queue::begin(account.bus(), name).await?)
        };
        Ok(queue.map(|queue| Stay {
            account: account.clone(),
            queue,
        }))
    }

    /// Takes the account offline if we are the last, and if nobody has set another presence meanwhile,
    /// which says that its user wants it online.
    ///
    /// # Errors
    /// What the bus and Mission Control answer.
    pub async fn end(self) -> Result<()> {
        if self.queue.release().await? {
            let state = self.account.state().await?;
            if state.wanted() && state.requested == state.automatic {
                return self.account.go_offline().await;
            }
        }
        Ok(())
    }

    /// Leaves the account online for what needs it after us.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn leave(self) -> Result<()> {
        self.queue.release().await.map(drop)
    }
}

/// Whether Mission Control runs, or does now.
async fn runs(bus: &Bus, start: bool) -> Result<bool> {
    if !bus.connection().is_bus() {
        return Ok(false);
    }
    if bus.owner(names::ACCOUNT_MANAGER).await?.is_some() {
        return Ok(true);
    }
    let known: Vec<String> = bus.call_daemon("ListActivatableNames", &()).await?;
    if !start || !known.iter().any(|name| name == names::ACCOUNT_MANAGER) {
        return Ok(false);
    }
    let started: Result<u32> = bus
        .call_daemon("StartServiceByName", &(names::ACCOUNT_MANAGER, 0u32))
        .await;
    match started {
        Ok(_) => Ok(true),
        Err(error) => {
            // It manages nothing then, and the connection manager works without.
            tracing::debug!(%error, "Mission Control could not be started");
            Ok(false)
        }
    }
}

/// Those of the accounts that use our connection manager, by path.
fn ours(accounts: &Variant<'_>) -> Result<Vec<OwnedObjectPath>> {
    let Variant::Array(accounts) = accounts else {
        return Err(Error::new(
            Kind::BadAnswer,
            "Mission Control's list of accounts cannot be understood",
        ));
    };
    let mut paths: Vec<OwnedObjectPath> = accounts
        .iter()
        .filter_map(|account| match account {
            Variant::ObjectPath(path) => Some(path.to_owned().into()),
            _ => None,
        })
        .filter(|path: &OwnedObjectPath| path.as_str().starts_with(names::ACCOUNT_PREFIX))
        .collect();
    paths.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    Ok(paths)
}

async fn next(changes: &mut MessageStream) -> Result<()> {
    changes
        .next()
        .await
        .ok_or_else(|| Error::new(Kind::NoBus, "the session bus is gone"))??;
    Ok(())
}

fn gone() -> Error {
    Error::new(Kind::ServiceGone, "Mission Control is no longer on the bus")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(value: impl Into<Variant<'static>>) -> OwnedVariant {
        OwnedVariant::try_from(value.into()).expect("no descriptors in it")
    }

    fn online() -> HashMap<String, OwnedVariant> {
        let object = zbus::ObjectPath::try_from("/a/b").expect("a path");
        HashMap::from([
            ("Enabled".to_owned(), owned(true)),
            ("Connection".to_owned(), owned(object)),
            ("ConnectionStatus".to_owned(), owned(0u32)),
            (
                "RequestedPresence".to_owned(),
                owned((6u32, "dnd", "not now")),
            ),
            ("AutomaticPresence".to_owned(), owned((3u32, "away", ""))),
            (
                "Parameters".to_owned(),
                owned(HashMap::from([("pneuma-profile", Variant::from("work"))])),
            ),
        ])
    }

    #[test]
    fn an_account_is_read_from_its_properties() {
        let state = State::from_map(&online());
        assert!(state.enabled && state.wanted() && !state.changing);
        assert_eq!((state.status, state.profile.as_str()), (0, "work"));
        assert_eq!(state.connection.as_deref(), Some("/a/b"));
        assert_eq!(state.requested, (6, "dnd".into(), "not now".into()));
        assert_eq!(state.automatic, (3, "away".into(), String::new()));
        assert_eq!(state.error, None);
    }

    #[test]
    fn what_is_missing_or_of_another_type_is_offline() {
        let nothing = State::from_map(&HashMap::new());
        let odd = HashMap::from(
            ["Enabled", "Connection", "ConnectionStatus", "Parameters"]
                .map(|name| (name.to_owned(), owned("odd"))),
        );
        assert_eq!(State::from_map(&odd), nothing);
        assert!(!nothing.enabled && !nothing.wanted());
        assert_eq!((nothing.status, nothing.connection), (2, None));
        assert_eq!(nothing.profile, "default");
        assert_eq!(nothing.automatic, (2, "available".into(), String::new()));
    }

    #[test]
    fn why_it_is_offline_is_said_in_mission_control_s_words() {
        let mut map = online();
        map.insert(
            "ConnectionError".to_owned(),
            owned("org.freedesktop.Telepathy.Error.NotAvailable"),
        );
        map.insert(
            "ConnectionErrorDetails".to_owned(),
            owned(HashMap::from([(
                "debug-message",
                Variant::from("the profile is in use"),
            )])),
        );
        assert_eq!(
            State::from_map(&map).error,
            Some(Error::new(Kind::NotAvailable, "the profile is in use"))
        );
    }

    #[test]
    fn only_accounts_of_our_connection_manager_are_ours() {
        let paths = [
            "gabble/jabber/a0",
            "pneuma/local_xmpp/b1",
            "pneuma/local_xmpp/a0",
        ]
        .map(|account| {
            let object = format!("/org/freedesktop/Telepathy/Account/{account}");
            zbus::ObjectPath::try_from(object).expect("a path")
        });
        let found = ours(&Variant::from(paths.to_vec())).expect("a list");
        let found: Vec<&str> = found.iter().map(|path| path.as_str()).collect();
        assert_eq!(
            found,
            ["a0", "b1"].map(|name| format!("{}{name}", names::ACCOUNT_PREFIX))
        );
        assert!(ours(&Variant::from("none")).is_err());
    }
}
