//! A network in memory, on virtual time: discovery, connections, and strangers who do as they like.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow::{Break, Continue},
    sync::{Arc, Mutex},
    time::Duration,
};

use actors::{
    model::Error,
    runtime::BoxFuture,
    testing::{FakeStream, Sim, StreamCounter, Wire, pipe_counted},
};
use async_channel::{Receiver, Sender};

use super::support::Side;
use crate::session::{
    Contact, ContactId, SessionEvent,
    bytestreams::Methods,
    link_local::{
        LinkLocalConfig, Surroundings,
        actor::TrustStore,
        discovery::{Announcement, Discovery, DiscoveryEvent, Method, PresenceText, Sighting},
        fault::Faults,
        network::{Connection, Listening, Network, Strangers},
        start_with,
        stream::Carrier,
    },
    trust::{Identity, KeyId, TrustTable},
};

#[derive(Default)]
struct Air {
    /// Who is announced.
    present: BTreeMap<String, Sighting>,
    /// Who hears of it, by name.
    hearing: BTreeMap<String, Sender<DiscoveryEvent>>,
    /// What those would hear that were killed, who must not notice it and say goodbye.
    killed: Vec<Sender<DiscoveryEvent>>,
    listening: BTreeMap<SocketAddr, (Sender<Connection>, Strangers)>,
    wires: Vec<Wire>,
    next_host: u8,
    /// What connections that are made now have as their own address, whatever it is.
    own: Option<IpAddr>,
}

impl Air {
    fn local(&self, address: SocketAddr) -> SocketAddr {
        SocketAddr::new(self.own.unwrap_or(address.ip()), address.port())
    }

    fn tell(&self, but: &str, event: &DiscoveryEvent) {
        for (_, sender) in self.hearing.iter().filter(|(name, _)| *name != but) {
            // One that has left does not listen.
            if sender.try_send(event.clone()).is_err() {
                continue;
            }
        }
    }
}

/// See the module's head.
pub struct Lan {
    pub sim: Sim,
    pub open: StreamCounter,
    /// Which ways bytestreams of those may go who come from now on.
    pub methods: Methods,
    air: Arc<Mutex<Air>>,
}

/// One host on it.
#[derive(Clone)]
pub struct Host {
    pub address: SocketAddr,
    air: Arc<Mutex<Air>>,
    open: StreamCounter,
}

/// Where a person's table of trusted keys is kept.
#[derive(Default)]
pub struct MemoryStore {
    pub table: Mutex<TrustTable>,
    pub trouble: Mutex<Trouble>,
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trouble {
    #[default]
    Nothing,
    Full,
    Panic,
}

impl TrustStore for Arc<MemoryStore> {
    fn save(&self, table: TrustTable) -> BoxFuture<'static, Result<(), Error>> {
        let store = self.clone();
        Box::pin(async move {
            let trouble = *store.trouble.lock().unwrap();
            match trouble {
                Trouble::Nothing => *store.table.lock().unwrap() = table,
                Trouble::Full => return Err(Error::Confused("the disk is full".into())),
                Trouble::Panic => panic!("the disk is on fire"),
            }
            Ok(())
        })
    }
}

/// A session on the network.
pub struct Person {
    pub side: Side,
    pub id: ContactId,
    pub host: Host,
    pub key: KeyId,
    name: String,
    pem: String,
    pub faults: Faults,
    pub store: Arc<MemoryStore>,
}

impl Lan {
    pub fn new() -> Self {
        Lan {
            sim: Sim::new(),
            open: StreamCounter::default(),
            methods: Methods::ALL,
            air: Arc::default(),
        }
    }

    pub fn host(&self) -> Host {
        let mut air = self.air.lock().unwrap();
        air.next_host += 1;
        Host {
            address: SocketAddr::from(([127, 0, 2, air.next_host], 5298)),
            air: self.air.clone(),
            open: self.open.clone(),
        }
    }

    /// Whether anything of a person can be found: a record, or a port that is listened on.
    pub fn knows(&self, whom: &Person) -> bool {
        let air = self.air.lock().unwrap();
        air.present.contains_key(&whom.id.0) || air.hearing.contains_key(&whom.id.0)
    }

    /// Somebody who runs our program.
    pub fn person(&self, name: &str) -> Person {
        self.person_with(name, true)
    }

    pub fn person_with(&self, name: &str, require_encryption: bool) -> Person {
        self.connected(self.offline(name, require_encryption))
    }

    /// A person's program is killed, so that it says nothing to anybody, and started anew.
    pub fn restarted(&self, whom: &Person) -> Person {
        let mut air = self.air.lock().unwrap();
        air.listening.remove(&whom.host.address);
        let heard = air.hearing.remove(&whom.id.0);
        air.killed.extend(heard);
        drop(air);
        self.break_all();
        let identity = Identity::from_pem(&whom.pem).unwrap();
        self.connected(self.made(&whom.name, true, identity, whom.host.clone()))
    }

