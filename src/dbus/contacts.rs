//! `Connection.Interface.Contacts`: many attributes of many contacts at once.

use std::collections::{BTreeSet, HashMap};

use actors::model::ContactHandle;

use super::{
    attributes,
    error::{Result, answered, read},
    held::Ordered,
    values::{self, Map},
};
use crate::connection::{ConnectionHandle, protocol};

/// The interface.
#[derive(Debug)]
pub struct Contacts {
    connection: ConnectionHandle,
}

impl Contacts {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        Contacts { connection }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Contacts",
    introspection_docs = false
)]
impl Contacts {
    #[zbus(property(emits_changed_signal = "const"))]
    fn contact_attribute_interfaces(&self) -> Result<Vec<String>> {
        read("ContactAttributeInterfaces", || {
            values::strings(protocol::ATTRIBUTE_INTERFACES)
        })
    }

    #[zbus(out_args("Attributes"))]
    async fn get_contact_attributes(
        &self,
        handles: Vec<u32>,
        interfaces: Vec<String>,
        hold: bool,
    ) -> Result<Ordered<HashMap<u32, Map>>> {
        answered("GetContactAttributes", async move {
            let order = self.connection.order().read_arc().await;
            let view = self.connection.view.get();
            view.connected()?;
            // Handles are immortal: holding them changes nothing. Those that are nobody's are left
            // out, by the specification.
            tracing::trace!(hold, "contact attributes");
            let interfaces = attributes::wanted(&interfaces);
            let handles: BTreeSet<u32> = handles.into_iter().collect();
            let attributes = handles
                .iter()
                .filter_map(|handle| view.contacts.get(ContactHandle(*handle)).ok())
                .map(|contact| (contact.handle.0, attributes::of(contact, &interfaces)))
                .collect();
            Ok(Ordered::new(attributes, order))
        })
        .await
    }

    #[zbus(name = "GetContactByID", out_args("Handle", "Attributes"))]
    async fn get_contact_by_id(
        &self,
        identifier: String,
        interfaces: Vec<String>,
    ) -> Result<(u32, Ordered<Map>)> {
        answered("GetContactByID", async move {
            let order = self.connection.order().read_arc().await;
            let view = self.connection.view.get();
            view.connected()?;
            let contact = view.contacts.by_id(&identifier)?;
            let attributes = attributes::of(contact, &attributes::wanted(&interfaces));
            Ok((contact.handle.0, Ordered::new(attributes, order)))
        })
        .await
    }
}
