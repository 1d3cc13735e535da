//! `Connection.Interface.ContactGroups`: there are no groups and none can be made. The interface is there
//! because telepathy-qt calls a connection without it broken when a client asks for its groups, as
//! KDE's do.

use std::sync::Arc;

use actors::model::{Error, Result as Outcome};
use zbus::object_server::SignalEmitter;

use super::error::{Result, answered, read};
use crate::connection::{ConnectionHandle, view::ConnectionView};

/// `Contact_Metadata_Storage_Type_None`: the specification's word for link-local XMPP.
const NO_STORAGE: u32 = 0;

/// The interface.
#[derive(Debug)]
pub struct ContactGroups {
    connection: ConnectionHandle,
}

impl ContactGroups {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        ContactGroups { connection }
    }

    fn view(&self) -> Arc<ConnectionView> {
        self.connection.view.get()
    }

    /// Every change is refused, but a wrong handle is said to be wrong.
    fn unchangeable(&self, contacts: &[u32]) -> Outcome<()> {
        self.view().contacts_of(contacts)?;
        Err(Error::NotImplemented(
            "who is on a local network cannot be put into groups".into(),
        ))
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.ContactGroups",
    introspection_docs = false
)]
impl ContactGroups {
    #[zbus(property(emits_changed_signal = "const"))]
    fn disjoint_groups(&self) -> Result<bool> {
        read("DisjointGroups", || false)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn group_storage(&self) -> Result<u32> {
        read("GroupStorage", || NO_STORAGE)
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn groups(&self) -> Result<Vec<String>> {
        read("Groups", Vec::new)
    }

    async fn set_contact_groups(&self, contact: u32, groups: Vec<String>) -> Result<()> {
        answered("SetContactGroups", async move {
            drop(groups);
            self.unchangeable(&[contact])
        })
        .await
    }

    async fn set_group_members(&self, group: String, members: Vec<u32>) -> Result<()> {
        answered("SetGroupMembers", async move {
            drop(group);
            self.unchangeable(&members)
        })
        .await
    }

    async fn add_to_group(&self, group: String, members: Vec<u32>) -> Result<()> {
        answered("AddToGroup", async move {
            drop(group);
            self.unchangeable(&members)
        })
        .await
    }

    async fn remove_from_group(&self, group: String, members: Vec<u32>) -> Result<()> {
        answered("RemoveFromGroup", async move {
            drop(group);
            self.unchangeable(&members)
        })
        .await
    }

    async fn remove_group(&self, group: String) -> Result<()> {
        answered("RemoveGroup", async move {
            drop(group);
            self.unchangeable(&[])
        })
        .await
    }

    async fn rename_group(&self, old_name: String, new_name: String) -> Result<()> {
        answered("RenameGroup", async move {
            drop((old_name, new_name));
            self.unchangeable(&[])
        })
        .await
    }

    // A part of the interface, though what never changes is never told of.

    #[zbus(signal)]
    async fn groups_changed(
        emitter: &SignalEmitter<'_>,
        contact: Vec<u32>,
        added: Vec<String>,
        removed: Vec<String>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn groups_created(emitter: &SignalEmitter<'_>, names: Vec<String>) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn group_renamed(
        emitter: &SignalEmitter<'_>,
        old_name: &str,
        new_name: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn groups_removed(emitter: &SignalEmitter<'_>, names: Vec<String>) -> zbus::Result<()>;
}
