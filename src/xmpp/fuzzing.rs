//! The fuzzing targets of XML: the reader, the stream's state machine, the stanzas. See
//! [`crate::fuzzing`].

use std::collections::BTreeSet;

use minidom::{Element, Node};

use super::{
    error::{StreamCondition, StreamError},
    payload::{bytestreams, disco, file, ibb, pneuma, si, tube},
    stanza::{self, IqKind, Parsed},
    stream::{Action, Role, Stream, StreamConfig},
    write::{self, Header},
    xml::{MAX_DEPTH, MAX_ELEMENTS, Reader, XmlEvent},
};

/// Three ways to cut an input: whole, byte by byte, and in pieces as long as its own bytes say.
pub(crate) fn cuts(data: &[u8]) -> [Vec<&[u8]>; 3] {
    let mut pieces = Vec::new();
    let mut rest = data;
    let mut sizes = data.iter().map(|byte| usize::from(byte % 32) + 1).cycle();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(1).min(rest.len());
        let (piece, after) = rest.split_at(size);
        pieces.push(piece);
        rest = after;
    }
    [vec![data], data.chunks(1).collect(), pieces]
}

/// What a reader made of an input, and why it stopped.
fn read(pieces: &[&[u8]]) -> (Vec<XmlEvent>, Option<StreamCondition>) {
    let mut reader = Reader::new();
    let mut events = Vec::new();
    for mut piece in pieces.iter().copied() {
        loop {
            let before = piece.len();
            match reader.next(&mut piece) {
                Ok(Some(XmlEvent::StreamOpened { header, default_ns })) => {
                    // What a stranger may say is the same, only less of it.
                    reader.widen();
                    events.push(XmlEvent::StreamOpened { header, default_ns });
                }
                Ok(Some(event)) => events.push(event),
                Ok(None) => {
                    assert!(piece.is_empty(), "bytes are left that nobody looked at");
                    break;
                }
                Err(error) => {
                    let again = reader.next(&mut &b"<a/>"[..]);
                    assert_eq!(again, Err(error.clone()), "an error did not stay");
                    return (events, Some(condition(&error)));
                }
            }
            // The end of a header that is empty, `<stream:stream/>`, is two events.
            let empty = matches!(
                &events[..],
                [XmlEvent::StreamOpened { .. }, XmlEvent::StreamClosed]
            );
            assert!(
                piece.len() < before || empty,
                "an event came out of nothing"
            );
        }
    }
    (events, None)
}

/// The condition of an error that a reader found.
fn condition(error: &StreamError) -> StreamCondition {
    match error {
        StreamError::Local { condition, .. } => *condition,
        other => panic!("no error of a reader: {other}"),
    }
}

/// The size of a tree.
#[derive(Default)]
struct Size {
    depth: usize,
    elements: usize,
    /// Bytes of all names, values and texts.
    bytes: usize,
}

/// Measures a tree. A namespace costs its bytes once, however often it is meant: `namespaces` are
/// the addresses of those counted.
fn measure(element: &Element, depth: usize, namespaces: &mut BTreeSet<usize>, size: &mut Size) {
    size.depth = size.depth.max(depth);
    size.elements += 1;
    size.bytes += element.name().len();
    for ((namespace, name), value) in element.attrs() {
        if namespaces.insert(namespace.as_str().as_ptr().addr())
            && *namespace != rxml::Namespace::XML
        {
            size.bytes += namespace.len();
        }
        size.bytes += name.len() + value.len();
    }
    for node in element.nodes() {
        match node {
            Node::Element(child) => measure(child, depth + 1, namespaces, size),
            Node::Text(text) => size.bytes += text.len(),
        }
    }
}

