//! `Credentials` and `Port` as one who listens: who says the byte comes in, from where one must come.

use std::{
    io::{IoSlice, Write as _},
    mem::MaybeUninit,
    net::{SocketAddr, TcpStream},
};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};
use rustix::{
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, UCred,
        bind, connect, getsockname, sendmsg, socket,
    },
    process::{getegid, geteuid, getpid},
};

use super::{others::as_root, *};
use crate::{
    endpoint::{FIRST_WORD_WITHIN, Introduction, MOST_SILENT, PATIENCE, dial},
    model::Error,
    runtime::Time,
    testing::Sim,
};

const UNIX: [AddressType; 2] = [AddressType::Unix, AddressType::AbstractUnix];

impl Client {
    fn unix(&self) -> &UnixStream {
        match self {
            Client::Unix(stream) => stream,
            Client::Tcp(_) => panic!("not a Unix socket"),
        }
    }

    /// Says bytes with these credentials attached.
    fn say_as(&self, bytes: &[u8], uid: rustix::process::Uid) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut attached = SendAncillaryBuffer::new(&mut space);
        assert!(attached.push(SendAncillaryMessage::ScmCredentials(UCred {
            pid: getpid(),
            uid,
            gid: getegid(),
        })));
        let flags = SendFlags::empty();
        let sent = sendmsg(self.unix(), &[IoSlice::new(bytes)], &mut attached, flags);
        assert_eq!(sent, Ok(bytes.len()));
    }
}

fn hear(accepted: &mut Accepted, length: usize) -> Vec<u8> {
    let mut heard = vec![0; length];
    within(accepted.stream.read_exact(&mut heard)).unwrap();
    heard
}

/// Listens in virtual time, which runs on whenever the kernel has nothing to say, until so many
/// connections have come in. Gives them, and when each did.
fn in_virtual_time(
    listening: &Arc<Listening>,
    slots: &Slots,
    count: usize,
) -> (Vec<(Accepted, Time)>, Sim) {
    let sim = Sim::new();
    let (sender, accepted) = async_channel::unbounded();
    let deliver = move |connection| {
        let sender = sender.clone();
        async move { sender.send(connection).await.is_ok() }
    };
    let (stopper, stop) = Stopper::new();
    let clock = sim.clock.clone();
    let listener = listen(listening.clone(), slots.clone(), clock, deliver, &stop);
    let scenario = async {
        let mut come = Vec::new();
        while come.len() < count {
            come.push((accepted.recv().await.unwrap(), sim.now()));
        }
        stopper.stop();
        come
    };
    let (_, come) = sim.run(future::zip(listener, scenario));
    (come, sim)
}

#[test]
fn the_byte_is_taken_and_what_follows_it_is_not_with_credentials_and_without() {
    let place = Place::new();
    for kind in UNIX {
        let listening = place.bind_with(kind, AccessRule::Credentials);
        // As one message and as two, the byte with credentials and without.
        let says: [fn(&mut Client); 4] = [
            |client| client.say_as(b"\x00first", geteuid()),
            |client| {
                client.say_as(b"\xff", geteuid());
                client.write(b"first");
            },
            |client| client.write(b"\x07first"),
            |client| {
                client.write(b"\x07");
                client.say_as(b"first", geteuid());
            },
        ];
        for say in says {
            let mut client = Client::connect(&listening);
            say(&mut client);
            let mut accepted = accept_one(&listening);
            assert_eq!(hear(&mut accepted, 5), b"first");
            // From here on it is a socket like any other: the kernel attaches nothing any more.
            assert!(!rustix::net::sockopt::socket_passcred(&accepted.stream).unwrap());
            client.write(b"more");
            assert_eq!(hear(&mut accepted, 4), b"more");
            within(accepted.stream.write_all(b"answer")).unwrap();
            drop(accepted);
            assert_eq!(client.read_to_end().unwrap(), b"answer");
        }
        assert_eq!(listening.refused(), 0);
    }
}

#[test]
fn nobody_comes_in_before_its_byte_and_who_is_silent_is_passed_by() {
    let place = Place::new();
    let listening = place.bind_with(AddressType::Unix, AccessRule::Credentials);
    let slots = Slots::new(4);
    listening_to(&listening, &slots, async |accepted| {
        let mut silent = Client::connect(&listening);
        let mut clients = Vec::new();
        for number in 0..3 {
            let mut client = Client::connect(&listening);
            client.write(&[9, number]);
            let mut come = accepted.recv().await.unwrap();
            let mut heard = [0];
            come.stream.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, [number]);
            clients.push((client, come));
        }
        assert!(accepted.is_empty());
        assert_eq!(slots.taken(), 4);
        silent.write(b"x now");
        let mut come = accepted.recv().await.unwrap();
        let mut heard = [0; 4];
        come.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b" now");
    });
}

