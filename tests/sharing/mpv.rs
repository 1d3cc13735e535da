//! A player nobody here wrote, controlled from the other side with tools nobody here wrote.
//!
//! ```text
//!   mpv ── dbus-daemon ── share() ══ pair of sockets ══ Serving, or own() ◄── playerctl, gdbus, busctl
//! ```

use std::os::unix::net::UnixStream;

use actors::runtime::{Stopper, Task};
use pneuma::client::{Result, sharing::Filter};
use support::{PATIENCE, Process};

use crate::{
    halves::{Ground, PATH, PLAYER, on_bus, welcome},
    hostile::soon,
};

/// What mpv calls itself.
const MPV: &str = "org.mpris.MediaPlayer2.mpv";
/// What it is called on the other side's bus.
const OWN: &str = "org.mpris.MediaPlayer2.bobs";

/// Both halves and what ends them.
type Kept = (Task<Result<()>>, Task<Result<()>>, Stopper);

/// mpv on a bus of its own, silent, without a screen, with something to play and paused.
struct Playing {
    mpv: Process,
    bus: support::Bus,
    ground: Ground,
}

impl Playing {
    fn start() -> Self {
        let ground = Ground::new();
        let bus = ground.bus("offering");
        let song = ground.folder.path().join("Silence.wav");
        std::fs::write(&song, silence()).expect("something to play");
        let home = ground.folder.path().display();
        let mpv = on_bus(
            bus.address(),
            "env",
            &[
                &format!("HOME={home}"),
                &format!("XDG_CONFIG_HOME={home}"),
                "mpv",
                "--ao=null",
                "--no-video",
                "--pause",
                "--loop",
                &song.display().to_string(),
            ],
        );
        // It has its name a little after it has begun.
        let mut waiting = on_bus(
            bus.address(),
            "gdbus",
            &["wait", "--session", "--timeout", "60", MPV],
        );
        assert!(
            waiting.wait(PATIENCE).success(),
            "mpv with mpv-mpris: {}",
            mpv.output()
        );
        // And what it plays a little later still.
        let title = ["--follow", "metadata", "xesam:title"];
        on_bus(bus.address(), "playerctl", &title)
            .wait_for_line(PATIENCE, |line| line.contains("Silence.wav").then_some(()));
        Playing { mpv, bus, ground }
    }

    /// Shares it as `filter` says: the contact's end.
    fn share(&self, filter: impl FnOnce(Filter) -> Filter) -> (UnixStream, Task<Result<()>>) {
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        let filter = filter(Filter::of(MPV).expect("a name"));
        (there, self.ground.share(&self.bus, here, filter))
    }

    /// With a small bus: its address, and what keeps it.
    fn served(&self, filter: impl FnOnce(Filter) -> Filter) -> (String, Kept) {
        let (there, shared) = self.share(filter);
        let (socket, stopper, served) = self.ground.serve(MPV, welcome(there));
        let address = format!("unix:path={}", socket.display());
        let (went, said) = run(
            &address,
            "gdbus",
            &["wait", "--session", "--timeout", "60", MPV],
        );
        assert!(went, "{said}");
        (address, (shared, served, stopper))
    }
}

/// Two minutes of it: a WAV of one channel, a byte a sample.
fn silence() -> Vec<u8> {
    const RATE: u32 = 8000;
    let samples = vec![0x80; RATE as usize * 120];
    let length = u32::try_from(samples.len()).expect("two minutes");
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + length).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(RATE.to_le_bytes());
    wav.extend(RATE.to_le_bytes());
    wav.extend(b"\x01\0\x08\0data");
    wav.extend(length.to_le_bytes());
    wav.extend(samples);
    wav
}

fn run(address: &str, program: &str, arguments: &[&str]) -> (bool, String) {
    let mut process = on_bus(address, program, arguments);
    let status = process.wait(PATIENCE);
    (status.success(), process.output())
}

