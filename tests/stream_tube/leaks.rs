//! Nothing is left behind: descriptors, threads, objects and files return to what they were.

use std::{collections::HashMap, io::Write as _, thread};

use support::{Echo, Person, exchange};

use crate::alice_and_bob;

/// What a person's connection manager holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holding {
    descriptors: usize,
    threads: usize,
    objects: Vec<String>,
    files: Vec<std::path::PathBuf>,
}

fn holding(person: &Person) -> Holding {
    let usage = person.usage();
    Holding {
        descriptors: usage.descriptors,
        threads: usage.threads,
        objects: person.objects_below("/"),
        files: person.files(),
    }
}

/// Waits until a person holds what it held before, and says what is too much when it does not.
fn returns_to(person: &Person, before: &Holding) {
    let last = std::cell::RefCell::new(before.clone());
    let attempt = || {
        let now = holding(person);
        let back = now.descriptors <= before.descriptors
            && now.threads <= before.threads
            // What was on its way out before is not missed now.
            && now.objects.iter().all(|each| before.objects.contains(each))
            && now.files.iter().all(|each| before.files.contains(each));
        *last.borrow_mut() = now;
        back.then_some(())
    };
    if person.events().until(support::PATIENCE, attempt).is_err() {
        person.fail(&format!("held {before:?}, now {:?}", last.borrow()));
    }
}

/// A first round opens what stays open (streams between the two, threads of the blocking pool).
fn warmed_up() -> (Person, Person, Echo) {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    for kind in [0, 2] {
        let (ours, theirs, door) = alice.tube_to(&bob, "x-warm", service.address(), kind);
        assert_eq!(exchange(&door, b"bytes").expect("bytes"), b"bytes");
        alice.close(&ours).expect("Close");
        alice.closed(&ours);
        bob.closed(&theirs);
    }
    (alice, bob, service)
}

#[test]
fn two_hundred_tubes() {
    let (alice, bob, service) = warmed_up();
    let before = [holding(&alice), holding(&bob)];
    for round in 0..200 {
        let kind = [0, 2, 3][round % 3];
        let (ours, theirs, door) =
            alice.tube_to(&bob, &format!("x-tube-{round}"), service.address(), kind);
        assert_eq!(exchange(&door, b"bytes").expect("bytes"), b"bytes");
        if round % 2 == 0 {
            alice.close(&ours).expect("Close");
        } else {
            bob.close(&theirs).expect("Close");
        }
        alice.closed(&ours);
        bob.closed(&theirs);
        alice.events().clear();
        bob.events().clear();
    }
    returns_to(&alice, &before[0]);
    returns_to(&bob, &before[1]);
}

#[test]
fn a_thousand_connections() {
    let (alice, bob, service) = warmed_up();
    let (_, _, door) = alice.tube_to(&bob, "x-thousand", service.address(), 2);
    assert_eq!(exchange(&door, b"bytes").expect("bytes"), b"bytes");
    let before = [holding(&alice), holding(&bob)];
    thread::scope(|scope| {
        for worker in 0..10u8 {
            let door = &door;
            scope.spawn(move || {
                for _ in 0..100 {
                    let back = exchange(door, &[worker; 1000]).expect("bytes through the tube");
                    assert!(back == [worker; 1000]);
                }
            });
        }
    });
    returns_to(&alice, &before[0]);
    returns_to(&bob, &before[1]);
}

#[test]
fn connections_dropped_half_way() {
    let (alice, bob, service) = warmed_up();
    let (ours, theirs, door) = alice.tube_to(&bob, "x-dropped", service.address(), 2);
    assert_eq!(exchange(&door, b"bytes").expect("bytes"), b"bytes");
    let before = [holding(&alice), holding(&bob)];
    // Gone before the tube has opened its stream, and gone in the middle of it.
    for round in 0..100 {
        let mut client = door.connect().expect("a connection");
        if round % 2 == 0 {
            client.write_all(&[1; 10_000]).expect("bytes");
        }
        drop(client);
    }
    returns_to(&alice, &before[0]);
    returns_to(&bob, &before[1]);
    // The tube closes with connections in every phase.
    let held: Vec<_> = (0..20)
        .map(|_| door.connect().expect("a connection"))
        .collect();
    alice.close(&ours).expect("Close");
    alice.closed(&ours);
    bob.closed(&theirs);
    drop(held);
    let tubes_gone = |person: &Person| {
        person.until("no channel is left", || {
            let channels = person
                .property(
                    &person.connection_path(),
                    support::name::REQUESTS,
                    "Channels",
                )
                .expect("Channels");
            let channels: zbus::Array<'_> = channels.downcast_ref().ok()?;
            channels.is_empty().then_some(())
        });
    };
    tubes_gone(&alice);
    tubes_gone(&bob);
}

#[test]
fn offers_that_are_never_taken_up() {
    let (alice, bob, service) = warmed_up();
    let before = [holding(&alice), holding(&bob)];
    let handle = alice.sees(&bob).handle;
    let tubes: Vec<String> = (0..12)
        .map(|round| {
            let tube = alice
                .create_tube(handle, &format!("x-idle-{round}"))
                .expect("CreateChannel");
            alice
                .offer(&tube, service.address(), HashMap::new())
                .expect("Offer");
            bob.offered(&format!("x-idle-{round}"));
            tube
        })
        .collect();
    for tube in &tubes {
        alice.close(tube).expect("Close");
    }
    returns_to(&alice, &before[0]);
    returns_to(&bob, &before[1]);
}
