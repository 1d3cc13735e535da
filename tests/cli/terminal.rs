//! Questions, asked on a real terminal (a pseudo-terminal that `script` makes).

use std::{io::Write as _, process::Stdio};

use crate::{
    Two,
    files::Files,
    pneuma::{Pneuma, Ran, Running},
};

/// Runs a command on a terminal and types `typed` into it. What it writes there, standard error
/// too, is its output.
fn typed(who: &Pneuma, arguments: &[&str], typed: &str) -> Ran {
    let quoted: Vec<String> = arguments
        .iter()
        .map(|argument| format!("'{argument}'"))
        .collect();
    let line = format!("exec {} {}", env!("CARGO_BIN_EXE_pneuma"), quoted.join(" "));
    let mut command = who.command_of("script", &["--quiet", "--return", "--command", &line]);
    command
        .arg("/dev/null")
        .env("TERM", "xterm")
        // `script` runs the line by it.
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped());
    let mut running = Running::start(command);
    let mut input = running.input();
    input
        .write_all(typed.as_bytes())
        .expect("the terminal takes it");
    let ran = running.finish();
    drop(input);
    ran
}

#[test]
fn a_stranger_is_shown_and_confirmed() {
    let two = Two::online();
    let bob = two.bob.id();
    let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
    let key = &contacts[0]["fingerprint"].as_str().expect("Bob's key")[..8];
    let offer = ["offer", "x-test", "9", "--to", &bob, "--detach"];
    let no = typed(&two.alice, &offer, "n\n");
    assert_eq!(no.code, Some(4), "{no:?}");
    assert!(no.out.contains(key), "the key is shown: {no:?}");
    assert!(no.out.contains("[y/N]"), "{no:?}");
    let yes = typed(&two.alice, &offer, "y\n");
    assert_eq!(yes.code, Some(0), "{yes:?}");
    let contacts = two.alice.run(&["contacts", "--json"]).succeeded().json();
    assert_eq!(contacts[0]["trust"], "pinned");
}

#[test]
fn codes_are_compared_by_a_person() {
    let two = Two::online();
    let bob = two.bob.id();
    let no = typed(&two.alice, &["verify", &bob], "\n");
    assert_eq!(no.code, Some(4), "{no:?}");
    let yes = typed(&two.alice, &["verify", &bob], "yes\n");
    assert_eq!(yes.code, Some(0), "{yes:?}");
    assert!(yes.out.contains("is verified"), "{yes:?}");
    assert!(
        yes.out.contains("\u{1b}[1m"),
        "a terminal has colour: {yes:?}"
    );
    let no = typed(&two.alice, &["forget", "bob"], "n\n");
    assert_eq!(no.code, Some(4), "{no:?}");
    let yes = typed(&two.alice, &["forget", "bob"], "y\n");
    assert_eq!(yes.code, Some(0), "{yes:?}");
}

#[test]
fn a_file_is_asked_about_unless_a_rule_has_answered() {
    let files = Files::new();
    files.file("a", b"bytes");
    let folder = files.inn.to_str().expect("a path");
    let receive = ["receive", "--once", "--dir", folder];
    let question = "[y/N, a for all";
    for (decision, answer, asked) in [("--ask", "y\n", true), ("--allow", "", false)] {
        let bob = &files.two.bob;
        bob.run(&["policy", "set", "alice", "file-transfer", decision])
            .succeeded();
        let sending = files.sending(&["a"]);
        let received = typed(bob, &receive, answer);
        assert_eq!(received.code, Some(0), "{received:?}");
        assert_eq!(received.out.contains(question), asked, "{received:?}");
        sending.finish().succeeded();
    }
    assert_eq!(files.has(), ["a", "a (2)"]);
}
