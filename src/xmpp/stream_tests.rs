//! Streams of both roles against each other and against peers that do not keep the rules.

use super::*;
use crate::xmpp::stanza::{Iq, IqKind, Message};

fn config(role: Role, require_tls: bool) -> StreamConfig {
    let (us, them) = match role {
        Role::Initiator => ("romeo@forza #2", Some("juliet@pronto")),
        Role::Recipient => ("juliet@pronto", None),
    };
    StreamConfig {
        role,
        us: us.into(),
        them: them.map(str::to_owned),
        id: "id1".into(),
        require_tls,
    }
}

fn recipient(require_tls: bool) -> Stream {
    let (stream, actions) = Stream::new(config(Role::Recipient, require_tls));
    assert_eq!(actions, []);
    stream
}

fn initiator(require_tls: bool) -> Stream {
    let (stream, actions) = Stream::new(config(Role::Initiator, require_tls));
    assert!(matches!(&actions[..], [Action::Write(_)]));
    stream
}

fn written(actions: &[Action]) -> String {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Write(bytes) => Some(String::from_utf8_lossy(bytes)),
            _ => None,
        })
        .collect()
}

fn failure(actions: &[Action]) -> &StreamError {
    match actions.last() {
        Some(Action::Fail(error)) => error,
        other => panic!("did not fail: {other:?}"),
    }
}

const HEADER: &str = "<stream:stream xmlns='jabber:client' from='juliet@pronto' \
    xmlns:stream='http://etherx.jabber.org/streams' version='1.0' id='x'>";
const OLD_HEADER: &str = "<stream:stream xmlns='jabber:client' from='juliet@pronto' \
    xmlns:stream='http://etherx.jabber.org/streams'>";

/// Runs two streams against each other, `chunk` bytes at a time, until nothing moves. Gives what
/// each had to tell.
fn talk(a: &mut Stream, b: &mut Stream, first: Vec<Action>, chunk: usize) -> [Vec<Action>; 2] {
    let mut told = [Vec::new(), Vec::new()];
    let mut wires = [Vec::new(), Vec::new()];
    let mut tls = [false, false];
    let mut take = |side: usize, actions: Vec<Action>, wires: &mut [Vec<u8>; 2]| {
        for action in actions {
            match action {
                Action::Write(bytes) => wires[side].extend(bytes),
                other => told[side].push(other),
            }
        }
        told[side].last() == Some(&Action::StartTls)
    };
    tls[0] |= take(0, first, &mut wires);
    loop {
        let mut moved = false;
        for side in [0, 1] {
            let bytes = std::mem::take(&mut wires[side]);
            for part in bytes.chunks(chunk) {
                moved = true;
                let other = 1 - side;
                let stream = if other == 0 { &mut *a } else { &mut *b };
                let actions = stream.feed(part);
                tls[other] |= take(other, actions, &mut wires);
            }
        }
        if tls == [true, true] && !moved {
            tls = [false, false];
            moved = true;
            let (one, two) = (a.secured(), b.secured());
            take(0, one, &mut wires);
            take(1, two, &mut wires);
        }
        if !moved {
            return told;
        }
    }
}

#[test]
fn two_peers_upgrade_to_tls_and_are_established_inside() {
    for chunk in [1, 7, 10_000] {
        let (mut a, first) = Stream::new(config(Role::Initiator, true));
        let mut b = recipient(true);
        let [at_a, at_b] = talk(&mut a, &mut b, first, chunk);
        let [
            Action::StartTls,
            Action::Established {
                peer,
                secured: true,
            },
        ] = &at_a[..]
        else {
            panic!("{at_a:?}");
        };
        assert_eq!(peer.from.as_deref(), Some("juliet@pronto"));
        assert_eq!(peer.id.as_deref(), Some("id1-s"));
        let [
            Action::StartTls,
            Action::Established {
                peer,
                secured: true,
            },
        ] = &at_b[..]
        else {
            panic!("{at_b:?}");
        };
        assert_eq!(peer.from.as_deref(), Some("romeo@forza #2"));
        assert_eq!(peer.to.as_deref(), Some("juliet@pronto"));

        let message = Message::new("romeo@forza #2", "juliet@pronto", vec![]);
        let bytes = a.send(&message.to_element()).unwrap();
        assert_eq!(b.feed(&bytes), [Action::Stanza(Stanza::Message(message))]);
        let closing = a.close();
        let [at_a, at_b] = talk(&mut a, &mut b, closing, chunk);
        assert_eq!((at_a, at_b), (vec![Action::Closed], vec![Action::Closed]));
        assert!(a.is_over() && b.is_over());
    }
}

