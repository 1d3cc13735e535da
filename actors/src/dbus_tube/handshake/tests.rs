//! Who is let in, and who is not.

use super::*;

const GUID: Guid = Guid([0xab; 16]);
const OK: &str = "OK abababababababababababababababab\r\n";

fn of(user: Option<u32>, anonymous: bool) -> Handshake {
    Handshake::new(GUID, Admittance { user, anonymous }, false)
}

/// What is answered to all of this, and what is left behind BEGIN.
fn answers(mut handshake: Handshake, input: &str) -> (Result<bool, Refused>, String, String) {
    let mut answer = Vec::new();
    let taken = handshake.feed(input.as_bytes(), &mut answer);
    let left = taken.map_or("", |taken| &input[taken..]).to_owned();
    let answer = String::from_utf8(answer).unwrap();
    (taken.map(|_| handshake.is_done()), answer, left)
}

#[test]
fn each_library_is_let_in() {
    let reject = "REJECTED EXTERNAL\r\n";
    for (library, says, hears) in [
        (
            "libdbus",
            "\0AUTH EXTERNAL 31303030\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n",
            format!("{OK}ERROR\r\n"),
        ),
        (
            "GDBus",
            "\0AUTH\r\nAUTH EXTERNAL 31303030\r\nBEGIN\r\n",
            format!("{reject}{OK}"),
        ),
        (
            "sd-bus, and who does not wait for answers",
            "\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n",
            format!("DATA\r\n{OK}ERROR\r\n"),
        ),
    ] {
        let says = format!("{says}l the first message");
        let heard = answers(of(Some(1000), false), &says);
        assert_eq!(
            heard,
            (Ok(true), hears, "l the first message".into()),
            "{library}"
        );
    }
}

#[test]
fn a_byte_at_a_time_is_the_same() {
    let mut handshake = of(Some(0), false);
    let mut answer = Vec::new();
    for byte in b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n" {
        assert!(!handshake.is_done());
        assert_eq!(handshake.feed(&[*byte], &mut answer), Ok(1));
    }
    assert!(handshake.is_done());
    assert_eq!(answer, OK.as_bytes());
    assert_eq!(handshake.feed(b"l", &mut answer), Ok(0));
}

#[test]
fn the_claim_must_be_what_the_kernel_says() {
    let reject = "REJECTED EXTERNAL\r\n";
    for claim in [
        "30",
        "313030",
        "3130303030",
        "zz",
        "31303030 ",
        "root",
        "2b31303030",
        "3031303030",
    ] {
        let says = format!("\0AUTH EXTERNAL {claim}\r\n");
        assert_eq!(answers(of(Some(1000), false), &says).1, reject, "{claim}");
    }
    // A kernel that does not say is no reason to believe the claim.
    for claim in ["AUTH EXTERNAL 31303030\r\n", "AUTH EXTERNAL \r\n"] {
        assert_eq!(answers(of(None, false), &format!("\0{claim}")).1, reject);
    }
    let later = answers(
        of(Some(1000), false),
        "\0AUTH EXTERNAL\r\nDATA 30\r\nBEGIN\r\n",
    );
    assert_eq!(later.0, Err(Refused::Unauthenticated));
}

#[test]
fn nobody_begins_without_an_ok() {
    for says in [
        "\0BEGIN\r\n",
        "\0AUTH EXTERNAL\r\nBEGIN\r\n",
        "\0AUTH EXTERNAL 31303030\r\nCANCEL\r\nBEGIN\r\n",
        "\0AUTH EXTERNAL 31303030\r\nERROR\r\nBEGIN\r\n",
        "\0AUTH DBUS_COOKIE_SHA1 31303030\r\nBEGIN\r\n",
        "\0AUTH ANONYMOUS\r\nBEGIN\r\n",
    ] {
        let heard = answers(of(Some(1000), false), says);
        assert_eq!(heard.0, Err(Refused::Unauthenticated), "{says:?}");
    }
}

