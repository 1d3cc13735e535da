//! Offer, accept, use, look, close.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _};

use support::{Address, Echo, exchange};

use crate::{
    Two,
    pneuma::{Running, noise},
};

/// Bob offers the service, Alice accepts it with more arguments. Gives both commands and where the
/// service is for Alice.
fn joined(two: &Two, service: &Echo, more: &[&str]) -> (Running, Running, String) {
    let at = match service.address() {
        Address::Unix(path) => format!("unix:{}", path.display()),
        Address::Abstract(name) => format!("abstract:{}", String::from_utf8_lossy(name)),
        Address::Ipv4(address) => address.to_string(),
        Address::Ipv6(address) => address.to_string(),
    };
    let mut offer = two
        .bob
        .start(&["offer", "x-test", &at, "--to", "alice", "--json"]);
    offer.event("offered");
    let arguments = [&["accept", "bob", "x-test", "--json"], more].concat();
    let mut accept = two.alice.start(&arguments);
    let accepted = accept.event("accepted");
    let address = accepted["address"].as_str().expect("an address").to_owned();
    (offer, accept, address)
}

fn tcp(address: &str) -> Address {
    address.parse::<SocketAddr>().expect("an IP address").into()
}

#[test]
fn bytes_go_both_ways_and_ctrl_c_closes_both_ends() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let (mut offer, accept, address) = joined(&two, &service, &[]);
    let bytes = noise(3_000_017);
    assert!(exchange(&tcp(&address), &bytes).expect("bytes") == bytes);
    offer.event("connection-opened");
    let closed = offer.event("connection-closed");
    assert_eq!(closed["reason"], "finished", "{closed}");

    // Her side of the connection may end a moment later, and is counted then.
    let counted = || {
        let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
        (tubes[0]["bytes_received"] == bytes.len()).then_some(tubes)
    };
    let tubes = two.alice.person().until("all is counted", counted);
    let tube = &tubes[0];
    assert_eq!(tube["service"], "x-test");
    assert_eq!(tube["offered_by"], "contact");
    assert_eq!(tube["state"], "open");
    assert_eq!(tube["bytes_sent"], bytes.len());
    assert_eq!(tube["bytes_received"], bytes.len());
    assert_eq!(tube["encrypted"], true);
    let listed = two.bob.run(&["tubes"]).succeeded().out;
    assert!(
        listed.contains("x-test") && listed.contains("2.86 MiB"),
        "{listed}"
    );

    assert_eq!(accept.interrupt().code, Some(0));
    let ended = offer.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for who in [&two.alice, &two.bob] {
        who.has_no_tubes();
    }
}

#[test]
fn a_chosen_port_serves_many_at_once() {
    let two = Two::verified();
    let service = Echo::ipv6();
    let (offer, accept, address) = joined(&two, &service, &["--listen", "127.0.0.1:0"]);
    let bytes = noise(200_003);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                assert!(exchange(&tcp(&address), &bytes).expect("bytes") == bytes);
            });
        }
    });
    assert_eq!(service.connections(), 20);
    assert_eq!(offer.interrupt().code, Some(0));
    assert_eq!(accept.finish().code, Some(0));
}

#[test]
fn a_chosen_path_is_private_and_vanishes() {
    let two = Two::verified();
    let inside = two.bob.person().dir().join("service");
    let service = Echo::unix(&inside);
    let path = two.alice.person().dir().join("here");
    let listen = format!("unix:{}", path.display());
    let (_offer, accept, address) = joined(&two, &service, &["--listen", &listen]);
    assert_eq!(address, listen);
    let mode = std::fs::metadata(&path)
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let bytes = noise(100_000);
    let back = exchange(&Address::Unix(path.clone()), &bytes).expect("bytes");
    assert!(back == bytes);
    assert_eq!(accept.interrupt().code, Some(0));
    assert!(!path.exists());
}

#[test]
fn an_abstract_name_is_offered_and_listened_at() {
    let two = Two::verified();
    let name = |person: &str| format!("{}/{person}", two.bob.person().dir().display());
    let service = Echo::abstract_name(&name("service"));
    let listen = format!("abstract:{}", name("here"));
    let (mut offer, accept, address) = joined(&two, &service, &["--listen", &listen]);
    assert_eq!(address, listen);
    let here = Address::Abstract(name("here").into());
    let bytes = noise(100_000);
    assert!(exchange(&here, &bytes).expect("bytes") == bytes);
    assert_eq!(service.connections(), 1);
    assert_eq!(offer.event("connection-opened")["id"], 1);
    // A name that somebody has is refused before it costs the offer.
    two.alice
        .run(&["accept", "bob", "x-test", "--listen", &listen])
        .failed(1, &[&listen]);
    assert_eq!(accept.interrupt().code, Some(0));
    assert!(here.connect().is_err());
}

