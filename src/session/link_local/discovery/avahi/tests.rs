//! A daemon that is not there: it answers over a connection in memory, on virtual time, and is absent,
//! silent or lying when told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use actors::testing::Sim;
use serde::Serialize;
use zbus::{
    DynamicType, Guid, Message, OwnedObjectPath, connection::socket::Channel, message::Type,
};

use super::*;
use crate::session::link_local::discovery::{Method, responder::PACE};

const OWNER: &str = ":1.7";
const MOST_CONNECTIONS: usize = 20;
const BUS: &str = "org.freedesktop.DBus";

/// What the daemon does, and what was asked of it.
#[derive(Default)]
struct Inner {
    /// Whether somebody owns the name.
    absent: bool,
    /// Whether it answers.
    silent: bool,
    /// Names that it has already.
    taken: BTreeSet<String>,
    connection: Option<Connection>,
    /// How often somebody connected.
    opened: usize,
    objects: usize,
    /// Names by the resolver made for them.
    resolvers: BTreeMap<String, String>,
    log: Vec<String>,
}

/// A connection in memory: the daemon's end and ours.
fn pair(sim: &Sim) -> (Connection, Connection) {
    let (its, ours) = Channel::pair();
    let guid = Guid::generate();
    let build = |end| {
        let runtime = OurRuntime::new(sim.spawner.clone());
        let builder = Builder::authenticated_socket(end, guid.clone());
        builder.p2p().runtime(runtime).build()
    };
    let both = future::zip(build(its), build(ours));
    let (server, client) = smol::block_on(sim.spawner.executor().run(both));
    (server.unwrap(), client.unwrap())
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Connections made beforehand, because making one takes a thread and thereby real time.
    fn open(&self, sim: &Sim) -> Open {
        let made: Vec<_> = (0..MOST_CONNECTIONS).map(|_| pair(sim)).collect();
        let (fake, spawner, made) = (self.clone(), sim.spawner.clone(), Mutex::new(made));
        Arc::new(move || {
            let (server, client) = made.lock().unwrap().pop().expect("fewer connections");
            fake.with(|fake| {
                fake.opened += 1;
                fake.connection = Some(server.clone());
            });
            // What comes before somebody reads is lost.
            let stream = MessageStream::from(&server);
            let serving = fake.clone().serve(server, stream);
            spawner.spawn("fake Avahi", serving).detach();
            Box::pin(future::ready(Ok(client)))
        })
    }

    async fn serve(self, server: Connection, mut stream: MessageStream) {
        while let Some(Ok(message)) = stream.next().await {
            if message.message_type() == Type::MethodCall {
                self.answer(&server, &message).await;
            }
        }
    }

    async fn answer(&self, server: &Connection, call: &Message) {
        let header = call.header();
        let member = header.member().unwrap().to_string();
        let path = header.path().unwrap().to_string();
        let to_bus = header.destination().is_some_and(|name| name == BUS);
        self.with(|fake| fake.log.push(member.clone()));
        if !to_bus && self.with(|fake| fake.silent) {
            return;
        }
        let object = |kind: &str| {
            let number = self.with(|fake| {
                fake.objects += 1;
                fake.objects
            });
            OwnedObjectPath::try_from(format!("/{kind}{number}")).unwrap()
        };
        let body = call.body();
        let refused = |name: &'static str| async move {
            let error = Message::error(&call.header(), name).build(&"no").unwrap();
            server.send(&error).await.unwrap();
        };
        match member.as_str() {
            "GetNameOwner" if self.with(|fake| fake.absent) => {
                refused("org.freedesktop.DBus.Error.NameHasNoOwner").await;
            }
            "GetNameOwner" => server.reply(&header, &OWNER).await.unwrap(),
            "GetState" => server.reply(&header, &2_i32).await.unwrap(),
            "ServiceBrowserPrepare" => server.reply(&header, &object("browser")).await.unwrap(),
            "EntryGroupNew" => server.reply(&header, &object("group")).await.unwrap(),
            "ServiceResolverPrepare" => {
                type Body = (i32, i32, String, String, String, i32, u32);
                let (_, _, name, ..) = body.deserialize::<Body>().unwrap();
                let made = object("resolver");
                self.with(|fake| fake.resolvers.insert(made.to_string(), name));
                server.reply(&header, &made).await.unwrap();
            }
            "AddService" => {
                type Body = (
                    i32,
                    i32,
                    u32,
                    String,
                    String,
                    String,
                    String,
                    u16,
                    wire::Txt,
                );
                let (_, _, _, name, ..) = body.deserialize::<Body>().unwrap();
                self.with(|fake| fake.log.push(name.clone()));
                if self.with(|fake| fake.taken.contains(&name)) {
                    return refused("org.freedesktop.Avahi.CollisionError").await;
                }
                server.reply(&header, &()).await.unwrap();
            }
            "Commit" => {
                server.reply(&header, &()).await.unwrap();
                let group = "org.freedesktop.Avahi.EntryGroup";
                self.signal(OWNER, &path, group, "StateChanged", &(2_i32, ""))
                    .await;
            }
            _ => server.reply(&header, &()).await.unwrap(),
        }
    }

    async fn signal<B: Serialize + DynamicType>(
        &self,
        sender: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: &B,
    ) {
        let signal = Message::signal(path, interface, member)
            .sender(sender)
            .build(body)
            .unwrap();
        let connection = self.with(|fake| fake.connection.clone()).unwrap();
        connection.send(&signal).await.unwrap();
    }

    async fn owner_changes(&self, owner: &str) {
        self.with(|fake| fake.absent = owner.is_empty());
        let body = (wire::AVAHI, "", owner);
        self.signal(BUS, "/org/freedesktop/DBus", BUS, "NameOwnerChanged", &body)
            .await;
    }

    async fn browsed(&self, sender: &str, member: &str, name: &str) {
        let body = (2_i32, 0_i32, name, SERVICE, "local", 0_u32);
        let browser = "org.freedesktop.Avahi.ServiceBrowser";
        self.signal(sender, "/browser1", browser, member, &body)
            .await;
    }

    /// Answers for the resolver that was made for somebody.
    async fn found(&self, sender: &str, resolver: &str, name: &str, message: &str) {
        let txt = vec![
            format!("msg={message}").into_bytes(),
            b"=odd".to_vec(),
            vec![0xff],
        ];
        let body = (
            2_i32,
            0_i32,
            name,
            SERVICE,
            "local",
            "h.local",
            0_i32,
            "169.254.1.2",
            5298_u16,
            txt,
            0_u32,
        );
        let interface = "org.freedesktop.Avahi.ServiceResolver";
        self.signal(sender, resolver, interface, "Found", &body)
            .await;
    }

    fn resolver_of(&self, name: &str) -> Option<String> {
        self.with(|fake| {
            let mut made = fake.resolvers.iter();
            made.find(|(_, each)| *each == name)
                .map(|(path, _)| path.clone())
        })
    }

    fn asked(&self, member: &str) -> usize {
        self.with(|fake| fake.log.iter().filter(|each| *each == member).count())
    }
}