#[test]
fn anonymous_is_for_localhost_alone() {
    let says = "\0AUTH ANONYMOUS 7a\r\nBEGIN\r\n";
    let heard = answers(of(None, true), says);
    assert_eq!(heard, (Ok(true), OK.into(), String::new()));
    let list = answers(of(Some(1), true), "\0AUTH\r\n").1;
    assert_eq!(list, "REJECTED EXTERNAL ANONYMOUS\r\n");
    // And a wrong claim is one there too.
    let heard = answers(of(Some(1), true), "\0AUTH EXTERNAL 30\r\n").1;
    assert_eq!(heard, "REJECTED EXTERNAL ANONYMOUS\r\n");
}

#[test]
fn after_a_cancel_it_may_begin_anew() {
    let says =
        "\0AUTH EXTERNAL\r\nCANCEL\r\nAUTH EXTERNAL 31303030\r\nHELLO\r\n\r\n\u{e9}\r\nBEGIN\r\n";
    let heard = answers(of(Some(1000), false), says);
    let hears = format!("DATA\r\nREJECTED EXTERNAL\r\n{OK}ERROR\r\nERROR\r\nERROR\r\n");
    assert_eq!(heard, (Ok(true), hears, String::new()));
}

#[test]
fn what_never_ends_is_ended() {
    let mut answer = Vec::new();
    assert_eq!(
        of(Some(1), false).feed(b"A", &mut answer),
        Err(Refused::NoZero)
    );
    let long = [&[0][..], &vec![b'A'; 2 * MAX_LINE]].concat();
    assert_eq!(
        of(Some(1), false).feed(&long, &mut answer),
        Err(Refused::LongLine)
    );
    let many = format!("\0{}", "AUTH\r\n".repeat(MAX_LINES + 1));
    assert_eq!(
        of(Some(1), false).feed(many.as_bytes(), &mut answer),
        Err(Refused::ManyLines)
    );
    assert!(answer.len() < 4096);
}

#[test]
fn the_longest_line_and_the_last_one_are_taken() {
    let line = |length: usize| format!("\0{}\r\n", "A".repeat(length));
    let heard = answers(of(Some(1000), false), &line(MAX_LINE));
    assert_eq!(heard, (Ok(false), "ERROR\r\n".into(), String::new()));
    let heard = answers(of(Some(1000), false), &line(MAX_LINE + 1));
    assert_eq!(heard.0, Err(Refused::LongLine));
    let lines = |many: usize| {
        let idle = "HELLO\r\n".repeat(many - 2);
        format!("\0{idle}AUTH EXTERNAL 31303030\r\nBEGIN\r\n")
    };
    let heard = answers(of(Some(1000), false), &lines(MAX_LINES));
    assert_eq!(heard.0, Ok(true));
    let heard = answers(of(Some(1000), false), &lines(MAX_LINES + 1));
    assert_eq!(heard.0, Err(Refused::ManyLines));
}

#[test]
fn who_is_refused_stays_so() {
    let (mut handshake, mut answer) = (of(Some(1000), false), Vec::new());
    let refused = Err(Refused::Unauthenticated);
    assert_eq!(handshake.feed(b"\0BEGIN\r\n", &mut answer), refused);
    let better = b"AUTH EXTERNAL 31303030\r\nBEGIN\r\n";
    assert_eq!(handshake.feed(better, &mut answer), refused);
    assert!(!handshake.is_done() && answer.is_empty());
}

#[test]
fn the_zero_may_have_been_taken() {
    let admittance = Admittance {
        user: Some(1000),
        anonymous: false,
    };
    let handshake = Handshake::new(GUID, admittance, true);
    let heard = answers(handshake, "AUTH EXTERNAL 31303030\r\nBEGIN\r\n");
    assert_eq!(heard, (Ok(true), OK.into(), String::new()));
}