#[test]
fn whoever_is_told_to_end_says_what_it_does_and_nothing_else() {
    use rustix::process::Signal;
    let two = Two::verified();
    for (signal, listen) in [
        (Signal::TERM, Some("127.0.0.1:0")),
        (Signal::INT, Some("127.0.0.1:0")),
        (Signal::TERM, None),
    ] {
        let service = Echo::ipv4();
        let at = match service.address() {
            Address::Ipv4(address) => address.to_string(),
            other => panic!("an IPv4 echo at {other:?}"),
        };
        let mut offer = two
            .bob
            .start(&["offer", "x-test", &at, "--to", "alice", "--json"]);
        offer.event("offered");
        let mut arguments = vec!["accept", "bob", "x-test"];
        arguments.extend(listen.iter().flat_map(|at| ["--listen", at]));
        let mut accept = two.alice.start(&arguments);
        let address = accept.wait_for("where it is", |line| {
            line.strip_prefix("x-test of bob@")?
                .split_once(" is at ")
                .map(|(_, at)| at.trim().to_owned())
        });
        exchange(&tcp(&address), b"some bytes").expect("bytes");
        offer.event("connection-closed");
        accept.signal(signal);
        let ended = accept.finish();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let said = ended.err.lines();
        let said: Vec<&str> = said.skip_while(|line| *line != "Ctrl-C ends it.").collect();
        // The signal may be quicker than the word that the connection has opened, or ended.
        let all = [
            "Ctrl-C ends it.",
            "Connection 1 opened.",
            "Connection 1 has ended: both sides closed it.",
        ];
        let (last, before) = said.split_last().expect("it says something");
        assert_eq!(*last, "Closing the tube.", "{ended:?}");
        assert!(all.starts_with(before) && !before.is_empty(), "{ended:?}");
        assert_eq!(offer.finish().code, Some(0));
    }
}

#[test]
fn an_address_that_is_taken_costs_no_offer() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let taken = Echo::ipv4();
    let Address::Ipv4(taken) = taken.address() else {
        panic!("another address");
    };
    let mut offer = two.bob.start(&[
        "offer",
        "x-test",
        &service_port(&service),
        "--to",
        "alice",
        "--json",
    ]);
    offer.event("offered");
    let taken = taken.to_string();
    two.alice
        .run(&["accept", "bob", "x-test", "--listen", &taken])
        .failed(1, &[&taken]);
    two.alice
        .run(&["accept", "bob", "x-test", "--listen", "0.0.0.0:0"])
        .failed(4, &["everybody"]);
    let mut accept = two.alice.start(&["accept", "bob", "x-test", "--json"]);
    accept.event("accepted");
}

fn service_port(service: &Echo) -> String {
    match service.address() {
        Address::Ipv4(address) => address.port().to_string(),
        _ => panic!("another address"),
    }
}

#[test]
fn one_who_waits_gets_the_offer_that_comes_later() {
    let two = Two::verified();
    let service = Echo::ipv4();
    two.alice
        .run(&["accept", "bob", "x-test", "--timeout", "1"])
        .failed(5, &["did not offer x-test", "--timeout"]);
    let mut accept = two.alice.start(&["accept", "bob", "x-test", "--json"]);
    let mut offer = two.bob.start(&[
        "offer",
        "x-test",
        &service_port(&service),
        "--to",
        "alice",
        "--json",
    ]);
    offer.event("offered");
    let accepted = accept.event("accepted");
    let address = tcp(accepted["address"].as_str().expect("an address"));
    assert_eq!(exchange(&address, b"late").expect("bytes"), b"late");
}

#[test]
fn a_killed_command_leaves_no_tube_behind() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let (offer, accept, _) = joined(&two, &service, &[]);
    offer.signal(rustix::process::Signal::KILL);
    assert_eq!(offer.finish().code, None);
    // The claim closes it at the other end too.
    assert_eq!(accept.finish().code, Some(0));
    two.bob.has_no_tubes();
}

#[test]
fn detached_tubes_outlive_their_commands() {
    let two = Two::verified();
    let service = Echo::ipv4();
    two.bob
        .run(&[
            "offer",
            "x-test",
            &service_port(&service),
            "--to",
            "alice",
            "--detach",
        ])
        .succeeded();
    let accepted = two
        .alice
        .run(&["accept", "bob", "x-test", "--detach", "--json"])
        .succeeded()
        .json();
    let address = tcp(accepted["address"].as_str().expect("an address"));
    assert_eq!(exchange(&address, b"still").expect("bytes"), b"still");
    let mut watch = two.bob.start(&["tubes", "--watch", "--json"]);
    let rate = |line: &str| {
        let tubes: serde_json::Value = serde_json::from_str(line).expect("JSON");
        tubes[0]["bytes_per_second"].as_u64()
    };
    watch.wait_for("a rate", rate);
    assert_eq!(watch.interrupt().code, Some(0));
}

#[test]
fn a_service_that_does_not_run_is_a_refused_connection() {
    let two = Two::verified();
    let service = Echo::ipv4();
    let port = service_port(&service);
    let (mut offer, accept, address) = joined(&two, &service, &[]);
    drop(service);
    // The connection opens here and ends without a byte.
    let end = exchange(&tcp(&address), b"anybody?");
    assert!(
        end.is_err() || end.is_ok_and(|bytes| bytes.is_empty()),
        "{port}"
    );
    offer.signal(rustix::process::Signal::INT);
    offer.event("closed");
    let failed = accept.finish().out;
    assert!(failed.contains("\"reason\":\"refused\""), "{failed}");
}
