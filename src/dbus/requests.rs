//! `Connection.Interface.Requests`: asking for channels, and hearing of them.

use actors::model::Result as Outcome;
use zbus::{ObjectPath, OwnedObjectPath, object_server::SignalEmitter};

use super::{
    channel::immutable_properties,
    error::{Result, answered, read},
    held::Announced,
    values::{self, Class, Map, ReceivedMap},
};
use crate::connection::{
    ConnectionHandle, message::CreatedChannel, protocol, requests::ChannelRequest,
};

/// The interface.
#[derive(Debug)]
pub struct Requests {
    connection: ConnectionHandle,
}

impl Requests {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle) -> Self {
        Requests { connection }
    }

    async fn request(&self, request: &ReceivedMap, ensure: bool) -> Outcome<CreatedChannel> {
        let request = ChannelRequest::new(&values::given_map(request))?;
        self.connection.request(request, ensure).await
    }
}

/// The last part of an answer.
fn last(created: CreatedChannel) -> Announced<Map> {
    let properties = immutable_properties(&created.details.description);
    Announced::new(properties, created.sent)
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Requests",
    introspection_docs = false
)]
impl Requests {
    #[zbus(property(emits_changed_signal = "false"))]
    fn channels(&self) -> Result<Vec<(OwnedObjectPath, Map)>> {
        read("Channels", || {
            let view = self.connection.view.get();
            view.channels
                .values()
                .filter_map(|channel| {
                    let path = values::object_path(&channel.path).ok()?;
                    Some((path, immutable_properties(&channel.description)))
                })
                .collect()
        })
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn requestable_channel_classes(&self) -> Result<Vec<Class>> {
        read("RequestableChannelClasses", || {
            protocol::requestable_channel_classes()
                .iter()
                .map(values::class)
                .collect()
        })
    }

    #[zbus(out_args("Channel", "Properties"))]
    async fn create_channel(
        &self,
        request: ReceivedMap,
    ) -> Result<(OwnedObjectPath, Announced<Map>)> {
        answered("CreateChannel", async move {
            let created = self.request(&request, false).await?;
            let path = values::object_path(&created.details.path)?;
            Ok((path, last(created)))
        })
        .await
    }

    #[zbus(out_args("Yours", "Channel", "Properties"))]
    async fn ensure_channel(
        &self,
        request: ReceivedMap,
    ) -> Result<(bool, OwnedObjectPath, Announced<Map>)> {
        answered("EnsureChannel", async move {
            let created = self.request(&request, true).await?;
            let path = values::object_path(&created.details.path)?;
            Ok((created.yours, path, last(created)))
        })
        .await
    }

    #[zbus(signal)]
    pub(super) async fn new_channels(
        emitter: &SignalEmitter<'_>,
        channels: Vec<(ObjectPath<'_>, Map)>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn channel_closed(
        emitter: &SignalEmitter<'_>,
        removed: ObjectPath<'_>,
    ) -> zbus::Result<()>;
}
