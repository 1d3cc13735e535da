//! What becomes of a file that we send, whatever the application and the contact do.

use std::time::Duration;

use actors::{
    file_transfer::frames::{AbortReason, Word},
    model::{Error, FileOffer, FileTransferReason, FileTransferState, Resume, Sha256Digest},
    ports::{Duplex as _, FileTransferSignal},
    runtime::Clock as _,
    testing::{agreed, file_stream},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use crate::support::*;

const SIZE: usize = 50_000;

fn at(offset: u64) -> Resume {
    Resume {
        offset,
        stored: None,
    }
}

#[test]
fn it_is_completed_only_when_the_contact_has_verified_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, source, mut contact) = world.sending(file(SIZE), true).await;
        let bytes = content(SIZE);
        let (_, written) = future::zip(pour(source, &bytes), read_frames(&mut contact)).await;
        assert_eq!(written.offset, 0);
        assert!(written.bytes == bytes);
        assert_eq!(written.last, Ok(sha256(&bytes)));
        world.sim_sleep(3600).await;
        assert_eq!(channel.view.get().state, FileTransferState::Open);
        say(&mut contact, Word::Verified).await;
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
    });
    world.finish();
}

#[test]
fn what_the_contact_has_stored_is_shown_and_said_once_a_second() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut source, mut contact) = world.sending(file(SIZE), true).await;
        source.write_all(&content(4000)).await.unwrap();
        let mut buffer = vec![0; 4013];
        contact.read_exact(&mut buffer).await.unwrap();
        for stored in [100, 200, 4000] {
            say(&mut contact, Word::Stored(stored)).await;
        }
        channel.view.wait_for(|view| view.stored == 4000).await;
        world.sim_sleep(2).await;
        let stored: Vec<_> = world
            .tree
            .file_signals(channel.id)
            .into_iter()
            .filter(|signal| matches!(signal, FileTransferSignal::StoredChanged(_)))
            .collect();
        assert_eq!(stored, [FileTransferSignal::StoredChanged(4000)]);
        drop((source, contact));
    });
    world.finish();
}

/// The contact says this while a file flows, of which 4000 bytes were read from the application.
fn the_contact_says(bytes: Vec<u8>) -> FileTransferReason {
    let world = World::new();
    let reason = world.sim.run(async {
        let (channel, mut source, mut contact) = world.sending(file(SIZE), true).await;
        source.write_all(&content(4000)).await.unwrap();
        world.sim_sleep(1).await;
        contact.write_all(&bytes).await.unwrap();
        let reason = wait_cancelled(&channel).await;
        // Whatever it was, the contact is told that there will be no more.
        let written = read_frames(&mut contact).await;
        assert_eq!(written.last, Err(AbortReason::Failed));
        drop((source, contact));
        reason
    });
    world.finish();
    reason
}

fn words(words: &[Word]) -> Vec<u8> {
    let mut bytes = Vec::new();
    words.iter().for_each(|word| word.write(&mut bytes));
    bytes
}

#[test]
fn each_word_that_has_no_place_is_the_contacts_error() {
    let early = [Word::Verified, Word::Mismatch];
    let unlikely = [
        vec![Word::Stored(4001)],
        vec![Word::Stored(9), Word::Stored(8)],
    ];
    let cases = early.map(|word| vec![word]).into_iter().chain(unlikely);
    for case in cases {
        assert_eq!(
            the_contact_says(words(&case)),
            FileTransferReason::RemoteError,
            "{case:?}"
        );
    }
    assert_eq!(the_contact_says(vec![77]), FileTransferReason::RemoteError);
    assert_eq!(
        the_contact_says(vec![4, 9]),
        FileTransferReason::RemoteError
    );
}

#[test]
fn a_contact_that_gives_up_says_why() {
    let stopped = words(&[Word::Abort(AbortReason::Stopped)]);
    assert_eq!(the_contact_says(stopped), FileTransferReason::RemoteStopped);
    let failed = words(&[Word::Abort(AbortReason::Failed)]);
    assert_eq!(the_contact_says(failed), FileTransferReason::RemoteError);
}

#[test]
fn a_mismatch_is_a_remote_error() {
    let world = World::new();
    world.sim.run(async {
        let (channel, source, mut contact) = world.sending(file(3), true).await;
        future::zip(pour(source, b"abc"), read_frames(&mut contact)).await;
        say(&mut contact, Word::Mismatch).await;
        hang_up(contact).await;
        assert_eq!(
            wait_cancelled(&channel).await,
            FileTransferReason::RemoteError
        );
    });
    world.finish();
}

#[test]
fn a_bytestream_that_breaks_is_a_remote_error() {
    for framed in [true, false] {
        for how in 0..3 {
            let world = World::new();
            world.sim.run(async {
                let (channel, mut source, mut contact) = world.sending(file(SIZE), framed).await;
                source.write_all(&content(3000)).await.unwrap();
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
                drop(source);
            });
            world.finish();
        }
    }
}

