//! Stream initiation (XEP-0095) with its choice of methods (XEP-0020) and Gabble's `si-multiple`.
//!
//! ```text
//! offer   <si id='SID' profile='…' mime-type='…'> <feature><x type='form'> field stream-method, options </x></feature>
//!                                   <si-multiple/> purpose… </si>
//! answer  <si> <feature><x type='submit'> field stream-method, value </x></feature> more… </si>
//!      or <si> <si-multiple><value>METHOD</value>…</si-multiple> more… </si>
//! ```
//!
//! We offer `si-multiple` when more than one method is offered, and answer with it when it was offered
//! and more than one method suits; else with the form.

use minidom::Element;

use super::{Malformed, builder};
use crate::xmpp::ns;

/// Most methods that are read of one offer or answer.
pub const MAX_METHODS: usize = 8;
/// Most bytes an id may have.
pub const MAX_SID_BYTES: usize = 256;

/// An offer to initiate a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// `id`: the bytestream's sid.
    pub id: String,
    /// `profile`: what the stream is for.
    pub profile: String,
    /// `mime-type`: the content type of what is offered.
    pub mime_type: Option<String>,
    /// Stream methods, the preferred first.
    pub methods: Vec<String>,
    /// Whether the answer may name several methods.
    pub multiple: bool,
    /// What else it holds: the profile's own elements and ours.
    pub extra: Vec<Element>,
}

/// The answer that agrees.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Methods to try, in this order; not empty.
    pub methods: Vec<String>,
    /// Whether they are given in Gabble's way.
    pub multiple: bool,
    /// What else it holds.
    pub extra: Vec<Element>,
}

impl Offer {
    /// As an element.
    pub fn to_element(&self) -> Element {
        let options = self.methods.iter().map(|method| {
            builder("option", ns::DATA_FORMS)
                .child(builder("value", ns::DATA_FORMS).text(method).build())
                .build()
        });
        let field = builder("field", ns::DATA_FORMS)
            .attr("var", "stream-method")
            .attr("type", "list-single")
            .children(options)
            .build();
        builder("si", ns::SI)
            .attr("id", &self.id)
            .attr("profile", &self.profile)
            .maybe_attr("mime-type", self.mime_type.as_deref())
            .child(form("form", field))
            .children(
                self.multiple
                    .then(|| builder("si-multiple", ns::SI_MULTIPLE).build()),
            )
            .children(self.extra.iter().cloned())
            .build()
    }

    /// Reads the element.
    ///
    /// # Errors
    /// [`Malformed`] without an id (1 to [`MAX_SID_BYTES`] bytes), a profile or the form.
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !element.is("si", ns::SI) {
            return Err(Malformed("not a stream initiation"));
        }
        let id = element
            .attr("id")
            .filter(|id| !id.is_empty() && id.len() <= MAX_SID_BYTES)
            .ok_or(Malformed("a stream initiation without a good id"))?;
        let profile = element
            .attr("profile")
            .ok_or(Malformed("a stream initiation without a profile"))?;
        let field = field(element).ok_or(Malformed("a stream initiation without methods"))?;
        let methods = field
            .children()
            .filter(|child| child.is("option", ns::DATA_FORMS))
            .filter_map(|option| option.get_child("value", ns::DATA_FORMS))
            .map(Element::text)
            .take(MAX_METHODS)
            .collect();
        Ok(Offer {
            id: id.to_owned(),
            profile: profile.to_owned(),
            mime_type: element.attr("mime-type").map(str::to_owned),
            methods,
            multiple: element.has_child("si-multiple", ns::SI_MULTIPLE),
            extra: extra(element),
        })
    }
}

impl Answer {
    /// As an element.
    pub fn to_element(&self) -> Element {
        let values = |namespace: &'static str| {
            self.methods
                .iter()
                .map(move |method| builder("value", namespace).text(method).build())
        };
        let choice = if self.multiple {
            builder("si-multiple", ns::SI_MULTIPLE)
                .children(values(ns::SI_MULTIPLE))
                .build()
        } else {
            let field = builder("field", ns::DATA_FORMS)
                .attr("var", "stream-method")
                .children(values(ns::DATA_FORMS).take(1))
                .build();
            form("submit", field)
        };
        builder("si", ns::SI)
            .child(choice)
            .children(self.extra.iter().cloned())
            .build()
    }

    /// Reads the element.
    ///
    /// # Errors
    /// [`Malformed`] when no method is chosen.
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        if !element.is("si", ns::SI) {
            return Err(Malformed("not the answer to a stream initiation"));
        }
        let texts = |parent: &Element, namespace: &str| -> Vec<String> {
            parent
                .children()
                .filter(|child| child.is("value", namespace))
                .map(Element::text)
                .take(MAX_METHODS)
                .collect()
        };
        let (methods, multiple) = match element.get_child("si-multiple", ns::SI_MULTIPLE) {
            Some(list) => (texts(list, ns::SI_MULTIPLE), true),
            None => {
                let mut methods = field(element)
                    .map(|field| texts(field, ns::DATA_FORMS))
                    .unwrap_or_default();
                methods.truncate(1);
                (methods, false)
            }
        };
        if methods.is_empty() {
            return Err(Malformed("the answer chooses no stream method"));
        }
        Ok(Answer {
            methods,
            multiple,
            extra: extra(element),
        })
    }
}

