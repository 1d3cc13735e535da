//! The program itself: how it starts, leaves and ends.

use std::{process::Command, time::Duration};

use futures_lite::future::block_on;
use support::{Bus, CM_NAME, Events, PATIENCE, Process, service};

struct Program {
    process: Process,
    bus: Bus,
    events: Events,
    dir: tempfile::TempDir,
}

fn command(dir: &tempfile::TempDir, bus: &Bus, arguments: &[&str]) -> Command {
    let mut command = Command::new(service!());
    command
        .args(arguments)
        .env("DBUS_SESSION_BUS_ADDRESS", bus.address())
        .env("XDG_RUNTIME_DIR", dir.path())
        .env("XDG_STATE_HOME", dir.path());
    command
}

fn start(arguments: &[&str]) -> Program {
    start_with(arguments, |service| service)
}

/// The same command, run by `wrapper` with arguments of its own.
fn wrapped(wrapper: &str, arguments: &[&str], service: &Command) -> Command {
    let mut command = Command::new(wrapper);
    command
        .args(arguments)
        .arg(service.get_program())
        .args(service.get_args());
    command.envs(service.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command
}

/// The service that stays, by a command made of its own.
fn start_as(command: impl FnOnce(Command) -> Command) -> Program {
    start_with(&["--persist"], command)
}

fn start_with(arguments: &[&str], by: impl FnOnce(Command) -> Command) -> Program {
    let dir = tempfile::Builder::new()
        .prefix("pneuma-")
        .tempdir_in("/tmp")
        .unwrap();
    let bus = Bus::start(dir.path(), &[]);
    let events = Events::of(bus.connection());
    bus.call(
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
        "org.freedesktop.DBus",
        "AddMatch",
        &"type='signal'",
    )
    .unwrap();
    let process = Process::start("service", &mut by(command(&dir, &bus, arguments)));
    let program = Program {
        process,
        bus,
        events,
        dir,
    };
    program.waits(true);
    program
}

impl Program {
    /// Waits until the name is owned, or is not.
    fn waits(&self, wanted: bool) {
        self.events
            .until(PATIENCE, || {
                let owned: bool = self
                    .bus
                    .call(
                        "org.freedesktop.DBus",
                        "/org/freedesktop/DBus",
                        "org.freedesktop.DBus",
                        "NameHasOwner",
                        &CM_NAME,
                    )
                    .unwrap()
                    .body()
                    .deserialize()
                    .unwrap();
                (owned == wanted).then_some(())
            })
            .unwrap();
    }
}

#[test]
fn signals_end_it_in_order() {
    use rustix::process::Signal;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        // Whoever runs the tests may ignore some of them, and who is started by it does, too.
        let defaults = "--default-signal=TERM,INT,HUP";
        let mut program = start_as(|service| wrapped("env", &[defaults], &service));
        program.process.signal(signal);
        let status = program.process.wait(PATIENCE);
        assert!(status.success(), "{status}: {}", program.process.output());
        program.waits(false);
    }
}

#[test]
fn under_nohup_the_end_of_a_terminal_does_not_end_it() {
    use rustix::process::Signal;
    let mut program = start_as(|service| wrapped("nohup", &[], &service));
    // The kernel throws the signal away, so that there is nothing to wait for.
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.process.id())).unwrap();
    let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    assert_eq!(ignored & 1, 1, "{status}");
    program.process.signal(Signal::HUP);
    program.process.signal(Signal::TERM);
    assert!(program.process.wait(PATIENCE).success());
}

#[test]
fn alone_it_leaves() {
    let mut program = start(&["--leave-after", "1"]);
    assert!(program.process.wait(PATIENCE).success());
    program.waits(false);
}

#[test]
fn a_second_one_says_why_it_does_not_start() {
    let program = start(&["--persist"]);
    let mut second = Process::start("second", &mut command(&program.dir, &program.bus, &[]));
    let status = second.wait(PATIENCE);
    assert!(!status.success());
    assert!(second.output().contains(CM_NAME), "{}", second.output());
}

#[test]
fn without_a_bus_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(service!());
    command.env(
        "DBUS_SESSION_BUS_ADDRESS",
        format!("unix:path={}/none", dir.path().display()),
    );
    let mut process = Process::start("service", &mut command);
    assert!(!process.wait(PATIENCE).success());
    assert!(process.output().contains("bus"), "{}", process.output());
}

#[test]
fn a_signal_ends_it_while_the_bus_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mute");
    let mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut command = Command::new(service!());
    command.env(
        "DBUS_SESSION_BUS_ADDRESS",
        format!("unix:path={}", path.display()),
    );
    let mut process = Process::start("service", &mut command);
    let _connected = mute.accept().unwrap();
    process.signal(rustix::process::Signal::TERM);
    let status = process.wait(PATIENCE);
    assert!(status.success(), "{status}: {}", process.output());
}

#[test]
fn a_bus_that_answers_nothing_any_more_does_not_keep_it() {
    let mut program = start(&["--persist"]);
    let bus = "org.freedesktop.DBus";
    let method = "GetConnectionUnixProcessID";
    let answer = program
        .bus
        .call(bus, "/org/freedesktop/DBus", bus, method, &bus)
        .unwrap();
    let pid: u32 = answer.body().deserialize().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    program.process.signal(rustix::process::Signal::TERM);
    let status = program.process.wait(Duration::from_secs(10));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert!(status.success(), "{status}: {}", program.process.output());
}

#[test]
fn it_lives_on_when_nobody_reads_its_log_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::start(dir.path(), &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command(&dir, &bus, &["--leave-after", "0"]);
    let status = command.stderr(writer).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn it_tells_its_version() {
    let output = Command::new(service!()).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text.trim(),
        concat!("telepathy-pneuma ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn a_flood_of_calls_is_answered_to_the_last() {
    let program = start(&["--persist"]);
    let connection = program.bus.connection();
    block_on(async {
        for _ in 0..20 {
            let calls = (0..200).map(|_| {
                connection.call_method(
                    Some(CM_NAME),
                    support::CM_PATH,
                    Some("org.freedesktop.Telepathy.ConnectionManager"),
                    "ListProtocols",
                    &(),
                )
            });
            for call in calls.collect::<Vec<_>>() {
                call.await.unwrap();
            }
        }
    });
}