#[test]
fn without_frames_a_contact_that_closes_half_way_has_stopped_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut source, mut contact) = world.sending(file(SIZE), false).await;
        source.write_all(&content(3000)).await.unwrap();
        world.sim_sleep(1).await;
        contact.close().await.unwrap();
        assert_eq!(
            wait_cancelled(&channel).await,
            FileTransferReason::RemoteStopped
        );
        drop((source, contact));
    });
    world.finish();
}

#[test]
fn without_frames_a_contact_that_does_not_close_has_it_all_the_same() {
    let world = World::new();
    world.sim.run(async {
        let (channel, source, mut contact) = world.sending(file(SIZE), false).await;
        let bytes = content(SIZE);
        let (_, got) = future::zip(pour(source, &bytes), drain(&mut contact)).await;
        assert!(got == bytes);
        wait_state(&channel, FileTransferState::Completed).await;
        drop(contact);
    });
    world.finish();
}

/// An application provides this much of a file of this size, framed, and then closes or lingers.
fn an_application_provides(bytes: usize, size: usize, closes: bool, framed: bool) {
    let world = World::new();
    let context = format!("{bytes} of {size}, closes: {closes}, framed: {framed}");
    world.sim.run(async {
        let (channel, mut source, mut contact) = world.sending(file(size), framed).await;
        let all = content(bytes);
        let providing = async {
            source.write_all(&all).await.ok();
            if closes {
                source.close().await.ok();
            }
        };
        let contact_hears = async {
            if framed {
                let written = read_frames(&mut contact).await;
                if bytes == size {
                    assert_eq!(written.last, Ok(sha256(&all)), "{context}");
                    say(&mut contact, Word::Verified).await;
                } else {
                    assert_eq!(written.last, Err(AbortReason::Failed), "{context}");
                }
                contact.close().await.unwrap();
            } else {
                let mut got = Vec::new();
                let ended = contact.read_to_end(&mut got).await;
                // An end of file would claim that this is all of it.
                assert_eq!(ended.is_ok(), bytes == size, "{context}");
                contact.close().await.ok();
            }
        };
        future::zip(providing, contact_hears).await;
        if bytes == size {
            wait_state(&channel, FileTransferState::Completed).await;
        } else {
            let reason = wait_cancelled(&channel).await;
            assert_eq!(reason, FileTransferReason::LocalError, "{context}");
        }
        drop((source, contact));
    });
    world.finish();
}

#[test]
fn a_source_has_as_many_bytes_as_it_said() {
    for framed in [true, false] {
        for size in [0, 1, 3000] {
            an_application_provides(size, size, true, framed);
            // Who leaves its socket open has written them all too.
            an_application_provides(size, size, false, framed);
            an_application_provides(size + 1, size, true, framed);
            an_application_provides(size + 1, size, false, framed);
            if size > 0 {
                an_application_provides(size - 1, size, true, framed);
            }
        }
    }
}

#[test]
fn a_file_of_unknown_size_ends_where_its_application_ends_it() {
    let world = World::new();
    world.sim.run(async {
        let offer = || FileOffer::new("pipe", None);
        let (channel, source, mut contact) = world.sending(offer(), true).await;
        let bytes = content(SIZE);
        let (_, written) = future::zip(pour(source, &bytes), read_frames(&mut contact)).await;
        assert!(written.bytes == bytes);
        say(&mut contact, Word::Verified).await;
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;

        // Without frames nobody could tell where that is.
        let (channel, answers) = world.send(offer()).await;
        provide(&channel).await.unwrap();
        let (near, contact) = file_stream(CAPACITY, false, &world.counter);
        answers.send(Ok(agreed(at(0), near))).await.unwrap();
        assert_eq!(
            wait_cancelled(&channel).await,
            FileTransferReason::RemoteError
        );
        assert!(matches!(
            channel.view.get().error,
            Some(Error::NotCapable(_))
        ));
        drop(contact);
    });
    world.finish();
}

#[test]
fn an_application_that_breaks_off_is_a_local_error() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut source, mut contact) = world.sending(file(SIZE), true).await;
        source.write_all(&content(3000)).await.unwrap();
        world.sim_sleep(1).await;
        source.reset();
        assert_eq!(
            wait_cancelled(&channel).await,
            FileTransferReason::LocalError
        );
        let written = read_frames(&mut contact).await;
        assert_eq!(written.last, Err(AbortReason::Failed));
        drop((source, contact));
    });
    world.finish();
}

