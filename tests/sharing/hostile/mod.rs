//! A contact that breaks every rule, to each side of a shared service.
//!
//! Its greeting is the library's; what it says afterwards goes past the library, or through it where a
//! message is well formed and a lie.

mod to_owner;

use std::{io::Write as _, num::NonZeroU32, os::unix::net::UnixStream, time::Duration};

use actors::{
    runtime::{Stopper, SystemClock, Task, within},
    testing::VirtualClock,
};
use pneuma::client::{
    Bus, Result,
    sharing::{Filter, MESSAGES_PER_SECOND, MOST_BYTES, SERVICE, join, share},
};
use smol::{
    future::{block_on, or, yield_now},
    stream::StreamExt as _,
};
use support::PATIENCE;
use zbus::{Guid, Message, MessageStream, connection::Builder, message::Type};

use crate::halves::{Ground, NAME, PATH, PLAYER, player};

const PEER: &str = "org.freedesktop.DBus.Peer";

/// The end of a connection of two that means no good.
pub struct Hostile {
    messages: MessageStream,
    raw: UnixStream,
}

impl Hostile {
    /// Greets as the tube's side of the connection.
    fn serve(stream: UnixStream) -> Self {
        let raw = stream.try_clone().expect("a second handle");
        let greeted = Builder::unix_stream(stream)
            .server(Guid::generate())
            .p2p()
            .build_message_stream();
        Hostile {
            messages: block_on(greeted).expect("a greeting"),
            raw,
        }
    }

    /// Says something well formed.
    fn say(&self, message: &Message) {
        block_on(zbus::Connection::from(&self.messages).send(message)).expect("sent");
    }

    /// Says any bytes.
    fn say_bytes(&self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match (&self.raw).write(rest) {
                Ok(wrote) => rest = &rest[wrote..],
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let ready = async_io::Async::new(self.raw.try_clone().expect("a handle"));
                    block_on(ready.expect("a socket").writable()).expect("writable");
                }
                // Hung up on meanwhile.
                Err(_) => return,
            }
        }
    }

    /// The next message; `None` at the end.
    fn hear(&mut self) -> Option<Message> {
        soon(self.messages.next()).and_then(|message| message.ok())
    }

    /// The next answer to this.
    fn answer(&mut self, to: &Message) -> Message {
        loop {
            let message = self.hear().expect("an answer");
            if message.header().reply_serial() == Some(to.primary_header().serial_num()) {
                return message;
            }
        }
    }

    /// That the other side still does what it is for.
    fn ping(&mut self) {
        let call = call(NAME, PATH, PEER, "Ping");
        self.say(&call);
        let answer = self.answer(&call);
        assert_eq!(answer.message_type(), Type::MethodReturn, "{answer:?}");
    }
}

fn call(destination: &str, path: &str, interface: &str, member: &str) -> Message {
    Message::method_call(path, member)
        .interface(interface)
        .destination(destination)
        .build(&())
        .expect("a call")
}

fn presence(there: bool) -> Message {
    let (old, new) = if there { ("", SERVICE) } else { (SERVICE, "") };
    Message::signal(
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "NameOwnerChanged",
    )
    .build(&(NAME, old, new))
    .expect("a signal")
}

/// An answer to a call that may never have been made.
fn answer_to(serial: u32) -> Message {
    Message::method_return(&call(NAME, PATH, PEER, "Ping").header())
        .reply_serial(NonZeroU32::new(serial))
        .sender(":1.1")
        .build(&"a lie")
        .expect("an answer")
}

fn signal(sender: &str) -> Message {
    Message::signal(PATH, PLAYER, "Seeked")
        .sender(sender)
        .build(&7i64)
        .expect("a signal")
}

/// How a message begins that has so long a body.
fn head(body: u32, fields: u32) -> Vec<u8> {
    let mut head = vec![b'l', 1, 0, 1];
    for number in [body, 5, fields] {
        head.extend(number.to_le_bytes());
    }
    head
}

