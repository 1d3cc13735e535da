//! The session bus, or the service's own socket where there is none; and remote objects on it: every
//! call has a deadline and ends in our own error.

use std::{fmt, os::unix::net::UnixStream, path::Path, sync::Arc, time::Duration};

use actors::{
    endpoint::is_there_and_private,
    runtime::{Clock, Spawner},
};
use serde::{Serialize, de::DeserializeOwned};
use zbus::{DynamicType, OwnedObjectPath, OwnedVariant, Type, connection::Builder};

use super::{
    connection::Connection,
    error::{Error, Kind, Result},
};
use crate::{names, place, runtime::OurRuntime};

/// How long one method call may take. The service bounds what it does on the network well below
/// this, so whoever runs into it talks to a service that hangs.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

/// How long the bus itself may take to let us in.
const BUS_DEADLINE: Duration = Duration::from_secs(10);

/// The session bus, or a connection with the service alone ([`Bus::is_private`]). Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    connection: zbus::Connection,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("name", &self.connection.unique_name())
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Connects to the session bus.
    ///
    /// # Errors
    /// [`Kind::NoBus`].
    pub async fn session(spawner: Spawner, clock: Arc<dyn Clock>) -> Result<Self> {
        Bus::build(Builder::session(), spawner, clock).await
    }

    /// Connects to the bus at a D-Bus address.
    ///
    /// # Errors
    /// [`Kind::NoBus`].
    pub async fn at(address: &str, spawner: Spawner, clock: Arc<dyn Clock>) -> Result<Self> {
        Bus::build(Builder::address(address), spawner, clock).await
    }

    /// Connects to the service's own socket, as it is found at [`place::private_socket`].
    ///
    /// # Errors
    /// [`Kind::NoService`] when nobody serves there, [`Kind::PermissionDenied`] when somebody else
    /// does.
    pub async fn private(socket: &Path, spawner: Spawner, clock: Arc<dyn Clock>) -> Result<Self> {
        let shown = socket.display();
        let nobody = |why: String| {
            Error::new(
                Kind::NoService,
                format!("no connection manager answers at {shown}: {why}"),
            )
        };
        // Where others may put something, a link to some other socket of ours could wait for us.
        let folder = socket.parent().unwrap_or(Path::new("/"));
        match is_there_and_private(folder) {
            Ok(true) => {}
            Ok(false) => return Err(nobody("there is no such folder".into())),
            Err(error) => return Err(Error::new(Kind::PermissionDenied, error.to_string())),
        }
        // Connected at once or not at all.
        let stream = UnixStream::connect(socket).map_err(|error| nobody(error.to_string()))?;
        // Whoever listens there hears all we say.
        let server = rustix::net::sockopt::socket_peercred(&stream)
            .map_err(|error| nobody(error.to_string()))?;
        if server.uid.as_raw() != place::own_uid() {
            return Err(Error::new(
                Kind::PermissionDenied,
                format!("the program that answers at {shown} is another user's"),
            ));
        }
        let late = nobody("it says nothing".into());
        let connection = within(&clock, BUS_DEADLINE, late, async {
            Builder::unix_stream(stream)
                .p2p()
                .runtime(OurRuntime::new(spawner.clone()))
                .build()
                .await
                .map_err(|error| nobody(error.to_string()))
        })
        .await?;
        Ok(Bus {
            connection,
            spawner,
            clock,
        })
    }

    /// Where a profile's account is to be had: the session bus, if it is online there; the service's
    /// own socket, if it is online there, which a login without a bus may have left, or if no service
    /// runs on the session bus; else the session bus. `None` where there is neither.
    ///
    /// # Errors
    /// [`Kind::NoBus`] when the environment names a bus that does not work.
    pub async fn find(
        profile: &str,
        spawner: Spawner,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>> {
        let Some(address) = place::session_bus() else {
            return match Bus::private(&place::private_socket(), spawner, clock).await {
                Ok(private) => Ok(Some(private)),
                Err(error) if error.kind == Kind::NoService => Ok(None),
                Err(error) => Err(error),
            };
        };
        let bus = Bus::at(&address, spawner.clone(), clock.clone()).await?;
        let runs = super::is_running(&bus).await?;
        if runs && Connection::of_profile(&bus, profile).await?.is_some() {
            return Ok(Some(bus));
        }
        // What cannot be used there is in nobody's way: there is the bus.
        let Ok(private) = Bus::private(&place::private_socket(), spawner, clock).await else {
            return Ok(Some(bus));
        };
        let its_own =
            !runs || matches!(Connection::of_profile(&private, profile).await, Ok(Some(_)));
        Ok(Some(if its_own { private } else { bus }))
    }

    /// Everywhere that a service can be reached now: the session bus, and the service's own socket.
    ///
    /// # Errors
    /// As [`Bus::find`].
    pub async fn all(spawner: Spawner, clock: Arc<dyn Clock>) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        if let Some(address) = place::session_bus() {
            all.push(Bus::at(&address, spawner.clone(), clock.clone()).await?);
        }
        match Bus::private(&place::private_socket(), spawner, clock).await {
            Ok(private) => all.push(private),
            Err(error) if error.kind == Kind::NoService || !all.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(all)
    }

    /// Whether this is a connection with the service alone, without a bus between.
    pub fn is_private(&self) -> bool {
        !self.connection.is_bus()
    }

    async fn build(builder: Builder<'_>, spawner: Spawner, clock: Arc<dyn Clock>) -> Result<Self> {
        let late = Error::new(Kind::NoBus, "the session bus does not answer");
        let connection = within(&clock, BUS_DEADLINE, late, async {
            builder
                .runtime(OurRuntime::new(spawner.clone()))
                .build()
                .await
                .map_err(|error| match Error::from(error) {
                    error if error.kind == Kind::NoBus => error,
                    error => Error::new(
                        Kind::NoBus,
                        format!("the session bus cannot be used: {error}"),
                    ),
                })
        })
        .await?;
        Ok(Bus {
            connection,
            spawner,
            clock,
        })
    }

    /// The bus library's own connection.
    pub fn connection(&self) -> &zbus::Connection {
        &self.connection
    }

    /// The clock everything here goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Where tasks are started.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// An object of somebody on the bus.
    pub fn remote(&self, destination: impl Into<String>, path: OwnedObjectPath) -> Remote {
        Remote {
            bus: self.clone(),
            destination: destination.into(),
            path,
        }
    }

    /// The bus itself.
    fn daemon(&self) -> Result<Remote> {
        Ok(self.remote("org.freedesktop.DBus", path("/org/freedesktop/DBus")?))
    }

    /// Calls a method of the bus itself.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn call_daemon<B, R>(&self, member: &str, body: &B) -> Result<R>
    where
        B: Serialize + DynamicType + Sync,
        R: DeserializeOwned + Type,
    {
        self.daemon()?
            .call("org.freedesktop.DBus", member, body)
            .await
    }

    /// Who owns a name, as its unique name. Without a bus, the service has its name and those of its
    /// connections, and is called nothing.
    ///
    /// # Errors
    /// What the bus answers, other than that nobody does.
    pub async fn owner(&self, name: &str) -> Result<Option<String>> {
        if self.is_private() {
            let has = name == names::MANAGER_BUS_NAME
                || self.connection_names().await?.iter().any(|has| has == name);
            return Ok(has.then(String::new));
        }
        match self.call_daemon("GetNameOwner", &name).await {
            Ok(owner) => Ok(Some(owner)),
            Err(error) if error.kind == Kind::NoService => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the bus library says. Without a bus, the end of the connection is the service's.
    pub(super) fn failure(&self, error: zbus::Error) -> Error {
        match Error::from(error) {
            error if error.kind == Kind::NoBus && self.is_private() => {
                Error::new(Kind::ServiceGone, "the connection manager has ended")
            }
            error => error,
        }
    }

    /// The names of all connections that our connection manager has on the bus.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn connection_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = if self.is_private() {
            let listed: Vec<(String, OwnedObjectPath)> = self
                .remote(names::MANAGER_BUS_NAME, path(names::MANAGER_PATH)?)
                .get(names::MANAGER_CONNECTIONS, "Connections")
                .await?;
            listed.into_iter().map(|(name, _)| name).collect()
        } else {
            self.call_daemon("ListNames", &()).await?
        };
        names.retain(|name| name.starts_with(names::CONNECTION_PREFIX));
        names.sort();
        Ok(names)
    }
}