#[test]
fn nothing_can_be_sent_before_the_stream_is_established() {
    let mut stream = initiator(true);
    let stanza = Message::new("a", "b", vec![]).to_element();
    assert_eq!(stream.send(&stanza), Err(SendError::NotEstablished));
    stream.feed(HEADER.as_bytes());
    assert_eq!(stream.send(&stanza), Err(SendError::NotEstablished));
}

#[test]
fn an_initiator_that_needs_tls_stops_when_it_is_stripped() {
    for stripped in [
        OLD_HEADER.to_owned(),
        format!("{HEADER}<stream:features/>"),
        format!("{HEADER}<stream:features><starttls xmlns='other'/></stream:features>"),
    ] {
        let mut stream = initiator(true);
        let actions = stream.feed(stripped.as_bytes());
        assert!(matches!(failure(&actions), StreamError::TlsUnavailable(_)));
        assert!(written(&actions).contains("policy-violation"));
        assert!(stream.is_over());
    }
}

#[test]
fn an_initiator_stops_when_tls_is_refused() {
    for answer in [
        "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
        "<message/>",
    ] {
        let mut stream = initiator(false);
        let offer = format!(
            "{HEADER}<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\
             </stream:features>"
        );
        assert!(written(&stream.feed(offer.as_bytes())).contains("<starttls"));
        let actions = stream.feed(answer.as_bytes());
        assert!(matches!(failure(&actions), StreamError::TlsUnavailable(_)));
    }
}

#[test]
fn a_recipient_that_needs_tls_hands_on_nothing_in_plaintext() {
    let mut stream = recipient(true);
    let actions = stream.feed(HEADER.as_bytes());
    let features = written(&actions);
    assert!(features.contains("<required"), "{features}");
    let actions = stream.feed(b"<message><body>hello</body></message>");
    assert!(matches!(failure(&actions), StreamError::TlsUnavailable(_)));
    assert!(!actions.iter().any(|a| matches!(a, Action::Stanza(_))));

    let mut stream = recipient(true);
    let actions = stream.feed(OLD_HEADER.as_bytes());
    assert!(matches!(failure(&actions), StreamError::TlsUnavailable(_)));
    assert!(!written(&actions).contains("version='1.0'>"));
}

#[test]
fn plaintext_is_taken_where_it_is_allowed() {
    // Pidgin: no version, no features, stanzas at once.
    let mut stream = recipient(false);
    let actions = stream.feed(format!("{OLD_HEADER}<message/>").as_bytes());
    assert!(matches!(
        &actions[..],
        [
            Action::Write(_),
            Action::Established { secured: false, .. },
            Action::Stanza(_)
        ]
    ));
    assert!(!written(&actions).contains("version='1.0'>"));
    assert!(written(&actions).contains("to='juliet@pronto'"));

    // A peer that knows features and does not care for TLS.
    let mut stream = recipient(false);
    let actions = stream.feed(format!("{HEADER}<message/>").as_bytes());
    assert!(!written(&actions).contains("required"));
    assert!(matches!(
        &actions[2..],
        [
            Action::Established { secured: false, .. },
            Action::Stanza(_)
        ]
    ));

    let mut stream = initiator(false);
    let actions = stream.feed(OLD_HEADER.as_bytes());
    assert!(matches!(
        &actions[..],
        [Action::Established { secured: false, .. }]
    ));
}

