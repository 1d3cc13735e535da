//! A stream, as those who talk through it see it: an address and what does not change.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actors::runtime::{Address, BoxFuture, Pending, Reply};
use minidom::Element;

use super::running::Command;
use crate::{
    session::{
        lane::Lane,
        link::{Link, LinkSecurity, RequestError},
    },
    xmpp::IqKind,
};

/// See the module's head. Outlives its stream; then every request is [`RequestError::NotSent`].
#[derive(Debug)]
pub struct StreamLink {
    us: String,
    them: String,
    addresses: (SocketAddr, SocketAddr),
    announced: Vec<IpAddr>,
    security: Option<LinkSecurity>,
    pneuma: AtomicBool,
    ended: AtomicBool,
    address: Address<Command>,
    lane: Arc<Lane>,
}

impl StreamLink {
    pub(super) fn new(
        us: String,
        them: String,
        addresses: (SocketAddr, SocketAddr),
        announced: Vec<IpAddr>,
        security: Option<LinkSecurity>,
        address: Address<Command>,
    ) -> Self {
        StreamLink {
            us,
            them,
            addresses,
            announced,
            security,
            pneuma: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            address,
            lane: Arc::default(),
        }
    }

    pub(super) fn set_pneuma(&self, pneuma: bool) {
        self.pneuma.store(pneuma, Ordering::Release);
    }

    /// The stream's actor is at its end.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether the peer is one of us, which answers pings.
    pub(super) fn is_pneuma(&self) -> bool {
        self.pneuma.load(Ordering::Acquire)
    }

    /// The stream's mailbox.
    pub fn address(&self) -> &Address<Command> {
        &self.address
    }
}

impl Link for StreamLink {
    fn us(&self) -> &str {
        &self.us
    }

    fn them(&self) -> &str {
        &self.them
    }

    fn local_address(&self) -> SocketAddr {
        self.addresses.0
    }

    fn peer_address(&self) -> SocketAddr {
        self.addresses.1
    }

    fn announced(&self) -> &[IpAddr] {
        &self.announced
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.address.is_gone()
    }

    fn security(&self) -> Option<LinkSecurity> {
        let pneuma = self.pneuma.load(Ordering::Acquire);
        self.security
            .clone()
            .map(|security| LinkSecurity { pneuma, ..security })
    }

    fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    fn request(
        &self,
        payload: Element,
        id: Option<String>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>> {
        let address = self.address.clone();
        Box::pin(async move {
            let (reply, answer) = Reply::new();
            let command = Command::Request {
                kind: IqKind::Set(payload),
                id,
                reply,
            };
            sent(&address, command, answer).await
        })
    }

    fn ask(
        &self,
        payload: Element,
        id: String,
        written: Reply<Result<(), RequestError>>,
    ) -> BoxFuture<'static, Result<Option<Element>, RequestError>> {
        let address = self.address.clone();
        Box::pin(async move {
            let (reply, answer) = Reply::new();
            let command = Command::Offer {
                payload,
                id,
                written,
                reply,
            };
            sent(&address, command, answer).await
        })
    }

    fn message(&self, payloads: Vec<Element>) -> BoxFuture<'static, Result<(), RequestError>> {
        let address = self.address.clone();
        Box::pin(async move {
            let (reply, answer) = Reply::new();
            address
                .tell(Command::Message { payloads, reply })
                .await
                .map_err(|_| RequestError::Gone)?;
            answer.wait().await.unwrap_or(Err(RequestError::Gone))
        })
    }
}

/// Has the stream send something, and waits for the answer. A stream that ends answers all that it has
/// sent; what nobody answers waited in its mailbox.
async fn sent<T>(
    address: &Address<Command>,
    command: Command,
    answer: Pending<Result<T, RequestError>>,
) -> Result<T, RequestError> {
    if address.tell(command).await.is_err() {
        return Err(RequestError::NotSent);
    }
    answer.wait().await.unwrap_or(Err(RequestError::NotSent))
}
