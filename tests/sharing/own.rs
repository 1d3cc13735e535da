//! A contact's service on the session bus over here, under a name of our choice, used with the tools
//! that people have.

use pneuma::client::{
    Kind,
    sharing::{MOST_BYTES, Standing},
};
use smol::future::block_on;
use support::PATIENCE;
use zbus::Message;

use crate::halves::{Ground, Halves, NAME, PATH, PLAYER};

/// What it is called over here.
const OWN: &str = "org.mpris.MediaPlayer2.alices";

fn start() -> (support::Bus, Halves) {
    let ground = Ground::new();
    let other = ground.bus("accepting");
    let halves = Halves::own(&other, ground, OWN);
    assert_eq!(halves.told(), Standing::Here);
    (other, halves)
}

/// Waits until nobody has a name: what is told of it comes before the bus has done it.
fn wait_for_nobody(bus: &support::Bus) {
    let is_free = |_| !names(bus).iter().any(|name| name == OWN);
    assert!((0..10_000).any(is_free), "somebody has the name");
}

/// Everybody's names on a bus.
fn names(bus: &support::Bus) -> Vec<String> {
    let answer = bus
        .call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "ListNames",
            &(),
        )
        .expect("the names");
    answer.body().deserialize().expect("names")
}

#[test]
fn tools_find_it_among_other_services_and_control_it() {
    let (other, halves) = start();
    let (went, said) = halves.run("playerctl", &["--list-all"]);
    assert!(went && said.contains("alices"), "{said}");
    let (went, said) = halves.run("playerctl", &["--player=alices", "status"]);
    assert!(went && said.contains("Playing"), "{said}");
    let (went, said) = halves.run("playerctl", &["--player=alices", "pause"]);
    assert!(went, "{said}");

    let open = ["call", OWN, PATH, PLAYER, "OpenUri", "s", "file:///a.ogg"];
    let (went, said) = halves.busctl(&open);
    assert!(went, "{said}");
    let (went, said) = halves.busctl(&["get-property", OWN, PATH, PLAYER, "Volume"]);
    assert!(went && said.contains("d 0.5"), "{said}");
    let (went, said) = halves.busctl(&["introspect", OWN, PATH]);
    assert!(went && said.contains("OpenUri"), "{said}");
    let (went, said) = halves.busctl(&["tree", OWN]);
    assert!(went && said.contains(PATH), "{said}");
    assert_eq!(*halves.played.lock().unwrap(), ["pause", "file:///a.ogg"]);

    // Nothing else of the other bus came along.
    let names = names(&other);
    assert!(!names.iter().any(|name| name == NAME), "{names:?}");
}

#[test]
fn its_name_comes_and_goes_with_the_service() {
    let (_other, halves) = start();
    let monitor = halves.program("gdbus", &["monitor", "--session", "--dest", OWN]);
    monitor.wait_for_line(PATIENCE, |line| {
        line.contains("is owned by :1.").then_some(())
    });
    // It asks for signals after it has said that; so until it hears the first.
    let emit = || {
        let signal = Message::signal(PATH, PLAYER, "Seeked").build(&7i64);
        block_on(halves.player.send(&signal.expect("a signal"))).expect("sent");
        let (went, said) = halves.busctl(&["call", OWN, PATH, "org.freedesktop.DBus.Peer", "Ping"]);
        assert!(went, "{said}");
        monitor.output().contains("Player.Seeked (int64 7,)")
    };
    assert!((0..1000).any(|_| emit()), "{}", monitor.output());

    block_on(halves.player.release_name(NAME)).expect("released");
    assert_eq!(halves.told(), Standing::Away);
    monitor.wait_for_line(PATIENCE, |line| {
        line.contains("does not have an owner").then_some(())
    });
    let (went, said) = halves.busctl(&["call", OWN, PATH, PLAYER, "Play"]);
    assert!(!went && said.contains("not provided"), "{said}");

    block_on(halves.player.request_name(NAME)).expect("the name again");
    assert_eq!(halves.told(), Standing::Here);
    let (went, said) = halves.busctl(&["call", OWN, PATH, PLAYER, "Play"]);
    assert!(went, "{said}");
    assert_eq!(*halves.played.lock().unwrap(), ["play"]);
}

