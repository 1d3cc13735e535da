//! Stanzas: iq, message, and the errors that answer them (RFC 6120 section 8).
//!
//! A stanza's `from`, `to` and `id` are kept as they are written. Presence does not occur on
//! link-local streams (XEP-0174 section 4: it is the TXT record), so it is not read further.

use std::fmt;

use minidom::Element;

use super::{ns, payload::builder};

/// What an iq carries.
#[derive(Clone, Debug, PartialEq)]
pub enum IqKind {
    /// A question.
    Get(Element),
    /// An order.
    Set(Element),
    /// The answer to either.
    Result(Option<Element>),
    /// The refusal of either.
    Error(StanzaError),
}

/// An iq (RFC 6120 section 8.2.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Iq {
    /// `from`
    pub from: Option<String>,
    /// `to`
    pub to: Option<String>,
    /// `id`; never absent.
    pub id: String,
    /// `type` and the payload.
    pub kind: IqKind,
}

/// A message (RFC 6120 section 8.2.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `from`
    pub from: Option<String>,
    /// `to`
    pub to: Option<String>,
    /// `id`
    pub id: Option<String>,
    /// `type`: `chat`, `error` and so on; absent means `normal`.
    pub kind: Option<String>,
    /// All children.
    pub payloads: Vec<Element>,
}

/// What comes through an established stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Stanza {
    /// An iq.
    Iq(Iq),
    /// A message.
    Message(Message),
    /// A presence; of no meaning on a link-local stream.
    Presence(Element),
}

/// `type` of a stanza error (RFC 6120 section 8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Retry after giving credentials.
    Auth,
    /// Do not retry.
    Cancel,
    /// It was a warning only.
    Continue,
    /// Retry after changing what was sent.
    Modify,
    /// Retry later.
    Wait,
}

impl ErrorKind {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Auth => "auth",
            ErrorKind::Cancel => "cancel",
            ErrorKind::Continue => "continue",
            ErrorKind::Modify => "modify",
            ErrorKind::Wait => "wait",
        }
    }

    fn from_name(name: &str) -> Self {
        match name {
            "auth" => ErrorKind::Auth,
            "continue" => ErrorKind::Continue,
            "modify" => ErrorKind::Modify,
            "wait" => ErrorKind::Wait,
            _ => ErrorKind::Cancel,
        }
    }
}

/// A defined condition of a stanza error (RFC 6120 section 8.3.3). Those that nobody here sends or
/// tells apart read as `UndefinedCondition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Malformed.
    BadRequest,
    /// It exists already.
    Conflict,
    /// Understood and not implemented.
    FeatureNotImplemented,
    /// Refused by whoever decides.
    Forbidden,
    /// We failed.
    InternalServerError,
    /// No such thing.
    ItemNotFound,
    /// Not acceptable as it is.
    NotAcceptable,
    /// Not allowed to anybody.
    NotAllowed,
    /// Not allowed to strangers.
    NotAuthorized,
    /// Against a rule of ours.
    PolicyViolation,
    /// Not there now.
    RecipientUnavailable,
    /// A bound is reached.
    ResourceConstraint,
    /// Nobody here does that.
    ServiceUnavailable,
    /// Anything else.
    UndefinedCondition,
    /// Not expected now.
    UnexpectedRequest,
}

impl Condition {
    const ALL: [Condition; 15] = [
        Condition::BadRequest,
        Condition::Conflict,
        Condition::FeatureNotImplemented,
        Condition::Forbidden,
        Condition::InternalServerError,
        Condition::ItemNotFound,
        Condition::NotAcceptable,
        Condition::NotAllowed,
        Condition::NotAuthorized,
        Condition::PolicyViolation,
        Condition::RecipientUnavailable,
        Condition::ResourceConstraint,
        Condition::ServiceUnavailable,
        Condition::UndefinedCondition,
        Condition::UnexpectedRequest,
    ];

