//! Offering, accepting, and what then flows.

use std::{collections::HashMap, thread};

use support::{Address, Echo, TubeState, exchange, name};
use zbus::{OwnedVariant, Variant};

use crate::alice_and_bob;

#[test]
fn states_and_signals_come_in_order() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let contact = alice.sees(&bob);
    let ours = alice
        .create_tube(contact.handle, "x-order")
        .expect("CreateChannel");
    let state = |person: &support::Person, tube: &str| -> u32 {
        person
            .property(tube, name::TUBE, "State")
            .expect("State")
            .downcast_ref()
            .expect("a number")
    };
    assert_eq!(state(&alice, &ours), TubeState::NotOffered as u32);
    alice
        .offer(&ours, service.address(), HashMap::new())
        .expect("Offer");
    assert_eq!(state(&alice, &ours), TubeState::RemotePending as u32);
    let theirs = bob.offered("x-order");
    assert_eq!(state(&bob, &theirs), TubeState::LocalPending as u32);
    let door = bob.accept(&theirs, 2).expect("Accept");
    assert_eq!(state(&bob, &theirs), TubeState::Open as u32);
    assert_eq!(exchange(&door, b"hello").expect("bytes"), b"hello");
    assert_eq!(state(&alice, &ours), TubeState::Open as u32);

    let local = bob.wait_for("NewLocalConnection", |event| {
        let this = event.member == "NewLocalConnection" && event.path == theirs;
        this.then(|| event.arguments::<u32>())?
    });
    let (who, remote) = alice.wait_for("NewRemoteConnection", |event| {
        let this = event.member == "NewRemoteConnection" && event.path == ours;
        let (who, _parameter, id): (u32, OwnedVariant, u32) = this.then(|| event.arguments())??;
        Some((who, id))
    });
    assert_eq!(who, contact.handle);
    assert_eq!(bob.connection_closed(&theirs), (local, "Cancelled".into()));
    assert_eq!(alice.connection_closed(&ours), (remote, "Cancelled".into()));
    let changes: Vec<u32> = alice.events().waiting(|event| {
        let this = event.member == "TubeChannelStateChanged" && event.path == ours;
        this.then(|| event.arguments())?
    });
    assert_eq!(
        changes,
        [TubeState::RemotePending as u32, TubeState::Open as u32]
    );
}

#[test]
fn parameters_of_all_five_types_arrive() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let contact = alice.sees(&bob);
    let ours = alice
        .create_tube(contact.handle, "x-parameters")
        .expect("CreateChannel");
    let text = "söme <text> & \"quotes\"\n\ttabs";
    let parameters = || {
        HashMap::from([
            ("text", Variant::from(text)),
            ("bytes", Variant::new(vec![0u8, 1, 255, b'<'])),
            ("int", Variant::from(i32::MIN)),
            ("uint", Variant::from(u32::MAX)),
            ("bool", Variant::from(true)),
            ("", Variant::from(false)),
        ])
    };
    alice
        .offer(&ours, service.address(), parameters())
        .expect("Offer");
    let theirs = bob.offered("x-parameters");
    for (person, tube) in [(&alice, &ours), (&bob, &theirs)] {
        let value = person
            .property(tube, name::TUBE, "Parameters")
            .expect("Parameters");
        let seen: HashMap<String, OwnedVariant> = value.try_into().expect("a{sv}");
        assert_eq!(seen.len(), parameters().len());
        for (name, value) in parameters() {
            assert_eq!(*seen[name], value, "{name}");
        }
    }
}

#[test]
fn several_tubes_to_one_contact_for_one_service() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let tubes: Vec<_> = (0..3)
        .map(|_| alice.tube_to(&bob, "x-same", service.address(), 2))
        .collect();
    for (_, _, door) in &tubes {
        assert_eq!(exchange(door, b"each").expect("bytes"), b"each");
    }
    alice.close(&tubes[1].0).expect("Close");
    bob.closed(&tubes[1].1);
    for (_, _, door) in [&tubes[0], &tubes[2]] {
        assert_eq!(exchange(door, b"still").expect("bytes"), b"still");
    }
}

#[test]
fn tubes_go_both_ways_at_once() {
    let (alice, bob) = alice_and_bob();
    let (hers, his) = (Echo::ipv4(), Echo::ipv4());
    let there = alice.tube_to(&bob, "x-hers", hers.address(), 2);
    let back = bob.tube_to(&alice, "x-his", his.address(), 0);
    assert_eq!(exchange(&there.2, b"there").expect("bytes"), b"there");
    assert_eq!(exchange(&back.2, b"back").expect("bytes"), b"back");
    assert_eq!((hers.connections(), his.connections()), (1, 1));
}

#[test]
fn many_connections_at_once() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (_, _, door) = alice.tube_to(&bob, "x-many", service.address(), 2);
    let workers: Vec<_> = (0..40u8)
        .map(|number| {
            let door = door.clone();
            thread::spawn(move || {
                let data = vec![number; 50_000 + usize::from(number)];
                let back = exchange(&door, &data).expect("bytes through the tube");
                assert!(back == data, "connection {number} got another's bytes");
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a connection of its own");
    }
    assert_eq!(service.connections(), 40);
}

#[test]
fn half_closed_one_way_goes_on_the_other() {
    use std::io::{Read as _, Write as _};
    let (alice, bob) = alice_and_bob();
    let service = support::Stalled::new();
    let (_, _, door) = alice.tube_to(&bob, "x-half", service.address(), 2);
    let mut client = door.connect().expect("a connection");
    client.write_all(b"question").expect("a question");
    client.finish().expect("a half-close");
    let mut server = service.accept();
    let mut asked = String::new();
    server
        .read_to_string(&mut asked)
        .expect("end of file after the question");
    assert_eq!(asked, "question");
    let answer = vec![7u8; 1_000_000];
    let writer = thread::spawn({
        let answer = answer.clone();
        move || {
            server
                .write_all(&answer)
                .expect("an answer after the half-close")
        }
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("the answer");
    writer.join().expect("the answer's writer");
    assert!(got == answer);
}

#[test]
fn statistics_count_what_flows() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (ours, theirs, door) = alice.tube_to(&bob, "x-count", service.address(), 2);
    assert_eq!(exchange(&door, &[1; 12_345]).expect("bytes").len(), 12_345);
    for (person, tube) in [(&alice, &ours), (&bob, &theirs)] {
        let number = |property: &str| -> u64 {
            person
                .property(tube, name::STATISTICS, property)
                .expect("a statistic")
                .downcast_ref()
                .expect("a t")
        };
        person.until("both directions are counted", || {
            (number("BytesSent") == 12_345 && number("BytesReceived") == 12_345).then_some(())
        });
        let encrypted: bool = person
            .property(tube, name::STATISTICS, "Encrypted")
            .expect("Encrypted")
            .downcast_ref()
            .expect("a boolean");
        assert!(encrypted);
    }
    assert!(matches!(door, Address::Ipv4(_)));
}
