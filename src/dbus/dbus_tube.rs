//! `Channel.Type.DBusTube`.

use std::collections::HashMap;

use actors::{
    model::{AccessControl, Result as Outcome},
    ports::DBusTubeObject,
};
use zbus::object_server::SignalEmitter;

use super::{
    error::{Result, answered, read},
    sockets,
    values::{self, ReceivedMap},
};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct DBusTube {
    object: DBusTubeObject,
    connection: ConnectionHandle,
}

impl DBusTube {
    /// Of this channel.
    pub fn new(object: DBusTubeObject, connection: ConnectionHandle) -> Self {
        DBusTube { object, connection }
    }

    /// The access control, if `SupportedAccessControls` has it.
    fn supported(&self, access_control: u32) -> Outcome<AccessControl> {
        sockets::supported_access(&self.object.description.accesses, access_control)
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Type.DBusTube",
    introspection_docs = false
)]
impl DBusTube {
    #[zbus(property(emits_changed_signal = "const"))]
    fn service_name(&self) -> Result<String> {
        read("ServiceName", || {
            self.object.description.service.as_str().to_owned()
        })
    }

    /// Bus names of a room's members. Always empty: Pneuma has no rooms.
    #[zbus(property(emits_changed_signal = "false"), name = "DBusNames")]
    fn dbus_names(&self) -> Result<HashMap<u32, String>> {
        read("DBusNames", HashMap::new)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn supported_access_controls(&self) -> Result<Vec<u32>> {
        read("SupportedAccessControls", || {
            sockets::access_controls(&self.object.description.accesses)
        })
    }

    #[zbus(out_args("address"))]
    async fn offer(&self, parameters: ReceivedMap, access_control: u32) -> Result<String> {
        answered("Offer", async {
            let access = self.supported(access_control)?;
            let parameters = values::given_tube_parameters(&parameters)?;
            self.connection
                .offer_dbus(&self.object, access, parameters)
                .await
        })
        .await
    }

    #[zbus(out_args("address"))]
    async fn accept(&self, access_control: u32) -> Result<String> {
        answered("Accept", async {
            let access = self.supported(access_control)?;
            self.connection.accept_dbus(&self.object, access).await
        })
        .await
    }

    /// Never emitted: see `DBusNames`.
    #[zbus(signal, name = "DBusNamesChanged")]
    async fn dbus_names_changed(
        emitter: &SignalEmitter<'_>,
        added: HashMap<u32, String>,
        removed: Vec<u32>,
    ) -> zbus::Result<()>;
}