#[test]
fn a_name_that_is_taken_is_said_at_once() {
    let ground = Ground::new();
    let other = ground.bus("accepting");
    block_on(other.connection().request_name(OWN)).expect("the name");
    let mut halves = Halves::own(&other, ground, OWN);
    let error = block_on(halves.served.take().expect("served"))
        .expect("no panic")
        .expect_err("the name is taken");
    assert_eq!(error.kind, Kind::NotAvailable);
    assert!(error.message.contains(OWN), "{error}");
    // The other half hears of it.
    let shared = block_on(halves.shared.take().expect("shared"));
    assert!(matches!(shared, Ok(Ok(()))), "{shared:?}");
}

#[test]
fn whoever_took_the_name_while_the_service_was_away_is_waited_for() {
    let (other, halves) = start();
    block_on(halves.player.release_name(NAME)).expect("released");
    assert_eq!(halves.told(), Standing::Away);
    wait_for_nobody(&other);
    block_on(other.connection().request_name(OWN)).expect("the name");
    block_on(halves.player.request_name(NAME)).expect("the name again");
    assert_eq!(halves.told(), Standing::Waiting);
    block_on(other.connection().release_name(OWN)).expect("released");
    assert_eq!(halves.told(), Standing::Here);
    let (went, said) = halves.busctl(&["call", OWN, PATH, PLAYER, "Play"]);
    assert!(went, "{said}");
}

#[test]
fn a_player_that_dies_in_a_call_is_an_answer_and_a_name_less() {
    let (other, halves) = start();
    let seek = ["call", OWN, PATH, PLAYER, "Seek", "x", "5"];
    let mut caller = halves.program("busctl", &[&["--user", "--timeout=60"], &seek[..]].concat());
    let asked = |_| {
        let (went, said) = halves.busctl(&["call", OWN, PATH, "org.freedesktop.DBus.Peer", "Ping"]);
        assert!(went, "{said}");
        halves
            .played
            .lock()
            .unwrap()
            .iter()
            .any(|said| said == "seek")
    };
    assert!((0..1000).any(asked), "{}", caller.output());
    // Its end is heard though nobody says goodbye.
    block_on(halves.player.clone().close()).expect("closed");
    assert!(!caller.wait(PATIENCE).success());
    // That it failed, in our own words: what a bus says may hold names and paths of that machine.
    let said = caller.output();
    assert!(said.contains("did not get an answer"), "{said}");
    assert_eq!(halves.told(), Standing::Away);
    wait_for_nobody(&other);
}

#[test]
fn when_either_side_ends_the_name_is_free() {
    let (other, mut halves) = start();
    block_on(halves.shared.take().expect("shared").cancel());
    let served = block_on(halves.served.take().expect("served"));
    assert!(matches!(served, Ok(Ok(()))), "{served:?}");
    assert_eq!(halves.told(), Standing::Away);
    // By then.
    block_on(other.connection().request_name(OWN)).expect("the name");

    let (other, mut halves) = start();
    block_on(halves.served.take().expect("served").cancel());
    let shared = block_on(halves.shared.take().expect("shared"));
    assert!(matches!(shared, Ok(Ok(()))), "{shared:?}");
    drop(other);

    // The bus over here goes away.
    let (other, mut halves) = start();
    drop(other);
    let served = block_on(halves.served.take().expect("served")).expect("no panic");
    assert_eq!(served.expect_err("no bus").kind, Kind::NoBus);
    let shared = block_on(halves.shared.take().expect("shared"));
    assert!(matches!(shared, Ok(Ok(()))), "{shared:?}");
}

#[test]
fn what_is_too_long_is_an_error_and_ends_nothing() {
    let (other, halves) = start();
    let most = u32::try_from(MOST_BYTES).expect("a bound");
    let cover = |bytes: u32| other.call(OWN, PATH, PLAYER, "Cover", &bytes);
    let error = cover(most).expect_err("too long an answer");
    assert_eq!(error.short(), "Failed");
    let uri = "x".repeat(MOST_BYTES);
    let error = other.call(OWN, PATH, PLAYER, "OpenUri", &uri);
    assert_eq!(error.expect_err("too long a call").short(), "InvalidArgs");
    let signal = Message::signal(PATH, PLAYER, "Said").build(&uri);
    block_on(halves.player.send(&signal.expect("a signal"))).expect("sent");
    let answer = cover(most - 1024).expect("an answer");
    let body = answer.body();
    let text: &str = body.deserialize().expect("a text");
    assert_eq!(text.len(), MOST_BYTES - 1024);
    assert!(halves.played.lock().unwrap().is_empty());
}
