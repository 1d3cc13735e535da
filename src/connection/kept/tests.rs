//! The keeper on virtual time: records in memory, sessions and supervisor that are not there.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use actors::{
    model::{ChannelId, Error, Result, ServiceName, SocketAddress},
    runtime::{BoxFuture, Clock, Pending, Reply, Task},
    stream_tube::StreamTubeMessage,
};

use super::{
    Condition, KeptHandle,
    record::{KeptTube, Record, Way},
    store::Records,
};
use crate::{
    connection::{
        message::{ConnectionHandle, ConnectionMessage},
        tests::fakes::{TestNetwork, TestSession, World},
        view::Status,
    },
    session::{
        Contact, ContactId, Presence, SessionEvent, Show, Trust,
        trust::{Decision, KeyId, Scope, Terms, Who},
    },
    xmpp::ns,
};

mod others;

const KEY: KeyId = KeyId([7; 32]);

/// Records in memory.
#[derive(Default)]
struct Memory {
    record: Mutex<Option<Record>>,
    /// Nothing can be written.
    full: AtomicBool,
    /// The next that is written waits for this.
    hold: Mutex<Option<Pending<()>>>,
}

impl Records for Arc<Memory> {
    fn profiles(&self) -> BoxFuture<'static, Vec<String>> {
        let record = self.record.lock().unwrap();
        let names = record.iter().map(|record| record.account.profile.clone());
        Box::pin(std::future::ready(names.collect()))
    }

    fn load(&self, _: &str, _: SystemTime) -> BoxFuture<'static, Result<Option<Record>>> {
        let record = self.record.lock().unwrap().clone();
        Box::pin(std::future::ready(Ok(record)))
    }

    fn save(&self, record: Record) -> BoxFuture<'static, Result<Record>> {
        let saved = if self.full.load(Ordering::Relaxed) {
            Err(Error::Confused("the disk is full".into()))
        } else {
            *self.record.lock().unwrap() = Some(record.clone());
            Ok(record)
        };
        let hold = self.hold.lock().unwrap().take();
        Box::pin(async move {
            if let Some(hold) = hold {
                hold.wait().await.ok();
            }
            saved
        })
    }
}

fn address() -> SocketAddress {
    SocketAddress::Ipv4("127.0.0.1:80".parse().unwrap())
}

/// An offer to Bob.
fn offer(service: &str) -> KeptTube {
    KeptTube {
        contact: "bob@there".into(),
        key: KEY,
        service: ServiceName::new(service).unwrap(),
        way: Way::Offer(address()),
        any_local_user: false,
    }
}

/// What Ada keeps.
fn record() -> Record {
    let mut record = Record::new(World::account("ada"));
    record.keep(offer("http")).unwrap();
    record
}

struct Kept {
    world: World,
    memory: Arc<Memory>,
    keeper: KeptHandle,
}

impl Kept {
    fn new(record: Option<Record>) -> Self {
        Kept::with(TestNetwork::default(), record)
    }

    fn with(network: TestNetwork, record: Option<Record>) -> Self {
        let world = World::with(network);
        let memory = Arc::new(Memory::default());
        *memory.record.lock().unwrap() = record;
        let clock: Arc<dyn Clock> = world.sim.clock.clone();
        let records: Arc<dyn Records> = Arc::new(memory.clone());
        let keeper = KeptHandle::with(&world.sim.spawner, &clock, &world.manager, Some(records));
        keeper.restore();
        world.sim.settle();
        Kept {
            world,
            memory,
            keeper,
        }
    }

    /// Somebody asks for a connection and has it connect.
    fn brought_online(&self) -> ConnectionHandle {
        let request = self.keeper.request(World::account("ada"));
        let connection = self.world.sim.run(request).unwrap();
        let connecting = connection.ask(|reply| ConnectionMessage::Connect { reply });
        self.world.sim.run(connecting).unwrap();
        self.world.sim.settle();
        connection
    }

    fn sessions(&self) -> Vec<Arc<TestSession>> {
        self.world.network.sessions.lock().unwrap().clone()
    }

    /// Bob, as the last session sees him.
    fn bob(&self, show: Show, key: KeyId, trust: Trust) {
        let features = [ns::TUBES.to_owned(), ns::PNEUMA.to_owned()];
        let bob = SessionEvent::Contact(Contact {
            id: ContactId("bob@there".into()),
            alias: String::new(),
            presence: Presence {
                show,
                message: String::new(),
            },
            features: Some(Arc::new(features.into())),
            key: Some(key),
            trust,
        });
        let session = self.sessions().pop().unwrap();
        session.events.try_send(bob).unwrap();
        self.world.sim.settle();
    }

