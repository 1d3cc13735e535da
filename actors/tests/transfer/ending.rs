//! How transfers end with their owner, their contact, their supervisor; and what bounds them.

use std::{num::NonZeroU64, time::Duration};

use actors::{
    file_transfer::{
        FileTransferMessage,
        frames::{AbortReason, Word},
    },
    limits::Caps,
    model::{Error, FileTransferReason, FileTransferState, Resume},
    ports::{Duplex as _, FileTransferSignal},
    supervisor::{FileWay, SupervisorConfig},
    testing::{FakeSending, Fault, FaultPoint, agreed, file_stream},
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use crate::support::*;

const SIZE: usize = 50_000;

#[test]
fn an_owner_that_ends_stops_its_transfers_and_their_contacts_are_told() {
    let world = World::new();
    world.sim.run(async {
        let (sender, source, mut to) = world.sending(file(SIZE), true).await;
        let (receiver, sink, mut from) = world.receiving(file(SIZE), true).await;
        let (offered, answers) = world.send(file(SIZE)).await;
        let (asked, offer) = world.offered(file(SIZE)).await;
        let closing = world.supervisor.close_owner(OWNER);
        let hear = async move {
            let written = read_frames(&mut to).await;
            assert_eq!(written.last, Err(AbortReason::Stopped));
            let words = hear_words(&mut from).await;
            assert_eq!(words, [Word::Abort(AbortReason::Stopped)]);
            // It is waited for until they have closed in turn.
            hang_up(to).await;
            hang_up(from).await;
        };
        future::zip(closing, hear).await;
        assert_eq!(world.tree.present(), []);
        for channel in [&sender, &receiver, &offered, &asked] {
            let view = channel.view.get();
            assert_eq!(view.reason, FileTransferReason::LocalStopped);
            assert_eq!(view.state, FileTransferState::Cancelled);
        }
        assert!(answers.is_closed(), "the offer is taken back");
        assert!(offer.accepted().await.is_none(), "the other is declined");
        drop((source, sink));
    });
    world.finish();
}

#[test]
fn a_contact_that_does_not_listen_holds_up_the_end_only_for_a_while() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut source, contact) = world.sending(file(1_000_000), true).await;
        let bytes = content(1_000_000);
        future::or(
            async {
                source.write_all(&bytes).await.ok();
            },
            world.sim_sleep(10),
        )
        .await;
        let before = world.sim.now();
        close(&channel).await;
        assert_eq!(world.sim.now(), before, "the object is gone at once");
        world.supervisor.close_owner(OWNER).await;
        let limit = SupervisorConfig::default().farewell_limit;
        assert_eq!(world.sim.now() - before, limit);
        drop((source, contact));
    });
    world.finish();
}

#[test]
fn a_contact_that_is_gone_ends_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, source, contact) = world.sending(file(SIZE), true).await;
        let gone = FileTransferMessage::ContactGone;
        channel.address.tell(gone).await.unwrap();
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::RemoteError);
        drop((source, contact));
    });
    world.finish();
}

#[test]
fn what_is_over_counts_until_it_is_closed() {
    let world = World::with(|config| config.max_channels = 2);
    world.sim.run(async {
        let (first, answers) = world.send(file(SIZE)).await;
        let rejected = Error::Rejected("the contact does not want it".into());
        answers.send(Err(rejected)).await.unwrap();
        wait_cancelled(&first).await;
        let (_second, offer) = world.offered(file(SIZE)).await;
        let open = || {
            let way = FileWay::Send(FakeSending::new().0);
            let request = world.request(file(SIZE), way);
            world.supervisor.open_file_transfer(request)
        };
        let third = open().await;
        assert!(matches!(third, Err(Error::ResourceUnavailable(_))));
        close(&first).await;
        world.sim_sleep(1).await;
        assert!(open().await.is_ok());
        drop(offer);
    });
    world.finish();
}

