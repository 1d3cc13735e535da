//! What becomes of a file that a contact sends, whatever the contact and the application do.

use std::time::Duration;

use actors::{
    file_transfer::{
        FileTransferMessage,
        frames::{self, AbortReason, Word},
    },
    model::{
        AccessRule, AddressType, ContentHash, Error, FileOffer, FileTransferReason,
        FileTransferState, HashKind, Resume, Sha256Digest,
    },
    ports::{Duplex as _, FileTransferObject, FileTransferSignal},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use crate::support::*;

const SIZE: usize = 50_000;

async fn set_uri(channel: &FileTransferObject, uri: &str) -> Result<(), Error> {
    let uri = uri.to_owned();
    let ask = |reply| FileTransferMessage::SetUri { uri, reply };
    channel.address.ask(ask).await?
}

#[test]
fn the_application_has_it_all_before_the_contact_is_told_and_it_is_completed() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut sink, mut contact) = world.receiving(file(SIZE), true).await;
        let bytes = content(SIZE);
        // The application takes nothing yet, so not all of it is out of our hands.
        future::or(write_frames(&mut contact, &bytes), world.sim_sleep(3600)).await;
        assert_eq!(channel.view.get().state, FileTransferState::Open);
        assert!(future::poll_once(contact.read(&mut [0])).await.is_none());
        let (got, words) = future::zip(drain(&mut sink), hear_words(&mut contact)).await;
        assert!(got == bytes);
        assert_eq!(words, [Word::Verified]);
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
        drop(sink);
    });
    world.finish();
}

#[test]
fn an_application_may_come_late() {
    for framed in [true, false] {
        let world = World::new();
        world.sim.run(async {
            let (channel, offer) = world.offered(file(3)).await;
            let address = accept(&channel, Resume::default()).await.unwrap();
            assert_eq!(channel.view.get().state, FileTransferState::Accepted);
            let (_, mut contact) = offer.open(CAPACITY, framed, &world.counter).await;
            if framed {
                contact.write_all(&frames::header(0)).await.unwrap();
                write_frames(&mut contact, b"abc").await;
            } else {
                contact.write_all(b"abc").await.unwrap();
            }
            wait_state(&channel, FileTransferState::Open).await;
            world.sim_sleep(500).await;
            assert_eq!(channel.view.get().transferred, 0);
            let mut sink = world.sockets.connect(&address).unwrap();
            assert_eq!(drain(&mut sink).await, b"abc");
            drain(&mut contact).await;
            hang_up(contact).await;
            wait_state(&channel, FileTransferState::Completed).await;
            drop(sink);
        });
        world.finish();
    }
}

#[test]
fn an_application_that_never_comes_is_a_local_error_and_the_contact_is_told() {
    let world = World::new();
    world.sim.run(async {
        let (channel, offer) = world.offered(file(3)).await;
        accept(&channel, Resume::default()).await.unwrap();
        let (_, mut contact) = offer.open(CAPACITY, true, &world.counter).await;
        contact.write_all(&frames::header(0)).await.unwrap();
        wait_state(&channel, FileTransferState::Open).await;
        let before = world.sim.now();
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::LocalError);
        assert!(world.sim.now() - before <= Duration::from_secs(600));
        let words = hear_words(&mut contact).await;
        assert_eq!(words, [Word::Abort(AbortReason::Failed)]);
        hang_up(contact).await;
    });
    world.finish();
}

/// The contact writes this after the header of a file of 3 bytes; how it ends, what the application read
/// and what the contact heard.
fn the_contact_writes(offer: FileOffer, bytes: &[u8]) -> (FileTransferReason, bool, Vec<Word>) {
    let world = World::new();
    let outcome = world.sim.run(async {
        let (channel, mut sink, mut contact) = world.receiving(offer, true).await;
        contact.write_all(bytes).await.unwrap();
        let mut got = Vec::new();
        let reading = async { sink.read_to_end(&mut got).await.is_ok() };
        let (in_order, words) = future::zip(reading, hear_words(&mut contact)).await;
        hang_up(contact).await;
        let over =
            |view: &actors::ports::FileTransferView| view.state >= FileTransferState::Completed;
        let view = channel.view.wait_for(over).await;
        drop(sink);
        (view.reason, in_order, words)
    });
    world.finish();
    outcome
}

