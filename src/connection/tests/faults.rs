//! Kills the actors of this floor everywhere, by errors and by panics: a connection whose actor or
//! announcer dies is Disconnected with an error, and its account is free again; without a manager,
//! or a supervisor of channels, every connection ends so. Nobody hangs and nothing is left.

use std::{sync::atomic::Ordering, time::Duration};

use actors::{model::Error, testing::Fault};

use super::fakes::{World, offered};
use crate::{
    connection::{fault::Point, message::ConnectionMessage, view::Status},
    session::{ContactId, SessionEvent},
};

const OF_A_CONNECTION: [Point; 7] = [
    Point::ConnectionWaiting,
    Point::ConnectionDecide,
    Point::ConnectionDecided,
    Point::AnnouncerWaiting,
    Point::AnnouncerTake,
    Point::AnnouncerEmitting,
    Point::AnnouncerEmitted,
];

/// Everything a connection does: going online, contacts, an offer, a channel of ours.
fn live(world: &World) -> Option<crate::connection::ConnectionHandle> {
    let connection = world.request("ada").ok()?;
    let connect = connection.ask(|reply| ConnectionMessage::Connect { reply });
    // It may die of any of this; what counts is that each is answered.
    world.sim.run(connect).ok();
    world.sim.settle();
    for event in [
        offered(7),
        SessionEvent::SelfIdChanged(ContactId("ada@there".into())),
        SessionEvent::ContactLost(ContactId("bob@there".into())),
    ] {
        let session = world.session();
        world.sim.run(async move {
            session.events.send(event).await.ok();
        });
        world.sim.settle();
    }
    Some(connection)
}

#[test]
fn a_connection_that_dies_anywhere_is_disconnected_and_its_name_is_free() {
    for point in OF_A_CONNECTION {
        for fault in [Fault::Error, Fault::Panic] {
            let mut deaths = 0;
            for skip in 0..8 {
                let context = format!("{point:?} {fault:?} after {skip}");
                let world = World::new();
                world.faults.arm(point, fault, skip, 1);
                let connection = live(&world).expect(&context);
                if world.faults.fired() == 0 {
                    world.faults.arm(point, fault, usize::MAX, 1);
                    world.ends();
                    continue;
                }
                deaths += 1;
                world.sim.settle();
                assert!(connection.address.is_gone(), "{context}");
                assert_eq!(connection.view.get().status, Status::Disconnected);
                let log = world.tree.log();
                let end: Vec<_> = log.iter().rev().take(3).rev().collect();
                assert!(end[0].starts_with("error "), "{context}: {log:?}");
                assert_eq!(end[1..], ["Disconnected NoneSpecified", "withdraw"]);
                assert_eq!(world.tree.count("Disconnected"), 1, "{context}");
                // What was announced as new has closed.
                let (new, closed) = (world.tree.count("new"), world.tree.count("closed"));
                assert!(closed == 1 || new == 0 && closed == 0, "{context}: {log:?}");
                assert_eq!(*world.opener.closed.lock().unwrap(), 1, "{context}");
                assert_eq!(world.session().log.lock().unwrap()[..], ["disconnect"]);
                assert_eq!(*world.manager.connections().get(), 0, "{context}");
                assert_eq!(world.sim.spawner.running(), 1, "{context}: the manager");
                // The account may come back.
                world.request("ada").expect(&context);
                world.ends();
            }
            assert!(deaths > 0, "nobody ever comes by {point:?}");
        }
    }
}