#[test]
fn an_application_that_never_connects_or_never_provides_is_a_local_error() {
    let world = World::new();
    world.sim.run(async {
        for provides in [true, false] {
            let (channel, answers) = world.send(file(SIZE)).await;
            let (near, contact) = file_stream(CAPACITY, true, &world.counter);
            answers.send(Ok(agreed(at(0), near))).await.unwrap();
            wait_state(&channel, FileTransferState::Accepted).await;
            if provides {
                provide(&channel).await.unwrap();
            }
            let before = world.sim.now();
            assert_eq!(
                wait_cancelled(&channel).await,
                FileTransferReason::LocalError
            );
            let limit = world.sim.now() - before;
            assert_eq!(limit, Duration::from_secs(600), "{provides}");
            world.sim_sleep(1).await;
            assert_eq!(world.sockets.listeners(), 0);
            drop(contact);
        }
    });
    world.finish();
}

#[test]
fn a_second_application_is_refused() {
    let world = World::new();
    world.sim.run(async {
        let (channel, answers) = world.send(file(SIZE)).await;
        let address = provide(&channel).await.unwrap();
        let mut first = world.sockets.connect(&address).unwrap();
        let mut second = world.sockets.connect(&address).unwrap();
        world.sim_sleep(1).await;
        assert_eq!(second.read(&mut [0]).await.unwrap_or(0), 0);
        assert!(world.sockets.connect(&address).is_err());
        assert_eq!(world.sockets.listeners(), 0);
        // The first is not disturbed.
        let (near, mut contact) = file_stream(CAPACITY, true, &world.counter);
        answers.send(Ok(agreed(at(0), near))).await.unwrap();
        first.write_all(b"hello").await.unwrap();
        wait_said(&world, &channel, FileTransferState::Open).await;
        let mut got = [0; 18];
        contact.read_exact(&mut got).await.unwrap();
        assert_eq!(&got[13..], b"hello");
        drop((first, second, contact));
    });
    world.finish();
}

#[test]
fn a_contact_that_takes_nothing_stops_the_application_and_nothing_piles_up() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut source, mut contact) = world.sending(file(10_000_000), true).await;
        let bytes = content(10_000_000);
        let mut written = 0;
        let pouring = async {
            while written < bytes.len() {
                written += source.write(&bytes[written..]).await.unwrap();
            }
        };
        let late = async {
            world.sim_sleep(3600).await;
        };
        future::or(pouring, late).await;
        assert!(written < 500_000, "{written} bytes are held");
        assert_eq!(channel.view.get().state, FileTransferState::Open);
        // It goes on when the contact does.
        let mut more = vec![0; 600_000];
        let pouring = async { source.write_all(&bytes[written..]).await };
        future::or(
            async {
                pouring.await.ok();
            },
            async {
                contact.read_exact(&mut more).await.unwrap();
            },
        )
        .await;
        drop((source, contact));
    });
    world.finish();
}

#[test]
fn it_begins_where_it_is_wanted_or_where_the_application_says() {
    for (framed, from, begins) in [
        (true, None, 30_000),
        (true, Some(0), 0),
        (true, Some(30_000), 30_000),
        (false, None, 30_000),
    ] {
        let world = World::new();
        world.sim.run(async {
            let (channel, answers) = world.send(file(SIZE)).await;
            let (near, mut contact) = file_stream(CAPACITY, framed, &world.counter);
            let from_contact = Resume {
                offset: 30_000,
                stored: Some(Sha256Digest([9; 32])),
            };
            let agreed = agreed(from_contact.clone(), near);
            answers.send(Ok(agreed)).await.unwrap();
            wait_state(&channel, FileTransferState::Accepted).await;
            assert_eq!(channel.view.get().asked, Some(from_contact.clone()));
            let address = provide_from(&channel, from).await.unwrap();
            wait_state(&channel, FileTransferState::Open).await;
            assert_eq!(channel.view.get().initial_offset, Some(begins as u64));
            let source = world.sockets.connect(&address).unwrap();
            let bytes = content(SIZE);
            let reading = async {
                if framed {
                    let written = read_frames(&mut contact).await;
                    assert_eq!(written.offset, begins as u64);
                    assert_eq!(written.last, Ok(sha256(&bytes[begins..])));
                    say(&mut contact, Word::Verified).await;
                    written.bytes
                } else {
                    drain(&mut contact).await
                }
            };
            let (_, got) = future::zip(pour(source, &bytes[begins..]), reading).await;
            assert!(got == bytes[begins..]);
            hang_up(contact).await;
            wait_said(&world, &channel, FileTransferState::Completed).await;
            let signals = world.tree.file_signals(channel.id);
            assert_eq!(signals[0], FileTransferSignal::AskedDefined(from_contact));
        });
        world.finish();
    }
}