    /// The condition's element name.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::BadRequest => "bad-request",
            Condition::Conflict => "conflict",
            Condition::FeatureNotImplemented => "feature-not-implemented",
            Condition::Forbidden => "forbidden",
            Condition::InternalServerError => "internal-server-error",
            Condition::ItemNotFound => "item-not-found",
            Condition::NotAcceptable => "not-acceptable",
            Condition::NotAllowed => "not-allowed",
            Condition::NotAuthorized => "not-authorized",
            Condition::PolicyViolation => "policy-violation",
            Condition::RecipientUnavailable => "recipient-unavailable",
            Condition::ResourceConstraint => "resource-constraint",
            Condition::ServiceUnavailable => "service-unavailable",
            Condition::UndefinedCondition => "undefined-condition",
            Condition::UnexpectedRequest => "unexpected-request",
        }
    }

    /// The `type` RFC 6120 recommends with it.
    pub fn kind(self) -> ErrorKind {
        match self {
            Condition::BadRequest | Condition::NotAcceptable | Condition::PolicyViolation => {
                ErrorKind::Modify
            }
            Condition::Forbidden | Condition::NotAuthorized => ErrorKind::Auth,
            Condition::RecipientUnavailable
            | Condition::ResourceConstraint
            | Condition::UnexpectedRequest => ErrorKind::Wait,
            _ => ErrorKind::Cancel,
        }
    }

    /// The condition of this name; `UndefinedCondition` for others.
    pub fn from_name(name: &str) -> Self {
        Condition::ALL
            .into_iter()
            .find(|condition| condition.as_str() == name)
            .unwrap_or(Condition::UndefinedCondition)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Most characters of a peer's error text that are kept.
pub const MAX_ERROR_TEXT: usize = 256;

/// A stanza error (RFC 6120 section 8.3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{condition}{}", text.as_deref().map(|t| format!(" ({t})")).unwrap_or_default())]
pub struct StanzaError {
    /// `type`
    pub kind: ErrorKind,
    /// The defined condition.
    pub condition: Condition,
    /// A sentence beside it; of a peer's, at most [`MAX_ERROR_TEXT`] characters.
    pub text: Option<String>,
}

impl StanzaError {
    /// An error with its recommended type and no text.
    pub fn new(condition: Condition) -> Self {
        StanzaError {
            kind: condition.kind(),
            condition,
            text: None,
        }
    }

    /// The same with a sentence beside it.
    pub fn with_text(condition: Condition, text: impl Into<String>) -> Self {
        StanzaError {
            text: Some(text.into()),
            ..StanzaError::new(condition)
        }
    }

    fn to_element(&self) -> Element {
        let error = builder("error", ns::CLIENT)
            .attr("type", self.kind.as_str())
            .child(builder(self.condition.as_str(), ns::STANZA_ERRORS).build());
        match &self.text {
            Some(text) => error
                .child(builder("text", ns::STANZA_ERRORS).text(text).build())
                .build(),
            None => error.build(),
        }
    }

    fn from_element(error: Option<&Element>) -> Self {
        let children = || {
            error
                .into_iter()
                .flat_map(Element::children)
                .filter(|child| child.has_ns(ns::STANZA_ERRORS))
        };
        let condition = children()
            .find(|child| child.name() != "text")
            .map_or(Condition::UndefinedCondition, |child| {
                Condition::from_name(child.name())
            });
        StanzaError {
            kind: error
                .and_then(|error| error.attr("type"))
                .map_or(condition.kind(), ErrorKind::from_name),
            condition,
            text: children()
                .find(|child| child.name() == "text")
                .map(|child| short_text(&child.text())),
        }
    }
}

/// A peer's text for our log and our user: one line, bounded.
pub(crate) fn short_text(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_ERROR_TEXT)
        .collect()
}

impl Iq {
    /// An iq to be sent on a stream between two peers.
    pub fn new(from: &str, to: &str, id: impl Into<String>, kind: IqKind) -> Self {
        Iq {
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            id: id.into(),
            kind,
        }
    }

    /// The answer to this one: `from` and `to` swapped, the same id.
    pub fn reply(&self, answer: Result<Option<Element>, StanzaError>) -> Iq {
        Iq {
            from: self.to.clone(),
            to: self.from.clone(),
            id: self.id.clone(),
            kind: match answer {
                Ok(payload) => IqKind::Result(payload),
                Err(error) => IqKind::Error(error),
            },
        }
    }

