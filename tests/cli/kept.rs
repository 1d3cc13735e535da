//! Tubes that are kept: they outlive their commands, their contacts' absence and the connection
//! manager, until somebody closes them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU8, Ordering},
    time::Instant,
};

use support::{Address, Echo, PATIENCE, exchange};

use crate::{
    Two,
    pneuma::{Pneuma, noise},
};

/// Bytes there and back, as soon as that works. What is tried too early is cut off or waits.
fn flows(address: &Address) {
    let bytes = noise(200_003);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match exchange(address, &bytes) {
            Ok(back) if back == bytes => return,
            outcome => {
                let seen = outcome.map(|back| back.len());
                assert!(Instant::now() < deadline, "no bytes: {seen:?}");
                // Its connection was cut when its tube closed: the next one waits for the next tube.
                std::thread::yield_now();
            }
        }
    }
}

fn tcp(address: &str) -> Address {
    address.parse::<SocketAddr>().expect("an IP address").into()
}

/// A port of the kernel's choice at a loopback address of this test's own: at 127.0.0.1 any program's
/// connection may be given the port while nobody listens.
fn door() -> String {
    static DOORS: AtomicU8 = AtomicU8::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = DOORS.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{high}.{low}:0", 100 + number)
}

/// Bob's service, kept on both sides; where it is for Alice.
fn kept(two: &Two, service: &Echo, listen: &str) -> Address {
    let Address::Ipv4(at) = service.address() else {
        panic!("another address");
    };
    let offered = two
        .bob
        .run(&[
            "offer",
            "x-test",
            &at.to_string(),
            "--to",
            "alice",
            "--detach",
            "--json",
        ])
        .succeeded()
        .json();
    assert_eq!(offered["id"], "k1");
    let accepted = two
        .alice
        .run(&[
            "accept", "bob", "x-test", "--detach", "--listen", listen, "--json",
        ])
        .succeeded()
        .json();
    assert_eq!(accepted["id"], "k1");
    let address = accepted["address"].as_str().expect("an address");
    match address.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.into()),
        None => tcp(address),
    }
}

/// The same, at a port of the kernel's choice, with bytes flowing.
fn flowing(two: &Two) -> (Echo, Address) {
    let service = Echo::ipv4();
    let address = kept(two, &service, &door());
    flows(&address);
    (service, address)
}

/// The service is killed, and started anew.
fn killed(who: &Pneuma) {
    who.person().kill_manager();
    who.person().start_manager();
}

/// Where the profile's record of kept tubes lies.
fn record(who: &Pneuma) -> PathBuf {
    who.person().dir().join("state/pneuma/default/kept.json")
}

/// The only tube, as listed, once it is as `fits` says.
fn tube(who: &Pneuma, fits: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    who.person().until("the tube is as it should be", || {
        let tubes = who.run(&["tubes", "--json"]).succeeded().json();
        let all = tubes.as_array().expect("a list").clone();
        assert!(all.len() < 2, "one tube is several: {tubes}");
        all.into_iter().find(&fits)
    })
}

/// The same, waiting for a reason with these parts.
fn waits(who: &Pneuma, parts: &[&str]) -> serde_json::Value {
    tube(who, |tube| {
        let why = tube["waiting"].as_str().unwrap_or_default();
        tube["state"] == "waiting" && parts.iter().all(|part| why.contains(part))
    })
}

