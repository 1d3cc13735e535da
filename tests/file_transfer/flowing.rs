//! What arrives, through every kind of socket and from wherever it begins.

use std::{
    io::{Read as _, Write as _},
    thread,
};

use support::{PortForm, name};
use zbus::Variant;

use crate::people::{ACCEPTED, COMPLETED, End, OPEN, UNIX, WAYS, alice_and_bob, offer};

fn bytes(size: u32) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

/// Both ends up to Open, with a socket each; what the sender writes, and what the receiver gets.
fn carry(ours: &End<'_>, theirs: &End<'_>, data: &[u8], offset: u64) -> Vec<u8> {
    let (door, caller) = ours.provide(UNIX, PortForm::Exact);
    let (other_door, other_caller) = theirs.accept(UNIX, PortForm::Exact, offset);
    for end in [ours, theirs] {
        assert_eq!(end.state(), ACCEPTED);
        assert_eq!(end.state(), OPEN);
    }
    let begins: u64 = ours.property("InitialOffset");
    assert_eq!(begins, theirs.property::<u64>("InitialOffset"));
    let rest = data[begins as usize..].to_vec();
    let writing = thread::spawn(move || {
        let mut stream = caller.enter(&door).expect("a connection");
        stream.write_all(&rest).expect("bytes are taken");
    });
    let mut got = Vec::new();
    let mut stream = other_caller.enter(&other_door).expect("a connection");
    stream.read_to_end(&mut got).expect("bytes");
    writing.join().expect("the writer");
    for end in [ours, theirs] {
        assert_eq!(end.state(), COMPLETED, "{}", ours.person.output());
    }
    got
}

#[test]
fn every_way_to_provide_against_every_way_to_accept() {
    let (alice, bob) = alice_and_bob();
    let data = bytes(300_000);
    let mut forms = [PortForm::Exact, PortForm::AnyAddress, PortForm::Bare]
        .into_iter()
        .cycle();
    for provided in WAYS {
        for accepted in WAYS {
            let form = forms.next().expect("a cycle");
            let context = format!("{provided:?} to {accepted:?} {form:?}");
            let (ours, theirs) = offer(&alice, &bob, &context, 300_000, &[]);
            let (other_door, other) = theirs.accept(accepted, form, 0);
            assert_eq!(ours.state(), ACCEPTED, "{context}");
            let (door, caller) = ours.provide(provided, form);
            assert_eq!(ours.state(), OPEN, "{context}");
            let sent = data.clone();
            let writing = thread::spawn(move || {
                let mut stream = caller.enter(&door).expect("a connection");
                stream.write_all(&sent).expect("bytes are taken");
                stream.finish().expect("an end of file");
                // A TCP socket that has gone again could be anybody's: it stays until the transfer is over.
                stream
            });
            let mut got = Vec::new();
            let mut stream = other.enter(&other_door).expect("a connection");
            stream.read_to_end(&mut got).expect("bytes");
            assert!(got == data, "{context}: not the same bytes");
            assert_eq!(theirs.state(), ACCEPTED, "{context}");
            assert_eq!(theirs.state(), OPEN, "{context}");
            let writer = writing.join().expect("the writer");
            for end in [&ours, &theirs] {
                assert_eq!(end.state(), COMPLETED, "{context}");
                assert_eq!(end.property::<u64>("TransferredBytes"), 300_000);
                end.close();
                end.person.closed(&end.path);
            }
            drop(writer);
        }
    }
}

#[test]
fn files_go_both_ways_empty_ones_too() {
    let (alice, bob) = alice_and_bob();
    for size in [0, 1, 70_000] {
        for (from, to) in [(&alice, &bob), (&bob, &alice)] {
            let name = format!("{size} from {}", from.name());
            let (ours, theirs) = offer(from, to, &name, size.into(), &[]);
            let data = bytes(size);
            assert!(carry(&ours, &theirs, &data, 0) == data, "{name}");
            let encrypted: bool = theirs
                .person
                .property(&theirs.path, name::TRANSFER, "Encrypted")
                .expect("Encrypted")
                .try_into()
                .expect("a boolean");
            assert!(encrypted);
        }
    }
}