fn form(kind: &str, field: Element) -> Element {
    builder("feature", ns::FEATURE_NEG)
        .child(
            builder("x", ns::DATA_FORMS)
                .attr("type", kind)
                .child(field)
                .build(),
        )
        .build()
}

fn field(element: &Element) -> Option<&Element> {
    element
        .get_child("feature", ns::FEATURE_NEG)?
        .get_child("x", ns::DATA_FORMS)?
        .children()
        .find(|child| {
            child.is("field", ns::DATA_FORMS) && child.attr("var") == Some("stream-method")
        })
}

fn extra(element: &Element) -> Vec<Element> {
    element
        .children()
        .filter(|child| {
            !child.is("feature", ns::FEATURE_NEG) && !child.is("si-multiple", ns::SI_MULTIPLE)
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xmpp::{payload::tube, xml::parse_element};

    const GABBLE: &str = "<si id='1795414780-3719149623' \
        profile='http://telepathy.freedesktop.org/xmpp/tubes' \
        xmlns='http://jabber.org/protocol/si'>\
        <feature xmlns='http://jabber.org/protocol/feature-neg'><x type='form' xmlns='jabber:x:data'>\
        <field var='stream-method' type='list-single'>\
        <option><value>http://jabber.org/protocol/bytestreams</value></option>\
        <option><value>http://jabber.org/protocol/ibb</value></option></field></x></feature>\
        <si-multiple xmlns='http://telepathy.freedesktop.org/xmpp/si-multiple'/>\
        <stream tube='1953063797' xmlns='http://telepathy.freedesktop.org/xmpp/tubes'/></si>";

    #[test]
    fn an_offer_as_gabble_writes_it_is_read_and_written() {
        let element = parse_element(GABBLE).unwrap();
        let offer = Offer::parse(&element).unwrap();
        assert_eq!(offer.id, "1795414780-3719149623");
        assert_eq!(offer.profile, ns::TUBES);
        assert_eq!(offer.methods, [ns::BYTESTREAMS, ns::IBB]);
        assert!(offer.multiple);
        assert_eq!(tube::parse_stream(&offer.extra[0]), Ok(1_953_063_797));
        assert_eq!(offer.to_element(), element);
    }

    #[test]
    fn both_forms_of_answer_are_read() {
        let gabble = parse_element(
            "<si xmlns='http://jabber.org/protocol/si'>\
             <si-multiple xmlns='http://telepathy.freedesktop.org/xmpp/si-multiple'>\
             <value>http://jabber.org/protocol/bytestreams</value>\
             <value>http://jabber.org/protocol/ibb</value></si-multiple>\
             <tube xmlns='http://telepathy.freedesktop.org/xmpp/tubes'/></si>",
        )
        .unwrap();
        let answer = Answer::parse(&gabble).unwrap();
        assert_eq!(answer.methods, [ns::BYTESTREAMS, ns::IBB]);
        assert_eq!(answer.extra, [tube::agreed()]);
        assert_eq!(answer.to_element(), gabble);

        let form = Answer {
            methods: vec![ns::BYTESTREAMS.into()],
            multiple: false,
            extra: vec![],
        };
        assert_eq!(Answer::parse(&form.to_element()), Ok(form));
    }

    #[test]
    fn a_form_chooses_one_method() {
        let two = parse_element(
            "<si xmlns='http://jabber.org/protocol/si'>\
             <feature xmlns='http://jabber.org/protocol/feature-neg'>\
             <x type='submit' xmlns='jabber:x:data'><field var='stream-method'>\
             <value>a</value><value>b</value></field></x></feature></si>",
        )
        .unwrap();
        assert_eq!(Answer::parse(&two).unwrap().methods, ["a"]);
    }

    #[test]
    fn an_answer_without_a_method_is_malformed() {
        let element = parse_element("<si xmlns='http://jabber.org/protocol/si'/>").unwrap();
        assert!(Answer::parse(&element).is_err());
    }

    #[test]
    fn an_offer_without_its_parts_is_malformed() {
        for (from, to) in [
            (" id='1795414780-3719149623'", ""),
            (" id='1795414780-3719149623'", " id=''"),
            (" profile='http://telepathy.freedesktop.org/xmpp/tubes'", ""),
            ("stream-method", "other"),
            ("http://jabber.org/protocol/si'", "other'"),
        ] {
            let text = GABBLE.replace(from, to);
            assert_ne!(text, GABBLE);
            assert!(
                Offer::parse(&parse_element(&text).unwrap()).is_err(),
                "{text}"
            );
        }
        let long = GABBLE.replace("1795414780", &"1".repeat(300));
        assert!(Offer::parse(&parse_element(&long).unwrap()).is_err());
    }
}