/// One object of somebody on the bus. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    bus: Bus,
    destination: String,
    path: OwnedObjectPath,
}

impl Remote {
    /// The bus it is on.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Its object path.
    pub fn path(&self) -> &OwnedObjectPath {
        &self.path
    }

    /// The name it is reached under.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// What the bus library says of a call.
    fn failure(&self, error: zbus::Error) -> Error {
        if went_offline(&self.destination, &self.path, &error) {
            return Error::new(Kind::ServiceGone, "the account went offline meanwhile");
        }
        self.bus.failure(error)
    }

    /// Calls a method and waits, up to a deadline, for its answer.
    ///
    /// # Errors
    /// What the object answers; [`Kind::TimedOut`]; [`Kind::BadAnswer`] when the answer has
    /// another signature than `R`.
    pub async fn call<B, R>(&self, interface: &str, member: &str, body: &B) -> Result<R>
    where
        B: Serialize + DynamicType + Sync,
        R: DeserializeOwned + Type,
    {
        let late = Error::new(
            Kind::TimedOut,
            format!("the service did not answer {member} in time"),
        );
        let call = async {
            let reply = self
                .bus
                .connection
                .call_method(
                    Some(self.destination.as_str()),
                    &self.path,
                    Some(interface),
                    member,
                    body,
                )
                .await
                .map_err(|error| self.failure(error))?;
            Ok(reply.body().deserialize::<R>()?)
        };
        within(&self.bus.clock, CALL_DEADLINE, late, call).await
    }

