//! A session, a supervisor and a tree that are not there, and a world on virtual time with them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use actors::{
    dbus_tube::DBusTubeMessage,
    endpoint::EndpointConfig,
    file_transfer::FileTransferMessage,
    limits::Limits,
    model::{
        ChannelId, ContactHandle, Error, FileOffer, FileTransferReason, FileTransferState, OwnerId,
        Result, ServiceName, TubeParameters, TubeState,
    },
    ports::{
        DBusTubeObject, DBusTubeOffering, DBusTubeView, FileSending, FileTransferDescription,
        FileTransferObject, FileTransferView, Parties, StreamTubeObject, StreamTubeView,
    },
    runtime::{BoxFuture, Clock, Faults, Pending, Reply, Snapshot, SnapshotWriter, Stop, Stopper},
    stream_tube::StreamTubeMessage,
    supervisor::{
        DBusTubeRequest, DBusTubeWay, FileTransferRequest, FileWay, StreamTubeRequest,
        SystemSockets,
    },
    testing::{
        FakeConnector, FakeDBusOffering, FakeSending, FakeSignalling, Probe, Sim, StreamCounter,
    },
};
use async_channel::Sender;

use crate::connection::{
    ManagerConfig, ManagerHandle,
    fault::Point,
    message::{ConnectionHandle, ConnectionMessage, CreatedChannel},
    parameters::Account,
    ports::{ChannelOpener, ConnectionTree, SessionFactory, StartedSession},
    requests::{ChannelRequest, Target, Wanted},
    value::{Given, GivenMap},
    view::ConnectionSignal,
};
use crate::{
    session::{
        Contact, ContactId, PeerId, Presence, Session, SessionEvent, Show, Trust, TubeId,
        TubePorts,
        trust::{KeyId, Policy, Scope, Terms},
    },
    xmpp::ns,
};

/// Says what happened to it, in words.
#[derive(Default)]
pub struct TestTree {
    pub log: Mutex<Vec<String>>,
    /// The last connection that was published.
    pub published: Mutex<Option<ConnectionHandle>>,
    /// The next signal waits for this.
    pub hold: Mutex<Option<Pending<()>>>,
    /// Never answers any more.
    pub still: AtomicBool,
    /// Panics at everything.
    pub panics: AtomicBool,
}

impl TestTree {
    async fn behave(&self) {
        assert!(!self.panics.load(Ordering::Relaxed), "the tree was told to");
        if self.still.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    pub fn note(self: &Arc<Self>, what: String) {
        self.log.lock().unwrap().push(what);
    }

    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub fn count(&self, what: &str) -> usize {
        self.log()
            .iter()
            .filter(|line| line.starts_with(what))
            .count()
    }
}

pub struct TreeHandle(Arc<TestTree>);

impl ConnectionTree for TreeHandle {
    fn publish(&self, connection: ConnectionHandle) -> BoxFuture<'static, Result<()>> {
        self.0.note(format!("publish {}", connection.bus_name));
        *self.0.published.lock().unwrap() = Some(connection);
        Box::pin(async { Ok(()) })
    }

    fn emit(&self, _: OwnerId, signal: ConnectionSignal) -> BoxFuture<'static, ()> {
        let tree = self.0.clone();
        let hold = tree.hold.lock().unwrap().take();
        Box::pin(async move {
            if let Some(hold) = hold {
                hold.wait().await.ok();
            }
            tree.behave().await;
            let line = match signal {
                ConnectionSignal::StatusChanged(status, reason) => format!("{status:?} {reason:?}"),
                ConnectionSignal::ConnectionError(error) => format!("error {error}"),
                ConnectionSignal::NewChannels(details) => format!("new {}", details.id.0),
                ConnectionSignal::ChannelClosed(details) => format!("closed {}", details.id.0),
                other => format!("{other:?}")
                    .split(['(', ' '])
                    .next()
                    .unwrap_or("")
                    .to_owned(),
            };
            tree.note(line);
        })
    }

    fn withdraw(&self, _: OwnerId) -> BoxFuture<'static, ()> {
        let tree = self.0.clone();
        Box::pin(async move {
            tree.behave().await;
            tree.note("withdraw".into());
        })
    }
}

