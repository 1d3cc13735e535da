//! We offer a tube; the contact's applications connect.

use actors::{
    model::{AccessControl, ConnectionParameter, Error, SocketAddress, TubeParameters, TubeState},
    ports::StreamTubeSignal,
    runtime::Reply,
    stream_tube::StreamTubeMessage,
    testing::{Answer, IncomingOutcome, Signalled},
};
use futures_lite::AsyncWriteExt as _;

use crate::support::*;

#[test]
fn offer_tells_the_contact_and_awaits_it() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        assert_eq!(channel.view.get().state, TubeState::NotOffered);
        offer(&channel).await.unwrap();
        let view = channel.view.get();
        assert_eq!(view.state, TubeState::RemotePending);
        assert_eq!(view.parameters, parameters());
        assert_eq!(view.address, Some(service_address()));
        assert_eq!(
            world.signalling.log(),
            [Signalled::Offered(
                channel.description.service.clone(),
                parameters()
            )]
        );
        assert_eq!(
            world.tree.wait_for_signals(channel.id, 1).await,
            [state(TubeState::RemotePending)]
        );
    });
    world.finish();
}

#[test]
fn bytes_flow_both_ways() {
    let world = World::new();
    world.sim.run(async {
        let service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let mut contact = world.connected(&channel, 1).await;
        let mut served = service.accept().await;
        say(&mut contact, "hello").await;
        hear(&mut served, "hello").await;
        say(&mut served, "good day").await;
        hear(&mut contact, "good day").await;
        contact.close().await.unwrap();
        assert_eq!(hear_end(&mut served).await, b"");
        say(&mut served, "and then").await;
        hear(&mut contact, "and then").await;
        served.close().await.unwrap();
        assert_eq!(hear_end(&mut contact).await, b"");
        assert_eq!(wait_closed(&world.tree, channel.id, 1).await, "Cancelled");
        let signals = world.tree.signals(channel.id);
        assert_eq!(
            signals[..3],
            [
                state(TubeState::RemotePending),
                state(TubeState::Open),
                new_remote(1)
            ]
        );
        assert_eq!(signals.len(), 4);
        let view = channel.view.wait_for(|view| view.bytes_sent > 0).await;
        assert_eq!((view.bytes_received, view.bytes_sent), (5, 16));
        assert_eq!(view.connections, 0);
    });
    world.finish();
}

#[test]
fn connections_are_announced_in_dial_order() {
    let world = World::new();
    world.sim.run(async {
        let service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        // The first dial takes long; those behind it wait for it.
        let (answer, go) = Answer::held();
        world.sockets.next_dial(answer);
        let first = world.incoming(&channel, 1, None).await;
        let second = world.incoming(&channel, 2, None).await;
        world.sim.clock.advance(std::time::Duration::from_secs(5));
        assert_eq!(service.waiting(), 0);
        go.answer(());
        let ends = [first.wait().await.unwrap(), second.wait().await.unwrap()];
        let mut sockets = [service.accept().await, service.accept().await];
        for (index, (end, socket)) in ends.into_iter().zip(&mut sockets).enumerate() {
            let IncomingOutcome::Accepted(mut end) = end else {
                panic!("refused");
            };
            say(&mut end, &format!("I am {index}")).await;
            hear(socket, &format!("I am {index}")).await;
        }
        let signals = world.tree.wait_for_signals(channel.id, 4).await;
        assert_eq!(signals[2..4], [new_remote(1), new_remote(2)]);
    });
    world.finish();
}

#[test]
fn what_the_service_knows_us_by_is_told_for_each_access_control() {
    let path = SocketAddress::Unix("/run/service".into());
    for (address, access) in [
        (service_address(), AccessControl::Localhost),
        (service_address(), AccessControl::Port),
        (path.clone(), AccessControl::Localhost),
        (path, AccessControl::Credentials),
    ] {
        let world = World::new();
        world.sim.run(async {
            let _service = world.sockets.serve(address.clone());
            let channel = world.open(true).await;
            offer_at(&channel, address, access).await.unwrap();
            let _first = world.connected(&channel, 1).await;
            let _second = world.connected(&channel, 2).await;
            let signals = world.tree.wait_for_signals(channel.id, 4).await;
            let told = signals[2..].iter().map(|signal| match signal {
                StreamTubeSignal::NewRemoteConnection { parameter, .. } => parameter.clone(),
                other => panic!("{other:?}"),
            });
            let told: Vec<_> = told.collect();
            match (access, told.as_slice()) {
                (AccessControl::Localhost, both) => {
                    assert_eq!(both, [const { ConnectionParameter::Nothing }; 2]);
                }
                (AccessControl::Port, both) => assert!(matches!(
                    both,
                    [
                        ConnectionParameter::From(SocketAddress::Ipv4(_)),
                        ConnectionParameter::From(SocketAddress::Ipv4(_))
                    ]
                )),
                (AccessControl::Credentials, [one, other]) => {
                    assert!(matches!(one, ConnectionParameter::Byte(_)));
                    assert_ne!(one, other, "the two cannot be told apart");
                }
                (_, other) => panic!("{other:?}"),
            }
        });
        world.finish();
    }
}

