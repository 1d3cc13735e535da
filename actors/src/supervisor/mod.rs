//! The root supervisor: owns the tree of channels, starts every actor and restarts those that fail.

use std::sync::Arc;

use crate::ports::{BytestreamConnector, StreamTubeDescription, TubeSignalling};

/// Whose channel it is: one Telepathy Connection for its life in this process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(pub u64);

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
}
