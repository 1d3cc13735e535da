//! What the actors need from the floors above them, as traits. `session/` implements
//! [`BytestreamConnector`], [`TubeSignalling`] and [`IncomingBytestream`] for stream tubes,
//! [`DBusTubeOffering`] and [`IncomingDBusTube`] for D-Bus tubes, [`FileSending`] and [`IncomingFile`] for files; `dbus/` implements [`ObjectTree`]; `testing/` has a fake of each.
//!
//! All are object-safe and return boxed futures; dropping a future cancels what it does and leaves
//! nothing behind.

use futures_lite::{AsyncRead, AsyncWrite};

use crate::{
    dbus_tube::DBusTubeMessage,
    endpoint::LocalStream,
    file_transfer::FileTransferMessage,
    model::{
        AccessControl, AddressType, BytestreamId, ChannelId, ConnectionId, ConnectionParameter,
        ContactHandle, Error, FileOffer, FileTransferReason, FileTransferState, OwnerId, Resume,
        ServiceName, SocketAddress, TubeParameters, TubeState,
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

    /// Whether the other end is closed altogether, both ways, where that can be known without reading
    /// or writing.
    fn is_hung_up(&self) -> bool {
        false
    }

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

    fn is_hung_up(&self) -> bool {
        (**self).is_hung_up()
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

/// A bytestream that a file goes through.
#[derive(Debug)]
pub struct FileStream {
    /// The bytes.
    pub bytestream: Bytestream,
    /// Both ends speak our framing: with lengths, hashes and an answer at the end
    /// ([`file_transfer::frames`](crate::file_transfer::frames)). Otherwise the bytes of the file and nothing else.
    pub framed: bool,
}

/// One file offered to one contact (the sending side has one for each transfer).
pub trait FileSending: Send + Sync + 'static {
    /// Offers it and waits for the contact's answer, which is a person's: there is no limit on time
    /// here. Dropping the future takes the offer back, as far as the contact can be told.
    ///
    /// # Errors
    /// `Rejected` when the contact does not want it, `NotCapable` when it cannot take it, `Offline`,
    /// `ConnectionFailed`, `EncryptionNotAvailable`, `CertFingerprintMismatch`.
    fn offer(&self) -> BoxFuture<'static, Result<AgreedFile, Error>>;
}

/// What the contact answered that wants a file.
pub struct AgreedFile {
    /// Where it wants it to begin.
    pub from: Resume,
    /// Opens the bytestream; the contact waits for it.
    ///
    /// # Errors
    /// `ConnectionFailed`, `Offline`.
    pub opening: BoxFuture<'static, Result<FileStream, Error>>,
    /// Ready when the contact says, before that, that it does not wait for it any more; it does not say
    /// whether it was stopped or something went wrong.
    pub withdrawn: BoxFuture<'static, ()>,
}

impl std::fmt::Debug for AgreedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgreedFile")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// One file that the contact offers (the receiving side gets these). Dropping it declines it.
pub trait IncomingFile: Send + 'static {
    /// Whether the sender can begin elsewhere than at the beginning.
    fn has_ranges(&self) -> bool;

    /// Agrees, and waits until the bytes can flow, for as long as the sender takes to begin. A beginning
    /// other than 0 is asked for only of a sender that has ranges.
    ///
    /// # Errors
    /// `InvalidArgument` for a beginning that the sender does not have, `Rejected` when it took its offer
    /// back meanwhile, `ResourceUnavailable`, `ConnectionFailed`, `Offline`.
    fn accept(self: Box<Self>, from: Resume) -> BoxFuture<'static, Result<FileStream, Error>>;

    /// Declines.
    fn decline(self: Box<Self>, why: Error);

    /// Completes when the offer does not stand any more: the contact took it back or is gone.
    fn withdrawn(&self) -> BoxFuture<'static, ()>;
}

/// One D-Bus tube offered to one contact.
pub trait DBusTubeOffering: Send + Sync + 'static {
    /// Offers it. Completes when the offer has been written to an authenticated stream; what it gives
    /// waits for the contact's answer, which is a person's, and for the bytestream. Dropping either
    /// takes the offer back, as far as the contact can be told.
    ///
    /// # Errors
    /// `NotCapable`, `Offline`, `ConnectionFailed`, `EncryptionNotAvailable`,
    /// `CertFingerprintMismatch`; and afterwards `Rejected` when the contact does not want it.
    fn offer(
        &self,
        service: &ServiceName,
        parameters: &TubeParameters,
    ) -> BoxFuture<'static, Result<Opening, Error>>;
}

