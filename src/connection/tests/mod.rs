//! Connections on virtual time, with fakes of everything around them.

mod dbus_tubes;
pub(super) mod fakes;
mod faults;
mod files;
mod offers;
mod policy;

use std::time::Duration;

use actors::{model::Error, runtime::Reply, stream_tube::StreamTubeMessage};

use self::fakes::{TestNetwork, World, bob, offered};
use super::{
    contacts::{Contacts, KEPT_FOR_PINNED, MAX_HANDLES},
    manager::MAX_CONNECTIONS,
    message::ConnectionMessage,
    parameters::Account,
    value::{Given, GivenMap},
    view::Status,
};
use crate::session::{
    Contact, ContactId, Presence, SessionEvent, Show, Trust, TubeId, trust::KeyId,
};

#[test]
fn who_ensures_the_same_channel_meanwhile_gets_it_but_not_as_its_own() {
    let world = World::new();
    let (connection, bob) = world.online();
    *world.opener.hold.lock().unwrap() = true;
    let first = world.ask(&connection, bob, true);
    let second = world.ask(&connection, bob, true);
    assert_eq!(world.opener.held.lock().unwrap().len(), 1);
    let opening = world.opener.held.lock().unwrap().remove(0);
    opening.answer.answer(Ok(opening.object));
    let (first, second) = (world.answer(first).unwrap(), world.answer(second).unwrap());
    assert!(first.yours && !second.yours);
    assert_eq!(first.details, second.details);
    world.sim.settle();
    assert_eq!(
        world.tree.count("new"),
        0,
        "announced before the answer was sent"
    );
    drop(first);
    world.sim.settle();
    assert_eq!(world.tree.count("new"), 1);
    drop(second);
    world.ends();
}

#[test]
fn an_opening_that_fails_is_an_answer_for_all_who_wait() {
    let world = World::new();
    let (connection, bob) = world.online();
    *world.opener.hold.lock().unwrap() = true;
    let waiting = [
        world.ask(&connection, bob, true),
        world.ask(&connection, bob, true),
    ];
    let opening = world.opener.held.lock().unwrap().remove(0);
    opening
        .answer
        .answer(Err(Error::ResourceUnavailable("full".into())));
    for pending in waiting {
        assert!(matches!(
            world.answer(pending),
            Err(Error::ResourceUnavailable(_))
        ));
    }
    assert!(connection.view.get().channels.is_empty());
    world.ends();
}

#[test]
fn a_channel_that_closes_before_we_know_of_it_never_was() {
    let world = World::new();
    let (connection, bob) = world.online();
    *world.opener.hold.lock().unwrap() = true;
    let pending = world.ask(&connection, bob, false);
    let opening = world.opener.held.lock().unwrap().remove(0);
    let id = opening.object.id;
    world
        .sim
        .run(
            connection
                .address
                .tell_first(ConnectionMessage::ChannelClosed(id)),
        )
        .unwrap();
    world.sim.settle();
    opening.answer.answer(Ok(opening.object));
    assert!(matches!(world.answer(pending), Err(Error::Cancelled(_))));
    world.sim.settle();
    assert_eq!(world.tree.count("new") + world.tree.count("closed"), 0);
    assert!(connection.view.get().channels.is_empty());
    world.ends();
}

#[test]
fn a_tube_that_the_contact_closes_while_it_opens_is_closed_when_it_is_there() {
    let world = World::new();
    let (_connection, _) = world.online();
    *world.opener.hold.lock().unwrap() = true;
    world.happens(offered(7));
    world.happens(SessionEvent::TubeClosed {
        from: bob(),
        tube: TubeId(7),
    });
    let opening = world.opener.held.lock().unwrap().remove(0);
    opening.answer.answer(Ok(opening.object));
    world.sim.settle();
    let told = world.opener.tubes.lock().unwrap()[0].drain();
    assert!(matches!(told[..], [StreamTubeMessage::RemoteClosed]));
    world.ends();
}

