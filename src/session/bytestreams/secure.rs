//! TLS inside a bytestream, and what binds it to the XML stream it was negotiated in.
//!
//! ```text
//!  sender of the <si/>                        its receiver
//!  TLS client  ◄────── TLS 1.3, both certificates, ALPN pneuma-bytestream/1 ──────► TLS server
//!              peer's key = the XML stream's peer's key, else the end
//!  value(client), layer ──────────────────────────────►  compared, else the end
//!  compared, else the end  ◄────────────────────────────── value(server), layer
//!  bytes       ◄───────────────────────────────────────────► bytes
//! ```
//!
//! `value(role)` is a TLS exporter value (RFC 8446 section 7.5) with a label for the role and a context of
//! the bytestream's SID, the connection's id, both keys and the XML stream's own exporter value. Both ends
//! can compute it only if they negotiated *this* bytestream inside *that* stream; so somebody between two
//! bytestreams of one pair cannot swap them. The byte after it names the layer above; 0 is raw bytes.
//!
//! While the bytes flow, at most one TLS record waits in each direction, and the carrier's own read-ahead.

use std::{
    hint::black_box,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actors::{model::BytestreamId, ports::Duplex};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::session::{
    link::LinkSecurity,
    tls,
    trust::{Identity, KeyId},
};

/// The protocol both sides must have agreed on.
pub(super) const ALPN: &[u8] = b"pneuma-bytestream/1";
const CLIENT_LABEL: &[u8] = b"EXPORTER-pneuma-bytestream-1-client";
const SERVER_LABEL: &[u8] = b"EXPORTER-pneuma-bytestream-1-server";
/// The layer above: raw bytes, the only one there is yet.
const RAW: u8 = 0;
/// How much plaintext rustls takes before it must have written: one record.
const RECORD: usize = 16 * 1024;

/// Why a carrier did not become a secured bytestream.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecureError {
    /// The handshake failed: no TLS, a wrong key, the carrier's end.
    #[error("TLS failed: {0}")]
    Tls(#[from] io::Error),
    /// Our own key cannot be used.
    #[error("our own key cannot be used: {0}")]
    Identity(#[from] rustls::Error),
    /// The peer's key is not the XML stream's, or its protocol is not ours.
    #[error("the other end is somebody else")]
    Stranger,
    /// The TLS session belongs to another bytestream.
    #[error("it is the end of another bytestream")]
    WrongBinding,
    /// The layer above is one we do not know.
    #[error("it speaks a layer that is not known here: {0}")]
    UnknownLayer(u8),
}

/// Which bytestream it must turn out to be.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// `id` of the `<si/>`.
    pub(super) sid: String,
    /// The connection's id in it.
    pub(super) id: BytestreamId,
    /// What is known of the XML stream.
    pub(super) link: LinkSecurity,
}

impl Expected {
    /// The context of the exporter values, the same on both ends. Every part but the SID has a
    /// fixed length, and the SID's length stands before it.
    fn context(&self, client: KeyId, server: KeyId) -> Vec<u8> {
        let mut context = Vec::new();
        context.extend((self.sid.len() as u64).to_be_bytes());
        context.extend(self.sid.as_bytes());
        context.extend(self.id.0);
        context.extend(client.0);
        context.extend(server.0);
        context.extend(self.link.exporter);
        context
    }
}

/// Secures the end of whoever sent the `<si/>`.
pub(super) async fn client<C: Duplex>(
    carrier: C,
    identity: &Identity,
    expected: &Expected,
) -> Result<Secured<C>, SecureError> {
    let config = tls::client_config(identity, Some(expected.link.peer), Some(ALPN))?;
    let stream = TlsConnector::from(config)
        .connect_with(tls::any_name(), carrier, |session| {
            session.set_buffer_limit(Some(RECORD));
        })
        .await?;
    let context = expected.context(expected.link.own, expected.link.peer);
    let mut stream = TlsStream::Client(stream);
    let (proof, theirs) = values(&stream, expected, &context, [CLIENT_LABEL, SERVER_LABEL])?;
    stream.write_all(&proof).await?;
    stream.flush().await?;
    compare(&mut stream, &theirs).await?;
    Ok(Secured {
        stream,
        broken: None,
    })
}

/// Secures the end of whoever answered the `<si/>`.
pub(super) async fn server<C: Duplex>(
    carrier: C,
    identity: &Identity,
    expected: &Expected,
) -> Result<Secured<C>, SecureError> {
    prove(carrier, identity, expected).await?.commit().await
}

/// The same up to where the peer has proved that it is the other end. It does not take the carrier
/// for the bytestream before [`Proven::commit`], so of several carriers that are proved at once both ends
/// choose the same.
pub(super) async fn prove<C: Duplex>(
    carrier: C,
    identity: &Identity,
    expected: &Expected,
) -> Result<Proven<C>, SecureError> {
    let config = tls::server_config(identity, Some(expected.link.peer), Some(ALPN))?;
    let stream = TlsAcceptor::from(Arc::clone(&config))
        .accept_with(carrier, |session| {
            session.set_buffer_limit(Some(RECORD));
        })
        .await?;
    let context = expected.context(expected.link.peer, expected.link.own);
    let mut stream = TlsStream::Server(stream);
    let (proof, theirs) = values(&stream, expected, &context, [SERVER_LABEL, CLIENT_LABEL])?;
    compare(&mut stream, &theirs).await?;
    Ok(Proven { stream, proof })
}

/// A carrier whose other end has proved to be the peer, which has no proof of ours yet.
pub(super) struct Proven<C> {
    stream: TlsStream<C>,
    proof: Vec<u8>,
}

impl<C: Duplex> Proven<C> {
    /// Tells the peer that this is the bytestream.
    pub(super) async fn commit(mut self) -> Result<Secured<C>, SecureError> {
        self.stream.write_all(&self.proof).await?;
        self.stream.flush().await?;
        Ok(Secured {
            stream: self.stream,
            broken: None,
        })
    }
}

/// What we send, and what the peer has to send before the layer's byte.
fn values<C: Duplex>(
    stream: &TlsStream<C>,
    expected: &Expected,
    context: &[u8],
    [our_label, their_label]: [&[u8]; 2],
) -> Result<(Vec<u8>, [u8; 32]), SecureError> {
    let common = stream.get_ref().1;
    if tls::peer_key(common) != Some(expected.link.peer) || !tls::speaks(common, ALPN) {
        return Err(SecureError::Stranger);
    }
    let value =
        |label| tls::stream_exporter(stream, label, context).ok_or(SecureError::WrongBinding);
    let mut proof = value(our_label)?.to_vec();
    proof.push(RAW);
    Ok((proof, value(their_label)?))
}

/// Reads the peer's value and layer.
async fn compare<C: Duplex>(
    stream: &mut TlsStream<C>,
    theirs: &[u8; 32],
) -> Result<(), SecureError> {
    let mut answer = [0; 33];
    stream.read_exact(&mut answer).await?;
    let (answer, layer) = answer.split_at(32);
    if !same(answer, theirs) {
        return Err(SecureError::WrongBinding);
    }
    match layer {
        [RAW] => Ok(()),
        other => Err(SecureError::UnknownLayer(
            other.first().copied().unwrap_or_default(),
        )),
    }
}

/// Compares without telling by its time where they differ.
fn same(one: &[u8], two: &[u8]) -> bool {
    let difference = one
        .iter()
        .zip(two)
        .fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    one.len() == two.len() && difference == 0
}

/// A bytestream that is known to end at the right peer.
///
/// Closing it says close_notify and half-closes the carrier; an end of the carrier without the
/// peer's close_notify reads as `UnexpectedEof`, every time it is asked.
pub(super) struct Secured<C> {
    stream: TlsStream<C>,
    /// How reading ended, if not in order.
    broken: Option<ErrorKind>,
}

impl<C> std::fmt::Debug for Secured<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secured")
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl<C: Duplex> AsyncRead for Secured<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.broken {
            return Poll::Ready(Err(kind.into()));
        }
        let result = Pin::new(&mut self.stream).poll_read(context, out);
        if let Poll::Ready(Err(error)) = &result
            && error.kind() != ErrorKind::Interrupted
        {
            self.broken = Some(error.kind());
        }
        result
    }
}

impl<C: Duplex> AsyncWrite for Secured<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

impl<C: Duplex> Duplex for Secured<C> {
    /// The carrier's reset, without a close_notify: nobody can take it for an end in order.
    fn reset(&mut self) {
        self.stream.get_mut().0.reset();
    }
}
