//! Disks that are full, folders that vanish or may not be written to; and the questions that `receive` asks.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    files::Files,
    pneuma::{Running, feed, noise},
};

/// A small file system at a folder, which only root can make. Taken away on drop.
struct Small(PathBuf);

impl Small {
    fn at(folder: &Path, options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let small = Small(folder.to_owned());
        small.mount(options);
        Some(small)
    }

    fn mount(&self, options: &str) {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "none"])
            .arg(&self.0)
            .status();
        assert!(status.expect("mount runs").success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let files = Files::new();
    let Some(small) = Small::at(&files.inn, "size=4m") else {
        return;
    };
    // What is known to be too large is not begun.
    files.file("large", &noise(5_000_000));
    let mut receiving = files.receiving(&[]);
    files
        .sending(&["large"])
        .finish()
        .failed_with_json(4, "declined");
    let declined = receiving.event("declined");
    let why = declined["reason"].as_str().unwrap_or_default();
    assert!(why.contains("the disk has room for"), "{declined}");

    // Of a pipe nobody knows it.
    let bytes = noise(8_000_000);
    let arguments = ["send", "-", &files.bob, "--name", "pipe", "--json"];
    let mut command = files.two.alice.command(&arguments);
    command.stdin(Stdio::piped());
    let mut sending = Running::start(command);
    let feeding = feed(sending.input(), bytes.clone());
    let full = receiving.finish();
    assert_eq!(full.code, Some(1), "{full:?}");
    assert!(full.err.contains("the disk is full"), "{full:?}");
    assert_eq!(files.has(), ["pipe.part"]);
    sending.event("broken");

    // There is room now, and it goes on.
    small.mount("remount,size=64m");
    let mut receiving = files.receiving(&["--once"]);
    assert!(receiving.event("flowing")["offset"].as_u64() > Some(1_000_000));
    receiving.finish().succeeded();
    sending.finish().succeeded();
    feeding.join().expect("a thread").expect("it is read");
    files.is_there("pipe", &bytes);
    assert_eq!(files.has(), ["pipe"]);
}

#[test]
fn a_folder_that_may_not_be_written_to_is_said_before_anything_is_taken() {
    let files = Files::new();
    let Some(_small) = Small::at(&files.inn, "ro,size=1m") else {
        return;
    };
    let folder = files.inn.to_str().expect("a path");
    files
        .two
        .bob
        .run(&["receive", "--accept", "pinned", "--dir", folder])
        .failed(1, &[folder, "nothing can be written"]);
}

#[test]
fn a_folder_that_vanishes_ends_the_command_and_not_the_transfer() {
    let files = Files::new();
    let bytes = noise(100_000);
    files.file("a", &bytes);
    let receiving = files.receiving(&[]);
    let away = files.inn.with_file_name("away");
    fs::rename(&files.inn, &away).expect("it is moved");
    let mut sending = files.sending(&["a"]);
    let ended = receiving.finish();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("it is not there"), "{ended:?}");
    fs::rename(&away, &files.inn).expect("it is moved back");
    let receiving = files.receiving(&["--once"]);
    sending.event("completed");
    receiving.finish().succeeded();
    files.is_there("a", &bytes);
}

/// Bob's `receive` on a terminal.
fn on_a_terminal(files: &Files) -> Running {
    let line = format!(
        "exec {} receive --once --dir '{}'",
        env!("CARGO_BIN_EXE_pneuma"),
        files.inn.display()
    );
    let arguments = ["--quiet", "--return", "--command", &line, "/dev/null"];
    let mut command = files.two.bob.command_of("script", &arguments);
    command
        .env("TERM", "xterm")
        // `script` runs the line by it.
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped());
    Running::start(command)
}

#[test]
fn a_person_is_asked_and_says_yes() {
    let files = Files::new();
    files.file("a.txt", &noise(2048));
    let sending = files.sending(&["a.txt"]);
    let mut receiving = on_a_terminal(&files);
    let mut input = receiving.input();
    input.write_all(b"y\n").expect("the terminal takes it");
    sending.finish().succeeded();
    let ran = receiving.finish();
    drop(input);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let question = format!(
        "{} (verified) sends \"a.txt\" (2.00 KiB).",
        files.two.alice.id()
    );
    assert!(ran.out.contains(&question), "{ran:?}");
    files.is_there("a.txt", &noise(2048));
}

#[test]
fn a_person_is_asked_and_says_no() {
    let files = Files::new();
    files.file("a.txt", b"x");
    let sending = files.sending(&["a.txt"]);
    let mut receiving = on_a_terminal(&files);
    let mut input = receiving.input();
    input.write_all(b"n\n").expect("the terminal takes it");
    sending.finish().failed_with_json(4, "declined");
    // Ctrl-C, as the terminal sends it.
    input.write_all(b"\x03").expect("the terminal takes it");
    let ran = receiving.finish();
    drop(input);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(files.has(), Vec::<String>::new());
}
