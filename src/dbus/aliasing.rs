//! `Connection.Interface.Aliasing`: contacts name themselves; we name only ourselves.

use std::collections::{BTreeMap, HashMap};

use zbus::object_server::SignalEmitter;

use super::{
    error::{Result, answered},
    held::Ordered,
};
use crate::connection::{ConnectionHandle, message::ConnectionMessage};

/// The interface.
#[derive(Debug)]
pub struct Aliasing {
    connection: ConnectionHandle,
}

impl Aliasing {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        Aliasing { connection }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Aliasing",
    introspection_docs = false
)]
impl Aliasing {
    /// None: the flag that exists says that others' aliases can be set.
    #[zbus(out_args("Alias_Flags"))]
    async fn get_alias_flags(&self) -> Result<u32> {
        answered("GetAliasFlags", async {
            self.connection.view.get().connected()?;
            Ok(0)
        })
        .await
    }

    #[zbus(out_args("Aliases"))]
    async fn request_aliases(&self, contacts: Vec<u32>) -> Result<Vec<String>> {
        answered("RequestAliases", async move {
            let contacts = self.connection.view.get().contacts_of(&contacts)?;
            Ok(contacts
                .iter()
                .map(|contact| contact.alias.clone())
                .collect())
        })
        .await
    }

    #[zbus(out_args("Aliases"))]
    async fn get_aliases(&self, contacts: Vec<u32>) -> Result<Ordered<HashMap<u32, String>>> {
        answered("GetAliases", async move {
            let order = self.connection.order().read_arc().await;
            let contacts = self.connection.view.get().contacts_of(&contacts)?;
            let aliases = contacts
                .iter()
                .map(|contact| (contact.handle.0, contact.alias.clone()))
                .collect();
            Ok(Ordered::new(aliases, order))
        })
        .await
    }

    async fn set_aliases(&self, aliases: HashMap<u32, String>) -> Result<()> {
        answered("SetAliases", async move {
            self.connection.view.get().connected()?;
            let aliases: BTreeMap<u32, String> = aliases.into_iter().collect();
            self.connection
                .ask(|reply| ConnectionMessage::SetAliases { aliases, reply })
                .await?
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn aliases_changed(
        emitter: &SignalEmitter<'_>,
        aliases: Vec<(u32, String)>,
    ) -> zbus::Result<()>;
}
