//! Service discovery (XEP-0030), information only, and the hash that stands for it (XEP-0115).

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minidom::Element;
use sha1::{Digest as _, Sha1};

use super::{Malformed, builder};
use crate::xmpp::ns;

/// Most features that are read of one answer; one with more is malformed.
pub const MAX_FEATURES: usize = 1024;
/// Most bytes one feature's name may have; an answer with a longer one is malformed.
pub const MAX_FEATURE_BYTES: usize = 1024;
/// Most identities that are read; further ones are not looked at.
const MAX_IDENTITIES: usize = 16;

/// Who somebody is (XEP-0030 section 3.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// `category`
    pub category: String,
    /// `type`
    pub kind: String,
    /// `xml:lang`, empty if absent.
    pub lang: String,
    /// `name`, empty if absent.
    pub name: String,
}

/// What somebody is and can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `node` as asked for.
    pub node: Option<String>,
    /// Who it is.
    pub identities: BTreeSet<Identity>,
    /// What it can do.
    pub features: BTreeSet<String>,
}

/// The question, for a `node` if there is one.
pub fn query(node: Option<&str>) -> Element {
    builder("query", ns::DISCO_INFO)
        .maybe_attr("node", node)
        .build()
}

/// Whether an element is the question, or the answer to it.
pub fn is_query(element: &Element) -> bool {
    element.is("query", ns::DISCO_INFO)
}

impl Info {
    /// The answer.
    pub fn to_element(&self) -> Element {
        let identities = self.identities.iter().map(|identity| {
            let mut element = builder("identity", ns::DISCO_INFO)
                .attr("category", &identity.category)
                .attr("type", &identity.kind)
                .maybe_attr(
                    "name",
                    Some(identity.name.as_str()).filter(|n| !n.is_empty()),
                )
                .build();
            if !identity.lang.is_empty()
                && let Ok(lang) = rxml::NcName::try_from("lang")
            {
                element
                    .attrs_mut()
                    .insert(rxml::Namespace::XML, lang, identity.lang.clone());
            }
            element
        });
        let features = self.features.iter().map(|feature| {
            builder("feature", ns::DISCO_INFO)
                .attr("var", feature)
                .build()
        });
        builder("query", ns::DISCO_INFO)
            .maybe_attr("node", self.node.as_deref())
            .children(identities)
            .children(features)
            .build()
    }

    /// Reads the answer. Forms inside it (XEP-0128) are not looked at.
    ///
    /// # Errors
    /// [`Malformed`] when it is something else, or beyond [`MAX_FEATURES`] or
    /// [`MAX_FEATURE_BYTES`].
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !is_query(element) {
            return Err(Malformed("not an answer to service discovery"));
        }
        let text =
            |element: &Element, name: &str| element.attr(name).unwrap_or_default().to_owned();
        let identities = element
            .children()
            .filter(|child| child.is("identity", ns::DISCO_INFO))
            .take(MAX_IDENTITIES)
            .map(|child| Identity {
                category: text(child, "category"),
                kind: text(child, "type"),
                lang: child
                    .attr_ns(&rxml::Namespace::XML, "lang")
                    .unwrap_or_default()
                    .to_owned(),
                name: text(child, "name"),
            })
            .collect();
        let features: Vec<&str> = element
            .children()
            .filter(|child| child.is("feature", ns::DISCO_INFO))
            .filter_map(|child| child.attr("var"))
            .take(MAX_FEATURES + 1)
            .collect();
        if features.len() > MAX_FEATURES
            || features
                .iter()
                .any(|feature| feature.len() > MAX_FEATURE_BYTES)
        {
            return Err(Malformed("too many features"));
        }
        Ok(Info {
            node: element.attr("node").map(str::to_owned),
            identities,
            features: features.into_iter().map(str::to_owned).collect(),
        })
    }

    /// `ver` of XEP-0115 section 5.1 with `hash='sha-1'`, for information without forms. The sets
    /// are sorted by bytes, as that section wants.
    pub fn ver(&self) -> String {
        let mut hash = Sha1::new();
        for identity in &self.identities {
            hash.update(format!(
                "{}/{}/{}/{}<",
                identity.category, identity.kind, identity.lang, identity.name
            ));
        }
        for feature in &self.features {
            hash.update(feature);
            hash.update("<");
        }
        STANDARD.encode(hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::xml::parse_element;

    fn info(name: &str, features: &[&str]) -> Info {
        Info {
            node: None,
            identities: BTreeSet::from([Identity {
                category: "client".into(),
                kind: "pc".into(),
                lang: String::new(),
                name: name.into(),
            }]),
            features: features.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    #[test]
    fn ver_is_what_the_specification_computes() {
        // XEP-0115 section 5.2.
        let exodus = info(
            "Exodus 0.9.1",
            &[
                "http://jabber.org/protocol/muc",
                "http://jabber.org/protocol/disco#info",
                "http://jabber.org/protocol/disco#items",
                "http://jabber.org/protocol/caps",
            ],
        );
        assert_eq!(exodus.ver(), "QgayPKawpkPSDYmwT/WM94uAlu0=");
    }

    #[test]
    fn ver_is_what_gabble_computed() {
        let gabble = info(
            "Telepathy Gabble 0.19.0",
            &[
                "http://www.google.com/xmpp/protocol/session",
                "http://jabber.org/protocol/disco#info",
                "urn:xmpp:avatar:metadata",
                "urn:xmpp:avatar:metadata+notify",
                "http://jabber.org/protocol/chatstates",
                "http://jabber.org/protocol/nick",
                "http://jabber.org/protocol/nick+notify",
                "http://jabber.org/protocol/si",
                "http://jabber.org/protocol/ibb",
                "http://telepathy.freedesktop.org/xmpp/tubes",
                "http://jabber.org/protocol/bytestreams",
                "jabber:iq:version",
                "jabber:iq:last",
                "urn:xmpp:receipts",
                "urn:xmpp:chat-markers:0",
            ],
        );
        assert_eq!(gabble.ver(), "dts/UmHf2I7NieVFBxNqkJ1gLsk=");
    }

    #[test]
    fn an_answer_survives_the_wire() {
        let mut sent = info("Pneuma", &["a", "b#c"]);
        sent.node = Some("urn:x#ver".into());
        sent.identities.insert(Identity {
            category: "client".into(),
            kind: "pc".into(),
            lang: "el".into(),
            name: "Πνεύμα".into(),
        });
        let text = String::from_utf8(crate::xmpp::write::element(&sent.to_element())).unwrap();
        assert_eq!(Info::parse(&parse_element(&text).unwrap()), Ok(sent));
    }

    #[test]
    fn too_many_or_too_long_features_are_malformed() {
        let many: Vec<String> = (0..=MAX_FEATURES).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(Info::parse(&info("x", &many).to_element()).is_err());
        assert!(Info::parse(&info("x", &many[1..]).to_element()).is_ok());
        let long = "x".repeat(MAX_FEATURE_BYTES + 1);
        assert!(Info::parse(&info("x", &[&long]).to_element()).is_err());
    }

    #[test]
    fn the_question_names_its_node() {
        assert_eq!(query(Some("n")).attr("node"), Some("n"));
        assert!(is_query(&query(None)) && query(None).attr("node").is_none());
    }
}