#[test]
fn who_never_says_its_byte_is_let_go_in_time() {
    let place = Place::new();
    let listening = place.bind_with(AddressType::Unix, AccessRule::Credentials);
    let slots = Slots::new(4);
    let mut silent = Client::connect(&listening);
    let sim = Sim::new();
    let (_stopper, stop) = Stopper::new();
    let clock = sim.clock.clone();
    let listener = listen(
        listening.clone(),
        slots.clone(),
        clock,
        async |_| true,
        &stop,
    );
    let gone = async {
        sim.clock.sleep(FIRST_WORD_WITHIN * 2).await;
        // One slot is taken, for the next client.
        assert_eq!((listening.refused(), slots.taken()), (1, 1));
    };
    sim.run(future::or(gone, async {
        panic!("the listener ended: {:?}", listener.await)
    }));
    assert_eq!(silent.read_to_end().unwrap(), b"");
}

#[test]
fn who_closes_instead_of_saying_its_byte_holds_nothing() {
    let place = Place::new();
    let listening = place.bind_with(AddressType::AbstractUnix, AccessRule::Credentials);
    let slots = Slots::new(1);
    drop(Client::connect(&listening));
    let mut client = Client::connect(&listening);
    client.write(b"bx");
    let mut accepted = listening_to(&listening, &slots, async |accepted| {
        accepted.recv().await.unwrap()
    });
    assert_eq!(hear(&mut accepted, 1), b"x");
    assert_eq!(listening.refused(), 1);
}

#[test]
fn the_silent_do_not_keep_the_last_slot_from_one_who_speaks() {
    let place = Place::new();
    let listening = place.bind_with(AddressType::Unix, AccessRule::Credentials);
    let slots = Slots::new(1);
    let _silent = Client::connect(&listening);
    let mut client = Client::connect(&listening);
    client.write(b"bx");
    let (mut come, _sim) = in_virtual_time(&listening, &slots, 1);
    let (accepted, when) = &mut come[0];
    assert_eq!(hear(accepted, 1), b"x");
    assert_eq!(*when, PATIENCE);
}

#[test]
fn only_so_many_are_silent_at_a_time_and_the_next_one_waits_only_so_long() {
    let place = Place::new();
    let listening = place.bind_with(AddressType::Unix, AccessRule::Credentials);
    let slots = Slots::new(1000);
    let silent: Vec<_> = (0..MOST_SILENT)
        .map(|_| Client::connect(&listening))
        .collect();
    let mut client = Client::connect(&listening);
    client.write(b"b");
    let (come, _sim) = in_virtual_time(&listening, &slots, 1);
    assert_eq!(come[0].1, PATIENCE);
    assert_eq!(listening.refused(), 1, "one place was needed, one was made");
    assert_eq!(
        slots.taken(),
        MOST_SILENT,
        "the others, and the one that came in"
    );
    drop(silent);
}

#[test]
fn without_anybody_who_waits_a_silent_one_has_all_its_time_for_the_last_slot() {
    let place = Place::new();
    let listening = place.bind_with(AddressType::Unix, AccessRule::Credentials);
    let slots = Slots::new(1);
    let mut late = Client::connect(&listening);
    let sim = Sim::new();
    let (_stopper, stop) = Stopper::new();
    let (sender, accepted) = async_channel::unbounded();
    let deliver = move |connection| {
        let sender = sender.clone();
        async move { sender.send(connection).await.is_ok() }
    };
    let clock = sim.clock.clone();
    let listener = listen(listening.clone(), slots, clock, deliver, &stop);
    let speaking = async {
        sim.clock.sleep(FIRST_WORD_WITHIN - PATIENCE).await;
        late.write(b"b");
        accepted.recv().await.unwrap()
    };
    // The kernel's word that there is something to read is not in virtual time, so this takes some
    // turns of the reactor.
    let listener = async { panic!("the listener ended: {:?}", listener.await) };
    let mut running = std::pin::pin!(future::or(speaking, listener));
    for time in [
        Duration::ZERO,
        PATIENCE * 2,
        FIRST_WORD_WITHIN - PATIENCE * 3,
    ] {
        sim.clock.advance(time);
        assert_eq!(listening.refused(), 0);
        // The last one ends it, if the kernel is fast.
        if within(future::poll_once(&mut running)).is_some() {
            return;
        }
    }
    within(running);
    assert_eq!(listening.refused(), 0);
}

#[test]
fn those_who_wait_for_their_turn_to_speak_outlive_their_listener() {
    let place = Place::new();
    let listening = place.bind_with(AddressType::Unix, AccessRule::Credentials);
    let slots = Slots::new(3);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(&listening)).collect();
    // A listener takes all three in, and is stopped before any of them has spoken.
    listening_to(&listening, &slots, async |_| {
        while slots.taken() < 3 {
            future::yield_now().await;
        }
        for _ in 0..10 {
            future::yield_now().await;
        }
    });
    for (number, client) in (0..).zip(&mut clients) {
        client.write(&[b'b', number]);
    }
    let mut heard = listening_to(&listening, &slots, async |accepted| {
        let mut heard = Vec::new();
        while heard.len() < 3 {
            let mut byte = [0];
            let mut connection = accepted.recv().await.unwrap();
            connection.stream.read_exact(&mut byte).await.unwrap();
            heard.push(byte[0]);
        }
        heard
    });
    heard.sort_unstable();
    assert_eq!(heard, [0, 1, 2]);
}

