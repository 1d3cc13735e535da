//! A network that is not there: sessions whose events the test makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::UNIX_EPOCH,
};

use actors::{
    model::{Error, FileOffer, Result, ServiceName, TubeParameters},
    ports::{AgreedFile, DBusTubeOffering, FileSending},
    runtime::BoxFuture,
    testing::{
        FakeConnector, FakeDBusOffering, FakeSending, FakeSignalling, Offered, StreamCounter,
    },
};
use async_channel::{Receiver, Sender};
use pneuma::{
    connection::{
        parameters::Account,
        ports::{SessionFactory, StartedSession},
    },
    session::{
        Contact, ContactId, PeerId, Presence, Session, SessionEvent, Show, Trust, TubeId,
        TubePorts,
        trust::{ComparisonCode, KeyId, Policy, Scope, Terms},
    },
    xmpp::ns,
};

/// Our own key.
pub const OWN_KEY: KeyId = KeyId([1; 32]);
/// The contacts' key.
pub const THEIR_KEY: KeyId = KeyId([2; 32]);

/// Starts fakes and keeps them for the test.
#[derive(Default)]
pub struct FakeNetwork {
    sessions: Mutex<BTreeMap<String, Arc<FakeSession>>>,
    /// The next connect fails with this.
    pub refuse_connect: Mutex<Option<Error>>,
}

impl FakeNetwork {
    /// The session of an account.
    pub fn session(&self, name: &str) -> Arc<FakeSession> {
        self.sessions.lock().unwrap()[name].clone()
    }
}

impl SessionFactory for FakeNetwork {
    fn start(&self, account: &Account) -> BoxFuture<'static, Result<StartedSession>> {
        let (sender, events) = async_channel::bounded(64);
        let session = Arc::new(FakeSession {
            name: account.published_name.clone(),
            events: sender,
            log: Mutex::default(),
            signalling: Mutex::default(),
            files: Mutex::default(),
            dbus_offered: Mutex::default(),
            policy: Mutex::default(),
            refuse_pin: Mutex::default(),
            refuse_connect: Mutex::new(self.refuse_connect.lock().unwrap().take()),
        });
        self.sessions
            .lock()
            .unwrap()
            .insert(account.published_name.clone(), session.clone());
        let started: (Arc<dyn Session>, Receiver<SessionEvent>) = (session, events);
        Box::pin(async move { Ok(started) })
    }
}

/// Where a contact's answer to the offer of a file is given.
pub type Answers = Sender<Result<AgreedFile>>;

/// A session; what it was asked is in its log.
pub struct FakeSession {
    name: String,
    events: Sender<SessionEvent>,
    log: Mutex<Vec<String>>,
    signalling: Mutex<BTreeMap<(String, u32), Arc<FakeSignalling>>>,
    files: Mutex<Vec<(FileOffer, Answers)>>,
    /// What the last D-Bus tube's contact is offered.
    pub dbus_offered: Mutex<Option<Offered>>,
    policy: Mutex<Arc<Policy>>,
    /// The next pin fails with this.
    pub refuse_pin: Mutex<Option<Error>>,
    refuse_connect: Mutex<Option<Error>>,
}

impl FakeSession {
    /// Something happens on the network.
    pub fn happens(&self, event: SessionEvent) {
        self.events.send_blocking(event).unwrap();
    }

    /// What was asked of it, in order.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Whether it was asked to pin anybody.
    pub fn has_pinned(&self) -> bool {
        self.log().iter().any(|line| line.starts_with("pin"))
    }

    /// The signalling of the tubes so far, by contact and tube id.
    pub fn tubes(&self) -> Vec<((String, u32), Arc<FakeSignalling>)> {
        let tubes = self.signalling.lock().unwrap();
        tubes
            .iter()
            .map(|(id, tube)| (id.clone(), tube.clone()))
            .collect()
    }

    /// The files sent since it was last asked, with what the contact says to each.
    pub fn files(&self) -> Vec<(FileOffer, Answers)> {
        std::mem::take(&mut self.files.lock().unwrap())
    }

    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    fn done<T: Send + 'static>(result: T) -> BoxFuture<'static, T> {
        Box::pin(async move { result })
    }
}

