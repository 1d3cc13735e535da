//! Our user's rules, where they are enforced: offers of both sides, what is open, and the limits of
//! channels.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::UNIX_EPOCH,
};

use actors::{
    limits::Caps,
    model::{
        AccessControl, AccessRule, AddressType, ContactHandle, Error, ServiceName, TubeParameters,
    },
    stream_tube::StreamTubeMessage,
    testing::Signalled,
};

use super::fakes::{World, offered};
use crate::{
    connection::ConnectionHandle,
    session::{
        Contact, ContactId, Presence, SessionEvent, Show, Trust,
        trust::{Decision, KeyId, Scope, Terms, Who},
    },
    xmpp::ns,
};

const KEY: KeyId = KeyId([2; 32]);

fn known(trust: Trust) -> SessionEvent {
    SessionEvent::Contact(Contact {
        id: ContactId("bob@there".into()),
        alias: String::new(),
        presence: Presence {
            show: Show::Available,
            message: String::new(),
        },
        features: Some(std::sync::Arc::new(
            [ns::TUBES.to_owned(), ns::PNEUMA.to_owned()].into(),
        )),
        key: Some(KEY),
        trust,
    })
}

fn pinned() -> SessionEvent {
    known(Trust::Pinned { since: UNIX_EPOCH })
}

/// Online, with Bob, whose key is known.
fn online(world: &World, trust: Trust) -> (ConnectionHandle, ContactHandle) {
    let (connection, bob) = world.online();
    world.happens(known(trust));
    world.tree.log.lock().unwrap().clear();
    (connection, bob)
}

fn says(decision: Decision) -> Option<Terms> {
    Some(Terms {
        decision,
        ..Terms::default()
    })
}

impl World {
    fn rule(&self, connection: &ConnectionHandle, who: Who, service: &str, terms: Option<Terms>) {
        let scope = Scope {
            who,
            service: ServiceName::new(service).ok(),
        };
        self.sim.run(connection.set_rule(scope, terms)).unwrap();
        self.sim.settle();
    }

    /// How many of its channels were told to close.
    fn told_to_close(&self) -> Vec<usize> {
        let mut probes = self.opener.tubes.lock().unwrap();
        probes
            .iter_mut()
            .map(|probe| {
                let told = probe.drain();
                told.iter()
                    .filter(|message| matches!(message, StreamTubeMessage::Close { .. }))
                    .count()
            })
            .collect()
    }

    fn caps(&self, channel: usize) -> Caps {
        self.opener.limits.lock().unwrap()[channel].caps()
    }
}

#[test]
fn a_denied_offer_is_closed_and_nobody_sees_it() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    world.rule(&connection, Who::Everybody, "", says(Decision::Deny));
    world.happens(offered(1));
    assert_eq!(world.session().signalling.log(), [Signalled::Closed]);
    assert!(world.opener.tubes.lock().unwrap().is_empty());
    assert_eq!(world.tree.count("new"), 0);
    // The more specific rule wins, and an allowed offer is a channel like any other.
    world.rule(&connection, Who::Key(KEY), "rfb", says(Decision::Allow));
    world.happens(offered(2));
    assert_eq!(world.tree.count("new"), 1);
    assert_eq!(world.tree.count("PolicyChanged"), 2);
    world.rule(&connection, Who::Key(KEY), "rfb", None);
    assert_eq!(world.tree.count("PolicyChanged"), 3);
    assert_eq!(world.told_to_close(), [1]);
    world.ends();
}

#[test]
fn what_is_denied_is_neither_offered_nor_accepted_and_pins_nobody() {
    let world = World::new();
    let (connection, bob) = online(&world, Trust::Unpinned);
    world.happens(offered(1));
    let pending = world.ask(&connection, bob, false);
    world.answer(pending).unwrap();
    // Straight into the session, so that the actor has not closed the channels yet.
    for service in ["rfb", "http"] {
        let scope = Scope {
            who: Who::Everybody,
            service: ServiceName::new(service).ok(),
        };
        let session = world.session();
        let mut policy = session.policy.lock().unwrap();
        let policy = std::sync::Arc::make_mut(&mut policy);
        policy.set(scope, says(Decision::Deny).unwrap()).unwrap();
    }
    let objects = world.opener.objects.lock().unwrap().clone();
    let access = AccessControl::Localhost;
    let accepted = connection.accept(&objects[0], AddressType::Ipv4, AccessRule::Localhost);
    let accepted = world.sim.run(accepted);
    assert!(
        matches!(accepted, Err(Error::PermissionDenied(_))),
        "{accepted:?}"
    );
    let address = actors::model::SocketAddress::Ipv4("127.0.0.1:80".parse().unwrap());
    let parameters = TubeParameters::default();
    let refused = world
        .sim
        .run(connection.offer(&objects[1], address, access, parameters));
    let Err(Error::PermissionDenied(text)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        text.contains("bob@there") && text.contains("http"),
        "{text}"
    );
    // A denied contact can still be asked for a channel; nothing is said to it by that.
    let pending = world.ask(&connection, bob, false);
    assert!(world.answer(pending).is_ok());
    world.ends();
}

