//! One person: a bus, directories, a connection manager and a client's view of it.

use std::{
    collections::HashMap,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::{Bus, CallError, Event, Events, PATIENCE, Process, Usage, name};

/// The connection manager's name on the bus.
pub const CM_NAME: &str = "org.freedesktop.Telepathy.ConnectionManager.pneuma";
/// The connection manager's object.
pub const CM_PATH: &str = "/org/freedesktop/Telepathy/ConnectionManager/pneuma";

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// What isolates one test's people from everybody else's: a multicast DNS port.
pub struct World {
    port: u16,
}

impl World {
    /// A port nobody has now. Kept by nobody either, but the kernel gives out another the next time.
    ///
    /// # Panics
    /// When the kernel has no free port.
    pub fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free UDP port");
        World {
            port: socket.local_addr().expect("its address").port(),
        }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}

/// How a person's connection manager and account differ from the usual.
#[derive(Clone, Default)]
pub struct Options {
    /// More environment variables of the connection manager.
    pub environment: Vec<(String, String)>,
    /// Allow peers without encryption.
    pub plaintext: bool,
    /// Which ways bytestreams may go, where not all may.
    pub bytestreams: Option<&'static str>,
}

/// See the module's head.
pub struct Person {
    name: String,
    port: u16,
    options: Options,
    service: PathBuf,
    manager: Mutex<Option<Process>>,
    connection: Mutex<Option<(String, OwnedObjectPath)>>,
    events: Events,
    bus: Bus,
    dir: tempfile::TempDir,
}

impl Person {
    /// A person with a running connection manager and no account online.
    ///
    /// # Panics
    /// When the bus or the connection manager does not come up.
    pub fn new(world: &World, name: &str, service: &Path) -> Self {
        Person::with(world, name, service, Options::default())
    }

    /// The same, with other options.
    ///
    /// # Panics
    /// When the bus or the connection manager does not come up.
    pub fn with(world: &World, name: &str, service: &Path, options: Options) -> Self {
        // Not under a long path: what Unix sockets are called has 107 bytes.
        let dir = tempfile::Builder::new()
            .prefix("pneuma-")
            .tempdir_in("/tmp")
            .expect("a temporary directory");
        for part in ["run", "state", "config", "data", "home"] {
            let path = dir.path().join(part);
            std::fs::create_dir(&path).expect("a person's directory");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            std::fs::set_permissions(&path, mode).expect("a person's directory, private");
        }
        let mut environment = directories(dir.path());
        environment.extend(options.environment.iter().cloned());
        let bus = Bus::start(dir.path(), &environment);
        let events = Events::of(bus.connection());
        let person = Person {
            name: name.to_owned(),
            port: world.port(),
            options,
            service: service.to_owned(),
            manager: Mutex::new(None),
            connection: Mutex::new(None),
            events,
            bus,
            dir,
        };
        // Everything the connection manager says, on every object.
        person
            .bus
            .call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "AddMatch",
                &"type='signal'",
            )
            .expect("a match for all signals");
        person.start_manager();
        person
    }

    /// A person who is online.
    ///
    /// # Panics
    /// When the account does not come online.
    pub fn online(world: &World, name: &str, service: &Path) -> Self {
        let person = Person::new(world, name, service);
        person.go_online();
        person
    }

    /// Two people who are online and see each other.
    ///
    /// # Panics
    /// When they do not come to that.
    pub fn alice_and_bob(service: &Path) -> (Self, Self) {
        let world = World::new();
        let alice = Person::online(&world, "alice", service);
        let bob = Person::online(&world, "bob", service);
        alice.sees(&bob);
        bob.sees(&alice);
        (alice, bob)
    }

    /// Starts the connection manager and waits for its name.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_manager(&self) {
        let mut command = Command::new(&self.service);
        command
            .arg("--persist")
            .env("DBUS_SESSION_BUS_ADDRESS", self.bus.address())
            .envs(self.environment());
        let process = Process::start(&self.name, &mut command);
        *self.manager.lock().expect("the manager's lock") = Some(process);
        self.until("the connection manager has its name", || {
            self.has_owner(CM_NAME).then_some(())
        });
    }

    /// Kills the connection manager without a warning (SIGKILL) and waits until its name is gone.
    ///
    /// # Panics
    /// When none runs.
    pub fn kill_manager(&self) {
        let process = self.manager.lock().expect("the manager's lock").take();
        drop(process.expect("a running connection manager"));
        *self.connection.lock().expect("the connection's lock") = None;
        self.until("the connection manager's name is gone", || {
            (!self.has_owner(CM_NAME)).then_some(())
        });
    }

    /// Ends the connection manager in order (SIGTERM).
    ///
    /// # Panics
    /// When none runs or it does not end.
    pub fn stop_manager(&self) -> std::process::ExitStatus {
        let process = self.manager.lock().expect("the manager's lock").take();
        *self.connection.lock().expect("the connection's lock") = None;
        process
            .expect("a running connection manager")
            .terminate(PATIENCE)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bus.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The signals.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// A directory that vanishes with the person; short enough for sockets.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What a program of this person has in its environment, the bus's address too.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = directories(self.dir.path());
        environment.push((
            "DBUS_SESSION_BUS_ADDRESS".into(),
            self.bus.address().to_owned(),
        ));
        environment.extend(self.options.environment.iter().cloned());
        environment
    }

    /// A program of this person's, not started. Where it brings the account online, it is
    /// [`Person::parameters`]'.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_remove("NO_COLOR")
            .envs(self.environment())
            .env("PNEUMA_NAME", &self.name)
            .env("PNEUMA_INTERFACE", "lo")
            .env("PNEUMA_MDNS_PORT", self.port.to_string())
            .current_dir(self.dir());
        command
    }

    /// The connection manager's process id.
    ///
    /// # Panics
    /// When none runs.
    pub fn manager_id(&self) -> u32 {
        let manager = self.manager.lock().expect("the manager's lock");
        manager.as_ref().expect("a running connection manager").id()
    }

    /// What the connection manager uses now.
    ///
    /// # Panics
    /// When none runs.
    pub fn usage(&self) -> Usage {
        Usage::of(self.manager_id())
    }

    /// What the connection manager wrote.
    pub fn output(&self) -> String {
        let manager = self.manager.lock().expect("the manager's lock");
        manager.as_ref().map(Process::output).unwrap_or_default()
    }

    /// The account's parameters.
    pub fn parameters(&self) -> HashMap<&'static str, Variant<'static>> {
        let mut parameters = HashMap::from([
            ("published-name", Variant::from(self.name.clone())),
            ("pneuma-interface", Variant::from("lo")),
            ("pneuma-mdns-port", Variant::from(self.port)),
            ("require-encryption", Variant::from(!self.options.plaintext)),
        ]);
        if let Some(ways) = self.options.bytestreams {
            parameters.insert("pneuma-bytestreams", Variant::from(ways));
        }
        parameters
    }

    /// Requests the Connection, without connecting it.
    ///
    /// # Errors
    /// What RequestConnection answers.
    ///
    /// # Panics
    /// When the answer is not what the specification says.
    pub fn request_connection(
        &self,
        parameters: HashMap<&'static str, Variant<'static>>,
    ) -> Result<(String, OwnedObjectPath), CallError> {
        let answer = self.bus.call(
            CM_NAME,
            CM_PATH,
            name::CONNECTION_MANAGER,
            "RequestConnection",
            &("local-xmpp", parameters),
        )?;
        let made: (String, OwnedObjectPath) = answer
            .body()
            .deserialize()
            .expect("a bus name and an object path");
        Ok(made)
    }

    /// Requests the Connection, connects it and waits until it is Connected.
    ///
    /// # Panics
    /// When it does not get there.
    pub fn go_online(&self) {
        let (bus_name, path) = self
            .request_connection(self.parameters())
            .unwrap_or_else(|error| self.fail(&format!("RequestConnection: {error}")));
        *self.connection.lock().expect("the connection's lock") = Some((bus_name, path.clone()));
        self.on_connection(name::CONNECTION, "Connect", &())
            .unwrap_or_else(|error| self.fail(&format!("Connect: {error}")));
        self.wait_for("StatusChanged(Connected)", |event| {
            let here = event.member == "StatusChanged" && event.path == path.as_str();
            let (status, _reason): (u32, u32) = here.then(|| event.arguments())??;
            (status == 0).then_some(())
        });
    }

    /// Disconnects and waits for StatusChanged(Disconnected).
    ///
    /// # Panics
    /// When it does not get there.
    pub fn go_offline(&self) {
        let path = self.connection_path();
        self.on_connection(name::CONNECTION, "Disconnect", &())
            .unwrap_or_else(|error| self.fail(&format!("Disconnect: {error}")));
        self.wait_for("StatusChanged(Disconnected)", |event| {
            let here = event.member == "StatusChanged" && event.path == path;
            let (status, _reason): (u32, u32) = here.then(|| event.arguments())??;
            (status == 2).then_some(())
        });
        *self.connection.lock().expect("the connection's lock") = None;
    }

    /// The Connection's object path.
    ///
    /// # Panics
    /// When the account is not online.
    pub fn connection_path(&self) -> String {
        self.connection_names().1
    }

    /// The Connection's bus name.
    ///
    /// # Panics
    /// When the account is not online.
    pub fn connection_bus_name(&self) -> String {
        self.connection_names().0
    }

    fn connection_names(&self) -> (String, String) {
        let connection = self.connection.lock().expect("the connection's lock");
        let (bus_name, path) = connection.as_ref().expect("an account that is online");
        (bus_name.clone(), path.to_string())
    }

    /// Calls a method of the Connection object.
    ///
    /// # Errors
    /// What it answers.
    pub fn on_connection<B>(
        &self,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<zbus::Message, CallError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let (bus_name, path) = self.connection_names();
        self.bus.call(&bus_name, &path, interface, method, body)
    }

    /// Calls a method of any object of the connection manager.
    ///
    /// # Errors
    /// What it answers.
    pub fn on_object<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<zbus::Message, CallError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.bus.call(CM_NAME, path, interface, method, body)
    }

    /// Reads a property.
    ///
    /// # Errors
    /// What it answers.
    ///
    /// # Panics
    /// When the answer is no variant.
    pub fn property(
        &self,
        path: &str,
        interface: &str,
        property: &str,
    ) -> Result<OwnedVariant, CallError> {
        let answer = self.on_object(path, PROPERTIES, "Get", &(interface, property))?;
        Ok(answer.body().deserialize().expect("a variant"))
    }

    /// Whether somebody owns a name on the bus.
    ///
    /// # Panics
    /// When the bus does not answer.
    pub fn has_owner(&self, bus_name: &str) -> bool {
        self.bus
            .call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "NameHasOwner",
                &bus_name,
            )
            .expect("the bus's answer")
            .body()
            .deserialize()
            .expect("a boolean")
    }

    /// The objects the connection manager has below `path`, by introspection.
    ///
    /// # Panics
    /// When an object cannot be introspected.
    pub fn objects_below(&self, path: &str) -> Vec<String> {
        let answer = self
            .on_object(
                path,
                "org.freedesktop.DBus.Introspectable",
                "Introspect",
                &(),
            )
            .unwrap_or_else(|error| self.fail(&format!("Introspect {path}: {error}")));
        let xml: String = answer.body().deserialize().expect("introspection data");
        let mut all = Vec::new();
        // The nodes we are inside of: an answer may nest them.
        let mut parents = vec![path.trim_end_matches('/').to_owned()];
        let tags = xml.match_indices('<').map(|(place, _)| &xml[place..]);
        for tag in tags.filter_map(|rest| rest.split_inclusive('>').next()) {
            if let Some(rest) = tag.strip_prefix("<node name=\"") {
                let name = rest.split('"').next().unwrap_or_default();
                let child = format!("{}/{name}", parents.last().expect("the root"));
                all.push(child.clone());
                if !tag.ends_with("/>") {
                    parents.push(child);
                }
            } else if tag == "</node>" {
                parents.pop();
            }
        }
        all.sort();
        all
    }

    /// Files and sockets below the person's runtime and state directories.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.dir.path().join("run"), self.dir.path().join("state")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("a person's directory") {
                let entry = entry.expect("an entry");
                let kind = entry.file_type().expect("its type");
                if kind.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    /// Takes the first signal, past or to come, of which `find` makes something.
    ///
    /// # Panics
    /// When there is none in time, with everything that was seen instead.
    pub fn wait_for<T>(&self, what: &str, find: impl FnMut(&Event) -> Option<T>) -> T {
        self.events
            .take(PATIENCE, find)
            .unwrap_or_else(|seen| self.fail(&format!("waited for {what}; {seen}")))
    }

    /// Tries `attempt` now and after every signal until it gives something.
    ///
    /// # Panics
    /// When it does not in time, with everything that was seen instead.
    pub fn until<T>(&self, what: &str, attempt: impl FnMut() -> Option<T>) -> T {
        self.until_within(PATIENCE, what, attempt)
    }

    /// The same with another patience.
    ///
    /// # Panics
    /// When it does not in time, with everything that was seen instead.
    pub fn until_within<T>(
        &self,
        patience: Duration,
        what: &str,
        attempt: impl FnMut() -> Option<T>,
    ) -> T {
        self.events
            .until(patience, attempt)
            .unwrap_or_else(|seen| self.fail(&format!("waited until {what}; {seen}")))
    }

    /// Fails the test with what the connection manager wrote.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, why: &str) -> ! {
        panic!("{}: {why}\n{}", self.name, self.output());
    }
}

fn directories(dir: &Path) -> Vec<(String, String)> {
    let at = |part: &str| dir.join(part).display().to_string();
    vec![
        ("XDG_RUNTIME_DIR".into(), at("run")),
        ("XDG_STATE_HOME".into(), at("state")),
        ("XDG_CONFIG_HOME".into(), at("config")),
        ("XDG_DATA_HOME".into(), at("data")),
        ("HOME".into(), at("home")),
    ]
}
