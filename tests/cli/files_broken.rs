//! Files that go on after what broke them: Ctrl-C, a killed command, a killed service, at either end; connections
//! that were reset.
//!
//! A transfer is caught in the middle by stopping the receiving command as soon as something has arrived: from
//! there on it moves no more than what the sockets between hold.

use std::{
    env, fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use support::{
    PATIENCE,
    storm::{ip, reset_connections},
};

use crate::{
    files::Files,
    pneuma::{Running, noise},
};

/// Larger than what all sockets and buffers between two commands can hold.
const SIZE: usize = 96 * 1024 * 1024;
/// For how long somebody sleeps, or the link is down: TCP tries again some times meanwhile. Longer than anybody waits
/// is what `cargo bench --bench survive` does.
const A_WHILE: Duration = Duration::from_secs(3);
/// Set where the network namespace is ours.
const INSIDE: &str = "PNEUMA_TEST_INSIDE";

fn process(id: u32) -> Pid {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    id.expect("a process")
}

/// A transfer of `large` from Alice to Bob that has begun and stands still.
struct Caught {
    files: Files,
    bytes: Vec<u8>,
    sending: Running,
    receiving: Running,
}

impl Caught {
    fn new() -> Self {
        let files = Files::new();
        let bytes = noise(SIZE);
        files.file("large", &bytes);
        let mut receiving = files.receiving(&["--once"]);
        let sending = files.sending(&["large"]);
        // Looked at without a pause: a hundred milliseconds later it would be over.
        let part = files.inn.join("large.part");
        let length = || fs::metadata(&part).map_or(0, |metadata| metadata.len());
        let deadline = Instant::now() + PATIENCE;
        while length() == 0 {
            assert!(Instant::now() < deadline, "nothing arrives");
            std::thread::yield_now();
        }
        receiving.signal(Signal::STOP);
        assert!(length() < SIZE as u64, "it was too quick to be caught");
        receiving.event("flowing");
        Caught {
            files,
            bytes,
            sending,
            receiving,
        }
    }

    /// It has arrived, and little of it went twice.
    fn arrived(files: &Files, bytes: &[u8], mut sending: Running, receiving: Running) {
        let done = sending.event("completed");
        sending.finish().succeeded();
        receiving.finish().succeeded();
        files.is_there("large", bytes);
        assert_eq!(files.has(), ["large"]);
        let handed = done["handed"].as_u64().expect("a number");
        assert!(handed < 2 * SIZE as u64, "{handed} bytes for {SIZE}");
    }
}

#[test]
fn ctrl_c_at_the_sender_stops_it_and_the_same_command_goes_on() {
    let mut caught = Caught::new();
    assert_eq!(caught.sending.interrupt().code, Some(130));
    caught.receiving.signal(Signal::CONT);
    let broken = caught.receiving.event("broken");
    assert!(broken["bytes"].as_u64() > Some(0), "{broken}");
    assert_eq!(caught.files.has(), ["large.part"]);
    let sending = caught.files.sending(&["large"]);
    let flowing = caught.receiving.event("flowing");
    assert_eq!(flowing["offset"], broken["bytes"]);
    Caught::arrived(&caught.files, &caught.bytes, sending, caught.receiving);
}

#[test]
fn ctrl_c_at_the_receiver_is_no_refusal() {
    let mut caught = Caught::new();
    caught.receiving.signal(Signal::INT);
    caught.receiving.signal(Signal::CONT);
    assert_eq!(caught.receiving.finish().code, Some(130));
    caught.sending.event("broken");
    let mut receiving = caught.files.receiving(&["--once"]);
    assert!(receiving.event("flowing")["offset"].as_u64() > Some(0));
    Caught::arrived(&caught.files, &caught.bytes, caught.sending, receiving);
}

#[test]
fn a_killed_receiver_goes_on_when_it_is_back() {
    let mut caught = Caught::new();
    caught.receiving.signal(Signal::KILL);
    assert_eq!(caught.receiving.finish().code, None);
    caught.sending.event("broken");
    let mut receiving = caught.files.receiving(&["--once"]);
    assert!(receiving.event("flowing")["offset"].as_u64() > Some(0));
    Caught::arrived(&caught.files, &caught.bytes, caught.sending, receiving);
}

#[test]
fn a_killed_sender_goes_on_when_the_same_command_is_run_again() {
    let mut caught = Caught::new();
    caught.sending.signal(Signal::KILL);
    assert_eq!(caught.sending.finish().code, None);
    caught.receiving.signal(Signal::CONT);
    caught.receiving.event("broken");
    let sending = caught.files.sending(&["large"]);
    assert!(caught.receiving.event("flowing")["offset"].as_u64() > Some(0));
    Caught::arrived(&caught.files, &caught.bytes, sending, caught.receiving);
}

#[test]
fn a_killed_service_of_the_receiver_s_is_started_again() {
    let mut caught = Caught::new();
    caught.files.two.bob.person().kill_manager();
    caught.receiving.signal(Signal::CONT);
    assert!(caught.receiving.event("flowing")["offset"].as_u64() > Some(0));
    Caught::arrived(
        &caught.files,
        &caught.bytes,
        caught.sending,
        caught.receiving,
    );
}

#[test]
fn a_killed_service_of_the_sender_s_is_started_again() {
    let mut caught = Caught::new();
    caught.files.two.alice.person().kill_manager();
    caught.receiving.signal(Signal::CONT);
    assert!(caught.receiving.event("flowing")["offset"].as_u64() > Some(0));
    Caught::arrived(
        &caught.files,
        &caught.bytes,
        caught.sending,
        caught.receiving,
    );
}

#[test]
fn what_resets_every_connection_between_the_two_stops_nothing() {
    let mut caught = Caught::new();
    reset_connections(process(caught.files.two.alice.person().manager_id()));
    caught.sending.event("broken");
    caught.receiving.signal(Signal::CONT);
    assert!(caught.receiving.event("flowing")["offset"].as_u64() > Some(0));
    Caught::arrived(
        &caught.files,
        &caught.bytes,
        caught.sending,
        caught.receiving,
    );
}

#[test]
fn a_file_that_is_another_by_now_begins_anew() {
    let mut caught = Caught::new();
    assert_eq!(caught.sending.interrupt().code, Some(130));
    caught.receiving.signal(Signal::CONT);
    caught.receiving.event("broken");
    let other = noise(1000);
    caught.files.file("large", &other);
    let sending = caught.files.sending(&["large"]).finish().succeeded();
    assert!(sending.out.contains("\"offset\":0"), "{sending:?}");
    caught.receiving.finish().succeeded();
    caught.files.is_there("large", &other);
    // What was begun before is kept; who sends that very file again goes on with it.
    assert_eq!(caught.files.has(), ["large", "large.part"]);
}

#[test]
fn what_the_receiver_has_is_compared_and_not_believed() {
    let mut caught = Caught::new();
    caught.receiving.signal(Signal::KILL);
    assert_eq!(caught.receiving.finish().code, None);
    caught.sending.event("broken");
    // A disk that keeps something else than was written.
    let part = caught.files.inn.join("large.part");
    let file = fs::File::options().write(true).open(&part).expect("a file");
    std::os::unix::fs::FileExt::write_all_at(&file, b"spoiled", 5).expect("it is ours");
    let mut receiving = caught.files.receiving(&["--once"]);
    assert_eq!(receiving.event("flowing")["offset"], 0);
    Caught::arrived(&caught.files, &caught.bytes, caught.sending, receiving);
}

#[test]
fn a_receiver_killed_before_it_has_connected_keeps_nobody_waiting() {
    let files = Files::new();
    let bytes = noise(1000);
    files.file("small", &bytes);
    let mut receiving = files.receiving(&[]);
    receiving.signal(Signal::STOP);
    let mut sending = files.sending(&["small"]);
    files.two.bob.person().wait_for("an offer", |event| {
        (event.member == "NewChannels").then_some(())
    });
    // So nothing is there to connect for: what the receiver agrees to cannot be opened.
    let service = process(files.two.alice.person().manager_id());
    kill_process(service, Signal::STOP).expect("it runs");
    receiving.signal(Signal::CONT);
    receiving.event("accepted");
    receiving.signal(Signal::KILL);
    assert_eq!(receiving.finish().code, None);
    kill_process(service, Signal::CONT).expect("it runs");
    sending.event("broken");
    let receiving = files.receiving(&["--once"]);
    sending.event("completed");
    sending.finish().succeeded();
    receiving.finish().succeeded();
    files.is_there("small", &bytes);
    assert_eq!(files.has(), ["small"]);
}

/// One side's service and command sleep for a while; `meanwhile` is what happens first.
fn sleep(service: u32, command: &Running, meanwhile: impl FnOnce()) {
    let service = process(service);
    kill_process(service, Signal::STOP).expect("it runs");
    command.signal(Signal::STOP);
    meanwhile();
    thread::sleep(A_WHILE);
    kill_process(service, Signal::CONT).expect("it is there");
    command.signal(Signal::CONT);
}

/// All of it has arrived, and nothing of it went twice.
fn arrived_at_once(mut caught: Caught) {
    let done = caught.sending.event("completed");
    assert_eq!(done["handed"], SIZE);
    caught.sending.finish().succeeded();
    let received = caught.receiving.finish().succeeded();
    assert!(!received.out.contains("\"broken\""), "{received:?}");
    caught.files.is_there("large", &caught.bytes);
}

#[test]
fn a_sender_that_slept_goes_on_where_it_was() {
    let caught = Caught::new();
    let service = caught.files.two.alice.person().manager_id();
    sleep(service, &caught.sending, || {
        caught.receiving.signal(Signal::CONT);
    });
    arrived_at_once(caught);
}

#[test]
fn a_receiver_that_slept_goes_on_where_it_was() {
    let caught = Caught::new();
    let service = caught.files.two.bob.person().manager_id();
    sleep(service, &caught.receiving, || ());
    arrived_at_once(caught);
}

/// In a network namespace of its own, whose only link is loopback: this test again, run by `unshare`.
#[test]
fn a_link_that_was_down_costs_no_more_than_what_was_on_its_way() {
    if env::var_os(INSIDE).is_none() {
        let name = thread::current().name().expect("a test's").to_owned();
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        let ran = command
            .args(["--net", "--"])
            .arg(env::current_exe().expect("this program"))
            .args(["--exact", "--nocapture", &name])
            .env(INSIDE, "1")
            .stdin(Stdio::null())
            .output();
        let ran = ran.expect("unshare (util-linux) can be run");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        return;
    }
    ip(&["link", "set", "lo", "up"]);
    let caught = Caught::new();
    ip(&["link", "set", "lo", "down"]);
    caught.receiving.signal(Signal::CONT);
    thread::sleep(A_WHILE);
    ip(&["link", "set", "lo", "up"]);
    Caught::arrived(
        &caught.files,
        &caught.bytes,
        caught.sending,
        caught.receiving,
    );
}