impl Session for FakeSession {
    fn connect(&self) -> BoxFuture<'static, Result<()>> {
        self.note("connect");
        if let Some(error) = self.refuse_connect.lock().unwrap().take() {
            return Self::done(Err(error));
        }
        let connected = SessionEvent::Connected {
            self_id: ContactId(format!("{}@here", self.name)),
            alias: String::new(),
        };
        let events = self.events.clone();
        Box::pin(async move {
            events.send(connected).await.ok();
            Ok(())
        })
    }

    fn disconnect(&self) -> BoxFuture<'static, ()> {
        self.note("disconnect");
        Self::done(())
    }

    fn set_presence(&self, presence: Presence) -> BoxFuture<'static, Result<()>> {
        self.note(format!("presence {:?} {}", presence.show, presence.message));
        Self::done(Ok(()))
    }

    fn set_alias(&self, alias: String) -> BoxFuture<'static, Result<()>> {
        self.note(format!("alias {alias}"));
        if alias == "boom" {
            panic!("the fake was told to panic");
        }
        Self::done(Ok(()))
    }

    fn set_features(&self, features: BTreeSet<String>) -> BoxFuture<'static, ()> {
        let short: Vec<&str> = features
            .iter()
            .filter_map(|f| f.rsplit('#').next())
            .collect();
        self.note(format!("features {}", short.join(",")));
        Self::done(())
    }

    fn tube(&self, peer: &PeerId, tube: TubeId) -> TubePorts {
        let signalling = FakeSignalling::new();
        self.signalling
            .lock()
            .unwrap()
            .insert((peer.contact.0.clone(), tube.0), signalling.clone());
        TubePorts {
            connector: FakeConnector::new(&StreamCounter::default()),
            signalling,
        }
    }

    fn file(&self, _: &PeerId, file: FileOffer) -> Arc<dyn FileSending> {
        let (sending, contact) = FakeSending::new();
        self.files.lock().unwrap().push((file, contact));
        sending
    }

    fn dbus_tube(&self, _: &PeerId, _: TubeId) -> Arc<dyn DBusTubeOffering> {
        let (offering, offered) = FakeDBusOffering::new();
        *self.dbus_offered.lock().unwrap() = Some(offered);
        offering
    }

    fn self_key(&self) -> KeyId {
        OWN_KEY
    }

    fn pin(&self, contact: &ContactId, expected: Option<KeyId>) -> BoxFuture<'static, Result<()>> {
        match expected {
            None => self.note(format!("pin {contact}")),
            Some(key) => self.note(format!("pin {contact} {key}")),
        }
        Self::done(self.refuse_pin.lock().unwrap().take().map_or(Ok(()), Err))
    }

    fn verify(
        &self,
        contact: &ContactId,
        code: &str,
        replace: bool,
    ) -> BoxFuture<'static, Result<()>> {
        self.note(format!("verify {contact} {replace}"));
        let right = code.parse() == Ok(ComparisonCode::of(OWN_KEY, THEIR_KEY));
        Self::done(if right {
            Ok(())
        } else {
            Err(Error::InvalidArgument("another code".into()))
        })
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.lock().unwrap().clone()
    }

    fn set_rule(&self, scope: Scope, terms: Option<Terms>) -> BoxFuture<'static, Result<()>> {
        let mut policy = self.policy.lock().unwrap();
        let policy = Arc::make_mut(&mut policy);
        Self::done(match terms {
            Some(terms) => policy.set(scope, terms).map_err(Error::from),
            None => policy
                .remove(&scope)
                .map(drop)
                .ok_or_else(|| Error::NotAvailable("there is no such rule".into())),
        })
    }

    fn forget(&self, contact: &ContactId) -> BoxFuture<'static, Result<()>> {
        self.note(format!("forget {contact}"));
        Self::done(Err(Error::NotAvailable("nothing is pinned".into())))
    }
}

/// A contact that can take tubes and waits for `http`.
pub fn capable(id: &str) -> Contact {
    let features = [
        ns::TUBES.to_owned(),
        ns::PNEUMA.to_owned(),
        format!("{}/stream#http", ns::TUBES),
    ];
    Contact {
        features: Some(Arc::new(features.into())),
        key: Some(THEIR_KEY),
        trust: Trust::Unpinned,
        ..plain(id)
    }
}

/// A contact that can take tubes and files.
pub fn takes_files(id: &str) -> Contact {
    let features = [ns::TUBES, ns::PNEUMA, ns::SI_FILE_TRANSFER];
    Contact {
        features: Some(Arc::new(features.map(str::to_owned).into())),
        ..capable(id)
    }
}

/// A contact of some other program's.
pub fn plain(id: &str) -> Contact {
    Contact {
        id: ContactId(id.into()),
        alias: String::new(),
        presence: Presence {
            show: Show::Available,
            message: String::new(),
        },
        features: None,
        key: None,
        trust: Trust::NoKey,
    }
}

/// Pinned since 1970.
pub fn pinned() -> Trust {
    Trust::Pinned { since: UNIX_EPOCH }
}

/// A contact offers a tube.
pub fn offer(from: &str, tube: u32, service: &str) -> SessionEvent {
    SessionEvent::TubeOffered {
        from: peer(from),
        tube: TubeId(tube),
        service: ServiceName::new(service).unwrap(),
        parameters: TubeParameters::default(),
    }
}

/// A contact as a peer.
pub fn peer(id: &str) -> PeerId {
    PeerId {
        contact: ContactId(id.into()),
        resource: None,
    }
}