/// Writes a record, as the service would have.
fn write(place: &Path, bytes: &[u8]) {
    std::fs::write(place, bytes).expect("it can be written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(place, private).expect("a private file");
}

#[test]
fn they_come_back_on_both_sides_when_the_service_was_killed() {
    let two = Two::verified();
    let (_service, address) = flowing(&two);
    for who in [&two.bob, &two.alice] {
        killed(who);
        flows(&address);
    }
    for who in [&two.bob, &two.alice] {
        who.person().kill_manager();
    }
    for who in [&two.alice, &two.bob] {
        who.person().start_manager();
    }
    flows(&address);
    let listed = tube(&two.alice, |tube| tube["state"] == "open");
    assert_eq!(listed["id"], "k1");
    assert_eq!(listed["kept"], true);
    assert_eq!(tcp(listed["address"].as_str().expect("text")), address);
}

#[test]
fn they_wait_for_a_contact_that_is_away_and_say_so() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let path = two.alice.person().dir().join("here");
    let address = kept(&two, &service, &format!("unix:{}", path.display()));
    flows(&address);
    two.alice.person().stop_manager();
    assert!(!path.exists());
    waits(&two.bob, &["alice@", "not on the network"]);
    // Between two looks an attempt at an address she had may have its own sentence.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = two.bob.run(&["tubes"]).succeeded();
        if shown.err.contains("k1 waits: alice@") {
            break;
        }
        assert!(Instant::now() < deadline, "{shown:?}");
    }
    // She comes back without a word of anybody's.
    two.alice.person().start_manager();
    flows(&address);
    // Taken offline, an account stays so.
    two.bob.run(&["disconnect"]).succeeded();
    let status = two.bob.run(&["status", "--json"]).succeeded().json();
    assert_eq!(status["accounts"], serde_json::json!([]));
    let waiting = tube(&two.alice, |tube| tube["state"] == "waiting");
    assert_eq!(waiting["address"], format!("unix:{}", path.display()));
    // And once somebody brings it back, so are its tubes, and it stays.
    two.bob.run(&["contacts"]).succeeded();
    flows(&address);
}

#[test]
fn closed_is_for_good() {
    let two = Two::verified();
    let (_service, address) = flowing(&two);
    let id = two.bob.id();
    for wrong in ["k2", "bob/x-other", "carol/x-test", "x-test", ""] {
        two.alice
            .run(&["tubes", "--close", wrong])
            .failed(3, &["pneuma tubes"]);
    }
    let closed = two
        .alice
        .run(&["tubes", "--close", "bob/x-test", "--json"])
        .succeeded()
        .json();
    assert_eq!(closed["closed"], "k1");
    assert_eq!(closed["contact"], id.as_str());
    assert!(exchange(&address, b"anybody?").is_err(), "nobody listens");
    two.bob.run(&["tubes", "--close", "k1"]).succeeded();
    for who in [&two.alice, &two.bob] {
        killed(who);
        who.stay_online();
        let tubes = who.run(&["tubes", "--json"]).succeeded().json();
        assert_eq!(tubes, serde_json::json!([]), "nothing is made anew");
    }
}

#[test]
fn one_that_is_used_is_closed_after_a_confirmation_and_one_of_several_by_its_id() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let address = kept(&two, &service, &door());
    let Address::Ipv4(at) = &address else {
        panic!("another address");
    };
    let mut held = std::net::TcpStream::connect(at).expect("a connection");
    std::io::Write::write_all(&mut held, b"x").expect("a byte");
    tube(&two.alice, |tube| tube["connections"] == 1);
    two.alice
        .run(&["tubes", "--close", "k1"])
        .failed(4, &["1 connections", "--yes"]);
    // The same service, once more by a command that runs, and in the other direction.
    let mut offer = two
        .bob
        .start(&["offer", "x-test", "9", "--to", "alice", "--json"]);
    offer.event("offered");
    let offered = || {
        let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
        (tubes.as_array().map(Vec::len) == Some(2)).then_some(tubes)
    };
    let tubes = two.alice.person().until("the second offer", offered);
    let number = tubes
        .as_array()
        .and_then(|all| all.iter().find(|tube| tube["kept"] == false))
        .and_then(|tube| tube["id"].as_str())
        .expect("the number of a tube that is not kept")
        .to_owned();
    two.alice
        .run(&["tubes", "--close", "bob/x-test"])
        .failed(3, &["several", "k1", &number]);
    two.alice.run(&["tubes", "--close", &number]).succeeded();
    assert_eq!(offer.finish().code, Some(4), "it was turned down");
    two.alice
        .run(&["tubes", "--close", "k1", "--yes"])
        .succeeded();
    // Bob's is kept still, and offered again after a second.
    let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
    let mut all = tubes.as_array().expect("a list").iter();
    assert!(all.all(|tube| tube["kept"] == false), "{tubes}");
}