#[test]
fn a_transfer_nobody_got_to_know_of_declines_what_it_was_for() {
    let world = World::new();
    world.sim.run(async {
        world.tree.refuse_next(Error::Confused("no object".into()));
        let (port, offer) = actors::testing::FakeIncomingFile::offered(true);
        let request = world.request(file(SIZE), FileWay::Receive(port));
        let refused = world.supervisor.open_file_transfer(request).await;
        assert!(matches!(refused, Err(Error::Confused(_))));
        assert!(offer.accepted().await.is_none());
        assert_eq!(world.tree.present(), []);
    });
    world.finish();
}

#[test]
fn a_tree_that_takes_no_signals_holds_no_bytes_up_and_gathers_none() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut source, mut contact) = world.sending(file(300_000), true).await;
        wait_said(&world, &channel, FileTransferState::Open).await;
        world.tree.hold(true);
        let bytes = content(300_000);
        let pouring = async {
            for part in bytes.chunks(3000) {
                source.write_all(part).await.unwrap();
                world.sim_sleep(1).await;
            }
            source.close().await.unwrap();
        };
        let (_, written) = future::zip(pouring, read_frames(&mut contact)).await;
        assert!(written.bytes == bytes);
        say(&mut contact, Word::Verified).await;
        hang_up(contact).await;
        wait_state(&channel, FileTransferState::Completed).await;
        world.tree.hold(false);
        wait_said(&world, &channel, FileTransferState::Completed).await;
        let said = world.tree.file_signals(channel.id).len();
        // Asked, accepted, offset, open, the two that waited, the last, completed.
        assert!(said <= 8, "{said}");
        drop(source);
    });
    world.finish();
}

/// How long a file of `SIZE` bytes takes at 10000 bytes a second, each way.
#[test]
fn what_a_contact_may_use_holds_for_files() {
    for sends in [true, false] {
        let world = World::new();
        world.limits.set(Caps {
            connections: None,
            bytes_per_second: NonZeroU64::new(10_000),
        });
        world.sim.run(async {
            let bytes = content(SIZE);
            let before = world.sim.now();
            if sends {
                let (channel, source, mut contact) = world.sending(file(SIZE), true).await;
                future::zip(pour(source, &bytes), read_frames(&mut contact)).await;
                say(&mut contact, Word::Verified).await;
                hang_up(contact).await;
                wait_state(&channel, FileTransferState::Completed).await;
            } else {
                let (channel, mut sink, mut contact) = world.receiving(file(SIZE), false).await;
                let writing = async { contact.write_all(&bytes).await.unwrap() };
                let (_, got) = future::zip(writing, drain(&mut sink)).await;
                assert!(got == bytes);
                drain(&mut contact).await;
                hang_up(contact).await;
                wait_state(&channel, FileTransferState::Completed).await;
            }
            let took = world.sim.now() - before;
            let expected = Duration::from_secs(5);
            assert!(
                took > expected.mul_f64(0.9) && took < expected.mul_f64(1.1),
                "{took:?}"
            );
        });
        world.finish();
    }
}

#[test]
fn a_close_while_it_parts_or_after_it_failed_is_answered() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut source, contact) = world.sending(file(SIZE), true).await;
        source.reset();
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::LocalError);
        // The contact has not read the last word, and never will.
        close(&channel).await;
        assert_eq!(world.tree.present(), []);
        world.supervisor.close_owner(OWNER).await;
        drop((source, contact));
    });
    world.finish();
}

#[test]
fn the_root_dies_and_its_transfers_end_in_order() {
    for fault in [Fault::Error, Fault::Panic] {
        let world = World::new();
        world.sim.run(async {
            let (channel, source, mut contact) = world.sending(file(SIZE), true).await;
            world.faults.arm(FaultPoint::RootWaiting, fault, 0, 1);
            world.supervisor.gone().await;
            let written = read_frames(&mut contact).await;
            assert_eq!(written.last, Err(AbortReason::Stopped));
            hang_up(contact).await;
            world.supervisor.close_owner(OWNER).await;
            assert_eq!(world.tree.present(), []);
            let reason = channel.view.get().reason;
            assert_eq!(reason, FileTransferReason::LocalStopped);
            drop(source);
        });
        world.finish();
    }
}