/// Writes an element and reads it back. `None` where the way we write it is beyond a bound that
/// the way it came was not: we declare each attribute's namespace where it is used.
fn written_and_read(element: &Element) -> Option<Element> {
    let mut bytes = write::header(&Header::default());
    bytes.extend(write::element(element));
    match read(&[&bytes]) {
        (mut events, None) if events.len() == 2 => match events.pop() {
            Some(XmlEvent::Element(element)) => Some(element),
            other => panic!("{other:?} was written"),
        },
        (_, Some(StreamCondition::PolicyViolation)) => None,
        other => panic!("{other:?} from {}", String::from_utf8_lossy(&bytes)),
    }
}

/// The reader of XML streams ([`Reader`]); the input is a stream from its first byte.
pub fn xml(data: &[u8]) {
    let [whole, others @ ..] = cuts(data);
    let (events, ended) = read(&whole);
    for pieces in others {
        assert_eq!(read(&pieces), (events.clone(), ended));
    }
    let mut size = Size::default();
    for (place, event) in events.iter().enumerate() {
        match event {
            XmlEvent::StreamOpened { header, .. } => {
                assert_eq!(place, 0);
                let (again, ended) = read(&[&write::header(header)]);
                assert!(
                    matches!(&again[..], [XmlEvent::StreamOpened { header: back, .. }] if back == header)
                        || ended == Some(StreamCondition::PolicyViolation),
                    "{again:?} {ended:?}"
                );
            }
            XmlEvent::Element(element) => {
                assert_ne!(place, 0);
                let mut own = Size::default();
                measure(element, 2, &mut BTreeSet::new(), &mut own);
                assert!(own.depth <= MAX_DEPTH && own.elements <= MAX_ELEMENTS);
                size.bytes += own.bytes;
                if let Some(back) = written_and_read(element) {
                    assert_eq!(back, *element);
                }
            }
            XmlEvent::StreamClosed => assert_eq!(place, events.len() - 1),
        }
    }
    assert!(size.bytes <= data.len(), "a tree larger than its bytes");
}

/// What came of an input of a stream: all actions in order.
fn run(config: StreamConfig, plaintext: &[&[u8]], inside: &[&[u8]]) -> Vec<Action> {
    let (mut stream, mut all) = Stream::new(config);
    for piece in plaintext {
        all.extend(fed(&mut stream, piece));
    }
    if all.last() == Some(&Action::StartTls) {
        all.extend(stream.secured());
        for piece in inside {
            all.extend(fed(&mut stream, piece));
        }
    }
    let was_over = stream.is_over();
    let end = stream.end_of_file();
    assert_eq!(end.is_empty(), was_over);
    assert!(stream.is_over() && stream.feed(b"<a/>").is_empty());
    all.extend(end);
    all
}

/// Feeds a piece; what must be the last action of its list is.
fn fed(stream: &mut Stream, piece: &[u8]) -> Vec<Action> {
    let was_over = stream.is_over();
    let actions = stream.feed(piece);
    assert!(!was_over || actions.is_empty(), "something after the end");
    for (place, action) in actions.iter().enumerate() {
        let last = matches!(action, Action::StartTls | Action::Closed | Action::Fail(_));
        assert!(!last || place + 1 == actions.len(), "{actions:?}");
    }
    actions
}

/// An XML stream of either role, with and without the need for TLS ([`Stream`]). What follows the
/// input's first NUL is inside TLS.
pub fn stream(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    let plaintext = cuts(parts.next().unwrap_or_default());
    let inside = cuts(parts.next().unwrap_or_default());
    for role in [Role::Initiator, Role::Recipient] {
        for require_tls in [false, true] {
            let config = StreamConfig {
                role,
                us: "juliet@pronto".into(),
                them: (role == Role::Initiator).then(|| "romeo@forza #2".into()),
                id: "id1".into(),
                require_tls,
            };
            let results = [0, 1, 2].map(|way| {
                // Plaintext after the agreement on TLS is seen at once, or one piece later.
                let mut actions = run(config.clone(), &plaintext[way], &inside[way]);
                if let [
                    ..,
                    Action::StartTls,
                    Action::Fail(StreamError::Local { .. }),
                ] = &actions[..]
                {
                    actions.remove(actions.len() - 2);
                }
                actions
            });
            assert_eq!(results[0], results[1]);
            assert_eq!(results[0], results[2]);
            check_order(&results[0], require_tls);
        }
    }
}

