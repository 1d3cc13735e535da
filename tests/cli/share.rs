//! A service of one person's session bus, used by another one with ordinary tools.

use std::{os::unix::fs::FileTypeExt as _, path::PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use smol::future::block_on;
use zbus::connection::Builder;

use crate::{
    Two,
    pneuma::{Pneuma, Ran, Running},
};

const NAME: &str = "com.example.Lamp";
const SERVICE: &str = "dbus:com.example.Lamp";
const PATH: &str = "/com/example/Lamp";
const OTHER: &str = "/com/example/Other";

/// What is shared.
struct Lamp {
    bright: u32,
}

#[zbus::interface(name = "com.example.Lamp")]
impl Lamp {
    /// Sets and says how bright it is.
    fn dim(&mut self, bright: u32) -> String {
        self.bright = bright;
        format!("dimmed to {bright}")
    }

    #[zbus(property)]
    fn bright(&self) -> u32 {
        self.bright
    }
}

/// Bob's lamp, on his session bus while this lives; he has two.
fn lamp(two: &Two) -> zbus::Connection {
    let built = Builder::address(two.bob.person().bus().address())
        .serve_at(PATH, Lamp { bright: 1 })
        .serve_at(OTHER, Lamp { bright: 2 })
        .name(NAME)
        .build();
    block_on(built).expect("a lamp on the bus")
}

/// Bob shares, Alice accepts: both commands and where it is.
fn joined(two: &Two, offer: &[&str], accept: &[&str]) -> (Running, Running, String) {
    let offered = [&["offer", SERVICE, "--to", "alice", "--json"], offer].concat();
    let mut offer = two.bob.start(&offered);
    assert_eq!(offer.event("offered")["service"], SERVICE);
    let accepted = [&["accept", "bob", SERVICE, "--json"], accept].concat();
    let mut accept = two.alice.start(&accepted);
    let accepted = accept.event("accepted");
    let address = accepted["address"].as_str().expect("an address").to_owned();
    offer.event("opened");
    (offer, accept, address)
}

fn tool(who: &Pneuma, program: &str, address: &str, arguments: &[&str]) -> Ran {
    let mut command = who.command_of(program, arguments);
    command.env("DBUS_SESSION_BUS_ADDRESS", address);
    Running::start(command).finish()
}

fn busctl(who: &Pneuma, address: &str, arguments: &[&str]) -> Ran {
    let at = format!("--address={address}");
    let all = [&[at.as_str(), "--no-pager"], arguments].concat();
    tool(who, "busctl", address, &all)
}

/// Waits until a bus says that the service is there, as people's scripts do.
fn wait_for_service(who: &Pneuma, address: &str) {
    let wait = ["wait", "--session", "--timeout", "30", NAME];
    tool(who, "gdbus", address, &wait).succeeded();
}

#[test]
fn tools_use_it_at_a_small_bus_until_either_ends_it() {
    let two = Two::verified();
    let _lamp = lamp(&two);
    let (offer, accept, address) = joined(&two, &[], &[]);
    wait_for_service(&two.alice, &address);
    let dim = ["call", NAME, PATH, NAME, "Dim", "u", "7"];
    let said = busctl(&two.alice, &address, &dim).succeeded().out;
    assert!(said.contains("dimmed to 7"), "{said}");
    let get = ["get-property", NAME, PATH, NAME, "Bright"];
    let said = busctl(&two.alice, &address, &get).succeeded().out;
    assert!(said.contains("u 7"), "{said}");
    let call = [
        "call",
        "--session",
        "--dest",
        NAME,
        "--object-path",
        PATH,
        "--method",
        "com.example.Lamp.Dim",
        "9",
    ];
    let said = tool(&two.alice, "gdbus", &address, &call).succeeded().out;
    assert!(said.contains("dimmed to 9"), "{said}");

    let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
    assert_eq!(tubes[0]["service"], SERVICE);
    assert_eq!(tubes[0]["state"], "open");

    assert_eq!(accept.interrupt().code, Some(0));
    assert!(offer.finish().succeeded().out.contains("closed"));
    for who in [&two.alice, &two.bob] {
        who.has_no_tubes();
    }
    assert_ne!(busctl(&two.alice, &address, &get).code, Some(0));
}

#[test]
fn what_is_not_shared_is_refused() {
    let two = Two::verified();
    let _lamp = lamp(&two);
    let part = ["--read-only", "--object", PATH];
    let (offer, accept, address) = joined(&two, &part, &[]);
    wait_for_service(&two.alice, &address);
    let get = |path| ["get-property", NAME, path, NAME, "Bright"];
    let said = busctl(&two.alice, &address, &get(PATH)).succeeded().out;
    assert!(said.contains("u 1"), "{said}");
    let refused = busctl(&two.alice, &address, &get(OTHER));
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let dim = ["call", NAME, PATH, NAME, "Dim", "u", "7"];
    let refused = busctl(&two.alice, &address, &dim);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let said = busctl(&two.alice, &address, &get(PATH)).succeeded().out;
    assert!(said.contains("u 1"), "it was not dimmed: {said}");

    assert_eq!(offer.interrupt().code, Some(0));
    accept.finish().succeeded();
}

#[test]
fn it_has_a_name_on_the_session_bus_over_here() {
    let two = Two::verified();
    let lamp = lamp(&two);
    let own = "com.example.BobsLamp";
    let (_offer, mut accept, _) = joined(&two, &[], &["--own", own]);
    assert_eq!(accept.event("service")["is"], "here");
    let address = two.alice.person().bus().address().to_owned();
    let dim = ["call", own, PATH, NAME, "Dim", "u", "3"];
    let said = busctl(&two.alice, &address, &dim).succeeded().out;
    assert!(said.contains("dimmed to 3"), "{said}");
    two.alice
        .run(&["accept", "bob", SERVICE, "--own", own])
        .failed(1, &[own, "--own"]);
    block_on(lamp.release_name(NAME)).expect("a name given back");
    assert_eq!(accept.event("service")["is"], "away");
    assert_eq!(accept.interrupt().code, Some(0));
}

#[test]
fn what_goes_wrong_while_it_is_shared_is_said_and_is_no_end_in_order() {
    let two = Two::verified();
    let lamp = lamp(&two);
    let mut offer = two
        .bob
        .start(&["offer", SERVICE, "--to", "alice", "--json"]);
    offer.event("offered");
    block_on(lamp.release_name(NAME)).expect("a name given back");
    let own = "com.example.BobsLamp";
    let mut accept = two
        .alice
        .start(&["accept", "bob", SERVICE, "--own", own, "--json"]);
    accept.event("accepted");
    // Nobody had it when the command looked.
    let bus = two.alice.person().bus();
    block_on(bus.connection().request_name(own)).expect("the name");
    block_on(lamp.request_name(NAME)).expect("a name");
    let ended = accept.finish();
    assert!(!ended.out.contains("\"closed\""), "{ended:?}");
    ended.failed_with_json(1, "not-available");
    offer.finish().succeeded();
    two.alice.has_no_tubes();
}

#[test]
fn a_tube_that_is_closed_while_it_opens_is_declined() {
    let two = Two::verified();
    let _lamp = lamp(&two);
    let mut offer = two
        .bob
        .start(&["offer", SERVICE, "--to", "alice", "--json"]);
    offer.event("offered");
    let alice = two.alice.person();
    alice.until("an offer", || {
        let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
        tubes[0]["channel"].as_str().map(|_| ())
    });
    // So what is agreed to cannot be opened.
    let service = two.bob.person().manager_id();
    let service = i32::try_from(service).ok().and_then(Pid::from_raw);
    let service = service.expect("a process");
    kill_process(service, Signal::STOP).expect("it runs");
    let sockets = || {
        let is_socket = |file: &PathBuf| {
            file.symlink_metadata()
                .is_ok_and(|of| of.file_type().is_socket())
        };
        alice.files().into_iter().filter(is_socket).count()
    };
    let before = sockets();
    let own = ["accept", "bob", SERVICE, "--own", "com.example.BobsLamp"];
    let accept = two.alice.start(&[&own[..], &["--json"]].concat());
    alice.until("that it is agreed to", || {
        (sockets() > before).then_some(())
    });
    kill_process(service, Signal::KILL).expect("it is there");
    let ended = accept.finish();
    assert!(ended.out.contains("\"closed\""), "{ended:?}");
    ended.failed_with_json(4, "declined");
}

#[test]
fn what_cannot_be_is_said_in_one_sentence() {
    let two = Two::new();
    for (line, part) in [
        ("offer dbus:com.example.Lamp 80 --to alice", "no address"),
        ("offer dbus:lamp --to alice", "lamp"),
        (
            "offer dbus:com.example.Lamp --to alice --object lamp",
            "lamp",
        ),
        (
            "offer dbus:com.example.Lamp --to alice --detach",
            "--detach",
        ),
        ("offer http 80 --to alice --read-only", "dbus:NAME"),
        ("offer http --to alice", "http"),
        ("accept alice http --own a.b", "dbus:NAME"),
        ("accept alice dbus:com.example.Lamp --stdio", "--stdio"),
        ("accept alice dbus:com.example.Lamp --detach", "--detach"),
        ("accept alice dbus:com.example.Lamp --own :1.2", ":1.2"),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        two.bob.run(&arguments).failed(2, &[part]);
    }
}
