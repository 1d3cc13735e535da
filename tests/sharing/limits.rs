//! What is not shared cannot be reached, and what ends, ends for everybody.

use smol::future::block_on;
use support::PATIENCE;

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

#[test]
fn when_the_sharing_ends_the_small_bus_does_and_its_clients_hear_it() {
    let mut halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    let mut monitor = halves.program("gdbus", &["monitor", "--session", "--dest", NAME]);
    monitor.wait_for_line(PATIENCE, |line| line.contains("is owned by").then_some(()));
    block_on(halves.shared.take().expect("shared").cancel());
    let served = block_on(halves.served.take().expect("served"));
    assert!(matches!(served, Ok(Ok(()))), "{served:?}");
    // GLib ends a program whose bus has gone.
    monitor.wait(PATIENCE);
    let (went, said) = halves.busctl(&["list"]);
    assert!(!went, "{said}");
}

#[test]
fn when_the_small_bus_ends_the_sharing_does() {
    let mut halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    halves.stopper.take().expect("a small bus").stop();
    let served = block_on(halves.served.take().expect("served"));
    assert!(matches!(served, Ok(Ok(()))), "{served:?}");
    let shared = block_on(halves.shared.take().expect("shared"));
    assert!(matches!(shared, Ok(Ok(()))), "{shared:?}");
}
