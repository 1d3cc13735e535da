//! An incremental reader of one XML stream: bytes in, stream events out.
//!
//! ```text
//!            header              stanza begins           stanza ends
//!  Before ───────────► Between ───────────────► Inside ───────────────► Between
//!                         │ </stream:stream>
//!                         └─────────────────► After
//! ```
//!
//! Every bound is looked at *before* anything is added to a tree, so that no tree is ever deeper or
//! larger than the bounds allow: the trees are dropped and compared by recursion. The bounds, each
//! of which ends the stream with `policy-violation`:
//!
//! | bound | value |
//! | --- | --- |
//! | depth, the stream's element included | [`MAX_DEPTH`] |
//! | bytes of one stanza, as written | [`MAX_STANZA_BYTES`] |
//! | bytes of the header, with all before it | [`MAX_HEADER_BYTES`] |
//! | elements in one stanza | [`MAX_ELEMENTS`] |
//! | attributes of one element, declarations included | [`MAX_ATTRIBUTES`] |
//! | bytes of one attribute's value | [`MAX_ATTRIBUTE_BYTES`] |
//! | bytes of one name | [`MAX_NAME_BYTES`] |
//! | bytes of one namespace (every element keeps a copy, attributes share it) | [`MAX_NAMESPACE_BYTES`] |
//! | declarations in force (every prefix is looked for among them) | [`MAX_NAMESPACES`] |
//!
//! Until [`Reader::widen`] it is a stranger who writes, and there is nothing to say but features and
//! STARTTLS: a stanza has at most [`MAX_HEADER_BYTES`] and [`MAX_EARLY_ELEMENTS`], so that all the
//! strangers together do not fill the memory.
//!
//! A reader is used for one stream and thrown away at its restart after TLS.

use minidom::Element;
use rxml::{
    Namespace, NcName, Parse as _, RawEvent, RawParser, WithOptions as _, error::EndOrError,
};

use super::{
    error::{StreamCondition, StreamError},
    ns,
    write::Header,
};

/// Deepest nesting, the stream's own element included.
pub const MAX_DEPTH: usize = 64;
/// Most bytes one stanza may have as written.
pub const MAX_STANZA_BYTES: usize = 256 * 1024;
/// Most bytes a stream header may have.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most elements one stanza may have: an element costs far more than its few bytes, and a peer may have
/// many streams. Service discovery with all the features that are taken needs half of them.
pub const MAX_ELEMENTS: usize = 2048;
/// Most elements one stanza may have before the stream is established.
pub const MAX_EARLY_ELEMENTS: usize = 64;
/// Most namespace declarations in force at one place, those of all elements around it counted.
pub const MAX_NAMESPACES: usize = 64;
/// Most attributes one element may have.
pub const MAX_ATTRIBUTES: usize = 64;
/// Most bytes an attribute's value may have.
pub const MAX_ATTRIBUTE_BYTES: usize = 8192;
/// Most bytes a name may have.
pub const MAX_NAME_BYTES: usize = 256;
/// Most bytes a namespace may have.
pub const MAX_NAMESPACE_BYTES: usize = 512;

/// What a stream brings.
#[derive(Clone, Debug, PartialEq)]
pub enum XmlEvent {
    /// The header; always the first event.
    StreamOpened {
        /// What it says.
        header: Header,
        /// The default namespace it declares, that of its stanzas.
        default_ns: String,
    },
    /// One whole child of the stream.
    Element(Element),
    /// `</stream:stream>`; always the last event.
    StreamClosed,
}

/// See the module's head.
pub struct Reader {
    parser: RawParser,
    /// Namespace declarations in force, the innermost last: depth of the element, prefix, name.
    namespaces: Vec<(usize, Option<String>, Namespace<'static>)>,
    /// Elements that are open, the stream's own included.
    depth: usize,
    /// The tree being built; empty between stanzas.
    open: Vec<Element>,
    /// The element whose head is being read.
    head: Option<Head>,
    /// Bytes read since the stanza (or the header) began.
    bytes: usize,
    /// Elements in the stanza so far.
    elements: usize,
    /// Stanzas may be as large as they ever may.
    wide: bool,
    /// `</stream:stream>` or an error was seen.
    over: Option<StreamError>,
}

struct Head {
    prefix: Option<NcName>,
    name: NcName,
    attributes: Vec<(Option<NcName>, NcName, String)>,
    /// Attributes and declarations together.
    count: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Reader::new()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("depth", &self.depth)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader at the beginning of a stream.
    pub fn new() -> Self {
        let options = rxml::Options {
            max_token_length: MAX_ATTRIBUTE_BYTES,
            ..rxml::Options::default()
        };
        Reader {
            parser: RawParser::with_options(options),
            namespaces: Vec::new(),
            depth: 0,
            open: Vec::new(),
            head: None,
            bytes: 0,
            elements: 0,
            wide: false,
            over: None,
        }
    }

    /// The stream is established: stanzas may be as large as they ever may.
    pub fn widen(&mut self) {
        self.wide = true;
    }

