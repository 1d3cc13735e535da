//! We offer a tube.

use actors::{
    model::{AccessControl, Error, TubeState},
    ports::DBusTubeSignal::TubeStateChanged,
    testing::Answer,
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::*;

#[test]
fn messages_go_both_ways() {
    let world = World::new();
    world.sim.run(async {
        let (channel, _, offered) = world.ours().await;
        assert_eq!(channel.view.get().state, TubeState::NotOffered);
        let address = offer(&channel, AccessControl::Localhost).await.unwrap();
        assert_eq!(channel.view.get().state, TubeState::RemotePending);
        assert_eq!(channel.view.get().address.as_ref(), Some(&address));
        let (named, _, answering) = offered.recv().await.unwrap();
        assert_eq!(named, service());
        let mut contact = answering.open(&world.counter);
        wait_state(&channel, TubeState::Open).await;
        assert_eq!(channel.view.get().encrypted, Some(true));
        let mut application = world.application(&address).await;
        let (ping, pong) = (message(b"ping"), message(&[7; 10_000]));
        application.write_all(&ping).await.unwrap();
        expect(&mut contact, &ping).await;
        let answering = contact.write_all(&pong);
        let hearing = expect(&mut application, &pong);
        futures_lite::future::zip(answering, hearing)
            .await
            .0
            .unwrap();
        world.sleep(2).await;
        let view = channel.view.get();
        assert_eq!((view.bytes_sent, view.bytes_received), (20, 10_016));
        assert!(view.connected);
        contact.close().await.unwrap();
        assert_eq!(application.read(&mut [0]).await.unwrap(), 0);
        drop(contact);
        world.tree.wait_withdrawn(channel.id).await;
        assert_eq!(channel.view.get().error, None);
        let states = [TubeState::RemotePending, TubeState::Open].map(TubeStateChanged);
        assert_eq!(world.tree.dbus_signals(channel.id), states);
    });
    world.finish();
}

#[test]
fn with_credentials_the_first_byte_was_taken_already() {
    let world = World::new();
    world.sim.run(async {
        let (_, address, mut contact) = world.open_ours(AccessControl::Credentials).await;
        let mut application = world.application(&address).await;
        application.write_all(&message(b"x")).await.unwrap();
        expect(&mut contact, &message(b"x")).await;
    });
    world.finish();
}

#[test]
fn who_connects_before_it_is_open_waits() {
    let world = World::new();
    world.sim.run(async {
        let (channel, _, offered) = world.ours().await;
        let address = offer(&channel, AccessControl::Localhost).await.unwrap();
        let early = async {
            let mut application = world.application(&address).await;
            application.write_all(&message(b"early")).await.unwrap();
            application
        };
        let contact = async {
            world.sleep(3600).await;
            let (_, _, answering) = offered.recv().await.unwrap();
            let mut contact = answering.open(&world.counter);
            expect(&mut contact, &message(b"early")).await;
            contact
        };
        drop(futures_lite::future::zip(early, contact).await);
    });
    world.finish();
}

#[test]
fn an_application_may_go_and_another_come() {
    let world = World::new();
    world.sim.run(async {
        let (_channel, address, mut contact) = world.open_ours(AccessControl::Localhost).await;
        for round in 0..5 {
            contact.write_all(&message(&[round])).await.unwrap();
            let mut application = world.application(&address).await;
            expect(&mut application, &message(&[round])).await;
            let half = message(b"never whole");
            application.write_all(&message(&[round])).await.unwrap();
            application
                .write_all(&half[..half.len() - 1])
                .await
                .unwrap();
            drop(application);
            expect(&mut contact, &message(&[round])).await;
        }
    });
    world.finish();
}

#[test]
fn a_second_application_waits_for_the_first() {
    let world = World::new();
    world.sim.run(async {
        let (_channel, address, mut contact) = world.open_ours(AccessControl::Localhost).await;
        let first = world.application(&address).await;
        let second = async {
            let mut second = world.application(&address).await;
            second.write_all(&message(b"second")).await.unwrap();
            second
        };
        let leaving = async {
            world.sleep(100).await;
            drop(first);
            expect(&mut contact, &message(b"second")).await;
        };
        futures_lite::future::zip(second, leaving).await;
    });
    world.finish();
}

#[test]
fn a_contact_that_does_not_want_it_closes_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, _, offered) = world.ours().await;
        let address = offer(&channel, AccessControl::Localhost).await.unwrap();
        let early = world.sockets.connect(&socket_of(&address)).unwrap();
        let (_, _, answering) = offered.recv().await.unwrap();
        answering.refuse(Error::Rejected("no".into()));
        world.tree.wait_withdrawn(channel.id).await;
        assert_eq!(channel.view.get().error, Some(Error::Rejected("no".into())));
        hear_out(early).await;
    });
    world.finish();
}

