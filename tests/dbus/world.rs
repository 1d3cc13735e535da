//! A service on a private bus, in this process, and a client's view of it.

use std::{collections::HashMap, sync::Arc, thread::JoinHandle, time::Duration};

use actors::{endpoint::EndpointConfig, runtime::SystemClock, supervisor::SystemSockets};
use futures_lite::future::block_on;
use pneuma::{End, Service};
use smol::Executor;
use support::{Bus, CM_NAME, CM_PATH, CallError, Event, Events, PATIENCE, name};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::fake::{FakeNetwork, FakeSession};

pub type Map = HashMap<String, OwnedVariant>;

/// See the module's head.
pub struct World {
    pub network: Arc<FakeNetwork>,
    pub service: Option<Arc<Service>>,
    pub events: Events,
    pub bus: Bus,
    stop: Option<async_channel::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
    pub dir: tempfile::TempDir,
    pub executor: Arc<Executor<'static>>,
}

/// A connection, as RequestConnection gives it.
pub struct Account<'w> {
    pub world: &'w World,
    pub bus_name: String,
    pub path: String,
    pub session: Arc<FakeSession>,
}

impl World {
    /// A service that stays.
    pub fn new() -> Self {
        World::with(|builder| builder.persist(true))
    }

    /// A service with other settings.
    pub fn with(settings: impl FnOnce(pneuma::Builder) -> pneuma::Builder) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pneuma-")
            .tempdir_in("/tmp")
            .unwrap();
        let bus = Bus::start(dir.path(), &[]);
        let events = Events::of(bus.connection());
        bus.call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "AddMatch",
            &"type='signal'",
        )
        .unwrap();
        let executor = Arc::new(Executor::new());
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let threads = (0..2)
            .map(|_| {
                let (executor, stopped) = (executor.clone(), stopped.clone());
                std::thread::spawn(move || {
                    // Ends with an error when the sender is gone, which is what it waits for.
                    block_on(executor.run(stopped.recv())).err();
                })
            })
            .collect();
        let network = Arc::<FakeNetwork>::default();
        let builder = settings(builder(&bus, &dir).sessions(network.clone()));
        let service = block_on(builder.start(executor.clone())).unwrap();
        World {
            network,
            service: Some(Arc::new(service)),
            events,
            bus,
            stop: Some(stop),
            threads,
            dir,
            executor,
        }
    }

    pub fn service(&self) -> &Arc<Service> {
        self.service.as_ref().unwrap()
    }

    /// Another service on the same bus and executor.
    pub fn another(&self) -> actors::model::Result<Service> {
        let builder = builder(&self.bus, &self.dir).sessions(self.network.clone());
        block_on(builder.start(self.executor.clone()))
    }

    /// Waits until the service has ended and nothing of it runs any more.
    pub fn ends(&self) -> End {
        let end = block_on(self.service().ended());
        self.until("no task is left", || {
            (self.service().tasks() == 0).then_some(())
        });
        end
    }

    pub fn call<B>(
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

    pub fn manager<B>(&self, method: &str, body: &B) -> Result<zbus::Message, CallError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.call(CM_PATH, name::CONNECTION_MANAGER, method, body)
    }

    pub fn request(
        &self,
        parameters: &[(&str, Variant<'_>)],
    ) -> Result<(String, String), CallError> {
        let parameters: HashMap<&str, &Variant<'_>> = parameters
            .iter()
            .map(|(name, value)| (*name, value))
            .collect();
        let answer = self.manager("RequestConnection", &("local-xmpp", parameters))?;
        let (bus_name, path): (String, OwnedObjectPath) = answer.body().deserialize().unwrap();
        Ok((bus_name, path.to_string()))
    }

    /// A connection that is not online yet.
    pub fn account(&self, published: &str) -> Account<'_> {
        self.account_with(published, &[])
    }

    /// The same with other parameters.
    pub fn account_with(&self, published: &str, others: &[(&str, Variant<'_>)]) -> Account<'_> {
        let mut parameters = vec![
            ("published-name", Variant::new(published.to_owned())),
            ("pneuma-profile", Variant::new(format!("of-{published}"))),
        ];
        parameters.extend(others.iter().cloned());
        let (bus_name, path) = self.request(&parameters).unwrap();
        self.wait("NewConnection", |event| {
            let (name, ..) = event.arguments::<(String, OwnedObjectPath, String)>()?;
            (name == bus_name).then_some(())
        });
        Account {
            world: self,
            bus_name,
            path,
            session: self.network.session(published),
        }
    }

    /// One that is, with these contacts.
    pub fn online(&self, contacts: Vec<pneuma::session::Contact>) -> Account<'_> {
        self.account("ada").goes_online(contacts)
    }

    pub fn has_owner(&self, bus_name: &str) -> bool {
        self.bus
            .call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "NameHasOwner",
                &bus_name,
            )
            .unwrap()
            .body()
            .deserialize()
            .unwrap()
    }

    /// Takes the first signal of this name of which `find` makes something.
    pub fn wait<T>(&self, member: &str, mut find: impl FnMut(&Event) -> Option<T>) -> T {
        self.events
            .take(PATIENCE, |event| {
                if event.member == member {
                    find(event)
                } else {
                    None
                }
            })
            .unwrap_or_else(|seen| panic!("waited for {member}; {seen}"))
    }

    pub fn until<T>(&self, what: &str, attempt: impl FnMut() -> Option<T>) -> T {
        self.events
            .until(PATIENCE, attempt)
            .unwrap_or_else(|seen| panic!("waited until {what}; {seen}"))
    }

    /// The names of the service's signals so far that nobody waited for, in order.
    pub fn signals(&self) -> Vec<String> {
        self.events.waiting(|event| {
            event
                .interface
                .starts_with("org.freedesktop.Telepathy")
                .then(|| event.member.clone())
        })
    }

    pub fn introspect(&self, path: &str) -> Result<String, CallError> {
        let answer = self.call(
            path,
            "org.freedesktop.DBus.Introspectable",
            "Introspect",
            &(),
        )?;
        Ok(answer.body().deserialize().unwrap())
    }

    /// How many objects lie at and below a path.
    pub fn objects(&self, path: &str) -> Vec<String> {
        let Ok(xml) = self.introspect(path) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for child in xml
            .split("<node name=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
        {
            let child = format!("{}/{child}", path.trim_end_matches('/'));
            all.extend(self.objects(&child));
            all.push(child);
        }
        all
    }
}

fn builder(bus: &Bus, dir: &tempfile::TempDir) -> pneuma::Builder {
    let directory = dir.path().join("sockets");
    Service::builder()
        .address(bus.address())
        .login("login")
        .sockets(Arc::new(move |account| {
            let config = EndpointConfig {
                socket_directory: directory.clone(),
                any_local_user: account.any_local_user,
            };
            Arc::new(SystemSockets::new(config, SystemClock::new()))
        }))
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(service) = self.service.take()
            && !std::thread::panicking()
        {
            block_on(service.shutdown());
            let left = self.events.until(Duration::from_secs(10), || {
                (service.tasks() == 0).then_some(())
            });
            assert!(left.is_ok(), "{} tasks are left", service.tasks());
        }
        self.stop = None;
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Account<'_> {
    /// Online, with these contacts.
    pub fn goes_online(self, contacts: Vec<pneuma::session::Contact>) -> Self {
        let world = self.world;
        self.call(name::CONNECTION, "Connect", &()).unwrap();
        world.wait("StatusChanged", |event| {
            (event.arguments::<(u32, u32)>()? == (0, 1)).then_some(())
        });
        let count = contacts.len();
        for contact in contacts {
            self.session
                .happens(pneuma::session::SessionEvent::Contact(contact));
        }
        world.until("the contacts are there", || {
            (self.contacts().len() == count).then_some(())
        });
        // What was told of them until now is in front of this.
        self.call(
            name::SIMPLE_PRESENCE,
            "SetPresence",
            &("available", "ready"),
        )
        .unwrap();
        world.wait("PresencesChanged", |event| {
            let (presences,) = event.arguments::<(HashMap<u32, (u32, String, String)>,)>()?;
            presences
                .values()
                .any(|told| told.2 == "ready")
                .then_some(())
        });
        world.events.clear();
        self
    }

    pub fn call<B>(
        &self,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<zbus::Message, CallError>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.world
            .bus
            .call(&self.bus_name, &self.path, interface, method, body)
    }

    /// Calls a method that must fail; gives the last part of the error's name.
    pub fn refused<B>(&self, interface: &str, method: &str, body: &B) -> String
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        match self.call(interface, method, body) {
            Ok(answer) => panic!("{method} was answered {answer:?}"),
            Err(error) => error.short().to_owned(),
        }
    }

    pub fn property<T>(&self, interface: &str, property: &str) -> T
    where
        T: TryFrom<OwnedVariant>,
        T::Error: std::fmt::Debug,
    {
        get(self.world, &self.path, interface, property)
    }

    /// The contact list: handle by identifier.
    pub fn contacts(&self) -> HashMap<String, u32> {
        let all: HashMap<u32, Map> = self
            .call(
                name::CONTACT_LIST,
                "GetContactListAttributes",
                &(Vec::<String>::new(), false),
            )
            .unwrap()
            .body()
            .deserialize()
            .unwrap();
        all.into_iter()
            .map(|(handle, attributes)| {
                let id = &attributes[&format!("{}/contact-id", name::CONNECTION)];
                (id.downcast_ref().unwrap(), handle)
            })
            .collect()
    }

    pub fn handle(&self, id: &str) -> u32 {
        self.contacts()[id]
    }

    /// A request for a tube, with changes.
    pub fn tube_request(&self, contact: u32, service: &str) -> HashMap<String, Variant<'static>> {
        let channel = |property: &str| format!("{}.{property}", name::CHANNEL);
        HashMap::from([
            (channel("ChannelType"), Variant::new(name::STREAM_TUBE)),
            (channel("TargetHandleType"), Variant::new(1_u32)),
            (channel("TargetHandle"), Variant::new(contact)),
            (
                format!("{}.Service", name::STREAM_TUBE),
                Variant::new(service.to_owned()),
            ),
        ])
    }

    pub fn create(&self, contact: u32, service: &str) -> Result<(String, Map), CallError> {
        self.created(self.tube_request(contact, service))
    }

    /// What CreateChannel gives for a request.
    pub fn created(
        &self,
        request: HashMap<String, Variant<'static>>,
    ) -> Result<(String, Map), CallError> {
        let answer = self.call(name::REQUESTS, "CreateChannel", &(request,))?;
        let (path, properties): (OwnedObjectPath, Map) = answer.body().deserialize().unwrap();
        Ok((path.to_string(), properties))
    }

    pub fn channels(&self) -> usize {
        let all: OwnedVariant = self
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(name::REQUESTS, "Channels"),
            )
            .unwrap()
            .body()
            .deserialize()
            .unwrap();
        match &*all {
            Variant::Array(array) => array.len(),
            other => panic!("{other:?}"),
        }
    }
}

/// The next channel that NewChannels announces: its object path and its properties.
pub fn announced(world: &World) -> (String, Map) {
    world.wait("NewChannels", |event| {
        let (channels,) = event.arguments::<(Vec<(OwnedObjectPath, Map)>,)>()?;
        let (path, properties) = channels.into_iter().next()?;
        Some((path.to_string(), properties))
    })
}

pub fn get<T>(world: &World, path: &str, interface: &str, property: &str) -> T
where
    T: TryFrom<OwnedVariant>,
    T::Error: std::fmt::Debug,
{
    let value: OwnedVariant = world
        .call(
            path,
            "org.freedesktop.DBus.Properties",
            "Get",
            &(interface, property),
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    value.try_into().unwrap()
}
