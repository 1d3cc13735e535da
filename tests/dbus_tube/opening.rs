//! Requesting, offering and accepting.

use std::collections::HashMap;

use support::{Access, Person, TubeState, dbus_tube_request, name};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::alice_and_bob;

const SERVICE: &str = "com.example.Chess";

fn state(person: &Person, tube: &str) -> u32 {
    let state = person.property(tube, name::TUBE, "State").expect("State");
    state.downcast_ref().expect("a number")
}

#[test]
fn states_and_signals_come_in_order() {
    let (alice, bob) = alice_and_bob();
    let contact = alice.sees(&bob);
    let ours = alice
        .create_dbus_tube(contact.handle, SERVICE)
        .expect("CreateChannel");
    assert_eq!(state(&alice, &ours), TubeState::NotOffered as u32);
    let here = alice
        .offer_dbus(&ours, Access::Credentials, HashMap::new())
        .expect("Offer");
    assert_eq!(state(&alice, &ours), TubeState::RemotePending as u32);
    let theirs = bob.offered_dbus(SERVICE);
    assert_eq!(state(&bob, &theirs), TubeState::LocalPending as u32);
    let again = alice.offer_dbus(&ours, Access::Credentials, HashMap::new());
    assert_eq!(again.expect_err("offered twice").short(), "NotAvailable");
    let there = bob
        .accept_dbus(&theirs, Access::Credentials)
        .expect("Accept");
    for (person, tube, address) in [(&alice, &ours, &here), (&bob, &theirs, &there)] {
        person.tube_becomes(tube, TubeState::Open);
        assert_eq!(state(person, tube), TubeState::Open as u32);
        let own = person.dir().display().to_string();
        assert!(
            address.starts_with(&format!("unix:path={own}/")),
            "{address}"
        );
        let names = person.property(tube, name::DBUS_TUBE, "DBusNames");
        let names: HashMap<u32, String> = names.expect("DBusNames").try_into().expect("a{us}");
        assert!(names.is_empty());
    }
    let again = bob.accept_dbus(&theirs, Access::Credentials);
    assert_eq!(again.expect_err("accepted twice").short(), "NotAvailable");
}

#[test]
fn immutable_properties_are_those_requested() {
    let (alice, bob) = alice_and_bob();
    let request = dbus_tube_request(alice.sees(&bob).handle, SERVICE);
    let answer = alice
        .on_connection(name::REQUESTS, "EnsureChannel", &(request.clone(),))
        .expect("EnsureChannel");
    type Ensured = (bool, OwnedObjectPath, HashMap<String, OwnedVariant>);
    let (yours, ours, fixed): Ensured = answer.body().deserialize().expect("boa{sv}");
    assert!(yours);
    let tube = |property: &str| format!("{}.{property}", name::DBUS_TUBE);
    let service: String = fixed[&tube("ServiceName")].downcast_ref().expect("a text");
    assert_eq!(service, SERVICE);
    let accesses: Vec<u32> = fixed[&tube("SupportedAccessControls")]
        .clone()
        .try_into()
        .expect("au");
    assert!(
        accesses.contains(&(Access::Credentials as u32)),
        "{accesses:?}"
    );
    assert!(!fixed.contains_key(&format!("{}.Parameters", name::TUBE)));
    // A stream tube for the same service is another channel.
    let stream = alice
        .create_tube(alice.sees(&bob).handle, SERVICE)
        .expect("CreateChannel");
    let answer = alice
        .on_connection(name::REQUESTS, "EnsureChannel", &(request,))
        .expect("EnsureChannel");
    let (yours, same, _): Ensured = answer.body().deserialize().expect("boa{sv}");
    assert!(!yours && same == ours && same.as_str() != stream);

    let parameters = HashMap::from([
        ("colour", Variant::from("white <&> \"black\"")),
        ("minutes", Variant::from(5_u32)),
    ]);
    let seen = |person: &Person, tube: &str| -> HashMap<String, OwnedVariant> {
        let value = person.property(tube, name::TUBE, "Parameters");
        value.expect("Parameters").try_into().expect("a{sv}")
    };
    alice
        .offer_dbus(&ours, Access::Localhost, parameters.clone())
        .expect("Offer");
    let theirs = bob.offered_dbus(SERVICE);
    for seen in [seen(&alice, &ours), seen(&bob, &theirs)] {
        assert_eq!(seen.len(), parameters.len());
        for (name, value) in &parameters {
            assert_eq!(*seen[*name], *value, "{name}");
        }
    }
}

#[test]
fn wrong_requests_and_access_controls_are_errors() {
    let (alice, bob) = alice_and_bob();
    let handle = alice.sees(&bob).handle;
    let refused = alice.create_dbus_tube(handle, "no bus name");
    assert_eq!(refused.expect_err("a name").short(), "InvalidArgument");
    let ours = alice
        .create_dbus_tube(handle, SERVICE)
        .expect("CreateChannel");
    let accepted = alice.accept_dbus(&ours, Access::Credentials);
    assert_eq!(accepted.expect_err("our own").short(), "NotAvailable");
    let port = alice.offer_dbus(&ours, Access::Port, HashMap::new());
    assert_eq!(port.expect_err("Port").short(), "NotImplemented");
    let unknown = alice.on_object(
        &ours,
        name::DBUS_TUBE,
        "Offer",
        &(HashMap::<String, OwnedVariant>::new(), 99_u32),
    );
    assert_eq!(
        unknown.expect_err("no access control").short(),
        "InvalidArgument"
    );
    // None of that keeps it from being offered.
    alice
        .offer_dbus(&ours, Access::Credentials, HashMap::new())
        .expect("Offer");
    bob.offered_dbus(SERVICE);
}
