//! Stanzas as they are written, as others write them, and as nobody should.

use super::*;
use crate::xmpp::xml::parse_element;

fn read(text: &str) -> Parsed {
    parse(parse_element(text).unwrap())
}

#[test]
fn an_iq_survives_writing_and_reading() {
    let payload = builder("query", "ns").attr("sid", "a'b\"<&>").build();
    for kind in [
        IqKind::Get(payload.clone()),
        IqKind::Set(payload.clone()),
        IqKind::Result(None),
        IqKind::Result(Some(payload)),
        IqKind::Error(StanzaError::with_text(
            Condition::ItemNotFound,
            "no such tube",
        )),
    ] {
        let iq = Iq::new("romeo@forza #2", "juliet@pronto", "a1", kind);
        let text = String::from_utf8(crate::xmpp::write::element(&iq.to_element())).unwrap();
        assert_eq!(read(&text), Parsed::Stanza(Stanza::Iq(iq)), "{text}");
    }
}

#[test]
fn a_reply_goes_back_with_the_same_id() {
    let Parsed::Stanza(Stanza::Iq(iq)) =
        read("<iq from='a' to='b' id='7' type='set'><x xmlns='y'/></iq>")
    else {
        panic!("not an iq");
    };
    let reply = iq.reply(Ok(None));
    assert_eq!(reply.from.as_deref(), Some("b"));
    assert_eq!(reply.to.as_deref(), Some("a"));
    assert_eq!((reply.id.as_str(), reply.kind), ("7", IqKind::Result(None)));
}

#[test]
fn an_iq_without_one_payload_is_refused() {
    for text in [
        "<iq id='1' from='a' type='get'/>",
        "<iq id='1' from='a' type='set'><x xmlns='y'/><x xmlns='y'/></iq>",
    ] {
        let Parsed::Refuse(iq) = read(text) else {
            panic!("{text} was taken");
        };
        assert_eq!((iq.id.as_str(), iq.to.as_deref()), ("1", Some("a")));
    }
}

#[test]
fn what_cannot_be_answered_is_dropped() {
    for text in [
        "<iq type='get'><x xmlns='y'/></iq>",
        "<iq id='1'><x xmlns='y'/></iq>",
        "<iq id='1' type='other'/>",
    ] {
        assert_eq!(read(text), Parsed::Drop, "{text}");
    }
}

#[test]
fn an_error_is_read_with_what_it_has() {
    // As Gabble writes it: the request comes back beside the error, and `code` too.
    let Parsed::Stanza(Stanza::Iq(iq)) = read(
        "<iq type='error' id='5'><query xmlns='q'/><error code='404' type='cancel'>\
         <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>\
         <text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>nowhere\u{7f}!</text></error></iq>",
    ) else {
        panic!("not an iq");
    };
    assert_eq!(
        iq.kind,
        IqKind::Error(StanzaError {
            kind: ErrorKind::Cancel,
            condition: Condition::ItemNotFound,
            text: Some("nowhere!".into()),
        })
    );
    let Parsed::Stanza(Stanza::Iq(iq)) = read("<iq type='error' id='5'/>") else {
        panic!("not an iq");
    };
    assert_eq!(
        iq.kind,
        IqKind::Error(StanzaError::new(Condition::UndefinedCondition))
    );
}

#[test]
fn other_namespaces_are_no_stanzas() {
    assert_eq!(
        read("<iq xmlns='jabber:server' id='1'/>"),
        Parsed::NotAStanza
    );
    assert_eq!(read("<other/>"), Parsed::NotAStanza);
}
