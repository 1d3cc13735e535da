//! `Connection.Interface.ContactList`: whoever is on the network, and whom our user dealt with.
//! The network keeps the list, so nothing about it can be changed from here.

use std::collections::HashMap;

use actors::model::{Error, Result as Outcome};
use zbus::object_server::SignalEmitter;

use super::{
    attributes,
    error::{Result, answered, read},
    held::Ordered,
    values::Map,
};
use crate::connection::{
    ConnectionHandle,
    view::{ConnectionView, ContactListState},
};
use crate::names;

/// `Contact_Subscriptions`.
pub type Subscriptions = (u32, u32, String);

/// The interface.
#[derive(Debug)]
pub struct ContactList {
    connection: ConnectionHandle,
}

impl ContactList {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        ContactList { connection }
    }

    fn view(&self) -> std::sync::Arc<ConnectionView> {
        self.connection.view.get()
    }

    /// Every change is refused, but a wrong handle is said to be wrong.
    fn unchangeable(&self, contacts: &[u32]) -> Outcome<()> {
        self.view().contacts_of(contacts)?;
        Err(Error::NotImplemented(
            "who is on a local network cannot be asked to come or go".into(),
        ))
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.ContactList",
    introspection_docs = false
)]
impl ContactList {
    #[zbus(property(emits_changed_signal = "false"))]
    fn contact_list_state(&self) -> Result<u32> {
        read("ContactListState", || self.view().contact_list as u32)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn contact_list_persists(&self) -> Result<bool> {
        read("ContactListPersists", || false)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn can_change_contact_list(&self) -> Result<bool> {
        read("CanChangeContactList", || false)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn request_uses_message(&self) -> Result<bool> {
        read("RequestUsesMessage", || false)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn download_at_connection(&self) -> Result<bool> {
        read("DownloadAtConnection", || true)
    }

    #[zbus(out_args("Attributes"))]
    async fn get_contact_list_attributes(
        &self,
        interfaces: Vec<String>,
        hold: bool,
    ) -> Result<Ordered<HashMap<u32, Map>>> {
        answered("GetContactListAttributes", async move {
            let order = self.connection.order().read_arc().await;
            let view = self.view();
            if view.contact_list != ContactListState::Success {
                return Err(Error::NotYet(
                    "the contact list is there once the connection is online".into(),
                ));
            }
            // Handles are immortal: holding them changes nothing.
            tracing::trace!(hold, "contact list attributes");
            let mut interfaces = interfaces;
            interfaces.push(names::CONTACT_LIST.to_owned());
            let interfaces = attributes::wanted(&interfaces);
            let attributes = view
                .contacts
                .listed()
                .map(|contact| (contact.handle.0, attributes::of(contact, &interfaces)))
                .collect();
            Ok(Ordered::new(attributes, order))
        })
        .await
    }

    async fn request_subscription(&self, contacts: Vec<u32>, message: String) -> Result<()> {
        answered("RequestSubscription", async move {
            drop(message);
            self.unchangeable(&contacts)
        })
        .await
    }

    async fn authorize_publication(&self, contacts: Vec<u32>) -> Result<()> {
        answered("AuthorizePublication", async move {
            self.unchangeable(&contacts)
        })
        .await
    }

    async fn remove_contacts(&self, contacts: Vec<u32>) -> Result<()> {
        answered(
            "RemoveContacts",
            async move { self.unchangeable(&contacts) },
        )
        .await
    }

    async fn unsubscribe(&self, contacts: Vec<u32>) -> Result<()> {
        answered("Unsubscribe", async move { self.unchangeable(&contacts) }).await
    }

    async fn unpublish(&self, contacts: Vec<u32>) -> Result<()> {
        answered("Unpublish", async move { self.unchangeable(&contacts) }).await
    }

    /// The list is there without being downloaded.
    async fn download(&self) -> Result<()> {
        answered("Download", async { self.view().connected() }).await
    }

    #[zbus(signal)]
    pub(super) async fn contact_list_state_changed(
        emitter: &SignalEmitter<'_>,
        contact_list_state: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal, name = "ContactsChangedWithID")]
    pub(super) async fn contacts_changed_with_id(
        emitter: &SignalEmitter<'_>,
        changes: HashMap<u32, Subscriptions>,
        identifiers: HashMap<u32, String>,
        removals: HashMap<u32, String>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn contacts_changed(
        emitter: &SignalEmitter<'_>,
        changes: HashMap<u32, Subscriptions>,
        removals: Vec<u32>,
    ) -> zbus::Result<()>;
}
