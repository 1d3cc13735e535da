//! Clients, contacts and buses that die, or stop reading, in the middle of something.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    time::Duration,
};

use actors::{
    runtime::{Clock as _, Task},
    testing::VirtualClock,
};
use pneuma::client::{
    Bus, Kind, Result,
    sharing::{Filter, SERVICE, join, own},
};
use smol::{
    future::{FutureExt as _, yield_now},
    stream::StreamExt as _,
};
use support::PATIENCE;
use zbus::{Message, MessageStream, connection::Builder};

use crate::{
    halves::{Ground, NAME, PATH, PLAYER},
    hostile::soon,
};

const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
const PEER: &str = "org.freedesktop.DBus.Peer";
const OWN: &str = "org.example.Bobs";

/// The server's end of a D-Bus connection, which reads when it is told to and sees every byte.
struct Raw(BufReader<UnixStream>);

impl Raw {
    fn new(stream: UnixStream) -> Self {
        let patience = Some(PATIENCE);
        stream.set_read_timeout(patience).expect("a limit");
        Raw(BufReader::new(stream))
    }

    /// Lets whoever is there in.
    fn greet(mut self) -> Self {
        let mut line = String::new();
        while line != "BEGIN\r\n" {
            let answer = match line.trim_start_matches('\0').split(' ').next() {
                Some("AUTH") => "OK 0123456789abcdef0123456789abcdef\r\n",
                Some("") | None => "",
                Some(_) => "ERROR\r\n",
            };
            self.0.get_mut().write_all(answer.as_bytes()).expect("said");
            line.clear();
            assert_ne!(self.0.read_line(&mut line).expect("a line"), 0);
        }
        self
    }

    fn say(&mut self, message: &Message) {
        let bytes = message.data().bytes();
        self.0.get_mut().write_all(bytes).expect("said");
    }

    /// Waits until something is there, and leaves it there.
    fn wait(&mut self) {
        assert!(!self.0.fill_buf().expect("something").is_empty());
    }

    /// All of the next message.
    fn hear(&mut self) -> Vec<u8> {
        let mut message = vec![0; 16];
        self.0.read_exact(&mut message).expect("a message");
        assert!(
            message[0] == b'l' && message[3] == 1,
            "no message begins here: {message:?}"
        );
        let number = |at: usize| {
            let bytes = message[at..at + 4].try_into().expect("four");
            u32::from_le_bytes(bytes) as usize
        };
        let length = (16 + number(12)).next_multiple_of(8) + number(4);
        message.resize(length, 0);
        self.0.read_exact(&mut message[16..]).expect("its rest");
        message
    }

    /// Answers a message.
    fn answer<B>(&mut self, to: &[u8], body: &B)
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let serial = u32::from_le_bytes(to[8..12].try_into().expect("four"));
        let any = call("Any");
        let answer = Message::method_return(&any.header())
            .sender(BUS)
            .reply_serial(std::num::NonZeroU32::new(serial))
            .build(body);
        self.say(&answer.expect("an answer"));
    }
}

fn call(member: &str) -> Message {
    let call = Message::method_call(PATH, member)
        .interface(PLAYER)
        .destination(OWN)
        .sender(":1.9");
    call.build(&()).expect("a call")
}

fn is(message: &[u8], member: &str) -> bool {
    let wanted = member.as_bytes();
    message.windows(wanted.len()).any(|part| part == wanted)
}

fn presence(there: bool) -> Message {
    let (old, new) = if there { ("", SERVICE) } else { (SERVICE, "") };
    let signal = Message::signal(BUS_PATH, BUS, "NameOwnerChanged");
    signal.build(&(NAME, old, new)).expect("a signal")
}

/// A client of a bus, and what it hears.
async fn client(address: &str) -> (zbus::Connection, MessageStream) {
    let client = Builder::address(address).build().await.expect("a client");
    let heard = MessageStream::from(&client);
    (client, heard)
}

