//! The contact offers a tube.

use actors::{
    model::{AccessControl, Error, TubeState},
    ports::DBusTubeSignal::TubeStateChanged,
};
use futures_lite::AsyncWriteExt as _;

use crate::support::*;

#[test]
fn messages_go_both_ways() {
    let world = World::new();
    world.sim.run(async {
        let (channel, offer) = world.theirs().await;
        assert_eq!(channel.view.get().state, TubeState::LocalPending);
        let address = accept(&channel, AccessControl::Credentials).await.unwrap();
        // Until the bytestream is there.
        assert_eq!(channel.view.get().state, TubeState::LocalPending);
        let mut contact = offer.accepted().await.unwrap().open(&world.counter);
        wait_state(&channel, TubeState::Open).await;
        contact.write_all(&message(b"first")).await.unwrap();
        let mut application = world.application(&address).await;
        expect(&mut application, &message(b"first")).await;
        application.write_all(&message(b"answer")).await.unwrap();
        expect(&mut contact, &message(b"answer")).await;
        let closing = close(&channel);
        let hearing = async { assert!(hear_out(contact).await, "it is no end in order") };
        futures_lite::future::zip(closing, hearing).await;
        assert!(hear_out(application).await);
        assert_eq!(channel.view.get().error, None);
        let states = [TubeStateChanged(TubeState::Open)];
        assert_eq!(world.tree.dbus_signals(channel.id), states);
    });
    world.finish();
}

#[test]
fn closing_declines_an_offer() {
    let world = World::new();
    world.sim.run(async {
        let (channel, offer) = world.theirs().await;
        close(&channel).await;
        assert!(offer.accepted().await.is_none());
    });
    world.finish();
}

#[test]
fn an_offer_may_be_taken_back() {
    let world = World::new();
    world.sim.run(async {
        let (channel, mut offer) = world.theirs().await;
        offer.withdraw();
        world.tree.wait_withdrawn(channel.id).await;
        let error = channel.view.get().error.clone();
        assert!(matches!(error, Some(Error::Cancelled(_))), "{error:?}");
        assert!(!channel.view.get().accepted);
    });
    world.finish();
}

#[test]
fn a_bytestream_that_never_opens_closes_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, offer) = world.theirs().await;
        accept(&channel, AccessControl::Localhost).await.unwrap();
        let twice = accept(&channel, AccessControl::Localhost).await;
        assert!(matches!(twice, Err(Error::NotAvailable(_))), "{twice:?}");
        let _held = offer.accepted().await.unwrap();
        world.tree.wait_withdrawn(channel.id).await;
        let error = channel.view.get().error.clone();
        assert!(
            matches!(error, Some(Error::ConnectionFailed(_))),
            "{error:?}"
        );
        assert!(channel.view.get().accepted);
    });
    world.finish();
}

#[test]
fn nonsense_from_the_contact_closes_the_tube_with_an_error() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address, mut contact) = world.open_theirs(AccessControl::Localhost).await;
        let application = world.application(&address).await;
        contact.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        world.tree.wait_withdrawn(channel.id).await;
        let error = channel.view.get().error.clone();
        assert!(matches!(error, Some(Error::Confused(_))), "{error:?}");
        assert!(
            !hear_out(contact).await,
            "the contact took it for an end in order"
        );
        hear_out(application).await;
    });
    world.finish();
}

#[test]
fn a_bytestream_that_breaks_closes_the_tube_with_an_error() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address, contact) = world.open_theirs(AccessControl::Localhost).await;
        let application = world.application(&address).await;
        drop(contact);
        world.tree.wait_withdrawn(channel.id).await;
        let error = channel.view.get().error.clone();
        assert!(matches!(error, Some(Error::ConnectionLost(_))), "{error:?}");
        hear_out(application).await;
    });
    world.finish();
}

#[test]
fn closing_finishes_the_message_that_is_half_written() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address, mut contact) = world.open_theirs(AccessControl::Localhost).await;
        let mut application = world.application(&address).await;
        let large = message(&[3; 100_000]);
        let writing = async {
            application.write_all(&large).await.unwrap();
            world.sleep(1).await;
            close(&channel).await;
            application
        };
        let reading = async {
            // Slow to begin: by then the tube is closed here.
            world.sleep(3).await;
            expect(&mut contact, &large).await;
            assert!(hear_out(contact).await, "it is no end in order");
        };
        drop(futures_lite::future::zip(writing, reading).await);
    });
    world.finish();
}