    fn friend(&self) {
        self.bob(Show::Available, KEY, Trust::Pinned { since: UNIX_EPOCH });
    }

    /// Ada's rule for everybody she has dealt with.
    fn rule(&self, service: &str, decision: Option<Decision>) {
        let scope = Scope {
            who: Who::Pinned,
            service: ServiceName::new(service).ok(),
        };
        let terms = decision.map(|decision| Terms {
            decision,
            ..Terms::default()
        });
        let connection = self.connection();
        let changing = connection.set_rule(scope, terms);
        self.world.sim.run(changing).unwrap();
        self.world.sim.settle();
    }

    fn tubes(&self) -> usize {
        self.world.opener.tubes.lock().unwrap().len()
    }

    /// Answers the last tube's Offer.
    fn offered(&self) {
        let messages = self
            .world
            .opener
            .tubes
            .lock()
            .unwrap()
            .last_mut()
            .unwrap()
            .drain();
        let [
            StreamTubeMessage::Offer {
                address: given,
                reply,
                ..
            },
        ] = <[_; 1]>::try_from(messages).ok().expect("one message")
        else {
            panic!("the tube was told something else");
        };
        assert_eq!(given, address());
        reply.answer(Ok(()));
        self.world.sim.settle();
    }

    /// Ada offers Bob a service for good; what comes of it is known once Offer is answered.
    fn keeps(&self, service: &str) -> Task<Result<u32>> {
        let (keeper, connection) = (self.keeper.clone(), self.connection());
        let view = connection.view.get();
        let bob = view.contacts.by_id("bob@there").unwrap().handle;
        let service = ServiceName::new(service).unwrap();
        let asking = self.world.sim.spawner.spawn("user", async move {
            let kept = keeper.offer(&connection, bob, service, address()).await;
            kept.map(|(number, _)| number)
        });
        self.world.sim.settle();
        asking
    }

    /// Ada ends what she keeps as `k1`; done once its channel is closed.
    fn ends_first(&self) -> Task<Result<()>> {
        let (keeper, connection) = (self.keeper.clone(), self.connection());
        let closing = async move { keeper.close(&connection, 1).await };
        let closing = self.world.sim.spawner.spawn("user", closing);
        self.world.sim.settle();
        closing
    }

    /// The last session is lost.
    fn fails(&self) {
        let lost = SessionEvent::Disconnected(Error::NetworkError("unplugged".into()));
        let session = self.sessions().pop().unwrap();
        session.events.try_send(lost).unwrap();
        self.world.sim.settle();
    }

    /// Another client wants a connection.
    fn another(&self) -> Result<ConnectionHandle> {
        let request = self.keeper.request(World::account("ada"));
        self.world.sim.run(request)
    }

    /// The last connection, whoever asked for it.
    fn connection(&self) -> ConnectionHandle {
        self.world.tree.published.lock().unwrap().clone().unwrap()
    }

    /// Another client requests a tube to Bob on it.
    fn somebody_else_s(&self) -> ChannelId {
        let connection = self.connection();
        let bob = connection.view.get().contacts.by_id("bob@there").cloned();
        let asked = self.world.ask(&connection, bob.unwrap().handle, false);
        self.world.answer(asked).unwrap().details.id
    }

    /// The last tube closes, as the other side wants it.
    fn closes(&self, connection: &ConnectionHandle) {
        let id = *connection.view.get().channels.keys().next_back().unwrap();
        self.closed(connection, id);
    }

    fn closed(&self, connection: &ConnectionHandle, id: ChannelId) {
        let closed = ConnectionMessage::ChannelClosed(id);
        let told = connection.address.try_tell_first(closed);
        assert!(told.is_ok());
        self.world.sim.settle();
    }

    fn condition(&self) -> Condition {
        let [kept] = <[_; 1]>::try_from(self.keeper.of("ada")).expect("one kept tube");
        kept.condition
    }

    fn waits_for(&self, part: &str) {
        let condition = self.condition();
        let Condition::Waiting(why) = &condition else {
            panic!("{condition:?}");
        };
        assert!(why.contains(part), "{why}");
    }