#[test]
fn without_frames_it_cannot_begin_elsewhere_than_was_agreed_on() {
    let world = World::new();
    world.sim.run(async {
        let (channel, answers) = world.send(file(SIZE)).await;
        provide_from(&channel, Some(0)).await.unwrap();
        let (near, mut contact) = file_stream(CAPACITY, false, &world.counter);
        answers.send(Ok(agreed(at(10), near))).await.unwrap();
        assert_eq!(
            wait_cancelled(&channel).await,
            FileTransferReason::LocalError
        );
        assert!(contact.read(&mut [0]).await.is_err());
        drop(contact);
    });
    world.finish();
}

#[test]
fn each_error_of_an_offer_has_its_reason() {
    use FileTransferReason::{LocalError, RemoteError, RemoteStopped};
    let text = || "it is so".to_owned();
    let cases = [
        (Error::Rejected(text()), RemoteStopped),
        (Error::NotCapable(text()), RemoteError),
        (Error::Offline(text()), RemoteError),
        (Error::ConnectionFailed(text()), RemoteError),
        (Error::EncryptionNotAvailable(text()), RemoteError),
        (Error::CertFingerprintMismatch(text()), RemoteError),
        (Error::Disconnected(text()), LocalError),
        (Error::ResourceUnavailable(text()), LocalError),
    ];
    let world = World::new();
    world.sim.run(async {
        for (why, reason) in cases {
            let (channel, answers) = world.send(file(SIZE)).await;
            answers.send(Err(why.clone())).await.unwrap();
            assert_eq!(wait_cancelled(&channel).await, reason, "{why:?}");
            assert_eq!(channel.view.get().error, Some(why));
            assert!(provide(&channel).await.is_err());
        }
    });
    world.finish();
}

#[test]
fn a_contact_that_does_not_wait_for_it_any_more_before_it_is_open_is_a_remote_error() {
    for provided in [false, true] {
        let world = World::new();
        world.sim.run(async {
            let (channel, answers) = world.send(file(SIZE)).await;
            if provided {
                provide(&channel).await.unwrap();
            }
            let (regret, regretted) = async_channel::bounded::<()>(1);
            let agreed = actors::ports::AgreedFile {
                from: at(0),
                opening: Box::pin(future::pending()),
                withdrawn: Box::pin(async move { regretted.recv().await.unwrap_or(()) }),
            };
            answers.send(Ok(agreed)).await.unwrap();
            wait_state(&channel, FileTransferState::Accepted).await;
            world.sim_sleep(60).await;
            assert_eq!(channel.view.get().state, FileTransferState::Accepted);
            drop(regret);
            let reason = wait_cancelled(&channel).await;
            assert_eq!(reason, FileTransferReason::RemoteError, "{provided}");
        });
        world.finish();
    }
}

#[test]
fn a_bytestream_that_does_not_open_is_a_remote_error() {
    let world = World::new();
    world.sim.run(async {
        let failing: [actors::runtime::BoxFuture<'static, _>; 2] = [
            Box::pin(async { Err(Error::ConnectionFailed("no way".into())) }),
            Box::pin(future::pending()),
        ];
        for opening in failing {
            let (channel, answers) = world.send(file(SIZE)).await;
            provide(&channel).await.unwrap();
            let agreed = actors::ports::AgreedFile {
                from: at(0),
                opening,
                withdrawn: Box::pin(future::pending()),
            };
            answers.send(Ok(agreed)).await.unwrap();
            assert_eq!(
                wait_cancelled(&channel).await,
                FileTransferReason::RemoteError
            );
        }
    });
    world.finish();
}

#[test]
fn progress_is_said_once_a_second_at_most_and_at_the_end() {
    let world = World::new();
    world.sim.run(async {
        let size = 400_000;
        let (channel, source, mut contact) = world.sending(file(size), true).await;
        let bytes = content(size);
        let begun = world.sim.now();
        let slowly = async {
            let pause = async || {
                world.sim.clock.sleep(Duration::from_millis(125)).await;
                let said = progress(&world, channel.id).len() as u64;
                assert!(said <= 1 + (world.sim.now() - begun).as_secs());
            };
            read_frames_slowly(&mut contact, pause).await;
            let said = progress(&world, channel.id).len();
            assert!(said >= 3, "{said}");
            say(&mut contact, Word::Verified).await;
        };
        future::zip(pour(source, &bytes), slowly).await;
        hang_up(contact).await;
        wait_said(&world, &channel, FileTransferState::Completed).await;
        let said = progress(&world, channel.id);
        assert_eq!(said.last(), Some(&(size as u64)));
    });
    world.finish();
}

fn progress(world: &World, channel: actors::model::ChannelId) -> Vec<u64> {
    world
        .tree
        .file_signals(channel)
        .into_iter()
        .filter_map(|signal| match signal {
            FileTransferSignal::TransferredBytesChanged(count) => Some(count),
            _ => None,
        })
        .collect()
}