#[test]
fn a_deny_closes_what_is_there_and_nothing_else() {
    let world = World::new();
    let (connection, bob) = online(&world, Trust::Pinned { since: UNIX_EPOCH });
    world.happens(offered(1));
    world.happens(offered(2));
    let pending = world.ask(&connection, bob, false);
    world.answer(pending).unwrap();
    world.rule(&connection, Who::Key(KEY), "rfb", says(Decision::Deny));
    assert_eq!(world.told_to_close(), [1, 1, 0]);
    // Once is enough.
    world.rule(&connection, Who::Pinned, "rfb", says(Decision::Deny));
    assert_eq!(world.told_to_close(), [0, 0, 0]);
    world.ends();
}

#[test]
fn an_offer_that_is_denied_while_its_channel_opens_is_closed() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    *world.opener.hold.lock().unwrap() = true;
    world.happens(offered(1));
    world.rule(&connection, Who::Everybody, "rfb", says(Decision::Deny));
    let opening = world.opener.held.lock().unwrap().remove(0);
    opening.answer.answer(Ok(opening.object));
    world.sim.settle();
    assert_eq!(world.told_to_close(), [1]);
    world.ends();
}

#[test]
fn channels_of_one_contact_and_service_share_limits_that_follow_the_rules_and_the_trust() {
    let world = World::new();
    let (connection, bob) = online(&world, Trust::Unpinned);
    let capped = |connections, rate| {
        Some(Terms {
            max_connections: NonZeroU32::new(connections),
            max_bytes_per_second: NonZeroU64::new(rate),
            ..Terms::default()
        })
    };
    let caps = |connections, rate| Caps {
        connections: (connections > 0).then_some(connections),
        bytes_per_second: NonZeroU64::new(rate),
    };
    world.rule(&connection, Who::Everybody, "", capped(2, 4096));
    world.happens(offered(1));
    world.happens(offered(2));
    let pending = world.ask(&connection, bob, false);
    world.answer(pending).unwrap();
    for channel in 0..3 {
        assert_eq!(world.caps(channel), caps(2, 4096));
    }
    world.rule(&connection, Who::Key(KEY), "rfb", capped(0, 9000));
    assert_eq!(world.caps(0), caps(0, 9000));
    assert_eq!(world.caps(2), caps(2, 4096));
    // Only the two for one service are the same.
    world.opener.limits.lock().unwrap()[0].set(caps(7, 7000));
    assert_eq!(world.caps(1), caps(7, 7000));
    assert_eq!(world.caps(2), caps(2, 4096));
    // Our user takes a tube up, and the contact is pinned by that.
    world.rule(&connection, Who::Pinned, "http", capped(3, 0));
    assert_eq!(world.caps(2), caps(2, 4096));
    world.happens(pinned());
    assert_eq!(world.caps(2), caps(3, 0));
    world.ends();
}

#[test]
fn what_holds_for_whom_can_be_asked() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Pinned { since: UNIX_EPOCH });
    world.rule(&connection, Who::Pinned, "http", says(Decision::Allow));
    let http = ServiceName::new("http").unwrap();
    let decided = |who, service| connection.terms(who, service).unwrap().decision;
    assert_eq!(decided(Who::Key(KEY), Some(&http)), Decision::Allow);
    assert_eq!(decided(Who::Key(KEY), None), Decision::Ask);
    assert_eq!(decided(Who::Pinned, Some(&http)), Decision::Allow);
    assert_eq!(
        decided(Who::Key(KeyId([9; 32])), Some(&http)),
        Decision::Ask
    );
    assert_eq!(decided(Who::Everybody, Some(&http)), Decision::Ask);
    world.ends();
}

#[test]
fn a_stream_tube_with_another_kind_s_name_is_none_of_that_kind() {
    let world = World::new();
    let (connection, _) = online(&world, Trust::Unpinned);
    for service in ["dbus:com.example.Chess", "file-transfer"] {
        world.rule(&connection, Who::Everybody, service, says(Decision::Deny));
    }
    for (number, service) in [(1, "dbus:com.example.Chess"), (2, "file-transfer")] {
        let mut event = offered(number);
        if let SessionEvent::TubeOffered { service: named, .. } = &mut event {
            *named = ServiceName::new(service).unwrap();
        }
        world.happens(event);
    }
    assert_eq!(world.told_to_close(), [0, 0]);
    let stream = "stream:dbus:com.example.Chess";
    world.rule(&connection, Who::Everybody, stream, says(Decision::Deny));
    assert_eq!(world.told_to_close(), [1, 0]);
    world.ends();
}