#[test]
fn half_a_call_of_a_client_that_dies_is_nobody_else_s_beginning() {
    let ground = Ground::new();
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let (spawner, clock) = (ground.spawner.clone(), ground.clock.clone());
    let joining = async move { join(here, &spawner, &clock).await };
    let (socket, _stopper, _served) = ground.serve(NAME, joining);
    let address = format!("unix:path={}", socket.display());
    let mut contact = Raw::new(there).greet();
    contact.say(&presence(true));

    let rule = "type='signal'";
    let ((dies, dies_hears), (lives, mut lives_hears)) = soon(async {
        let (dies, lives) = (client(&address).await, client(&address).await);
        for one in [&dies.0, &lives.0] {
            let add = one.call_method(Some(BUS), BUS_PATH, Some(BUS), "AddMatch", &rule);
            add.await.expect("a rule");
        }
        (dies, lives)
    });
    // Far more than sockets hold.
    let large = Message::method_call(PATH, "OpenUri")
        .interface(PLAYER)
        .destination(NAME)
        .build(&"x".repeat(8 * 1024 * 1024))
        .expect("a call");
    let length = large.body().data().len();
    soon(dies.send(&large)).expect("sent");
    contact.wait();
    let name = dies.unique_name().expect("a name").to_string();
    drop(dies_hears);
    soon(dies.close()).expect("closed");
    // It cannot be told this any more, which is how its end is noticed.
    let told = Message::signal(PATH, PLAYER, "Seeked").build(&7i64);
    contact.say(&told.expect("a signal"));
    soon(async {
        loop {
            let message = lives_hears.next().await.expect("more").expect("a message");
            let body = message.body();
            if body.deserialize::<(&str, &str, &str)>().ok() == Some((&name, &name, "")) {
                break;
            }
        }
    });

    let reading = std::thread::spawn(move || {
        let (first, second) = (contact.hear(), contact.hear());
        contact.answer(&second, &());
        (first, second, contact)
    });
    let ping = lives.call_method(Some(NAME), PATH, Some(PEER), "Ping", &());
    soon(ping).expect("an answer");
    let (first, second, _contact) = reading.join().expect("two messages");
    assert!(is(&first[..256], "OpenUri") && first.len() > length);
    assert!(is(&second, "Ping"));
}

/// A bus, of a program that is called by nobody but it. What is asked first is answered.
fn bus_of_one(ground: &Ground) -> (String, std::thread::JoinHandle<Raw>) {
    let socket = ground.folder.path().join("one");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let serving = std::thread::spawn(move || {
        let mut bus = Raw::new(listener.accept().expect("a program").0).greet();
        let hello = bus.hear();
        assert!(is(&hello, "Hello"));
        bus.answer(&hello, &":1.5");
        let rule = bus.hear();
        assert!(is(&rule, "AddMatch"));
        bus.answer(&rule, &());
        let has = bus.hear();
        assert!(is(&has, "NameHasOwner"));
        bus.answer(&has, &false);
        let startable = bus.hear();
        assert!(is(&startable, "ListActivatableNames"));
        bus.answer(&startable, &Vec::<String>::new());
        let name = bus.hear();
        assert!(is(&name, "RequestName"));
        bus.answer(&name, &1u32);
        bus
    });
    (format!("unix:path={}", socket.display()), serving)
}

/// A name on that bus, of a service that is there and of which this was called three times, the last call, and
/// the contact.
fn named(ground: &Ground) -> (Raw, Raw, Vec<u8>, Task<Result<()>>) {
    let (address, serving) = bus_of_one(ground);
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let (inner, clock) = (ground.spawner.clone(), ground.clock.clone());
    let owned = ground.spawner.spawn("own", async move {
        let bus = Bus::at(&address, inner.clone(), clock.clone()).await?;
        let contact = join(here, &inner, &clock).await?;
        own(&bus, Filter::of(NAME)?, OWN, contact, |_| {}).await
    });
    let mut contact = Raw::new(there).greet();
    contact.say(&presence(true));
    let mut bus = serving.join().expect("a name");
    let mut last = Vec::new();
    for _ in 0..3 {
        bus.say(&call("Play"));
        last = contact.hear();
        assert!(is(&last, "Play"));
    }
    (bus, contact, last, owned)
}

#[test]
fn who_waits_hears_of_the_contact_s_end_before_the_name_is_free_and_behind_what_is_half_said() {
    let ground = Ground::new();
    let (mut bus, mut contact, last, owned) = named(&ground);
    let said = "x".repeat(8 * 1024 * 1024);
    contact.answer(&last, &said);
    bus.wait();
    drop(contact);
    assert!(bus.hear().len() > said.len());
    for _ in 0..2 {
        let answer = bus.hear();
        assert!(is(&answer, "NoReply") && is(&answer, "the contact has gone"));
    }
    let free = bus.hear();
    assert!(is(&free, "ReleaseName"));
    bus.answer(&free, &1u32);
    assert!(matches!(soon(owned), Ok(Ok(()))));
}

#[test]
fn a_bus_that_takes_nothing_holds_up_the_end_for_a_while_only() {
    let clock = VirtualClock::new();
    let ground = Ground::at(clock.clone());
    let (mut bus, mut contact, last, owned) = named(&ground);
    contact.answer(&last, &"x".repeat(8 * 1024 * 1024));
    bus.wait();
    drop(contact);
    let begun = clock.now();
    let time_goes = async {
        loop {
            clock.advance(Duration::from_secs(1));
            yield_now().await;
        }
    };
    let ended = soon(owned.or(time_goes)).expect("no panic");
    assert!(clock.now() - begun >= Duration::from_secs(10));
    assert_eq!(ended.expect_err("half a message").kind, Kind::NoBus);
}