    fn connected(&self, mut person: Person) -> Person {
        let side = &person.side;
        person.id = self.sim.run(async {
            side.session.connect().await.unwrap();
            side.find(|event| match event {
                SessionEvent::Connected { self_id, .. } => Break(self_id),
                other => Continue(other),
            })
            .await
        });
        person
    }

    /// The same before they go online; the id is a guess.
    pub fn offline(&self, name: &str, require_encryption: bool) -> Person {
        let identity = Identity::generate().unwrap();
        self.made(name, require_encryption, identity, self.host())
    }

    fn made(&self, name: &str, require_encryption: bool, identity: Identity, host: Host) -> Person {
        let config = LinkLocalConfig {
            require_encryption,
            bytestreams: self.methods,
            ..super::support::config(name, std::path::Path::new("/nowhere"), 0)
        };
        let (key, pem) = (identity.id(), identity.to_pem().to_owned());
        let faults = Faults::counting();
        let store = Arc::<MemoryStore>::default();
        let discovery = Arc::new(FakeDiscovery {
            host: host.clone(),
            name: Mutex::default(),
        });
        let (session, events) = start_with(
            &config,
            Surroundings {
                identity,
                trust: TrustTable::default(),
                store: Arc::new(store.clone()),
                discovery,
                network: Arc::new(host.clone()),
                spawner: self.sim.spawner.clone(),
                clock: self.sim.clock.clone(),
                faults: faults.clone(),
            },
        )
        .unwrap();
        let side = Side::new(session, events);
        Person {
            side,
            id: ContactId(super::super::instance_name(name).unwrap()),
            host,
            name: name.into(),
            key,
            pem,
            faults,
            store,
        }
    }

    /// Says to `whom` what a forger says.
    pub fn forge(&self, whom: &Person, event: DiscoveryEvent) {
        let air = self.air.lock().unwrap();
        air.hearing[&whom.id.0].try_send(event).unwrap();
    }

    /// The network stops carrying anything to and from a person, who says nothing.
    pub fn unplug(&self, whom: &Person) {
        let mut air = self.air.lock().unwrap();
        air.listening.remove(&whom.host.address);
        air.hearing.remove(&whom.id.0);
    }

    /// Breaks every connection there is.
    pub fn break_all(&self) {
        for wire in std::mem::take(&mut self.air.lock().unwrap().wires) {
            wire.lose();
        }
    }

    /// Connections that are made from now on have this address on their own side, at both ends.
    pub fn own_address(&self, address: Option<IpAddr>) {
        self.air.lock().unwrap().own = address;
    }

    /// Every connection there is carries nothing any more, and nobody is told.
    pub fn silence_all(&self) {
        for wire in std::mem::take(&mut self.air.lock().unwrap().wires) {
            wire.silence();
        }
    }

    pub fn advance(&self, seconds: u64) {
        self.sim.advance(Duration::from_secs(seconds));
    }
}

/// One whose bytestreams go in-band.
pub fn lan_in_band() -> Lan {
    let mut lan = Lan::new();
    lan.methods = Methods {
        socks5: false,
        in_band: true,
    };
    lan
}

/// Two who know what the other can do.
pub fn two(lan: &Lan) -> [Person; 2] {
    let people = ["romeo", "juliet"].map(|name| lan.person(name));
    for (here, there) in [(0, 1), (1, 0)] {
        people[here].discovers(lan, &people[there].id);
    }
    people
}

/// They disconnect, and nothing is left of them.
pub fn gone(lan: &Lan, people: [Person; 2]) {
    for person in &people {
        lan.sim.run(person.side.session.disconnect());
    }
    drop(people);
    lan.advance(120);
    assert_eq!((lan.open.open(), lan.sim.spawner.running()), (0, 0));
}

impl Person {
    /// The contact's state, past or to come, that fits.
    pub fn sees(&self, lan: &Lan, id: &ContactId, test: impl Fn(&Contact) -> bool) -> Contact {
        lan.sim.run(self.side.find(|event| match event {
            SessionEvent::Contact(contact) if contact.id == *id && test(&contact) => Break(contact),
            other => Continue(other),
        }))
    }

    pub fn discovers(&self, lan: &Lan, id: &ContactId) -> Contact {
        self.sees(lan, id, |contact| contact.features.is_some())
    }

    /// Everything that has happened and that nobody has looked at.
    pub fn happened(&self, lan: &Lan) -> Vec<SessionEvent> {
        lan.sim.settle();
        self.side.drain()
    }

    pub fn lost(&self, lan: &Lan, id: &ContactId) -> bool {
        self.happened(lan)
            .iter()
            .any(|event| matches!(event, SessionEvent::ContactLost(lost) if lost == id))
    }
}