/// A bytestream that is opening.
pub type Opening = BoxFuture<'static, Result<Bytestream, Error>>;

/// A D-Bus tube that the contact offers. Dropping it declines it.
pub trait IncomingDBusTube: Send + 'static {
    /// Agrees, and waits until the bytes can flow.
    ///
    /// # Errors
    /// `Rejected` when the contact took its offer back meanwhile, `ConnectionFailed`, `Offline`.
    fn accept(self: Box<Self>) -> Opening;

    /// Completes when the offer does not stand any more: the contact took it back or is gone.
    fn withdrawn(&self) -> BoxFuture<'static, ()>;
}

/// With whom a channel is, and whose wish: the immutable properties that all channels have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
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
}

/// `SupportedSocketTypes` and `AvailableSocketTypes`.
pub type SocketTypes = Vec<(AddressType, Vec<AccessControl>)>;

/// What `Requestotron` and `ObjectTree` must know of a channel when it appears: the immutable
/// properties of a stream tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTubeDescription {
    /// With whom.
    pub parties: Parties,
    /// `StreamTube.Service`.
    pub service: ServiceName,
    /// `StreamTube.SupportedSocketTypes`.
    pub sockets: SocketTypes,
    /// `Tube.Parameters` of an incoming tube; for a requested one they come with Offer.
    pub parameters: TubeParameters,
}

/// The same of a file transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTransferDescription {
    /// With whom.
    pub parties: Parties,
    /// The file. Boxed: a description travels with descriptions of smaller things.
    pub file: Box<FileOffer>,
    /// `FileTransfer.AvailableSocketTypes`.
    pub sockets: SocketTypes,
    /// `FileTransfer.URI` of a requested transfer; that of an incoming one is set later.
    pub uri: String,
    /// The sender can begin elsewhere than at the beginning: we always can, a contact by
    /// [`IncomingFile::has_ranges`].
    pub has_ranges: bool,
}

/// The same of a D-Bus tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DBusTubeDescription {
    /// With whom.
    pub parties: Parties,
    /// `DBusTube.ServiceName`.
    pub service: ServiceName,
    /// `DBusTube.SupportedAccessControls`.
    pub accesses: Vec<AccessControl>,
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

/// The same of a file transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTransferView {
    /// `FileTransfer.State`.
    pub state: FileTransferState,
    /// Why, where the state is Cancelled.
    pub reason: FileTransferReason,
    /// What went wrong, as a sentence, where something did.
    pub error: Option<Error>,
    /// `FileTransfer.TransferredBytes`: those before the initial offset do not count among them.
    pub transferred: u64,
    /// `FileTransfer.InitialOffset`, once it is defined.
    pub initial_offset: Option<u64>,
    /// Where the receiver wants the file to begin, once it has said so (we send).
    pub asked: Option<Resume>,
    /// `FileTransfer.URI`; empty while there is none.
    pub uri: String,
    /// The socket the local application connects to, once there is one.
    pub address: Option<SocketAddress>,
    /// Whether the bytestream had TLS inside; nothing before it has opened.
    pub encrypted: Option<bool>,
    /// How much of the file the receiving application has said it has stored safely, counted from
    /// the file's beginning.
    pub stored: u64,
}

/// The same of a D-Bus tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DBusTubeView {
    /// `Tube.State`.
    pub state: TubeState,
    /// `Tube.Parameters`.
    pub parameters: TubeParameters,
    /// What went wrong, where the tube closed because something did.
    pub error: Option<Error>,
    /// The D-Bus address applications connect to, once there is one.
    pub address: Option<String>,
    /// The contact offered it, and Accept was answered well; also when it is over.
    pub accepted: bool,
    /// An application is connected and has authenticated itself.
    pub connected: bool,
    /// Bytes that went from here to the contact.
    pub bytes_sent: u64,
    /// Bytes of the contact's that an application took.
    pub bytes_received: u64,
    /// Whether the bytestream had TLS inside; nothing before it has opened.
    pub encrypted: Option<bool>,
}

