//! One XML stream to one peer, as those who talk through it see it (bytestreams, tube signalling).
//!
//! `link_local/` implements [`Link`]; tests have a fake. Nobody above knows how the stream came to be.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use actors::runtime::{BoxFuture, Reply};
use minidom::Element;

use super::{lane::Lane, trust::KeyId};
use crate::plain::safe;
use crate::xmpp::Condition;
pub use crate::xmpp::StanzaError;

/// What TLS proved of an XML stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSecurity {
    /// Our key.
    pub own: KeyId,
    /// The key the peer proved, already compared with the one that was expected.
    pub peer: KeyId,
    /// The stream's TLS exporter value: the same on both ends, different for each stream.
    pub exporter: [u8; 32],
    /// The peer announced our own namespace ([`crate::xmpp::ns::PNEUMA`]) inside this stream.
    pub pneuma: bool,
}

/// Why a request (`<iq type='set'>` or `get`) has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The peer answered with a stanza error.
    #[error("the contact answered: {condition}{}", text.as_deref().map(|t| format!(" ({})", safe(t))).unwrap_or_default())]
    Refused {
        /// The defined condition's element name (RFC 6120 section 8.3.3), `item-not-found` for example.
        condition: String,
        /// The text beside it.
        text: Option<String>,
    },
    /// The peer did not answer in time.
    #[error("the contact did not answer in time")]
    TimedOut,
    /// The stream ended first.
    #[error("the stream to the contact ended")]
    Gone,
    /// The same, and the peer has certainly not seen it.
    #[error("the stream to the contact ended")]
    NotSent,
}

impl RequestError {
    /// The condition that the peer answered with; `None` where it answered with none.
    pub fn condition(&self) -> Option<Condition> {
        match self {
            RequestError::Refused { condition, .. } => Some(Condition::from_name(condition)),
            _ => None,
        }
    }
}

/// A request of the peer's, with the place for its answer. Dropping it unanswered answers
/// `internal-server-error`.
pub struct IncomingRequest {
    /// The payload of the `<iq type='set'>`.
    pub payload: Element,
    /// The payload of the result (if any), or the error.
    pub answer: Reply<Result<Option<Element>, StanzaError>>,
}

/// See the module's head.
pub trait Link: Send + Sync + 'static {
    /// Our name, exactly as it stands in `from` on this stream.
    fn us(&self) -> &str;
    /// The peer's name, exactly as it stands in `to`.
    fn them(&self) -> &str;
    /// The local address of the stream's TCP connection.
    fn local_address(&self) -> SocketAddr;
    /// The peer's address of the stream's TCP connection.
    fn peer_address(&self) -> SocketAddr;
    /// At which other addresses the peer announces itself, where nothing but its address says who it is:
    /// in plaintext. A proof needs no such word.
    fn announced(&self) -> &[IpAddr] {
        &[]
    }
    /// Whether the stream has ended: nothing comes or goes through it any more. True before
    /// [`super::bytestreams::Bytestreams::link_ended`] is called, and for ever.
    fn has_ended(&self) -> bool;
    /// What TLS proved; `None` for a plaintext stream (allowed only by the account's parameter).
    fn security(&self) -> Option<LinkSecurity>;
    /// Sends `<iq type='set'>` with this payload and waits, for a bounded time, for its result's
    /// payload. `id` is the iq's id where the payload's protocol wants a certain one.
    fn request(
        &self,
        payload: Element,
        id: Option<String>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>>;
    /// The same where it is a person who answers: for as long as the stream lives. Who asks keeps it open
    /// ([`Lane::stand`]); once nobody waits for the answer any more, what comes is not listened to.
    /// `written` is answered when the question has been written, and dropped when it is not.
    fn ask(
        &self,
        payload: Element,
        id: String,
        written: Reply<Result<(), RequestError>>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>>;
    /// What is sent through the stream by turns. It ends when the stream does.
    fn lane(&self) -> &Arc<Lane>;
    /// Sends a `<message>` with these payloads. Completes when it has been written.
    fn message(&self, payloads: Vec<Element>) -> BoxFuture<'static, Result<(), RequestError>>;
}
