//! Both ends of a transfer here, with the real framing between them.

use actors::{
    model::{FileTransferReason, FileTransferState, Resume},
    ports::{FileTransferObject, FileTransferSignal},
    testing::{FakeStream, agreed, file_stream, pipe_counted},
};
use futures_lite::future;

use crate::support::*;

/// A file on its way from a sending application to a receiving one.
struct Pair {
    sender: FileTransferObject,
    receiver: FileTransferObject,
    source: FakeStream,
    sink: FakeStream,
}

async fn pair(world: &World, size: usize, from: Resume, framed: bool) -> Pair {
    let (sender, answers) = world.send(file(size)).await;
    let (receiver, offer) = world.offered(file(size)).await;
    let to = accept(&receiver, from).await.unwrap();
    let (asked, reply) = offer.accepted().await.unwrap();
    let (near, far) = pipe_counted(CAPACITY, &world.counter);
    let stream = |io: FakeStream| actors::ports::FileStream {
        bytestream: actors::ports::Bytestream {
            io: Box::new(io),
            encrypted: framed,
        },
        framed,
    };
    answers.send(Ok(agreed(asked, stream(near)))).await.unwrap();
    reply.answer(Ok(stream(far)));
    let at = provide(&sender).await.unwrap();
    let source = world.sockets.connect(&at).unwrap();
    let sink = world.sockets.connect(&to).unwrap();
    wait_state(&sender, FileTransferState::Open).await;
    wait_state(&receiver, FileTransferState::Open).await;
    Pair {
        sender,
        receiver,
        source,
        sink,
    }
}

fn goes_through(size: usize, from: usize, framed: bool) {
    let world = World::new();
    world.sim.run(async {
        let resume = Resume {
            offset: from as u64,
            stored: None,
        };
        let Pair {
            sender,
            receiver,
            source,
            mut sink,
        } = pair(&world, size, resume, framed).await;
        let bytes = content(size);
        let (_, got) = future::zip(pour(source, &bytes[from..]), drain(&mut sink)).await;
        assert!(got == bytes[from..], "what was sent arrives");
        drop(sink);
        for channel in [&sender, &receiver] {
            wait_said(&world, channel, FileTransferState::Completed).await;
            let view = channel.view.get();
            assert_eq!(view.initial_offset, Some(from as u64));
            assert_eq!(view.transferred, (size - from) as u64);
            assert_eq!(view.encrypted, Some(framed));
            assert_eq!(view.error, None);
            let states = world.states(channel.id);
            let none = FileTransferReason::None;
            assert_eq!(
                states,
                [
                    (FileTransferState::Accepted, none),
                    (FileTransferState::Open, none),
                    (FileTransferState::Completed, none),
                ]
            );
            if size > from {
                let total = FileTransferSignal::TransferredBytesChanged((size - from) as u64);
                assert!(world.tree.file_signals(channel.id).contains(&total));
            }
        }
        // They stay until they are closed, and everything of theirs is gone but the object.
        world.sim_sleep(60).await;
        assert_eq!(world.tree.present(), [sender.id, receiver.id]);
        assert_eq!(world.counter.open(), 0);
        assert_eq!(world.sockets.listeners(), 0);
        close(&sender).await;
        close(&receiver).await;
        assert_eq!(world.tree.present(), []);
    });
    world.finish();
}

#[test]
fn a_file_goes_through_framed() {
    goes_through(1_000_000, 0, true);
}

#[test]
fn a_file_goes_through_without_frames() {
    goes_through(1_000_000, 0, false);
}

#[test]
fn the_rest_of_a_file_goes_through() {
    for framed in [true, false] {
        goes_through(300_000, 123_456, framed);
        goes_through(300_000, 300_000, framed);
    }
}

#[test]
fn small_files_and_empty_ones_go_through() {
    for framed in [true, false] {
        for size in [0, 1, 2] {
            goes_through(size, 0, framed);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Sender,
    Receiver,
}

#[test]
fn either_user_cancels_and_the_other_learns_why() {
    for framed in [true, false] {
        for who in [Who::Sender, Who::Receiver] {
            let world = World::new();
            world.sim.run(async {
                let Pair {
                    sender,
                    receiver,
                    mut source,
                    sink,
                } = pair(&world, 1_000_000, Resume::default(), framed).await;
                use futures_lite::AsyncWriteExt as _;
                source.write_all(&content(3000)).await.unwrap();
                world.sim_sleep(1).await;
                let (mine, other) = match who {
                    Who::Sender => (&sender, &receiver),
                    Who::Receiver => (&receiver, &sender),
                };
                close(mine).await;
                assert_eq!(mine.view.get().reason, FileTransferReason::LocalStopped);
                let reason = wait_cancelled(other).await;
                let expected = if framed {
                    FileTransferReason::RemoteStopped
                } else {
                    // A reset is all that can be said.
                    FileTransferReason::RemoteError
                };
                assert_eq!(reason, expected, "{who:?} {framed}");
                close(other).await;
                drop((source, sink));
            });
            world.finish();
        }
    }
}

#[test]
fn a_contact_that_declines_or_an_offer_that_is_taken_back_is_remote_stopped() {
    let world = World::new();
    world.sim.run(async {
        let (sender, answers) = world.send(file(10)).await;
        let rejected = actors::model::Error::Rejected("the contact does not want it".into());
        answers.send(Err(rejected)).await.unwrap();
        assert_eq!(
            wait_cancelled(&sender).await,
            FileTransferReason::RemoteStopped
        );

        let (receiver, mut offer) = world.offered(file(10)).await;
        offer.withdraw();
        assert_eq!(
            wait_cancelled(&receiver).await,
            FileTransferReason::RemoteStopped
        );
    });
    world.finish();
}

#[test]
fn closing_before_it_flows_takes_the_offer_back_or_declines_it() {
    let world = World::new();
    world.sim.run(async {
        let (sender, answers) = world.send(file(10)).await;
        world.sim_sleep(1).await;
        close(&sender).await;
        assert_eq!(
            world.states(sender.id),
            [(
                FileTransferState::Cancelled,
                FileTransferReason::LocalStopped
            )]
        );
        world.sim_sleep(1).await;
        assert!(answers.is_closed(), "the offer was taken back");

        let (receiver, offer) = world.offered(file(10)).await;
        close(&receiver).await;
        offer.declined().await;
        assert!(offer.accepted().await.is_none());
    });
    world.finish();
}

#[test]
fn a_file_may_be_provided_before_the_contact_wants_it() {
    let world = World::new();
    world.sim.run(async {
        let (sender, answers) = world.send(file(5)).await;
        let address = provide(&sender).await.unwrap();
        let source = world.sockets.connect(&address).unwrap();
        world.sim_sleep(3600).await;
        assert_eq!(sender.view.get().state, FileTransferState::Pending);
        let (near, mut contact) = file_stream(CAPACITY, false, &world.counter);
        answers
            .send(Ok(agreed(Resume::default(), near)))
            .await
            .unwrap();
        wait_state(&sender, FileTransferState::Open).await;
        let (_, got) = future::zip(pour(source, b"bytes"), drain(&mut contact)).await;
        assert_eq!(got, b"bytes");
        hang_up(contact).await;
        wait_state(&sender, FileTransferState::Completed).await;
        assert_eq!(
            world.tree.file_signals(sender.id)[2],
            FileTransferSignal::InitialOffsetDefined(0)
        );
    });
    world.finish();
}
