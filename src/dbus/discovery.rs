//! `Connection.Interface.Pneuma.Discovery1`, our own: how contacts are found.

use super::error::{Result, read};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct Discovery {
    connection: ConnectionHandle,
}

impl Discovery {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        Discovery { connection }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Discovery1",
    introspection_docs = false
)]
impl Discovery {
    /// Who announces us and finds others now: `avahi` or `built-in`; empty before we are online. It may
    /// become `built-in` while we are.
    #[zbus(property(emits_changed_signal = "false"))]
    fn responder(&self) -> Result<String> {
        read("Responder", || self.connection.responder().to_owned())
    }
}