#[test]
fn without_a_manager_every_connection_ends() {
    for point in [
        Point::ManagerWaiting,
        Point::ManagerDecide,
        Point::ManagerDecided,
    ] {
        for fault in [Fault::Error, Fault::Panic] {
            let context = format!("{point:?} {fault:?}");
            let world = World::new();
            let (connection, _) = world.online();
            let second = world.request("eve").expect(&context);
            world.tree.log.lock().unwrap().clear();
            world.faults.arm(point, fault, 0, 1);
            // At a passing point it dies of this request, which may have begun.
            assert!(world.request("kim").is_err(), "{context}");
            world.sim.run(world.manager.gone());
            assert_eq!(world.faults.fired(), 1, "{context}");
            // Waits for the connections.
            world.sim.run(world.manager.shutdown());
            for connection in [connection, second] {
                assert_eq!(connection.view.get().status, Status::Disconnected);
            }
            assert!(world.tree.count("error the connection") >= 2, "{context}");
            assert!(world.tree.count("withdraw") >= 2, "{context}");
            let begun = world.tree.count("publish") + 2;
            assert_eq!(world.tree.count("withdraw"), begun, "{context}");
            for session in &*world.network.sessions.lock().unwrap() {
                assert_eq!(session.log.lock().unwrap()[..], ["disconnect"], "{context}");
            }
            assert!(matches!(world.request("ada"), Err(Error::NotAvailable(_))));
            world.sim.settle();
            assert_eq!(world.sim.spawner.running(), 0, "{context}");
        }
    }
}

#[test]
fn a_manager_that_dies_while_a_connection_starts_takes_it_along() {
    let world = World::new();
    let (go, hold) = actors::runtime::Reply::new();
    *world.network.hold.lock().unwrap() = Some(hold);
    let manager = world.manager.clone();
    let starting = world.sim.spawner.spawn("request", async move {
        manager.request(World::account("ada")).await
    });
    world.sim.settle();
    world.faults.arm(Point::ManagerWaiting, Fault::Panic, 0, 1);
    assert!(world.sim.run(starting).unwrap().is_err());
    go.answer(());
    world.sim.run(world.manager.shutdown());
    assert_eq!(world.tree.log().last().unwrap(), "withdraw");
    assert_eq!(world.session().log.lock().unwrap()[..], ["disconnect"]);
    world.sim.settle();
    assert_eq!(world.sim.spawner.running(), 0);
}

#[test]
fn without_a_supervisor_of_channels_every_connection_ends() {
    let world = World::new();
    let (connection, bob) = world.online();
    *world.opener.hold.lock().unwrap() = true;
    let pending = world.ask(&connection, bob, true);
    drop(world.opener.alive.stopper.lock().unwrap().take());
    assert!(world.sim.run(pending.wait()).is_err());
    world.sim.settle();
    assert_eq!(connection.view.get().status, Status::Disconnected);
    assert_eq!(world.tree.count("error "), 1);
    assert_eq!(*world.manager.connections().get(), 0);
    drop(world.opener.held.lock().unwrap().pop());
    world.ends();
}

#[test]
fn a_tree_that_stands_still_keeps_no_connection() {
    let world = World::new();
    let (connection, _) = world.online();
    world.happens(offered(7));
    world.tree.still.store(true, Ordering::Relaxed);
    world.happens(SessionEvent::ContactLost(ContactId("bob@there".into())));
    let before = world.sim.now();
    world.sim.run(connection.disconnect());
    world.sim.settle();
    assert!(world.sim.now() - before <= Duration::from_secs(20));
    assert_eq!(connection.view.get().status, Status::Disconnected);
    assert_eq!(world.session().log.lock().unwrap()[..], ["disconnect"]);
    assert_eq!(*world.manager.connections().get(), 0);
    world.ends();
}

#[test]
fn a_tree_that_panics_keeps_no_connection() {
    let world = World::new();
    let (connection, _) = world.online();
    world.happens(offered(7));
    world.tree.panics.store(true, Ordering::Relaxed);
    world.sim.run(connection.disconnect());
    world.sim.settle();
    assert_eq!(connection.view.get().status, Status::Disconnected);
    assert_eq!(world.session().log.lock().unwrap()[..], ["disconnect"]);
    assert_eq!(*world.opener.closed.lock().unwrap(), 1);
    assert_eq!(*world.manager.connections().get(), 0);
    world.ends();
}
