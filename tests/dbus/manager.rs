//! ConnectionManager and Protocol.

use std::collections::HashMap;

use support::{CM_NAME, name};
use zbus::{OwnedObjectPath, Variant};

use crate::world::World;

const PROTOCOL: &str = "org.freedesktop.Telepathy.Protocol";
const PROTOCOL_PATH: &str = "/org/freedesktop/Telepathy/ConnectionManager/pneuma/local_xmpp";

fn short(outcome: Result<impl std::fmt::Debug, support::CallError>) -> String {
    outcome.unwrap_err().short().to_owned()
}

#[test]
fn an_account_without_parameters_is_the_login_name() {
    let world = World::new();
    let (bus_name, path) = world.request(&[]).unwrap();
    assert_eq!(
        bus_name,
        "org.freedesktop.Telepathy.Connection.pneuma.local_xmpp.login"
    );
    assert_eq!(path, format!("/{}", bus_name.replace('.', "/")));
    assert!(world.has_owner(&bus_name));
    let announced = world.wait("NewConnection", |event| {
        event.arguments::<(String, OwnedObjectPath, String)>()
    });
    assert_eq!(announced.0, bus_name);
    assert_eq!(announced.1.as_str(), path);
    assert_eq!(announced.2, "local-xmpp");
}

#[test]
fn an_account_has_one_connection_and_so_has_a_profile() {
    let world = World::new();
    let name = |text: &str| ("published-name", Variant::new(text.to_owned()));
    let (bus_name, path) = world.request(&[name("ada")]).unwrap();
    assert_eq!(short(world.request(&[name("ada")])), "NotAvailable");
    // Another name, the same profile.
    assert_eq!(short(world.request(&[name("bob")])), "NotAvailable");
    world.account("bob");
    world
        .bus
        .call(&bus_name, &path, name::CONNECTION, "Disconnect", &())
        .unwrap();
    assert!(!world.has_owner(&bus_name));
    world.request(&[name("ada")]).unwrap();
}

#[test]
fn what_cannot_be_requested_is_refused_with_the_right_error() {
    let world = World::new();
    let refused = |parameters: &[(&str, Variant<'_>)]| short(world.request(parameters));
    assert_eq!(
        refused(&[("password", Variant::new("x"))]),
        "InvalidArgument"
    );
    assert_eq!(
        refused(&[("published-name", Variant::new(7_u32))]),
        "InvalidArgument"
    );
    assert_eq!(
        refused(&[("pneuma-profile", Variant::new("../x"))]),
        "InvalidArgument"
    );
    let none: HashMap<String, Variant<'_>> = HashMap::new();
    let other = world.manager("RequestConnection", &("jabber", none));
    assert_eq!(short(other), "NotImplemented");
    assert_eq!(
        short(world.manager("GetParameters", &"jabber")),
        "NotImplemented"
    );
    assert_eq!(
        world.objects("/org/freedesktop/Telepathy/Connection").len(),
        0
    );
}

#[test]
fn a_port_may_be_of_any_integer_type() {
    let world = World::new();
    world
        .request(&[("pneuma-mdns-port", Variant::new(15_353_u32))])
        .unwrap();
}

#[test]
fn the_protocol_says_who_an_account_is() {
    let world = World::new();
    let parameters = HashMap::from([("published-name", Variant::new("grace"))]);
    let identify = |parameters: &HashMap<&str, Variant<'_>>| -> String {
        world
            .call(PROTOCOL_PATH, PROTOCOL, "IdentifyAccount", &(parameters,))
            .unwrap()
            .body()
            .deserialize()
            .unwrap()
    };
    assert_eq!(identify(&parameters), "grace");
    assert_eq!(identify(&HashMap::new()), "login");
    let normal: String = world
        .call(
            PROTOCOL_PATH,
            PROTOCOL,
            "NormalizeContact",
            &"romeo@forza #2",
        )
        .unwrap()
        .body()
        .deserialize()
        .unwrap();
    assert_eq!(normal, "romeo@forza #2");
}

#[test]
fn a_second_manager_on_one_bus_is_refused_and_leaves_nothing() {
    let world = World::new();
    let refusal = world.another().unwrap_err();
    assert!(
        matches!(refusal, actors::model::Error::NotAvailable(_)),
        "{refusal}"
    );
    assert!(world.has_owner(CM_NAME));
    world.request(&[]).unwrap();
}

#[test]
fn a_program_that_owns_the_name_of_a_connection_keeps_it() {
    let world = World::new();
    let taken = "org.freedesktop.Telepathy.Connection.pneuma.local_xmpp.ada";
    futures_lite::future::block_on(world.bus.connection().request_name(taken)).unwrap();
    let refused = world.request(&[("published-name", Variant::new("ada"))]);
    assert_eq!(short(refused), "NotAvailable");
    assert_eq!(
        world.objects("/org/freedesktop/Telepathy/Connection").len(),
        0
    );
    assert_eq!(world.network.session("ada").log(), ["disconnect"]);
}