/// Looks through all that one stream did.
fn check_order(actions: &[Action], require_tls: bool) {
    let mut written = Vec::new();
    let (mut encrypted, mut established) = (false, false);
    for action in actions {
        match action {
            Action::Write(bytes) => written.extend(bytes),
            Action::StartTls => {
                assert!(!encrypted && !established);
                check_written(&written, true);
                written.clear();
                encrypted = true;
            }
            Action::Established { secured, .. } => {
                assert!(*secured == encrypted && !established);
                assert!(encrypted || !require_tls);
                established = true;
            }
            Action::Stanza(_) => assert!(established, "a stanza before its time"),
            Action::Closed | Action::Fail(_) => {}
        }
    }
    let plain = !encrypted && require_tls;
    check_written(&written, plain);
}

/// What we wrote is a stream that we could read. `nothing_said`: it holds nothing but what belongs to
/// streams themselves.
fn check_written(bytes: &[u8], nothing_said: bool) {
    let (events, ended) = read(&[bytes]);
    // An answer repeats the peer's `from` and `id`, and escaping makes them longer.
    assert!(
        matches!(ended, None | Some(StreamCondition::PolicyViolation)),
        "{ended:?}"
    );
    for event in events {
        if let XmlEvent::Element(element) = event
            && nothing_said
        {
            assert!(
                ["features", "error", "starttls", "proceed"].contains(&element.name()),
                "{element:?} in plaintext"
            );
        }
    }
}

/// The stanzas and what they carry: the input is what follows a stream's header.
pub fn stanza(data: &[u8]) {
    let opening = write::header(&Header::default());
    let (events, _) = read(&[&opening, data]);
    for event in events {
        if let XmlEvent::Element(element) = event {
            parsed(element);
        }
    }
}

fn parsed(element: Element) {
    match stanza::parse(element) {
        Parsed::Stanza(stanza::Stanza::Iq(iq)) => {
            if let Some(element) = written_and_read(&iq.to_element()) {
                let again = Parsed::Stanza(stanza::Stanza::Iq(iq.clone()));
                assert_eq!(stanza::parse(element), again);
            }
            match &iq.kind {
                IqKind::Get(payload) | IqKind::Set(payload) | IqKind::Result(Some(payload)) => {
                    payloads(payload);
                }
                IqKind::Result(None) | IqKind::Error(_) => {}
            }
        }
        Parsed::Stanza(stanza::Stanza::Message(message)) => {
            if let Some(element) = written_and_read(&message.to_element()) {
                let again = Parsed::Stanza(stanza::Stanza::Message(message.clone()));
                assert_eq!(stanza::parse(element), again);
            }
            message.payloads.iter().for_each(payloads);
        }
        Parsed::Refuse(answer) => {
            assert!(matches!(answer.kind, IqKind::Error(_)));
            assert!(written_and_read(&answer.to_element()).is_some());
        }
        Parsed::Stanza(stanza::Stanza::Presence(_)) | Parsed::Drop | Parsed::NotAStanza => {}
    }
}

