//! Files from one person's command line to another's: files, folders and pipes; who is asked; what is never
//! overwritten; and everything that breaks in between.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
};

use crate::{
    Two,
    pneuma::{Running, feed, noise},
};

/// Two people who verified each other, a folder of Alice's with something to send, and one of Bob's.
pub struct Files {
    pub two: Two,
    pub out: PathBuf,
    pub inn: PathBuf,
    pub bob: String,
}

impl Files {
    pub fn new() -> Self {
        let two = Two::verified();
        let out = two.alice.person().dir().join("out");
        let inn = two.bob.person().dir().join("in");
        fs::create_dir(&out).expect("a folder");
        fs::create_dir(&inn).expect("a folder");
        let bob = two.bob.id();
        Files { two, out, inn, bob }
    }

    /// Bob's command, ready to receive.
    pub fn receiving(&self, more: &[&str]) -> Running {
        let folder = self.inn.to_str().expect("a path");
        let mut arguments = vec!["receive", "--json", "--dir", folder];
        if !more.contains(&"--accept") {
            arguments.extend(["--accept", "pinned"]);
        }
        arguments.extend(more);
        let mut running = self.two.bob.start(&arguments);
        running.event("ready");
        running
    }

    /// Alice's command to send these.
    pub fn sending(&self, what: &[&str]) -> Running {
        let arguments = [&["send", "--json"], what, &[self.bob.as_str()]].concat();
        let mut command = self.two.alice.command(&arguments);
        command.current_dir(&self.out).stdin(Stdio::null());
        Running::start(command)
    }

    /// Something of Alice's to send.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.out.join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// What Bob has, by name.
    pub fn has(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.inn)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_str().expect("a name").to_owned())
            .collect();
        names.sort();
        names
    }

    pub fn is_there(&self, name: &str, bytes: &[u8]) {
        let found = fs::read(self.inn.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found.len(), bytes.len(), "{name}");
        assert!(found == bytes, "{name} is another");
    }
}

#[test]
fn a_file_arrives_as_it_was_and_nothing_is_overwritten() {
    let files = Files::new();
    let bytes = noise(3_000_000);
    let path = files.file("a.txt", &bytes);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).expect("a mode");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890);
    let file = fs::File::options().write(true).open(&path).expect("a file");
    file.set_modified(old).expect("a date");
    files.file("empty", b"");
    fs::write(files.inn.join("a.txt"), "mine").expect("a file");

    let mut receiving = files.receiving(&["--count", "2"]);
    let sent = files.sending(&["a.txt", "empty"]).finish().succeeded();
    assert_eq!(sent.out.matches("\"completed\"").count(), 2, "{sent:?}");
    let first = receiving.event("completed");
    let second = receiving.event("completed");
    let paths = [&first, &second].map(|event| event["path"].as_str().expect("a path").to_owned());
    assert!(
        paths.iter().any(|path| path.ends_with("/a (2).txt")),
        "{paths:?}"
    );
    receiving.finish().succeeded();

    files.is_there("a.txt", b"mine");
    files.is_there("a (2).txt", &bytes);
    files.is_there("empty", b"");
    let metadata = fs::metadata(files.inn.join("a (2).txt")).expect("it is there");
    assert_eq!(metadata.mtime(), 1_234_567_890);
    assert_eq!(metadata.permissions().mode() & 0o700, 0o700);
    assert_eq!(metadata.permissions().mode() & 0o7, 0);
    assert_eq!(files.has(), ["a (2).txt", "a.txt", "empty"]);
}

#[test]
fn a_folder_arrives_with_its_tree() {
    let files = Files::new();
    let tree = files.out.join("tree");
    fs::create_dir_all(tree.join("deep/er")).expect("folders");
    let many = 500;
    for number in 0..many {
        fs::write(tree.join(format!("deep/{number}")), number.to_string()).expect("a file");
    }
    fs::write(tree.join("deep/er/big"), noise(600_000)).expect("a file");
    symlink("deep/er/big", tree.join("link")).expect("a link");
    symlink("/etc/passwd", tree.join("away")).expect("a link");

    let mut receiving = files.receiving(&["--once"]);
    files.sending(&["tree"]).finish().succeeded();
    let done = receiving.event("completed");
    assert_eq!(done["left-out"], 1, "the link that leads away");
    receiving.finish().succeeded();
    assert_eq!(files.has(), ["tree"]);
    for number in 0..many {
        files.is_there(
            &format!("tree/deep/{number}"),
            number.to_string().as_bytes(),
        );
    }
    files.is_there("tree/link", &noise(600_000));
    assert!(fs::symlink_metadata(files.inn.join("tree/away")).is_err());
    let date = |path: &Path| fs::metadata(path).expect("a folder").mtime();
    assert_eq!(date(&files.inn.join("tree/deep")), date(&tree.join("deep")));
}

