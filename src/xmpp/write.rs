//! Writing XML: stream headers, stanzas, stream errors.
//!
//! The writer cannot fail: a character XML has no way to carry (RFC 6120 section 11.1, XML 1.0
//! `Char`) becomes U+FFFD. Element and attribute names come from this program or from a reader,
//! which has checked them.

use minidom::{Element, Node};

use super::{error::StreamCondition, ns};

/// What a stream header says (RFC 6120 section 4.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Who opens or answers.
    pub from: Option<String>,
    /// To whom.
    pub to: Option<String>,
    /// The stream's id; only the recipient gives one.
    pub id: Option<String>,
    /// `version`; absent with clients older than XMPP 1.0 (Pidgin's Bonjour), which therefore have
    /// no stream features.
    pub version: Option<String>,
}

impl Header {
    /// Whether the sender speaks XMPP 1.0 or a later 1.x and so understands stream features.
    pub fn has_features(&self) -> bool {
        self.version
            .as_deref()
            .and_then(|version| version.split('.').next()?.parse::<u32>().ok())
            .is_some_and(|major| major >= 1)
    }
}

/// A stream header with its XML declaration.
pub fn header(header: &Header) -> Vec<u8> {
    let mut out = String::from("<?xml version='1.0' encoding='UTF-8'?><stream:stream");
    attribute(&mut out, "xmlns", ns::CLIENT);
    attribute(&mut out, "xmlns:stream", ns::STREAM);
    let values = [
        ("from", &header.from),
        ("to", &header.to),
        ("id", &header.id),
        ("version", &header.version),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            attribute(&mut out, name, value);
        }
    }
    out.push('>');
    out.into_bytes()
}

/// The end of a stream.
pub fn footer() -> Vec<u8> {
    b"</stream:stream>".to_vec()
}

/// A stream error and the end of the stream (RFC 6120 section 4.9).
pub fn stream_error(condition: StreamCondition) -> Vec<u8> {
    format!(
        "<stream:error><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>\
         </stream:stream>"
    )
    .into_bytes()
}

/// An element as a child of a stream whose default namespace is `jabber:client`. An element of
/// the streams' own namespace is written with the prefix that [`header`] declares, which RFC 6120
/// section 4.8.5 asks for.
pub fn element(element: &Element) -> Vec<u8> {
    let mut out = String::new();
    write_element(&mut out, element, ns::CLIENT);
    out.into_bytes()
}

fn write_element(out: &mut String, element: &Element, default_ns: &str) {
    let own_ns = element.ns();
    let (prefix, inner_ns) = if own_ns == ns::STREAM {
        ("stream:", default_ns)
    } else {
        ("", own_ns.as_str())
    };
    out.push('<');
    out.push_str(prefix);
    out.push_str(element.name());
    if inner_ns != default_ns {
        attribute(out, "xmlns", inner_ns);
    }
    for (number, ((attribute_ns, name), value)) in element.attrs().iter().enumerate() {
        if attribute_ns.is_empty() {
            attribute(out, name.as_str(), value);
        } else if attribute_ns.as_str() == rxml::XMLNS_XML {
            attribute(out, &format!("xml:{}", name.as_str()), value);
        } else {
            attribute(out, &format!("xmlns:a{number}"), attribute_ns.as_str());
            attribute(out, &format!("a{number}:{}", name.as_str()), value);
        }
    }
    let mut children = element.nodes().peekable();
    if children.peek().is_none() {
        out.push_str("/>");
        return;
    }
    out.push('>');
    for child in children {
        match child {
            Node::Element(child) => write_element(out, child, inner_ns),
            Node::Text(text) => escape(out, text, false),
        }
    }
    out.push_str("</");
    out.push_str(prefix);
    out.push_str(element.name());
    out.push('>');
}

fn attribute(out: &mut String, name: &str, value: &str) {
    out.push(' ');
    out.push_str(name);
    out.push_str("='");
    escape(out, value, true);
    out.push('\'');
}

/// Escapes text so that a reader gives back exactly what went in: readers turn a bare carriage
/// return into a line feed, and white space inside attributes into spaces.
fn escape(out: &mut String, text: &str, in_attribute: bool) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' if in_attribute => out.push_str("&apos;"),
            '\r' => out.push_str("&#xD;"),
            '\n' if in_attribute => out.push_str("&#xA;"),
            '\t' if in_attribute => out.push_str("&#x9;"),
            '\t' | '\n' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'.. => out.push(c),
            _ => out.push('\u{FFFD}'),
        }
    }
}