fn sent(chunks: &[&[u8]], end: &[u8]) -> Vec<u8> {
    let mut all: Vec<u8> = chunks.iter().flat_map(|part| chunk(part)).collect();
    all.extend(end);
    all
}

#[test]
fn what_is_not_what_was_sent_is_a_mismatch() {
    let mismatch = (FileTransferReason::RemoteError, false, vec![Word::Mismatch]);
    let cases: [(&str, Vec<u8>); 2] = [
        ("another digest", sent(&[b"abc"], &end_of(b"abd"))),
        ("too short", sent(&[b"ab"], &end_of(b"ab"))),
    ];
    for (what, bytes) in cases {
        assert_eq!(the_contact_writes(file(3), &bytes), mismatch, "{what}");
    }
    let fine = sent(&[b"a", b"bc"], &end_of(b"abc"));
    assert_eq!(
        the_contact_writes(file(3), &fine),
        (FileTransferReason::None, true, vec![Word::Verified])
    );
}

#[test]
fn what_cannot_be_is_the_contacts_error() {
    let aborted = (
        FileTransferReason::RemoteError,
        false,
        vec![Word::Abort(AbortReason::Failed)],
    );
    let cases: [(&str, Vec<u8>); 4] = [
        ("too long", sent(&[b"abcd"], &end_of(b"abcd"))),
        ("a chunk too long", vec![0, 4, 0, 1]),
        (
            "behind the end",
            sent(&[b"abc"], &[&end_of(b"abc")[..], b"x"].concat()),
        ),
        ("an unknown reason", vec![255, 255, 255, 255, 0]),
    ];
    for (what, bytes) in cases {
        assert_eq!(the_contact_writes(file(3), &bytes), aborted, "{what}");
    }
}

#[test]
fn a_contact_that_gives_up_says_why() {
    let cases = [
        (AbortReason::Stopped, FileTransferReason::RemoteStopped),
        (AbortReason::Failed, FileTransferReason::RemoteError),
    ];
    for (why, reason) in cases {
        let bytes = sent(&[b"a"], &frames::abort(why));
        let (got, in_order, _) = the_contact_writes(file(3), &bytes);
        assert_eq!((got, in_order), (reason, false));
    }
}

fn with_hash(kind: HashKind, digits: &str) -> FileOffer {
    FileOffer {
        hash: Some(ContentHash::new(kind, digits).unwrap()),
        ..file(3)
    }
}