    /// Reads one property.
    ///
    /// # Errors
    /// As [`Remote::call`].
    pub async fn get<T>(&self, interface: &str, property: &str) -> Result<T>
    where
        T: TryFrom<OwnedVariant>,
    {
        let value: OwnedVariant = self
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(interface, property),
            )
            .await?;
        T::try_from(value).map_err(|_| {
            Error::new(
                Kind::BadAnswer,
                format!("the property {interface}.{property} has another type than expected"),
            )
        })
    }
}

/// Whether an account went offline, or the service ended, after we had found its connection. That nobody has
/// its name does not mean that there is no service; and its object may go while it has the name.
fn went_offline(destination: &str, path: &str, error: &zbus::Error) -> bool {
    use zbus::DBusError as _;
    let name = match error {
        zbus::Error::MethodError(name, ..) => name.to_string(),
        // So the library gives those of the bus's own that it knows.
        zbus::Error::FDO(error) => error.name().to_string(),
        _ => return false,
    };
    if !destination.starts_with(names::CONNECTION_PREFIX) {
        return false;
    }
    match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some("ServiceUnknown" | "NameHasNoOwner") => true,
        // The connection's own: that a channel is gone says nothing of the account.
        Some("UnknownObject") => path.strip_prefix('/') == Some(&destination.replace('.', "/")),
        _ => false,
    }
}

/// An object path that is known to be one.
pub(super) fn path(text: &str) -> Result<OwnedObjectPath> {
    OwnedObjectPath::try_from(text).map_err(Error::from)
}

/// Waits for `future`, at most `duration`.
pub(super) async fn within<T>(
    clock: &Arc<dyn Clock>,
    duration: Duration,
    late: Error,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    actors::runtime::within(&**clock, duration, future)
        .await
        .unwrap_or(Err(late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_went_offline_is_not_a_missing_service() {
        let manager = names::MANAGER_BUS_NAME;
        let (name, connection) = (
            format!("{}ada", names::CONNECTION_PREFIX),
            "/org/freedesktop/Telepathy/Connection/pneuma/local_xmpp/ada",
        );
        let channel = format!("{connection}/FileTransfer1");
        for (destination, path, error, offline) in [
            (&*name, connection, "ServiceUnknown", true),
            (&name, connection, "NameHasNoOwner", true),
            (&name, connection, "UnknownObject", true),
            (&name, &channel, "ServiceUnknown", true),
            (&name, &channel, "UnknownObject", false),
            (&name, connection, "UnknownMethod", false),
            (manager, names::MANAGER_PATH, "ServiceUnknown", false),
            (manager, names::MANAGER_PATH, "UnknownObject", false),
        ] {
            let call = zbus::Message::method_call(path, "Ask");
            let call = call.build(&()).unwrap();
            let name = format!("org.freedesktop.DBus.Error.{error}");
            let answer = zbus::Message::error(&call.header(), name);
            // As the library understands it.
            let said = zbus::Error::from(answer.build(&"why").unwrap());
            let (error, path) = (format!("{path}: {error}"), super::path(path).unwrap());
            assert_eq!(went_offline(destination, &path, &said), offline, "{error}");
        }
    }
}