#[test]
fn plaintext_after_the_agreement_on_tls_ends_the_stream_silently() {
    let mut stream = recipient(true);
    let injected = format!(
        "{HEADER}<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><iq id='1' type='get'/>"
    );
    let actions = stream.feed(injected.as_bytes());
    assert!(matches!(failure(&actions), StreamError::Local { .. }));
    assert!(!actions.contains(&Action::StartTls));
    let written = written(&actions);
    assert!(
        written.ends_with("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
        "{written}"
    );

    let mut stream = initiator(true);
    stream.feed(
        format!(
            "{HEADER}<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\
             </stream:features>"
        )
        .as_bytes(),
    );
    let actions = stream.feed(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>\n<message/>");
    assert!(matches!(failure(&actions), StreamError::Local { .. }));

    // In two reads as well.
    let mut stream = recipient(true);
    stream.feed(HEADER.as_bytes());
    let actions = stream.feed(b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert_eq!(actions.last(), Some(&Action::StartTls));
    assert!(matches!(&stream.feed(b"x")[..], [Action::Fail(_)]));
}

#[test]
fn errors_of_the_xml_tell_the_peer_their_condition() {
    for (text, condition) in [
        ("<message></iq>", "not-well-formed"),
        ("<!DOCTYPE x>", "not-well-formed"),
        ("<!-- x -->", "restricted-xml"),
        ("<?pi x?>", "restricted-xml"),
        ("<message>&x;</message>", "restricted-xml"),
        ("hello <message/>", "bad-format"),
        ("<message xmlns='other'/>", "unsupported-stanza-type"),
    ] {
        let mut stream = recipient(false);
        stream.feed(OLD_HEADER.as_bytes());
        let actions = stream.feed(text.as_bytes());
        assert!(
            matches!(failure(&actions), StreamError::Local { .. }),
            "{text}"
        );
        assert!(written(&actions).contains(condition), "{text}: {actions:?}");
        assert_eq!(stream.feed(b"<message/>"), []);
    }
    // Before our header went out it goes out with the error.
    let mut stream = recipient(true);
    let actions = stream.feed(b"GET / HTTP/1.1\r\n");
    assert!(written(&actions).starts_with("<?xml"));
    assert!(matches!(failure(&actions), StreamError::Local { .. }));
    for header in [
        "<stream xmlns='jabber:client'>",
        "<s:stream xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:server'>",
        "<s:other xmlns:s='http://etherx.jabber.org/streams' xmlns='jabber:client'>",
    ] {
        let actions = recipient(true).feed(header.as_bytes());
        assert!(
            matches!(failure(&actions), StreamError::Local { .. }),
            "{header}"
        );
    }
}

#[test]
fn a_peers_error_is_reported_with_its_condition() {
    let mut stream = initiator(true);
    let actions = stream.feed(
        format!(
            "{HEADER}<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>newer</text></stream:error>"
        )
        .as_bytes(),
    );
    assert_eq!(
        failure(&actions),
        &StreamError::Remote {
            condition: StreamCondition::Conflict,
            text: Some("newer".into())
        }
    );
    assert_eq!(written(&actions), "");
}

#[test]
fn an_iq_without_payload_is_answered_by_the_stream_itself() {
    let mut stream = recipient(false);
    stream.feed(OLD_HEADER.as_bytes());
    let actions = stream.feed(b"<iq id='5' type='set' from='a' to='b'/>");
    let text = written(&actions);
    assert!(
        text.contains("bad-request") && text.contains("id='5'"),
        "{text}"
    );
    assert_eq!(stream.feed(b"<iq type='set'/>"), []);
}

#[test]
fn the_end_of_the_connection_is_an_error_unless_we_were_closing() {
    let mut stream = initiator(true);
    assert_eq!(stream.end_of_file(), [Action::Fail(StreamError::Ended)]);
    assert_eq!(stream.end_of_file(), []);

    let mut stream = recipient(false);
    stream.feed(OLD_HEADER.as_bytes());
    assert_eq!(written(&stream.close()), "</stream:stream>");
    assert_eq!(stream.end_of_file(), [Action::Closed]);
}

#[test]
fn stanzas_still_come_while_we_are_closing() {
    let mut stream = recipient(false);
    stream.feed(OLD_HEADER.as_bytes());
    stream.close();
    let iq = Iq::new("a", "b", "1", IqKind::Result(None));
    let actions = stream.feed(&write::element(&iq.to_element()));
    assert_eq!(actions, [Action::Stanza(Stanza::Iq(iq))]);
    assert_eq!(stream.feed(b"</stream:stream>"), [Action::Closed]);
}

#[test]
fn a_stanza_beyond_the_bound_is_not_sent() {
    let mut stream = recipient(false);
    stream.feed(OLD_HEADER.as_bytes());
    let large = builder("message", ns::CLIENT)
        .text(&"x".repeat(MAX_STANZA_BYTES))
        .build();
    assert_eq!(stream.send(&large), Err(SendError::TooLarge));
}

#[test]
fn refusing_tells_the_condition_once() {
    let mut stream = recipient(false);
    stream.feed(OLD_HEADER.as_bytes());
    let actions = stream.refuse(StreamCondition::InvalidFrom, "it is somebody else");
    assert!(written(&actions).contains("<invalid-from"));
    assert_eq!(stream.refuse(StreamCondition::InvalidFrom, "again"), []);
}

#[test]
fn large_stanzas_are_for_established_streams() {
    let large = format!(
        "<message><body>{}</body></message>",
        "x".repeat(MAX_STANZA_BYTES / 2)
    );
    let mut stream = recipient(true);
    stream.feed(HEADER.as_bytes());
    let actions = stream.feed(large.as_bytes());
    assert!(matches!(
        failure(&actions),
        StreamError::Local {
            condition: StreamCondition::PolicyViolation,
            ..
        }
    ));
    let mut stream = recipient(false);
    stream.feed(OLD_HEADER.as_bytes());
    let actions = stream.feed(large.as_bytes());
    assert!(matches!(&actions[..], [Action::Stanza(_)]), "{actions:?}");
}