#[test]
fn an_actor_that_fails_too_often_closes_its_channel_and_says_why() {
    let world = World::new();
    world.sim.run(async {
        let (channel, source, mut contact) = world.sending(file(SIZE), true).await;
        let point = FaultPoint::TransferWaiting;
        world.faults.arm(point, Fault::Panic, 0, usize::MAX);
        let written = read_frames(&mut contact).await;
        assert_eq!(written.last, Err(AbortReason::Failed));
        hang_up(contact).await;
        world.tree.wait_withdrawn(channel.id).await;
        let view = channel.view.get();
        assert_eq!(view.reason, FileTransferReason::LocalError);
        let last = world.tree.file_signals(channel.id).pop();
        let cancelled = FileTransferSignal::StateChanged(
            FileTransferState::Cancelled,
            FileTransferReason::LocalError,
        );
        assert_eq!(last, Some(cancelled));
        assert_eq!(world.supervisor.restarts().channels, 1);
        drop(source);
    });
    world.finish();
}

#[test]
fn a_listener_that_fails_too_often_cancels_the_transfer() {
    let world = World::new();
    world.sim.run(async {
        let (channel, answers) = world.send(file(SIZE)).await;
        let point = FaultPoint::ListenerWaiting;
        world.faults.arm(point, Fault::Error, 0, usize::MAX);
        provide(&channel).await.unwrap();
        let reason = wait_cancelled(&channel).await;
        assert_eq!(reason, FileTransferReason::LocalError);
        world.sim_sleep(1).await;
        assert_eq!(world.tree.present(), [channel.id], "it can be looked at");
        assert!(answers.is_closed());
        close(&channel).await;
    });
    world.finish();
}

#[test]
fn beyond_four_gigabytes_every_number_is_right() {
    for framed in [true, false] {
        let world = World::new();
        world.sim.run(async {
            let size = 6_000_000_000;
            let from = Resume {
                offset: size - 5000,
                stored: None,
            };
            let offer = actors::model::FileOffer::new("big", Some(size));
            let (channel, answers) = world.send(offer.clone()).await;
            let (near, mut contact) = file_stream(CAPACITY, framed, &world.counter);
            answers.send(Ok(agreed(from.clone(), near))).await.unwrap();
            let address = provide(&channel).await.unwrap();
            let source = world.sockets.connect(&address).unwrap();
            let bytes = content(5000);
            let reading = async {
                if framed {
                    let written = read_frames(&mut contact).await;
                    assert_eq!(written.offset, from.offset);
                    say(&mut contact, Word::Stored(size)).await;
                    say(&mut contact, Word::Verified).await;
                    written.bytes
                } else {
                    drain(&mut contact).await
                }
            };
            let (_, got) = future::zip(pour(source, &bytes), reading).await;
            assert!(got == bytes);
            hang_up(contact).await;
            wait_state(&channel, FileTransferState::Completed).await;
            assert_eq!(channel.view.get().initial_offset, Some(from.offset));
            assert_eq!(channel.view.get().stored, if framed { size } else { 0 });

            let (channel, at) = world.offered(offer).await;
            let address = accept(&channel, from.clone()).await.unwrap();
            let mut sink = world.sockets.connect(&address).unwrap();
            let (_, mut contact) = at.open(CAPACITY, framed, &world.counter).await;
            if framed {
                let header = actors::file_transfer::frames::header(from.offset);
                contact.write_all(&header).await.unwrap();
                contact.write_all(&chunk(&bytes)).await.unwrap();
                contact.write_all(&end_of(&bytes)).await.unwrap();
            } else {
                contact.write_all(&bytes).await.unwrap();
            }
            let mut got = Vec::new();
            sink.read_to_end(&mut got).await.unwrap();
            assert!(got == bytes);
            drain(&mut contact).await;
            hang_up(contact).await;
            wait_state(&channel, FileTransferState::Completed).await;
            drop(sink);
        });
        world.finish();
    }
}