    /// Nothing is left when everything has ended.
    fn ends(self) {
        self.keeper.stop();
        self.world.sim.settle();
        let written = self.memory.record.lock().unwrap().clone();
        // Tubes that nobody answers hold their closing; they are gone with the opener.
        self.world.opener.tubes.lock().unwrap().clear();
        self.world.ends();
        // That a service ends takes no account offline.
        assert_eq!(*self.memory.record.lock().unwrap(), written);
    }
}

#[test]
fn what_was_kept_is_made_with_the_very_contact_and_nobody_else() {
    let kept = Kept::new(Some(record()));
    assert_eq!(kept.sessions().len(), 1, "the account goes online");
    kept.waits_for("not on the network");
    kept.bob(Show::Available, KEY, Trust::Unpinned);
    kept.waits_for("not the contact you trusted");
    kept.bob(
        Show::Available,
        KeyId([8; 32]),
        Trust::Pinned { since: UNIX_EPOCH },
    );
    kept.waits_for("not the contact you trusted");
    kept.bob(Show::Offline, KEY, Trust::Pinned { since: UNIX_EPOCH });
    kept.waits_for("not on the network");
    assert_eq!(kept.tubes(), 0);
    kept.friend();
    assert_eq!(kept.tubes(), 1);
    kept.offered();
    assert!(matches!(kept.condition(), Condition::Running(_)));
    kept.ends();
}

#[test]
fn a_connection_that_fails_is_made_again_and_one_that_somebody_ends_is_not() {
    let kept = Kept::new(Some(record()));
    let lost = SessionEvent::Disconnected(Error::NetworkError("unplugged".into()));
    kept.sessions()[0].events.try_send(lost).unwrap();
    kept.world.sim.settle();
    assert_eq!(kept.sessions().len(), 2, "once more");
    kept.friend();
    kept.offered();
    // Somebody brings another connection online, and ends it.
    let request = kept.keeper.request(World::account("ada"));
    let connection = kept.world.sim.run(request).unwrap();
    assert_eq!(kept.sessions().len(), 3);
    assert!(
        kept.sessions()[1]
            .log
            .lock()
            .unwrap()
            .contains(&"disconnect".to_owned())
    );
    kept.world.sim.advance(Duration::from_secs(2));
    kept.waits_for("offline");
    let connecting = connection.ask(|reply| ConnectionMessage::Connect { reply });
    kept.world.sim.run(connecting).unwrap();
    kept.world.sim.settle();
    assert_eq!(connection.view.get().status, Status::Connected);
    kept.friend();
    assert_eq!(kept.tubes(), 2, "the tubes move along");
    kept.offered();
    kept.world.sim.run(connection.disconnect());
    kept.world.sim.advance(Duration::from_secs(3600));
    assert_eq!(kept.sessions().len(), 3, "it stays offline");
    kept.waits_for("offline");
    // So it does in the service that comes next, until somebody brings it online.
    let written = kept.memory.record.lock().unwrap().clone().unwrap();
    assert!(written.offline);
    let next = Kept::new(Some(written));
    next.waits_for("offline");
    assert_eq!(next.sessions().len(), 0);
    next.brought_online();
    assert_eq!(*next.memory.record.lock().unwrap(), Some(record()));
    next.ends();
    // A second client does not get a connection that is not ours out of the way.
    let request = kept.keeper.request(World::account("ada"));
    kept.world.sim.run(request).unwrap();
    let request = kept.keeper.request(World::account("ada"));
    assert!(matches!(
        kept.world.sim.run(request),
        Err(Error::NotAvailable(_))
    ));
    kept.ends();
}

