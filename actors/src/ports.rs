//! What the actors need from the floors above them, as traits. `session/` implements
//! [`BytestreamConnector`], [`TubeSignalling`] and [`IncomingBytestream`]; `dbus/` implements
//! [`ObjectTree`]; `testing/` has a fake of each.
//!
//! All are object-safe and return boxed futures; dropping a future cancels what it does and leaves
//! nothing behind.

use futures_lite::{AsyncRead, AsyncWrite};

use crate::{
    endpoint::LocalStream,
    model::{
        AccessControl, AddressType, BytestreamId, ChannelId, ConnectionId, ConnectionParameter,
        ContactHandle, Error, OwnerId, ServiceName, SocketAddress, TubeParameters, TubeState,
    },
    runtime::{Address, BoxFuture, Snapshot},
    stream_tube::StreamTubeMessage,
};

/// Bytes both ways. Closing the writer is a half-close: the peer reads end of file and may go on
/// writing. An end without the peer's orderly close reads as `UnexpectedEof`; a peer that reset
/// its side reads as `ConnectionReset`.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Tells the peer that our side was reset rather than closed, where the layers below can say
    /// so. Called at most once, after which the stream is dropped.
    fn reset(&mut self) {}

    /// The kernel's socket that this is, if it is nothing more: no layer above it that changes,
    /// counts or holds bytes. Two of them are joined inside the kernel.
    fn socket(&self) -> Option<&LocalStream> {
        None
    }
}

impl<D: Duplex + ?Sized> Duplex for Box<D> {
    fn reset(&mut self) {
        (**self).reset();
    }

    fn socket(&self) -> Option<&LocalStream> {
        (**self).socket()
    }
}

/// A bytestream to one contact, opened and authenticated, ready for bytes.
pub struct Bytestream {
    /// The bytes.
    pub io: Box<dyn Duplex>,
    /// Whether TLS lies inside it.
    pub encrypted: bool,
}

impl std::fmt::Debug for Bytestream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bytestream")
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

/// Opens bytestreams to the contact of one tube (the accepting side does this, once for each
/// application that connects).
pub trait BytestreamConnector: Send + Sync + 'static {
    /// Opens one.
    ///
    /// # Errors
    /// `ConnectionRefused` when the contact or its service refuses, `ConnectionFailed` when no way
    /// to it is found, `Offline` when it is gone, `NotAvailable` when it does not know this tube.
    fn connect(&self, id: BytestreamId) -> BoxFuture<'static, Result<Bytestream, Error>>;
}

/// What a tube tells the contact about itself.
pub trait TubeSignalling: Send + Sync + 'static {
    /// Offers the tube. Completes when the offer has been written to an authenticated stream.
    ///
    /// # Errors
    /// `NotCapable`, `Offline`, `ConnectionFailed`, `EncryptionNotAvailable`,
    /// `CertFingerprintMismatch`.
    fn offer(
        &self,
        service: &ServiceName,
        parameters: &TubeParameters,
    ) -> BoxFuture<'static, Result<(), Error>>;

    /// Tells the contact that the tube is closed. Does what it can, within a few seconds.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// A bytestream that the contact asks to open towards us (the offering side gets these). Dropping
/// it refuses it.
pub trait IncomingBytestream: Send + 'static {
    /// The id the contact gave the connection.
    fn id(&self) -> BytestreamId;

    /// Agrees, and waits until the bytes can flow.
    fn accept(self: Box<Self>) -> BoxFuture<'static, Result<Bytestream, Error>>;

    /// Refuses: the service behind the tube cannot be reached, or a bound is reached.
    fn refuse(self: Box<Self>, why: Error);
}

/// What `Requestotron` and `ObjectTree` must know of a channel when it appears: the immutable
/// properties of a stream tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTubeDescription {
    /// `Channel.TargetHandle`.
    pub target: ContactHandle,
    /// `Channel.TargetID`.
    pub target_id: String,
    /// `Channel.InitiatorHandle`: ours when `requested`.
    pub initiator: ContactHandle,
    /// `Channel.InitiatorID`.
    pub initiator_id: String,
    /// `Channel.Requested`: we are the initiator.
    pub requested: bool,
    /// `StreamTube.Service`.
    pub service: ServiceName,
    /// `StreamTube.SupportedSocketTypes`.
    pub sockets: Vec<(AddressType, Vec<AccessControl>)>,
    /// `Tube.Parameters` of an incoming tube; for a requested one they come with Offer.
    pub parameters: TubeParameters,
}

/// What may be read of a stream tube at any time without asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTubeView {
    /// `Tube.State`.
    pub state: TubeState,
    /// `Tube.Parameters`.
    pub parameters: TubeParameters,
    /// The address the endpoint listens on or dials, once there is one.
    pub address: Option<SocketAddress>,
    /// Connections that are open now.
    pub connections: u32,
    /// Bytes that went from here to the contact, over all connections so far.
    pub bytes_sent: u64,
    /// Bytes that came from the contact, over all connections so far.
    pub bytes_received: u64,
    /// Whether every bytestream so far had TLS inside; nothing while none has opened.
    pub encrypted: Option<bool>,
}

/// A channel's object, as the supervisor hands it to the [`ObjectTree`].
#[derive(Clone, Debug)]
pub struct ChannelObject {
    /// Which channel.
    pub id: ChannelId,
    /// Whose channel it is.
    pub owner: OwnerId,
    /// Its immutable properties.
    pub description: StreamTubeDescription,
    /// Where its methods go. The same address for the channel's whole life, whatever restarts.
    pub address: Address<StreamTubeMessage>,
    /// Where its properties are read.
    pub view: Snapshot<StreamTubeView>,
}

/// A signal of a channel. Emitted in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelSignal {
    /// `Tube.TubeChannelStateChanged`.
    TubeStateChanged(TubeState),
    /// `StreamTube.NewLocalConnection`: an application here connected.
    NewLocalConnection(ConnectionId),
    /// `StreamTube.NewRemoteConnection`: the contact's application connected and we dialled.
    NewRemoteConnection {
        /// `Handle`.
        contact: ContactHandle,
        /// `Connection_Param`.
        parameter: ConnectionParameter,
        /// `Connection_ID`.
        id: ConnectionId,
    },
    /// `StreamTube.ConnectionClosed`.
    ConnectionClosed {
        /// `Connection_ID`.
        id: ConnectionId,
        /// `Error` and `Message`. `Cancelled` is an orderly end or our side's wish,
        /// `ConnectionLost` a broken one, `ConnectionRefused` one that never opened.
        why: Error,
    },
}

/// The tree of D-Bus objects (or whatever presents channels to their users). Owned by the root
/// supervisor.
pub trait ObjectTree: Send + Sync + 'static {
    /// Makes a channel visible.
    ///
    /// # Errors
    /// When the object cannot be put there.
    fn publish(&self, object: ChannelObject) -> BoxFuture<'static, Result<(), Error>>;

    /// Emits a signal of a channel that was published.
    fn emit(&self, channel: ChannelId, signal: ChannelSignal) -> BoxFuture<'static, ()>;

    /// Emits `Channel.Closed` and takes the object away. Called exactly once for each published
    /// channel, after its last signal.
    fn withdraw(&self, channel: ChannelId) -> BoxFuture<'static, ()>;
}