    /// Takes bytes from the front of `input` until an event is complete; `None` when `input` is
    /// used up first. What follows the event stays in `input`.
    ///
    /// # Errors
    /// Malformed, restricted or oversized XML, as a [`StreamError::Local`] with the right
    /// condition; the same again at every later call. After the stream's end everything is
    /// `not-well-formed`.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<XmlEvent>, StreamError> {
        if let Some(error) = &self.over {
            return if input.is_empty() {
                Ok(None)
            } else {
                Err(error.clone())
            };
        }
        let result = self.step(input);
        match &result {
            Err(error) => self.over = Some(error.clone()),
            Ok(Some(XmlEvent::StreamClosed)) => {
                self.over = Some(StreamError::local(
                    StreamCondition::NotWellFormed,
                    "bytes after the stream's end",
                ));
            }
            Ok(_) => {}
        }
        result
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<XmlEvent>, StreamError> {
        // The parser would wait for the end of a text here; who speaks another protocol is told
        // at once.
        if self.depth == 0
            && self.bytes == 0
            && input
                .first()
                .is_some_and(|byte| *byte != b'<' && !byte.is_ascii_whitespace())
        {
            return Err(StreamError::local(
                StreamCondition::NotWellFormed,
                "this is not XML",
            ));
        }
        loop {
            let before = input.len();
            let result = self.parser.parse(input, false);
            self.bytes += before - input.len();
            let event = match result {
                Ok(Some(event)) => event,
                Ok(None) | Err(EndOrError::NeedMoreData) => {
                    self.check_bytes()?;
                    return Ok(None);
                }
                Err(EndOrError::Error(error)) => return Err(xml_error(error)),
            };
            self.check_bytes()?;
            if let Some(event) = self.apply(event)? {
                return Ok(Some(event));
            }
        }
    }

    /// Between stanzas only white space can come, as often as the peer likes; it is not counted
    /// once it was looked at.
    fn check_bytes(&self) -> Result<(), StreamError> {
        let most = if self.depth == 0 || !self.wide {
            MAX_HEADER_BYTES
        } else {
            MAX_STANZA_BYTES
        };
        if self.bytes > most {
            return Err(too_much("bytes in one stanza"));
        }
        Ok(())
    }

    fn apply(&mut self, event: RawEvent) -> Result<Option<XmlEvent>, StreamError> {
        match event {
            RawEvent::XmlDeclaration(..) => Ok(None),
            RawEvent::ElementHeadOpen(_, (prefix, name)) => {
                if self.depth >= MAX_DEPTH {
                    return Err(too_much("nested elements"));
                }
                self.elements += 1;
                let most = if self.wide {
                    MAX_ELEMENTS
                } else {
                    MAX_EARLY_ELEMENTS
                };
                if self.elements > most {
                    return Err(too_much("elements in one stanza"));
                }
                check_name(&name)?;
                self.head = Some(Head {
                    prefix,
                    name,
                    attributes: Vec::new(),
                    count: 0,
                });
                Ok(None)
            }
            RawEvent::Attribute(_, (prefix, name), value) => {
                self.attribute(prefix, name, value)?;
                Ok(None)
            }
            RawEvent::ElementHeadClose(_) => self.head_complete(),
            RawEvent::Text(_, text) => {
                match self.open.last_mut() {
                    Some(element) => element.append_text(text),
                    None if text.chars().all(|c| c.is_ascii_whitespace()) => self.bytes = 0,
                    None => {
                        return Err(StreamError::local(
                            StreamCondition::BadFormat,
                            "text between stanzas",
                        ));
                    }
                }
                Ok(None)
            }
            RawEvent::ElementFoot(_) => Ok(self.element_complete()),
        }
    }

    fn attribute(
        &mut self,
        prefix: Option<NcName>,
        name: NcName,
        value: String,
    ) -> Result<(), StreamError> {
        let depth = self.depth;
        let Some(head) = &mut self.head else {
            return Err(confused());
        };
        head.count += 1;
        if head.count > MAX_ATTRIBUTES {
            return Err(too_much("attributes"));
        }
        if value.len() > MAX_ATTRIBUTE_BYTES {
            return Err(too_much("bytes in one attribute"));
        }
        check_name(&name)?;
        let declared = match &prefix {
            None if name == "xmlns" => Some(None),
            Some(prefix) if prefix == "xmlns" => Some(Some(name.as_str().to_owned())),
            _ => None,
        };
        let Some(declared) = declared else {
            head.attributes.push((prefix, name, value));
            return Ok(());
        };
        if value.len() > MAX_NAMESPACE_BYTES {
            return Err(too_much("bytes in one namespace"));
        }
        let twice = self
            .namespaces
            .iter()
            .rev()
            .take_while(|(at, _, _)| *at == depth)
            .any(|(_, prefix, _)| *prefix == declared);
        if twice {
            return Err(StreamError::local(
                StreamCondition::NotWellFormed,
                "a namespace is declared twice in one element",
            ));
        }
        if self.namespaces.len() >= MAX_NAMESPACES {
            return Err(too_much("namespaces"));
        }
        self.namespaces
            .push((depth, declared, Namespace::from(value)));
        Ok(())
    }