/// Opens channels when the test lets it.
#[derive(Default)]
pub struct TestOpener {
    pub held: Mutex<Vec<Opening<StreamTubeObject>>>,
    /// Otherwise channels open at once, and these are their tubes.
    pub hold: Mutex<bool>,
    pub tubes: Mutex<Vec<Probe<StreamTubeMessage>>>,
    /// The same of file transfers, with which way each goes.
    pub files: Mutex<Vec<OpenedFile>>,
    /// The same of D-Bus tubes, which open at once.
    pub dbus_tubes: Mutex<Vec<OpenedDBusTube>>,
    /// File transfers open when the test lets them.
    pub held_files: Mutex<Vec<Opening<FileTransferObject>>>,
    pub objects: Mutex<Vec<StreamTubeObject>>,
    pub views: Mutex<Vec<SnapshotWriter<StreamTubeView>>>,
    pub limits: Mutex<Vec<Limits>>,
    pub next: Mutex<u64>,
    pub closed: Mutex<usize>,
    pub alive: Alive,
}

/// A file transfer that was opened.
pub struct OpenedFile {
    pub told: Probe<FileTransferMessage>,
    pub description: FileTransferDescription,
    pub way: FileWay,
    pub limits: Limits,
    /// Its state is the test's.
    pub view: SnapshotWriter<FileTransferView>,
}

impl OpenedFile {
    pub fn becomes(&self, state: FileTransferState) {
        self.view.publish(FileTransferView {
            state,
            ..(*self.view.get()).clone()
        });
    }
}

/// A supervisor, until it is taken away.
pub struct Alive {
    pub stopper: Mutex<Option<Stopper>>,
    stop: Stop,
}

impl Default for Alive {
    fn default() -> Self {
        let (stopper, stop) = Stopper::new();
        Alive {
            stopper: Mutex::new(Some(stopper)),
            stop,
        }
    }
}

pub struct Opening<T> {
    pub object: T,
    pub answer: Reply<Result<T>>,
}

pub struct OpenedDBusTube {
    pub told: Probe<DBusTubeMessage>,
    pub object: DBusTubeObject,
    pub way: DBusTubeWay,
    pub view: SnapshotWriter<DBusTubeView>,
}

impl TestOpener {
    fn next_id(&self) -> ChannelId {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        ChannelId(*next)
    }

    /// At once, or when the test lets it.
    fn answer<T: Send + 'static>(
        &self,
        object: T,
        held: &Mutex<Vec<Opening<T>>>,
    ) -> BoxFuture<'static, Result<T>> {
        if !*self.hold.lock().unwrap() {
            return Box::pin(async move { Ok(object) });
        }
        let (answer, pending) = Reply::new();
        held.lock().unwrap().push(Opening { object, answer });
        Box::pin(async move {
            pending
                .wait()
                .await
                .unwrap_or_else(|_| Err(Error::unanswered()))
        })
    }
}

fn begins(parties: &Parties) -> TubeState {
    if parties.requested {
        TubeState::NotOffered
    } else {
        TubeState::LocalPending
    }
}

pub struct OpenerHandle(Arc<TestOpener>);