/// What is no message, or none that anybody takes.
fn corrupt() -> Vec<Vec<u8>> {
    let good = call(NAME, PATH, PEER, "Ping").data().bytes().to_vec();
    let damaged = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let most = u32::try_from(MOST_BYTES).expect("a bound");
    // A text that does not end where it says.
    let text = Message::method_call(PATH, "GetAll")
        .interface("org.freedesktop.DBus.Properties")
        .destination(NAME)
        .build(&PLAYER);
    let mut text = text.expect("a call").data().bytes().to_vec();
    *text.last_mut().expect("its end") = 4;
    vec![
        text,
        vec![0; 64],
        vec![0xff; 64],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        damaged(0, b"x"),
        // Another version of the protocol, no number, a text longer than the message.
        damaged(3, &[2]),
        damaged(8, &[0; 4]),
        damaged(20, &[0xff; 4]),
        // Larger than anybody may send, in each of its parts and by overflow.
        head(most, 0),
        head(0, most),
        head(u32::MAX, u32::MAX),
    ]
}

/// Joins as the client of a connection of two, as at a tube's socket.
fn joined(
    ground: &Ground,
    here: UnixStream,
) -> impl Future<Output = Result<MessageStream>> + Send + 'static {
    let (spawner, clock) = (ground.spawner.clone(), ground.clock.clone());
    async move { join(here, &spawner, &clock).await }
}

/// What it gives, before patience ends.
pub fn soon<T>(future: impl Future<Output = T>) -> T {
    let clock = SystemClock::new();
    block_on(within(&*clock, PATIENCE, future)).expect("it takes too long")
}

fn ends_well(task: Task<Result<()>>) {
    let ended = soon(task);
    assert!(matches!(ended, Ok(Ok(()))), "{ended:?}");
}

/// Sharing, to a contact that means no good.
struct Sharing {
    bus: support::Bus,
    player: zbus::Connection,
    contact: Hostile,
    shared: Task<Result<()>>,
    _ground: Ground,
}

impl Sharing {
    fn start() -> Self {
        Sharing::on(Ground::new())
    }

    fn on(ground: Ground) -> Self {
        let bus = ground.bus("offering");
        let (player, _) = player(&bus);
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        let shared = ground.share(&bus, here, Filter::of(NAME).expect("a name"));
        Sharing {
            bus,
            player,
            contact: Hostile::serve(there),
            shared,
            _ground: ground,
        }
    }
}

/// A small bus, of a contact that means no good.
struct Served {
    address: String,
    contact: Hostile,
    served: Task<Result<()>>,
    _stopper: Stopper,
    _ground: Ground,
}

impl Served {
    fn start() -> Self {
        let served = Served::silent(Ground::new());
        served.contact.say(&presence(true));
        served
    }

    /// One whose contact has not said whether the service is there.
    fn silent(ground: Ground) -> Self {
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        let (socket, stopper, served) = ground.serve(NAME, joined(&ground, here));
        let contact = Hostile::serve(there);
        Served {
            address: format!("unix:path={}", socket.display()),
            contact,
            served,
            _stopper: stopper,
            _ground: ground,
        }
    }

    /// A client of the library's, and all that it hears.
    fn client(&self) -> (zbus::Connection, MessageStream) {
        let built = Builder::address(self.address.as_str())
            .method_timeout(PATIENCE)
            .build();
        let client = soon(built).expect("a client");
        let heard = MessageStream::from(&client);
        (client, heard)
    }
}

#[test]
fn what_is_no_message_ends_the_sharing_and_nothing_else() {
    for bytes in corrupt() {
        // Shown when it fails.
        println!("{:?}", &bytes[..16]);
        let sharing = Sharing::start();
        sharing.contact.say_bytes(&bytes);
        ends_well(sharing.shared);
        sharing
            .bus
            .call(NAME, PATH, PEER, "Ping", &())
            .expect("the service goes on");
    }
}

