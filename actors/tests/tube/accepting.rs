//! The contact offers a tube; our applications connect.

use actors::{
    model::{AccessRule, AddressType, Error, TubeState},
    runtime::Clock as _,
    testing::Answer,
};
use futures_lite::AsyncWriteExt as _;

use crate::support::*;

#[test]
fn accept_listens_and_opens() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(false).await;
        assert_eq!(channel.view.get().state, TubeState::LocalPending);
        assert_eq!(channel.view.get().parameters, parameters());
        let address = accept(&channel).await.unwrap();
        assert_eq!(channel.view.get().state, TubeState::Open);
        assert_eq!(channel.view.get().address, Some(address));
        assert_eq!(
            world.tree.wait_for_signals(channel.id, 1).await,
            [state(TubeState::Open)]
        );
        // Accepting sends nothing.
        assert_eq!(world.signalling.log(), []);
    });
    world.finish();
}

#[test]
fn bytes_flow_both_ways() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        say(&mut application, "hello").await;
        hear(&mut contact, "hello").await;
        say(&mut contact, "good day").await;
        hear(&mut application, "good day").await;
        application.close().await.unwrap();
        assert_eq!(hear_end(&mut contact).await, b"");
        contact.close().await.unwrap();
        assert_eq!(hear_end(&mut application).await, b"");
        assert_eq!(wait_closed(&world.tree, channel.id, 1).await, "Cancelled");
        assert_eq!(
            world.tree.signals(channel.id)[..2],
            [state(TubeState::Open), new_local(1)]
        );
    });
    world.finish();
}

#[test]
fn each_connection_asks_for_one_bytestream_of_its_own() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut pairs = Vec::new();
        for _ in 0..20 {
            let application = world.sockets.connect(&address).unwrap();
            pairs.push((application, world.connector.opened().await));
        }
        for (index, (application, contact)) in pairs.iter_mut().enumerate() {
            say(application, &format!("I am {index:02}")).await;
            hear(contact, &format!("I am {index:02}")).await;
        }
        let mut asked = world.connector.asked();
        assert_eq!(asked.len(), 20);
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 20);
        assert_eq!(channel.view.get().connections, 20);
    });
    world.finish();
}

#[test]
fn a_contact_that_refuses_is_connection_refused() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        world
            .connector
            .next(Answer::Fail(Error::ConnectionRefused("no".into())));
        let mut application = world.sockets.connect(&address).unwrap();
        assert_eq!(
            wait_closed(&world.tree, channel.id, 1).await,
            "ConnectionRefused"
        );
        assert_eq!(
            hear_break(&mut application).await,
            std::io::ErrorKind::ConnectionReset
        );
        assert_eq!(
            world.tree.signals(channel.id)[..2],
            [state(TubeState::Open), new_local(1)]
        );
        // The next one has luck.
        let _application = world.sockets.connect(&address).unwrap();
        world.connector.opened().await;
    });
    world.finish();
}

#[test]
fn a_broken_bytestream_is_connection_lost() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let contact = world.connector.opened().await;
        contact.wire().lose();
        assert_eq!(
            wait_closed(&world.tree, channel.id, 1).await,
            "ConnectionLost"
        );
        assert_eq!(
            hear_break(&mut application).await,
            std::io::ErrorKind::ConnectionReset
        );
    });
    world.finish();
}

#[test]
fn a_local_reset_is_passed_on_as_a_reset() {
    use actors::ports::Duplex as _;
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        application.reset();
        assert_eq!(
            hear_break(&mut contact).await,
            std::io::ErrorKind::ConnectionReset
        );
        assert_eq!(wait_closed(&world.tree, channel.id, 1).await, "Cancelled");
    });
    world.finish();
}

#[test]
fn a_second_accept_is_refused() {
    let world = World::new();
    world.sim.run(async {
        let (channel, _) = world.accepted().await;
        assert_eq!(name(&accept(&channel).await.unwrap_err()), "NotAvailable");
        assert_eq!(name(&offer(&channel).await.unwrap_err()), "NotAvailable");
        assert_eq!(world.sockets.listeners(), 1);
    });
    world.finish();
}

