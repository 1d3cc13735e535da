//! `Channel.Type.StreamTube`.

use std::collections::HashMap;

use actors::{
    model::{AccessControl, AddressType, Result as Outcome},
    ports::StreamTubeObject,
};
use zbus::{OwnedVariant, Variant, object_server::SignalEmitter};

use super::{
    error::{Result, answered, read},
    sockets,
    values::{self, ReceivedMap},
};
use crate::connection::ConnectionHandle;

/// The interface.
#[derive(Debug)]
pub struct StreamTube {
    object: StreamTubeObject,
    connection: ConnectionHandle,
}

impl StreamTube {
    /// Of this channel.
    pub fn new(object: StreamTubeObject, connection: ConnectionHandle) -> Self {
        StreamTube { object, connection }
    }

    /// The combination, if `SupportedSocketTypes` has it.
    fn supported(
        &self,
        address_type: u32,
        access_control: u32,
    ) -> Outcome<(AddressType, AccessControl)> {
        sockets::supported(
            &self.object.description.sockets,
            address_type,
            access_control,
        )
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Channel.Type.StreamTube",
    introspection_docs = false
)]
impl StreamTube {
    #[zbus(property(emits_changed_signal = "const"))]
    fn service(&self) -> Result<String> {
        read("Service", || {
            self.object.description.service.as_str().to_owned()
        })
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn supported_socket_types(&self) -> Result<HashMap<u32, Vec<u32>>> {
        read("SupportedSocketTypes", || {
            sockets::socket_types(&self.object.description.sockets)
        })
    }

    async fn offer(
        &self,
        address_type: u32,
        address: OwnedVariant,
        access_control: u32,
        parameters: ReceivedMap,
    ) -> Result<()> {
        answered("Offer", async {
            let (kind, access) = self.supported(address_type, access_control)?;
            let address = sockets::given_address(kind, &address)?;
            let parameters = values::given_tube_parameters(&parameters)?;
            self.connection
                .offer(&self.object, address, access, parameters)
                .await
        })
        .await
    }

    #[zbus(out_args("address"))]
    async fn accept(
        &self,
        address_type: u32,
        access_control: u32,
        access_control_param: OwnedVariant,
    ) -> Result<Variant<'static>> {
        answered("Accept", async {
            let (kind, access) = self.supported(address_type, access_control)?;
            let rule = sockets::access_rule(kind, access, &access_control_param)?;
            let address = self.connection.accept(&self.object, kind, rule).await?;
            Ok(sockets::address(&address))
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn new_remote_connection(
        emitter: &SignalEmitter<'_>,
        handle: u32,
        connection_param: Variant<'_>,
        connection_id: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn new_local_connection(
        emitter: &SignalEmitter<'_>,
        connection_id: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn connection_closed(
        emitter: &SignalEmitter<'_>,
        connection_id: u32,
        error: &str,
        message: &str,
    ) -> zbus::Result<()>;
}