#[test]
fn a_message_that_never_ends_holds_up_nothing_but_its_own_way() {
    let mut sharing = Sharing::start();
    sharing.contact.ping();
    // As much as may come, and all but the last of it.
    let body = MOST_BYTES - 1024;
    let mut bytes = head(u32::try_from(body).expect("a bound"), 0);
    bytes.resize(body, 0);
    sharing.contact.say_bytes(&bytes);
    let signal = Message::signal(PATH, PLAYER, "Seeked").build(&7i64);
    soon(sharing.player.send(&signal.expect("a signal"))).expect("sent");
    let heard = |contact: &mut Hostile| loop {
        let message = contact.hear().expect("a signal");
        if message
            .header()
            .member()
            .is_some_and(|name| *name == "Seeked")
        {
            return message;
        }
    };
    assert_eq!(heard(&mut sharing.contact).header().sender(), None);
    drop(sharing.contact);
    ends_well(sharing.shared);
}

#[test]
fn lies_to_who_shares_are_not_heard() {
    let mut sharing = Sharing::start();
    for serial in 1..100 {
        sharing.contact.say(&answer_to(serial));
        sharing.contact.say(&signal(":1.1"));
        sharing.contact.say(&presence(serial % 2 == 0));
    }
    // A sender of its own choice does not reach the service, and the bus itself cannot be called.
    for (name, member) in [
        ("org.freedesktop.DBus", "ListNames"),
        (":1.0", "Ping"),
        ("org.example.Other", "Ping"),
    ] {
        let call = call(name, "/org/freedesktop/DBus", PEER, member);
        sharing.contact.say(&call);
        let answer = sharing.contact.answer(&call);
        let header = answer.header();
        let error = header.error_name().expect("an error").as_str();
        assert_eq!(error, "org.freedesktop.DBus.Error.AccessDenied");
    }
    let local = "/org/freedesktop/DBus/Local";
    for call in [
        call(NAME, local, PEER, "Ping"),
        call(NAME, PATH, "org.freedesktop.DBus.Local", "Disconnected"),
    ] {
        sharing.contact.say(&call);
        assert_eq!(sharing.contact.answer(&call).message_type(), Type::Error);
    }
    sharing.contact.ping();
    drop(sharing.contact);
    ends_well(sharing.shared);
}

#[test]
fn a_flood_is_taken_at_a_pace() {
    let clock = VirtualClock::new();
    let sharing = Sharing::on(Ground::at(clock.clone()));
    let mut contact = sharing.contact;
    let flood = call("org.example.Other", PATH, PEER, "Ping");
    let wire = zbus::Connection::from(&contact.messages);
    let sending = std::thread::spawn(move || {
        for _ in 0..MESSAGES_PER_SECOND + 500 {
            block_on(wire.send(&flood)).expect("sent");
        }
    });
    let answers = |contact: &mut Hostile, many| {
        for _ in 0..many {
            while contact.hear().expect("an answer").message_type() != Type::Error {}
        }
    };
    answers(&mut contact, MESSAGES_PER_SECOND);
    // Who has taken a second's messages takes the next later.
    let second = Duration::from_secs(1);
    let waits = async {
        while clock.next_deadline().is_none_or(|next| next > second) {
            yield_now().await;
        }
    };
    soon(waits);
    clock.advance(second);
    answers(&mut contact, 500);
    sending.join().expect("sent");
    drop(contact);
    ends_well(sharing.shared);
}

#[test]
fn the_bus_is_read_a_few_messages_ahead() {
    let ground = Ground::new();
    let bus = ground.bus("offering");
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let contact = std::thread::spawn(move || Hostile::serve(there));
    let (address, inner, clock) = (bus.address(), ground.spawner.clone(), ground.clock.clone());
    let ours = soon(Bus::at(address, inner.clone(), clock.clone())).expect("a bus");
    let seen = ours.connection().clone();
    let shared = ground.spawner.spawn("share", async move {
        let contact = join(here, &inner, &clock).await?;
        share(&ours, contact, Filter::of(NAME)?, "bob@there").await
    });
    let contact = contact.join().expect("a contact");
    soon(async {
        while seen.max_queued().get() != 4 {
            yield_now().await;
        }
    });
    drop(contact);
    ends_well(shared);
}

