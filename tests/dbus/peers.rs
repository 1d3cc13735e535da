//! Clients without a bus: each sees the whole tree and hears every signal, and none can hold up the
//! service or another client.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_lite::{FutureExt as _, StreamExt as _, future::block_on};
use support::{CM_NAME, CM_PATH, CallError, Events, PATIENCE, name};
use zbus::{Message, MessageStream, OwnedObjectPath, message::Flags};

use crate::{
    fake::capable,
    world::{World, get},
};

const CLAIM: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Claim1";
const LEASE: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Lease1";
const CONNECTIONS: &str =
    "org.freedesktop.Telepathy.ConnectionManager.Interface.Pneuma.Connections1";

/// A service on a bus that also serves at a socket.
struct Both {
    world: World,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Both {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pneuma-")
            .tempdir_in("/tmp")
            .unwrap();
        let socket = dir.path().join("private/bus");
        let world = World::with(|builder| builder.persist(true).private_socket(&socket));
        Both {
            world,
            socket,
            _dir: dir,
        }
    }
}

fn connect(socket: &Path) -> zbus::Connection {
    let stream = UnixStream::connect(socket).unwrap();
    let builder = zbus::connection::Builder::unix_stream(stream)
        .p2p()
        .method_timeout(PATIENCE);
    block_on(builder.build()).unwrap()
}

fn call<B>(
    peer: &zbus::Connection,
    path: &str,
    interface: &str,
    member: &str,
    body: &B,
) -> Result<Message, CallError>
where
    B: serde::Serialize + zbus::DynamicType,
{
    block_on(peer.call_method(Some(CM_NAME), path, Some(interface), member, body))
        .map_err(CallError::from)
}

/// Waits, and panics when it takes too long.
fn soon<T>(future: impl Future<Output = T>) -> T {
    let late = async {
        async_io::Timer::after(PATIENCE).await;
        panic!("it took too long");
    };
    block_on(future.or(late))
}

fn next(messages: &mut MessageStream) -> Message {
    soon(messages.next()).unwrap().unwrap()
}

/// The next message that is no signal.
fn next_answer(messages: &mut MessageStream) -> Message {
    loop {
        let message = next(messages);
        if message.header().reply_serial().is_some() {
            return message;
        }
    }
}

/// Waits until the service has closed the other end.
fn closed(stream: &mut UnixStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => {}
    }
}

/// Says the greeting of a client, by hand.
fn greet(socket: &Path) -> std::io::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let uid = rustix::process::getuid().as_raw().to_string();
    let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\nBEGIN\r\n").as_bytes())?;
    let mut answer = [0; 3];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"OK ");
    Ok(stream)
}

/// The same, where there must be room.
fn greeted(socket: &Path) -> UnixStream {
    greet(socket).unwrap()
}

#[test]
fn every_peer_sees_the_tree_and_hears_the_signals() {
    let both = Both::new();
    let account = both.world.online(vec![capable("bob@there")]);
    let peers = [connect(&both.socket), connect(&both.socket)];
    let heard = peers.each_ref().map(Events::of);
    for peer in &peers {
        let answer = call(
            peer,
            CM_PATH,
            "org.freedesktop.DBus.Properties",
            "Get",
            &(CONNECTIONS, "Connections"),
        );
        let all: zbus::OwnedVariant = answer.unwrap().body().deserialize().unwrap();
        let all: Vec<(String, OwnedObjectPath)> = all.try_into().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].1.as_str(), account.path);
        assert_eq!(all[0].0, account.bus_name);
    }
    // What a peer does, the bus and the other peers hear; the answer goes to who asked.
    let bob = account.handle("bob@there");
    let request = account.tube_request(bob, "http");
    let answer = call(
        &peers[0],
        &account.path,
        name::REQUESTS,
        "CreateChannel",
        &(request,),
    );
    answer.unwrap();
    both.world.wait("NewChannels", |_| Some(()));
    for events in &heard {
        let found = events.take(PATIENCE, |event| {
            (event.member == "NewChannels" && event.path == account.path).then_some(())
        });
        found.unwrap();
    }
    // A call to nobody is answered too.
    let error = call(&peers[1], "/nowhere", "no.such.Interface", "Method", &()).unwrap_err();
    assert_eq!(error.short(), "UnknownObject");
}

