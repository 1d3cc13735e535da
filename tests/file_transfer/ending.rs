//! How transfers end before they are complete, and what each side is told of it.

use std::{
    io::{Read as _, Write as _},
    thread,
};

use support::PortForm;
use zbus::Variant;

use crate::people::{
    ACCEPTED, End, LOCAL_ERROR, LOCAL_STOPPED, OPEN, REMOTE_ERROR, REMOTE_STOPPED, UNIX,
    alice_and_bob, offer,
};

/// Both ends at Open, and the sockets of both applications.
fn open(ours: &End<'_>, theirs: &End<'_>) -> (Box<dyn support::Socket>, Box<dyn support::Socket>) {
    let (door, caller) = ours.provide(UNIX, PortForm::Exact);
    let (other_door, other) = theirs.accept(UNIX, PortForm::Exact, 0);
    for end in [ours, theirs] {
        assert_eq!(end.state(), ACCEPTED);
        assert_eq!(end.state(), OPEN);
    }
    (
        caller.enter(&door).expect("a connection"),
        other.enter(&other_door).expect("a connection"),
    )
}

#[test]
fn a_declined_file_is_cancelled_by_the_contact() {
    let (alice, bob) = alice_and_bob();
    let (ours, theirs) = offer(&alice, &bob, "unwanted", 5, &[]);
    theirs.close();
    assert_eq!(theirs.state(), LOCAL_STOPPED);
    assert_eq!(ours.state(), REMOTE_STOPPED);
}

#[test]
fn an_offer_that_is_taken_back_is_cancelled_by_the_sender() {
    let (alice, bob) = alice_and_bob();
    let (ours, theirs) = offer(&alice, &bob, "regretted", 5, &[]);
    ours.close();
    assert_eq!(ours.state(), LOCAL_STOPPED);
    assert_eq!(theirs.state(), REMOTE_STOPPED);
}

#[test]
fn whoever_closes_an_open_transfer_has_stopped_it() {
    let (alice, bob) = alice_and_bob();
    for sender_closes in [true, false] {
        let name = format!("closed by the sender: {sender_closes}");
        let (ours, theirs) = offer(&alice, &bob, &name, 1 << 30, &[]);
        let (mut writer, mut reader) = open(&ours, &theirs);
        writer.write_all(&[7; 1000]).expect("bytes are taken");
        let mut some = [0; 1000];
        reader.read_exact(&mut some).expect("bytes");
        let (one, other) = if sender_closes {
            (&ours, &theirs)
        } else {
            (&theirs, &ours)
        };
        one.close();
        assert_eq!(one.state(), LOCAL_STOPPED, "{name}");
        assert_eq!(other.state(), REMOTE_STOPPED, "{name}");
    }
}

#[test]
fn only_a_sender_who_closes_an_accepted_transfer_before_it_is_open_has_stopped_it() {
    let (alice, bob) = alice_and_bob();
    // At the receiver a crash, behind which Mission Control closes, looks the same; so it can be offered again.
    for (sender_closes, told) in [(true, REMOTE_STOPPED), (false, REMOTE_ERROR)] {
        let name = format!("closed by the sender: {sender_closes}");
        let (ours, theirs) = offer(&alice, &bob, &name, 5, &[]);
        // Nothing opens as long as nobody provides it.
        let (door, caller) = theirs.accept(UNIX, PortForm::Exact, 0);
        for end in [&ours, &theirs] {
            assert_eq!(end.state(), ACCEPTED, "{name}");
        }
        let (one, other) = if sender_closes {
            (&ours, &theirs)
        } else {
            (&theirs, &ours)
        };
        one.close();
        assert_eq!(one.state(), LOCAL_STOPPED, "{name}");
        assert_eq!(other.state(), told, "{name}");
        assert!(caller.enter(&door).is_err(), "{name}: nobody listens");
        other.close();
        for end in [&ours, &theirs] {
            end.person.closed(&end.path);
        }
    }
}

#[test]
fn what_is_closed_behind_an_application_that_has_gone_was_not_stopped() {
    let (alice, bob) = alice_and_bob();
    let (ours, theirs) = offer(&alice, &bob, "crashed", 1 << 30, &[]);
    let (mut writer, mut reader) = open(&ours, &theirs);
    writer.write_all(&[7; 1000]).expect("bytes are taken");
    let mut some = [0; 1000];
    reader.read_exact(&mut some).expect("bytes");
    // Nothing more comes that could not be written. Mission Control closes what such a program held.
    drop(reader);
    theirs.close();
    assert_eq!(theirs.state(), LOCAL_STOPPED);
    assert_eq!(ours.state(), REMOTE_ERROR);
}

#[test]
fn a_file_that_shrinks_or_grows_is_an_error_of_the_sender_s() {
    let (alice, bob) = alice_and_bob();
    for (name, written) in [("shorter", 90_u32), ("longer", 110)] {
        let (ours, theirs) = offer(&alice, &bob, name, 100, &[]);
        let (mut writer, mut reader) = open(&ours, &theirs);
        writer
            .write_all(&vec![1; written as usize])
            .expect("bytes are taken");
        drop(writer);
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all.len())
        });
        assert_eq!(ours.state(), LOCAL_ERROR, "{name}");
        assert_eq!(theirs.state(), REMOTE_ERROR, "{name}");
        // However its socket ends, nobody is left waiting.
        reading.join().expect("the reader").unwrap_or_default();
    }
}

#[test]
fn an_application_that_leaves_half_way_is_an_error_of_its_side() {
    let (alice, bob) = alice_and_bob();
    let (ours, theirs) = offer(&alice, &bob, "half", 1 << 30, &[]);
    let (mut writer, reader) = open(&ours, &theirs);
    drop(reader);
    // Until it is noticed.
    let writing = thread::spawn(move || while writer.write_all(&[0; 4096]).is_ok() {});
    assert_eq!(theirs.state(), LOCAL_ERROR);
    assert_eq!(ours.state(), REMOTE_ERROR);
    writing.join().expect("the writer");
}

#[test]
fn bytes_that_are_not_those_of_the_hash_are_not_completed() {
    let (alice, bob) = alice_and_bob();
    let said = [
        ("ContentHashType", Variant::from(1u32)),
        ("ContentHash", Variant::new("00".repeat(16))),
    ];
    let (ours, theirs) = offer(&alice, &bob, "forged", 3, &said);
    let (mut writer, mut reader) = open(&ours, &theirs);
    writer.write_all(b"abc").expect("bytes are taken");
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap_or_default();
    assert_eq!(theirs.state(), REMOTE_ERROR);
    let told = ours.state();
    assert!(told.0 == 5 && told.1 >= LOCAL_ERROR.1, "{told:?}");
}

#[test]
fn a_contact_that_vanishes_is_an_error_of_the_other_side() {
    let (alice, bob) = alice_and_bob();
    let (ours, theirs) = offer(&alice, &bob, "broken", 1 << 30, &[]);
    let (mut writer, mut reader) = open(&ours, &theirs);
    writer.write_all(&[7; 1000]).expect("bytes are taken");
    let mut some = [0; 1000];
    reader.read_exact(&mut some).expect("bytes");
    bob.kill_manager();
    assert_eq!(ours.state(), REMOTE_ERROR);
}
