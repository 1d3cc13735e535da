//! Every way a tube ends.

use std::time::Duration;

use actors::{
    model::{Error, TubeState},
    ports::Duplex as _,
    runtime::{Clock as _, Reply},
    stream_tube::StreamTubeMessage,
    testing::{Answer, Fault, FaultPoint, IncomingOutcome, Signalled, TreeEvent},
};

use crate::support::*;

#[test]
fn closing_an_unoffered_tube_tells_nobody() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        close(&channel).await;
        assert_eq!(world.tree.present(), []);
        assert_eq!(world.signalling.log(), []);
        assert!(channel.address.is_gone());
    });
    world.finish();
}

#[test]
fn closing_an_offered_tube_tells_the_contact() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.offered().await;
        close(&channel).await;
        assert_eq!(world.tree.present(), []);
    });
    world.sim.settle();
    assert_eq!(world.signalling.log()[1..], [Signalled::Closed]);
    world.finish();
}

#[test]
fn declining_tells_the_contact() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(false).await;
        close(&channel).await;
    });
    world.sim.settle();
    assert_eq!(world.signalling.log(), [Signalled::Closed]);
    world.finish();
}

#[test]
fn closing_cancels_the_open_connections() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        say(&mut application, "x").await;
        hear(&mut contact, "x").await;
        close(&channel).await;
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
        assert!(
            matches!(world.tree.log().last(), Some(TreeEvent::Withdrawn(id)) if *id == channel.id)
        );
        assert_eq!(
            hear_break(&mut application).await,
            std::io::ErrorKind::ConnectionReset
        );
        assert!(world.sockets.connect(&address).is_err());
    });
    world.finish();
}

#[test]
fn the_contact_hears_of_the_close_before_its_connections_break() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        let (answer, told) = Answer::held();
        world.signalling.next_close(answer);
        let (reply, closed) = Reply::new();
        channel
            .address
            .tell_first(StreamTubeMessage::Close { reply })
            .await
            .unwrap();
        say(&mut application, "still there").await;
        hear(&mut contact, "still there").await;
        told.answer(());
        // Only the contact cuts: a cut of ours could overtake the word.
        say(&mut application, "and now").await;
        hear(&mut contact, "and now").await;
        contact.reset();
        closed.wait().await.unwrap();
        assert_eq!(world.sim.now(), Duration::ZERO);
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
        assert_eq!(
            hear_break(&mut application).await,
            std::io::ErrorKind::ConnectionReset
        );
    });
    world.finish();
}

#[test]
fn a_contact_that_was_told_and_cuts_nothing_is_cut_off() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        close(&channel).await;
        assert_eq!(world.sim.now(), Duration::from_secs(2));
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
        assert_eq!(
            hear_break(&mut contact).await,
            std::io::ErrorKind::ConnectionReset
        );
    });
    world.finish();
}

#[test]
fn a_contact_that_cannot_be_told_does_not_hold_the_close_up() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        let (answer, _never) = Answer::held();
        world.signalling.next_close(answer);
        close(&channel).await;
        assert!(world.sim.now() <= Duration::from_secs(2));
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
    });
    world.finish();
}

#[test]
fn the_contact_closes() {
    let world = World::new();
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let _contact = world.connected(&channel, 1).await;
        channel
            .address
            .tell(StreamTubeMessage::RemoteClosed)
            .await
            .unwrap();
        world.tree.wait_withdrawn(channel.id).await;
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
        // It is not told what it said itself.
        assert_eq!(world.signalling.log().len(), 1);
    });
    world.finish();
}

#[test]
fn the_contact_is_gone() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        channel
            .address
            .tell(StreamTubeMessage::ContactGone)
            .await
            .unwrap();
        world.tree.wait_withdrawn(channel.id).await;
        assert_eq!(
            closed_with(&world.tree, channel.id, 1),
            Some("ConnectionLost")
        );
        assert_eq!(world.signalling.log(), []);
    });
    world.finish();
}

#[test]
fn both_sides_close_at_once() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        let (answer, _never) = Answer::held();
        world.signalling.next_close(answer);
        let (reply, closed) = Reply::new();
        channel
            .address
            .tell(StreamTubeMessage::Close { reply })
            .await
            .unwrap();
        channel
            .address
            .tell(StreamTubeMessage::RemoteClosed)
            .await
            .unwrap();
        closed.wait().await.unwrap();
        // Nobody waited for the contact to be told.
        assert_eq!(world.sim.now(), Duration::ZERO);
    });
    world.finish();
}

