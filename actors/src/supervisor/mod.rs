//! The root supervisor: owns the tree of channels, starts every actor and restarts those that fail.
//!
//! ```text
//!  Supervisor (root)                     one for the process; generic over the ObjectTree port
//!   └─ channel supervisor                one for each channel; owns the mailbox and the descriptors
//!       ├─ tube, or transfer             decides
//!       ├─ listener                      accepts local applications
//!       ├─ dialler                       dials the offered service (of a tube)
//!       ├─ announcer                     emits the signals in order
//!       └─ relay …, or flow              one for each connection, or for the file
//! ```
//!
//! What is the same for all types of channels is in `channel`; `tube`, `dbus_tube` and `transfer` have
//! the rest.
//!
//! Whoever wants a channel (`connection/`) asks a [`SupervisorHandle`]; it answers with a
//! [`ChannelObject`](crate::ports::ChannelObject) once the object is published.

mod channel;
mod config;
mod dbus_tube;
mod root;
mod sockets;
mod transfer;
mod tube;
mod world;

use std::sync::Arc;

use crate::{
    limits::Limits,
    model::OwnerId,
    ports::{
        BytestreamConnector, DBusTubeDescription, DBusTubeOffering, FileSending,
        FileTransferDescription, IncomingDBusTube, IncomingFile, StreamTubeDescription,
        TubeSignalling,
    },
};

pub use config::{RestartCounts, RestartPolicy, SupervisorConfig};
pub use root::{Supervisor, SupervisorHandle};
pub use sockets::{
    AcceptedSocket, DialledSocket, ListenJob, ListeningSocket, LocalSockets, SystemSockets,
};

/// A stream tube that the supervisor is asked to start.
pub struct StreamTubeRequest {
    /// Whose channel it is.
    pub owner: OwnerId,
    /// The channel's immutable properties.
    pub description: StreamTubeDescription,
    /// Opens bytestreams to the contact.
    pub connector: Arc<dyn BytestreamConnector>,
    /// Tells the contact about the tube.
    pub signalling: Arc<dyn TubeSignalling>,
    /// Where its local sockets come from: one [`SystemSockets`] for each Connection.
    pub sockets: Arc<dyn LocalSockets>,
    /// What the contact may use of it, changeable while it is open.
    pub limits: Limits,
}

/// A file transfer that the supervisor is asked to start.
pub struct FileTransferRequest {
    /// Whose channel it is.
    pub owner: OwnerId,
    /// The channel's immutable properties.
    pub description: FileTransferDescription,
    /// Which way the file goes.
    pub way: FileWay,
    /// Where its local socket comes from.
    pub sockets: Arc<dyn LocalSockets>,
    /// What the contact may use of it, changeable while it is open.
    pub limits: Limits,
}

/// Which way a file goes.
pub enum FileWay {
    /// To the contact, which is offered it at once.
    Send(Arc<dyn FileSending>),
    /// From the contact, which has offered it.
    Receive(Box<dyn IncomingFile>),
}

/// A D-Bus tube that the supervisor is asked to start.
pub struct DBusTubeRequest {
    /// Whose channel it is.
    pub owner: OwnerId,
    /// The channel's immutable properties.
    pub description: DBusTubeDescription,
    /// Whose tube it is.
    pub way: DBusTubeWay,
    /// Where its local socket comes from.
    pub sockets: Arc<dyn LocalSockets>,
    /// What the contact may use of it, changeable while it is open. Connections are not limited: there
    /// is one at a time.
    pub limits: Limits,
}

/// Whose tube it is.
pub enum DBusTubeWay {
    /// Ours, to be offered.
    Offer(Arc<dyn DBusTubeOffering>),
    /// The contact's, which has offered it.
    Accept(Box<dyn IncomingDBusTube>),
}