    /// As an element of the stream.
    pub fn to_element(&self) -> Element {
        let (kind, payload) = match &self.kind {
            IqKind::Get(payload) => ("get", Some(payload.clone())),
            IqKind::Set(payload) => ("set", Some(payload.clone())),
            IqKind::Result(payload) => ("result", payload.clone()),
            IqKind::Error(error) => ("error", Some(error.to_element())),
        };
        builder("iq", ns::CLIENT)
            .maybe_attr("from", self.from.as_deref())
            .maybe_attr("to", self.to.as_deref())
            .attr("id", &self.id)
            .attr("type", kind)
            .children(payload)
            .build()
    }

    fn from_element(mut element: Element) -> Option<Iq> {
        let attribute = |name: &str| element.attr(name).map(str::to_owned);
        let (from, to, id) = (attribute("from"), attribute("to"), attribute("id")?);
        let kind = attribute("type")?;
        let kind = match kind.as_str() {
            "error" => IqKind::Error(StanzaError::from_element(
                element.get_child("error", ns::CLIENT),
            )),
            "result" => IqKind::Result(take_children(&mut element).next()),
            "get" | "set" => {
                let mut children = take_children(&mut element);
                let payload = children.next()?;
                // RFC 6120 section 8.2.3, rule 4: exactly one child.
                if children.next().is_some() {
                    return None;
                }
                if kind == "get" {
                    IqKind::Get(payload)
                } else {
                    IqKind::Set(payload)
                }
            }
            _ => return None,
        };
        Some(Iq { from, to, id, kind })
    }
}

fn take_children(element: &mut Element) -> impl Iterator<Item = Element> {
    element
        .take_nodes()
        .into_iter()
        .filter_map(minidom::Node::into_element)
}

impl Message {
    /// A message to be sent on a stream between two peers.
    pub fn new(from: &str, to: &str, payloads: Vec<Element>) -> Self {
        Message {
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            id: None,
            kind: None,
            payloads,
        }
    }

    /// As an element of the stream.
    pub fn to_element(&self) -> Element {
        builder("message", ns::CLIENT)
            .maybe_attr("from", self.from.as_deref())
            .maybe_attr("to", self.to.as_deref())
            .maybe_attr("id", self.id.as_deref())
            .maybe_attr("type", self.kind.as_deref())
            .children(self.payloads.iter().cloned())
            .build()
    }

    fn from_element(mut element: Element) -> Message {
        let attribute = |name: &str| element.attr(name).map(str::to_owned);
        let (from, to) = (attribute("from"), attribute("to"));
        let (id, kind) = (attribute("id"), attribute("type"));
        Message {
            from,
            to,
            id,
            kind,
            payloads: take_children(&mut element).collect(),
        }
    }
}

/// What a child of the stream turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// A stanza.
    Stanza(Stanza),
    /// A stanza that breaks a rule and must be answered with this error (an iq without payload or
    /// with two).
    Refuse(Iq),
    /// A stanza that breaks a rule and cannot be answered (an iq without id or type, or one that
    /// is an answer itself). It is dropped.
    Drop,
    /// Nothing of `jabber:client` (RFC 6120 section 4.9.3.24).
    NotAStanza,
}

/// Reads a child of the stream.
pub fn parse(element: Element) -> Parsed {
    if !element.has_ns(ns::CLIENT) {
        return Parsed::NotAStanza;
    }
    match element.name() {
        "message" => Parsed::Stanza(Stanza::Message(Message::from_element(element))),
        "presence" => Parsed::Stanza(Stanza::Presence(element)),
        "iq" => {
            let attribute = |name: &str| element.attr(name).map(str::to_owned);
            let refusal = match (attribute("id"), attribute("type").as_deref()) {
                (Some(id), Some("get" | "set")) => Parsed::Refuse(Iq {
                    from: attribute("to"),
                    to: attribute("from"),
                    id,
                    kind: IqKind::Error(StanzaError::new(Condition::BadRequest)),
                }),
                _ => Parsed::Drop,
            };
            Iq::from_element(element).map_or(refusal, |iq| Parsed::Stanza(Stanza::Iq(iq)))
        }
        _ => Parsed::NotAStanza,
    }
}

#[cfg(test)]
#[path = "stanza_tests.rs"]
mod tests;