/// Of "abc".
const HASHES: [(HashKind, &str); 3] = [
    (HashKind::Md5, "900150983CD24FB0D6963F7D28E17F72"),
    (HashKind::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
    (
        HashKind::Sha256,
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    ),
];

#[test]
fn the_offers_own_hash_is_looked_at() {
    for (kind, digits) in HASHES {
        let right = sent(&[b"a", b"bc"], &end_of(b"abc"));
        assert_eq!(
            the_contact_writes(with_hash(kind, digits), &right),
            (FileTransferReason::None, true, vec![Word::Verified]),
            "{kind:?}"
        );
        let wrong = sent(&[b"abd"], &end_of(b"abd"));
        assert_eq!(
            the_contact_writes(with_hash(kind, digits), &wrong),
            (FileTransferReason::RemoteError, false, vec![Word::Mismatch]),
            "{kind:?}"
        );
    }
}

#[test]
fn without_frames_the_offers_hash_is_looked_at_too() {
    for (bytes, reason) in [
        (b"abc", FileTransferReason::None),
        (b"abd", FileTransferReason::RemoteError),
    ] {
        let world = World::new();
        world.sim.run(async {
            let offer = with_hash(HASHES[0].0, HASHES[0].1);
            let (channel, mut sink, mut contact) = world.receiving(offer, false).await;
            contact.write_all(bytes).await.unwrap();
            let mut got = Vec::new();
            let in_order = sink.read_to_end(&mut got).await.is_ok();
            assert_eq!(in_order, reason == FileTransferReason::None);
            let over =
                |view: &actors::ports::FileTransferView| view.state >= FileTransferState::Completed;
            assert_eq!(channel.view.wait_for(over).await.reason, reason);
            drop((sink, contact));
        });
        world.finish();
    }
}

#[test]
fn the_rest_of_a_file_is_not_held_against_the_hash_of_the_whole() {
    let world = World::new();
    world.sim.run(async {
        let offer = with_hash(HASHES[2].0, HASHES[2].1);
        let (channel, at) = world.offered(offer).await;
        let from = Resume {
            offset: 2,
            stored: Some(Sha256Digest([5; 32])),
        };
        let address = accept(&channel, from.clone()).await.unwrap();
        let mut sink = world.sockets.connect(&address).unwrap();
        let (asked, mut contact) = at.open(CAPACITY, true, &world.counter).await;
        assert_eq!(asked, from, "the session is told what is stored");
        contact.write_all(&frames::header(2)).await.unwrap();
        write_frames(&mut contact, b"c").await;
        assert_eq!(drain(&mut sink).await, b"c");
        assert_eq!(hear_words(&mut contact).await, [Word::Verified]);
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
        drop(sink);
    });
    world.finish();
}

#[test]
fn a_file_begins_where_it_was_wanted_or_at_its_beginning() {
    for (begins, fine) in [(0, true), (2, true), (1, false), (3, false)] {
        let world = World::new();
        world.sim.run(async {
            let (channel, at) = world.offered(file(10)).await;
            let from = Resume {
                offset: 2,
                stored: None,
            };
            accept(&channel, from).await.unwrap();
            let (_, mut contact) = at.open(CAPACITY, true, &world.counter).await;
            contact.write_all(&frames::header(begins)).await.unwrap();
            if fine {
                wait_state(&channel, FileTransferState::Open).await;
                assert_eq!(channel.view.get().initial_offset, Some(begins));
            } else {
                let reason = wait_cancelled(&channel).await;
                assert_eq!(reason, FileTransferReason::RemoteError, "{begins}");
            }
            drop(contact);
        });
        world.finish();
    }
}

#[test]
fn a_bytestream_that_breaks_is_a_remote_error() {
    for framed in [true, false] {
        for how in 0..3 {
            let world = World::new();
            world.sim.run(async {
                let (channel, mut sink, mut contact) = world.receiving(file(SIZE), framed).await;
                let bytes = content(3000);
                let bytes = if framed { chunk(&bytes) } else { bytes };
                contact.write_all(&bytes).await.unwrap();
                world.sim_sleep(1).await;
                match how {
                    0 => contact.wire().lose(),
                    1 => contact.reset(),
                    _ => drop(contact),
                }
                assert_eq!(
                    wait_cancelled(&channel).await,
                    FileTransferReason::RemoteError
                );
                let ended = sink.read_to_end(&mut Vec::new()).await;
                assert!(
                    ended.is_err(),
                    "an end of file would claim that this is all"
                );
                drop(sink);
            });
            world.finish();
        }
    }
}

#[test]
fn a_contact_that_closes_half_way_has_stopped_it_or_lost_it() {
    for (framed, reason) in [
        (false, FileTransferReason::RemoteStopped),
        (true, FileTransferReason::RemoteError),
    ] {
        let world = World::new();
        world.sim.run(async {
            let (channel, mut sink, mut contact) = world.receiving(file(SIZE), framed).await;
            contact.write_all(&[0, 0, 0, 2, 5, 6]).await.unwrap();
            contact.close().await.unwrap();
            assert_eq!(wait_cancelled(&channel).await, reason);
            assert!(sink.read_to_end(&mut Vec::new()).await.is_err());
            drop((sink, contact));
        });
        world.finish();
    }
}

#[test]
fn an_application_that_breaks_off_is_a_local_error_and_the_contact_is_told() {
    let world = World::new();
    world.sim.run(async {
        let (channel, sink, mut contact) = world.receiving(file(SIZE), true).await;
        drop(sink);
        contact.write_all(&chunk(&content(100))).await.unwrap();
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::LocalError);
        let words = hear_words(&mut contact).await;
        assert_eq!(words, [Word::Abort(AbortReason::Failed)]);
        hang_up(contact).await;
    });
    world.finish();
}

#[test]
fn without_frames_the_size_says_where_it_ends() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut sink, mut contact) = world.receiving(file(3), false).await;
        contact.write_all(b"abcd").await.unwrap();
        assert_eq!(drain(&mut sink).await, b"abc");
        assert_eq!(drain(&mut contact).await, b"");
        wait_state(&channel, FileTransferState::Completed).await;
        assert_eq!(channel.view.get().transferred, 3);
        hang_up(contact).await;
        // Of unknown size, it could end anywhere.
        let (channel, at) = world.offered(FileOffer::new("pipe", None)).await;
        accept(&channel, Resume::default()).await.unwrap();
        let (_, contact) = at.open(CAPACITY, false, &world.counter).await;
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::RemoteError);
        drop((sink, contact));
    });
    world.finish();
}

