//! `Channel.Interface.FileTransfer.Metadata`: what applications say to each other about a file.

use std::collections::BTreeMap;

use actors::{model::Error, ports::FileTransferObject};

use super::error::{Failure, Result, read};

/// The interface.
#[derive(Debug)]
pub struct FileTransferMetadata {
    object: FileTransferObject,
}

impl FileTransferMetadata {
    /// Of this channel.
    pub fn new(object: FileTransferObject) -> Self {
        FileTransferMetadata { object }
    }
}

/// The specification calls both properties writable and immutable; they are said with the request, and
/// after that the contact has them.
fn fixed(what: &str) -> Failure {
    Failure(Error::NotImplemented(format!(
        "{what} is said when the channel is requested and never changes"
    )))
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Interface.FileTransfer.Metadata",
    introspection_docs = false
)]
impl FileTransferMetadata {
    #[zbus(property(emits_changed_signal = "const"))]
    fn service_name(&self) -> Result<String> {
        read("ServiceName", || {
            self.object.description.file.service.clone()
        })
    }

    #[zbus(property)]
    fn set_service_name(&self, _name: String) -> Result<()> {
        Err(fixed("ServiceName"))
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn metadata(&self) -> Result<BTreeMap<String, Vec<String>>> {
        read("Metadata", || self.object.description.file.metadata.clone())
    }

    #[zbus(property)]
    fn set_metadata(&self, _metadata: BTreeMap<String, Vec<String>>) -> Result<()> {
        Err(fixed("Metadata"))
    }
}