impl ChannelOpener for OpenerHandle {
    fn open_stream_tube(
        &self,
        request: StreamTubeRequest,
    ) -> BoxFuture<'static, Result<StreamTubeObject>> {
        let (probe, address) = Probe::new(4);
        self.0.tubes.lock().unwrap().push(probe);
        let (writer, view) = Snapshot::new(StreamTubeView {
            state: begins(&request.description.parties),
            parameters: TubeParameters::default(),
            address: None,
            connections: 0,
            bytes_sent: 0,
            bytes_received: 0,
            encrypted: None,
        });
        self.0.views.lock().unwrap().push(writer);
        let object = StreamTubeObject {
            id: self.0.next_id(),
            owner: request.owner,
            description: request.description,
            address,
            view,
        };
        self.0.objects.lock().unwrap().push(object.clone());
        self.0.limits.lock().unwrap().push(request.limits);
        self.0.answer(object, &self.0.held)
    }

    fn open_file_transfer(
        &self,
        request: FileTransferRequest,
    ) -> BoxFuture<'static, Result<FileTransferObject>> {
        let (told, address) = Probe::new(4);
        let (writer, view) = Snapshot::new(FileTransferView {
            state: FileTransferState::Pending,
            reason: FileTransferReason::None,
            error: None,
            transferred: 0,
            initial_offset: None,
            asked: None,
            uri: request.description.uri.clone(),
            address: None,
            encrypted: None,
            stored: 0,
        });
        self.0.files.lock().unwrap().push(OpenedFile {
            told,
            description: request.description.clone(),
            way: request.way,
            limits: request.limits,
            view: writer,
        });
        let object = FileTransferObject {
            id: self.0.next_id(),
            owner: request.owner,
            description: request.description,
            address,
            view,
        };
        self.0.answer(object, &self.0.held_files)
    }

    fn open_dbus_tube(
        &self,
        request: DBusTubeRequest,
    ) -> BoxFuture<'static, Result<DBusTubeObject>> {
        let (told, address) = Probe::new(4);
        let (writer, view) = Snapshot::new(DBusTubeView {
            state: begins(&request.description.parties),
            parameters: request.description.parameters.clone(),
            error: None,
            address: None,
            accepted: false,
            connected: false,
            bytes_sent: 0,
            bytes_received: 0,
            encrypted: None,
        });
        let object = DBusTubeObject {
            id: self.0.next_id(),
            owner: request.owner,
            description: request.description,
            address,
            view,
        };
        self.0.dbus_tubes.lock().unwrap().push(OpenedDBusTube {
            told,
            object: object.clone(),
            way: request.way,
            view: writer,
        });
        Box::pin(async move { Ok(object) })
    }

    fn close_owner(&self, _: OwnerId) -> BoxFuture<'static, ()> {
        *self.0.closed.lock().unwrap() += 1;
        Box::pin(async {})
    }

    fn gone(&self) -> BoxFuture<'static, ()> {
        let stop = self.0.alive.stop.clone();
        Box::pin(async move { stop.stopped().await })
    }
}

pub struct TestSession {
    pub events: Sender<SessionEvent>,
    pub log: Mutex<Vec<String>>,
    /// Whom it was asked to pin.
    pub pinned: Mutex<Vec<ContactId>>,
    pub signalling: Arc<FakeSignalling>,
    pub policy: Mutex<Arc<Policy>>,
    /// Never says goodbye.
    pub stuck: bool,
    /// Never finishes what it is asked to set.
    pub slow: bool,
}

impl TestSession {
    pub fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    fn set(&self) -> BoxFuture<'static, Result<()>> {
        if self.slow {
            Box::pin(std::future::pending())
        } else {
            Box::pin(async { Ok(()) })
        }
    }
}

