//! Every way a relay can end.

use std::io::ErrorKind;

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future::block_on};

use super::{Rig, start};
use crate::{
    ports::Duplex as _,
    relay::{Meters, RelayEnd},
    testing::{FakeStream, pipe_counted},
};

fn read_all(stream: &mut FakeStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    block_on(stream.read_to_end(&mut bytes)).map(|_| bytes)
}

/// Reads until it fails; what came before, and how it failed.
fn read_to_failure(stream: &mut FakeStream) -> (Vec<u8>, ErrorKind) {
    let mut bytes = Vec::new();
    let error = block_on(stream.read_to_end(&mut bytes)).unwrap_err();
    (bytes, error.kind())
}

fn say(stream: &mut FakeStream, bytes: &[u8]) {
    block_on(stream.write_all(bytes)).unwrap();
}

fn close(stream: &mut FakeStream) {
    block_on(stream.close()).unwrap();
}

#[test]
fn the_application_closes_first() {
    let mut rig = Rig::new(64);
    say(&mut rig.application, b"question");
    close(&mut rig.application);
    rig.sim.settle();
    assert_eq!(read_all(&mut rig.contact).unwrap(), b"question");
    assert!(!rig.relay.is_finished(), "the other direction is open");
    say(&mut rig.contact, b"answer");
    close(&mut rig.contact);
    let meters = rig.meters.clone();
    let (end, mut application, _contact) = rig.end();
    assert_eq!(read_all(&mut application).unwrap(), b"answer");
    assert_eq!(end, RelayEnd::Finished);
    assert_eq!((meters.sent(), meters.received()), (8, 6));
}

#[test]
fn the_contact_closes_first() {
    let mut rig = Rig::new(64);
    say(&mut rig.contact, b"greeting");
    close(&mut rig.contact);
    rig.sim.settle();
    assert_eq!(read_all(&mut rig.application).unwrap(), b"greeting");
    assert!(!rig.relay.is_finished(), "the other direction is open");
    say(&mut rig.application, b"late");
    close(&mut rig.application);
    let (end, _application, mut contact) = rig.end();
    assert_eq!(read_all(&mut contact).unwrap(), b"late");
    assert_eq!(end, RelayEnd::Finished);
}

#[test]
fn both_close_at_once() {
    let mut rig = Rig::new(64);
    say(&mut rig.application, b"to you");
    say(&mut rig.contact, b"to me");
    close(&mut rig.application);
    close(&mut rig.contact);
    let (end, mut application, mut contact) = rig.end();
    assert_eq!(end, RelayEnd::Finished);
    assert_eq!(read_all(&mut application).unwrap(), b"to me");
    assert_eq!(read_all(&mut contact).unwrap(), b"to you");
}

#[test]
fn nothing_at_all_is_said() {
    let mut rig = Rig::new(64);
    close(&mut rig.application);
    close(&mut rig.contact);
    let meters = rig.meters.clone();
    let (end, mut application, mut contact) = rig.end();
    assert_eq!(end, RelayEnd::Finished);
    assert_eq!(read_all(&mut application).unwrap(), b"");
    assert_eq!(read_all(&mut contact).unwrap(), b"");
    assert_eq!((meters.sent(), meters.received()), (0, 0));
}

#[test]
fn an_end_of_file_behind_a_full_pipe_comes_after_the_bytes() {
    let mut rig = Rig::new(4);
    let mut text = Vec::new();
    let (application, contact) = (&mut rig.application, &mut rig.contact);
    rig.sim.run(async {
        let writing = async {
            application
                .write_all(b"longer than the pipes")
                .await
                .unwrap();
            application.close().await.unwrap();
        };
        futures_lite::future::zip(writing, contact.read_to_end(&mut text))
            .await
            .1
            .unwrap();
    });
    assert_eq!(text, b"longer than the pipes");
}