#[test]
fn connections_that_fail_at_once_are_made_more_and_more_seldom() {
    let kept = Kept::new(Some(record()));
    let mut pauses = Vec::new();
    for round in 1..12 {
        assert_eq!(kept.sessions().len(), round);
        kept.fails();
        let before = kept.world.sim.now();
        while kept.sessions().len() == round {
            kept.world.sim.advance(Duration::from_secs(1));
        }
        pauses.push((kept.world.sim.now() - before).as_secs());
    }
    assert_eq!(pauses, [0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    // One that has lasted is made again at once.
    kept.world.sim.advance(Duration::from_secs(60));
    kept.fails();
    assert_eq!(kept.sessions().len(), 13);
    kept.ends();
}

#[test]
fn nothing_is_promised_that_is_not_written_down() {
    let kept = Kept::new(None);
    assert_eq!(kept.sessions().len(), 0, "nothing kept, nobody online");
    let connection = kept.brought_online();
    kept.friend();
    let bob = connection
        .view
        .get()
        .contacts
        .by_id("bob@there")
        .unwrap()
        .handle;
    let keep = || {
        let (keeper, connection) = (kept.keeper.clone(), connection.clone());
        let asking = kept.world.sim.spawner.spawn("user", async move {
            let service = ServiceName::new("http").unwrap();
            keeper.offer(&connection, bob, service, address()).await
        });
        kept.world.sim.settle();
        kept.offered();
        asking
    };
    kept.memory.full.store(true, Ordering::Relaxed);
    let refused = kept.world.sim.run(keep()).unwrap();
    assert!(matches!(refused, Err(Error::Confused(why)) if why.contains("full")));
    kept.world.sim.settle();
    let told = kept.world.opener.tubes.lock().unwrap()[0].drain();
    assert!(
        matches!(told[..], [StreamTubeMessage::Close { .. }]),
        "it is closed again"
    );
    drop(told);
    assert!(kept.keeper.of("ada").is_empty());
    kept.memory.full.store(false, Ordering::Relaxed);
    let (number, _) = kept.world.sim.run(keep()).unwrap().unwrap();
    assert_eq!(number, 1);
    assert_eq!(kept.memory.record.lock().unwrap().as_ref(), Some(&record()));
    // Neither is what is closed forgotten before that is written down.
    kept.memory.full.store(true, Ordering::Relaxed);
    let closing = kept.world.sim.run(kept.keeper.close(&connection, 1));
    assert!(closing.is_err());
    assert!(matches!(kept.condition(), Condition::Running(_)));
    let wrong = kept.world.sim.run(kept.keeper.close(&connection, 2));
    assert!(matches!(wrong, Err(Error::NotAvailable(_))));
    kept.memory.full.store(false, Ordering::Relaxed);
    let (keeper, of) = (kept.keeper.clone(), connection.clone());
    let closing = kept
        .world
        .sim
        .spawner
        .spawn("user", async move { keeper.close(&of, 1).await });
    kept.world.sim.settle();
    let told = kept.world.opener.tubes.lock().unwrap()[1].drain();
    assert!(matches!(told[..], [StreamTubeMessage::Close { .. }]));
    drop(told);
    kept.closes(&connection);
    // The channel that could not be kept was the first.
    kept.world.sim.run(closing).unwrap().unwrap();
    assert!(kept.keeper.of("ada").is_empty());
    assert!(
        kept.memory
            .record
            .lock()
            .unwrap()
            .as_ref()
            .unwrap()
            .tubes
            .is_empty()
    );
    kept.ends();
}

#[test]
fn what_ends_with_our_own_connection_was_not_turned_down() {
    let kept = Kept::new(Some(record()));
    for round in 1..4 {
        kept.friend();
        assert_eq!(kept.tubes(), round);
        kept.offered();
        let lost = SessionEvent::Disconnected(Error::NetworkError("unplugged".into()));
        let session = kept.sessions().pop().unwrap();
        session.events.try_send(lost).unwrap();
        // It goes online again after 0, 2 and 4 seconds.
        kept.world.sim.advance(Duration::from_secs(4));
        assert_eq!(kept.sessions().len(), round + 1);
    }
    kept.friend();
    kept.offered();
    kept.closes(&kept.connection());
    kept.waits_for("made again in 1 s");
    kept.ends();
}

#[test]
fn offers_that_are_turned_down_come_more_and_more_seldom() {
    let kept = Kept::new(None);
    *kept.memory.record.lock().unwrap() = Some(record());
    let connection = kept.brought_online();
    kept.friend();
    let mut pauses = Vec::new();
    for round in 1..8 {
        assert_eq!(kept.tubes(), round);
        kept.offered();
        kept.closes(&connection);
        kept.waits_for("made again in");
        let before = kept.world.sim.now();
        while kept.tubes() == round {
            kept.world.sim.advance(Duration::from_secs(1));
        }
        pauses.push((kept.world.sim.now() - before).as_secs());
    }
    assert_eq!(pauses, [1, 4, 16, 64, 256, 300, 300]);
    kept.ends();
}

#[test]
fn nothing_is_opened_for_whom_the_policy_denies_it_until_the_rule_goes() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    kept.rule("http", Some(Decision::Deny));
    let told = kept.world.opener.tubes.lock().unwrap()[0].drain();
    assert!(matches!(told[..], [StreamTubeMessage::Close { .. }]));
    drop(told);
    kept.closes(&kept.connection());
    kept.world.sim.advance(Duration::from_secs(3600));
    assert_eq!(kept.tubes(), 1, "no channel is made to be refused");
    kept.waits_for("your policy denies bob@there the service http");
    // Another rule changes nothing, and neither does a contact that goes and comes.
    kept.rule("rfb", Some(Decision::Allow));
    kept.bob(Show::Offline, KEY, Trust::Pinned { since: UNIX_EPOCH });
    kept.friend();
    assert_eq!(kept.tubes(), 1);
    kept.waits_for("your policy denies");
    kept.rule("http", None);
    assert_eq!(kept.tubes(), 2, "at once");
    kept.offered();
    assert!(matches!(kept.condition(), Condition::Running(_)));
    kept.ends();
}

#[test]
fn offers_that_are_used_come_again_as_soon_as_ever() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    for pause in ["1 s", "4 s"] {
        kept.offered();
        kept.closes(&kept.connection());
        kept.waits_for(&format!("made again in {pause}"));
        kept.world.sim.advance(Duration::from_secs(4));
    }
    kept.offered();
    kept.world.opens();
    kept.closes(&kept.connection());
    kept.waits_for("made again in 1 s");
    kept.ends();
}

