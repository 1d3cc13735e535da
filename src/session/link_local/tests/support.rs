//! A session with its profile and one queue of all that happened to it.

use std::{
    cell::RefCell,
    ops::ControlFlow::{self, Break, Continue},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use actors::runtime::{Clock, Spawner, SystemClock};
use async_channel::Receiver;
use futures_lite::FutureExt as _;
use smol::Executor;

use crate::session::{
    Contact, ContactId, PeerId, Session, SessionEvent,
    bytestreams::Methods,
    link_local::{LinkLocalConfig, discovery::Method, start},
};

/// A port nobody else of this run uses for mDNS.
pub fn mdns_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    40_000 + (std::process::id() % 15_000) as u16 + NEXT.fetch_add(1, Ordering::Relaxed)
}

pub fn config(name: &str, profile: &Path, port: u16) -> LinkLocalConfig {
    LinkLocalConfig {
        published_name: name.into(),
        first_name: String::new(),
        last_name: String::new(),
        nickname: name.to_uppercase(),
        email: String::new(),
        jid: String::new(),
        require_encryption: true,
        profile_dir: profile.to_owned(),
        interface: Some("lo".into()),
        mdns_port: port,
        discovery: Method::Auto,
        bytestreams: Methods::ALL,
    }
}

/// Runs a test on an executor of its own, and checks that it leaves no task behind.
pub fn run(test: impl AsyncFnOnce(&Spawner)) {
    let executor = Arc::new(Executor::new());
    let spawner = Spawner::new(executor.clone());
    smol::block_on(executor.run(async {
        test(&spawner).await;
        let clock = SystemClock::new();
        for _ in 0..200 {
            if spawner.running() == 0 {
                return;
            }
            clock.sleep(Duration::from_millis(50)).await;
        }
        panic!("{} tasks are left behind", spawner.running());
    }));
}

/// Fails when it takes longer than a minute.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let clock = SystemClock::new();
    let late = async {
        clock.sleep(Duration::from_secs(60)).await;
        panic!("{what} should have happened by now");
    };
    future.or(late).await
}

pub struct Side {
    pub session: Arc<dyn Session>,
    pub events: Receiver<SessionEvent>,
    earlier: RefCell<Vec<SessionEvent>>,
    _home: Option<tempfile::TempDir>,
}

impl Side {
    pub fn new(session: Arc<dyn Session>, events: Receiver<SessionEvent>) -> Self {
        Side {
            session,
            events,
            earlier: RefCell::default(),
            _home: None,
        }
    }

    /// A real session on loopback with a fresh profile, not yet online.
    pub fn offline(spawner: &Spawner, name: &str, port: u16) -> Self {
        let home = tempfile::tempdir().unwrap();
        let config = config(name, &home.path().join("profile"), port);
        let (session, events) = start(config, spawner.clone(), SystemClock::new()).unwrap();
        Side {
            _home: Some(home),
            ..Side::new(session, events)
        }
    }

    pub async fn online(spawner: &Spawner, name: &str, port: u16) -> (Self, ContactId) {
        let side = Side::offline(spawner, name, port);
        side.session.connect().await.unwrap();
        let id = side.connected().await;
        (side, id)
    }

    pub async fn connected(&self) -> ContactId {
        self.wait("connected", |event| match event {
            SessionEvent::Connected { self_id, .. } => Break(self_id),
            other => Continue(other),
        })
        .await
    }

    /// The first event, past or to come, that `wanted` takes; the others wait for another call.
    pub async fn wait<T>(
        &self,
        what: &str,
        wanted: impl FnMut(SessionEvent) -> ControlFlow<T, SessionEvent>,
    ) -> T {
        in_time(what, self.find(wanted)).await
    }

    /// The same without a deadline, for virtual time.
    pub async fn find<T>(
        &self,
        mut wanted: impl FnMut(SessionEvent) -> ControlFlow<T, SessionEvent>,
    ) -> T {
        let mut found = None;
        for event in self.earlier.take() {
            if found.is_some() {
                self.earlier.borrow_mut().push(event);
                continue;
            }
            match wanted(event) {
                Break(value) => found = Some(value),
                Continue(event) => self.earlier.borrow_mut().push(event),
            }
        }
        if let Some(found) = found {
            return found;
        }
        loop {
            match wanted(self.events.recv().await.unwrap()) {
                Break(value) => return value,
                Continue(event) => self.earlier.borrow_mut().push(event),
            }
        }
    }

    /// Takes everything that has happened so far.
    pub fn drain(&self) -> Vec<SessionEvent> {
        let mut events = self.earlier.take();
        events.extend(std::iter::from_fn(|| self.events.try_recv().ok()));
        events
    }

    /// The contact, once it is as `test` wants it.
    pub async fn sees(&self, id: &ContactId, test: impl Fn(&Contact) -> bool) -> Contact {
        self.wait(&format!("{id} as wanted"), |event| match event {
            SessionEvent::Contact(contact) if contact.id == *id && test(&contact) => Break(contact),
            other => Continue(other),
        })
        .await
    }

    /// The contact, once it has answered service discovery.
    pub async fn discovers(&self, id: &ContactId) -> Contact {
        self.sees(id, |contact| contact.features.is_some()).await
    }
}

pub fn peer(id: &ContactId) -> PeerId {
    PeerId {
        contact: id.clone(),
        resource: None,
    }
}
