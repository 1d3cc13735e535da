//! Wrong types, handles, states, addresses and sizes by D-Bus: a clear error each, and then as before.

use std::{collections::HashMap, path::PathBuf};

use support::{Address, Echo, Person, exchange, name};
use zbus::Variant;

use crate::alice_and_bob;

type Request = HashMap<String, Variant<'static>>;

fn request(changes: &[(&str, Option<Variant<'static>>)]) -> Request {
    let mut request: Request = HashMap::from([
        (
            format!("{}.ChannelType", name::CHANNEL),
            Variant::from(name::STREAM_TUBE),
        ),
        (
            format!("{}.TargetHandleType", name::CHANNEL),
            Variant::from(1u32),
        ),
        (
            format!("{}.Service", name::STREAM_TUBE),
            Variant::from("x-bad"),
        ),
    ]);
    for (key, value) in changes {
        let key = match *key {
            "Service" => format!("{}.Service", name::STREAM_TUBE),
            other => format!("{}.{other}", name::CHANNEL),
        };
        match value {
            Some(value) => request.insert(key, value.try_clone().expect("no descriptor")),
            None => request.remove(&key),
        };
    }
    request
}

fn create_fails(person: &Person, changes: &[(&str, Option<Variant<'static>>)]) -> String {
    match person.on_connection(name::REQUESTS, "CreateChannel", &(request(changes),)) {
        Ok(_) => person.fail(&format!("CreateChannel took {changes:?}")),
        Err(error) => error.short().to_owned(),
    }
}

#[test]
fn requests_for_channels() {
    let (alice, bob) = alice_and_bob();
    let handle = alice.sees(&bob).handle;
    let target = |value: Variant<'static>| ("TargetHandle", Some(value));
    let whom = || target(Variant::from(handle));
    assert_eq!(create_fails(&alice, &[]), "InvalidArgument");
    assert_eq!(
        create_fails(&alice, &[target(Variant::from(0u32))]),
        "InvalidHandle"
    );
    assert_eq!(
        create_fails(&alice, &[target(Variant::from(999_999u32))]),
        "InvalidHandle"
    );
    assert_eq!(
        create_fails(&alice, &[target(Variant::from("bob"))]),
        "InvalidArgument"
    );
    assert_eq!(
        create_fails(&alice, &[whom(), ("Service", None)]),
        "InvalidArgument"
    );
    for service in [
        String::new(),
        "x".repeat(100_000),
        "a\u{0}b".replace('\0', "\u{1}"),
    ] {
        let service = ("Service", Some(Variant::from(service)));
        assert_eq!(create_fails(&alice, &[whom(), service]), "InvalidArgument");
    }
    let wrong_type = ("Service", Some(Variant::from(5u32)));
    assert_eq!(
        create_fails(&alice, &[whom(), wrong_type]),
        "InvalidArgument"
    );
    let room = ("TargetHandleType", Some(Variant::from(2u32)));
    assert_eq!(create_fails(&alice, &[whom(), room]), "NotImplemented");
    let kind = (
        "ChannelType",
        Some(Variant::from(
            "org.freedesktop.Telepathy.Channel.Type.Call1",
        )),
    );
    assert_eq!(create_fails(&alice, &[whom(), kind]), "NotImplemented");
    let ourselves: u32 = alice
        .property(&alice.connection_path(), name::CONNECTION, "SelfHandle")
        .expect("SelfHandle")
        .downcast_ref()
        .expect("a handle");
    let error = create_fails(&alice, &[target(Variant::from(ourselves))]);
    assert!(
        [
            "NotAvailable",
            "NotCapable",
            "InvalidHandle",
            "InvalidArgument"
        ]
        .contains(&&*error),
        "{error}"
    );
    works_still(&alice, &bob);
}

fn works_still(alice: &Person, bob: &Person) {
    let service = Echo::ipv4();
    let (_, _, door) = alice.tube_to(bob, "x-still", service.address(), 2);
    assert_eq!(exchange(&door, b"still").expect("bytes"), b"still");
}

fn offer_fails(
    person: &Person,
    tube: &str,
    kind: u32,
    address: Variant<'static>,
    access: u32,
) -> String {
    let parameters: HashMap<String, Variant<'_>> = HashMap::new();
    let body = (kind, address, access, parameters);
    match person.on_object(tube, name::STREAM_TUBE, "Offer", &body) {
        Ok(_) => person.fail(&format!("Offer took {body:?}")),
        Err(error) => error.short().to_owned(),
    }
}

#[test]
fn offers() {
    let (alice, bob) = alice_and_bob();
    let tube = alice
        .create_tube(alice.sees(&bob).handle, "x-offers")
        .expect("CreateChannel");
    let port = || Variant::new(("127.0.0.1".to_owned(), 80u16));
    let path = |bytes: &[u8]| Variant::new(bytes.to_vec());
    // An address of another type than was said, or of no type at all.
    for (kind, address) in [
        (0, port()),
        (2, path(b"/tmp/x")),
        (3, path(b"/tmp/x")),
        (2, Variant::from("127.0.0.1:80")),
        (2, Variant::new(("localhost".to_owned(), 80u16))),
        (2, Variant::new(("::1".to_owned(), 80u16))),
        (3, port()),
        (2, Variant::new(("127.0.0.1".to_owned(), 0u16))),
        (2, Variant::new(("127.0.0.1".to_owned(), 65_536u32))),
        (2, Variant::new(("127.0.0.1".to_owned(), 80i32))),
        (0, path(b"")),
        (0, path(b"relative/path")),
        (0, path(&[b'x'; 4000])),
        (0, path(b"/tmp/with\0nul")),
    ] {
        let shown = format!("{address:?}");
        assert_eq!(
            offer_fails(&alice, &tube, kind, address, 0),
            "InvalidArgument",
            "{kind}, {shown}"
        );
    }
    for (kind, access) in [(2, 2), (2, 3), (0, 1), (2, 99), (99, 0)] {
        let error = offer_fails(&alice, &tube, kind, port(), access);
        assert!(
            ["NotImplemented", "InvalidArgument"].contains(&&*error),
            "{kind}, {access}: {error}"
        );
    }
    // Parameters of a type the wire has not, too many of them, megabytes of them.
    let service = Echo::ipv4();
    let many: Vec<String> = (0..10_000).map(|number| format!("p{number}")).collect();
    let large = "x".repeat(4 * 1024 * 1024);
    for parameters in [
        HashMap::from([("p", Variant::from(1.5f64))]),
        HashMap::from([("p", Variant::new(vec!["a", "b"]))]),
        HashMap::from([("p", Variant::from(u64::MAX))]),
        HashMap::from([("p", Variant::from("control \u{1} character"))]),
        many.iter()
            .map(|name| (&**name, Variant::from(1u32)))
            .collect(),
        HashMap::from([("p", Variant::from(large.as_str()))]),
        HashMap::from([(large.as_str(), Variant::from(1u32))]),
    ] {
        let error = alice
            .offer(&tube, service.address(), parameters)
            .expect_err("bad parameters");
        assert_eq!(error.short(), "InvalidArgument", "{error}");
    }
    // Nothing of that spoilt the channel.
    alice
        .offer(&tube, service.address(), HashMap::new())
        .expect("Offer");
    let again = alice
        .offer(&tube, service.address(), HashMap::new())
        .expect_err("a second Offer");
    assert_eq!(again.short(), "NotAvailable", "{again}");
    let theirs = bob.offered("x-offers");
    let wrong_side = bob
        .offer(&theirs, service.address(), HashMap::new())
        .expect_err("Offer of an incoming tube");
    assert!(
        ["NotAvailable", "NotYours"].contains(&wrong_side.short()),
        "{wrong_side}"
    );
    works_still(&alice, &bob);
}

#[test]
fn accepts() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let ours = alice
        .create_tube(alice.sees(&bob).handle, "x-accepts")
        .expect("CreateChannel");
    alice
        .offer(&ours, service.address(), HashMap::new())
        .expect("Offer");
    let theirs = bob.offered("x-accepts");
    for (kind, access) in [(99u32, 0u32), (2, 99), (2, 2), (0, 2)] {
        let body = (kind, access, Variant::from(0u32));
        let error = bob
            .on_object(&theirs, name::STREAM_TUBE, "Accept", &body)
            .expect_err("a socket that cannot be had");
        assert!(
            ["NotImplemented", "InvalidArgument"].contains(&error.short()),
            "{kind}, {access}: {error}"
        );
    }
    let error = alice.accept(&ours, 2).expect_err("Accept of our own tube");
    assert!(
        ["NotAvailable", "NotYours"].contains(&error.short()),
        "{error}"
    );
    // For Localhost the parameter is ignored, whatever its type.
    let body = (2u32, 0u32, Variant::new(("0.0.0.0".to_owned(), 0u16)));
    bob.on_object(&theirs, name::STREAM_TUBE, "Accept", &body)
        .expect("Accept with an odd parameter");
    let error = bob.accept(&theirs, 2).expect_err("a second Accept");
    assert_eq!(error.short(), "NotAvailable", "{error}");
    works_still(&alice, &bob);
}

#[test]
fn arguments_of_the_wrong_type() {
    let (alice, bob) = alice_and_bob();
    let tube = alice
        .create_tube(alice.sees(&bob).handle, "x-types")
        .expect("CreateChannel");
    let connection = alice.connection_path();
    for (path, interface, method) in [
        (connection.as_str(), name::REQUESTS, "CreateChannel"),
        (
            connection.as_str(),
            name::CONTACT_LIST,
            "GetContactListAttributes",
        ),
        (connection.as_str(), name::SIMPLE_PRESENCE, "SetPresence"),
        (tube.as_str(), name::STREAM_TUBE, "Offer"),
        (tube.as_str(), name::STREAM_TUBE, "Accept"),
    ] {
        let error = alice
            .on_object(path, interface, method, &(vec![1.5f64], "what"))
            .expect_err("arguments of the wrong type");
        assert!(
            ["InvalidArgs", "InvalidArgument"].contains(&error.short()),
            "{method}: {error}"
        );
    }
    let error = alice
        .on_connection(name::SIMPLE_PRESENCE, "GetPresences", &(vec![999_999u32],))
        .expect_err("an unknown handle");
    assert_eq!(error.short(), "InvalidHandle", "{error}");
    works_still(&alice, &bob);
}

#[test]
fn offers_to_people_who_cannot_have_them() {
    let (alice, bob) = alice_and_bob();
    let service = Echo::ipv4();
    let handle = alice.sees(&bob).handle;
    // Pinned by a first tube, so that the contact stays when Bob has gone.
    let (ours, _, _) = alice.tube_to(&bob, "x-first", service.address(), 2);
    bob.go_offline();
    alice.closed(&ours);
    let refused = alice
        .create_tube(handle, "x-offline")
        .and_then(|tube| alice.offer(&tube, service.address(), HashMap::new()))
        .expect_err("an offer to somebody who is not there");
    assert!(
        ["Offline", "ConnectionFailed"].contains(&refused.short()),
        "{refused}"
    );
    bob.go_online();
    works_still(&alice, &bob);
}

#[test]
fn a_path_that_is_too_long_to_connect_to() {
    let (alice, bob) = alice_and_bob();
    let tube = alice
        .create_tube(alice.sees(&bob).handle, "x-long")
        .expect("CreateChannel");
    let long = Address::Unix(PathBuf::from(format!("/tmp/{}", "x".repeat(120))));
    let error = alice
        .offer(&tube, &long, HashMap::new())
        .expect_err("a path no socket can have");
    assert_eq!(error.short(), "InvalidArgument", "{error}");
    works_still(&alice, &bob);
}

#[test]
fn an_interface_that_this_machine_has_not() {
    let world = support::World::new();
    let alice = Person::new(&world, "alice", support::service!());
    let mut parameters = alice.parameters();
    parameters.insert("pneuma-interface", Variant::from("pneuma-none0"));
    let (bus_name, path) = alice.request_connection(parameters).expect("a Connection");
    let asked = alice
        .bus()
        .call(&bus_name, &path, name::CONNECTION, "Connect", &());
    asked.expect("Connect");
    let error: String = alice.wait_for("ConnectionError", |event| {
        let this = event.member == "ConnectionError" && event.path == path.as_str();
        let (error, _details): (String, HashMap<String, zbus::OwnedVariant>) =
            this.then(|| event.arguments())??;
        Some(error)
    });
    assert!(error.ends_with(".NetworkError"), "{error}");
    let reason = alice.wait_for("StatusChanged(Disconnected)", |event| {
        let this = event.member == "StatusChanged" && event.path == path.as_str();
        let (status, reason): (u32, u32) = this.then(|| event.arguments())??;
        (status == 2).then_some(reason)
    });
    assert_eq!(reason, 2, "Network_Error");
}
