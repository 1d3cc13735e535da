//! Where only a part of a service is shared, nothing else can be reached.

use crate::halves::{Halves, NAME, PATH, PLAYER};

#[test]
fn nothing_but_the_shared_interface_is_reachable() {
    let halves = Halves::start(|filter| filter.interface(PLAYER).expect("an interface"));
    halves.wait_for_service();
    let (went, said) = halves.busctl(&["call", NAME, PATH, PLAYER, "Play"]);
    assert!(went, "{said}");
    for refused in [
        vec!["call", NAME, PATH, "org.example.Secret", "Tell"],
        vec!["get-property", NAME, PATH, "org.example.Secret", "Word"],
        vec![
            "call",
            NAME,
            PATH,
            "org.freedesktop.DBus.Properties",
            "GetAll",
            "s",
            "org.example.Secret",
        ],
    ] {
        let (went, said) = halves.busctl(&refused);
        assert!(
            !went && said.contains("Access denied"),
            "{refused:?}: {said}"
        );
    }
    // The daemon of the other bus, and whoever else is on it.
    let (went, said) = halves.busctl(&["call", ":1.0", "/", PLAYER, "Play"]);
    assert!(
        !went && said.contains("nobody but the shared service"),
        "{said}"
    );
    let (_, names) = halves.busctl(&["list"]);
    assert!(!names.contains(":1.0"), "{names}");
}

#[test]
fn a_service_shared_for_reading_is_read_only() {
    let halves = Halves::start(|filter| filter.read_only(true));
    halves.wait_for_service();
    let (went, said) = halves.busctl(&["get-property", NAME, PATH, PLAYER, "Volume"]);
    assert!(went && said.contains("d 0.5"), "{said}");
    for refused in [
        vec!["set-property", NAME, PATH, PLAYER, "Volume", "d", "1"],
        vec!["call", NAME, PATH, PLAYER, "Play"],
    ] {
        let (went, said) = halves.busctl(&refused);
        assert!(!went && said.contains("Access denied"), "{said}");
    }
    let (_, said) = halves.busctl(&["get-property", NAME, PATH, PLAYER, "Volume"]);
    assert!(said.contains("d 0.5"), "{said}");
    assert!(halves.played.lock().unwrap().is_empty());
}