#[test]
fn tubes_with_a_contact_that_is_gone_learn_it_those_that_are_opening_too() {
    let world = World::new();
    let (_connection, _) = world.online();
    world.happens(offered(6));
    *world.opener.hold.lock().unwrap() = true;
    world.happens(offered(7));
    world.happens(SessionEvent::ContactLost(bob().contact));
    let opening = world.opener.held.lock().unwrap().remove(0);
    opening.answer.answer(Ok(opening.object));
    world.sim.settle();
    let mut tubes = world.opener.tubes.lock().unwrap();
    assert!(matches!(
        tubes[0].drain()[..],
        [StreamTubeMessage::ContactGone]
    ));
    assert!(matches!(
        tubes[1].drain()[..],
        [StreamTubeMessage::RemoteClosed]
    ));
    drop(tubes);
    world.ends();
}

#[test]
fn disconnecting_gives_up_what_is_opening() {
    let world = World::new();
    let (connection, bob) = world.online();
    *world.opener.hold.lock().unwrap() = true;
    let pending = world.ask(&connection, bob, false);
    world.sim.run(connection.disconnect());
    // The question went with the connection.
    assert!(world.sim.run(pending.wait()).is_err());
    assert_eq!(*world.opener.closed.lock().unwrap(), 1);
    let opening = world.opener.held.lock().unwrap().remove(0);
    assert!(!opening.answer.is_wanted());
    drop(opening);
    world.ends();
}

#[test]
fn a_session_that_says_no_goodbye_is_given_up() {
    let world = World::with(TestNetwork {
        stuck: true,
        ..TestNetwork::default()
    });
    let (connection, _) = world.online();
    let before = world.sim.now();
    world.sim.run(connection.disconnect());
    assert_eq!(world.sim.now() - before, Duration::from_secs(5));
    assert_eq!(world.tree.log(), ["Disconnected Requested", "withdraw"]);
    assert_eq!(connection.view.get().status, Status::Disconnected);
    world.ends();
}

#[test]
fn who_asks_again_while_a_connection_ends_gets_the_next_one() {
    let world = World::with(TestNetwork {
        stuck: true,
        ..TestNetwork::default()
    });
    let (connection, _) = world.online();
    assert!(matches!(world.request("ada"), Err(Error::NotAvailable(_))));
    let (first, second) = (connection.clone(), world.manager.clone());
    let leaving = world
        .sim
        .spawner
        .spawn("leaving", async move { first.disconnect().await });
    world.sim.settle();
    assert!(!leaving.is_finished());
    let coming = world.sim.spawner.spawn("coming", async move {
        // Sent while the session is slow to say goodbye.
        second.request(World::account("ada")).await
    });
    let next = world.sim.run(coming).unwrap().unwrap();
    world.sim.run(leaving).unwrap();
    assert_ne!(next.id, connection.id);
    assert_eq!(*world.manager.connections().get(), 1);
    assert!(connection.address.is_gone() && !next.address.is_gone());
    world.ends();
}

#[test]
fn who_asks_just_before_a_connection_begins_to_end_gets_the_next_one() {
    let world = World::new();
    let (connection, _) = world.online();
    let begun = world.sim.now();
    assert!(matches!(world.request("ada"), Err(Error::NotAvailable(_))));
    let patience = world.sim.now() - begun;
    assert!(patience > Duration::ZERO && patience < Duration::from_secs(2));
    let manager = world.manager.clone();
    let coming = world.sim.spawner.spawn("coming", async move {
        manager.request(World::account("ada")).await
    });
    world.sim.advance(patience / 2);
    assert!(!coming.is_finished());
    world.sim.run(connection.disconnect());
    let next = world.sim.run(coming).unwrap().unwrap();
    assert_ne!(next.id, connection.id);
    assert_eq!(*world.manager.connections().get(), 1);
    world.ends();
}

#[test]
fn who_has_given_up_gets_no_connection() {
    let world = World::new();
    let (connection, _) = world.online();
    let coming = || {
        let manager = world.manager.clone();
        let coming = async move { manager.request(World::account("ada")).await };
        let coming = world.sim.spawner.spawn("coming", coming);
        world.sim.settle();
        coming
    };
    drop(coming());
    world.sim.run(connection.disconnect());
    world.sim.settle();
    assert_eq!(world.network.sessions.lock().unwrap().len(), 1);
    // One that is starting already ends again.
    let (go, hold) = Reply::new();
    *world.network.hold.lock().unwrap() = Some(hold);
    drop(coming());
    assert_eq!(*world.manager.connections().get(), 1);
    go.answer(());
    world.sim.settle();
    assert_eq!(world.network.sessions.lock().unwrap().len(), 2);
    assert_eq!(*world.manager.connections().get(), 0);
    world.ends();
}