#[test]
fn an_answer_comes_before_what_it_announces() {
    let both = Both::new();
    let account = both.world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    let peer = connect(&both.socket);
    let mut messages = MessageStream::from(&peer);
    for round in 0..20 {
        let request = account.tube_request(bob, &format!("s{round}"));
        let message = Message::method_call(account.path.as_str(), "CreateChannel")
            .interface(name::REQUESTS)
            .build(&(request,))
            .unwrap();
        soon(peer.send(&message)).unwrap();
        let mut order = Vec::new();
        while order.len() < 2 {
            let message = next(&mut messages);
            match message.header().member() {
                None => order.push("answer".to_owned()),
                Some(member) if member.as_str() == "NewChannels" => order.push(member.to_string()),
                Some(_) => {}
            }
        }
        assert_eq!(order, ["answer", "NewChannels"]);
    }
}

#[test]
fn claims_and_leases_end_with_the_peer() {
    let both = Both::new();
    let world = &both.world;
    let account = world.online(vec![capable("bob@there")]);
    let bob = account.handle("bob@there");
    let (path, _) = account.create(bob, "http").unwrap();
    let (one, other) = (connect(&both.socket), connect(&both.socket));
    call(&one, &path, CLAIM, "Claim", &()).unwrap();
    call(&one, &path, CLAIM, "Claim", &()).unwrap();
    for refused in [
        call(&other, &path, CLAIM, "Claim", &()),
        // One on the bus is yet another.
        world.call(&path, CLAIM, "Claim", &()),
    ] {
        assert_eq!(refused.unwrap_err().short(), "NotYours");
    }
    let joined = |by: &zbus::Connection| -> bool {
        let answer = call(by, &account.path, LEASE, "Join", &()).unwrap();
        answer.body().deserialize().unwrap()
    };
    assert!(!joined(&other), "nobody keeps it online");
    call(&one, &account.path, LEASE, "Begin", &()).unwrap();
    assert!(joined(&other));
    let last = world.call(&account.path, LEASE, "Release", &());
    assert_eq!(last.unwrap_err().short(), "NotAvailable");
    world
        .call(&account.path, LEASE, "Begin", &())
        .expect("a client on the bus has one as well");

    block_on(one.close()).unwrap();
    world.wait("Closed", |event| (event.path == path).then_some(()));
    // Others keep it online.
    assert_eq!(
        get::<u32>(world, &account.path, name::CONNECTION, "Status"),
        0
    );
    let last: bool = world
        .call(&account.path, LEASE, "Release", &())
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert!(!last);
    block_on(other.close()).unwrap();
    world.wait("StatusChanged", |event| {
        let (status, _) = event.arguments::<(u32, u32)>()?;
        (status == 2).then_some(())
    });
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_holds_up_nobody() {
    let both = Both::new();
    let account = both.world.online(vec![capable("bob@there")]);
    let mut stalled = greeted(&both.socket);
    // One that reads, and one that goes on asking and never reads.
    let good = connect(&both.socket);
    let asked = Message::method_call(CM_PATH, "Introspect")
        .interface("org.freedesktop.DBus.Introspectable")
        .build(&())
        .unwrap();
    // Signals alone fill what waits for it: the service never waits for the peer.
    let mut rounds = 0;
    stalled.set_nonblocking(true).unwrap();
    both.world.until("the stalled peer is closed", || {
        rounds += 1;
        for number in 0..50 {
            let message = format!("{rounds} {number}");
            call(
                &good,
                &account.path,
                name::SIMPLE_PRESENCE,
                "SetPresence",
                &("available", message.as_str()),
            )
            .unwrap();
        }
        // Writing is what tells whether it is closed, without reading anything.
        match stalled.write_all(asked.data().bytes()) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Err(_) => Some(()),
            Ok(()) => None,
        }
    });
    let answer = call(&good, CM_PATH, "org.freedesktop.DBus.Peer", "Ping", &());
    answer.expect("the good one is served");
}

#[test]
fn calls_that_want_no_answer_get_none_and_are_counted_all_the_same() {
    let both = Both::new();
    let peer = connect(&both.socket);
    let mut messages = MessageStream::from(&peer);
    for _ in 0..1000 {
        let ping = Message::method_call("/", "Ping")
            .interface("org.freedesktop.DBus.Peer")
            .with_flags(Flags::NO_REPLY_EXPECTED)
            .build(&())
            .unwrap();
        soon(peer.send(&ping)).unwrap();
    }
    let last = Message::method_call("/", "Ping")
        .interface("org.freedesktop.DBus.Peer")
        .build(&())
        .unwrap();
    soon(peer.send(&last)).unwrap();
    let first = next_answer(&mut messages);
    assert_eq!(
        first.header().reply_serial(),
        Some(last.primary_header().serial_num())
    );
}

