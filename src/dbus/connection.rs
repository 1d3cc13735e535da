//! `Connection`: status, ourselves, and the older methods for handles that clients still call.

use actors::model::{Error, Result as Outcome};
use zbus::{ObjectPath, object_server::SignalEmitter};

use super::{
    error::{Result, answered, read},
    values::{self, Map},
};
use crate::connection::{
    ConnectionHandle,
    message::ConnectionMessage,
    protocol,
    view::{ConnectionView, at_once},
};

/// The interface `Connection`.
#[derive(Debug)]
pub struct Connection {
    connection: ConnectionHandle,
}

impl Connection {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        Connection { connection }
    }

    fn view(&self) -> std::sync::Arc<ConnectionView> {
        self.connection.view.get()
    }

    /// The identifiers of handles that must be contacts'.
    fn identifiers(&self, handle_type: u32, handles: &[u32]) -> Outcome<Vec<String>> {
        let view = self.view();
        view.connected()?;
        if handle_type != protocol::HANDLE_TYPE_CONTACT {
            return Err(Error::InvalidArgument(
                "there are handles of contacts (type 1) only".into(),
            ));
        }
        let contacts = view.contacts_of(handles)?;
        Ok(contacts
            .iter()
            .map(|contact| contact.id.as_ref().to_owned())
            .collect())
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection",
    introspection_docs = false
)]
impl Connection {
    #[zbus(property(emits_changed_signal = "const"))]
    fn interfaces(&self) -> Result<Vec<String>> {
        read("Interfaces", || {
            values::strings(protocol::CONNECTION_INTERFACES)
        })
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn self_handle(&self) -> Result<u32> {
        read("SelfHandle", || {
            self.view().self_handle.map_or(0, |handle| handle.0)
        })
    }

    #[zbus(property(emits_changed_signal = "false"), name = "SelfID")]
    fn self_id(&self) -> Result<String> {
        read("SelfID", || {
            self.view()
                .myself()
                .map(|myself| myself.id.as_ref().to_owned())
                .unwrap_or_default()
        })
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn status(&self) -> Result<u32> {
        read("Status", || self.view().status as u32)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn has_immortal_handles(&self) -> Result<bool> {
        read("HasImmortalHandles", || true)
    }

    async fn connect(&self) -> Result<()> {
        answered("Connect", async {
            self.connection
                .ask(|reply| ConnectionMessage::Connect { reply })
                .await
        })
        .await
    }

    async fn disconnect(&self) -> Result<()> {
        answered("Disconnect", async {
            self.connection.disconnect().await;
            Ok(())
        })
        .await
    }

    #[zbus(out_args("Interfaces"))]
    async fn get_interfaces(&self) -> Result<Vec<String>> {
        answered("GetInterfaces", async {
            Ok(values::strings(protocol::CONNECTION_INTERFACES))
        })
        .await
    }

    #[zbus(out_args("Protocol"))]
    async fn get_protocol(&self) -> Result<String> {
        answered("GetProtocol", async { Ok(protocol::PROTOCOL.to_owned()) }).await
    }

    #[zbus(out_args("Status"))]
    async fn get_status(&self) -> Result<u32> {
        answered("GetStatus", async { Ok(self.view().status as u32) }).await
    }

    #[zbus(out_args("Self_Handle"))]
    async fn get_self_handle(&self) -> Result<u32> {
        answered("GetSelfHandle", async {
            let view = self.view();
            view.connected()?;
            Ok(view.self_handle.map_or(0, |handle| handle.0))
        })
        .await
    }

    /// Handles are immortal, so holding changes nothing; invalid ones are still refused.
    async fn hold_handles(&self, handle_type: u32, handles: Vec<u32>) -> Result<()> {
        answered("HoldHandles", async {
            self.identifiers(handle_type, &handles).map(drop)
        })
        .await
    }

    async fn release_handles(&self, handle_type: u32, handles: Vec<u32>) -> Result<()> {
        answered("ReleaseHandles", async {
            self.identifiers(handle_type, &handles).map(drop)
        })
        .await
    }

    #[zbus(out_args("Identifiers"))]
    async fn inspect_handles(&self, handle_type: u32, handles: Vec<u32>) -> Result<Vec<String>> {
        answered("InspectHandles", async {
            self.identifiers(handle_type, &handles)
        })
        .await
    }

    #[zbus(out_args("Handles"))]
    async fn request_handles(
        &self,
        handle_type: u32,
        identifiers: Vec<String>,
    ) -> Result<Vec<u32>> {
        answered("RequestHandles", async {
            let view = self.view();
            view.connected()?;
            if handle_type != protocol::HANDLE_TYPE_CONTACT {
                return Err(Error::NotImplemented(
                    "there are handles of contacts (type 1) only".into(),
                ));
            }
            at_once(identifiers.len())?;
            identifiers
                .iter()
                .map(|id| view.contacts.by_id(id).map(|contact| contact.handle.0))
                .collect()
        })
        .await
    }

    /// Nothing here costs more when somebody listens, so nobody's interest is counted.
    async fn add_client_interest(&self, tokens: Vec<String>) -> Result<()> {
        answered("AddClientInterest", async move {
            drop(tokens);
            Ok(())
        })
        .await
    }

    async fn remove_client_interest(&self, tokens: Vec<String>) -> Result<()> {
        answered("RemoveClientInterest", async move {
            drop(tokens);
            Ok(())
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn self_handle_changed(
        emitter: &SignalEmitter<'_>,
        self_handle: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn self_contact_changed(
        emitter: &SignalEmitter<'_>,
        self_handle: u32,
        self_id: &str,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn new_channel(
        emitter: &SignalEmitter<'_>,
        object_path: ObjectPath<'_>,
        channel_type: &str,
        handle_type: u32,
        handle: u32,
        suppress_handler: bool,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn connection_error(
        emitter: &SignalEmitter<'_>,
        error: &str,
        details: Map,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn status_changed(
        emitter: &SignalEmitter<'_>,
        status: u32,
        reason: u32,
    ) -> zbus::Result<()>;
}