#[test]
fn a_service_that_is_down_refuses_and_opens_nothing() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.offered().await;
        let outcome = world.incoming(&channel, 1, None).await.wait().await;
        let Ok(IncomingOutcome::Refused(why)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(name(&why), "ConnectionRefused");
        assert_eq!(channel.view.get().state, TubeState::RemotePending);
        assert_eq!(world.tree.signals(channel.id).len(), 1);
        // It is back: the tube opens.
        let _service = world.sockets.serve(service_address());
        let _contact = world.connected(&channel, 2).await;
        assert_eq!(channel.view.get().state, TubeState::Open);
    });
    world.finish();
}

#[test]
fn a_bytestream_that_does_not_open_is_lost() {
    let world = World::new();
    world.sim.run(async {
        let service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let fail = Answer::Fail(Error::ConnectionFailed("no way".into()));
        let _outcome = world.incoming(&channel, 1, Some(fail)).await;
        let mut served = service.accept().await;
        assert_eq!(
            wait_closed(&world.tree, channel.id, 1).await,
            "ConnectionLost"
        );
        assert_eq!(
            hear_break(&mut served).await,
            std::io::ErrorKind::ConnectionReset
        );
    });
    world.finish();
}

#[test]
fn a_bytestream_that_never_opens_is_given_up() {
    let world = World::new();
    world.sim.run(async {
        let _service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let (answer, _never) = Answer::held();
        let _outcome = world.incoming(&channel, 1, Some(answer)).await;
        assert_eq!(
            wait_closed(&world.tree, channel.id, 1).await,
            "ConnectionLost"
        );
        assert!(world.sim.now() >= std::time::Duration::from_secs(60));
    });
    world.finish();
}

#[test]
fn a_tube_that_was_not_offered_refuses_connections() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        let outcome = world.incoming(&channel, 1, None).await.wait().await;
        assert!(
            matches!(&outcome, Ok(IncomingOutcome::Refused(why)) if name(why) == "NotAvailable"),
            "{outcome:?}"
        );
    });
    world.finish();
}

#[test]
fn connections_beyond_the_bound_are_refused_and_room_returns() {
    let world = World::with(|config| config.max_connections = 2);
    world.sim.run(async {
        let service = world.sockets.serve(service_address());
        let channel = world.offered().await;
        let first = world.connected(&channel, 1).await;
        let _second = world.connected(&channel, 2).await;
        let third = world.incoming(&channel, 3, None).await.wait().await;
        assert!(
            matches!(&third, Ok(IncomingOutcome::Refused(why)) if name(why) == "ResourceUnavailable"),
            "{third:?}"
        );
        drop((first, service.accept().await));
        wait_closed(&world.tree, channel.id, 1).await;
        let _fourth = world.connected(&channel, 4).await;
    });
    world.finish();
}

#[test]
fn a_second_offer_is_refused() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.offered().await;
        assert_eq!(name(&offer(&channel).await.unwrap_err()), "NotAvailable");
        assert_eq!(world.signalling.log().len(), 1);
    });
    world.finish();
}

#[test]
fn an_offer_while_another_is_on_its_way_is_refused() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        let (answer, go) = Answer::held();
        world.signalling.next(answer);
        let (reply, first) = Reply::new();
        channel
            .address
            .tell(StreamTubeMessage::Offer {
                address: service_address(),
                access: AccessControl::Localhost,
                parameters: TubeParameters::default(),
                reply,
            })
            .await
            .unwrap();
        assert_eq!(name(&offer(&channel).await.unwrap_err()), "NotAvailable");
        go.answer(());
        first.wait().await.unwrap().unwrap();
        assert_eq!(channel.view.get().parameters, TubeParameters::default());
    });
    world.finish();
}

#[test]
fn an_offer_that_fails_may_be_made_again() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        world
            .signalling
            .next(Answer::Fail(Error::NotCapable("no tubes".into())));
        assert_eq!(name(&offer(&channel).await.unwrap_err()), "NotCapable");
        assert_eq!(channel.view.get().state, TubeState::NotOffered);
        assert_eq!(channel.view.get().parameters, TubeParameters::default());
        offer(&channel).await.unwrap();
        assert_eq!(channel.view.get().state, TubeState::RemotePending);
    });
    world.finish();
}

#[test]
fn an_address_that_cannot_be_dialled_is_refused_at_once() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        let long = SocketAddress::Unix("/x".repeat(100).into());
        let error = offer_at(&channel, long, AccessControl::Localhost)
            .await
            .unwrap_err();
        assert_eq!(name(&error), "InvalidArgument");
        let error = offer_at(&channel, service_address(), AccessControl::Credentials)
            .await
            .unwrap_err();
        assert_eq!(name(&error), "NotImplemented");
        assert_eq!(world.signalling.log(), []);
        offer(&channel).await.unwrap();
    });
    world.finish();
}

#[test]
fn our_own_tube_cannot_be_accepted() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(true).await;
        assert_eq!(name(&accept(&channel).await.unwrap_err()), "NotAvailable");
        offer(&channel).await.unwrap();
        assert_eq!(name(&accept(&channel).await.unwrap_err()), "NotAvailable");
    });
    world.finish();
}
