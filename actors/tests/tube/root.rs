//! The root fails: its channels close in order, nobody hangs, nothing is left. And a tree that never
//! answers keeps nobody.

use std::time::Duration;

use actors::{
    model::{Error, TubeState},
    runtime::Clock as _,
    supervisor::SupervisorConfig,
    testing::{Fault, FaultPoint, Signalled},
};

use crate::support::*;

/// What a tree may take at most; see `SupervisorConfig::tree_limit`.
fn limit() -> Duration {
    SupervisorConfig::default().tree_limit
}

fn the_root_dies(point: FaultPoint, fault: Fault) {
    let world = World::new();
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let offered = world.offered().await;
        let contact_of_offered = world.connected(&offered, 1).await;
        let (accepted, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let contact = world.connector.opened().await;

        world.faults.arm(point, fault, 0, 1);
        // At a passing point it dies of this request.
        let refused = world
            .supervisor
            .open_stream_tube(world.request(false))
            .await;
        if point == FaultPoint::RootDecided {
            // Begun, and given up.
            assert!(
                matches!(refused, Err(Error::Disconnected(_))),
                "{refused:?}"
            );
        } else {
            assert!(
                matches!(refused, Err(Error::NotAvailable(_))),
                "{refused:?}"
            );
        }
        world.supervisor.gone().await;
        assert_eq!(world.faults.fired(), 1);
        // Whoever waits for the end does so until it is there.
        world.supervisor.close_owner(OWNER).await;
        assert_eq!(world.tree.present(), []);
        assert!(offered.address.is_gone() && accepted.address.is_gone());
        assert_eq!(closed_with(&world.tree, offered.id, 1), Some("Cancelled"));
        assert_eq!(closed_with(&world.tree, accepted.id, 1), Some("Cancelled"));
        assert_eq!(
            hear_break(&mut application).await,
            std::io::ErrorKind::ConnectionReset
        );
        let told = world.signalling.log();
        let closed = told.iter().filter(|what| **what == Signalled::Closed);
        assert!(closed.count() >= 2, "{told:?}");
        drop((contact, contact_of_offered));
        let late = world.supervisor.open_stream_tube(world.request(true)).await;
        assert!(matches!(late, Err(Error::NotAvailable(_))), "{late:?}");
    });
    world.finish();
}

#[test]
fn its_channels_close_in_order() {
    for point in [
        FaultPoint::RootWaiting,
        FaultPoint::RootDecide,
        FaultPoint::RootDecided,
    ] {
        for fault in [Fault::Error, Fault::Panic] {
            the_root_dies(point, fault);
        }
    }
}

#[test]
fn a_root_that_was_shut_down_is_gone_too() {
    let world = World::new();
    world.sim.run(async {
        let gone = world.supervisor.clone();
        let gone = world
            .sim
            .spawner
            .spawn("gone", async move { gone.gone().await });
        world.offered().await;
        assert!(!gone.is_finished());
        world.supervisor.shutdown().await;
        gone.await.unwrap();
    });
    world.finish();
}

#[test]
fn a_channel_that_is_not_published_in_time_never_was() {
    let world = World::new();
    world.sim.run(async {
        world.tree.hold(true);
        let outcome = world.supervisor.open_stream_tube(world.request(true)).await;
        assert!(
            matches!(outcome, Err(Error::NotAvailable(_))),
            "{outcome:?}"
        );
        assert_eq!(world.sim.now(), limit());
        world.tree.hold(false);
        world.sim.clock.sleep(limit()).await;
        assert!(world.tree.log().is_empty(), "it appears after all");
        world.offered().await;
    });
    world.finish();
}

#[test]
fn closing_gives_up_what_is_being_published() {
    let world = World::new();
    world.sim.run(async {
        world.tree.hold(true);
        let (supervisor, request) = (world.supervisor.clone(), world.request(true));
        let opening = world.sim.spawner.spawn("opening", async move {
            supervisor.open_stream_tube(request).await
        });
        world.sim.clock.sleep(Duration::from_millis(1)).await;
        world.supervisor.close_owner(OWNER).await;
        assert_eq!(world.sim.now(), Duration::from_millis(1));
        let outcome = opening.await.unwrap();
        assert!(
            matches!(outcome, Err(Error::Disconnected(_))),
            "{outcome:?}"
        );
        world.tree.hold(false);
    });
    world.finish();
}

/// A tree that stands still from some moment on: the channel's end waits for its limits and no
/// longer, and nothing but the object that it keeps is left.
#[test]
fn a_tree_that_stands_still_keeps_nobody() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let contact = world.connector.opened().await;
        world.tree.wait_for_signals(channel.id, 2).await;
        world.tree.hold(true);
        let before = world.sim.now();
        world.supervisor.close_owner(OWNER).await;
        let took = world.sim.now() - before;
        // The signals, then the object; the contact is told meanwhile.
        let SupervisorConfig {
            farewell_grace,
            cut_grace,
            ..
        } = SupervisorConfig::default();
        let most = 2 * limit() + farewell_grace + cut_grace;
        assert!(took >= 2 * limit() && took <= most, "{took:?}");
        assert!(channel.address.is_gone());
        assert_eq!(
            hear_break(&mut application).await,
            std::io::ErrorKind::ConnectionReset
        );
        assert_eq!(world.signalling.log(), [Signalled::Closed]);
        assert_eq!(world.sockets.listeners(), 0);
        drop(contact);
        world.supervisor.shutdown().await;
    });
    world.sim.settle();
    assert_eq!(world.sim.spawner.running(), 0);
    let counter = world.counter.clone();
    drop(world);
    assert_eq!(counter.open(), 0);
}

#[test]
fn a_tree_that_stands_still_for_a_while_loses_nothing() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        world.tree.hold(true);
        let application = world.sockets.connect(&address).unwrap();
        let contact = world.connector.opened().await;
        world.sim.clock.sleep(10 * limit()).await;
        let tree = world.tree.clone();
        let clock = world.sim.clock.clone();
        let later = world.sim.spawner.spawn("later", async move {
            clock.sleep(limit() / 2).await;
            tree.hold(false);
        });
        close(&channel).await;
        later.await.unwrap();
        assert_eq!(
            world.tree.signals(channel.id)[..2],
            [state(TubeState::Open), new_local(1)]
        );
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
        drop((application, contact));
    });
    world.finish();
}
