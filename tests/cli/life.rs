//! The connection manager started, the account brought online and let go again.

use support::{CM_NAME, Person, World, service};

use crate::{Two, pneuma::Pneuma};

#[test]
fn a_bus_that_is_named_and_does_not_answer_is_said_in_one_sentence() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_pneuma"))
        .arg("status")
        .env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus")
        .env("XDG_RUNTIME_DIR", "/nonexistent")
        .output()
        .expect("pneuma runs");
    assert_eq!(output.status.code(), Some(6));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("DBUS_SESSION_BUS_ADDRESS"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn the_first_command_starts_the_manager_and_the_last_lets_the_account_go() {
    let world = World::new();
    let alice = Pneuma::of(Person::new(&world, "alice", service!()));
    alice.person().stop_manager();
    let status = alice.run(&["status", "--json"]).succeeded().json();
    assert_eq!(status["running"], false);
    assert!(!alice.person().has_owner(CM_NAME), "status starts nothing");

    let contacts = alice.run(&["contacts", "--json"]).succeeded();
    assert_eq!(contacts.json(), serde_json::json!([]));
    let status = alice.run(&["status", "--json"]).succeeded().json();
    assert_eq!(status["running"], true);
    assert_eq!(status["accounts"], serde_json::json!([]), "let go");
}

#[test]
fn an_installed_manager_is_started_by_the_bus() {
    let world = World::new();
    let alice = Pneuma::of(Person::new(&world, "alice", service!()));
    alice.person().stop_manager();
    let stage = alice.person().dir().join("stage");
    let built = service!().parent().expect("a folder");
    alice
        .run(&[
            "install",
            "--prefix",
            stage.to_str().expect("a path"),
            "--from",
            built.to_str().expect("a path"),
        ])
        .succeeded();
    let activation = format!("{CM_NAME}.service");
    // systemd does not run on this bus.
    let text = std::fs::read_to_string(stage.join("share/dbus-1/services").join(&activation))
        .expect("the activation file")
        .replace("SystemdService=telepathy-pneuma.service\n", "");
    std::fs::write(alice.person().dir().join("services").join(activation), text)
        .expect("the bus's folder for services");
    alice
        .person()
        .bus()
        .call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "ReloadConfig",
            &(),
        )
        .expect("the bus looks again");
    let ran = alice.run(&["contacts"]).succeeded();
    assert!(
        !ran.err.contains("Started the connection manager"),
        "{ran:?}"
    );
    assert!(alice.person().has_owner(CM_NAME));
}

#[test]
fn detach_leaves_the_account_online_and_disconnect_ends_it() {
    let world = World::new();
    let alice = Pneuma::of(Person::new(&world, "alice", service!()));
    alice.stay_online();
    assert!(alice.id().starts_with("alice@"));
    // Who found it online leaves it online.
    alice.run(&["contacts"]).succeeded();
    assert!(alice.id().starts_with("alice@"));
    alice.run(&["disconnect"]).succeeded();
    let status = alice.run(&["status"]).succeeded();
    assert!(status.out.contains("No account is online"), "{status:?}");
}

#[test]
fn the_last_of_two_commands_lets_the_account_go() {
    let two = Two::new();
    two.bob.stay_online();
    let bob = two.bob.id();
    let mut first = two.alice.start(&["contacts", "--watch", "--json"]);
    first.event("appeared");
    let mut second = two.alice.start(&["contacts", "--watch", "--json"]);
    second.event("appeared");
    assert_eq!(first.interrupt().code, Some(0));
    // The second goes on: it sees Bob leave.
    two.bob.run(&["disconnect"]).succeeded();
    let gone = second.event("disappeared");
    assert_eq!(gone["id"], bob.as_str());
    assert_eq!(second.interrupt().code, Some(0));
    let status = two.alice.run(&["status", "--json"]).succeeded().json();
    assert_eq!(status["accounts"], serde_json::json!([]));
}

#[test]
fn the_last_command_lets_the_account_go_though_it_is_killed() {
    let two = Two::new();
    two.bob.stay_online();
    let mut first = two.alice.start(&["contacts", "--watch", "--json"]);
    first.event("appeared");
    // Who only looks takes nothing away, and neither does one of two that is killed.
    let mut second = two.alice.start(&["contacts", "--watch", "--json"]);
    second.event("appeared");
    first.signal(rustix::process::Signal::KILL);
    assert_eq!(first.finish().code, None);
    let mut bob = two.bob.start(&["contacts", "--watch", "--json"]);
    bob.event("appeared");
    second.signal(rustix::process::Signal::KILL);
    assert_eq!(second.finish().code, None);
    bob.event("disappeared");
    // Bob's own was not brought online by a command that stays.
    assert_eq!(bob.interrupt().code, Some(0));
    assert!(two.bob.id().starts_with("bob@"));
}

#[test]
fn profiles_are_told_apart() {
    let world = World::new();
    let alice = Pneuma::of(Person::new(&world, "alice", service!()));
    alice.stay_online();
    let home = alice.run(&["status", "--json"]).succeeded().json();
    // Tests have a port of their own, which the machine's Avahi does not know.
    assert_eq!(home["accounts"][0]["discovery"], "built-in");
    // The name belongs to the first profile's account.
    alice
        .run(&["contacts", "--profile", "work"])
        .failed(1, &["alice"]);
    let work = ["--profile", "work", "--published-name", "alice-work"];
    alice
        .run(&[&["contacts", "--detach"], &work[..]].concat())
        .succeeded();
    let both = alice.run(&["status", "--json"]).succeeded().json();
    assert_eq!(both["accounts"].as_array().map(Vec::len), Some(2));
    let only = alice
        .run(&["status", "--json", "--profile", "work"])
        .succeeded()
        .json();
    assert_eq!(only["accounts"].as_array().map(Vec::len), Some(1));
    assert_ne!(
        only["accounts"][0]["fingerprint"],
        home["accounts"][0]["fingerprint"]
    );
}

#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let two = Two::new();
    let mut command = two.alice.command(&["contacts", "--watch"]);
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut watching = command.spawn().expect("pneuma runs");
    drop(watching.stdout.take());
    // Bob's appearance is what it would write about.
    two.bob.stay_online();
    let output = watching.wait_with_output().expect("our own child");
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("pneuma:"), "{said}");
}
