//! How D-Bus tubes end, and what is left then.

use std::collections::HashMap;

use support::{Access, Person, application};

use crate::{BOARD, Board, alice_and_bob};

const SERVICE: &str = "com.example.Chess";

/// Nothing of a tube is left.
fn gone(people: [&Person; 2]) {
    for person in people {
        let path = person.connection_path();
        let left = person.objects_below(&path);
        assert!(left.is_empty(), "{left:?}");
        person.until("no socket is left", || {
            let sockets = person.dir().join("run/pneuma");
            let left = std::fs::read_dir(sockets).map_or(0, Iterator::count);
            (left == 0).then_some(())
        });
    }
}

#[test]
fn a_tube_is_declined_and_one_is_taken_back() {
    let (alice, bob) = alice_and_bob();
    let handle = alice.sees(&bob).handle;
    for declined in [true, false] {
        let ours = alice
            .create_dbus_tube(handle, SERVICE)
            .expect("CreateChannel");
        alice
            .offer_dbus(&ours, Access::Credentials, HashMap::new())
            .expect("Offer");
        let theirs = bob.offered_dbus(SERVICE);
        if declined {
            bob.close(&theirs).expect("Close");
        } else {
            alice.close(&ours).expect("Close");
        }
        alice.closed(&ours);
        bob.closed(&theirs);
    }
    gone([&alice, &bob]);
}

#[test]
fn whoever_closes_both_see_it_and_so_do_their_applications() {
    let (alice, bob) = alice_and_bob();
    for end in ["alice closes", "bob closes"] {
        let [(ours, here), (theirs, there)] = alice.dbus_tube_to(&bob, SERVICE);
        let hers = application(&here, BOARD, Board { of: "alice" }).expect("alice's application");
        let his = application(&there, BOARD, Board { of: "bob" }).expect("bob's application");
        if end == "alice closes" {
            alice.close(&ours).expect("Close");
        } else {
            bob.close(&theirs).expect("Close");
        }
        alice.closed(&ours);
        bob.closed(&theirs);
        // What they ask now is not answered, nor do they wait for ever.
        for application in [&hers, &his] {
            let ping = application.call_method(
                None::<&str>,
                BOARD,
                Some("org.freedesktop.DBus.Peer"),
                "Ping",
                &(),
            );
            assert!(futures_lite::future::block_on(ping).is_err(), "{end}");
        }
    }
    gone([&alice, &bob]);
}

#[test]
fn a_contact_that_goes_offline_ends_its_tubes() {
    let (alice, bob) = alice_and_bob();
    let [(ours, _), (theirs, _)] = alice.dbus_tube_to(&bob, SERVICE);
    let handle = alice.sees(&bob).handle;
    let pending = alice
        .create_dbus_tube(handle, "com.example.Other")
        .expect("CreateChannel");
    alice
        .offer_dbus(&pending, Access::Credentials, HashMap::new())
        .expect("Offer");
    let waiting = bob.offered_dbus("com.example.Other");
    bob.go_offline();
    for tube in [&theirs, &waiting] {
        bob.closed(tube);
    }
    for tube in [&ours, &pending] {
        alice.closed(tube);
    }
}
