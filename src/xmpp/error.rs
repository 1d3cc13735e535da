//! Why an XML stream ends badly: the conditions of RFC 6120 section 4.9.3, and who saw them.

use std::fmt;

/// A defined condition of a stream error (RFC 6120 section 4.9.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamCondition {
    /// Well-formed XML that nobody can process (4.9.3.1).
    BadFormat,
    /// A prefix where none may be, or none where one must be (4.9.3.2).
    BadNamespacePrefix,
    /// A newer stream takes this one's place (4.9.3.3).
    Conflict,
    /// The peer was silent for too long (4.9.3.4).
    ConnectionTimeout,
    /// `to` is not who we are (4.9.3.6).
    HostUnknown,
    /// We failed (4.9.3.8).
    InternalServerError,
    /// `from` is not who the peer proved to be (4.9.3.9).
    InvalidFrom,
    /// Not the stream's namespace, or not the stanzas' one (4.9.3.10).
    InvalidNamespace,
    /// Stanzas before authentication (4.9.3.12).
    NotAuthorized,
    /// Not well-formed XML (4.9.3.13).
    NotWellFormed,
    /// A bound or a rule of ours was broken (4.9.3.14).
    PolicyViolation,
    /// Too many streams (4.9.3.17).
    ResourceConstraint,
    /// A construct RFC 6120 forbids: comment, processing instruction, DTD, entity (4.9.3.18).
    RestrictedXml,
    /// We are going offline (4.9.3.20).
    SystemShutdown,
    /// Anything else (4.9.3.21); also every condition we do not know by name.
    UndefinedCondition,
    /// Not UTF-8 (4.9.3.22).
    UnsupportedEncoding,
    /// A top-level element that is no stanza (4.9.3.24).
    UnsupportedStanzaType,
    /// A version of the stream we do not speak (4.9.3.25).
    UnsupportedVersion,
}

impl StreamCondition {
    const ALL: [StreamCondition; 18] = [
        StreamCondition::BadFormat,
        StreamCondition::BadNamespacePrefix,
        StreamCondition::Conflict,
        StreamCondition::ConnectionTimeout,
        StreamCondition::HostUnknown,
        StreamCondition::InternalServerError,
        StreamCondition::InvalidFrom,
        StreamCondition::InvalidNamespace,
        StreamCondition::NotAuthorized,
        StreamCondition::NotWellFormed,
        StreamCondition::PolicyViolation,
        StreamCondition::ResourceConstraint,
        StreamCondition::RestrictedXml,
        StreamCondition::SystemShutdown,
        StreamCondition::UndefinedCondition,
        StreamCondition::UnsupportedEncoding,
        StreamCondition::UnsupportedStanzaType,
        StreamCondition::UnsupportedVersion,
    ];

    /// The condition's element name.
    pub fn as_str(self) -> &'static str {
        match self {
            StreamCondition::BadFormat => "bad-format",
            StreamCondition::BadNamespacePrefix => "bad-namespace-prefix",
            StreamCondition::Conflict => "conflict",
            StreamCondition::ConnectionTimeout => "connection-timeout",
            StreamCondition::HostUnknown => "host-unknown",
            StreamCondition::InternalServerError => "internal-server-error",
            StreamCondition::InvalidFrom => "invalid-from",
            StreamCondition::InvalidNamespace => "invalid-namespace",
            StreamCondition::NotAuthorized => "not-authorized",
            StreamCondition::NotWellFormed => "not-well-formed",
            StreamCondition::PolicyViolation => "policy-violation",
            StreamCondition::ResourceConstraint => "resource-constraint",
            StreamCondition::RestrictedXml => "restricted-xml",
            StreamCondition::SystemShutdown => "system-shutdown",
            StreamCondition::UndefinedCondition => "undefined-condition",
            StreamCondition::UnsupportedEncoding => "unsupported-encoding",
            StreamCondition::UnsupportedStanzaType => "unsupported-stanza-type",
            StreamCondition::UnsupportedVersion => "unsupported-version",
        }
    }

    /// Reads an element name; what is unknown is `undefined-condition`.
    pub fn from_name(name: &str) -> Self {
        StreamCondition::ALL
            .into_iter()
            .find(|condition| condition.as_str() == name)
            .unwrap_or(StreamCondition::UndefinedCondition)
    }
}

impl fmt::Display for StreamCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a stream failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer broke a rule; it is told so by a stream error, written before this is reported.
    #[error("the contact broke a rule of the stream, {condition}: {text}")]
    Local {
        /// What it is told.
        condition: StreamCondition,
        /// A sentence for the log. Not sent: it may tell a stranger about us.
        text: String,
    },
    /// The peer ended the stream with an error.
    #[error("the contact ended the stream, {condition}{}", text.as_deref().map(|t| format!(": {t}")).unwrap_or_default())]
    Remote {
        /// Its condition.
        condition: StreamCondition,
        /// Its text, at most 256 characters of it.
        text: Option<String>,
    },
    /// TLS is required and the peer does not offer it, refuses it, or somebody between stripped
    /// the offer. Nothing but stream headers went out in plaintext.
    #[error("the contact offers no encryption: {0}")]
    TlsUnavailable(&'static str),
    /// The connection ended in the middle of the stream.
    #[error("the stream ended before it was closed")]
    Ended,
}

impl StreamError {
    /// The peer broke a rule.
    pub fn local(condition: StreamCondition, text: impl Into<String>) -> Self {
        StreamError::Local {
            condition,
            text: text.into(),
        }
    }
}
