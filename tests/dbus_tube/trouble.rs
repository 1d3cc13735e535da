//! Applications that write what they should not, that die, that do not read; a service that is killed.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use support::PATIENCE;
use zbus::Message;

use crate::{BOARD, alice_and_bob};

const SERVICE: &str = "com.example.Chess";
/// More than every buffer on the way may hold together: sockets, TLS records, the queue, one message.
const MOST_ON_THE_WAY: usize = 64 * 1024 * 1024;
/// More than both services may keep of what they carry.
const MOST_MEMORY_KIB: u64 = 24 * 1024;

/// An application that speaks by hand, and has said its greeting.
fn greeting(address: &str) -> UnixStream {
    let path = address.strip_prefix("unix:path=").expect("a path");
    let path = path.split(',').next().expect("a path");
    let mut stream = UnixStream::connect(path).expect("a connection");
    let user = rustix::process::geteuid().as_raw().to_string();
    let digits: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
    write!(stream, "\0AUTH EXTERNAL {digits}\r\nBEGIN\r\n").expect("a greeting");
    stream
}

/// The same once it is let in.
fn greeted(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        (&stream).read_exact(&mut byte).expect("an answer");
        answer.extend(byte);
    }
    assert!(answer.starts_with(b"OK "), "{answer:?}");
    stream
}

fn by_hand(address: &str) -> UnixStream {
    greeted(greeting(address))
}

/// A signal with so many bytes in it.
fn signal(number: u32, size: usize) -> Vec<u8> {
    let body = (number, vec![0x5a_u8; size]);
    let signal = Message::signal(BOARD, "com.example.Chess.Board", "Said")
        .build(&body)
        .expect("a signal");
    signal.data().to_vec()
}

/// Reads so many bytes.
fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("bytes");
    bytes
}

#[test]
fn who_writes_no_message_is_cut_off_and_the_next_one_is_heard() {
    let (alice, bob) = alice_and_bob();
    let [(_, here), (_, there)] = alice.dbus_tube_to(&bob, SERVICE);
    let mut his = by_hand(&there);
    let (first, second) = (signal(1, 100), signal(2, 200));
    let mut wrong = by_hand(&here);
    wrong.write_all(&first).expect("a signal");
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("bytes");
    assert_eq!(wrong.read(&mut [0]).expect("the end"), 0);
    assert!(read(&mut his, first.len()) == first);
    // Half of a message is none.
    let mut dies = by_hand(&here);
    dies.write_all(&first[..first.len() - 7]).expect("bytes");
    drop(dies);
    let mut right = by_hand(&here);
    right.write_all(&second).expect("a signal");
    assert!(read(&mut his, second.len()) == second);
}

#[test]
fn a_second_application_waits_until_the_first_has_left() {
    let (alice, bob) = alice_and_bob();
    let [(_, here), (_, there)] = alice.dbus_tube_to(&bob, SERVICE);
    let first = by_hand(&here);
    let mut second = greeting(&here);
    second
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a deadline");
    let waits = second.read(&mut [0]).expect_err("somebody has the place");
    assert!(
        matches!(waits.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{waits}"
    );
    drop(first);
    let mut second = greeted(second);
    let mut his = by_hand(&there);
    let said = signal(1, 10);
    second.write_all(&said).expect("a signal");
    assert!(read(&mut his, said.len()) == said);
}

#[test]
fn nobody_reads_and_the_writer_is_held_up_and_nothing_is_lost() {
    const SIZE: usize = 256 * 1024;
    let (alice, bob) = alice_and_bob();
    let [(_, here), (_, there)] = alice.dbus_tube_to(&bob, SERVICE);
    let before = [&alice, &bob].map(|person| person.usage().resident_kib);
    let mut hers = by_hand(&here);
    hers.set_write_timeout(Some(Duration::from_secs(3)))
        .expect("a deadline on writes");
    let (mut sent, mut rest) = (0_u32, Vec::new());
    while rest.is_empty() {
        let bytes = signal(sent, SIZE);
        let mut done = 0;
        while done < bytes.len() && rest.is_empty() {
            match hers.write(&bytes[done..]) {
                Ok(count) => done += count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    rest = bytes[done..].to_vec();
                }
                Err(error) => panic!("the connection broke instead of waiting: {error}"),
            }
        }
        sent += 1;
        let bytes = sent as usize * SIZE;
        assert!(bytes < MOST_ON_THE_WAY, "{bytes} bytes went to nobody");
    }
    for (person, before) in [&alice, &bob].into_iter().zip(before) {
        let grown = person.usage().resident_kib.saturating_sub(before);
        assert!(grown < MOST_MEMORY_KIB, "{}: {grown} KiB", person.name());
    }
    hers.set_write_timeout(Some(PATIENCE)).expect("a deadline");
    let writer = std::thread::spawn(move || {
        hers.write_all(&rest).expect("the rest");
        hers
    });
    let mut his = by_hand(&there);
    for number in 0..sent {
        let expected = signal(number, SIZE);
        let came = read(&mut his, expected.len());
        // All but the serial number, which is each message's own.
        assert!(came[12..] == expected[12..], "message {number}");
    }
    writer.join().expect("the writer");
}

#[test]
fn a_service_that_is_killed_ends_the_tube_for_the_other() {
    let (alice, bob) = alice_and_bob();
    let [(ours, here), _] = alice.dbus_tube_to(&bob, SERVICE);
    let mut hers = by_hand(&here);
    bob.kill_manager();
    alice.closed(&ours);
    assert_eq!(hers.read(&mut [0]).expect("the end"), 0);
}
