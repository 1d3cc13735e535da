//! A receiving application that says what it has stored: the contact hears that all is well only after all of
//! it is, whatever becomes of the application, the contact and the way between them meanwhile.

use std::time::Duration;

use actors::{
    file_transfer::{
        FileTransferMessage,
        frames::{self, AbortReason, Word},
    },
    model::{Error, FileOffer, FileTransferReason, FileTransferState, Resume},
    ports::{Bytestream, Duplex as _, FileStream, FileTransferObject},
    testing::{FakeStream, agreed, pipe_counted},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use crate::support::*;

const SIZE: usize = 50_000;

async fn is_verified(channel: &FileTransferObject) -> Result<Option<u64>, Error> {
    let ask = |reply| FileTransferMessage::IsVerified { reply };
    channel.address.ask(ask).await?
}

/// A file whose bytes are all with an application that stores, and that is completed only once it says so:
/// the channel, the application's socket, the contact.
async fn handed_over(
    world: &World,
    offer: FileOffer,
    from: usize,
    framed: bool,
) -> (FileTransferObject, FakeStream, FakeStream) {
    let (channel, at) = world.offered(offer).await;
    let resume = Resume {
        offset: from as u64,
        stored: None,
    };
    let address = accept_as(&channel, resume, true).await.unwrap();
    let mut sink = world.sockets.connect(&address).unwrap();
    let (_, mut contact) = at.open(CAPACITY, framed, &world.counter).await;
    if framed {
        let header = frames::header(from as u64);
        contact.write_all(&header).await.unwrap();
    }
    wait_state(&channel, FileTransferState::Open).await;
    assert_eq!(is_verified(&channel).await, Ok(None));
    let bytes = &content(SIZE)[from..];
    let write = async {
        if framed {
            write_frames(&mut contact, bytes).await;
        } else {
            contact.write_all(bytes).await.unwrap();
        }
    };
    let (got, ()) = future::zip(drain(&mut sink), write).await;
    assert!(got == bytes);
    // Known as soon as the application has seen the end.
    assert_eq!(is_verified(&channel).await, Ok(Some(SIZE as u64)));
    (channel, sink, contact)
}

#[test]
fn the_contact_hears_that_all_is_well_once_all_is_stored_and_not_before() {
    for (from, framed) in [(0, true), (SIZE / 2, true), (SIZE, true), (0, false)] {
        let world = World::new();
        world.sim.run(async {
            let (channel, sink, mut contact) = handed_over(&world, file(SIZE), from, framed).await;
            let whole = SIZE as u64;
            world.sim_sleep(500).await;
            if from < SIZE {
                stored(&channel, whole - 1).await.unwrap();
            }
            world.sim_sleep(50).await;
            assert_eq!(channel.view.get().state, FileTransferState::Open);
            let mut words = vec![Word::Stored(whole), Word::Verified];
            if framed && from < SIZE {
                let mut word = [0; 9];
                contact.read_exact(&mut word).await.unwrap();
                assert_eq!(word[0], 1);
            }
            let more = future::poll_once(contact.read(&mut [0])).await;
            assert!(more.is_none(), "no verdict, and no end");
            stored(&channel, whole).await.unwrap();
            if !framed {
                words.clear();
            }
            assert_eq!(hear_words(&mut contact).await, words, "{from} {framed}");
            hang_up(contact).await;
            wait_state(&channel, FileTransferState::Completed).await;
            drop(sink);
        });
        world.finish();
    }
}

#[test]
fn of_nothing_at_all_that_is_said_too() {
    let world = World::new();
    world.sim.run(async {
        let (channel, at) = world.offered(FileOffer::new("pipe", None)).await;
        let address = accept_as(&channel, Resume::default(), true).await.unwrap();
        let mut sink = world.sockets.connect(&address).unwrap();
        let (_, mut contact) = at.open(CAPACITY, true, &world.counter).await;
        contact.write_all(&frames::header(0)).await.unwrap();
        write_frames(&mut contact, b"").await;
        assert_eq!(drain(&mut sink).await, b"");
        world.sim_sleep(60).await;
        assert_eq!(channel.view.get().state, FileTransferState::Open);
        stored(&channel, 0).await.unwrap();
        let words = hear_words(&mut contact).await;
        assert_eq!(words, [Word::Stored(0), Word::Verified]);
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
        drop(sink);
    });
    world.finish();
}

#[test]
fn an_application_that_dies_before_it_has_stored_all_is_a_local_error() {
    for framed in [true, false] {
        for reset in [true, false] {
            let world = World::new();
            world.sim.run(async {
                let (channel, mut sink, mut contact) =
                    handed_over(&world, file(SIZE), 0, framed).await;
                stored(&channel, SIZE as u64 - 1).await.unwrap();
                let before = world.sim.now();
                if reset {
                    sink.reset();
                }
                drop(sink);
                let reason = wait_cancelled(&channel).await;
                assert_eq!(reason, FileTransferReason::LocalError);
                let waited = world.sim.now() - before;
                assert!(waited < Duration::from_secs(1), "{waited:?}");
                if framed {
                    let words = hear_words(&mut contact).await;
                    let failed = Word::Abort(AbortReason::Failed);
                    assert_eq!(words, [Word::Stored(SIZE as u64 - 1), failed]);
                    hang_up(contact).await;
                } else {
                    let heard = contact.read(&mut [0]).await;
                    assert!(heard.is_err(), "an end would say that all is well");
                }
            });
            world.finish();
        }
    }
}

#[test]
fn an_application_that_never_says_so_is_a_local_error_in_the_end() {
    let world = World::new();
    world.sim.run(async {
        let (channel, sink, mut contact) = handed_over(&world, file(SIZE), 0, true).await;
        let before = world.sim.now();
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::LocalError);
        assert_eq!(world.sim.now() - before, Duration::from_secs(600));
        let words = hear_words(&mut contact).await;
        assert_eq!(words, [Word::Abort(AbortReason::Failed)]);
        hang_up(contact).await;
        // It can say so no more.
        let late = stored(&channel, SIZE as u64).await;
        assert!(matches!(late, Err(Error::NotAvailable(_))), "{late:?}");
        drop(sink);
    });
    world.finish();
}