#[test]
fn every_close_is_answered() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.offered().await;
        let mut answers = Vec::new();
        for _ in 0..5 {
            let (reply, closed) = Reply::new();
            channel
                .address
                .tell(StreamTubeMessage::Close { reply })
                .await
                .unwrap();
            answers.push(closed);
        }
        let mut answered = 0;
        for closed in answers {
            // Those that came when the tube was done already are told so by their dropped reply.
            answered += usize::from(closed.wait().await.is_ok());
        }
        assert!(answered >= 1);
        assert_eq!(world.tree.present(), []);
    });
    world.finish();
}

#[test]
fn a_request_behind_the_close_is_answered_with_an_error() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        let (reply, closed) = Reply::new();
        channel
            .address
            .tell(StreamTubeMessage::Close { reply })
            .await
            .unwrap();
        assert_eq!(name(&offer(&channel).await.unwrap_err()), "NotAvailable");
        closed.wait().await.unwrap();
        assert_eq!(name(&offer(&channel).await.unwrap_err()), "NotAvailable");
    });
    world.finish();
}

#[test]
fn closing_while_the_offer_is_on_its_way_cancels_it() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        let (answer, _never) = Answer::held();
        world.signalling.next(answer);
        let offering = offer(&channel);
        let closing = async {
            // Behind the offer, not before it as through the priority inbox.
            channel
                .address
                .ask(|reply| StreamTubeMessage::Close { reply })
                .await
                .unwrap();
        };
        let (offered, ()) = futures_lite::future::zip(offering, closing).await;
        assert_eq!(name(&offered.unwrap_err()), "Cancelled");
        assert_eq!(channel.view.get().state, TubeState::NotOffered);
    });
    world.sim.settle();
    // It may have been written: the contact is told that it is void.
    assert_eq!(world.signalling.log(), [Signalled::Closed]);
    world.finish();
}

#[test]
fn closing_while_a_dial_is_under_way_refuses_the_contact() {
    let world = World::new();
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let (answer, _never) = Answer::held();
        world.sockets.next_dial(answer);
        let first = world.incoming(&channel, 1, None).await;
        let second = world.incoming(&channel, 2, None).await;
        close(&channel).await;
        for outcome in [first.wait().await, second.wait().await] {
            assert!(
                matches!(outcome, Err(_) | Ok(IncomingOutcome::Refused(_))),
                "{outcome:?}"
            );
        }
        assert_eq!(world.tree.signals(channel.id).len(), 1);
    });
    world.finish();
}

#[test]
fn a_request_that_waits_to_be_dialled_does_not_wait_for_the_close() {
    let world = World::new();
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let _contact = world.connected(&channel, 1).await;
        let (answer, _never) = Answer::held();
        world.sockets.next_dial(answer);
        let (last_word, _never) = Answer::held();
        world.signalling.next_close(last_word);
        let first = world.incoming(&channel, 2, None).await;
        let second = world.incoming(&channel, 3, None).await;
        let (reply, closed) = Reply::new();
        channel
            .address
            .tell(StreamTubeMessage::Close { reply })
            .await
            .unwrap();
        for outcome in [first, second] {
            assert!(outcome.wait().await.is_err());
        }
        // The open connection still has its time.
        assert_eq!(world.sim.now(), Duration::ZERO);
        assert_eq!(world.tree.present(), [channel.id]);
        closed.wait().await.unwrap();
    });
    world.finish();
}

#[test]
fn a_stop_comes_before_what_was_asked() {
    let world = World::with(|config| {
        config.restart.first_pause = Duration::from_secs(3600);
        config.restart.longest_pause = config.restart.first_pause;
    });
    world.sim.run(async {
        let channel = world.open(true).await;
        // While the tube pauses both arrive, and its successor finds them together.
        world
            .faults
            .arm(FaultPoint::TubeWaiting, Fault::Error, 0, 1);
        world.sim.clock.sleep(Duration::from_millis(1)).await;
        let closing = world.supervisor.close_owner(OWNER);
        let (offered, ()) = futures_lite::future::zip(offer(&channel), closing).await;
        assert!(offered.is_err());
    });
    world.sim.settle();
    // Nobody was offered anything, so nobody is told that it is void.
    assert_eq!(world.signalling.log(), []);
    world.finish();
}