fn settings(sim: &Sim, fake: &Fake) -> Settings {
    Settings {
        method: Method::Avahi,
        port: 5353,
        interface: None,
        key: KeyId([1; 32]),
        spawner: sim.spawner.clone(),
        clock: sim.clock.clone(),
        bus: fake.open(sim),
    }
}

/// Goes on until something is heard.
async fn hears(avahi: &mut Avahi) -> Heard {
    avahi.next().await
}

/// Goes on for a time in which nothing is heard.
async fn quiet(sim: &Sim, avahi: &mut Avahi, time: Duration) {
    let heard = within(&*sim.clock, time, avahi.next()).await;
    assert_eq!(heard, None);
}

fn with_fake(test: impl AsyncFnOnce(&Sim, Fake, Avahi)) {
    let sim = Sim::new();
    let fake = Fake::default();
    sim.run(async {
        let avahi = Avahi::begin(&settings(&sim, &fake), None, 5298).await;
        test(&sim, fake, avahi.unwrap()).await;
    });
}

fn seen(heard: &Heard) -> (&str, &str) {
    let Heard::Seen(sighting) = heard else {
        panic!("{heard:?}");
    };
    (&sighting.instance, &sighting.text.message)
}

#[test]
fn a_daemon_that_is_absent_or_silent_is_found_out_in_time() {
    for (absent, silent, at_most) in [(true, false, 0), (false, true, FIRST.as_secs())] {
        let sim = Sim::new();
        let fake = Fake::default();
        fake.with(|fake| (fake.absent, fake.silent) = (absent, silent));
        let begun = sim.run(async { Avahi::begin(&settings(&sim, &fake), None, 5298).await });
        assert!(matches!(begun, Err(Error::NetworkError(_))));
        assert_eq!(sim.now(), Duration::from_secs(at_most));
    }
}

