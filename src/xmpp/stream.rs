//! One XML stream between two peers, as a pure state machine: both roles, STARTTLS and its restart.
//!
//! ```text
//! initiator                                     recipient
//!
//! Header ── header, no version ──► (1)          Header ── header, no version ──► (1)
//!   │ header, version 1                           │ header, version 1: ours and features written
//!   ▼                                             ▼
//! Features ── no starttls ───────► (1)          Upgrade ── a stanza ───────────► (1)
//!   │ starttls: <starttls/> written               │ <starttls/>: <proceed/> written
//!   ▼                                             │
//! Upgrade ── <failure/> ─────────► Over           │
//!   │ <proceed/>                                  │
//!   ▼                                             ▼
//! Handshake  the caller runs TLS over the connection and calls `secured`;
//!   │        the stream begins anew at Header, and ends up in Established after
//!   ▼        the features (initiator) or after writing them (recipient)
//! Established ── `close` ──► Closing ── peer's end ──► Over
//!   └── peer's end, ours written ──────────────────► Over
//!
//! (1) plaintext: Established where the policy allows it, else Over with `TlsUnavailable`
//! ```
//!
//! Every error ends in Over. Where TLS is required, nothing but headers, `<starttls/>` and stream
//! errors is ever written in plaintext, and no stanza that comes in plaintext is handed on.
//!
//! Bytes that follow `<starttls/>` or `<proceed/>` in plaintext end the stream: somebody put them
//! there to have them taken for secured ones.

use minidom::Element;

use super::{
    error::{StreamCondition, StreamError},
    ns,
    payload::builder,
    stanza::{self, Parsed, Stanza, short_text},
    write::{self, Header},
    xml::{MAX_STANZA_BYTES, Reader, XmlEvent},
};

/// Who opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Initiator,
    /// The peer did.
    Recipient,
}

/// How one stream is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// Who opened it.
    pub role: Role,
    /// Our name: `from` of our header.
    pub us: String,
    /// The peer's name: `to` of our header. A recipient that has none takes the peer's `from`.
    pub them: Option<String>,
    /// The stream's id, which a recipient gives; random, of the caller's making.
    pub id: String,
    /// Whether a stream without TLS fails.
    pub require_tls: bool,
}

/// What the caller has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write these bytes.
    Write(Vec<u8>),
    /// Once all is written, run TLS over the connection (as client if we are the initiator) and
    /// call [`Stream::secured`]. Always the last action of its list.
    StartTls,
    /// The stream can carry stanzas.
    Established {
        /// The peer's header, the one inside TLS if there is TLS.
        peer: Header,
        /// Whether TLS is around it.
        secured: bool,
    },
    /// A stanza came.
    Stanza(Stanza),
    /// Both ends of the stream are closed in order. Always the last action.
    Closed,
    /// The stream failed; write what comes before and drop the connection. Always the last action.
    Fail(StreamError),
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Header,
    Features { peer: Header },
    Upgrade { peer: Header },
    Handshake,
    Established,
    Closing,
    Over,
}

/// See the module's head.
#[derive(Debug)]
pub struct Stream {
    config: StreamConfig,
    state: State,
    secured: bool,
    header_sent: bool,
    reader: Reader,
}

/// The stream does not carry stanzas now, or the stanza is too large for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It is not established.
    #[error("the stream does not carry stanzas now")]
    NotEstablished,
    /// The stanza has more bytes than peers take ([`MAX_STANZA_BYTES`]).
    #[error("the stanza is too large")]
    TooLarge,
}

impl Stream {
    /// A stream at its beginning, and what to do first.
    pub fn new(config: StreamConfig) -> (Stream, Vec<Action>) {
        let mut stream = Stream {
            config,
            state: State::Header,
            secured: false,
            header_sent: false,
            reader: Reader::new(),
        };
        let mut actions = Vec::new();
        stream.begin(&mut actions);
        (stream, actions)
    }

    /// Whether stanzas may be sent.
    pub fn is_established(&self) -> bool {
        self.state == State::Established
    }