/// Plays and pauses `player`, called `name`, over there.
fn control(address: &str, player: &str, name: &str) {
    let choose = format!("--player={player}");
    let playerctl = |arguments: &[&str]| {
        let (went, said) = run(address, "playerctl", &[&[&*choose], arguments].concat());
        assert!(went, "{arguments:?}: {said}");
        said
    };
    assert!(playerctl(&["--list-all"]).contains(player));
    assert!(playerctl(&["metadata", "xesam:title"]).contains("Silence.wav"));
    assert!(playerctl(&["status"]).contains("Paused"));
    // It hears of changes by signals.
    let follower = on_bus(address, "playerctl", &[&choose, "--follow", "status"]);
    follower.wait_for_line(PATIENCE, |line| line.contains("Paused").then_some(()));
    playerctl(&["play"]);
    follower.wait_for_line(PATIENCE, |line| line.contains("Playing").then_some(()));
    assert!(playerctl(&["status"]).contains("Playing"));

    let set = ["set-property", name, PATH, PLAYER, "Volume", "d", "0.5"];
    let (went, said) = run(address, "busctl", &[&["--user"], &set[..]].concat());
    assert!(went, "{said}");
    let get = ["get-property", name, PATH, PLAYER, "Volume"];
    let (went, said) = run(address, "busctl", &[&["--user"], &get[..]].concat());
    assert!(went && said.contains("d 0.5"), "{said}");
}

/// Ends it, as its user would.
fn quit(address: &str, name: &str) {
    let quit = [
        "call",
        "--session",
        "--dest",
        name,
        "--object-path",
        PATH,
        "--method",
        "org.mpris.MediaPlayer2.Quit",
    ];
    let (went, said) = run(address, "gdbus", &quit);
    // It may be gone before it has answered.
    assert!(went || said.contains("NoReply"), "{said}");
}

#[test]
fn mpv_is_controlled_at_a_small_bus() {
    let mut playing = Playing::start();
    let (address, _kept) = playing.served(|filter| filter);
    control(&address, "mpv", MPV);
    let monitor = on_bus(&address, "gdbus", &["monitor", "--session", "--dest", MPV]);
    monitor.wait_for_line(PATIENCE, |line| line.contains("is owned by").then_some(()));
    quit(&address, MPV);
    monitor.wait_for_line(PATIENCE, |line| {
        line.contains("does not have an owner").then_some(())
    });
    assert!(playing.mpv.wait(PATIENCE).success());
}

#[test]
fn mpv_is_controlled_on_another_session_bus() {
    let mut playing = Playing::start();
    let other = playing.ground.bus("accepting");
    let (there, _shared) = playing.share(|filter| filter);
    let (_owned, told) = playing.ground.own(&other, MPV, welcome(there), OWN);
    soon(told.recv()).expect("it has its name");
    let address = other.address();
    control(address, "bobs", OWN);
    let monitor = on_bus(address, "gdbus", &["monitor", "--session", "--dest", OWN]);
    monitor.wait_for_line(PATIENCE, |line| line.contains("is owned by").then_some(()));
    quit(address, OWN);
    monitor.wait_for_line(PATIENCE, |line| {
        line.contains("does not have an owner").then_some(())
    });
    assert!(playing.mpv.wait(PATIENCE).success());
}

#[test]
fn mpv_shared_for_reading_plays_on() {
    let playing = Playing::start();
    let shared = |filter: Filter| {
        let filter = filter.object(PATH).expect("a path");
        filter.interface(PLAYER).expect("a name").read_only(true)
    };
    let (address, _kept) = playing.served(shared);
    let get = ["--user", "get-property", MPV, PATH, PLAYER];
    let (went, said) = run(
        &address,
        "busctl",
        &[&get[..], &["PlaybackStatus"]].concat(),
    );
    assert!(went && said.contains("Paused"), "{said}");
    let play = ["--user", "call", MPV, PATH, PLAYER, "Play"];
    let set = [
        "--user",
        "set-property",
        MPV,
        PATH,
        PLAYER,
        "Volume",
        "d",
        "0",
    ];
    let root = "org.mpris.MediaPlayer2";
    let other = ["--user", "get-property", MPV, PATH, root, "Identity"];
    for refused in [&play[..], &set, &other] {
        let (went, said) = run(&address, "busctl", refused);
        assert!(!went && said.contains("Access denied"), "{said}");
    }
    let (_, said) = run(
        &address,
        "busctl",
        &[&get[..], &["PlaybackStatus"]].concat(),
    );
    assert!(said.contains("Paused"), "{said}");
}
