//! Other users of this machine. These tests need root to become one; without it they are left out,
//! except where everything has to run (`CI=true`).

use std::{
    fs::{self, Permissions},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use futures_lite::AsyncReadExt as _;

use super::{Client, Place, accept_one, ip, path, within};
use crate::{endpoint::Listening, model::AddressType};

/// Whether this test can be done.
pub(super) fn as_root(what: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{what} needs root"
    );
    eprintln!("left out: {what} needs root");
    false
}

/// A shell command as the user 65534.
pub(super) fn as_nobody(program: &str, arguments: &[&str]) -> Child {
    Command::new("setpriv")
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
            program,
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What it printed once it has ended.
pub(super) fn output(mut child: Child) -> String {
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    child.wait().unwrap();
    text
}

/// Another user connects, says `intruder`, and then runs this.
fn intrude(listening: &Listening, then: &str) -> Child {
    let address = ip(listening);
    let script = format!(
        "exec 3<>/dev/tcp/{}/{} && printf intruder >&3 && echo in && {then}",
        address.ip(),
        address.port()
    );
    let mut child = as_nobody("bash", &["-c", &script]);
    let mut said = [0; 3];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"in\n");
    child
}

/// The next connection that may come in says this.
fn heard(listening: &Arc<Listening>, length: usize) -> String {
    let mut accepted = accept_one(listening);
    let mut bytes = vec![0; length];
    within(accepted.stream.read_exact(&mut bytes)).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn another_user_does_not_get_into_a_tcp_socket_whatever_it_does() {
    if !as_root("connecting as another user") {
        return;
    }
    let place = Place::new();
    for kind in [AddressType::Ipv4, AddressType::Ipv6] {
        let listening = place.bind(kind);
        // One stays and waits for an answer, one half-closes … and one is gone before we look.
        let stays = intrude(&listening, "cat <&3; echo over");
        let gone = intrude(&listening, "exec 3>&-");
        output(gone);
        let mut own = Client::connect(&listening);
        own.write(b"our own");
        assert_eq!(heard(&listening, 7), "our own");
        assert_eq!(listening.refused(), 2);
        assert_eq!(output(stays), "over\n", "it was let go, and told nothing");
    }
}

#[test]
fn where_any_local_user_is_wanted_another_one_gets_in() {
    if !as_root("connecting as another user") {
        return;
    }
    let mut place = Place::new();
    place.0.any_local_user = true;
    for kind in [AddressType::Ipv4, AddressType::Ipv6] {
        let listening = place.bind(kind);
        let guest = intrude(&listening, "cat <&3");
        assert_eq!(heard(&listening, 8), "intruder");
        assert_eq!(listening.refused(), 0);
        output(guest);
    }
}

/// Another user tries a Unix socket.
fn intrude_unix(listening: &Listening) -> Child {
    let script = "use IO::Socket::UNIX; $| = 1; \
        my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or do { print 'out'; exit }; \
        print $s 'intruder'; $s->flush; print 'in '; print scalar(<$s>) // 'nothing';";
    as_nobody("perl", &["-e", script, path(listening).to_str().unwrap()])
}

#[test]
fn the_directory_keeps_another_user_from_a_unix_socket() {
    if !as_root("connecting as another user") {
        return;
    }
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    assert_eq!(output(intrude_unix(&listening)), "out");
}

#[test]
fn another_user_who_reaches_a_unix_socket_is_told_by_its_uid() {
    if !as_root("connecting as another user") {
        return;
    }
    let place = Place::new();
    let listening = place.bind(AddressType::Unix);
    // Somebody has opened the doors behind our back.
    fs::set_permissions(place.directory(), Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(path(&listening), Permissions::from_mode(0o666)).unwrap();
    let mut intruder = intrude_unix(&listening);
    let mut said = [0; 3];
    intruder
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    assert_eq!(&said, b"in ");
    let mut own = Client::connect(&listening);
    own.write(b"our own");
    assert_eq!(heard(&listening, 7), "our own");
    assert_eq!(listening.refused(), 1);
    assert_eq!(output(intruder), "nothing");
}