#[test]
fn a_file_whose_size_nobody_knows_ends_where_it_ends() {
    let (alice, bob) = alice_and_bob();
    let (ours, theirs) = offer(&alice, &bob, "a pipe", u64::MAX, &[]);
    assert_eq!(theirs.property::<u64>("Size"), u64::MAX);
    let data = bytes(100_000);
    assert!(carry(&ours, &theirs, &data, 0) == data);
}

#[test]
fn a_receiver_who_has_a_part_gets_the_rest() {
    let (alice, bob) = alice_and_bob();
    let data = bytes(100_000);
    for offset in [1_u64, 99_999, 100_000] {
        let name = format!("from {offset}");
        let (ours, theirs) = offer(&alice, &bob, &name, 100_000, &[]);
        let got = carry(&ours, &theirs, &data, offset);
        assert_eq!(ours.property::<u64>("InitialOffset"), offset);
        assert!(got == data[offset as usize..], "{name}");
    }
}

#[test]
fn a_file_of_more_than_4_gib_has_the_offsets_that_it_has() {
    let (alice, bob) = alice_and_bob();
    let size = 5_u64 << 30;
    let offset = size - 1000;
    let (ours, theirs) = offer(&alice, &bob, "large", size, &[]);
    let (other_door, other) = theirs.accept(UNIX, PortForm::Exact, offset);
    assert_eq!(ours.state(), ACCEPTED);
    let (door, caller) = ours.provide(UNIX, PortForm::Exact);
    assert_eq!(ours.state(), OPEN);
    assert_eq!(ours.property::<u64>("InitialOffset"), offset);
    let rest = bytes(1000);
    let mut writer = caller.enter(&door).expect("a connection");
    writer.write_all(&rest).expect("bytes are taken");
    drop(writer);
    let mut got = Vec::new();
    let mut reader = other.enter(&other_door).expect("a connection");
    reader.read_to_end(&mut got).expect("bytes");
    assert!(got == rest);
    assert_eq!(ours.state(), COMPLETED);
    assert_eq!(theirs.property::<u64>("InitialOffset"), offset);
}

#[test]
fn what_is_said_of_a_file_arrives() {
    let (alice, bob) = alice_and_bob();
    let digest = "900150983cd24fb0d6963f7d28e17f72";
    let said = [
        ("ContentHashType", Variant::from(1u32)),
        ("ContentHash", Variant::from(digest)),
        (
            "Description",
            Variant::from("söme <text> & \"quotes\"\nin lines"),
        ),
        ("Date", Variant::from(1_000_000_000i64)),
        ("URI", Variant::from("file:///alice/only")),
        ("ID", Variant::new("0f".repeat(16))),
    ];
    let (ours, theirs) = offer(&alice, &bob, "an <ünusual> & name.txt", 3, &said);
    assert_eq!(
        theirs.property::<String>("Filename"),
        "an <ünusual> & name.txt"
    );
    assert_eq!(theirs.property::<String>("ContentType"), "text/plain");
    assert_eq!(theirs.property::<u32>("ContentHashType"), 1);
    assert_eq!(theirs.property::<String>("ContentHash"), digest);
    let description = "söme <text> & \"quotes\"\nin lines";
    assert_eq!(theirs.property::<String>("Description"), description);
    assert_eq!(theirs.property::<i64>("Date"), 1_000_000_000);
    assert_eq!(theirs.property::<String>("URI"), "");
    let id = theirs
        .person
        .property(&theirs.path, name::TRANSFER, "ID")
        .expect("ID");
    assert_eq!(String::try_from(id).expect("text"), "0f".repeat(16));
    // The hash is that of these bytes.
    assert_eq!(carry(&ours, &theirs, b"abc", 0), b"abc");
}
