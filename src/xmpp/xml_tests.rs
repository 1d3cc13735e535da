//! The reader: against the writer, in any chunks, against bounds and against nonsense.

use proptest::prelude::*;

use super::*;
use crate::xmpp::{payload::builder, write};

const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' from='romeo@forza #2' to='juliet@pronto' \
    version='1.0'>";

/// All events of a text that is fed in pieces, and the error that ended it.
fn read_all(bytes: &[u8], sizes: &[usize]) -> (Vec<XmlEvent>, Option<StreamError>) {
    let mut reader = Reader::new();
    reader.widen();
    let mut events = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().copied().cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(1).clamp(1, rest.len());
        let (mut piece, after) = rest.split_at(size);
        rest = after;
        loop {
            match reader.next(&mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            }
        }
    }
    (events, None)
}

fn stanza_error(text: &str) -> Option<StreamError> {
    read_all(format!("{HEADER}{text}").as_bytes(), &[4096]).1
}

fn condition(error: Option<StreamError>) -> Option<StreamCondition> {
    match error {
        Some(StreamError::Local { condition, .. }) => Some(condition),
        _ => None,
    }
}

#[test]
fn a_header_is_read_byte_by_byte_with_its_link_local_name() {
    let (events, error) = read_all(HEADER.as_bytes(), &[1]);
    assert_eq!(error, None);
    let [XmlEvent::StreamOpened { header, default_ns }] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(header.from.as_deref(), Some("romeo@forza #2"));
    assert_eq!(header.to.as_deref(), Some("juliet@pronto"));
    assert!(header.has_features());
    assert_eq!(default_ns, "jabber:client");
}

#[test]
fn an_empty_stream_opens_and_closes_with_its_last_byte() {
    let text = HEADER.replace("version='1.0'>", "version='1.0'/>");
    for size in [1, 7, text.len()] {
        let (events, error) = read_all(text.as_bytes(), &[size]);
        assert_eq!(error, None);
        assert!(matches!(
            &events[..],
            [XmlEvent::StreamOpened { .. }, XmlEvent::StreamClosed]
        ));
    }
}

#[test]
fn an_element_is_complete_with_its_last_byte() {
    for text in [
        "<message><a/>text</message>",
        "<message/>",
        "<x xmlns='y' a='b'/>",
    ] {
        let mut reader = Reader::new();
        reader.next(&mut HEADER.as_bytes()).unwrap();
        let (head, last) = text.as_bytes().split_at(text.len() - 1);
        assert_eq!(reader.next(&mut &*head), Ok(None));
        assert!(matches!(
            reader.next(&mut &*last),
            Ok(Some(XmlEvent::Element(_)))
        ));
    }
}

#[test]
fn what_follows_an_element_stays_in_the_input() {
    let mut reader = Reader::new();
    reader.next(&mut HEADER.as_bytes()).unwrap();
    let mut input = &b"<message/>\x16\x03\x01"[..];
    assert!(matches!(reader.next(&mut input), Ok(Some(_))));
    assert_eq!(input, b"\x16\x03\x01");
}

#[test]
fn a_whole_stream_is_read_and_nothing_after_it() {
    let text = format!("{HEADER} <message/>\n<iq id='1' type='result'/>\n</stream:stream>");
    let (events, error) = read_all(text.as_bytes(), &[5]);
    assert_eq!(error, None);
    assert_eq!(events.len(), 4);
    assert_eq!(events[3], XmlEvent::StreamClosed);
    let (_, error) = read_all(format!("{text}<message/>").as_bytes(), &[5]);
    assert_eq!(condition(error), Some(StreamCondition::NotWellFormed));
}

#[test]
fn forbidden_constructs_have_their_conditions() {
    use StreamCondition as C;
    for (text, expected) in [
        ("<!DOCTYPE message>", C::NotWellFormed),
        ("<?php echo?>", C::RestrictedXml),
        ("<!-- no -->", C::RestrictedXml),
        ("<a>&entity;</a>", C::RestrictedXml),
        ("<a></b>", C::NotWellFormed),
        ("<a b='1' b='2'/>", C::NotWellFormed),
        (
            "<a xmlns:x='n' xmlns:y='n' x:b='1' y:b='2'/>",
            C::NotWellFormed,
        ),
        ("<a xmlns:x='n' xmlns:x='m'/>", C::NotWellFormed),
        ("<x:a/>", C::NotWellFormed),
        ("<a x:b='1'/>", C::NotWellFormed),
        ("<a b=1/>", C::NotWellFormed),
        ("<a>\u{1}</a>", C::NotWellFormed),
        ("<a>&#0;</a>", C::NotWellFormed),
        ("text", C::BadFormat),
    ] {
        // Text between stanzas is seen when something follows.
        assert_eq!(
            condition(stanza_error(&format!("{text}<a/>"))),
            Some(expected),
            "{text}"
        );
    }
    let latin1 = [HEADER.as_bytes(), b"<a>\xe9</a>"].concat();
    assert_eq!(
        condition(read_all(&latin1, &[64]).1),
        Some(C::UnsupportedEncoding)
    );
    let (_, error) = read_all(b"<?xml version='1.0' encoding='iso-8859-1'?><a/>", &[64]);
    assert!(error.is_some());
}

