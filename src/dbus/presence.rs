//! `Connection.Interface.SimplePresence`.

use std::collections::{BTreeMap, HashMap};

use actors::model::{Error, Result as Outcome};
use zbus::object_server::SignalEmitter;

use super::{
    attributes,
    error::{Result, answered, read},
    held::Ordered,
    values::{self, StatusSpec},
};
use crate::{
    connection::{
        ConnectionHandle,
        contacts::shortened,
        message::ConnectionMessage,
        protocol::{MAX_STATUS_MESSAGE, PresenceType, STATUSES},
        view::Status,
    },
    session::{Presence, Show},
};

/// The interface.
#[derive(Debug)]
pub struct SimplePresence {
    connection: ConnectionHandle,
}

impl SimplePresence {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        SimplePresence { connection }
    }
}

/// A presence that may be set. The message is cut where [`MAX_STATUS_MESSAGE`] says, and loses the
/// control characters that a TXT record should not carry.
fn settable(name: &str, message: &str) -> Outcome<Presence> {
    let status = STATUSES
        .iter()
        .find(|status| status.name == name && status.settable)
        .ok_or_else(|| Error::InvalidArgument(format!("'{}' cannot be set", shortened(name))))?;
    let show = match status.presence {
        PresenceType::Offline => {
            return Err(Error::InvalidArgument("Disconnect goes offline".into()));
        }
        PresenceType::Available => Show::Available,
        PresenceType::Away => Show::Away,
        PresenceType::Busy => Show::Busy,
    };
    let mut short = String::new();
    for c in message.chars().filter(|c| !c.is_control()) {
        if short.len() + c.len_utf8() > MAX_STATUS_MESSAGE {
            break;
        }
        short.push(c);
    }
    Ok(Presence {
        show,
        message: short,
    })
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.SimplePresence",
    introspection_docs = false
)]
impl SimplePresence {
    #[zbus(property(emits_changed_signal = "const"))]
    fn statuses(&self) -> Result<BTreeMap<String, StatusSpec>> {
        read("Statuses", values::statuses)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn maximum_status_message_length(&self) -> Result<u32> {
        read("MaximumStatusMessageLength", || {
            // 0 while disconnected, by the specification.
            match self.connection.view.get().status {
                Status::Connected => u32::try_from(MAX_STATUS_MESSAGE).unwrap_or(0),
                Status::Connecting | Status::Disconnected => 0,
            }
        })
    }

    async fn set_presence(&self, status: String, status_message: String) -> Result<()> {
        answered("SetPresence", async move {
            let presence = settable(&status, &status_message)?;
            self.connection
                .ask(|reply| ConnectionMessage::SetPresence { presence, reply })
                .await?
        })
        .await
    }

    #[zbus(out_args("Presence"))]
    async fn get_presences(
        &self,
        contacts: Vec<u32>,
    ) -> Result<Ordered<HashMap<u32, attributes::SimplePresence>>> {
        answered("GetPresences", async move {
            let order = self.connection.order().read_arc().await;
            let contacts = self.connection.view.get().contacts_of(&contacts)?;
            let presences = contacts
                .iter()
                .map(|contact| (contact.handle.0, attributes::presence(contact)))
                .collect();
            Ok(Ordered::new(presences, order))
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn presences_changed(
        emitter: &SignalEmitter<'_>,
        presence: HashMap<u32, attributes::SimplePresence>,
    ) -> zbus::Result<()>;
}