#[test]
fn a_crowd_that_waits_for_a_connection_s_end_is_bounded() {
    let world = World::new();
    let (_connection, _) = world.online();
    let asked: Vec<_> = (0..MAX_CONNECTIONS + 1)
        .map(|_| {
            let manager = world.manager.clone();
            world.sim.spawner.spawn("coming", async move {
                manager.request(World::account("ada")).await
            })
        })
        .collect();
    world.sim.settle();
    // One too many is refused at once, the others when their patience ends.
    assert_eq!(asked.iter().filter(|task| task.is_finished()).count(), 1);
    for task in asked {
        let answer = world.sim.run(task).unwrap();
        assert!(matches!(answer, Err(Error::NotAvailable(_))));
    }
    world.ends();
}

#[test]
fn a_session_that_ends_without_a_word_is_a_network_error() {
    let world = World::new();
    let (connection, _) = world.online();
    world.session().events.close();
    world.sim.settle();
    assert_eq!(
        world.tree.log(),
        [
            "error the session ended by itself",
            "Disconnected NetworkError",
            "withdraw"
        ]
    );
    assert!(connection.address.is_gone());
    assert_eq!(*world.manager.connections().get(), 0);
    world.ends();
}

#[test]
fn what_the_session_told_just_before_its_end_is_told_first() {
    let world = World::new();
    let (_connection, _) = world.online();
    let session = world.session();
    // Both are there before the connection looks.
    for event in [
        offers::contact("carol", Trust::Unpinned),
        SessionEvent::Disconnected(Error::NetworkError("unplugged".into())),
    ] {
        session.events.try_send(event).unwrap();
    }
    world.sim.settle();
    let log = world.tree.log();
    let end = log.iter().position(|line| line.starts_with("error"));
    assert_eq!(
        log[..end.unwrap()],
        ["ContactsChanged", "PresencesChanged", "TrustChanged"]
    );
    world.ends();
}

#[test]
fn a_start_that_panics_is_an_error_and_leaves_the_account_free() {
    let world = World::with(TestNetwork {
        panics: true,
        ..TestNetwork::default()
    });
    for _ in 0..2 {
        assert!(matches!(world.request("ada"), Err(Error::Confused(_))));
    }
    assert_eq!(*world.manager.connections().get(), 0);
    world.ends();
}

#[test]
fn shutting_down_waits_for_a_connection_that_is_starting() {
    let world = World::new();
    let (go, hold) = Reply::new();
    *world.network.hold.lock().unwrap() = Some(hold);
    let manager = world.manager.clone();
    let starting = world.sim.spawner.spawn("request", async move {
        manager.request(World::account("ada")).await
    });
    world.sim.settle();
    let manager = world.manager.clone();
    let shutdown = world
        .sim
        .spawner
        .spawn("shutdown", async move { manager.shutdown().await });
    world.sim.settle();
    assert!(!shutdown.is_finished());
    assert!(matches!(world.request("eve"), Err(Error::NotAvailable(_))));
    go.answer(());
    world.sim.run(starting).unwrap().unwrap();
    world.sim.run(shutdown).unwrap();
    world.sim.settle();
    assert_eq!(world.session().log.lock().unwrap()[..], ["disconnect"]);
    assert_eq!(world.sim.spawner.running(), 0);
}

#[test]
fn a_profile_has_one_connection_whatever_its_names() {
    let world = World::new();
    let account = |name: &str| {
        let given = |text: &str| Given::Text(text.into());
        let parameters = GivenMap::from([
            ("published-name".to_owned(), given(name)),
            ("pneuma-profile".to_owned(), given("home")),
        ]);
        Account::new(&parameters, "login").unwrap()
    };
    let first = world.sim.run(world.manager.request(account("ada")));
    assert!(first.is_ok());
    let second = world.sim.run(world.manager.request(account("eve")));
    assert!(matches!(second, Err(Error::NotAvailable(_))));
    world.ends();
}