#[test]
fn a_pipe_arrives_whole_though_nobody_knew_its_size() {
    let files = Files::new();
    let bytes = noise(2_500_000);
    let receiving = files.receiving(&["--once"]);
    let arguments = ["send", "-", &files.bob, "--name", "from-a-pipe"];
    let mut command = files.two.alice.command(&arguments);
    command.stdin(Stdio::piped());
    let mut sending = Running::start(command);
    let feeding = feed(sending.input(), bytes.clone());
    sending.finish().succeeded();
    feeding.join().expect("a thread").expect("it is read");
    receiving.finish().succeeded();
    files.is_there("from-a-pipe", &bytes);

    files
        .two
        .alice
        .run(&["send", "-", &files.bob])
        .failed(2, &["--name"]);
}

#[test]
fn what_cannot_be_sent_is_said_before_anybody_hears_of_it() {
    let files = Files::new();
    files
        .two
        .alice
        .run(&["send", "missing", &files.bob])
        .failed(1, &["missing", "not there"]);
    files
        .two
        .alice
        .run(&["send", "/dev/null", &files.bob])
        .failed(1, &["neither a file nor a folder"]);
    files.file("a", b"x");
    let path = files.out.join("a");
    files
        .two
        .alice
        .run(&[
            "send",
            path.to_str().expect("a path"),
            "nobody@nowhere",
            "--timeout",
            "1",
        ])
        .failed(3, &["nobody@nowhere"]);
    // Bob is there and receives nothing.
    files
        .two
        .alice
        .run(&[
            "send",
            path.to_str().expect("a path"),
            "bob",
            "--timeout",
            "1",
        ])
        .failed(3, &["pneuma receive"]);
    files
        .two
        .bob
        .run(&["receive"])
        .failed(2, &["no terminal", "--accept allowed"]);
    files
        .two
        .bob
        .run(&["receive", "--accept", "pinned", "--dir", "/nonexistent"])
        .failed(1, &["/nonexistent", "not there"]);
}

#[test]
fn what_is_too_large_or_not_trusted_is_declined() {
    let files = Files::new();
    files.file("large", &noise(5000));
    files.file("small", &noise(1000));
    let mut receiving = files.receiving(&["--max-size", "2kB", "--accept", "verified"]);
    files
        .sending(&["large"])
        .finish()
        .failed_with_json(4, "declined");
    assert_eq!(receiving.event("declined")["name"], "large");
    files.sending(&["small"]).finish().succeeded();
    receiving.event("completed");
    // Alice is a stranger from here on.
    files.two.bob.run(&["forget", "alice", "--yes"]).succeeded();
    files
        .sending(&["small"])
        .finish()
        .failed_with_json(4, "declined");
    assert_eq!(receiving.interrupt().code, Some(0));
    assert_eq!(files.has(), ["small"]);
}

#[test]
fn a_stranger_is_never_taken_from_unasked() {
    let two = Two::online();
    let bob = two.bob.id();
    let folder = two.bob.person().dir().to_owned();
    let path = two.alice.person().dir().join("a");
    fs::write(&path, "x").expect("a file");
    let mut receiving = two.bob.start(&[
        "receive",
        "--json",
        "--accept",
        "pinned",
        "--dir",
        folder.to_str().expect("a path"),
    ]);
    receiving.event("ready");
    two.alice
        .run(&["send", path.to_str().expect("a path"), &bob, "--yes"])
        .failed(4, &["does not want \"a\""]);
    assert_eq!(receiving.event("declined")["contact"], two.alice.id());
    let contacts = two.bob.run(&["contacts", "--json"]).succeeded().json();
    assert_eq!(contacts[0]["trust"], "unpinned", "nothing was pinned");
}
