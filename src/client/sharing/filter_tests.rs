//! What passes the filter, and that nothing else does.

use proptest::prelude::*;
use zbus::{Variant, message::Builder};

use super::*;

const NAME: &str = "org.example.Player";

fn filter() -> Filter {
    Filter::of(NAME).unwrap()
}

fn call<'m>(path: &'m str, interface: &'m str, member: &'m str) -> Builder<'m> {
    Message::method_call(path, member)
        .interface(interface)
        .destination(NAME)
}

fn plain(path: &str, interface: &str, member: &str) -> Message {
    call(path, interface, member).build(&()).unwrap()
}

fn get(of: &str) -> Message {
    call("/", PROPERTIES, "Get").build(&(of, "Volume")).unwrap()
}

fn set(of: &str) -> Message {
    let body = (of, "Volume", Variant::from(1.0f64));
    call("/", PROPERTIES, "Set").build(&body).unwrap()
}

#[test]
fn without_limits_the_service_is_shared_and_nothing_else() {
    let filter = filter();
    assert_eq!(
        filter.check_call(&plain("/a", "org.example.I", "Do")),
        Ok(())
    );
    assert_eq!(filter.check_call(&set("org.example.I")), Ok(()));
    for destination in ["org.example.Other", "org.freedesktop.DBus", ":1.5"] {
        let call = Message::method_call("/", "Do")
            .destination(destination)
            .build(&())
            .unwrap();
        assert!(filter.check_call(&call).is_err(), "{destination}");
    }
    let nobody = Message::method_call("/", "Do").build(&()).unwrap();
    assert!(filter.check_call(&nobody).is_err());
    let answer = Message::method_return(&nobody.header())
        .destination(NAME)
        .build(&())
        .unwrap();
    assert!(filter.check_call(&answer).is_err());
    let signal = Message::signal("/", "org.example.I", "Did")
        .destination(NAME)
        .build(&())
        .unwrap();
    assert!(filter.check_call(&signal).is_err());
}

#[test]
fn objects_are_limited_by_whole_parts_of_their_path() {
    let filter = filter().object("/a/b").unwrap().object("/c").unwrap();
    for (path, passes) in [
        ("/a/b", true),
        ("/a/b/c", true),
        ("/c", true),
        ("/a/bc", false),
        ("/a", false),
        ("/", false),
    ] {
        let call = plain(path, "org.example.I", "Do");
        assert_eq!(filter.check_call(&call).is_ok(), passes, "{path}");
        let ping = plain(path, PEER, "Ping");
        assert_eq!(filter.check_call(&ping).is_ok(), passes, "{path}");
    }
    assert!(is_below("/a", "/") && is_below("/", "/"));
}

#[test]
fn properties_are_judged_by_the_interface_they_are_of() {
    let filter = filter().interface("org.example.I").unwrap();
    assert_eq!(filter.check_call(&get("org.example.I")), Ok(()));
    assert_eq!(filter.check_call(&set("org.example.I")), Ok(()));
    for of in ["org.example.J", "", PROPERTIES] {
        assert!(filter.check_call(&get(of)).is_err(), "{of}");
        assert!(filter.check_call(&set(of)).is_err(), "{of}");
    }
    // Another signature, and a service that reads it its own way.
    let odd = call("/", PROPERTIES, "Get")
        .build(&("org.example.I", "a", "b"))
        .unwrap();
    assert!(filter.check_call(&odd).is_err());
    assert!(
        filter
            .check_call(&plain("/", PROPERTIES, "GetAll"))
            .is_err()
    );
    assert!(
        filter
            .check_call(&plain("/", "org.example.J", "Do"))
            .is_err()
    );
    let nameless = Message::method_call("/", "Get")
        .destination(NAME)
        .build(&("org.example.J", "Volume"))
        .unwrap();
    assert!(filter.check_call(&nameless).is_err());
    let objects = plain(
        "/",
        "org.freedesktop.DBus.ObjectManager",
        "GetManagedObjects",
    );
    assert!(filter.check_call(&objects).is_err());
}

#[test]
fn what_takes_no_arguments_has_none() {
    for (interface, member) in [
        (INTROSPECTABLE, "Introspect"),
        (PEER, "Ping"),
        (PEER, "GetMachineId"),
    ] {
        let long = call("/", interface, member)
            .build(&"x".repeat(1024))
            .unwrap();
        assert!(filter().check_call(&long).is_err(), "{member}");
    }
}

#[test]
fn objects_of_all_interfaces_are_told_of_where_that_is_named_only() {
    let managers = "org.freedesktop.DBus.ObjectManager";
    let asks = plain("/", managers, "GetManagedObjects");
    let tells = Message::signal("/", managers, "InterfacesAdded")
        .build(&())
        .unwrap();
    for (filter, shared) in [
        (filter(), true),
        (filter().interface("org.example.I").unwrap(), false),
        (filter().interface(managers).unwrap(), true),
    ] {
        assert_eq!(filter.check_call(&asks).is_ok(), shared);
        assert_eq!(filter.lets_signal_through(&tells), shared);
    }
    assert!(filter().read_only(true).check_call(&asks).is_err());
}