#[test]
fn blocked_contacts_do_not_get_the_handles_kept_for_pinned_ones() {
    let mut contacts = Contacts::default();
    for number in 0..MAX_HANDLES {
        let seen = Contact {
            id: ContactId(format!("bob ({number})")),
            alias: String::new(),
            presence: super::contacts::offline(),
            features: None,
            key: None,
            trust: Trust::Blocked {
                pinned: KeyId([1; 32]),
            },
        };
        // Those beyond the bound are not shown.
        contacts.update(seen).ok();
    }
    assert_eq!(contacts.len(), MAX_HANDLES - KEPT_FOR_PINNED);
    assert!(contacts.ensure("ourselves", true).is_ok());
}

#[test]
fn changes_wait_in_line_and_the_line_is_bounded() {
    let world = World::with(TestNetwork {
        slow: true,
        ..TestNetwork::default()
    });
    let (connection, _) = world.online();
    let mut waiting = Vec::new();
    for number in 0..80 {
        let (reply, pending) = Reply::new();
        let presence = Presence {
            show: Show::Away,
            message: number.to_string(),
        };
        let message = ConnectionMessage::SetPresence { presence, reply };
        world.sim.run(connection.address.tell(message)).unwrap();
        waiting.push(pending);
    }
    world.sim.settle();
    // The last ones are answered, the first is being done, the others wait.
    let refused = waiting.pop().unwrap();
    assert!(matches!(
        world.sim.run(refused.wait()),
        Ok(Err(Error::ResourceUnavailable(_)))
    ));
    assert_eq!(world.session().log.lock().unwrap()[..], ["presence 0"]);
    world.ends();
}

#[test]
fn a_session_that_never_gets_online_is_given_up() {
    let world = World::with(TestNetwork {
        slow: true,
        ..TestNetwork::default()
    });
    let connection = world.request("ada").unwrap();
    let before = world.sim.now();
    let presence = Presence {
        show: Show::Away,
        message: "never set".into(),
    };
    let (reply, _pending) = Reply::new();
    let message = ConnectionMessage::SetPresence { presence, reply };
    world.sim.run(connection.address.tell(message)).unwrap();
    let (reply, pending) = Reply::new();
    let message = ConnectionMessage::Connect { reply };
    world.sim.run(connection.address.tell(message)).unwrap();
    world.sim.run(pending.wait()).unwrap();
    let view = connection.view.clone();
    world.sim.run(async {
        view.wait_for(|view| view.status == Status::Connecting)
            .await;
        view.wait_for(|view| view.status == Status::Disconnected)
            .await;
    });
    assert_eq!(world.sim.now() - before, Duration::from_secs(60));
    world.sim.settle();
    assert_eq!(
        world.tree.log()[1..],
        [
            "Connecting Requested",
            "error the account did not get online within 60 seconds",
            "Disconnected NetworkError",
            "withdraw"
        ]
    );
    world.ends();
}

#[test]
fn a_bus_that_takes_no_signals_holds_the_session_back() {
    let world = World::new();
    let (connection, _) = world.online();
    let (go, hold) = Reply::new();
    *world.tree.hold.lock().unwrap() = Some(hold);
    let session = world.session();
    let crowd = world.sim.spawner.spawn("crowd", async move {
        let mut sent = 0;
        for number in 0..20_000 {
            let contact = Contact {
                id: ContactId(format!("n{number}")),
                alias: "x".into(),
                presence: Presence {
                    show: Show::Away,
                    message: String::new(),
                },
                features: None,
                key: None,
                trust: Trust::NoKey,
            };
            let event = SessionEvent::Contact(contact);
            if session.events.send(event).await.is_err() {
                break;
            }
            sent += 1;
        }
        sent
    });
    world.sim.settle();
    assert!(!crowd.is_finished(), "the session was not held back");
    let held_at = connection.view.get().contacts.len();
    assert!(held_at < 10_000, "{held_at} contacts without a signal");
    go.answer(());
    let sent = world.sim.run(crowd);
    assert_eq!(sent, Ok(20_000));
    world.sim.settle();
    // The rest is bounded by the table, in which pinned contacts have places of their own.
    assert_eq!(
        connection.view.get().contacts.len(),
        MAX_HANDLES - KEPT_FOR_PINNED
    );
    world.ends();
}
