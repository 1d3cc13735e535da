//! Every way a tube and its connections can end, and what each side is told.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use support::{Address, Echo, PATIENCE, exchange, name};

use crate::alice_and_bob;

#[test]
fn the_accepting_side_closes() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (ours, theirs, door) = alice.tube_to(&bob, "x-close", service.address(), 2);
    let mut held = door.connect().expect("a connection");
    held.write_all(b"a").expect("a byte");
    held.read_exact(&mut [0]).expect("its echo");
    bob.close(&theirs).expect("Close");
    bob.closed(&theirs);
    alice.closed(&ours);
    assert_eq!(bob.connection_closed(&theirs).1, "Cancelled");
    assert_eq!(alice.connection_closed(&ours).1, "Cancelled");
    // What was connected is over, and nobody listens any more.
    assert!(matches!(held.read(&mut [0]), Ok(0) | Err(_)));
    assert!(door.connect().is_err());
}

/// However a tube is closed on purpose, neither side is told that something was lost.
#[test]
fn both_sides_know_a_close_from_a_loss() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    for end in ["Bob closes", "Alice closes", "Bob goes offline"] {
        let (ours, theirs, door) = alice.tube_to(&bob, "x-end", service.address(), 2);
        let held: Vec<_> = (0..8)
            .map(|_| {
                let mut held = door.connect().expect("a connection");
                held.write_all(b"a").expect("a byte");
                held.read_exact(&mut [0]).expect("its echo");
                held
            })
            .collect();
        match end {
            "Bob closes" => bob.close(&theirs).expect("Close"),
            "Alice closes" => alice.close(&ours).expect("Close"),
            _ => bob.go_offline(),
        }
        for _ in &held {
            assert_eq!(alice.connection_closed(&ours).1, "Cancelled", "{end}");
            assert_eq!(bob.connection_closed(&theirs).1, "Cancelled", "{end}");
        }
        alice.closed(&ours);
        bob.closed(&theirs);
    }
}

#[test]
fn a_tube_is_refused_and_one_is_withdrawn() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let handle = alice.sees(&bob).handle;
    for (refuse, tube) in [(true, "x-refused"), (false, "x-withdrawn")] {
        let ours = alice.create_tube(handle, tube).expect("CreateChannel");
        alice
            .offer(&ours, service.address(), HashMap::new())
            .expect("Offer");
        let theirs = bob.offered(tube);
        if refuse {
            bob.close(&theirs).expect("Close");
        } else {
            alice.close(&ours).expect("Close");
        }
        alice.closed(&ours);
        bob.closed(&theirs);
    }
    assert_eq!(service.connections(), 0);
}

#[test]
fn both_sides_close_at_once() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    for round in 0..20 {
        let (ours, theirs, door) =
            alice.tube_to(&bob, &format!("x-both-{round}"), service.address(), 2);
        assert_eq!(exchange(&door, b"bytes").expect("bytes"), b"bytes");
        thread::scope(|scope| {
            // The loser of the race finds the channel gone; that is an answer, not a hang.
            scope.spawn(|| drop(alice.close(&ours)));
            scope.spawn(|| drop(bob.close(&theirs)));
        });
        alice.closed(&ours);
        bob.closed(&theirs);
    }
    let (_, _, door) = alice.tube_to(&bob, "x-after", service.address(), 2);
    assert_eq!(exchange(&door, b"after").expect("bytes"), b"after");
}

#[test]
fn a_service_that_does_not_answer_refuses() {
    let (alice, bob) = alice_and_bob();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Address::from(listener.local_addr().expect("its address"))
    };
    let (ours, theirs, door) = alice.tube_to(&bob, "x-dead", &gone, 2);
    let mut client = door.connect().expect("the local socket is there");
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(bob.connection_closed(&theirs).1, "ConnectionRefused");
    // The tube itself goes on: the service may come back.
    let back = TcpListener::bind(match gone {
        Address::Ipv4(address) => address,
        _ => unreachable!("an IPv4 address"),
    })
    .expect("the same port");
    let client = door.connect().expect("a connection");
    drop(back.accept().expect("the service is dialled"));
    drop(client);
    alice.close(&ours).expect("Close");
    bob.closed(&theirs);
}

#[test]
fn the_other_connection_manager_is_killed() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (ours, _theirs, door) = alice.tube_to(&bob, "x-killed", service.address(), 2);
    let mut held = door.connect().expect("a connection");
    held.write_all(b"a").expect("a byte");
    held.read_exact(&mut [0]).expect("its echo");
    bob.kill_manager();
    assert_eq!(alice.connection_closed(&ours).1, "ConnectionLost");
    assert!(matches!(held.read(&mut [0]), Ok(0) | Err(_)));
}

#[test]
fn going_offline_closes_everything() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (ours, theirs, door) = alice.tube_to(&bob, "x-offline", service.address(), 0);
    assert_eq!(exchange(&door, b"bytes").expect("bytes"), b"bytes");
    let name = bob.connection_bus_name();
    bob.go_offline();
    bob.closed(&theirs);
    alice.closed(&ours);
    assert!(!bob.has_owner(&name), "the connection's name is released");
    let Address::Unix(path) = &door else {
        panic!("a Unix socket was asked for: {door:?}");
    };
    assert!(!path.exists(), "{} was left behind", path.display());
}

#[test]
fn sigterm_ends_everything_in_order() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (ours, _theirs, _door) = alice.tube_to(&bob, "x-term", service.address(), 0);
    let path = bob.connection_path();
    let status = bob.stop_manager();
    assert!(status.success(), "{status}");
    bob.wait_for("StatusChanged(Disconnected)", |event| {
        let this = event.member == "StatusChanged" && event.path == path;
        let (status, _): (u32, u32) = this.then(|| event.arguments())??;
        (status == 2).then_some(())
    });
    alice.closed(&ours);
    let sockets: Vec<_> = bob
        .files()
        .into_iter()
        .filter(|file| file.starts_with(bob.dir().join("run")))
        .collect();
    assert!(sockets.is_empty(), "left behind: {sockets:?}");
}

#[test]
fn closing_while_half_way_leaves_nothing() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let handle = alice.sees(&bob).handle;
    let before = alice.objects_below("/").len();
    for round in 0..10 {
        let ours = alice
            .create_tube(handle, &format!("x-cut-{round}"))
            .expect("CreateChannel");
        // The offer is on its way when the channel closes.
        thread::scope(|scope| {
            scope.spawn(|| drop(alice.offer(&ours, service.address(), HashMap::new())));
            scope.spawn(|| drop(alice.close(&ours)));
        });
        alice.closed(&ours);
    }
    alice.until_within(PATIENCE, "the channels' objects are gone", || {
        (alice.objects_below("/").len() == before).then_some(())
    });
    // Whatever reached Bob is taken back too.
    bob.until("nothing is left at Bob's", || {
        let channels = bob
            .property(&bob.connection_path(), name::REQUESTS, "Channels")
            .expect("Channels");
        let channels: zbus::Array<'_> = channels.downcast_ref().ok()?;
        channels.is_empty().then_some(())
    });
}
