//! Tubes whose bytes go through the XML stream, because the accounts allow nothing else or have nothing else in
//! common.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    thread,
    time::Duration,
};

use support::{Address, Echo, Options, Person, Stalled, World, exchange, name, service};

/// Two people who see each other; which ways each allows.
fn alice_and_bob(ways: [&'static str; 2]) -> (Person, Person) {
    let world = World::new();
    let person = |name, ways| {
        let options = Options {
            bytestreams: Some(ways),
            ..Options::default()
        };
        let person = Person::with(&world, name, service!(), options);
        person.go_online();
        person
    };
    let (alice, bob) = (person("alice", ways[0]), person("bob", ways[1]));
    alice.sees(&bob);
    bob.sees(&alice);
    (alice, bob)
}

fn tcp(address: &Address) -> std::net::TcpStream {
    let Address::Ipv4(address) = address else {
        panic!("an IPv4 socket was asked for: {address:?}");
    };
    std::net::TcpStream::connect(address).expect("a connection")
}

/// A megabyte there and back.
fn echoed(door: &Address) {
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let back = exchange(door, &bytes).expect("the bytes that were sent");
    assert!(back == bytes);
}

#[test]
fn a_tube_goes_in_band_whoever_allows_nothing_else() {
    for ways in [["ibb", "ibb"], ["ibb", "socks5,ibb"], ["socks5,ibb", "ibb"]] {
        let (alice, bob) = alice_and_bob(ways);
        let service = Echo::ipv4();
        let (ours, theirs, door) = alice.tube_to(&bob, "x-in-band", service.address(), 2);
        // Several at once, each with bytes of its own, both ways.
        let all: Vec<_> = (0..4)
            .map(|_| {
                let door = door.clone();
                thread::spawn(move || echoed(&door))
            })
            .collect();
        for one in all {
            one.join().expect("an exchange");
        }
        for _ in 0..4 {
            assert_eq!(alice.connection_closed(&ours).1, "Cancelled", "{ways:?}");
            assert_eq!(bob.connection_closed(&theirs).1, "Cancelled", "{ways:?}");
        }
        for (person, tube) in [(&alice, &ours), (&bob, &theirs)] {
            let encrypted = person
                .property(tube, name::STATISTICS, "Encrypted")
                .expect("Encrypted");
            assert!(bool::try_from(encrypted).expect("a flag"));
        }
        bob.close(&theirs).expect("Close");
        bob.closed(&theirs);
        alice.closed(&ours);
    }
}

#[test]
fn with_nothing_in_common_no_byte_goes() {
    let (alice, bob) = alice_and_bob(["ibb", "socks5"]);
    let service = Echo::ipv4();
    let (_ours, theirs, door) = alice.tube_to(&bob, "x-nothing", service.address(), 2);
    let mut client = tcp(&door);
    client.write_all(b"anybody?").ok();
    assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert_eq!(bob.connection_closed(&theirs).1, "ConnectionRefused");
    assert_eq!(service.connections(), 0);
}

#[test]
fn a_stalled_reader_stops_its_writer_and_nobody_else() {
    let (alice, bob) = alice_and_bob(["ibb", "ibb"]);
    let (stalled, service) = (Stalled::new(), Echo::ipv4());
    let (_, _, stalled_door) = alice.tube_to(&bob, "x-stalled", stalled.address(), 2);
    let (_, _, door) = alice.tube_to(&bob, "x-lively", service.address(), 2);
    let before = [&alice, &bob].map(|person| person.usage().resident_kib);
    let mut clients: Vec<_> = (0..8).map(|_| tcp(&stalled_door)).collect();
    let block = vec![0x5a; 256 * 1024];
    let mut sent = vec![0_usize; clients.len()];
    for (client, sent) in clients.iter_mut().zip(&mut sent) {
        let patience = Some(Duration::from_secs(1));
        client
            .set_write_timeout(patience)
            .expect("a deadline on writes");
        loop {
            match client.write(&block) {
                Ok(count) => *sent += count,
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut),
                        "{error}"
                    );
                    break;
                }
            }
            assert!(*sent < 64 * 1024 * 1024, "nothing stops the writer");
        }
    }
    echoed(&door);
    for (person, before) in [&alice, &bob].into_iter().zip(before) {
        let grown = person.usage().resident_kib.saturating_sub(before);
        assert!(grown < 24 * 1024, "{} grew by {grown} KiB", person.name());
    }
    // Once somebody reads, every byte comes.
    let readers: Vec<_> = clients.iter().map(|_| stalled.accept()).collect();
    for client in &mut clients {
        client
            .shutdown(std::net::Shutdown::Write)
            .expect("an end of file");
    }
    let mut came: Vec<usize> = readers
        .into_iter()
        .map(|mut reader| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                reader
                    .read_to_end(&mut bytes)
                    .expect("the end of the bytes");
                assert!(bytes.iter().all(|byte| *byte == 0x5a));
                bytes.len()
            })
        })
        .map(|reader| reader.join().expect("a reader"))
        .collect();
    came.sort_unstable();
    sent.sort_unstable();
    assert_eq!(came, sent);
}

#[test]
fn who_is_killed_takes_the_connections_along() {
    let (alice, bob) = alice_and_bob(["ibb", "ibb"]);
    let service = Echo::ipv4();
    let (_, theirs, door) = alice.tube_to(&bob, "x-killed", service.address(), 2);
    let mut held = tcp(&door);
    held.write_all(b"a").expect("a byte");
    held.read_exact(&mut [0]).expect("its echo");
    alice.kill_manager();
    assert_eq!(bob.connection_closed(&theirs).1, "ConnectionLost");
    assert!(matches!(held.read(&mut [0]), Ok(0) | Err(_)));
}
