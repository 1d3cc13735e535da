//! What others send a stream tube.

use crate::{
    model::{AccessControl, AccessRule, AddressType, Result, SocketAddress, TubeParameters},
    ports::IncomingBytestream,
    runtime::Reply,
};

/// What a stream tube is told and asked.
pub enum StreamTubeMessage {
    /// `StreamTube.Offer`: dial `address` for each connection the contact opens.
    Offer {
        /// Where the local service listens.
        address: SocketAddress,
        /// How we prove ourselves to it.
        access: AccessControl,
        /// `parameters`
        parameters: TubeParameters,
        /// Done once the offer is on its way.
        reply: Reply<Result<()>>,
    },
    /// `StreamTube.Accept`: listen on a socket of this type.
    Accept {
        /// `address_type`
        address_type: AddressType,
        /// `access_control` and its parameter.
        access: AccessRule,
        /// The address that listens.
        reply: Reply<Result<SocketAddress>>,
    },
    /// `Channel.Close`.
    Close {
        /// Done once the channel's object is gone.
        reply: Reply<()>,
    },
    /// The contact opens a connection (we offered the tube).
    Incoming(Box<dyn IncomingBytestream>),
    /// The contact closed the tube.
    RemoteClosed,
    /// The contact has been gone for longer than the grace period.
    ContactGone,
}