#[test]
fn connection_managers_are_shared_with_nobody() {
    for name in [
        "org.freedesktop.Telepathy",
        "org.freedesktop.Telepathy.AccountManager",
    ] {
        assert!(Filter::of(name).is_err(), "{name}");
    }
    assert!(Filter::of("org.freedesktop.TelepathyLogger").is_ok());
}

#[test]
fn reading_only_reads() {
    let filter = filter().read_only(true);
    let all = call("/", PROPERTIES, "GetAll")
        .build(&"org.example.I")
        .unwrap();
    for reads in [
        get("org.example.I"),
        all,
        plain("/", INTROSPECTABLE, "Introspect"),
        plain("/", PEER, "Ping"),
        plain("/", PEER, "GetMachineId"),
    ] {
        assert_eq!(filter.check_call(&reads), Ok(()), "{reads:?}");
    }
    for other in [
        set("org.example.I"),
        plain("/", "org.example.I", "Do"),
        // A method of the same name elsewhere.
        plain("/", "org.example.I", "Get"),
        plain("/", PEER, "Shutdown"),
    ] {
        assert!(filter.check_call(&other).is_err(), "{other:?}");
    }
}

#[test]
fn signals_pass_like_calls() {
    let filter = filter()
        .object("/a")
        .unwrap()
        .interface("org.example.I")
        .unwrap()
        .read_only(true);
    let signal =
        |path: &str, interface: &str| Message::signal(path, interface, "Did").build(&()).unwrap();
    assert!(filter.lets_signal_through(&signal("/a/b", "org.example.I")));
    assert!(!filter.lets_signal_through(&signal("/b", "org.example.I")));
    assert!(!filter.lets_signal_through(&signal("/a", "org.example.J")));
    let changed = |of: &str| {
        let values = std::collections::HashMap::from([("Volume", Variant::from(1.0f64))]);
        Message::signal("/a", PROPERTIES, "PropertiesChanged")
            .build(&(of, values, Vec::<&str>::new()))
            .unwrap()
    };
    assert!(filter.lets_signal_through(&changed("org.example.I")));
    assert!(!filter.lets_signal_through(&changed("org.example.J")));
    assert!(!filter.lets_signal_through(&signal("/a", PROPERTIES)));
    // What the other side takes for the bus's own word.
    assert!(
        !Filter::of(NAME)
            .unwrap()
            .lets_signal_through(&signal("/", BUS))
    );
}

#[test]
fn what_cannot_be_shared_is_said_at_once() {
    for name in ["", ":1.5", "org", BUS, "org.example.no name"] {
        assert!(Filter::of(name).is_err(), "{name}");
    }
    assert!(filter().object("a").is_err() && filter().object("/a/").is_err());
    assert!(filter().interface("I").is_err());
    let mut many = filter();
    for _ in 0..MOST_PARTS {
        many = many.object("/a").unwrap();
    }
    assert!(many.object("/a").is_err());
}

prop_compose! {
    fn any_call()(
        path in prop_oneof![Just("/a"), Just("/a/b"), Just("/ab"), Just("/")],
        interface in prop_oneof![
            Just("org.example.I"), Just("org.example.J"), Just(PROPERTIES), Just(INTROSPECTABLE), Just(PEER),
            Just(BUS),
        ],
        member in prop_oneof![
            Just("Get"), Just("Set"), Just("GetAll"), Just("Do"), Just("Ping"), Just("Introspect"),
        ],
        destination in prop_oneof![4 => Just(NAME), 1 => Just("org.example.Other"), 1 => Just(":1.1")],
        of in prop_oneof![Just("org.example.I"), Just("org.example.J"), Just("")],
        shape in 0..4,
    ) -> Message {
        let call = call(path, interface, member).destination(destination);
        match shape {
            0 => call.build(&()),
            1 => call.build(&of),
            2 => call.build(&(of, "P")),
            _ => call.build(&(of, "P", Variant::from(true))),
        }.unwrap()
    }
}

proptest! {
    #[test]
    fn what_passes_is_of_the_shared_interface_or_harmless(call in any_call()) {
        let limited = filter().object("/a").unwrap().interface("org.example.I").unwrap();
        if limited.check_call(&call).is_ok() {
            let header = call.header();
            prop_assert_eq!(header.destination().unwrap().as_str(), NAME);
            prop_assert!(is_below(header.path().unwrap().as_str(), "/a"));
            let interface = header.interface().unwrap().as_str().to_owned();
            if interface == PROPERTIES {
                let of: String = call.body().deserialize_ignore_signature::<&str>().unwrap().to_owned();
                prop_assert_eq!(of, "org.example.I");
            } else {
                prop_assert!([INTROSPECTABLE, PEER, "org.example.I"].contains(&interface.as_str()));
            }
        }
    }

    #[test]
    fn reading_only_lets_less_through(call in any_call()) {
        let writable = filter().interface("org.example.I").unwrap();
        let readable = writable.clone().read_only(true);
        if readable.check_call(&call).is_ok() {
            prop_assert_eq!(writable.check_call(&call), Ok(()));
            let header = call.header();
            let member = header.member().unwrap().as_str().to_owned();
            prop_assert!(["Get", "GetAll", "Introspect", "Ping", "GetMachineId"].contains(&member.as_str()));
        }
    }
}