#[test]
fn the_same_is_kept_once_and_an_address_that_is_taken_costs_nothing() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let taken = Echo::ipv4();
    let Address::Ipv4(taken) = taken.address().clone() else {
        panic!("another address");
    };
    two.bob
        .run(&["offer", "x-test", "9", "--to", "alice", "--detach"])
        .succeeded();
    two.alice
        .run(&[
            "accept",
            "bob",
            "x-test",
            "--detach",
            "--listen",
            &taken.to_string(),
        ])
        .failed(1, &[&taken.to_string()]);
    two.bob.run(&["tubes", "--close", "k1"]).succeeded();
    let address = kept(&two, &service, &door());
    flows(&address);
    two.bob
        .run(&["offer", "x-test", "9", "--to", "alice", "--detach"])
        .failed(1, &["kept already", "k1"]);
    flows(&address);
}

#[test]
fn a_contact_that_is_forgotten_gets_nothing() {
    let two = Two::verified();
    let _flowing = flowing(&two);
    two.bob.run(&["forget", "alice", "--yes"]).succeeded();
    waits(&two.bob, &["not the contact you trusted"]);
    killed(&two.bob);
    let still = waits(&two.bob, &["not the contact you trusted"]);
    assert_eq!(still["id"], "k1");
}

#[test]
fn a_record_that_cannot_be_understood_is_put_aside() {
    let two = Two::verified();
    let (_service, address) = flowing(&two);
    let bob = two.bob.person();
    let good = std::fs::read(record(&two.bob)).expect("the record");
    let newer = String::from_utf8_lossy(&good).replace("\"version\": 1", "\"version\": 7");
    let mut aside = Vec::new();
    for (wrong, why) in [
        (b"{\"version\": 1, \"acc".to_vec(), "EOF"),
        (newer.into_bytes(), "version 7"),
        (vec![b' '; 300_000], "262144 bytes"),
    ] {
        bob.kill_manager();
        write(&record(&two.bob), &wrong);
        bob.start_manager();
        bob.until("the log's sentence", || {
            two.bob.run(&["contacts"]).succeeded();
            let log = bob.output();
            (log.contains("cannot be understood") && log.contains(why)).then_some(())
        });
        let beside: Vec<PathBuf> = std::fs::read_dir(record(&two.bob).parent().expect("a folder"))
            .expect("the profile")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.to_string_lossy().contains("kept.json."))
            .filter(|path| !aside.contains(path))
            .collect();
        let [beside] = &beside[..] else {
            panic!("{beside:?}");
        };
        assert!(std::fs::read(beside).expect("it is kept") == wrong, "{why}");
        aside.push(beside.clone());
        assert!(!record(&two.bob).exists());
    }
    // Whoever repairs it has everything back.
    bob.kill_manager();
    write(&record(&two.bob), &good);
    bob.start_manager();
    flows(&address);
}

#[test]
fn a_record_that_others_may_write_is_neither_believed_nor_written_over() {
    let two = Two::verified();
    let service = Echo::ipv4();
    kept(&two, &service, &door());
    let bob = two.bob.person();
    bob.kill_manager();
    let loose = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(record(&two.bob), loose).expect("its permissions");
    let before = std::fs::read(record(&two.bob)).expect("the record");
    bob.start_manager();
    two.bob
        .run(&["offer", "x-other", "9", "--to", "alice", "--detach"])
        .failed(4, &["kept.json", "chmod go="]);
    // What could not be kept is listed until it has closed.
    two.bob.has_no_tubes();
    assert!(std::fs::read(record(&two.bob)).expect("the record") == before);
}