#[test]
fn what_is_no_message_ends_the_small_bus_and_its_clients_hear_it() {
    for bytes in corrupt() {
        // Shown when it fails.
        println!("{:?}", &bytes[..16]);
        let served = Served::start();
        let (client, mut heard) = served.client();
        served.contact.say_bytes(&bytes);
        ends_well(served.served);
        soon(async { while let Some(Ok(_)) = heard.next().await {} });
        drop(client);
    }
}

#[test]
fn who_comes_early_hears_what_the_contact_says_first_but_does_not_wait_for_ever() {
    let daemon = "org.freedesktop.DBus";
    let first_word = Duration::from_secs(5);
    for says in [true, false] {
        let clock = VirtualClock::new();
        let served = Served::silent(Ground::at(clock.clone()));
        let asked = async {
            let client = Builder::address(served.address.as_str()).build();
            let client = client.await.expect("a client");
            let path = "/org/freedesktop/DBus";
            let call = client.call_method(Some(daemon), path, Some(daemon), "NameHasOwner", &NAME);
            let answer = call.await.expect("an answer");
            answer.body().deserialize::<bool>().expect("yes or no")
        };
        let mut asked = std::pin::pin!(asked);
        let waits = async {
            while clock.next_deadline().is_none_or(|next| next > first_word) {
                yield_now().await;
            }
        };
        let early = or(async { Some(asked.as_mut().await) }, async {
            waits.await;
            None
        });
        assert_eq!(soon(early), None, "nothing was said of it");
        if says {
            served.contact.say(&presence(true));
        } else {
            clock.advance(first_word);
        }
        assert_eq!(soon(asked), says);
    }
}

#[test]
fn lies_to_clients_of_the_small_bus_are_not_told() {
    let served = Served::start();
    let (client, mut heard) = served.client();
    let daemon = "org.freedesktop.DBus";
    let add = client.call_method(
        Some(daemon),
        "/org/freedesktop/DBus",
        Some(daemon),
        "AddMatch",
        &"type='signal'",
    );
    soon(add).expect("a rule");
    for lie in [
        answer_to(1),
        answer_to(77),
        call(NAME, PATH, PEER, "Ping"),
        Message::signal("/org/freedesktop/DBus", daemon, "NameOwnerChanged")
            .sender(daemon)
            .build(&(":2.1", ":2.1", ""))
            .expect("a signal"),
        Message::signal("/org/freedesktop/DBus", daemon, "NameLost")
            .sender(daemon)
            .destination(":2.1")
            .build(&":2.1")
            .expect("a signal"),
        Message::signal(
            "/org/freedesktop/DBus/Local",
            "org.freedesktop.DBus.Local",
            "Disconnected",
        )
        .build(&())
        .expect("a signal"),
        signal(daemon),
    ] {
        served.contact.say(&lie);
    }
    // Of all that, the last is a signal of the service, and it comes from the service.
    let told = soon(async {
        loop {
            let message = heard.next().await.expect("more").expect("a message");
            let header = message.header();
            let from_bus = header.sender().is_some_and(|sender| *sender == daemon);
            // Greeting, answer, and that the service is there.
            let own = header.member().is_none_or(|name| {
                *name == "NameAcquired"
                    || *name == "NameOwnerChanged"
                        && message
                            .body()
                            .deserialize::<(&str, &str, &str)>()
                            .is_ok_and(|(_, old, new)| old.is_empty() && new == SERVICE)
            });
            if !(from_bus && own) {
                return message.clone();
            }
        }
    });
    let header = told.header();
    assert_eq!(header.member().expect("a signal").as_str(), "Seeked");
    assert_eq!(header.sender().expect("a sender").as_str(), SERVICE);
    // A call that is answered twice is answered once.
    let mut contact = served.contact;
    let answering = std::thread::spawn(move || {
        while let Some(call) = contact.hear() {
            if call.header().member().is_some_and(|name| *name == "Count") {
                let first = Message::method_return(&call.header());
                contact.say(&first.build(&1u32).expect("an answer"));
                let second = Message::method_return(&call.header());
                contact.say(&second.build(&2u32).expect("an answer"));
                return contact;
            }
        }
        panic!("no call");
    });
    let answer = soon(client.call_method(Some(NAME), PATH, Some(PLAYER), "Count", &()));
    let answer = answer.expect("an answer");
    assert_eq!(answer.body().deserialize::<u32>().expect("a number"), 1);
    let contact = answering.join().expect("answered");
    contact.say(&signal(":1.1"));
    let next = soon(async {
        loop {
            let message = heard.next().await.expect("more").expect("a message");
            if message.message_type() == Type::Signal {
                return message;
            }
            let answers = message.body().deserialize::<u32>();
            assert_ne!(answers.ok(), Some(2), "{message:?}");
        }
    });
    assert_eq!(next.header().member().expect("a signal").as_str(), "Seeked");
}