#[test]
fn prefixes_end_with_the_element_that_declares_them() {
    assert_eq!(stanza_error("<a xmlns:x='n'><x:b/></a>"), None);
    assert!(stanza_error("<a xmlns:x='n'/><x:b/>").is_some());
    let inner = parse_element("<a xmlns:x='n'><b xmlns:x='m'><x:c/></b><x:d/></a>").unwrap();
    let b = inner.children().next().unwrap();
    assert_eq!(b.children().next().unwrap().ns(), "m");
    assert_eq!(inner.children().nth(1).unwrap().ns(), "n");
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
    assert_eq!(stanza_error(&nested(MAX_DEPTH - 1)), None);
    let error = stanza_error(&nested(MAX_DEPTH));
    assert_eq!(condition(error), Some(StreamCondition::PolicyViolation));
    assert!(stanza_error(&"<a>".repeat(100_000)).is_some());
}

#[test]
fn bytes_are_bounded_however_they_are_spent() {
    let too_many = MAX_STANZA_BYTES + 10;
    for text in [
        format!("<a>{}", "x".repeat(too_many)),
        format!("<a{}", " ".repeat(too_many)),
        format!("<a>{}", "<b/>".repeat(too_many / 4)),
        format!("<a>{}", "&lt;".repeat(too_many / 4)),
        format!("<{}", "a".repeat(too_many)),
        format!("<a b='{}", "x".repeat(too_many)),
        format!("<a {}", "b".repeat(too_many)),
    ] {
        let error = stanza_error(&text);
        assert_eq!(
            condition(error),
            Some(StreamCondition::PolicyViolation),
            "{}",
            &text[..20]
        );
    }
    // Two that fit are not one that is too large; nor is white space between them.
    let half = format!("<a>{}</a>", "x".repeat(MAX_STANZA_BYTES / 2 + 100));
    let space = " ".repeat(too_many);
    assert_eq!(stanza_error(&format!("{half}{space}{half}")), None);
    let (_, error) = read_all(&vec![b' '; MAX_HEADER_BYTES + 1], &[100]);
    assert!(error.is_some());
}

#[test]
fn elements_attributes_and_namespaces_are_bounded() {
    let elements = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
    assert_eq!(
        condition(stanza_error(&elements)),
        Some(StreamCondition::PolicyViolation)
    );
    let elements = |count: usize| format!("<a>{}</a>", "<b/>".repeat(count));
    assert_eq!(stanza_error(&elements(1024)), None);
    assert!(stanza_error(&elements(4096)).is_some());
    let attributes = |count: usize| {
        let list: String = (0..count).map(|n| format!(" a{n}=''")).collect();
        format!("<a{list}/>")
    };
    assert_eq!(stanza_error(&attributes(MAX_ATTRIBUTES)), None);
    assert!(stanza_error(&attributes(MAX_ATTRIBUTES + 1)).is_some());
    let value = |length: usize| format!("<a b='{}'/>", "x".repeat(length));
    assert_eq!(stanza_error(&value(MAX_ATTRIBUTE_BYTES)), None);
    assert!(stanza_error(&value(MAX_ATTRIBUTE_BYTES + 1)).is_some());
    let namespace = |length: usize| format!("<a xmlns='{}'/>", "x".repeat(length));
    assert_eq!(stanza_error(&namespace(MAX_NAMESPACE_BYTES)), None);
    assert!(stanza_error(&namespace(MAX_NAMESPACE_BYTES + 1)).is_some());
    let name = |length: usize| format!("<{}/>", "x".repeat(length));
    assert_eq!(stanza_error(&name(MAX_NAME_BYTES)), None);
    assert!(stanza_error(&name(MAX_NAME_BYTES + 1)).is_some());
}

#[test]
fn attributes_share_their_namespace() {
    let attribute = "p:b='' p:c=''";
    let text = format!("<a xmlns:p='urn:long' {attribute}><a {attribute}/></a>");
    let element = parse_element(&text).unwrap();
    let places: std::collections::BTreeSet<*const u8> = [&element]
        .into_iter()
        .chain(element.children())
        .flat_map(|element| element.attrs().iter())
        .map(|((namespace, _), _)| namespace.as_str().as_ptr())
        .collect();
    assert_eq!(places.len(), 1);
}