#[test]
fn what_has_happened_comes_before_what_is_asked() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        world
            .faults
            .arm(FaultPoint::TubeWaiting, Fault::Error, 0, 1);
        world.sim.clock.sleep(Duration::from_millis(1)).await;
        let _application = world.sockets.connect(&address).unwrap();
        world.sim.clock.sleep(Duration::from_millis(1)).await;
        // The tube still pauses: its successor finds the application and this together.
        close(&channel).await;
        assert_eq!(
            world.tree.signals(channel.id)[..2],
            [state(TubeState::Open), new_local(1)]
        );
    });
    world.finish();
}

#[test]
fn closing_while_a_bytestream_opens_cancels_it() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let (answer, _never) = Answer::held();
        world.connector.next(answer);
        let _application = world.sockets.connect(&address).unwrap();
        world.tree.wait_for_signals(channel.id, 2).await;
        close(&channel).await;
        assert_eq!(closed_with(&world.tree, channel.id, 1), Some("Cancelled"));
    });
    world.finish();
}

#[test]
fn an_owner_takes_its_channels_along() {
    let world = World::new();
    world.sim.run(async {
        let mut others = world.request(true);
        others.owner = actors::model::OwnerId(2);
        let other = world.supervisor.open_stream_tube(others).await.unwrap();
        let offered = world.offered().await;
        let (accepted, address) = world.accepted().await;
        let _application = world.sockets.connect(&address).unwrap();
        let _contact = world.connector.opened().await;
        world.supervisor.close_owner(OWNER).await;
        assert_eq!(world.tree.present(), [other.id]);
        assert!(offered.address.is_gone() && accepted.address.is_gone());
        let closed = |signal: &&Signalled| **signal == Signalled::Closed;
        assert_eq!(world.signalling.log().iter().filter(closed).count(), 2);
        world.supervisor.close_owner(OWNER).await;
    });
    world.finish();
}

#[test]
fn shutdown_refuses_what_comes_later() {
    let world = World::new();
    world.sim.run(async {
        world.offered().await;
        world.supervisor.shutdown().await;
        assert_eq!(world.tree.present(), []);
        let late = world.supervisor.open_stream_tube(world.request(true)).await;
        assert_eq!(name(&late.unwrap_err()), "NotAvailable");
        world.supervisor.shutdown().await;
    });
    world.finish();
}

#[test]
fn a_tree_that_refuses_leaves_nothing() {
    let world = World::new();
    world.sim.run(async {
        world
            .tree
            .refuse_next(Error::ResourceUnavailable("full".into()));
        let opened = world.supervisor.open_stream_tube(world.request(true)).await;
        assert_eq!(name(&opened.unwrap_err()), "ResourceUnavailable");
        assert!(world.tree.log().is_empty());
        world.open(true).await;
    });
    world.finish();
}

#[test]
fn channels_beyond_the_bound_are_refused() {
    let world = World::with(|config| config.max_channels = 2);
    world.sim.run(async {
        let first = world.open(true).await;
        world.open(true).await;
        let third = world.supervisor.open_stream_tube(world.request(true)).await;
        assert_eq!(name(&third.unwrap_err()), "ResourceUnavailable");
        close(&first).await;
        world
            .supervisor
            .close_owner(actors::model::OwnerId(9))
            .await;
        world.open(true).await;
    });
    world.finish();
}

#[test]
fn an_open_nobody_waits_for_is_taken_back() {
    let world = World::new();
    world.tree.hold(true);
    world.sim.run(async {
        let opening = world.supervisor.open_stream_tube(world.request(false));
        let given_up = futures_lite::future::poll_once(opening).await;
        assert!(given_up.is_none());
        world.tree.hold(false);
        world
            .tree
            .wait_for(|log| matches!(log.last(), Some(TreeEvent::Withdrawn(_))))
            .await;
    });
    world.sim.settle();
    assert_eq!(world.signalling.log(), [Signalled::Closed]);
    world.finish();
}