#[test]
fn a_reset_by_the_application_reaches_the_contact_as_a_reset() {
    let mut rig = Rig::new(64);
    rig.sim.settle();
    rig.application.reset();
    let (end, _application, mut contact) = rig.end();
    assert_eq!(end, RelayEnd::LocalReset);
    assert_eq!(read_to_failure(&mut contact).1, ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_by_the_contact_reaches_the_application_as_a_reset() {
    let mut rig = Rig::new(64);
    rig.sim.settle();
    rig.contact.reset();
    let (end, mut application, _contact) = rig.end();
    assert_eq!(end, RelayEnd::RemoteReset);
    assert_eq!(
        read_to_failure(&mut application).1,
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_reset_after_a_half_close_is_still_a_reset() {
    for contact_resets in [true, false] {
        let mut rig = Rig::new(64);
        let (closes, resets) = if contact_resets {
            (&mut rig.application, &mut rig.contact)
        } else {
            (&mut rig.contact, &mut rig.application)
        };
        close(closes);
        rig.sim.settle();
        resets.reset();
        let (end, mut application, mut contact) = rig.end();
        let (expected, other) = if contact_resets {
            (RelayEnd::RemoteReset, &mut application)
        } else {
            (RelayEnd::LocalReset, &mut contact)
        };
        assert_eq!(end, expected);
        assert_eq!(read_to_failure(other).1, ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_lost_carrier_resets_the_application_so_that_a_part_is_not_taken_for_the_whole() {
    let mut rig = Rig::new(64);
    say(&mut rig.contact, b"half of it");
    rig.sim.settle();
    let mut half = [0; 10];
    block_on(rig.application.read_exact(&mut half)).unwrap();
    rig.contact.wire().lose();
    let (end, mut application, _contact) = rig.end();
    assert_eq!(end, RelayEnd::RemoteLost);
    assert_eq!(&half, b"half of it");
    assert_eq!(
        read_to_failure(&mut application).1,
        ErrorKind::ConnectionReset
    );
}

#[test]
fn a_contact_that_vanishes_without_closing_is_lost() {
    let rig = Rig::new(64);
    drop(rig.contact);
    assert_eq!(rig.sim.run(rig.relay).unwrap(), RelayEnd::RemoteLost);
}

#[test]
fn a_contact_that_closed_and_then_vanishes_is_lost_only_if_something_was_left_to_say() {
    // Nothing to say: the end is an orderly one.
    let mut rig = Rig::new(64);
    close(&mut rig.contact);
    rig.sim.settle();
    drop(rig.contact);
    close(&mut rig.application);
    assert_eq!(rig.sim.run(rig.relay).unwrap(), RelayEnd::Finished);
    // Something: it cannot arrive, and the application learns of it.
    let mut rig = Rig::new(64);
    close(&mut rig.contact);
    rig.sim.settle();
    drop(rig.contact);
    say(&mut rig.application, b"are you there");
    assert_eq!(rig.sim.run(rig.relay).unwrap(), RelayEnd::RemoteLost);
    block_on(rig.application.read(&mut [0])).unwrap_err();
}

#[test]
fn a_stop_resets_both_sides() {
    let mut rig = Rig::new(64);
    say(&mut rig.application, b"unfinished");
    rig.sim.settle();
    rig.stopper.stop();
    let (end, mut application, mut contact) = rig.end();
    assert_eq!(end, RelayEnd::Stopped);
    assert_eq!(
        read_to_failure(&mut application).1,
        ErrorKind::ConnectionReset
    );
    assert_eq!(read_to_failure(&mut contact).1, ErrorKind::ConnectionReset);
}

#[test]
fn a_stop_that_was_there_first_lets_nothing_through() {
    let mut rig = Rig::new(64);
    say(&mut rig.application, b"too late");
    close(&mut rig.application);
    rig.stopper.stop();
    let meters = rig.meters.clone();
    let (end, _application, _contact) = rig.end();
    assert_eq!(end, RelayEnd::Stopped);
    assert_eq!(meters.sent(), 0);
}

#[test]
fn a_stop_ends_a_relay_whose_both_sides_are_stuck() {
    let mut rig = Rig::new(4);
    for stream in [&mut rig.application, &mut rig.contact] {
        while block_on(futures_lite::future::poll_once(stream.write(b"x"))).is_some() {}
    }
    rig.sim.settle();
    assert!(!rig.relay.is_finished());
    rig.stopper.stop();
    assert_eq!(rig.end().0, RelayEnd::Stopped);
}

#[test]
fn a_relay_that_is_dropped_lets_go_of_everything() {
    let rig = Rig::new(64);
    rig.sim.settle();
    drop(rig.relay);
    rig.sim.settle();
    assert_eq!(rig.counter.open(), 2);
    assert_eq!(rig.sim.spawner.running(), 0);
    // Neither side takes it for an orderly end.
    let (mut application, mut contact) = (rig.application, rig.contact);
    assert_eq!(
        read_to_failure(&mut application).1,
        ErrorKind::ConnectionReset
    );
    assert_eq!(read_to_failure(&mut contact).1, ErrorKind::UnexpectedEof);
}

#[test]
fn a_panic_inside_one_relay_is_told_and_the_next_relay_lives_on() {
    let mut neighbour = Rig::new(64);
    let counter = neighbour.counter.clone();
    let (mut application, local) = pipe_counted(4, &counter);
    let local = local.like_a_socket();
    let meters = std::sync::Arc::new(Meters::default());
    let (_stopper, relay) = start(&neighbour.sim, local, Explosive, &meters);
    let failure = neighbour.sim.run(relay).unwrap_err();
    assert!(failure.to_string().contains("boom"), "{failure}");
    assert_eq!(
        counter.open(),
        5,
        "the one that panicked let go of its side"
    );
    assert_eq!(
        read_to_failure(&mut application).1,
        ErrorKind::ConnectionReset
    );
    say(&mut neighbour.application, b"unhurt");
    close(&mut neighbour.application);
    neighbour.sim.settle();
    assert_eq!(read_all(&mut neighbour.contact).unwrap(), b"unhurt");
}

/// Panics when it is read.
#[derive(Debug)]
struct Explosive;

mod streams {
    use std::{
        io::Result,
        pin::Pin,
        task::{Context, Poll},
    };

    use futures_lite::{AsyncRead, AsyncWrite};

    use super::Explosive;
    use crate::ports::Duplex;

    impl Duplex for Explosive {}

    impl AsyncRead for Explosive {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut [u8],
        ) -> Poll<Result<usize>> {
            panic!("boom")
        }
    }

    impl AsyncWrite for Explosive {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Pending
        }
    }
}
