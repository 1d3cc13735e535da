//! What survives a failure, case by case, and what happens past the limit.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use actors::{
    model::{AccessControl, Error, ServiceName, TubeParameters, TubeState},
    ports::TubeSignalling,
    runtime::{BoxFuture, Clock as _, Reply},
    stream_tube::StreamTubeMessage,
    testing::{Answer, Fault, FaultPoint, IncomingOutcome, Signalled, StreamCounter},
};
use futures_lite::AsyncReadExt as _;

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

#[test]
fn an_application_that_waits_when_the_tube_dies_is_told_of_again() {
    let world = World::new();
    world.sim.run(async {
        let (_channel, address) = world.accepted().await;
        world.faults.arm(FaultPoint::TubeDecide, Fault::Panic, 0, 1);
        let mut application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        assert_eq!(world.supervisor.restarts().tubes, 1);
        say(&mut application, "still here").await;
        hear(&mut contact, "still here").await;
    });
    world.finish();
}

#[test]
fn a_service_that_waits_when_the_tube_dies_is_told_of_again() {
    let world = World::new();
    world.sim.run(async {
        let service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        // The request is decided; what dies is the decision about the socket it led to.
        world.faults.arm(FaultPoint::TubeDecide, Fault::Panic, 1, 1);
        let mut contact = world.connected(&channel, 1).await;
        assert_eq!(world.supervisor.restarts().tubes, 1);
        say(&mut contact, "still here").await;
        hear(&mut service.accept().await, "still here").await;
        assert_eq!(service.waiting(), 0);
    });
    world.finish();
}

#[test]
fn a_listener_that_failed_when_the_tube_dies_still_closes_the_tube() {
    let world = World::new();
    world.sim.run(async {
        let (channel, _address) = world.accepted().await;
        world.faults.arm(FaultPoint::TubeDecide, Fault::Panic, 0, 1);
        world
            .faults
            .arm(FaultPoint::ListenerWaiting, Fault::Error, 0, ALWAYS);
        world.tree.wait_withdrawn(channel.id).await;
        let restarts = world.supervisor.restarts();
        assert_eq!((restarts.listeners, restarts.tubes), (5, 1));
    });
    world.sim.settle();
    assert_eq!(world.signalling.log(), [Signalled::Closed]);
    world.finish();
}

#[test]
fn a_dialler_that_failed_when_the_tube_dies_still_closes_the_tube() {
    let world = World::new();
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let contact = world.connected(&channel, 1).await;
        world.faults.arm(FaultPoint::TubeDecide, Fault::Panic, 0, 1);
        world
            .faults
            .arm(FaultPoint::DiallerWaiting, Fault::Error, 0, ALWAYS);
        world.tree.wait_withdrawn(channel.id).await;
        let restarts = world.supervisor.restarts();
        assert_eq!((restarts.diallers, restarts.tubes), (5, 1));
        assert_eq!(
            closed_with(&world.tree, channel.id, 1),
            Some("ConnectionLost")
        );
        drop(contact);
    });
    world.finish();
}

#[test]
fn a_contact_that_was_overdue_when_the_tube_dies_is_cut_off() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        // After the close itself.
        world.faults.arm(FaultPoint::TubeDecide, Fault::Panic, 1, 1);
        close(&channel).await;
        assert_eq!(world.supervisor.restarts().tubes, 1);
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
    });
    world.finish();
}

/// A tree that stands still holds the channel's end up, but not the applications nobody will serve.
#[test]
fn a_channel_that_gives_up_lets_those_who_wait_go_at_once() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        world.tree.wait_for_signals(channel.id, 1).await;
        world
            .faults
            .arm(FaultPoint::TubeDecide, Fault::Error, 0, ALWAYS);
        world.tree.hold(true);
        let mut application = world.sockets.connect(&address).unwrap();
        let mut rest = Vec::new();
        // Nobody has joined it to anything: how its socket closes is of no matter.
        application.read_to_end(&mut rest).await.ok();
        // 50, 100, 200, 400 and 800 milliseconds of pauses, and no limit of the tree's.
        assert_eq!(world.sim.now(), Duration::from_millis(1550));
        world.tree.hold(false);
        world.tree.wait_withdrawn(channel.id).await;
    });
    world.finish();
}

/// Writes down how many streams are there when the contact is told of the close.
struct Counting {
    counter: StreamCounter,
    seen: Arc<Mutex<Vec<usize>>>,
}

impl TubeSignalling for Counting {
    fn offer(&self, _: &ServiceName, _: &TubeParameters) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.seen.lock().unwrap().push(self.counter.open());
        Box::pin(async {})
    }
}

#[test]
fn a_channel_that_gives_up_has_closed_its_streams_before_it_goes_on() {
    let world = World::new();
    world.sim.run(async {
        let seen = Arc::<Mutex<Vec<usize>>>::default();
        let mut request = world.request(false);
        request.signalling = Arc::new(Counting {
            counter: world.counter.clone(),
            seen: seen.clone(),
        });
        let channel = world.supervisor.open_stream_tube(request).await.unwrap();
        let address = accept(&channel).await.unwrap();
        let _application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        assert_eq!(world.counter.open(), 4);
        world
            .faults
            .arm(FaultPoint::TubeWaiting, Fault::Error, 0, ALWAYS);
        world.tree.wait_withdrawn(channel.id).await;
        // The two ends that are this test's.
        assert_eq!(*seen.lock().unwrap(), [2]);
    });
    world.finish();
}
