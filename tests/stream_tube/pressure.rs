//! Back-pressure from end to end: who does not read stops who writes, and memory stays flat.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    thread,
    time::Duration,
};

use support::{Address, Person, Stalled};

use crate::alice_and_bob;

/// More than every buffer on the way may hold together: sockets, relays, TLS records.
const MOST_ON_THE_WAY: usize = 64 * 1024 * 1024;
/// More than relays may keep in memory, whatever flows.
const MOST_MEMORY_KIB: u64 = 24 * 1024;

/// Writes until nothing goes any more for a while; how much went.
fn fill(client: &mut std::net::TcpStream) -> usize {
    client
        .set_write_timeout(Some(Duration::from_secs(3)))
        .expect("a deadline on writes");
    let block = vec![0x5a; 256 * 1024];
    let mut sent = 0;
    loop {
        match client.write(&block) {
            Ok(count) => sent += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return sent;
            }
            Err(error) => panic!("the connection broke instead of waiting: {error}"),
        }
        assert!(
            sent < MOST_ON_THE_WAY,
            "{sent} bytes went to somebody who reads nothing"
        );
    }
}

fn tcp(address: &Address) -> std::net::TcpStream {
    let Address::Ipv4(address) = address else {
        panic!("an IPv4 socket was asked for: {address:?}");
    };
    std::net::TcpStream::connect(address).expect("a connection")
}

fn grown(person: &Person, before: u64) -> u64 {
    person.usage().resident_kib.saturating_sub(before)
}

#[test]
fn a_stalled_reader_stops_the_writer() {
    let (alice, bob) = alice_and_bob();
    let service = Stalled::new();
    let (_, _, door) = alice.tube_to(&bob, "x-stalled", service.address(), 2);
    let before = [&alice, &bob].map(|person| person.usage().resident_kib);
    let mut client = tcp(&door);
    let sent = fill(&mut client);
    for (person, before) in [&alice, &bob].into_iter().zip(before) {
        let grown = grown(person, before);
        assert!(
            grown < MOST_MEMORY_KIB,
            "{} grew by {grown} KiB",
            person.name()
        );
    }
    // Once the reader reads, every byte comes, and writing goes on.
    let mut server = service.accept();
    let reader = thread::spawn(move || {
        let mut count = 0;
        let mut block = vec![0; 256 * 1024];
        loop {
            match server.read(&mut block).expect("bytes") {
                0 => return count,
                read => {
                    assert!(block[..read].iter().all(|byte| *byte == 0x5a));
                    count += read;
                }
            }
        }
    });
    client
        .set_write_timeout(Some(support::PATIENCE))
        .expect("a deadline on writes");
    client.write_all(&[0x5a; 1000]).expect("more bytes");
    drop(client);
    assert_eq!(reader.join().expect("the reader"), sent + 1000);
}

#[test]
fn one_stalled_connection_does_not_stop_the_others() {
    let (alice, bob) = alice_and_bob();
    let service = Stalled::new();
    let (_, _, door) = alice.tube_to(&bob, "x-others", service.address(), 2);
    let mut stalled = tcp(&door);
    let _server = service.accept();
    fill(&mut stalled);
    let mut other = tcp(&door);
    other.write_all(b"hello").expect("bytes");
    let mut server = service.accept();
    let mut got = [0; 5];
    server
        .read_exact(&mut got)
        .expect("bytes past the stalled ones");
    assert_eq!(&got, b"hello");
}

#[test]
fn much_flows_in_little_memory() {
    let (alice, bob) = alice_and_bob();
    let service = support::Echo::ipv4();
    let (_, _, door) = alice.tube_to(&bob, "x-much", service.address(), 2);
    let before = [&alice, &bob].map(|person| person.usage().resident_kib);
    let data = vec![1; 64 * 1024 * 1024];
    let back = support::exchange(&door, &data).expect("bytes through the tube");
    assert!(back == data);
    for (person, before) in [&alice, &bob].into_iter().zip(before) {
        let grown = grown(person, before);
        assert!(
            grown < MOST_MEMORY_KIB,
            "{} grew by {grown} KiB",
            person.name()
        );
    }
}