    /// Whether nothing more will happen.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes bytes that came from the peer. At most as many actions as the bytes hold elements,
    /// and a few.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            match &self.state {
                State::Over => break,
                State::Handshake => {
                    if !bytes.is_empty() {
                        self.fail(
                            StreamError::local(
                                StreamCondition::PolicyViolation,
                                "plaintext follows the agreement on TLS",
                            ),
                            &mut actions,
                        );
                    }
                    break;
                }
                _ => {}
            }
            match self.reader.next(&mut bytes) {
                Ok(Some(event)) => self.apply(event, &mut actions),
                Ok(None) => break,
                Err(error) => {
                    self.fail(error, &mut actions);
                    break;
                }
            }
        }
        // Between <proceed/> written and TLS nothing may be written, not even an error.
        if let Some(at) = actions
            .iter()
            .position(|action| *action == Action::StartTls)
            && at + 1 < actions.len()
        {
            let last = actions.pop();
            actions.truncate(at);
            actions.extend(last);
        }
        actions
    }

    /// The connection ended.
    pub fn end_of_file(&mut self) -> Vec<Action> {
        let before = std::mem::replace(&mut self.state, State::Over);
        match before {
            State::Over => Vec::new(),
            State::Closing => vec![Action::Closed],
            _ => vec![Action::Fail(StreamError::Ended)],
        }
    }

    /// TLS stands, both certificates included; what comes and goes from now on is inside it.
    pub fn secured(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.state == State::Handshake {
            self.secured = true;
            self.header_sent = false;
            self.reader = Reader::new();
            self.state = State::Header;
            self.begin(&mut actions);
        }
        actions
    }

    /// The bytes that carry a stanza.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, stanza: &Element) -> Result<Vec<u8>, SendError> {
        if self.state != State::Established {
            return Err(SendError::NotEstablished);
        }
        let bytes = write::element(stanza);
        if bytes.len() > MAX_STANZA_BYTES {
            return Err(SendError::TooLarge);
        }
        Ok(bytes)
    }

    /// Closes our end in order; the peer's end follows as [`Action::Closed`]. The caller bounds
    /// how long it waits for that. Before the stream is established there is no order to keep.
    pub fn close(&mut self) -> Vec<Action> {
        match self.state {
            State::Established => {
                self.state = State::Closing;
                vec![Action::Write(write::footer())]
            }
            State::Closing | State::Over => Vec::new(),
            State::Handshake => {
                self.state = State::Over;
                vec![Action::Closed]
            }
            _ => {
                self.state = State::Over;
                let mut actions = Vec::new();
                if self.header_sent {
                    actions.push(Action::Write(write::footer()));
                }
                actions.push(Action::Closed);
                actions
            }
        }
    }

    /// Ends the stream with an error that the caller found (a wrong `from`, silence, a newer
    /// stream).
    pub fn refuse(&mut self, condition: StreamCondition, text: &str) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.state != State::Over {
            self.fail(StreamError::local(condition, text), &mut actions);
        }
        actions
    }

    fn begin(&mut self, actions: &mut Vec<Action>) {
        if self.config.role == Role::Initiator {
            self.write_header(None, true, actions);
        }
    }

    fn write_header(&mut self, them: Option<&str>, version: bool, actions: &mut Vec<Action>) {
        let id = (self.config.role == Role::Recipient).then(|| {
            // The stream inside TLS is a new one (RFC 6120 section 4.3.3) and has its own id.
            let suffix = if self.secured { "-s" } else { "" };
            format!("{}{suffix}", self.config.id)
        });
        let header = Header {
            from: Some(self.config.us.clone()),
            to: self.config.them.clone().or_else(|| them.map(str::to_owned)),
            id,
            version: version.then(|| "1.0".to_owned()),
        };
        self.header_sent = true;
        actions.push(Action::Write(write::header(&header)));
    }

    /// Ends with an error. The peer is told, in plaintext too: it is told no more than a
    /// condition.
    fn fail(&mut self, error: StreamError, actions: &mut Vec<Action>) {
        let condition = match &error {
            StreamError::Local { condition, .. } => Some(*condition),
            StreamError::TlsUnavailable(_) => Some(StreamCondition::PolicyViolation),
            StreamError::Remote { .. } | StreamError::Ended => None,
        };
        if self.state != State::Handshake
            && let Some(condition) = condition
        {
            if !self.header_sent {
                self.write_header(None, true, actions);
            }
            actions.push(Action::Write(write::stream_error(condition)));
        }
        self.state = State::Over;
        actions.push(Action::Fail(error));
    }

    fn apply(&mut self, event: XmlEvent, actions: &mut Vec<Action>) {
        match event {
            XmlEvent::StreamOpened { header, default_ns } => {
                self.opened(header, &default_ns, actions);
            }
            XmlEvent::Element(element) if element.is("error", ns::STREAM) => {
                self.fail(remote_error(&element), actions);
            }
            XmlEvent::Element(element) => self.element(element, actions),
            XmlEvent::StreamClosed => match self.state {
                State::Established => {
                    actions.push(Action::Write(write::footer()));
                    self.over(actions);
                }
                State::Closing => self.over(actions),
                _ => self.fail(StreamError::Ended, actions),
            },
        }
    }

    fn over(&mut self, actions: &mut Vec<Action>) {
        self.state = State::Over;
        actions.push(Action::Closed);
    }

    fn opened(&mut self, peer: Header, default_ns: &str, actions: &mut Vec<Action>) {
        if default_ns != ns::CLIENT {
            self.fail(
                StreamError::local(
                    StreamCondition::InvalidNamespace,
                    "the stream's default namespace is not jabber:client",
                ),
                actions,
            );
            return;
        }
        let features = peer.has_features();
        match self.config.role {
            Role::Initiator if features => self.state = State::Features { peer },
            Role::Initiator => self.without_features(peer, actions),
            Role::Recipient => {
                // RFC 6120 section 4.7.5: who sent no version gets none.
                self.write_header(peer.from.as_deref(), features, actions);
                if !features {
                    self.without_features(peer, actions);
                } else if self.secured {
                    actions.push(Action::Write(self.features()));
                    self.establish(peer, actions);
                } else {
                    actions.push(Action::Write(self.features()));
                    self.state = State::Upgrade { peer };
                }
            }
        }
    }

    fn features(&self) -> Vec<u8> {
        let features = builder("features", ns::STREAM);
        if self.secured {
            return write::element(&features.build());
        }
        let starttls = builder("starttls", ns::TLS);
        let starttls = if self.config.require_tls {
            starttls.child(builder("required", ns::TLS).build())
        } else {
            starttls
        };
        write::element(&features.child(starttls.build()).build())
    }

    /// The peer knows no features, or offers no STARTTLS among them.
    fn without_features(&mut self, peer: Header, actions: &mut Vec<Action>) {
        if self.config.require_tls && !self.secured {
            self.fail(
                StreamError::TlsUnavailable("it does not know STARTTLS, or somebody hid it"),
                actions,
            );
        } else {
            self.establish(peer, actions);
        }
    }

    fn establish(&mut self, peer: Header, actions: &mut Vec<Action>) {
        self.state = State::Established;
        self.reader.widen();
        actions.push(Action::Established {
            peer,
            secured: self.secured,
        });
    }

    fn element(&mut self, element: Element, actions: &mut Vec<Action>) {
        match (&self.state, self.config.role) {
            (State::Features { peer }, _) => {
                let peer = peer.clone();
                self.features_came(peer, &element, actions);
            }
            (State::Upgrade { .. }, Role::Initiator) => {
                if element.is("proceed", ns::TLS) {
                    self.state = State::Handshake;
                    actions.push(Action::StartTls);
                } else {
                    self.fail(StreamError::TlsUnavailable("it refused STARTTLS"), actions);
                }
            }
            (State::Upgrade { peer }, Role::Recipient) => {
                if element.is("starttls", ns::TLS) {
                    let proceed = builder("proceed", ns::TLS).build();
                    actions.push(Action::Write(write::element(&proceed)));
                    self.state = State::Handshake;
                    actions.push(Action::StartTls);
                } else if self.config.require_tls {
                    self.fail(
                        StreamError::TlsUnavailable("it speaks without STARTTLS"),
                        actions,
                    );
                } else {
                    let peer = peer.clone();
                    self.establish(peer, actions);
                    self.stanza(element, actions);
                }
            }
            (State::Established | State::Closing, _) => self.stanza(element, actions),
            // The header comes before any element, and `feed` looks after the rest.
            (State::Header | State::Handshake | State::Over, _) => {}
        }
    }

    fn features_came(&mut self, peer: Header, element: &Element, actions: &mut Vec<Action>) {
        if !element.is("features", ns::STREAM) {
            self.fail(
                StreamError::local(
                    StreamCondition::BadFormat,
                    "something else came in place of the features",
                ),
                actions,
            );
        } else if self.secured {
            self.establish(peer, actions);
        } else if element.has_child("starttls", ns::TLS) {
            let starttls = builder("starttls", ns::TLS).build();
            actions.push(Action::Write(write::element(&starttls)));
            self.state = State::Upgrade { peer };
        } else {
            self.without_features(peer, actions);
        }
    }

    fn stanza(&mut self, element: Element, actions: &mut Vec<Action>) {
        // Late features of a peer that sent no version mean nothing.
        if element.is("features", ns::STREAM) {
            return;
        }
        match stanza::parse(element) {
            Parsed::Stanza(stanza) => actions.push(Action::Stanza(stanza)),
            Parsed::Refuse(answer) => {
                if self.state == State::Established {
                    actions.push(Action::Write(write::element(&answer.to_element())));
                }
            }
            Parsed::Drop => {}
            Parsed::NotAStanza => self.fail(
                StreamError::local(
                    StreamCondition::UnsupportedStanzaType,
                    "an element that is no stanza",
                ),
                actions,
            ),
        }
    }
}

fn remote_error(element: &Element) -> StreamError {
    const ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
    let children = || element.children().filter(|child| child.has_ns(ERRORS));
    StreamError::Remote {
        condition: children()
            .find(|child| child.name() != "text")
            .map_or(StreamCondition::UndefinedCondition, |child| {
                StreamCondition::from_name(child.name())
            }),
        text: children()
            .find(|child| child.name() == "text")
            .map(|child| short_text(&child.text())),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
