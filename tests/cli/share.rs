//! A service of one person's session bus, used by another one with ordinary tools.

use std::{
    collections::HashMap,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, Sender, channel},
};

use rustix::process::{Pid, Signal, kill_process};
use smol::future::block_on;
use support::{Access, dbus_tube_request, name};
use zbus::{connection::Builder, object_server::SignalEmitter};

use crate::{
    Two,
    pneuma::{Pneuma, Ran, Running},
};

pub const NAME: &str = "com.example.Lamp";
pub const SERVICE: &str = "dbus:com.example.Lamp";
pub const PATH: &str = "/com/example/Lamp";
const OTHER: &str = "/com/example/Other";
const SWITCH: &str = "com.example.Switch";

/// What is shared.
struct Lamp {
    bright: u32,
    /// Hears of each call that waits.
    waits: Sender<()>,
}

#[zbus::interface(name = "com.example.Lamp")]
impl Lamp {
    /// Sets and says how bright it is.
    fn dim(&mut self, bright: u32) -> String {
        self.bright = bright;
        format!("dimmed to {bright}")
    }

    /// Says so to whoever listens.
    async fn blink(
        &self,
        often: u32,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> zbus::fdo::Result<()> {
        Ok(Lamp::blinked(&emitter, often).await?)
    }

    /// Waits for ever.
    async fn wait(&self) {
        self.waits.send(()).expect("the test waits for it");
        std::future::pending().await
    }

    #[zbus(property)]
    fn bright(&self) -> u32 {
        self.bright
    }

    #[zbus(signal)]
    async fn blinked(emitter: &SignalEmitter<'_>, often: u32) -> zbus::Result<()>;
}

/// Another interface of the same object.
struct Switch;

#[zbus::interface(name = "com.example.Switch")]
impl Switch {
    fn press(&self) -> String {
        "pressed".to_owned()
    }

    #[zbus(property)]
    fn on(&self) -> bool {
        true
    }
}

/// Bob's lamp, on his session bus while this lives; he has two.
pub fn lamp(two: &Two) -> zbus::Connection {
    lamp_that_waits(two).0
}

/// The same, and what hears of each call of `Wait`.
pub fn lamp_that_waits(two: &Two) -> (zbus::Connection, Receiver<()>) {
    let (waits, waiting) = channel();
    let lamp = |bright| Lamp {
        bright,
        waits: waits.clone(),
    };
    let built = Builder::address(two.bob.person().bus().address())
        .serve_at(PATH, lamp(1))
        .serve_at(PATH, Switch)
        .serve_at(OTHER, lamp(2))
        .name(NAME)
        .build();
    (block_on(built).expect("a lamp on the bus"), waiting)
}

/// Bob shares, Alice accepts: both commands and where it is.
pub fn joined(two: &Two, offer: &[&str], accept: &[&str]) -> (Running, Running, String) {
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

/// A program that uses that bus, and goes on.
pub fn start(who: &Pneuma, program: &str, address: &str, arguments: &[&str]) -> Running {
    let mut command = who.command_of(program, arguments);
    command.env("DBUS_SESSION_BUS_ADDRESS", address);
    Running::start(command)
}

fn tool(who: &Pneuma, program: &str, address: &str, arguments: &[&str]) -> Ran {
    start(who, program, address, arguments).finish()
}

pub fn busctl(who: &Pneuma, address: &str, arguments: &[&str]) -> Ran {
    let at = format!("--address={address}");
    let all = [&[at.as_str(), "--no-pager"], arguments].concat();
    tool(who, "busctl", address, &all)
}

/// Waits until a bus says that the service is there, as people's scripts do.
pub fn wait_for_service(who: &Pneuma, address: &str) {
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
    assert_eq!(tubes[0]["encrypted"], true);
    two.alice.person().until("the calls are counted", || {
        let tubes = two.alice.run(&["tubes", "--json"]).succeeded().json();
        let much = |name: &str| tubes[0][name].as_u64().is_some_and(|bytes| bytes > 100);
        let all = much("bytes_sent") && much("bytes_received") && tubes[0]["connections"] == 1;
        all.then_some(())
    });

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
fn one_interface_can_be_shared_alone() {
    let two = Two::verified();
    let _lamp = lamp(&two);
    let (_offer, _accept, address) = joined(&two, &["--dbus-interface", NAME], &[]);
    wait_for_service(&two.alice, &address);
    let dim = ["call", NAME, PATH, NAME, "Dim", "u", "7"];
    let said = busctl(&two.alice, &address, &dim).succeeded().out;
    assert!(said.contains("dimmed to 7"), "{said}");
    for refused in [
        &["call", NAME, PATH, SWITCH, "Press"][..],
        &["get-property", NAME, PATH, SWITCH, "On"],
    ] {
        let ran = busctl(&two.alice, &address, refused);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.err.contains("Access denied"), "{ran:?}");
    }
    // It is there for whoever shares all.
    let here = two.bob.person().bus().address().to_owned();
    let press = ["call", NAME, PATH, SWITCH, "Press"];
    busctl(&two.bob, &here, &press).succeeded();
}

#[test]
fn signals_reach_a_tool_on_the_other_side() {
    let two = Two::verified();
    let _lamp = lamp(&two);
    let part = ["--read-only", "--object", PATH];
    let (_offer, _accept, address) = joined(&two, &part, &[]);
    let listen = ["monitor", "--session", "--dest", NAME];
    let mut monitor = start(&two.alice, "gdbus", &address, &listen);
    monitor.wait_for("owner", |line| line.contains("is owned by").then_some(()));
    let here = two.bob.person().bus().address().to_owned();
    let blink = |path, often: u32| {
        let often = often.to_string();
        let call = ["call", NAME, path, NAME, "Blink", "u", &often];
        busctl(&two.bob, &here, &call).succeeded();
    };
    // It asks for signals after it has said that; so until it hears one.
    let mut heard = None;
    while heard.is_none() {
        blink(PATH, 0);
        let get = ["get-property", NAME, PATH, NAME, "Bright"];
        busctl(&two.alice, &address, &get).succeeded();
        heard = monitor.has_said(|line| line.contains("Blinked (uint32 0,)").then_some(()));
    }
    // Of what is not shared nothing is heard, and of the rest all.
    blink(OTHER, 8);
    blink(PATH, 9);
    let line = monitor.wait_for("signal", |line| {
        let of_another = !line.contains("Blinked (uint32 0,)");
        of_another.then(|| line.to_owned())
    });
    assert!(
        line.contains(PATH) && line.contains("Blinked (uint32 9,)"),
        "{line}"
    );
}

#[test]
fn it_is_offered_again_and_at_an_address_of_ones_choice() {
    let two = Two::verified();
    let _lamp = lamp(&two);
    let place = two.alice.person().dir().join("lamp bus");
    let listen = format!("unix:{}", place.display());
    let mut offer = two
        .bob
        .start(&["offer", SERVICE, "--to", "alice", "--again", "--json"]);
    for bright in ["3", "4"] {
        assert_eq!(offer.event("offered")["service"], SERVICE);
        let line = ["accept", "bob", SERVICE, "--json", "--listen", &listen];
        let mut accept = two.alice.start(&line);
        let address = accept.event("accepted")["address"].clone();
        let address = address.as_str().expect("an address");
        let escaped = place.display().to_string().replace(' ', "%20");
        assert_eq!(address, format!("unix:path={escaped}"));
        offer.event("opened");
        wait_for_service(&two.alice, address);
        let dim = ["call", NAME, PATH, NAME, "Dim", "u", bright];
        let said = busctl(&two.alice, address, &dim).succeeded().out;
        assert!(said.contains(&format!("dimmed to {bright}")), "{said}");
        assert_eq!(accept.interrupt().code, Some(0));
        assert!(!Path::new(&place).exists(), "a socket is left behind");
    }
    offer.event("offered");
    assert_eq!(offer.interrupt().code, Some(0));
    for who in [&two.alice, &two.bob] {
        who.has_no_tubes();
    }
    let line = ["accept", "bob", SERVICE, "--listen", "127.0.0.1:0"];
    two.alice.run(&line).failed(2, &["Unix socket"]);
}

#[test]
fn a_tube_that_shares_no_service_stays_on_offer() {
    let two = Two::verified();
    let bob = two.bob.person();
    let connections = "/org/freedesktop/Telepathy/Connection/pneuma/local_xmpp";
    let connection = bob.objects_below(connections).remove(0);
    let mut request = dbus_tube_request(0, NAME);
    request.remove(&format!("{}.TargetHandle", name::CHANNEL));
    request.insert(format!("{}.TargetID", name::CHANNEL), two.alice.id().into());
    let made = bob.on_object(&connection, name::REQUESTS, "CreateChannel", &(request,));
    let made = made.expect("CreateChannel");
    let (tube, _): (zbus::OwnedObjectPath, HashMap<String, zbus::OwnedVariant>) =
        made.body().deserialize().expect("a channel");
    let address = bob.offer_dbus(&tube, Access::Credentials, HashMap::new());
    address.expect("Offer");

    let state = || two.alice.run(&["tubes", "--json"]).succeeded().json()[0]["state"].clone();
    let ran = two.alice.run(&["accept", "bob", SERVICE]);
    ran.failed(4, &["bob", NAME, "shares no service"]);
    assert_eq!(state(), "local-pending");
    let ran = two.alice.run(&["accept", "bob", SERVICE, "--json"]);
    ran.failed_with_json(4, "not-shared");
    assert_eq!(state(), "local-pending");
    // The program that it is for still gets it.
    let alice = two.alice.person();
    let theirs = two.alice.run(&["tubes", "--json"]).json()[0]["channel"].clone();
    let theirs = theirs.as_str().expect("a path");
    let accepted = alice.accept_dbus(theirs, Access::Credentials);
    accepted.expect("Accept");
}

#[test]
fn own_puts_the_service_on_the_session_bus() {
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
fn a_program_with_other_names_is_shared_by_its_objects_only() {
    let two = Two::verified();
    let lamp = lamp(&two);
    block_on(lamp.request_name("com.example.Keys")).expect("another name");
    let whole = ["offer", SERVICE, "--to", "alice"];
    two.bob
        .run(&whole)
        .failed(1, &["com.example.Keys", "--object"]);
    let (offer, _accept, address) = joined(&two, &["--object", "/"], &[]);
    wait_for_service(&two.alice, &address);
    let get = ["get-property", NAME, PATH, NAME, "Bright"];
    busctl(&two.alice, &address, &get).succeeded();
    assert_eq!(offer.interrupt().code, Some(0));

    // One that gets another name later is no longer shared.
    block_on(lamp.release_name("com.example.Keys")).expect("a name given back");
    let (offer, accept, _) = joined(&two, &[], &[]);
    block_on(lamp.request_name("com.example.Keys")).expect("another name");
    offer.finish().failed_with_json(1, "not-available");
    accept.finish().succeeded();
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
fn wrong_options_of_a_shared_service_are_usage_errors() {
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
        ("accept alice dbus:com.example.Lamp --object /a", "--own"),
        (
            "accept alice dbus:com.example.Lamp --own a.b --object a",
            "object path",
        ),
        (
            "offer dbus:org.freedesktop.Telepathy.AccountManager --to alice",
            "Telepathy",
        ),
        (
            "accept alice dbus:a.b --own org.freedesktop.Telepathy.Client.Bob",
            "Telepathy",
        ),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        two.bob.run(&arguments).failed(2, &[part]);
    }
}