#[test]
fn no_bus_at_all_is_found_out_at_once() {
    let sim = Sim::new();
    let fake = Fake::default();
    let settings = Settings {
        bus: Arc::new(|| Box::pin(async { Err(zbus::Error::InvalidReply) })),
        ..settings(&sim, &fake)
    };
    let begun = sim.run(async { Avahi::begin(&settings, None, 5298).await });
    assert!(matches!(begun, Err(Error::NetworkError(_))));
    assert_eq!(sim.now(), Duration::ZERO);
}

#[test]
fn we_are_announced_and_change_and_others_are_seen() {
    with_fake(async |sim, fake, mut avahi| {
        avahi
            .announce("ada@here", &PresenceText::default())
            .unwrap();
        assert_eq!(hears(&mut avahi).await, Heard::Announced("ada@here".into()));
        let away = PresenceText {
            message: "away".into(),
            ..PresenceText::default()
        };
        avahi.announce("ada@here", &away).unwrap();
        quiet(sim, &mut avahi, PACE / 2).await;
        assert_eq!(fake.asked("UpdateServiceTxt"), 0);
        quiet(sim, &mut avahi, PACE).await;
        assert_eq!(
            (fake.asked("AddService"), fake.asked("UpdateServiceTxt")),
            (1, 1)
        );

        fake.browsed(OWNER, "ItemNew", "bob@there").await;
        quiet(sim, &mut avahi, Duration::from_secs(1)).await;
        let resolver = fake.resolver_of("bob@there").unwrap();
        fake.found(OWNER, &resolver, "bob@there", "hello").await;
        assert_eq!(seen(&hears(&mut avahi).await), ("bob@there", "hello"));
        fake.found(OWNER, &resolver, "bob@there", "later").await;
        assert_eq!(seen(&hears(&mut avahi).await), ("bob@there", "later"));
        fake.browsed(OWNER, "ItemRemove", "bob@there").await;
        assert_eq!(hears(&mut avahi).await, Heard::Gone("bob@there".into()));

        avahi.goodbye().await;
        assert_eq!(fake.asked("Free"), 2, "the resolver and the group");
    });
}

#[test]
fn a_name_that_the_daemon_has_already_is_a_conflict() {
    with_fake(async |_, fake, mut avahi| {
        fake.with(|fake| fake.taken.insert("ada@here".into()));
        avahi
            .announce("ada@here", &PresenceText::default())
            .unwrap();
        assert_eq!(hears(&mut avahi).await, Heard::Conflict("ada@here".into()));
        avahi
            .announce("ada@here #2", &PresenceText::default())
            .unwrap();
        assert_eq!(
            hears(&mut avahi).await,
            Heard::Announced("ada@here #2".into())
        );
    });
}

