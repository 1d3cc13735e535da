//! The actor behind one `Channel.Type.FileTransfer` channel.

mod message;

pub use message::FileTransferMessage;
