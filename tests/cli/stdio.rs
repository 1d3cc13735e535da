//! `pneuma accept --stdio`, as ssh's ProxyCommand would use it: exact bytes, an end of file in each
//! direction by itself, nothing else on standard output.

use std::{
    io::{Read, Write as _},
    net::{Shutdown, TcpListener},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use support::{Echo, PATIENCE};

use crate::{
    Two,
    pneuma::{Running, feed, noise},
};

/// `pneuma accept --stdio`, with pipes all round. Killed on drop, so that a test that fails leaves
/// nothing behind.
struct Joined(Child);

impl Joined {
    fn new(two: &Two) -> Self {
        let child = two
            .alice
            .command(&["accept", "bob", "x-test", "--stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("pneuma runs");
        Joined(child)
    }

    fn input(&mut self) -> ChildStdin {
        self.0.stdin.take().expect("a pipe")
    }

    fn output(&mut self) -> ChildStdout {
        self.0.stdout.take().expect("a pipe")
    }

    /// Its exit code and what it said, once it has ended.
    fn finish(mut self) -> (Option<i32>, String) {
        let said = to_the_end(self.0.stderr.take().expect("a pipe"));
        let status = self.0.wait().expect("our own child");
        (status.code(), String::from_utf8_lossy(&said).into_owned())
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// All there is to read, with a deadline for its end.
fn to_the_end(mut from: impl Read + Send + 'static) -> Vec<u8> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let read = from.read_to_end(&mut all).map(|_| all);
        // Nobody waits any more when the deadline has passed.
        drop(sender.send(read));
    });
    receiver
        .recv_timeout(PATIENCE)
        .expect("its end in time")
        .expect("bytes")
}

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
    let mut child = Joined::new(&two);
    let bytes = noise(5_000_011);
    let feeding = feed(child.input(), bytes.clone());
    let back = to_the_end(child.output());
    feeding.join().expect("a thread").expect("all was written");
    let (code, said) = child.finish();
    assert_eq!(code, Some(0), "{said}");
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
    let mut child = Joined::new(&two);
    // Output ends although input is still open.
    let back = to_the_end(child.output());
    assert_eq!(back, b"welcome");
    let mut input = child.input();
    input.write_all(b"and thank you").expect("input is open");
    drop(input);
    assert_eq!(serving.join().expect("a thread"), b"and thank you");
    let (code, said) = child.finish();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_broken_link_does_not_look_like_success() {
    let two = Two::verified();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let _offer = offered(&two, listener.local_addr().expect("an address").port());
    let mut child = Joined::new(&two);
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.write_all(b"half a fi").expect("bytes");
    let mut out = child.output();
    let mut some = [0; 9];
    out.read_exact(&mut some).expect("what was sent before");
    two.bob.person().kill_manager();
    to_the_end(out);
    let (code, said) = child.finish();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("pneuma: "), "{said}");
}

#[test]
fn a_reader_that_leaves_ends_it() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let mut offer = offered(&two, port_of(&service));
    let mut child = Joined::new(&two);
    drop(child.output());
    let mut input = child.input();
    // The echo of this has nowhere to go.
    input.write_all(&noise(10_000)).expect("bytes");
    offer.event("connection-closed");
    let (code, said) = child.finish();
    assert_eq!(code, Some(0), "{said}");
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
        let mut child = Joined::new(&two);
        feed(child.input(), round.to_vec())
            .join()
            .expect("a thread")
            .expect("all was written");
        let back = to_the_end(child.output());
        assert_eq!(back, round);
        assert_eq!(child.finish().0, Some(0));
    }
    offer.event("offered");
    assert_eq!(offer.interrupt().code, Some(0));
}