#[test]
fn a_byte_that_another_user_wrote_is_refused_whoever_connected() {
    if !as_root("taking another user's id") {
        return;
    }
    let place = Place::new();
    for kind in UNIX {
        let listening = place.bind_with(kind, AccessRule::Credentials);
        let handed_over = Client::connect(&listening);
        handed_over.say_as(b"b", rustix::process::Uid::from_raw(65534));
        let mut own = Client::connect(&listening);
        own.write(b"bown");
        assert_eq!(hear(&mut accept_one(&listening), 3), b"own");
        assert_eq!(listening.refused(), 1);
    }
}

#[test]
fn a_dial_is_what_a_listener_wants_to_hear() {
    let place = Place::new();
    let clock = SystemClock::new();
    for kind in UNIX {
        let listening = place.bind_with(kind, AccessRule::Credentials);
        let byte = Introduction::Byte(200);
        let mut dialled = within(dial(listening.address(), byte, &place.0, &*clock)).unwrap();
        within(dialled.stream.write_all(b"hello")).unwrap();
        assert_eq!(dialled.from, None);
        assert_eq!(hear(&mut accept_one(&listening), 5), b"hello");
    }
}

#[test]
fn a_service_that_is_another_users_is_told_nothing() {
    use std::io::Read as _;
    if !as_root("listening as another user") {
        return;
    }
    let name = format!("theirs-{}", BytestreamId::random().unwrap());
    let script = "use Socket; $| = 1; socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die; \
        bind($s, pack('Sa*', AF_UNIX, \"\\0$ARGV[0]\")) or die; listen($s, 5) or die; \
        print 'on'; accept(my $c, $s) or die; print scalar(<$c>) // 'nothing';";
    let mut service = super::others::as_nobody("perl", &["-e", script, &name]);
    let mut on = [0; 2];
    service
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut on)
        .unwrap();
    let address = SocketAddress::AbstractUnix(name.into());
    let (place, clock) = (Place::new(), SystemClock::new());
    let dialling = dial(&address, Introduction::Byte(1), &place.0, &*clock);
    let error = within(dialling).unwrap_err();
    assert!(matches!(error, Error::PermissionDenied(_)), "{error:?}");
    assert_eq!(super::others::output(service), "nothing");
}

/// A TCP socket that is bound and not connected yet, with its address.
fn bound(address: &str) -> (rustix::fd::OwnedFd, SocketAddr) {
    let address: SocketAddr = address.parse().unwrap();
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let client = socket(family, SocketType::STREAM, None).unwrap();
    bind(&client, &address).unwrap();
    let address = getsockname(&client).unwrap().try_into().unwrap();
    (client, address)
}

#[test]
fn with_port_only_who_comes_from_there_comes_in() {
    let place = Place::new();
    for (kind, own, any) in [
        (AddressType::Ipv4, "127.0.0.1:0", "0.0.0.0"),
        (AddressType::Ipv6, "[::1]:0", "::"),
    ] {
        for exactly in [true, false] {
            let (client, address) = bound(own);
            let mut from = address;
            if !exactly {
                from.set_ip(any.parse().unwrap());
            }
            let listening = place.bind_with(kind, AccessRule::Port(from));
            let mut other = Client::connect(&listening);
            other.write(b"other");
            connect(&client, &ip(&listening)).unwrap();
            let mut client = TcpStream::from(client);
            client.write_all(b"right").unwrap();
            assert_eq!(hear(&mut accept_one(&listening), 5), b"right");
            assert_eq!(listening.refused(), 1);
            let end = other.read_to_end().map_err(|error| error.kind());
            assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
        }
    }
}

#[test]
fn with_port_the_address_counts_where_it_is_named() {
    let place = Place::new();
    // First the address that everybody uses: its port is free where nobody else is.
    let (right, from) = bound("127.0.0.1:0");
    let mut elsewhere = from;
    elsewhere.set_ip("127.83.19.9".parse().unwrap());
    let (client, _) = bound(&elsewhere.to_string());
    let listening = place.bind_with(AddressType::Ipv4, AccessRule::Port(from));
    connect(&client, &ip(&listening)).unwrap();
    connect(&right, &ip(&listening)).unwrap();
    let mut right = TcpStream::from(right);
    right.write_all(b"right").unwrap();
    assert_eq!(hear(&mut accept_one(&listening), 5), b"right");
    assert_eq!(listening.refused(), 1);
}