#[test]
fn only_the_daemon_and_the_bus_are_believed() {
    with_fake(async |sim, fake, mut avahi| {
        for sender in [":1.66", BUS] {
            fake.browsed(sender, "ItemNew", "mallory@there").await;
        }
        let owner = (wire::AVAHI, OWNER, ":1.66");
        for sender in [":1.66", OWNER] {
            fake.signal(sender, "/", BUS, "NameOwnerChanged", &owner)
                .await;
        }
        fake.browsed(OWNER, "ItemNew", "bob@there").await;
        for name in ["", "a\u{202e}b", "line\nbreak", &"x".repeat(64)] {
            fake.browsed(OWNER, "ItemNew", name).await;
        }
        quiet(sim, &mut avahi, Duration::from_secs(1)).await;
        assert_eq!(fake.with(|fake| fake.resolvers.len()), 1);
        let resolver = fake.resolver_of("bob@there").unwrap();
        fake.found(":1.66", &resolver, "bob@there", "not me").await;
        fake.found(OWNER, "/resolver99", "bob@there", "nobody's")
            .await;
        quiet(sim, &mut avahi, Duration::from_secs(1)).await;
        fake.found(OWNER, &resolver, "bob@there", "me").await;
        assert_eq!(seen(&hears(&mut avahi).await), ("bob@there", "me"));
    });
}

#[test]
fn a_daemon_that_restarts_is_told_and_asked_anew() {
    with_fake(async |sim, fake, mut avahi| {
        avahi
            .announce("ada@here", &PresenceText::default())
            .unwrap();
        hears(&mut avahi).await;
        fake.owner_changes("").await;
        quiet(sim, &mut avahi, PATIENCE - Duration::from_secs(1)).await;
        fake.owner_changes(OWNER).await;
        assert_eq!(hears(&mut avahi).await, Heard::Again);
        assert_eq!(hears(&mut avahi).await, Heard::Announced("ada@here".into()));
        // The patience begins anew too.
        quiet(sim, &mut avahi, 2 * PATIENCE).await;
        assert_eq!(fake.with(|fake| fake.opened), 1);
        assert_eq!(fake.asked("ServiceBrowserPrepare"), 2);
    });
}

#[test]
fn a_daemon_that_stays_away_has_ended() {
    with_fake(async |sim, fake, mut avahi| {
        fake.owner_changes("").await;
        let before = sim.now();
        let heard = hears(&mut avahi).await;
        assert!(
            matches!(heard, Heard::Ended(Error::NetworkError(_))),
            "{heard:?}"
        );
        assert_eq!(sim.now() - before, PATIENCE);
    });
}

#[test]
fn a_daemon_that_hangs_is_noticed_and_forgets_us() {
    with_fake(async |sim, fake, mut avahi| {
        avahi
            .announce("ada@here", &PresenceText::default())
            .unwrap();
        hears(&mut avahi).await;
        fake.with(|fake| fake.silent = true);
        // It is asked now and then, and has its time to answer.
        quiet(
            sim,
            &mut avahi,
            state::CHECK + state::CALL + Duration::from_secs(5),
        )
        .await;
        assert!(fake.with(|fake| fake.opened) > 1);
        fake.with(|fake| fake.silent = false);
        assert_eq!(hears(&mut avahi).await, Heard::Again);
        assert_eq!(hears(&mut avahi).await, Heard::Announced("ada@here".into()));
    });
}

#[test]
fn a_daemon_that_hangs_for_good_has_ended_and_holds_up_no_goodbye() {
    with_fake(async |sim, fake, mut avahi| {
        fake.with(|fake| fake.silent = true);
        let heard = hears(&mut avahi).await;
        assert!(matches!(heard, Heard::Ended(_)), "{heard:?}");
        // It was asked to browse, and has not answered.
        assert_eq!(sim.now(), state::CALL + PATIENCE);
        avahi.goodbye().await;
        assert_eq!(sim.now(), state::CALL + PATIENCE);
    });
}