/// Every reader of payloads on one element. Over the wire and back each value is the same.
fn payloads(element: &Element) {
    let back = |element: Element| written_and_read(&element);
    if let Ok(offer) = si::Offer::parse(element) {
        assert!(offer.methods.len() <= si::MAX_METHODS && offer.id.len() <= si::MAX_SID_BYTES);
        offer.extra.iter().for_each(payloads);
        files(offer.mime_type.as_deref(), &offer.extra);
        if let Some(element) = back(offer.to_element()) {
            assert_eq!(si::Offer::parse(&element), Ok(offer));
        }
    }
    if let Ok(answer) = si::Answer::parse(element) {
        assert!((1..=si::MAX_METHODS).contains(&answer.methods.len()));
        files(None, &answer.extra);
        if let Some(element) = back(answer.to_element()) {
            assert_eq!(si::Answer::parse(&element), Ok(answer));
        }
    }
    if let Ok(open) = ibb::Open::parse(element)
        && let Some(element) = back(open.to_element())
    {
        assert_eq!(ibb::Open::parse(&element), Ok(open));
    }
    if let (Ok(sid), Ok(block)) = (ibb::sid(element), ibb::Data::parse(element))
        && let Some(element) = back(ibb::data(sid, block.seq, &block.bytes))
    {
        assert_eq!(ibb::Data::parse(&element), Ok(block));
    }
    if let Ok(hosts) = bytestreams::Streamhosts::parse(element) {
        assert!(hosts.hosts.len() <= bytestreams::MAX_STREAMHOSTS);
        assert!(hosts.hosts.iter().all(|host| host.port != 0));
        if let Some(element) = back(hosts.to_element()) {
            assert_eq!(bytestreams::Streamhosts::parse(&element), Ok(hosts));
        }
    }
    if let Ok(jid) = bytestreams::parse_streamhost_used(element)
        && let Some(element) = back(bytestreams::streamhost_used("1", jid))
    {
        assert_eq!(bytestreams::parse_streamhost_used(&element), Ok(jid));
    }
    if let Ok(info) = disco::Info::parse(element) {
        assert!(info.features.len() <= disco::MAX_FEATURES);
        assert_eq!(info.ver().len(), 28);
        if let Some(element) = back(info.to_element()) {
            assert_eq!(disco::Info::parse(&element), Ok(info));
        }
    }
    if let Ok(offer) = tube::Offer::parse(element) {
        assert_ne!(offer.id, 0);
        if let Some(element) = back(offer.to_element()) {
            assert_eq!(tube::Offer::parse(&element), Ok(offer));
        }
    }
    if let Ok(offer) = tube::DBusOffer::parse(element) {
        assert_ne!(offer.id, 0);
        if let Some(element) = back(offer.to_element("sid", "us")) {
            assert_eq!(tube::DBusOffer::parse(&element), Ok(offer));
        }
    }
    if let Ok(id) = tube::parse_close(element) {
        assert_eq!(
            back(tube::close(id)).map(|element| tube::parse_close(&element)),
            Some(Ok(id))
        );
    }
    if let Ok(id) = tube::parse_stream(element) {
        assert_eq!(
            back(tube::stream(id)).map(|element| tube::parse_stream(&element)),
            Some(Ok(id))
        );
    }
    if let Ok(sid) = file::parse_cancel(element) {
        assert_eq!(
            back(file::cancel(sid)).as_ref().map(file::parse_cancel),
            Some(Ok(sid))
        );
    }
    if let Ok(Some(id)) = pneuma::find([element]) {
        assert_eq!(
            back(pneuma::secured(id)).map(|element| pneuma::find([&element])),
            Some(Ok(Some(id)))
        );
    }
}

/// What is said of a file in a stream initiation, and in the answer to one.
fn files(mime_type: Option<&str>, elements: &[Element]) {
    let back = |written: Vec<Element>| -> Option<Vec<Element>> {
        written.iter().map(written_and_read).collect()
    };
    if let Ok(offer) = file::Offer::parse(mime_type, elements) {
        assert_eq!(offer.file.check(), Ok(()));
        assert!(offer.file.size.is_none_or(|size| size <= file::MAX_SIZE));
        assert!(offer.ours || offer.file.size.is_some() && offer.file.id.is_none());
        if let Some(elements) = back(offer.to_elements()) {
            assert_eq!(file::Offer::parse(None, &elements), Ok(offer));
        }
    }
    if let Ok(wanted) = file::Agreement::parse(elements) {
        assert!(wanted.from.offset <= file::MAX_SIZE);
        assert!(wanted.ours || wanted.from.stored.is_none());
        if let Some(elements) = back(wanted.to_elements()) {
            assert_eq!(file::Agreement::parse(&elements), Ok(wanted));
        }
    }
}