#[test]
fn nothing_is_kept_with_a_contact_whose_key_nobody_knows() {
    let kept = Kept::new(None);
    kept.brought_online();
    kept.bob(Show::Available, KEY, Trust::Unpinned);
    let asking = kept.keeps("http");
    kept.offered();
    // Our user has dealt with it; the session is to show that.
    kept.world.sim.advance(Duration::from_secs(4));
    assert!(!asking.is_finished());
    kept.world.sim.advance(Duration::from_secs(2));
    let refused = kept.world.sim.run(asking).unwrap();
    assert!(matches!(refused, Err(Error::NotAvailable(why)) if why.contains("key")));
    assert!(kept.keeper.of("ada").is_empty());
    let told = kept.world.opener.tubes.lock().unwrap()[0].drain();
    assert!(matches!(told[..], [StreamTubeMessage::Close { .. }]));
    drop(told);
    let asking = kept.keeps("http");
    kept.offered();
    kept.friend();
    assert_eq!(kept.world.sim.run(asking).unwrap(), Ok(1));
    kept.ends();
}

#[test]
fn the_account_goes_online_again_as_it_was_when_the_last_was_kept() {
    let mut before = record();
    before.account.published_name = "lovelace".into();
    before.offline = true;
    let kept = Kept::new(Some(before));
    kept.brought_online();
    kept.friend();
    let asking = kept.keeps("rfb");
    kept.offered();
    assert_eq!(kept.world.sim.run(asking).unwrap(), Ok(2));
    let mut both = record();
    both.keep(offer("rfb")).unwrap();
    assert_eq!(*kept.memory.record.lock().unwrap(), Some(both));
    kept.ends();
}

#[test]
fn a_connection_that_is_lost_while_something_is_written_down_is_made_again() {
    let kept = Kept::new(None);
    kept.brought_online();
    kept.friend();
    let asking = kept.keeps("http");
    let (written, hold) = Reply::new();
    *kept.memory.hold.lock().unwrap() = Some(hold);
    kept.offered();
    assert!(!asking.is_finished(), "it is not written down");
    kept.fails();
    written.answer(());
    kept.world.sim.settle();
    assert_eq!(kept.sessions().len(), 2, "once more");
    kept.friend();
    kept.offered();
    assert!(matches!(kept.condition(), Condition::Running(_)));
    drop(asking);
    kept.ends();
}

#[test]
fn a_tube_that_is_ended_is_closed_when_that_is_answered() {
    let kept = Kept::new(Some(record()));
    kept.friend();
    kept.offered();
    let ending = kept.ends_first();
    assert!(kept.keeper.of("ada").is_empty());
    assert!(!ending.is_finished(), "its channel is there");
    kept.closes(&kept.connection());
    assert_eq!(kept.world.sim.run(ending).unwrap(), Ok(()));
    // A channel that never ends is waited for no longer than it takes others.
    let asking = kept.keeps("http");
    kept.offered();
    kept.world.sim.run(asking).unwrap().unwrap();
    let ending = kept.ends_first();
    kept.world.sim.advance(Duration::from_secs(9));
    assert!(!ending.is_finished());
    kept.world.sim.advance(Duration::from_secs(2));
    assert!(ending.is_finished());
    kept.ends();
}