#[test]
fn with_frames_a_file_may_be_of_unknown_size() {
    let world = World::new();
    world.sim.run(async {
        let offer = FileOffer::new("pipe", None);
        let (channel, mut sink, mut contact) = world.receiving(offer, true).await;
        write_frames(&mut contact, b"abcde").await;
        assert_eq!(drain(&mut sink).await, b"abcde");
        assert_eq!(hear_words(&mut contact).await, [Word::Verified]);
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
        drop(sink);
    });
    world.finish();
}

#[test]
fn a_contact_is_told_what_is_stored() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut sink, mut contact) = world.receiving(file(SIZE), true).await;
        contact.write_all(&chunk(&content(1000))).await.unwrap();
        let mut got = vec![0; 1000];
        sink.read_exact(&mut got).await.unwrap();
        stored(&channel, 700).await.unwrap();
        assert_eq!(channel.view.get().stored, 700);
        let mut word = [0; 9];
        contact.read_exact(&mut word).await.unwrap();
        assert_eq!(word, [1, 0, 0, 0, 0, 0, 0, 2, 188]);
        for wrong in [699, 1001] {
            let refused = stored(&channel, wrong).await;
            assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{wrong}");
        }
        world.sim_sleep(2).await;
        let signals = world.tree.file_signals(channel.id);
        assert!(signals.contains(&FileTransferSignal::StoredChanged(700)));
        drop((sink, contact));
    });
    world.finish();
}

#[test]
fn what_is_stored_may_be_said_after_the_end() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut sink, mut contact) = world.receiving(file(3), true).await;
        write_frames(&mut contact, b"abc").await;
        drain(&mut sink).await;
        drain(&mut contact).await;
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
        stored(&channel, 3).await.unwrap();
        world.sim_sleep(2).await;
        let signals = world.tree.file_signals(channel.id);
        assert_eq!(signals.last(), Some(&FileTransferSignal::StoredChanged(3)));
        drop(sink);
    });
    world.finish();
}

#[test]
fn each_request_is_answered_with_its_error() {
    let world = World::new();
    world.sim.run(async {
        let (channel, at) = world.offered(file(10)).await;
        let from = |offset| Resume {
            offset,
            stored: None,
        };
        let beyond = accept(&channel, from(11)).await;
        assert!(matches!(beyond, Err(Error::InvalidArgument(_))));
        let provided = provide(&channel).await;
        assert!(matches!(provided, Err(Error::NotAvailable(_))));
        let ask = |reply| FileTransferMessage::Accept {
            address_type: AddressType::Ipv6,
            access: AccessRule::Credentials,
            from: from(0),
            stores: false,
            reply,
        };
        world
            .sockets
            .refuse_bind(Error::NotImplemented("not here".into()));
        let unsupported = channel.address.ask(ask).await.unwrap();
        assert!(matches!(unsupported, Err(Error::NotImplemented(_))));
        set_uri(&channel, "file:///tmp/monkey.pdf").await.unwrap();
        assert_eq!(channel.view.get().uri, "file:///tmp/monkey.pdf");
        accept(&channel, from(10)).await.unwrap();
        let twice = accept(&channel, from(0)).await;
        assert!(matches!(twice, Err(Error::NotAvailable(_))));
        let late = set_uri(&channel, "file:///tmp/other").await;
        assert!(matches!(late, Err(Error::NotAvailable(_))));
        drop(at);
    });
    world.finish();
}

#[test]
fn a_sender_without_ranges_is_asked_for_all_of_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, at) = world.offered_with(file(10), false).await;
        let from = Resume {
            offset: 5,
            stored: None,
        };
        accept(&channel, from).await.unwrap();
        let (asked, contact) = at.open(CAPACITY, false, &world.counter).await;
        assert_eq!(asked, Resume::default());
        wait_state(&channel, FileTransferState::Open).await;
        assert_eq!(channel.view.get().initial_offset, Some(0));
        drop(contact);
    });
    world.finish();
}

#[test]
fn an_offer_that_is_taken_back_while_it_opens_is_remote_stopped() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut at) = world.offered(file(10)).await;
        accept(&channel, Resume::default()).await.unwrap();
        let accepted = at.accepted().await;
        at.withdraw();
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::RemoteStopped);
        drop(accepted);
    });
    world.finish();
}
