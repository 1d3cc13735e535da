//! The command line where there is no session bus, as over plain ssh on a machine without a screen.

use std::{
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::{Address, Echo, PATIENCE, World, exchange};

use crate::{
    Two,
    pneuma::{Pneuma, Ran, Running, noise},
};

/// A person who has nothing but folders.
struct Headless {
    name: &'static str,
    port: u16,
    dir: tempfile::TempDir,
}

impl Headless {
    fn new(world: &World, name: &'static str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pneuma-")
            .tempdir_in("/tmp")
            .expect("a folder");
        for part in ["run", "state", "home"] {
            let path = dir.path().join(part);
            std::fs::create_dir(&path).expect("a folder");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).expect("private");
        }
        let port = world.port();
        Headless { name, port, dir }
    }

    fn start(&self, arguments: &[&str]) -> Running {
        let at = |part| self.dir.path().join(part);
        let mut command = Command::new(env!("CARGO_BIN_EXE_pneuma"));
        command
            .args(arguments)
            .env_remove("NO_COLOR")
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("XDG_STATE_HOME", at("state"))
            .env("HOME", at("home"))
            .env("PNEUMA_NAME", self.name)
            .env("PNEUMA_INTERFACE", "lo")
            .env("PNEUMA_MDNS_PORT", self.port.to_string())
            .stdin(Stdio::null());
        Running::start(command)
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.start(arguments).finish()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/pneuma/bus")
    }

    /// The process that serves at the socket, if one does.
    fn manager(&self) -> Option<Pid> {
        serves_at(&self.socket())
    }

    fn status(&self) -> serde_json::Value {
        self.run(&["status", "--json"]).succeeded().json()
    }

    fn id(&self) -> String {
        let status = self.status();
        let id = status["accounts"][0]["id"].as_str();
        id.unwrap_or_else(|| panic!("{status}")).to_owned()
    }

    /// Processes of this person's that run the service.
    fn services(&self) -> Vec<Pid> {
        let mine = format!("XDG_RUNTIME_DIR={}", self.dir.path().join("run").display());
        std::fs::read_dir("/proc")
            .expect("/proc")
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
                let read = |name| std::fs::read(entry.path().join(name)).ok();
                let environment = read("environ")?;
                let is_mine = environment
                    .split(|byte| *byte == 0)
                    .any(|v| v == mine.as_bytes());
                let line = read("cmdline")?;
                let serves = line.split(|byte| *byte == 0).any(|word| word == b"--serve");
                (is_mine && serves).then_some(pid)
            })
            .collect()
    }
}

impl Drop for Headless {
    fn drop(&mut self) {
        for service in self.services() {
            // It may have ended meanwhile.
            kill_process(service, Signal::KILL).unwrap_or_default();
        }
    }
}

/// The process that serves at a socket, if one does.
fn serves_at(socket: &Path) -> Option<Pid> {
    let stream = UnixStream::connect(socket).ok()?;
    let server = rustix::net::sockopt::socket_peercred(&stream).expect("who listens");
    Some(server.pid)
}

/// A login without a bus of somebody who has one elsewhere. Its service is killed in the end.
struct OtherLogin<'a>(&'a Pneuma);

impl OtherLogin<'_> {
    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.0.command(arguments);
        command
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .stdin(Stdio::null());
        Running::start(command).finish()
    }

    fn manager(&self) -> Option<Pid> {
        serves_at(&self.0.person().dir().join("run/pneuma/bus"))
    }
}

impl Drop for OtherLogin<'_> {
    fn drop(&mut self) {
        if let Some(manager) = self.manager() {
            // It may have ended meanwhile.
            kill_process(manager, Signal::KILL).unwrap_or_default();
        }
    }
}