#[test]
fn declarations_in_force_are_bounded() {
    // Two are the header's.
    let declared = |depth: usize| {
        let open: String = (0..depth)
            .map(|n| format!("<a xmlns:p{n}='x' xmlns:q{n}='x'>"))
            .collect();
        open + &"</a>".repeat(depth)
    };
    assert_eq!(stanza_error(&declared(MAX_NAMESPACES / 2 - 1)), None);
    let error = stanza_error(&declared(MAX_NAMESPACES / 2));
    assert_eq!(condition(error), Some(StreamCondition::PolicyViolation));
    // Those that are out of force again are not counted.
    assert_eq!(stanza_error(&"<a xmlns='y'/>".repeat(1000)), None);
}

#[test]
fn strangers_say_little() {
    let error = |text: &str| {
        let mut reader = Reader::new();
        reader.next(&mut HEADER.as_bytes()).unwrap();
        reader.next(&mut text.as_bytes()).err()
    };
    let elements = |count: usize| format!("<a>{}</a>", "<b/>".repeat(count - 1));
    assert_eq!(error(&elements(MAX_EARLY_ELEMENTS)), None);
    assert!(error(&elements(MAX_EARLY_ELEMENTS + 1)).is_some());
    let text = |length: usize| format!("<a>{}</a>", "x".repeat(length));
    assert_eq!(error(&text(MAX_HEADER_BYTES - 10)), None);
    assert!(error(&text(MAX_HEADER_BYTES)).is_some());
}

#[test]
fn an_error_stays() {
    let mut reader = Reader::new();
    let first = reader.next(&mut &b"</a>"[..]);
    assert!(first.is_err());
    assert_eq!(reader.next(&mut HEADER.as_bytes()), first);
}

fn text() -> impl Strategy<Value = String> {
    "[\t\n\r -\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]{0,12}"
}

fn element() -> impl Strategy<Value = Element> {
    let namespace = || {
        prop_oneof![
            Just("jabber:client".to_owned()),
            Just(String::new()),
            Just(ns::STREAM.to_owned()),
            "[a-z'&<]{1,6}"
        ]
    };
    let leaf = (
        "[a-z][a-z0-9._-]{0,6}",
        namespace(),
        prop::collection::btree_map("[a-w][a-z]{0,4}", text(), 0..4),
        text(),
    )
        .prop_map(|(name, namespace, attributes, text)| {
            attributes
                .iter()
                .fold(builder(&name, &namespace), |element, (name, value)| {
                    element.attr(name, value)
                })
                .text(&text)
                .build()
        });
    leaf.prop_recursive(4, 24, 4, |inner| {
        (inner.clone(), prop::collection::vec((inner, text()), 0..4)).prop_map(
            |(mut element, children)| {
                for (child, text) in children {
                    element.append_child(child);
                    if !text.is_empty() {
                        element.append_text(text);
                    }
                }
                element
            },
        )
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_in_any_chunks(
        elements in prop::collection::vec(element(), 0..4),
        sizes in prop::collection::vec(1_usize..40, 1..8),
    ) {
        let mut bytes = HEADER.as_bytes().to_vec();
        for element in &elements {
            bytes.extend(write::element(element));
        }
        bytes.extend(write::footer());
        let (events, error) = read_all(&bytes, &sizes);
        prop_assert_eq!(error, None);
        prop_assert_eq!(events.len(), elements.len() + 2);
        for (event, element) in events[1..].iter().zip(&elements) {
            prop_assert_eq!(event, &XmlEvent::Element(element.clone()));
        }
    }

    #[test]
    fn headers_survive(
        from in prop::option::of(text()),
        to in prop::option::of(text()),
        id in prop::option::of(text()),
        version in prop::option::of(text()),
    ) {
        let header = Header { from, to, id, version };
        let (events, error) = read_all(&write::header(&header), &[3]);
        prop_assert_eq!(error, None);
        let default_ns = ns::CLIENT.to_owned();
        prop_assert_eq!(&events[..], &[XmlEvent::StreamOpened { header, default_ns }][..]);
    }

    #[test]
    fn nonsense_is_the_same_error_in_any_chunks(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..6),
                prop::sample::select(vec![
                    "<a>", "</a>", "<a/>", "<", ">", "&lt;", "&", ";", "'", " b='c'", "<?", "<!",
                    "<![CDATA[", "]]>", "é", "<x:a xmlns:x='n'>", "</x:a>", "</stream:stream>",
                ]).prop_map(|text| text.as_bytes().to_vec()),
            ],
            0..20,
        ),
        sizes in prop::collection::vec(1_usize..9, 1..8),
    ) {
        let bytes = [HEADER.as_bytes(), &pieces.concat()].concat();
        let (whole, whole_error) = read_all(&bytes, &[usize::MAX]);
        let (pieces, pieces_error) = read_all(&bytes, &sizes);
        prop_assert_eq!(whole, pieces);
        prop_assert_eq!(condition(whole_error), condition(pieces_error));
    }
}