#[test]
fn who_says_so_and_leaves_at_once_has_said_so() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut sink, mut contact) = handed_over(&world, file(SIZE), 0, true).await;
        // What it writes is nobody's business.
        sink.write_all(b"thank you").await.unwrap();
        stored(&channel, SIZE as u64).await.unwrap();
        drop(sink);
        let words = hear_words(&mut contact).await;
        assert_eq!(words, [Word::Stored(SIZE as u64), Word::Verified]);
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
    });
    world.finish();
}

#[test]
fn a_contact_that_is_gone_meanwhile_takes_nothing_away() {
    for how in 0..3 {
        let world = World::new();
        world.sim.run(async {
            let (channel, sink, mut contact) = handed_over(&world, file(SIZE), 0, true).await;
            match how {
                0 => contact.wire().lose(),
                1 => contact.reset(),
                _ => {}
            }
            drop(contact);
            world.sim_sleep(60).await;
            assert_eq!(channel.view.get().state, FileTransferState::Open, "{how}");
            stored(&channel, SIZE as u64).await.unwrap();
            wait_state(&channel, FileTransferState::Completed).await;
            drop(sink);
        });
        world.finish();
    }
}

#[test]
fn whoever_closes_it_meanwhile_has_stopped_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, sink, mut contact) = handed_over(&world, file(SIZE), 0, true).await;
        let (words, ()) = future::zip(
            async {
                let words = hear_words(&mut contact).await;
                hang_up(contact).await;
                words
            },
            close(&channel),
        )
        .await;
        assert_eq!(words, [Word::Abort(AbortReason::Stopped)]);
        let reason = channel.view.get().reason;
        assert_eq!(reason, FileTransferReason::LocalStopped);
        drop(sink);
    });
    world.finish();
}

#[test]
fn what_is_not_what_was_sent_is_never_verified() {
    let world = World::new();
    world.sim.run(async {
        let (channel, at) = world.offered(file(3)).await;
        let address = accept_as(&channel, Resume::default(), true).await.unwrap();
        let mut sink = world.sockets.connect(&address).unwrap();
        let (_, mut contact) = at.open(CAPACITY, true, &world.counter).await;
        contact.write_all(&frames::header(0)).await.unwrap();
        contact.write_all(&chunk(b"abc")).await.unwrap();
        contact.write_all(&end_of(b"abd")).await.unwrap();
        let mut got = Vec::new();
        assert!(sink.read_to_end(&mut got).await.is_err());
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::RemoteError);
        assert_eq!(is_verified(&channel).await, Ok(None));
        assert_eq!(hear_words(&mut contact).await, [Word::Mismatch]);
        hang_up(contact).await;
        drop(sink);

        let (ours, answers) = world.send(file(3)).await;
        let asked = is_verified(&ours).await;
        assert!(matches!(asked, Err(Error::NotAvailable(_))), "{asked:?}");
        drop(answers);
    });
    world.finish();
}

#[test]
fn a_sender_of_ours_is_completed_only_after_all_is_stored() {
    for stores in [true, false] {
        let world = World::new();
        world.sim.run(async {
            let (sender, answers) = world.send(file(SIZE)).await;
            let (receiver, offer) = world.offered(file(SIZE)).await;
            let to = accept_as(&receiver, Resume::default(), stores)
                .await
                .unwrap();
            let (asked, reply) = offer.accepted().await.unwrap();
            let (near, far) = pipe_counted(CAPACITY, &world.counter);
            let stream = |io: FakeStream| FileStream {
                bytestream: Bytestream {
                    io: Box::new(io),
                    encrypted: true,
                },
                framed: true,
            };
            answers.send(Ok(agreed(asked, stream(near)))).await.unwrap();
            reply.answer(Ok(stream(far)));
            let source = world
                .sockets
                .connect(&provide(&sender).await.unwrap())
                .unwrap();
            let mut sink = world.sockets.connect(&to).unwrap();
            let bytes = content(SIZE);
            let (_, got) = future::zip(pour(source, &bytes), drain(&mut sink)).await;
            assert!(got == bytes);
            world.sim_sleep(599).await;
            let expected = match stores {
                true => FileTransferState::Open,
                false => FileTransferState::Completed,
            };
            for channel in [&sender, &receiver] {
                assert_eq!(channel.view.get().state, expected);
            }
            stored(&receiver, SIZE as u64).await.unwrap();
            for channel in [&sender, &receiver] {
                wait_said(&world, channel, FileTransferState::Completed).await;
                // To a sender that is completed already nothing more is said.
                assert!(!stores || channel.view.get().stored == SIZE as u64);
            }
            drop(sink);
        });
        world.finish();
    }
}
