//! What others send a D-Bus tube.

use crate::{
    model::{AccessControl, Result, TubeParameters},
    runtime::Reply,
};

/// What a D-Bus tube is told and asked.
pub enum DBusTubeMessage {
    /// `DBusTube.Offer`: offer it to the contact, and listen.
    Offer {
        /// `parameters`
        parameters: TubeParameters,
        /// `access_control`
        access: AccessControl,
        /// The D-Bus address that listens, once the offer is on its way.
        reply: Reply<Result<String>>,
    },
    /// `DBusTube.Accept`: agree, and listen.
    Accept {
        /// `access_control`
        access: AccessControl,
        /// The D-Bus address that listens.
        reply: Reply<Result<String>>,
    },
    /// `Channel.Close`.
    Close {
        /// Done once the channel's object is gone.
        reply: Reply<()>,
    },
    /// The contact says that it closes it. Most of them only end the bytestream, or take the offer back.
    RemoteClosed,
    /// The contact has been gone for longer than the grace period.
    ContactGone,
}