#[test]
fn an_accept_that_fails_leaves_the_tube_pending() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(false).await;
        let error = accept_with(&channel, AddressType::Ipv4, AccessRule::Credentials)
            .await
            .unwrap_err();
        assert_eq!(name(&error), "NotImplemented");
        world
            .sockets
            .refuse_bind(Error::ResourceUnavailable("no descriptors".into()));
        assert_eq!(
            name(&accept(&channel).await.unwrap_err()),
            "ResourceUnavailable"
        );
        assert_eq!(channel.view.get().state, TubeState::LocalPending);
        assert_eq!(world.tree.signals(channel.id), []);
        accept(&channel).await.unwrap();
    });
    world.finish();
}

#[test]
fn applications_beyond_the_bound_wait_in_the_queue() {
    let world = World::with(|config| config.max_connections = 2);
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let applications: Vec<_> = (0..3)
            .map(|_| world.sockets.connect(&address).unwrap())
            .collect();
        let contacts = [
            world.connector.opened().await,
            world.connector.opened().await,
        ];
        world.tree.wait_for_signals(channel.id, 3).await;
        assert_eq!(channel.view.get().connections, 2);
        assert_eq!(world.connector.asked().len(), 2);
        contacts[0].wire().lose();
        let _third = world.connector.opened().await;
        assert_eq!(
            world.tree.wait_for_signals(channel.id, 5).await[4],
            new_local(3)
        );
        drop(applications);
    });
    world.finish();
}

#[test]
fn a_stalled_reader_stops_the_writer() {
    let world = World::new();
    world.sim.run(async {
        let (_channel, address) = world.accepted().await;
        let mut application = world.sockets.connect(&address).unwrap();
        let mut contact = world.connector.opened().await;
        let mut written = 0_usize;
        let chunk = [7; 1024];
        // Writes until nothing moves for a virtual minute.
        let stalled = loop {
            let write = async { Some(application.write(&chunk).await.unwrap()) };
            let wait = async {
                world
                    .sim
                    .clock
                    .sleep(std::time::Duration::from_secs(60))
                    .await;
                None
            };
            match futures_lite::future::or(write, wait).await {
                Some(count) => written += count,
                None => break written,
            }
        };
        assert!(stalled < 128 * 1024, "{stalled} bytes were buffered");
        application.close().await.unwrap();
        assert_eq!(hear_end(&mut contact).await.len(), stalled);
    });
    world.finish();
}

#[test]
fn the_view_tells_what_was_encrypted_and_never_takes_a_plain_one_back() {
    let world = World::new();
    world.sim.run(async {
        let (channel, address) = world.accepted().await;
        let seen = |wanted: Option<bool>| {
            let view = channel.view.clone();
            async move { view.wait_for(|view| view.encrypted == wanted).await }
        };
        assert_eq!(channel.view.get().encrypted, None);
        let _first = world.sockets.connect(&address).unwrap();
        let _opened = world.connector.opened().await;
        seen(Some(true)).await;
        // Without a byte, and without a second to wait for.
        assert_eq!(world.sim.now(), std::time::Duration::ZERO);
        world.connector.open_in_the_clear();
        let mut second = world.sockets.connect(&address).unwrap();
        let mut opened = world.connector.opened().await;
        seen(Some(false)).await;
        second.close().await.unwrap();
        opened.close().await.unwrap();
        assert_eq!(wait_closed(&world.tree, channel.id, 2).await, "Cancelled");
        assert_eq!(channel.view.get().encrypted, Some(false));
        close(&channel).await;
    });
    world.finish();
}

#[test]
fn an_application_that_has_a_byte_to_say_is_told_of_once_it_has() {
    let world = World::new();
    world.sim.run(async {
        let channel = world.open(false).await;
        let rule = AccessRule::Credentials;
        let accepted = accept_with(&channel, AddressType::Unix, rule).await;
        let mut here = world.sockets.connect(&accepted.unwrap()).unwrap();
        let clock = &world.sim.clock;
        clock.sleep(std::time::Duration::from_secs(5)).await;
        assert_eq!(
            world.tree.signals(channel.id),
            [state(TubeState::Open)],
            "nothing before the byte"
        );
        say(&mut here, "bhello").await;
        let mut there = world.connector.opened().await;
        hear(&mut there, "hello").await;
        let signals = world.tree.wait_for_signals(channel.id, 2).await;
        assert_eq!(signals, [state(TubeState::Open), new_local(1)]);
    });
    world.finish();
}
