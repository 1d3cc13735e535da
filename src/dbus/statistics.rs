//! `Channel.Interface.Pneuma.Statistics1`, our own: what went through a channel. Read when
//! somebody wants to know; nothing is signalled.

use super::{
    channel::TubeObject,
    error::{Result, read},
};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct Statistics {
    object: TubeObject,
    connection: ConnectionHandle,
}

impl Statistics {
    /// Of this channel.
    pub fn new(object: impl Into<TubeObject>, connection: ConnectionHandle) -> Self {
        Statistics {
            object: object.into(),
            connection,
        }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Statistics1",
    introspection_docs = false
)]
impl Statistics {
    /// Connections that are open now. A D-Bus tube has one while an application is there that has begun.
    #[zbus(property(emits_changed_signal = "false"))]
    fn connections(&self) -> Result<u32> {
        read("Connections", || match &self.object {
            TubeObject::Stream(tube) => tube.view.get().connections,
            TubeObject::DBus(tube) => tube.view.get().connected.into(),
        })
    }

    /// Bytes that went to the contact, over all connections so far.
    #[zbus(property(emits_changed_signal = "false"))]
    fn bytes_sent(&self) -> Result<u64> {
        read("BytesSent", || match &self.object {
            TubeObject::Stream(tube) => tube.view.get().bytes_sent,
            TubeObject::DBus(tube) => tube.view.get().bytes_sent,
        })
    }

    /// Bytes that came from the contact, over all connections so far.
    #[zbus(property(emits_changed_signal = "false"))]
    fn bytes_received(&self) -> Result<u64> {
        read("BytesReceived", || match &self.object {
            TubeObject::Stream(tube) => tube.view.get().bytes_received,
            TubeObject::DBus(tube) => tube.view.get().bytes_received,
        })
    }

    /// The local socket, as a person reads it: `127.0.0.1:5900`, `[::1]:80`, `unix:/path`; of a D-Bus
    /// tube, the address that Offer and Accept gave. Empty while there is none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn address(&self) -> Result<String> {
        read("Address", || {
            let address = match &self.object {
                TubeObject::Stream(tube) => {
                    let view = tube.view.get();
                    view.address.as_ref().map(ToString::to_string)
                }
                TubeObject::DBus(tube) => tube.view.get().address.clone(),
            };
            address.unwrap_or_default()
        })
    }

    /// Whether every connection of this tube so far was encrypted from one connection manager to
    /// the other. Before the first one: whether none can be anything else, because the contact is
    /// pinned, and a pinned contact is never spoken to without encryption.
    #[zbus(property(emits_changed_signal = "false"))]
    fn encrypted(&self) -> Result<bool> {
        read("Encrypted", || {
            let (target, encrypted) = match &self.object {
                TubeObject::Stream(tube) => {
                    (tube.description.parties.target, tube.view.get().encrypted)
                }
                TubeObject::DBus(tube) => {
                    (tube.description.parties.target, tube.view.get().encrypted)
                }
            };
            encrypted.unwrap_or_else(|| self.connection.is_pinned(target))
        })
    }
}
