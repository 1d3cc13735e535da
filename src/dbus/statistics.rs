//! `Channel.Interface.Pneuma.Statistics1`, our own: what went through a channel. Read when
//! somebody wants to know; nothing is signalled.

use actors::ports::StreamTubeObject;

use super::error::{Result, read};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct Statistics {
    object: StreamTubeObject,
    connection: ConnectionHandle,
}

impl Statistics {
    /// Of this channel.
    pub fn new(object: StreamTubeObject, connection: ConnectionHandle) -> Self {
        Statistics { object, connection }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Statistics1",
    introspection_docs = false
)]
impl Statistics {
    /// Connections that are open now.
    #[zbus(property(emits_changed_signal = "false"))]
    fn connections(&self) -> Result<u32> {
        read("Connections", || self.object.view.get().connections)
    }

    /// Bytes that went to the contact, over all connections so far.
    #[zbus(property(emits_changed_signal = "false"))]
    fn bytes_sent(&self) -> Result<u64> {
        read("BytesSent", || self.object.view.get().bytes_sent)
    }

    /// Bytes that came from the contact, over all connections so far.
    #[zbus(property(emits_changed_signal = "false"))]
    fn bytes_received(&self) -> Result<u64> {
        read("BytesReceived", || self.object.view.get().bytes_received)
    }

    /// The local socket, as a person reads it: `127.0.0.1:5900`, `[::1]:80`, `unix:/path`. Empty
    /// while there is none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn address(&self) -> Result<String> {
        read("Address", || {
            let view = self.object.view.get();
            view.address
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default()
        })
    }

    /// Whether every connection of this tube so far was encrypted from one connection manager to
    /// the other. Before the first one: whether none can be anything else, because the contact is
    /// pinned, and a pinned contact is never spoken to without encryption.
    #[zbus(property(emits_changed_signal = "false"))]
    fn encrypted(&self) -> Result<bool> {
        read("Encrypted", || {
            let target = self.object.description.parties.target;
            let encrypted = self.object.view.get().encrypted;
            encrypted.unwrap_or_else(|| self.connection.is_pinned(target))
        })
    }
}