const DAEMON: &str = "org.freedesktop.DBus";

/// Asks the small bus something as a client, and waits for its answer.
fn asks(client: &zbus::Connection, heard: &mut MessageStream, call: &Message) {
    block_on(client.send(call)).expect("sent");
    let serial = Some(call.primary_header().serial_num());
    soon(async {
        loop {
            let message = heard.next().await.expect("it goes on").expect("whole");
            if message.header().reply_serial() == serial {
                break;
            }
        }
    });
}

/// Wants to hear what the player says.
fn listens(client: &zbus::Connection, heard: &mut MessageStream) {
    let add = Message::method_call("/org/freedesktop/DBus", "AddMatch")
        .interface(DAEMON)
        .destination(DAEMON)
        .build(&format!("interface='{PLAYER}'"))
        .expect("a call");
    asks(client, heard, &add);
}

fn is(message: &Message, member: &str) -> bool {
    let header = message.header();
    header.member().is_some_and(|name| name.as_str() == member)
}

#[test]
fn a_burst_closes_no_client_that_is_busy() {
    let served = Served::start();
    let (client, mut heard) = served.client();
    listens(&client, &mut heard);
    // It does something else now; a second's worth of signals comes, and some more.
    let mut contact = served.contact;
    for _ in 0..MESSAGES_PER_SECOND + 100 {
        contact.say(&signal(":1.0"));
    }
    let refused = call(NAME, PATH, PEER, "Ping");
    contact.say(&refused);
    contact.answer(&refused);
    // It is still there.
    let ask = call(DAEMON, "/org/freedesktop/DBus", DAEMON, "ListNames");
    asks(&client, &mut heard, &ask);
}

#[test]
fn refusals_that_a_contact_does_not_read_take_no_call_s_room() {
    let mut served = Served::start();
    let (client, mut heard) = served.client();
    listens(&client, &mut heard);
    // More refusals than sockets buffer, and then something that the client hears.
    let refused = call(NAME, PATH, PEER, "Ping");
    for _ in 0..2000 {
        served.contact.say(&refused);
    }
    served.contact.say(&signal(":1.0"));
    soon(async {
        while !is(
            &heard.next().await.expect("it goes on").expect("whole"),
            "Seeked",
        ) {}
    });
    let asked = call(NAME, PATH, PLAYER, "Knock");
    block_on(client.send(&asked)).expect("sent");
    // Behind it, and answered by the bus alone.
    let ask = call(DAEMON, "/org/freedesktop/DBus", DAEMON, "ListNames");
    asks(&client, &mut heard, &ask);
    let mut said = std::iter::from_fn(|| served.contact.hear());
    assert!(said.any(|message| is(&message, "Knock")));
}
