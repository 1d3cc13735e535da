//! Applications that are gone before they have begun: before they could be let in, which happens by TCP, and
//! before they have connected at all.

use std::time::Duration;

use actors::{
    file_transfer::{
        FileTransferMessage,
        frames::{AbortReason, Word, header},
    },
    model::{
        AccessRule, AddressType, Error, FileTransferReason, FileTransferState, Resume,
        SocketAddress,
    },
    ports::FileTransferObject,
    supervisor::SupervisorConfig,
    testing::{FakeStream, Fault, FaultPoint, agreed, file_stream},
};
use futures_lite::AsyncWriteExt as _;

use crate::support::*;

const SIZE: usize = 5000;

fn grace() -> Duration {
    SupervisorConfig::default().vanished_grace
}

/// Of an IPv4 socket, whose closed clients nobody knows.
async fn provide_by_tcp(channel: &FileTransferObject) -> SocketAddress {
    let ask = |reply| FileTransferMessage::Provide {
        address_type: AddressType::Ipv4,
        access: AccessRule::Localhost,
        from: None,
        reply,
    };
    channel.address.ask(ask).await.unwrap().unwrap()
}

async fn accept_by_tcp(channel: &FileTransferObject) -> SocketAddress {
    let ask = |reply| FileTransferMessage::Accept {
        address_type: AddressType::Ipv4,
        access: AccessRule::Localhost,
        from: Resume::default(),
        stores: false,
        reply,
    };
    channel.address.ask(ask).await.unwrap().unwrap()
}

/// A file from the contact whose bytes could flow, where an application is to connect for it, and the
/// contact's end.
async fn taken_by_tcp(world: &World) -> (FileTransferObject, SocketAddress, FakeStream) {
    let (channel, offer) = world.offered(file(SIZE)).await;
    let address = accept_by_tcp(&channel).await;
    let (_, contact) = offer.open(CAPACITY, false, &world.counter).await;
    wait_state(&channel, FileTransferState::Open).await;
    (channel, address, contact)
}

/// The contact wants a file of ours, whose bytes can flow then. Gives its end.
async fn agreed_to(
    world: &World,
    channel: &FileTransferObject,
    answers: Answers,
    framed: bool,
) -> FakeStream {
    let (near, contact) = file_stream(CAPACITY, framed, &world.counter);
    let yes = agreed(Resume::default(), near);
    answers.send(Ok(yes)).await.unwrap();
    wait_state(channel, FileTransferState::Open).await;
    contact
}

/// Connects, and is gone at once.
fn knock(world: &World, address: &SocketAddress) {
    drop(world.sockets.connect(address).unwrap());
}

async fn ends_after(world: &World, channel: &FileTransferObject, wait: Duration) {
    let before = world.sim.now();
    assert_eq!(
        wait_cancelled(channel).await,
        FileTransferReason::LocalError
    );
    assert_eq!(world.sim.now() - before, wait);
    let Some(Error::NotAvailable(why)) = &channel.view.get().error else {
        panic!("{:?}", channel.view.get());
    };
    assert!(why.contains("gone before it could be let in"), "{why}");
}

#[test]
fn who_sends_and_vanishes_is_waited_for_a_while_and_not_for_ever() {
    for framed in [true, false] {
        let world = World::new();
        world.sim.run(async {
            let (channel, answers) = world.send(file(SIZE)).await;
            let address = provide_by_tcp(&channel).await;
            let contact = agreed_to(&world, &channel, answers, framed).await;
            world.sim_sleep(60).await;
            knock(&world, &address);
            ends_after(&world, &channel, grace()).await;
            drop(contact);
        });
        world.finish();
    }
}

#[test]
fn who_receives_and_vanishes_is_waited_for_a_while_and_not_for_ever() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address, contact) = taken_by_tcp(&world).await;
        knock(&world, &address);
        ends_after(&world, &channel, grace()).await;
        drop(contact);
    });
    world.finish();
}

#[test]
fn the_wait_begins_when_the_bytes_could_flow() {
    let world = World::new();
    world.sim.run(async {
        let (channel, answers) = world.send(file(SIZE)).await;
        let address = provide_by_tcp(&channel).await;
        knock(&world, &address);
        // The contact may take its time.
        world.sim_sleep(3600).await;
        assert_eq!(channel.view.get().state, FileTransferState::Pending);
        let contact = agreed_to(&world, &channel, answers, true).await;
        ends_after(&world, &channel, grace()).await;
        drop(contact);
    });
    world.finish();
}

#[test]
fn another_that_comes_meanwhile_is_the_one() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address, mut contact) = taken_by_tcp(&world).await;
        // Each of them has it wait anew.
        for _ in 0..3 {
            knock(&world, &address);
            world.sim_sleep(grace().as_secs() - 1).await;
        }
        let mut application = world.sockets.connect(&address).unwrap();
        world.sim_sleep(3600).await;
        assert_eq!(channel.view.get().state, FileTransferState::Open);
        contact.write_all(&content(SIZE)).await.unwrap();
        assert_eq!(drain(&mut application).await, content(SIZE));
        wait_state(&channel, FileTransferState::Completed).await;
    });
    world.finish();
}

#[test]
fn a_listener_or_a_transfer_that_dies_meanwhile_loses_nothing_of_it() {
    for point in [
        FaultPoint::ListenerAccepted,
        FaultPoint::ListenerChecking,
        FaultPoint::ListenerChecked,
        FaultPoint::TransferWaiting,
    ] {
        let world = World::new();
        world.sim.run(async {
            let (channel, address, contact) = taken_by_tcp(&world).await;
            world.faults.arm(point, Fault::Panic, 0, 1);
            let before = world.sim.now();
            knock(&world, &address);
            let reason = wait_cancelled(&channel).await;
            assert_eq!(reason, FileTransferReason::LocalError, "{point:?}");
            let took = world.sim.now() - before;
            // With the pause before a restart.
            assert!(
                took < grace() + Duration::from_secs(1),
                "{point:?}: {took:?}"
            );
            assert_eq!(world.faults.fired(), 1, "{point:?}");
            drop(contact);
        });
        world.finish();
    }
}

#[test]
fn a_receiver_that_closes_before_it_has_connected_has_not_said_no() {
    let world = World::new();
    world.sim.run(async {
        let (channel, offer) = world.offered(file(SIZE)).await;
        accept(&channel, Resume::default()).await.unwrap();
        let (_, mut contact) = offer.open(CAPACITY, true, &world.counter).await;
        contact.write_all(&header(0)).await.unwrap();
        wait_state(&channel, FileTransferState::Open).await;
        // What closes it may be what tidies up behind a crash.
        close(&channel).await;
        assert_eq!(channel.view.get().reason, FileTransferReason::LocalStopped);
        let words = hear_words(&mut contact).await;
        assert_eq!(words, [Word::Abort(AbortReason::Failed)]);
    });
    world.finish();
}