impl Session for TestSession {
    fn connect(&self) -> BoxFuture<'static, Result<()>> {
        let events = self.events.clone();
        Box::pin(async move {
            let connected = SessionEvent::Connected {
                self_id: ContactId("ada@here".into()),
                alias: String::new(),
            };
            events.send(connected).await.ok();
            Ok(())
        })
    }

    fn disconnect(&self) -> BoxFuture<'static, ()> {
        self.note("disconnect");
        if self.stuck {
            return Box::pin(std::future::pending());
        }
        Box::pin(async {})
    }

    fn set_presence(&self, presence: Presence) -> BoxFuture<'static, Result<()>> {
        self.note(format!("presence {}", presence.message));
        self.set()
    }

    fn set_alias(&self, _: String) -> BoxFuture<'static, Result<()>> {
        self.set()
    }

    fn set_features(&self, features: BTreeSet<String>) -> BoxFuture<'static, ()> {
        let features: Vec<String> = features.into_iter().collect();
        self.note(format!("features {}", features.join(" ")));
        Box::pin(async {})
    }

    fn tube(&self, _: &PeerId, _: TubeId) -> TubePorts {
        TubePorts {
            connector: FakeConnector::new(&StreamCounter::default()),
            signalling: self.signalling.clone(),
        }
    }

    fn file(&self, peer: &PeerId, file: FileOffer) -> Arc<dyn FileSending> {
        self.note(format!("file {} to {}", file.name, peer.contact));
        FakeSending::new().0
    }

    fn dbus_tube(&self, peer: &PeerId, _: TubeId) -> Arc<dyn DBusTubeOffering> {
        self.note(format!("D-Bus tube to {}", peer.contact));
        FakeDBusOffering::new().0
    }

    fn self_key(&self) -> KeyId {
        KeyId([1; 32])
    }

    fn pin(&self, contact: &ContactId, _: Option<KeyId>) -> BoxFuture<'static, Result<()>> {
        self.pinned.lock().unwrap().push(contact.clone());
        Box::pin(async { Ok(()) })
    }

    fn verify(&self, _: &ContactId, _: &str, _: bool) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.lock().unwrap().clone()
    }

    fn set_rule(&self, scope: Scope, terms: Option<Terms>) -> BoxFuture<'static, Result<()>> {
        let mut policy = self.policy.lock().unwrap();
        let changed = Arc::make_mut(&mut policy);
        match terms {
            Some(terms) => changed.set(scope, terms).unwrap(),
            None => drop(changed.remove(&scope)),
        }
        Box::pin(async { Ok(()) })
    }

    fn forget(&self, _: &ContactId) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

#[derive(Default)]
pub struct TestNetwork {
    pub sessions: Mutex<Vec<Arc<TestSession>>>,
    pub stuck: bool,
    pub slow: bool,
    pub panics: bool,
    /// The next start fails.
    pub fails: AtomicBool,
    /// Another program has the profile.
    pub taken: AtomicBool,
    /// The next start waits for this.
    pub hold: Mutex<Option<Pending<()>>>,
}

pub struct NetworkHandle(Arc<TestNetwork>);

impl SessionFactory for NetworkHandle {
    fn start(&self, _: &Account) -> BoxFuture<'static, Result<StartedSession>> {
        let network = self.0.clone();
        let hold = network.hold.lock().unwrap().take();
        Box::pin(async move {
            if let Some(hold) = hold {
                hold.wait().await.ok();
            }
            assert!(!network.panics, "the network was told to panic");
            if network.taken.load(Ordering::Relaxed) {
                return Err(Error::AlreadyConnected("another has it".into()));
            }
            if network.fails.swap(false, Ordering::Relaxed) {
                return Err(Error::NetworkError("unplugged".into()));
            }
            let (sender, events) = async_channel::bounded(64);
            let session = Arc::new(TestSession {
                events: sender,
                log: Mutex::default(),
                pinned: Mutex::default(),
                signalling: FakeSignalling::new(),
                policy: Mutex::default(),
                stuck: network.stuck,
                slow: network.slow,
            });
            network.sessions.lock().unwrap().push(session.clone());
            Ok((session as Arc<dyn Session>, events))
        })
    }
}

pub struct World {
    pub sim: Sim,
    pub tree: Arc<TestTree>,
    pub opener: Arc<TestOpener>,
    pub network: Arc<TestNetwork>,
    pub manager: ManagerHandle,
    pub faults: Faults<Point>,
}

impl World {
    pub fn new() -> Self {
        World::with(TestNetwork::default())
    }

    pub fn with(network: TestNetwork) -> Self {
        let sim = Sim::new();
        let (tree, opener) = (Arc::<TestTree>::default(), Arc::<TestOpener>::default());
        let network = Arc::new(network);
        let clock: Arc<dyn Clock> = sim.clock.clone();
        let for_sockets = clock.clone();
        let faults = Faults::counting();
        let manager = ManagerHandle::start(
            &sim.spawner,
            &clock,
            ManagerConfig {
                tree: Arc::new(TreeHandle(tree.clone())),
                opener: Arc::new(OpenerHandle(opener.clone())),
                sessions: Arc::new(NetworkHandle(network.clone())),
                faults: faults.clone(),
                sockets: Arc::new(move |_| {
                    let config = EndpointConfig {
                        socket_directory: "/nowhere".into(),
                        any_local_user: false,
                    };
                    Arc::new(SystemSockets::new(config, for_sockets.clone()))
                }),
            },
        );
        World {
            sim,
            tree,
            opener,
            network,
            manager,
            faults,
        }
    }

