//! What survives a failure, case by case, and what happens past the limit.

use std::time::Duration;

use actors::{
    model::{AccessControl, TubeState},
    runtime::{Clock as _, Reply},
    stream_tube::StreamTubeMessage,
    testing::{Answer, Fault, FaultPoint, IncomingOutcome, Signalled},
};

use crate::support::*;

const ALWAYS: usize = 1_000_000;

#[test]
fn a_tube_that_keeps_failing_takes_its_channel_along() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        world
            .faults
            .arm(FaultPoint::TubeWaiting, Fault::Panic, 0, ALWAYS);
        world.tree.wait_withdrawn(channel.id).await;
        assert_eq!(
            closed_with(&world.tree, channel.id, 1),
            Some("ConnectionLost")
        );
        assert_eq!(
            hear_break(&mut application).await,
            std::io::ErrorKind::ConnectionReset
        );
        let restarts = world.supervisor.restarts();
        assert_eq!((restarts.tubes, restarts.channels), (5, 1));
        // The pauses grew: 50, 100, 200, 400, 800 milliseconds.
        assert_eq!(world.sim.now(), Duration::from_millis(1550));
    });
    world.sim.settle();
    assert_eq!(world.signalling.log(), [Signalled::Closed]);
    world.finish();
}

#[test]
fn a_listener_that_keeps_failing_closes_the_tube_in_order() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        world
            .faults
            .arm(FaultPoint::ListenerWaiting, Fault::Error, 0, ALWAYS);
        world.tree.wait_withdrawn(channel.id).await;
        assert_eq!(
            closed_with(&world.tree, channel.id, 1),
            Some("ConnectionLost")
        );
        let restarts = world.supervisor.restarts();
        assert_eq!((restarts.listeners, restarts.channels), (5, 1));
    });
    world.finish();
}

#[test]
fn applications_wait_while_the_listener_is_restarted() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        world
            .faults
            .arm(FaultPoint::ListenerWaiting, Fault::Panic, 0, 3);
        world.sim.clock.sleep(Duration::from_millis(1)).await;
        let mut application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        say(&mut application, "I waited").await;
        hear(&mut contact, "I waited").await;
        assert_eq!(channel.view.get().address, Some(address));
        assert_eq!(world.supervisor.restarts().listeners, 3);
    });
    world.finish();
}

#[test]
fn failures_far_apart_never_add_up() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.offered().await;
        for _ in 0..50 {
            world
                .faults
                .arm(FaultPoint::TubeWaiting, Fault::Panic, 0, 1);
            world.sim.clock.sleep(Duration::from_secs(120)).await;
        }
        assert_eq!(world.supervisor.restarts().tubes, 50);
        assert_eq!(channel.view.get().state, TubeState::RemotePending);
    });
    world.finish();
}

#[test]
fn an_offer_that_dies_with_its_tube_is_answered_and_may_be_made_again() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        let (answer, _never) = Answer::held();
        world.signalling.next(answer);
        let (reply, offered) = Reply::new();
        channel
            .address
            .tell(StreamTubeMessage::Offer {
                address: service_address(),
                access: AccessControl::Localhost,
                parameters: parameters(),
                reply,
            })
            .await
            .unwrap();
        world.sim.clock.sleep(Duration::from_millis(1)).await;
        world
            .faults
            .arm(FaultPoint::TubeWaiting, Fault::Error, 0, 1);
        assert!(offered.wait().await.is_err());
        assert_eq!(channel.view.get().state, TubeState::NotOffered);
        offer(&channel).await.unwrap();
    });
    world.finish();
}

#[test]
fn the_message_in_hand_is_not_handed_on_and_the_next_one_is() {
    let world = World::new();
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        world.faults.arm(FaultPoint::TubeDecide, Fault::Panic, 0, 1);
        let first = world.incoming(&channel, 1, None).await;
        let second = world.incoming(&channel, 2, None).await;
        assert!(first.wait().await.is_err());
        assert!(matches!(
            second.wait().await,
            Ok(IncomingOutcome::Accepted(_))
        ));
    });
    world.finish();
}

#[test]
fn closing_does_not_wait_for_a_pause() {
    let world = World::with(|config| config.restart.first_pause = Duration::from_secs(3600));
    world.sim.run(async {
        world.offered().await;
        world
            .faults
            .arm(FaultPoint::TubeWaiting, Fault::Panic, 0, 1);
        world.sim.clock.sleep(Duration::from_millis(1)).await;
        world.supervisor.close_owner(OWNER).await;
        assert!(world.sim.now() < Duration::from_secs(1));
    });
    world.finish();
}

#[test]
fn a_tree_that_panics_loses_no_signal() {
    let world = World::new();
    world.sim.run(async {
        world.tree.panic_next(3);
        let (channel, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        assert_eq!(
            world.tree.wait_for_signals(channel.id, 2).await,
            [state(TubeState::Open), new_local(1)]
        );
        assert_eq!(world.supervisor.restarts().announcers, 3);
    });
    world.finish();
}

#[test]
fn a_tube_that_fails_before_it_is_offered_tells_nobody() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        world
            .faults
            .arm(FaultPoint::TubeWaiting, Fault::Error, 0, ALWAYS);
        world.tree.wait_withdrawn(channel.id).await;
    });
    world.sim.settle();
    assert_eq!(world.signalling.log(), []);
    world.finish();
}
