//! `pneuma accept --stdio`, as ssh's ProxyCommand would use it: exact bytes, an end of file in each
//! direction by itself, nothing else on standard output.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    process::Stdio,
};

use support::{Echo, PATIENCE};

use crate::{
    Two,
    pneuma::{Running, feed, noise},
};

/// Bob offers what listens at `port`.
fn offered(two: &Two, port: u16) -> Running {
    let mut offer = two.bob.start(&[
        "offer",
        "x-test",
        &port.to_string(),
        "--to",
        "alice",
        "--json",
    ]);
    offer.event("offered");
    offer
}

fn port_of(echo: &Echo) -> u16 {
    match echo.address() {
        support::Address::Ipv4(address) => address.port(),
        _ => panic!("another address"),
    }
}

#[test]
fn bytes_are_exact_and_the_end_of_input_comes_back_as_the_end_of_output() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let _offer = offered(&two, port_of(&service));
    let mut command = two.alice.command(&["accept", "bob", "x-test", "--stdio"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pneuma runs");
    let bytes = noise(5_000_011);
    let feeding = feed(child.stdin.take().expect("a pipe"), bytes.clone());
    let mut back = Vec::new();
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_to_end(&mut back)
        .expect("output");
    feeding.join().expect("a thread").expect("all was written");
    let rest = child.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&rest.stderr);
    assert_eq!(rest.status.code(), Some(0), "{said}");
    assert_eq!(back.len(), bytes.len());
    assert!(back == bytes);
}

#[test]
fn the_service_may_end_its_side_first() {
    let two = Two::verified();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let _offer = offered(&two, listener.local_addr().expect("an address").port());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.write_all(b"welcome").expect("bytes");
        stream.shutdown(Shutdown::Write).expect("half-closed");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("bytes");
        rest
    });
    let mut command = two.alice.command(&["accept", "bob", "x-test", "--stdio"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pneuma runs");
    let mut back = Vec::new();
    // Output ends although input is still open.
    child
        .stdout
        .take()
        .expect("a pipe")
        .read_to_end(&mut back)
        .expect("output");
    assert_eq!(back, b"welcome");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(b"and thank you").expect("input is open");
    drop(input);
    assert_eq!(serving.join().expect("a thread"), b"and thank you");
    let rest = child.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&rest.stderr);
    assert_eq!(rest.status.code(), Some(0), "{said}");
}

#[test]
fn a_broken_link_does_not_look_like_success() {
    let two = Two::verified();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let _offer = offered(&two, listener.local_addr().expect("an address").port());
    let mut command = two.alice.command(&["accept", "bob", "x-test", "--stdio"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pneuma runs");
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.write_all(b"half a fi").expect("bytes");
    let mut out = child.stdout.take().expect("a pipe");
    let mut some = [0; 9];
    out.read_exact(&mut some).expect("what was sent before");
    two.bob.person().kill_manager();
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).expect("the end");
    let ended = child.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("pneuma: "), "{said}");
}

#[test]
fn a_reader_that_leaves_ends_it() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let mut offer = offered(&two, port_of(&service));
    let mut command = two.alice.command(&["accept", "bob", "x-test", "--stdio"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("pneuma runs");
    drop(child.stdout.take());
    let mut input = child.stdin.take().expect("a pipe");
    // The echo of this has nowhere to go.
    input.write_all(&noise(10_000)).expect("bytes");
    offer.event("connection-closed");
    let ended = child.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    drop(input);
}

#[test]
fn an_offer_made_again_serves_one_after_the_other() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let port = port_of(&service).to_string();
    let mut offer = two.bob.start(&[
        "offer", "x-test", &port, "--to", "alice", "--again", "--json",
    ]);
    for round in [b"first", b"again"] {
        offer.event("offered");
        let mut command = two.alice.command(&["accept", "bob", "x-test", "--stdio"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pneuma runs");
        feed(child.stdin.take().expect("a pipe"), round.to_vec())
            .join()
            .expect("a thread")
            .expect("all was written");
        let output = child.wait_with_output().expect("our own child");
        assert_eq!(output.stdout, round, "{output:?}");
    }
    offer.event("offered");
    assert_eq!(offer.interrupt().code, Some(0));
}