impl Host {
    /// Announces a record, true or not.
    pub fn announce(&self, name: &str, key: Option<KeyId>) {
        let sighting = Sighting {
            instance: name.into(),
            addresses: vec![self.address],
            text: PresenceText {
                key,
                ..PresenceText::default()
            },
        };
        let mut air = self.air.lock().unwrap();
        air.present.insert(name.into(), sighting.clone());
        air.tell(name, &DiscoveryEvent::Seen(Box::new(sighting)));
    }

    /// Connections to this host.
    pub fn accept_all(&self) -> Receiver<Connection> {
        let (sender, receiver) = async_channel::bounded(64);
        let mut air = self.air.lock().unwrap();
        air.listening
            .insert(self.address, (sender, Strangers::default()));
        receiver
    }

    /// A connection to a person, from this host.
    pub fn connect(&self, whom: &Person) -> io::Result<FakeStream> {
        self.stream(whom.host.address)
    }

    /// The same with a carrier of the test's own making.
    pub fn connect_with(&self, whom: &Person, carrier: impl Carrier) {
        let air = self.air.lock().unwrap();
        let (sender, strangers) = &air.listening[&whom.host.address];
        let connection = Connection {
            carrier: Box::new(carrier),
            local: whom.host.address,
            peer: self.address,
            permit: strangers.admit(self.address.ip()),
        };
        sender.try_send(connection).unwrap();
    }

    fn stream(&self, to: SocketAddr) -> io::Result<FakeStream> {
        let mut air = self.air.lock().unwrap();
        let (sender, strangers) = air
            .listening
            .get(&to)
            .ok_or(io::ErrorKind::ConnectionRefused)?;
        let permit = strangers.admit(self.address.ip());
        let (ours, theirs) = pipe_counted(64 * 1024, &self.open);
        if permit.is_none() {
            return Ok(ours.like_a_socket());
        }
        let connection = Connection {
            carrier: Box::new(theirs.like_a_socket()),
            local: air.local(to),
            peer: self.address,
            permit,
        };
        sender
            .try_send(connection)
            .map_err(|_| io::ErrorKind::ConnectionRefused)?;
        air.wires.push(ours.wire());
        Ok(ours.like_a_socket())
    }
}

impl Network for Host {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Connection>> {
        let stream = self.stream(address).map(|stream| Connection {
            carrier: Box::new(stream),
            local: self.air.lock().unwrap().local(self.address),
            peer: address,
            permit: None,
        });
        Box::pin(async move { stream })
    }

    fn listen(&self) -> io::Result<Listening> {
        let accepted = self.accept_all();
        let strangers = self.air.lock().unwrap().listening[&self.address].1.clone();
        Ok(Listening {
            port: self.address.port(),
            accepted,
            strangers,
            tasks: Vec::new(),
        })
    }
}

struct FakeDiscovery {
    host: Host,
    name: Mutex<String>,
}

impl Discovery for FakeDiscovery {
    fn start(
        &self,
        announcement: Announcement,
    ) -> BoxFuture<'static, Result<Receiver<DiscoveryEvent>, Error>> {
        let (sender, receiver) = async_channel::bounded(1024);
        let name = announcement.name.clone();
        *self.name.lock().unwrap() = name.clone();
        {
            let mut air = self.host.air.lock().unwrap();
            sender
                .try_send(DiscoveryEvent::Published(name.clone()))
                .unwrap();
            for sighting in air.present.values() {
                let event = DiscoveryEvent::Seen(Box::new(sighting.clone()));
                sender.try_send(event).unwrap();
            }
            air.hearing.insert(name, sender);
        }
        self.update(announcement.text);
        Box::pin(async move { Ok(receiver) })
    }

    fn responder(&self) -> Option<Method> {
        None
    }

    fn update(&self, text: PresenceText) {
        let name = self.name.lock().unwrap().clone();
        if name.is_empty() {
            return;
        }
        let sighting = Sighting {
            instance: name.clone(),
            addresses: vec![self.host.address],
            text,
        };
        let mut air = self.host.air.lock().unwrap();
        air.present.insert(name.clone(), sighting.clone());
        air.tell(&name, &DiscoveryEvent::Seen(Box::new(sighting)));
    }

    fn set_pinned(&self, _pinned: BTreeMap<KeyId, String>) {}

    fn stop(&self) -> BoxFuture<'static, ()> {
        let name = std::mem::take(&mut *self.name.lock().unwrap());
        let mut air = self.host.air.lock().unwrap();
        air.hearing.remove(&name);
        air.listening.remove(&self.host.address);
        if air.present.remove(&name).is_some() {
            air.tell(&name, &DiscoveryEvent::Gone(name.clone()));
        }
        Box::pin(async {})
    }
}
