//! `ConnectionManager.Interface.Pneuma.Connections1`, our own: which connections there are. On a bus
//! their names tell; a client without a bus has nobody else to ask.

use zbus::OwnedObjectPath;

use super::{
    error::{Result, read},
    tree::Tree,
    values,
};

/// The interface.
#[derive(Debug)]
pub struct Connections {
    tree: Tree,
}

impl Connections {
    /// Of those in this tree.
    pub fn new(tree: Tree) -> Self {
        Connections { tree }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.ConnectionManager.Interface.Pneuma.Connections1",
    introspection_docs = false
)]
impl Connections {
    /// Their bus names and object paths. `ConnectionManager.NewConnection` tells of new ones.
    #[zbus(property(emits_changed_signal = "false"))]
    fn connections(&self) -> Result<Vec<(String, OwnedObjectPath)>> {
        read("Connections", || {
            self.tree
                .connections()
                .iter()
                .filter_map(|connection| {
                    let path = values::object_path(&connection.path).ok()?;
                    Some((connection.bus_name.as_ref().to_owned(), path))
                })
                .collect()
        })
    }
}