#[test]
fn closing_takes_the_offer_back() {
    let world = World::new();
    world.sim.run(async {
        let (channel, _, offered) = world.ours().await;
        offer(&channel, AccessControl::Localhost).await.unwrap();
        let (_, _, answering) = offered.recv().await.unwrap();
        assert!(answering.is_wanted());
        close(&channel).await;
        world.sleep(1).await;
        assert!(!answering.is_wanted());
    });
    world.finish();
}

#[test]
fn an_offer_that_cannot_be_written_may_be_made_again() {
    let world = World::new();
    world.sim.run(async {
        let (channel, port, offered) = world.ours().await;
        let why = Error::NotCapable("it cannot".into());
        port.next(Answer::Fail(why.clone()));
        assert_eq!(offer(&channel, AccessControl::Localhost).await, Err(why));
        assert_eq!(channel.view.get().state, TubeState::NotOffered);
        world.sleep(1).await;
        assert_eq!(world.sockets.listeners(), 0);
        let address = offer(&channel, AccessControl::Localhost).await.unwrap();
        let twice = offer(&channel, AccessControl::Localhost).await;
        assert!(matches!(twice, Err(Error::NotAvailable(_))), "{twice:?}");
        let wrong = accept(&channel, AccessControl::Localhost).await;
        assert!(matches!(wrong, Err(Error::NotAvailable(_))), "{wrong:?}");
        let (_, _, answering) = offered.recv().await.unwrap();
        let mut contact = answering.open(&world.counter);
        let mut application = world.application(&address).await;
        application.write_all(&message(b"x")).await.unwrap();
        expect(&mut contact, &message(b"x")).await;
    });
    world.finish();
}

#[test]
fn the_late_end_of_one_offer_s_listener_is_not_the_next_one_s() {
    let world = World::new();
    world.sim.run(async {
        let (channel, port, offered) = world.ours().await;
        port.next(Answer::Fail(Error::NotCapable("it cannot".into())));
        world.sockets.linger();
        let refused = offer(&channel, AccessControl::Localhost).await;
        assert!(refused.is_err(), "{refused:?}");
        let address = offer(&channel, AccessControl::Localhost).await.unwrap();
        let (_, _, answering) = offered.recv().await.unwrap();
        let _contact = answering.open(&world.counter);
        world.application(&address).await;
        assert_eq!(world.supervisor.restarts().listeners, 0);
    });
    world.finish();
}

#[test]
fn closed_while_it_is_being_offered_the_offer_is_cancelled() {
    let world = World::new();
    world.sim.run(async {
        let (channel, port, _offered) = world.ours().await;
        let (answer, _held) = Answer::held();
        port.next(answer);
        let offering = offer(&channel, AccessControl::Localhost);
        let closing = async {
            world.sleep(1).await;
            close(&channel).await;
        };
        let (offered, ()) = futures_lite::future::zip(offering, closing).await;
        assert!(matches!(offered, Err(Error::Cancelled(_))), "{offered:?}");
    });
    world.finish();
}

#[test]
fn what_cannot_be_bound_or_demanded_is_said() {
    let world = World::new();
    world.sim.run(async {
        let (channel, _, _offered) = world.ours().await;
        let port = offer(&channel, AccessControl::Port).await;
        assert!(matches!(port, Err(Error::NotImplemented(_))), "{port:?}");
        let why = Error::ResourceUnavailable("no descriptors".into());
        world.sockets.refuse_bind(why.clone());
        assert_eq!(offer(&channel, AccessControl::Localhost).await, Err(why));
        offer(&channel, AccessControl::Localhost).await.unwrap();
    });
    world.finish();
}