/// A channel's object: what is fixed about it, where its methods go, where its properties are read.
pub struct Object<Description, Message, View> {
    /// Which channel.
    pub id: ChannelId,
    /// Whose channel it is.
    pub owner: OwnerId,
    /// Its immutable properties.
    pub description: Description,
    /// Where its methods go. The same address for the channel's whole life, whatever restarts.
    pub address: Address<Message>,
    /// Where its properties are read.
    pub view: Snapshot<View>,
}

// Derived, it would want messages that can be cloned.
impl<Description: Clone, Message, View> Clone for Object<Description, Message, View> {
    fn clone(&self) -> Self {
        Object {
            id: self.id,
            owner: self.owner,
            description: self.description.clone(),
            address: self.address.clone(),
            view: self.view.clone(),
        }
    }
}

impl<Description: std::fmt::Debug, Message, View> std::fmt::Debug
    for Object<Description, Message, View>
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object")
            .field("id", &self.id)
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// A stream tube's.
pub type StreamTubeObject = Object<StreamTubeDescription, StreamTubeMessage, StreamTubeView>;
/// A file transfer's.
pub type FileTransferObject =
    Object<FileTransferDescription, FileTransferMessage, FileTransferView>;

/// A D-Bus tube's.
pub type DBusTubeObject = Object<DBusTubeDescription, DBusTubeMessage, DBusTubeView>;

/// What is fixed about a channel, whatever its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelDescription {
    /// A stream tube.
    StreamTube(StreamTubeDescription),
    /// A file transfer.
    FileTransfer(FileTransferDescription),
    /// A D-Bus tube.
    DBusTube(DBusTubeDescription),
}

impl ChannelDescription {
    /// With whom, and whose wish.
    pub fn parties(&self) -> &Parties {
        match self {
            ChannelDescription::StreamTube(tube) => &tube.parties,
            ChannelDescription::FileTransfer(transfer) => &transfer.parties,
            ChannelDescription::DBusTube(tube) => &tube.parties,
        }
    }

    /// The description of a stream tube, if it is one.
    pub fn stream_tube(&self) -> Option<&StreamTubeDescription> {
        match self {
            ChannelDescription::StreamTube(tube) => Some(tube),
            ChannelDescription::FileTransfer(_) | ChannelDescription::DBusTube(_) => None,
        }
    }

    /// The description of a file transfer, if it is one.
    pub fn file_transfer(&self) -> Option<&FileTransferDescription> {
        match self {
            ChannelDescription::FileTransfer(transfer) => Some(transfer),
            ChannelDescription::StreamTube(_) | ChannelDescription::DBusTube(_) => None,
        }
    }
}

/// A channel's object, as the supervisor hands it to the [`ObjectTree`].
#[derive(Clone, Debug)]
pub enum ChannelObject {
    /// A stream tube's.
    StreamTube(StreamTubeObject),
    /// A file transfer's.
    FileTransfer(FileTransferObject),
    /// A D-Bus tube's.
    DBusTube(DBusTubeObject),
}

impl ChannelObject {
    /// Which channel.
    pub fn id(&self) -> ChannelId {
        match self {
            ChannelObject::StreamTube(tube) => tube.id,
            ChannelObject::FileTransfer(transfer) => transfer.id,
            ChannelObject::DBusTube(tube) => tube.id,
        }
    }

    /// Whose channel it is.
    pub fn owner(&self) -> OwnerId {
        match self {
            ChannelObject::StreamTube(tube) => tube.owner,
            ChannelObject::FileTransfer(transfer) => transfer.owner,
            ChannelObject::DBusTube(tube) => tube.owner,
        }
    }

    /// Its immutable properties.
    pub fn description(&self) -> ChannelDescription {
        match self {
            ChannelObject::StreamTube(tube) => {
                ChannelDescription::StreamTube(tube.description.clone())
            }
            ChannelObject::FileTransfer(transfer) => {
                ChannelDescription::FileTransfer(transfer.description.clone())
            }
            ChannelObject::DBusTube(tube) => ChannelDescription::DBusTube(tube.description.clone()),
        }
    }

    /// With whom, and whose wish.
    pub fn parties(&self) -> &Parties {
        match self {
            ChannelObject::StreamTube(tube) => &tube.description.parties,
            ChannelObject::FileTransfer(transfer) => &transfer.description.parties,
            ChannelObject::DBusTube(tube) => &tube.description.parties,
        }
    }

