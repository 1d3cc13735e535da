//! `pneuma doctor`: each thing broken for real, and the sentence about it. What takes a machine of its
//! own to break (a firewall, no loopback, another user's folder) is in `tests/hostile`.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use support::{CM_NAME, Options, Person, World, service};

use crate::{Two, pneuma::Pneuma};

fn alone() -> Pneuma {
    let world = World::new();
    Pneuma::of(Person::new(&world, "alice", service!()))
}

fn doctor(who: &Pneuma) -> Command {
    who.command(&["doctor", "--json"])
}

/// What it finds; its exit code fits.
fn findings(command: &mut Command) -> Vec<Value> {
    let output = command.output().expect("pneuma runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let all: Vec<Value> =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let wrong = all.iter().any(|finding| finding["verdict"] == "wrong");
    assert_eq!(
        output.status.code(),
        Some(i32::from(wrong)),
        "{all:#?} {said}"
    );
    for finding in all.iter().filter(|finding| finding["verdict"] == "wrong") {
        assert!(finding["todo"].is_string(), "it says what to do: {finding}");
    }
    all
}

/// The sentences of one check that have this verdict.
fn sentences(all: &[Value], check: &str, verdict: &str) -> Vec<String> {
    all.iter()
        .filter(|finding| finding["check"] == check && finding["verdict"] == verdict)
        .map(|finding| format!("{} → {}", finding["what"], finding["todo"]))
        .collect()
}

/// Asserts that one check of the command has this verdict, in a sentence with these parts.
fn finds(command: &mut Command, check: &str, verdict: &str, parts: &[&str]) {
    let all = findings(command);
    let found = sentences(&all, check, verdict);
    let fits = |sentence: &&String| parts.iter().all(|part| sentence.contains(part));
    assert!(
        found.iter().any(|sentence| fits(&sentence)),
        "{check} {verdict} {parts:?}: {all:#?}"
    );
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its permissions");
}

/// Everything below a folder, with its contents.
fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path.clone());
            }
            let bytes = fs::read(&path).unwrap_or_default();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

fn profile(who: &Pneuma) -> PathBuf {
    who.person().dir().join("state/pneuma/default")
}

#[test]
fn where_all_is_well_nothing_is_wrong_and_nothing_changes() {
    let alice = alone();
    alice.person().stop_manager();
    let before = everything(alice.person().dir());
    let all = findings(&mut doctor(&alice));
    assert!(
        all.iter().all(|finding| finding["verdict"] != "wrong"),
        "{all:#?}"
    );
    assert!(!alice.person().has_owner(CM_NAME), "it starts nothing");
    assert_eq!(
        everything(alice.person().dir()),
        before,
        "it writes nothing"
    );
    alice.person().start_manager();
    alice.stay_online();
    let before = everything(alice.person().dir());
    let all = findings(&mut doctor(&alice));
    for check in ["session-bus", "manager", "account", "encryption", "port"] {
        assert_eq!(sentences(&all, check, "ok").len(), 1, "{check}: {all:#?}");
    }
    // A machine under load may take longer than the doctor waits for what it hears.
    alice.person().until("discovery is well", || {
        let all = findings(&mut doctor(&alice));
        let well = |check| sentences(&all, check, "ok").len() == 1;
        (well("multicast") && well("announcement")).then_some(())
    });
    assert_eq!(
        everything(alice.person().dir()),
        before,
        "it writes nothing"
    );
    // For people: sentences, under headings.
    let ran = alice.run(&["doctor"]).succeeded();
    assert!(ran.out.contains("Discovery\n  ok    "), "{}", ran.out);
}