#[test]
fn strange_greetings_and_messages_close_their_own_connection_only() {
    let both = Both::new();
    let good = connect(&both.socket);
    let long = vec![b'A'; 100_000];
    for greeting in [
        &b"\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0AUTH EXTERNAL zz\r\n",
        b"\0AUTH\r\nAUTH\r\n\r\n\r\n",
        &long,
    ] {
        let mut stream = UnixStream::connect(&both.socket).unwrap();
        // It may be closed before all of it is written.
        stream.write_all(greeting).ok();
        closed(&mut stream);
    }
    // As another user, which the library compares with what the kernel says.
    let mut stream = UnixStream::connect(&both.socket).unwrap();
    stream.write_all(b"\0AUTH EXTERNAL 3939393939\r\n").unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"REJECTED");
    // It says no more, and is closed when its time is over.
    closed(&mut stream);
    for message in [
        // A length that would be 4 GiB, and one of 2 MiB.
        b"l\x01\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff".to_vec(),
        b"l\x01\x00\x01\x00\x00\x20\x00\x01\x00\x00\x00\x00\x00\x00\x00".to_vec(),
        vec![0; 64],
    ] {
        let mut stream = greeted(&both.socket);
        stream.write_all(&message).unwrap();
        closed(&mut stream);
    }
    call(&good, CM_PATH, "org.freedesktop.DBus.Peer", "Ping", &()).unwrap();
}

#[test]
fn who_writes_another_s_name_is_still_itself() {
    let both = Both::new();
    let account = both.world.online(vec![capable("bob@there")]);
    let (path, _) = account.create(account.handle("bob@there"), "http").unwrap();
    let one = connect(&both.socket);
    call(&one, &path, CLAIM, "Claim", &()).unwrap();
    let other = connect(&both.socket);
    let mut answers = MessageStream::from(&other);
    for name in [":peer.1", ":peer.2", ":1.1"] {
        let release = Message::method_call(path.as_str(), "Release")
            .interface(CLAIM)
            .sender(name)
            .build(&())
            .unwrap();
        soon(other.send(&release)).unwrap();
        let answer = next_answer(&mut answers);
        let error = answer.header().error_name().map(ToString::to_string);
        assert!(error.is_some_and(|name| name.ends_with("NotYours")));
    }
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let both = Both::new();
    let mut all: Vec<_> = (0..64).map(|_| greeted(&both.socket)).collect();
    let mut one_more = UnixStream::connect(&both.socket).unwrap();
    closed(&mut one_more);
    drop(all.pop());
    // Its place is free once the service has noticed.
    both.world
        .until("there is a place again", || greet(&both.socket).ok());
}

#[test]
fn a_second_service_gets_neither_the_socket_nor_its_file() {
    let both = Both::new();
    let second = pneuma::Service::builder()
        .without_bus()
        .private_socket(&both.socket)
        .start(both.world.executor.clone());
    let error = block_on(second).unwrap_err();
    assert!(
        matches!(error, actors::model::Error::NotAvailable(_)),
        "{error}"
    );
    // The first is still there.
    drop(connect(&both.socket));
    let nowhere = pneuma::Service::builder()
        .without_bus()
        .start(both.world.executor.clone());
    let error = block_on(nowhere).unwrap_err();
    assert!(
        matches!(error, actors::model::Error::InvalidArgument(_)),
        "{error}"
    );
}

#[test]
fn a_service_stays_while_somebody_is_connected_and_leaves_after() {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let socket = dir.path().join("private/bus");
    let world = World::with(|builder| {
        builder
            .idle(Duration::from_millis(200))
            .private_socket(&socket)
    });
    let peer = connect(&socket);
    let account = world.account("ada");
    account.call(name::CONNECTION, "Disconnect", &()).unwrap();
    let begun = Instant::now();
    world.until("the idle time is over several times", || {
        call(&peer, CM_PATH, "org.freedesktop.DBus.Peer", "Ping", &()).unwrap();
        (begun.elapsed() > Duration::from_secs(1)).then_some(())
    });
    block_on(peer.close()).unwrap();
    assert_eq!(world.ends(), pneuma::End::Idle);
    assert!(!socket.exists());
}
