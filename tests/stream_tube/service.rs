//! The service's own life: accounts, names, restarts.

use support::{Address, Echo, Person, World, exchange, name, service};

use crate::alice_and_bob;

#[test]
fn one_connection_for_an_account() {
    let world = World::new();
    let alice = Person::online(&world, "alice", service!());
    let error = alice
        .request_connection(alice.parameters())
        .expect_err("a second connection for the account that is online");
    assert_eq!(error.short(), "NotAvailable", "{error}");
    // Offline again, the name and the account are free.
    alice.go_offline();
    alice.go_online();
}

#[test]
fn wrong_parameters_are_refused() {
    let world = World::new();
    let alice = Person::new(&world, "alice", service!());
    for (parameter, value) in [
        ("no-such-parameter", zbus::Variant::from(1u32)),
        ("published-name", zbus::Variant::from(1u32)),
        ("require-encryption", zbus::Variant::from("yes")),
        ("pneuma-profile", zbus::Variant::from("../../etc")),
    ] {
        let mut parameters = alice.parameters();
        parameters.insert(parameter, value);
        let error = alice
            .request_connection(parameters)
            .expect_err("a wrong parameter");
        assert_eq!(error.short(), "InvalidArgument", "{parameter}: {error}");
    }
    let error = alice
        .bus()
        .call(
            support::CM_NAME,
            support::CM_PATH,
            name::CONNECTION_MANAGER,
            "RequestConnection",
            &("jabber", alice.parameters()),
        )
        .expect_err("a protocol that is not there");
    assert_eq!(error.short(), "NotImplemented", "{error}");
}

#[test]
fn a_killed_connection_manager_comes_back_as_itself() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (before, _, door) = alice.tube_to(&bob, "x-before", service.address(), 2);
    assert_eq!(exchange(&door, b"before").expect("bytes"), b"before");
    bob.kill_manager();
    bob.start_manager();
    bob.go_online();
    // What is begun before Alice has noticed that Bob's program is another would close with this.
    alice.closed(&before);
    // The key on disk is the same: Alice's pinned contact is Bob, not a stranger under his name.
    let (_, _, door) = alice.tube_to(&bob, "x-after", service.address(), 2);
    assert_eq!(exchange(&door, b"after").expect("bytes"), b"after");
    let names: Vec<String> = alice
        .contacts()
        .into_iter()
        .map(|contact| contact.id)
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn what_a_killed_service_leaves_is_swept_by_the_next() {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let (_, _, door) = alice.tube_to(&bob, "x-left", service.address(), 0);
    let Address::Unix(path) = &door else {
        panic!("a Unix socket was asked for: {door:?}");
    };
    bob.kill_manager();
    assert!(path.exists(), "a killed service removes nothing");
    // As if it had been killed a while ago.
    let old = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: old,
        last_modification: old,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("an older file");
    bob.start_manager();
    bob.until("the socket is gone", || (!path.exists()).then_some(()));
    // Nor does what it had locked stay locked.
    bob.go_online();
    alice.sees(&bob);
}