#[test]
fn a_bus_that_is_not_there() {
    let alice = alone();
    let without = |address: Option<&str>| {
        let mut command = doctor(&alice);
        match address {
            Some(address) => command.env("DBUS_SESSION_BUS_ADDRESS", address),
            None => command.env_remove("DBUS_SESSION_BUS_ADDRESS"),
        };
        command
    };
    finds(
        &mut without(None),
        "session-bus",
        "note",
        &["no session bus", "dbus-run-session"],
    );
    finds(
        &mut without(Some("unix:path=/nonexistent/bus")),
        "session-bus",
        "wrong",
        &["/nonexistent/bus", "log in"],
    );
    let output = without(Some("unix:path=/nonexistent/bus"))
        .output()
        .expect("pneuma runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("wrong; what to do"), "{said}");
}

#[test]
fn files_that_others_look_for() {
    let alice = alone();
    alice.person().stop_manager();
    let data = alice.person().dir().join("data");
    let mut nowhere = doctor(&alice);
    nowhere.env("XDG_DATA_DIRS", "/nonexistent");
    finds(&mut nowhere, "activation-file", "note", &["pneuma install"]);
    finds(&mut nowhere, "manager-file", "note", &["pneuma install"]);
    // XDG_DATA_HOME is one of the folders; a prefix beside it is `pneuma install`'s.
    let built = service!().parent().expect("a folder");
    let prefix = alice.person().dir().join("prefix");
    fs::create_dir(&prefix).expect("a prefix");
    std::os::unix::fs::symlink(&data, prefix.join("share")).expect("its share");
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    alice
        .run(&[
            "install",
            "--prefix",
            &text(&prefix),
            "--from",
            &text(built),
        ])
        .succeeded();
    finds(&mut nowhere, "activation-file", "ok", &[&text(&data)]);
    finds(&mut nowhere, "manager-file", "ok", &["pneuma.manager"]);
    fs::remove_file(prefix.join("libexec/telepathy-pneuma")).expect("the program");
    finds(
        &mut nowhere,
        "activation-file",
        "wrong",
        &["no program", "libexec/telepathy-pneuma"],
    );
}

#[test]
fn a_connection_manager_that_is_another() {
    let world = World::new();
    // One that was replaced on the disk.
    let folder = tempfile::tempdir_in("/tmp").expect("a folder");
    let program = folder.path().join("telepathy-pneuma");
    fs::copy(service!(), &program).expect("a copy");
    let alice = Pneuma::of(Person::with(&world, "alice", &program, Options::default()));
    finds(
        &mut doctor(&alice),
        "manager",
        "ok",
        &[env!("CARGO_PKG_VERSION")],
    );
    fs::remove_file(&program).expect("it was there");
    finds(
        &mut doctor(&alice),
        "manager",
        "wrong",
        &["replaced", "kill "],
    );
    // One that does not know which it is: this test itself, under its name.
    alice.person().stop_manager();
    alice
        .person()
        .bus()
        .call(
            "org.freedesktop.DBus",
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "RequestName",
            &(CM_NAME, 0u32),
        )
        .expect("the name is free");
    let own = std::process::id().to_string();
    finds(&mut doctor(&alice), "manager", "wrong", &[&own, "kill "]);
}

#[test]
fn an_interface_and_a_port_that_cannot_be_used() {
    let alice = alone();
    let mut command = doctor(&alice);
    command.env("PNEUMA_INTERFACE", "nosuch0");
    finds(
        &mut command,
        "interfaces",
        "wrong",
        &["nosuch0", "--interface"],
    );
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let mut command = doctor(&alice);
    command.env("PNEUMA_MDNS_PORT", &port);
    let user = format!("user {}", rustix::process::geteuid().as_raw());
    finds(&mut command, "port", "wrong", &[&port, &user, "ss -ulpn"]);
    drop(taken);
    finds(&mut command, "port", "ok", &[&port]);
}

#[test]
fn folders_for_sockets() {
    let alice = alone();
    let run = alice.person().dir().join("run");
    mode(&run, 0o755);
    finds(
        &mut doctor(&alice),
        "runtime-folder",
        "wrong",
        &["755", "chmod 700"],
    );
    mode(&run, 0o700);
    finds(
        &mut doctor(&alice),
        "runtime-folder",
        "ok",
        &["yours alone"],
    );
    fs::create_dir_all(run.join("pneuma")).expect("a folder");
    mode(&run.join("pneuma"), 0o750);
    finds(
        &mut doctor(&alice),
        "socket-folder",
        "wrong",
        &["750", "chmod 700"],
    );
    mode(&run.join("pneuma"), 0o700);
    let with = |value: Option<&Path>| {
        let mut command = doctor(&alice);
        match value {
            Some(path) => command.env("XDG_RUNTIME_DIR", path),
            None => command.env_remove("XDG_RUNTIME_DIR"),
        };
        command
    };
    finds(&mut with(None), "runtime-folder", "note", &["not set"]);
    finds(
        &mut with(Some(Path::new("/nonexistent"))),
        "runtime-folder",
        "wrong",
        &["no folder"],
    );
    let long = run.join("x".repeat(90));
    fs::create_dir(&long).expect("a folder");
    mode(&long, 0o700);
    finds(
        &mut with(Some(&long)),
        "socket-paths",
        "wrong",
        &["107", "shorter"],
    );
}

#[test]
fn too_few_descriptors() {
    let alice = alone();
    let limited = format!(
        "ulimit -n 1000; exec {} doctor --json",
        env!("CARGO_BIN_EXE_pneuma")
    );
    let few = |alice: &Pneuma| alice.command_of("bash", &["-c", &limited]);
    // What counts is the service's, while it runs.
    finds(&mut few(&alice), "descriptors", "ok", &["has"]);
    alice.person().stop_manager();
    finds(
        &mut few(&alice),
        "descriptors",
        "wrong",
        &["1000", "LimitNOFILE"],
    );
}

#[test]
fn keys_that_are_damaged_open_or_taken() {
    let alice = alone();
    alice.stay_online();
    alice.run(&["disconnect"]).succeeded();
    let folder = profile(&alice);
    finds(
        &mut doctor(&alice),
        "profile",
        "ok",
        &["private and whole", "key"],
    );
    mode(&folder, 0o755);
    finds(&mut doctor(&alice), "profile", "wrong", &["chmod go="]);
    mode(&folder, 0o700);
    for (file, bytes, part) in [
        ("identity.pem", &b"-----BEGIN nothing"[..], "the key"),
        ("identity.pem", b"\xff\xfe", "identity.pem"),
        (
            "trust.json",
            b"{\"version\": 1, \"contacts\": [",
            "trusted keys",
        ),
        ("kept.json", b"{\"version\": 9}", "version 9"),
        ("kept.json", b"[]", "kept tubes"),
    ] {
        let path = folder.join(file);
        let before = fs::read(&path).ok();
        fs::write(&path, bytes).expect("it can be written");
        mode(&path, 0o600);
        finds(&mut doctor(&alice), "profile", "wrong", &[part, "restore"]);
        assert_eq!(fs::read(&path).expect("it is there"), bytes, "it stays");
        mode(&path, 0o640);
        finds(
            &mut doctor(&alice),
            "profile",
            "wrong",
            &[file, "chmod go="],
        );
        match before {
            Some(before) => {
                fs::write(&path, before).expect("it can be written");
                mode(&path, 0o600);
            }
            None => fs::remove_file(&path).expect("it was there"),
        }
    }
    finds(&mut doctor(&alice), "profile", "ok", &["private and whole"]);
    fs::write(folder.join("kept.json.12"), "what was put aside").expect("a file");
    finds(&mut doctor(&alice), "kept", "note", &["kept.json.12"]);
    // Somebody who is no connection manager has the lock.
    let lock = fs::File::open(folder.join("lock")).expect("the lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("it is free");
    let own = format!("process {}", std::process::id());
    finds(
        &mut doctor(&alice),
        "profile-lock",
        "wrong",
        &[&own, "--profile"],
    );
}

#[test]
fn an_account_that_is_not_online_yet_has_its_profile_in_use() {
    let alice = alone();
    // The connection manager has the lock from now on, for the account that it does not connect.
    let person = alice.person();
    person
        .request_connection(person.parameters())
        .expect("a connection");
    let all = findings(&mut doctor(&alice));
    assert_eq!(sentences(&all, "account", "note").len(), 1, "{all:#?}");
    assert_eq!(
        sentences(&all, "profile-lock", "wrong").len(),
        0,
        "{all:#?}"
    );
}

#[test]
fn a_clock_that_is_behind() {
    let two = Two::verified();
    two.alice.person().stop_manager();
    finds(&mut doctor(&two.alice), "profile", "ok", &["1 contacts"]);
    let path = profile(&two.alice).join("trust.json");
    let mut table: Value =
        serde_json::from_slice(&fs::read(&path).expect("the table")).expect("JSON");
    table["contacts"][0]["verified"] = Value::from(4_000_000_000u64);
    fs::write(&path, table.to_string()).expect("it can be written");
    finds(
        &mut doctor(&two.alice),
        "profile",
        "wrong",
        &["clock is behind", "set the clock"],
    );
}

#[test]
fn a_contact_whose_name_somebody_else_has() {
    let two = Two::verified();
    finds(&mut doctor(&two.alice), "contacts", "ok", &["1 contacts"]);
    // Bob's machine, or somebody's that poses as it, with another key.
    two.bob.person().kill_manager();
    fs::remove_dir_all(profile(&two.bob)).expect("his profile");
    two.bob.person().start_manager();
    two.bob
        .run(&["contacts", "--detach", "--allow-plaintext"])
        .succeeded();
    finds(
        &mut doctor(&two.bob),
        "encryption",
        "note",
        &["--allow-plaintext"],
    );
    let blocked = || {
        let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
        let all = contacts.as_array().expect("a list").clone();
        all.iter()
            .any(|contact| contact["trust"] == "blocked")
            .then_some(())
    };
    two.alice
        .person()
        .until("the other Bob is blocked", blocked);
    finds(
        &mut doctor(&two.alice),
        "blocked",
        "wrong",
        &["bob@", "verify --replace"],
    );
}