/// Waits for something that nobody tells.
fn until(what: &str, mut attempt: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !attempt() {
        assert!(Instant::now() < deadline, "waited until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_tube_is_offered_accepted_and_used() {
    let world = World::new();
    let (alice, bob) = (Headless::new(&world, "alice"), Headless::new(&world, "bob"));
    assert_eq!(alice.status()["running"], false);
    assert!(alice.manager().is_none(), "status starts nothing");
    let first = alice.run(&["contacts", "--detach"]).succeeded();
    assert!(
        first.err.contains("Started the connection manager"),
        "{first:?}"
    );
    bob.run(&["contacts", "--detach"]).succeeded();
    let manager = alice.manager().expect("a manager");
    let (alice_id, bob_id) = (alice.id(), bob.id());
    let code = alice.run(&["verify", &bob_id]).out;
    for (who, whom) in [(&alice, &bob_id), (&bob, &alice_id)] {
        who.run(&["verify", whom, "--code", code.trim()])
            .succeeded();
    }

    let service = Echo::ipv4();
    let Address::Ipv4(at) = service.address() else {
        panic!("another kind of address");
    };
    let at = at.to_string();
    let mut offer = bob.start(&["offer", "x-test", &at, "--to", "alice", "--json"]);
    offer.event("offered");
    let mut accept = alice.start(&["accept", "bob", "x-test", "--json"]);
    let accepted = accept.event("accepted");
    let address = accepted["address"].as_str().expect("an address");
    let door = Address::Ipv4(address.parse().expect("an IP address"));
    let bytes = noise(3_000_017);
    assert!(exchange(&door, &bytes).expect("bytes") == bytes);
    let closed = offer.event("connection-closed");
    assert_eq!(closed["reason"], "finished", "{closed}");
    // Her side of the connection may end a moment later, and is counted then.
    until("all is counted", || {
        let tubes = alice.run(&["tubes", "--json"]).succeeded().json();
        tubes[0]["bytes_sent"] == bytes.len() && tubes[0]["encrypted"] == true
    });
    // What is killed lets its tube go: the claim is the connection's, there is no name to watch.
    accept.signal(Signal::KILL);
    accept.finish();
    let ended = offer.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(alice.manager(), Some(manager), "the first is the only one");

    let mode = |path: &std::path::Path| {
        let found = std::fs::metadata(path).expect("it is there");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode(&alice.socket()), 0o600);
    assert_eq!(mode(alice.socket().parent().expect("a folder")), 0o700);
}

#[test]
fn commands_at_the_same_moment_start_one_manager() {
    let world = World::new();
    let alice = Headless::new(&world, "alice");
    let all: Vec<_> = (0..6)
        .map(|_| alice.start(&["contacts", "--detach"]))
        .collect();
    for command in all {
        command.finish().succeeded();
    }
    let manager = alice.manager().expect("a manager");
    until("the others have ended", || alice.services() == [manager]);
    assert!(alice.id().starts_with("alice@"));
}

#[test]
fn what_a_killed_manager_left_is_in_nobody_s_way() {
    let world = World::new();
    let alice = Headless::new(&world, "alice");
    alice.run(&["contacts", "--detach"]).succeeded();
    let first = alice.manager().expect("a manager");
    kill_process(first, Signal::KILL).expect("it runs");
    until("it is gone", || test_kill_process(first).is_err());
    assert!(alice.socket().exists());
    assert_eq!(alice.status()["running"], false);
    alice.run(&["contacts", "--detach"]).succeeded();
    let second = alice.manager().expect("another manager");
    assert_ne!(first, second);
    kill_process(second, Signal::TERM).expect("it runs");
    until("the socket is gone", || !alice.socket().exists());
}

#[test]
fn the_last_command_lets_the_account_go_though_it_is_killed() {
    let world = World::new();
    let (alice, bob) = (Headless::new(&world, "alice"), Headless::new(&world, "bob"));
    bob.run(&["contacts", "--detach"]).succeeded();
    let mut first = alice.start(&["contacts", "--watch", "--json"]);
    first.event("appeared");
    let mut second = alice.start(&["contacts", "--watch", "--json"]);
    second.event("appeared");
    // Neither one of two that is killed nor one that only looks takes anything away.
    first.signal(Signal::KILL);
    first.finish();
    assert!(alice.id().starts_with("alice@"));
    second.signal(Signal::KILL);
    second.finish();
    until("she is offline", || {
        alice.status()["accounts"] == serde_json::json!([])
    });
    assert_eq!(alice.status()["running"], true);
}

#[test]
fn levels_are_shown_and_changed() {
    let world = World::new();
    let alice = Headless::new(&world, "alice");
    alice.run(&["log-level"]).failed(6, &["does not run"]);
    assert!(alice.manager().is_none(), "nothing was started");
    alice.run(&["contacts", "--detach"]).succeeded();
    assert_eq!(alice.run(&["log-level"]).succeeded().out, "info\n");
    let wanted = "warn,pneuma=debug";
    let changed = alice.run(&["log-level", wanted, "--json"]).succeeded();
    assert_eq!(changed.json()["levels"], wanted);
    alice
        .run(&["log-level", "loud"])
        .failed(1, &["'loud' are no levels", "warn,pneuma=debug"]);
    assert_eq!(
        alice.run(&["log-level"]).succeeded().out,
        format!("{wanted}\n")
    );
}

#[test]
fn a_folder_that_others_may_write_is_not_looked_into() {
    let world = World::new();
    let alice = Headless::new(&world, "alice");
    let folder = alice.dir.path().join("run/pneuma");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("open to others");
    // What another user could have put there: a way to some socket of hers that listens.
    let other = alice.dir.path().join("other");
    let listener = std::os::unix::net::UnixListener::bind(&other).expect("a socket");
    listener.set_nonblocking(true).expect("a setting");
    std::os::unix::fs::symlink(&other, alice.socket()).expect("a link");
    for command in ["status", "contacts"] {
        alice.run(&[command]).failed(4, &["open to others"]);
    }
    assert!(listener.accept().is_err(), "nobody has connected to it");
}

#[test]
fn what_a_login_without_a_bus_left_is_found_by_one_that_has_one() {
    let two = Two::verified();
    let alice = &two.alice;
    let accounts = || {
        let status = alice.run(&["status", "--json"]).succeeded().json();
        status["accounts"].as_array().cloned().expect("a list")
    };
    let tubes = || alice.run(&["tubes", "--json"]).succeeded().json();
    alice.run(&["disconnect"]).succeeded();
    let other = OtherLogin(alice);
    other
        .run(&["offer", "x-test", "9", "--to", "bob", "--detach"])
        .succeeded();
    let manager = other.manager().expect("a manager without a bus");

    // Whoever logs in with a bus gets a service there, which finds the profile in use.
    alice.person().kill_manager();
    alice.person().start_manager();
    let kept = tubes();
    assert_eq!(kept[0]["id"], "k1", "{kept}");
    assert_eq!(kept.as_array().map(Vec::len), Some(1));
    let [account] = &accounts()[..] else {
        panic!("one account is online");
    };
    assert_eq!(account["status"], "online");
    alice.run(&["contacts"]).succeeded();
    assert_eq!(tubes()[0]["id"], "k1", "a command leaves it as it was");
    assert_eq!(other.manager(), Some(manager));
    // Another profile goes online where it always did, and both are shown.
    alice
        .run(&["contacts", "--detach", "--profile", "work", "--name", "al"])
        .succeeded();
    let mut profiles: Vec<_> = accounts()
        .iter()
        .map(|account| account["profile"].as_str().map(str::to_owned))
        .collect();
    profiles.sort();
    assert_eq!(profiles, [Some("default".into()), Some("work".into())]);
    let there = other.run(&["status", "--json"]).succeeded().json();
    assert_eq!(there["accounts"].as_array().map(Vec::len), Some(1));

    // It ends where it is, and comes back on the bus.
    alice.run(&["tubes", "--close", "k1"]).succeeded();
    assert_eq!(tubes(), serde_json::json!([]));
    alice.run(&["disconnect"]).succeeded();
    assert_eq!(accounts().len(), 1, "the other profile's stays");
    alice.stay_online();
    assert_eq!(accounts().len(), 2);
    let there = other.run(&["status", "--json"]).succeeded().json();
    assert_eq!(there["accounts"], serde_json::json!([]));
}