    fn head_complete(&mut self) -> Result<Option<XmlEvent>, StreamError> {
        let Some(head) = self.head.take() else {
            return Err(confused());
        };
        let own_ns = self.resolve(head.prefix.as_ref())?;
        let mut element = Element::bare(head.name.as_str(), own_ns.as_str());
        for (prefix, name, value) in head.attributes {
            let namespace = match prefix {
                None => Namespace::NONE,
                Some(prefix) => self.resolve(Some(&prefix))?,
            };
            if element.attrs_mut().insert(namespace, name, value).is_some() {
                return Err(StreamError::local(
                    StreamCondition::NotWellFormed,
                    "an attribute is given twice",
                ));
            }
        }
        self.depth += 1;
        if self.depth > 1 {
            self.open.push(element);
            return Ok(None);
        }
        self.bytes = 0;
        self.elements = 0;
        let event = self.stream_opened(&element)?;
        Ok(Some(event))
    }

    fn stream_opened(&self, element: &Element) -> Result<XmlEvent, StreamError> {
        if !element.has_ns(ns::STREAM) {
            return Err(StreamError::local(
                StreamCondition::InvalidNamespace,
                "the first element is not of the streams' namespace",
            ));
        }
        if element.name() != "stream" {
            return Err(StreamError::local(
                StreamCondition::BadFormat,
                "the first element is not a stream's",
            ));
        }
        let attribute = |name: &str| element.attr(name).map(str::to_owned);
        Ok(XmlEvent::StreamOpened {
            header: Header {
                from: attribute("from"),
                to: attribute("to"),
                id: attribute("id"),
                version: attribute("version"),
            },
            default_ns: self.resolve(None)?.as_str().to_owned(),
        })
    }

    fn element_complete(&mut self) -> Option<XmlEvent> {
        self.depth = self.depth.saturating_sub(1);
        let depth = self.depth;
        while self
            .namespaces
            .last()
            .is_some_and(|(at, _, _)| *at >= depth)
        {
            self.namespaces.pop();
        }
        let Some(element) = self.open.pop() else {
            return Some(XmlEvent::StreamClosed);
        };
        match self.open.last_mut() {
            Some(parent) => {
                parent.append_child(element);
                None
            }
            None => {
                self.bytes = 0;
                self.elements = 0;
                Some(XmlEvent::Element(element))
            }
        }
    }

    /// The namespace that is meant by a prefix. It is shared with the declaration, not copied: a few
    /// bytes make one more attribute of a long namespace.
    fn resolve(&self, prefix: Option<&NcName>) -> Result<Namespace<'static>, StreamError> {
        if prefix.is_some_and(|prefix| prefix == "xml") {
            return Ok(Namespace::XML);
        }
        let found =
            self.namespaces.iter().rev().find(|(_, declared, _)| {
                declared.as_deref() == prefix.map(|prefix| prefix.as_str())
            });
        match (found, prefix) {
            (Some((_, _, namespace)), _) => Ok(namespace.clone()),
            (None, None) => Ok(Namespace::NONE),
            (None, Some(_)) => Err(StreamError::local(
                StreamCondition::NotWellFormed,
                "a prefix was never declared",
            )),
        }
    }
}

/// Reads one whole element out of text, within the bounds of this module; for tests and for what
/// is stored.
///
/// # Errors
/// As [`Reader::next`], and `not-well-formed` for text that is not exactly one element.
pub fn parse_element(text: &str) -> Result<Element, StreamError> {
    let opening = super::write::header(&Header::default());
    let mut reader = Reader::new();
    reader.next(&mut opening.as_slice())?;
    reader.widen();
    let mut rest = text.as_bytes();
    let event = reader.next(&mut rest)?;
    match event {
        Some(XmlEvent::Element(element)) if rest.trim_ascii().is_empty() => Ok(element),
        _ => Err(StreamError::local(
            StreamCondition::NotWellFormed,
            "this is not one element",
        )),
    }
}

fn check_name(name: &NcName) -> Result<(), StreamError> {
    if name.as_str().len() > MAX_NAME_BYTES {
        return Err(too_much("bytes in one name"));
    }
    Ok(())
}

fn too_much(what: &str) -> StreamError {
    StreamError::local(StreamCondition::PolicyViolation, format!("too many {what}"))
}

/// The parser gives events in a fixed order; if it ever did not, the stream ends.
fn confused() -> StreamError {
    StreamError::local(
        StreamCondition::InternalServerError,
        "the parser's events are out of order",
    )
}

fn xml_error(error: rxml::Error) -> StreamError {
    let condition = match &error {
        rxml::Error::RestrictedXml(what) if what.starts_with("long") => {
            StreamCondition::PolicyViolation
        }
        rxml::Error::RestrictedXml(_) | rxml::Error::UndeclaredEntity => {
            StreamCondition::RestrictedXml
        }
        rxml::Error::InvalidUtf8Byte(_) => StreamCondition::UnsupportedEncoding,
        _ => StreamCondition::NotWellFormed,
    };
    StreamError::local(condition, error.to_string())
}

#[cfg(test)]
#[path = "xml_tests.rs"]
mod tests;