    pub fn account(name: &str) -> Account {
        let given = |text: &str| Given::Text(text.into());
        let parameters = GivenMap::from([
            ("published-name".to_owned(), given(name)),
            ("pneuma-profile".to_owned(), given(name)),
        ]);
        Account::new(&parameters, "login").unwrap()
    }

    pub fn request(&self, name: &str) -> Result<ConnectionHandle> {
        self.sim.run(self.manager.request(World::account(name)))
    }

    pub fn session(&self) -> Arc<TestSession> {
        self.network.sessions.lock().unwrap()[0].clone()
    }

    pub fn happens(&self, event: SessionEvent) {
        let session = self.session();
        self.sim
            .run(async move { session.events.send(event).await.unwrap() });
        self.sim.settle();
    }

    /// Online, with Bob, who can take tubes.
    pub fn online(&self) -> (ConnectionHandle, ContactHandle) {
        let connection = self.request("ada").unwrap();
        self.sim
            .run(connection.ask(|reply| ConnectionMessage::Connect { reply }))
            .unwrap();
        self.sim.settle();
        let features = [ns::TUBES.to_owned(), ns::PNEUMA.to_owned()];
        self.happens(SessionEvent::Contact(Contact {
            id: ContactId("bob@there".into()),
            alias: String::new(),
            presence: Presence {
                show: Show::Available,
                message: String::new(),
            },
            features: Some(Arc::new(features.into())),
            key: None,
            trust: Trust::Unpinned,
        }));
        let bob = connection
            .view
            .get()
            .contacts
            .by_id("bob@there")
            .unwrap()
            .handle;
        self.tree.log.lock().unwrap().clear();
        (connection, bob)
    }

    /// Asks for a channel; the answer arrives later.
    pub fn ask(
        &self,
        connection: &ConnectionHandle,
        contact: ContactHandle,
        ensure: bool,
    ) -> Pending<Result<CreatedChannel>> {
        let (reply, pending) = Reply::new();
        let message = ConnectionMessage::RequestChannel {
            request: ChannelRequest {
                target: Target::Handle(contact),
                wanted: Wanted::StreamTube(ServiceName::new("http").unwrap()),
                claimed: false,
            },
            ensure,
            reply,
        };
        self.sim.run(connection.address.tell(message)).unwrap();
        self.sim.settle();
        pending
    }

    /// The last channel is open from now on: somebody uses what is offered.
    pub fn opens(&self) {
        let views = self.opener.views.lock().unwrap();
        let view = views.last().expect("a channel");
        let before = StreamTubeView::clone(&view.get());
        view.publish(StreamTubeView {
            state: TubeState::Open,
            ..before
        });
    }

    pub fn answer(&self, pending: Pending<Result<CreatedChannel>>) -> Result<CreatedChannel> {
        self.sim.run(pending.wait()).unwrap()
    }

    /// Nothing is left when everything has ended.
    pub fn ends(self) {
        self.sim.run(self.manager.shutdown());
        self.sim.settle();
        assert_eq!(self.sim.spawner.running(), 0);
        assert_eq!(*self.manager.connections().get(), 0);
    }
}

pub fn offered(tube: u32) -> SessionEvent {
    SessionEvent::TubeOffered {
        from: bob(),
        tube: TubeId(tube),
        service: ServiceName::new("rfb").unwrap(),
        parameters: TubeParameters::default(),
    }
}

pub fn bob() -> PeerId {
    PeerId {
        contact: ContactId("bob@there".into()),
        resource: None,
    }
}
