//! `Connection.Interface.ContactCapabilities`.

use std::collections::HashMap;

use zbus::object_server::SignalEmitter;

use super::{
    attributes,
    error::{Result, answered},
    held::Ordered,
    values::{self, Class, ReceivedMap},
};
use crate::connection::{
    ConnectionHandle, capabilities::ClientCapabilities, message::ConnectionMessage,
};

/// Most filters of one client that are looked at.
const MAX_FILTERS: usize = 1024;

/// The interface.
#[derive(Debug)]
pub struct ContactCapabilities {
    connection: ConnectionHandle,
}

impl ContactCapabilities {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        ContactCapabilities { connection }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.ContactCapabilities",
    introspection_docs = false
)]
impl ContactCapabilities {
    async fn update_capabilities(
        &self,
        handler_capabilities: Vec<(String, Vec<ReceivedMap>, Vec<String>)>,
    ) -> Result<()> {
        answered("UpdateCapabilities", async move {
            // The tokens in the third place say nothing about tubes.
            let clients = handler_capabilities
                .iter()
                .map(|(client, filters, _)| ClientCapabilities {
                    client: client.clone(),
                    filters: filters
                        .iter()
                        .take(MAX_FILTERS)
                        .map(values::given_map)
                        .collect(),
                })
                .collect();
            self.connection
                .ask(|reply| ConnectionMessage::UpdateCapabilities { clients, reply })
                .await?
        })
        .await
    }

    /// Contacts whose capabilities are unknown are left out, by the specification.
    #[zbus(out_args("Contact_Capabilities"))]
    async fn get_contact_capabilities(
        &self,
        handles: Vec<u32>,
    ) -> Result<Ordered<HashMap<u32, Vec<Class>>>> {
        answered("GetContactCapabilities", async move {
            let order = self.connection.order().read_arc().await;
            let contacts = self.connection.view.get().contacts_of(&handles)?;
            let capabilities = contacts
                .iter()
                .filter(|contact| contact.capabilities.is_some())
                .map(|contact| (contact.handle.0, attributes::classes(contact)))
                .collect();
            Ok(Ordered::new(capabilities, order))
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn contact_capabilities_changed(
        emitter: &SignalEmitter<'_>,
        caps: HashMap<u32, Vec<Class>>,
    ) -> zbus::Result<()>;
}
