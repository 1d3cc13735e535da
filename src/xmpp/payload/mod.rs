//! What stanzas carry: one file for each specification.
//!
//! Everything is read leniently where peers differ (order, unknown children, unknown attributes) and
//! strictly where a bound or a meaning is at stake; each reader says what it refuses.

use minidom::Element;
use rxml::{Namespace, NcName};

pub mod amp;
pub mod bytestreams;
pub mod disco;
pub mod file;
pub mod ibb;
pub mod pneuma;
pub mod si;
pub mod tube;

/// A payload that cannot be understood; answered with `bad-request`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Builds an element with attributes named by plain strings.
pub(crate) struct Builder(Element);

/// Starts an element.
pub(crate) fn builder(name: &str, ns: &str) -> Builder {
    Builder(Element::bare(name, ns))
}

impl Builder {
    /// Adds an attribute. The name is one of ours; one that XML forbids is left out.
    pub(crate) fn attr(mut self, name: &str, value: &str) -> Self {
        if let Ok(name) = NcName::try_from(name) {
            self.0
                .attrs_mut()
                .insert(Namespace::NONE, name, value.to_owned());
        }
        self
    }

    /// Adds an attribute if it has a value.
    pub(crate) fn maybe_attr(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.attr(name, value),
            None => self,
        }
    }

    pub(crate) fn child(mut self, child: Element) -> Self {
        self.0.append_child(child);
        self
    }

    pub(crate) fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        for child in children {
            self.0.append_child(child);
        }
        self
    }

    pub(crate) fn text(mut self, text: &str) -> Self {
        if !text.is_empty() {
            self.0.append_text(text);
        }
        self
    }

    pub(crate) fn build(self) -> Element {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::xmpp::{ns, stanza, xml::parse_element};

    /// Elements made of words that the readers look for, in places where they do not belong.
    fn element() -> impl Strategy<Value = Element> {
        let name = prop::sample::select(vec![
            "si",
            "query",
            "tube",
            "stream",
            "close",
            "secured",
            "feature",
            "x",
            "field",
            "option",
            "value",
            "si-multiple",
            "streamhost",
            "streamhost-used",
            "open",
            "data",
            "reset",
            "parameters",
            "parameter",
            "identity",
            "iq",
            "message",
            "error",
            "text",
            "file",
            "range",
            "desc",
            "transfer",
            "transfer-cancel",
        ]);
        let namespace = prop::sample::select(vec![
            ns::SI,
            ns::SI_MULTIPLE,
            ns::TUBES,
            ns::BYTESTREAMS,
            ns::IBB,
            ns::FEATURE_NEG,
            ns::DATA_FORMS,
            ns::DISCO_INFO,
            ns::PNEUMA,
            ns::SI_FILE_TRANSFER,
            ns::CLIENT,
            ns::STANZA_ERRORS,
        ]);
        let attribute = prop::sample::select(vec![
            "id",
            "profile",
            "sid",
            "mode",
            "jid",
            "host",
            "port",
            "tube",
            "service",
            "type",
            "name",
            "var",
            "node",
            "category",
            "block-size",
            "stanza",
            "seq",
            "size",
            "offset",
            "length",
            "hash",
            "hash-type",
            "stored",
            "date",
        ]);
        let value = prop_oneof![
            prop::sample::select(vec![
                "stream", "dbus", "a.b", "get", "set", "error", "uint", "bytes", "tcp", "1", "0",
            ])
            .prop_map(str::to_owned),
            ".{0,8}",
        ];
        let leaf = (
            name,
            namespace,
            prop::collection::vec((attribute, value.clone()), 0..5),
            value,
        )
            .prop_map(|(name, namespace, attributes, text)| {
                attributes
                    .iter()
                    .fold(builder(name, namespace), |element, (name, value)| {
                        element.attr(name, value)
                    })
                    .text(&text)
                    .build()
            });
        leaf.prop_recursive(5, 32, 5, |inner| {
            (inner.clone(), prop::collection::vec(inner, 0..5)).prop_map(
                |(mut element, children)| {
                    for child in children {
                        element.append_child(child);
                    }
                    element
                },
            )
        })
    }

    proptest! {
        #[test]
        fn no_reader_panics_and_what_is_read_can_be_written(element in element()) {
            if let Ok(offer) = si::Offer::parse(&element) {
                prop_assert_eq!(si::Offer::parse(&offer.to_element()), Ok(offer));
            }
            if let Ok(answer) = si::Answer::parse(&element) {
                prop_assert_eq!(si::Answer::parse(&answer.to_element()), Ok(answer));
            }
            if let Ok(hosts) = bytestreams::Streamhosts::parse(&element) {
                prop_assert_eq!(bytestreams::Streamhosts::parse(&hosts.to_element()), Ok(hosts));
            }
            if let Ok(open) = ibb::Open::parse(&element) {
                prop_assert_eq!(ibb::Open::parse(&open.to_element()), Ok(open));
            }
            if let Ok(data) = ibb::Data::parse(&element) {
                let written = ibb::data("1", data.seq, &data.bytes);
                prop_assert_eq!(ibb::Data::parse(&written), Ok(data));
            }
            if let Ok(info) = disco::Info::parse(&element) {
                prop_assert_eq!(disco::Info::parse(&info.to_element()), Ok(info));
            }
            if let Ok(offer) = tube::Offer::parse(&element) {
                prop_assert_eq!(tube::Offer::parse(&offer.to_element()), Ok(offer));
            }
            if let Ok(offer) = tube::DBusOffer::parse(&element) {
                let written = offer.to_element("sid", "us");
                prop_assert_eq!(tube::DBusOffer::parse(&written), Ok(offer));
            }
            if let Ok(id) = tube::parse_close(&element) {
                prop_assert_eq!(tube::parse_close(&tube::close(id)), Ok(id));
            }
            if let Ok(id) = tube::parse_stream(&element) {
                prop_assert_eq!(tube::parse_stream(&tube::stream(id)), Ok(id));
            }
            if let Ok(jid) = bytestreams::parse_streamhost_used(&element) {
                let written = bytestreams::streamhost_used("1", jid);
                prop_assert_eq!(bytestreams::parse_streamhost_used(&written), Ok(jid));
            }
            let children: Vec<Element> = element.children().cloned().collect();
            if let Ok(offer) = file::Offer::parse(element.attr("mime-type"), &children) {
                prop_assert_eq!(file::Offer::parse(None, &offer.to_elements()), Ok(offer));
            }
            if let Ok(wanted) = file::Agreement::parse(&children) {
                prop_assert_eq!(file::Agreement::parse(&wanted.to_elements()), Ok(wanted));
            }
            if let Ok(sid) = file::parse_cancel(&element) {
                let written = file::cancel(sid);
                prop_assert_eq!(file::parse_cancel(&written), Ok(sid));
            }
            if let Ok(Some(id)) = pneuma::find([&element]) {
                prop_assert_eq!(pneuma::find(&[pneuma::secured(id)]), Ok(Some(id)));
            }
            match stanza::parse(element) {
                stanza::Parsed::Stanza(stanza::Stanza::Iq(iq)) => {
                    let text = crate::xmpp::write::element(&iq.to_element());
                    let again = parse_element(&String::from_utf8_lossy(&text)).map(stanza::parse);
                    prop_assert!(matches!(again, Ok(stanza::Parsed::Stanza(_))));
                }
                stanza::Parsed::Refuse(answer) => {
                    prop_assert!(matches!(answer.kind, stanza::IqKind::Error(_)));
                }
                _ => {}
            }
        }
    }
}
