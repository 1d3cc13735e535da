//! What others send a file transfer.

use crate::{
    model::{AccessRule, AddressType, Result, Resume, SocketAddress},
    runtime::Reply,
};

/// What a file transfer is told and asked.
pub enum FileTransferMessage {
    /// `FileTransfer.ProvideFile`: listen on a socket of this type and read the file from whoever
    /// connects.
    Provide {
        /// `Address_Type`
        address_type: AddressType,
        /// `Access_Control` and its parameter.
        access: AccessRule,
        /// Where the application begins: 0 or what the contact asked for. Nothing: what the contact
        /// asked for, which clients find in `InitialOffset`.
        from: Option<u64>,
        /// The address that listens.
        reply: Reply<Result<SocketAddress>>,
    },
    /// `FileTransfer.AcceptFile`: listen on a socket of this type and write the file to whoever
    /// connects.
    Accept {
        /// `Address_Type`
        address_type: AddressType,
        /// `Access_Control` and its parameter.
        access: AccessRule,
        /// `Offset`, and what lies before it.
        from: Resume,
        /// The application says what it has stored, and the contact is to hear that all is well only once
        /// that is all of it.
        stores: bool,
        /// The address that listens.
        reply: Reply<Result<SocketAddress>>,
    },
    /// Setting `FileTransfer.URI`.
    SetUri {
        /// The URI.
        uri: String,
        /// Done once it is set.
        reply: Reply<Result<()>>,
    },
    /// The receiving application has stored the file safely up to here, counted from its beginning.
    Stored {
        /// In bytes; it only grows, and never beyond what was handed over.
        offset: u64,
        /// Done once it is noted.
        reply: Reply<Result<()>>,
    },
    /// Whether all has come, and is what was sent.
    IsVerified {
        /// If so, how long the file is. Known before the application reads the file's end from its socket.
        reply: Reply<Result<Option<u64>>>,
    },
    /// `Channel.Close`.
    Close {
        /// Done once the channel's object is gone.
        reply: Reply<()>,
    },
    /// The program that had claimed the channel is gone. What it has not taken stays as offered, for another
    /// one; anything else is closed.
    Abandoned,
    /// The contact has been gone for longer than the grace period.
    ContactGone,
}