    /// The object of a stream tube, if it is one.
    pub fn stream_tube(&self) -> Option<&StreamTubeObject> {
        match self {
            ChannelObject::StreamTube(tube) => Some(tube),
            ChannelObject::FileTransfer(_) | ChannelObject::DBusTube(_) => None,
        }
    }

    /// The object of a file transfer, if it is one.
    pub fn file_transfer(&self) -> Option<&FileTransferObject> {
        match self {
            ChannelObject::FileTransfer(transfer) => Some(transfer),
            ChannelObject::StreamTube(_) | ChannelObject::DBusTube(_) => None,
        }
    }

    /// `Channel.Close`: waits until the object is gone. One that is gone already is fine.
    pub fn close(&self) -> BoxFuture<'static, ()> {
        match self.clone() {
            ChannelObject::StreamTube(tube) => Box::pin(async move {
                let ask = |reply| StreamTubeMessage::Close { reply };
                tube.address.ask_first(ask).await.unwrap_or(());
            }),
            ChannelObject::FileTransfer(transfer) => Box::pin(async move {
                let ask = |reply| FileTransferMessage::Close { reply };
                transfer.address.ask_first(ask).await.unwrap_or(());
            }),
            ChannelObject::DBusTube(tube) => Box::pin(async move {
                let ask = |reply| DBusTubeMessage::Close { reply };
                tube.address.ask_first(ask).await.unwrap_or(());
            }),
        }
    }

    /// The program that had claimed the channel is gone: it closes, but for a contact's file that the program
    /// had not taken yet. One that is gone already is fine.
    pub fn abandon(&self) -> BoxFuture<'static, ()> {
        match self.clone() {
            ChannelObject::FileTransfer(transfer) => Box::pin(async move {
                let told = transfer.address.tell_first(FileTransferMessage::Abandoned);
                if told.await.is_err() {
                    tracing::trace!("the transfer was over");
                }
            }),
            tube @ (ChannelObject::StreamTube(_) | ChannelObject::DBusTube(_)) => tube.close(),
        }
    }
}

impl From<StreamTubeObject> for ChannelObject {
    fn from(tube: StreamTubeObject) -> Self {
        ChannelObject::StreamTube(tube)
    }
}

impl From<FileTransferObject> for ChannelObject {
    fn from(transfer: FileTransferObject) -> Self {
        ChannelObject::FileTransfer(transfer)
    }
}

impl From<DBusTubeObject> for ChannelObject {
    fn from(tube: DBusTubeObject) -> Self {
        ChannelObject::DBusTube(tube)
    }
}

/// A signal of a stream tube. Emitted in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamTubeSignal {
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

/// A signal of a file transfer. Emitted in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileTransferSignal {
    /// `FileTransfer.FileTransferStateChanged`.
    StateChanged(FileTransferState, FileTransferReason),
    /// `FileTransfer.TransferredBytesChanged`: at most once a second, and at the end.
    TransferredBytesChanged(u64),
    /// `FileTransfer.InitialOffsetDefined`: before Open.
    InitialOffsetDefined(u64),
    /// `FileTransfer.URIDefined`.
    UriDefined(String),
    /// The contact has said where it wants the file to begin (we send): before Accepted, or Open where
    /// that is left out.
    AskedDefined(Resume),
    /// [`FileTransferView::stored`] has grown: at most once a second, and at the end.
    StoredChanged(u64),
}

/// A signal of a D-Bus tube.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DBusTubeSignal {
    /// `Tube.TubeChannelStateChanged`.
    TubeStateChanged(TubeState),
}

/// A signal of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelSignal {
    /// Of a stream tube.
    StreamTube(StreamTubeSignal),
    /// Of a file transfer.
    FileTransfer(FileTransferSignal),
    /// Of a D-Bus tube.
    DBusTube(DBusTubeSignal),
}

impl From<DBusTubeSignal> for ChannelSignal {
    fn from(signal: DBusTubeSignal) -> Self {
        ChannelSignal::DBusTube(signal)
    }
}

impl From<StreamTubeSignal> for ChannelSignal {
    fn from(signal: StreamTubeSignal) -> Self {
        ChannelSignal::StreamTube(signal)
    }
}

impl From<FileTransferSignal> for ChannelSignal {
    fn from(signal: FileTransferSignal) -> Self {
        ChannelSignal::FileTransfer(signal)
    }
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
