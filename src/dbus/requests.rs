//! `Connection.Interface.Requests`: asking for channels, and hearing of them.

use actors::model::{Error, Result as Outcome};
use zbus::{
    ObjectPath, ObjectServer, OwnedObjectPath, message::Header, object_server::SignalEmitter,
};

use super::{
    channel::immutable_properties,
    claim::Claim,
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

    /// A new channel, which is the caller's from the beginning if it asks for that.
    async fn create(
        &self,
        request: &ReceivedMap,
        header: &Header<'_>,
        server: &ObjectServer,
    ) -> Outcome<CreatedChannel> {
        let request = ChannelRequest::new(&values::given_map(request))?;
        let claimed = request.claimed;
        let created = self.connection.request(request, false).await?;
        if claimed {
            // It may be gone again already, which whoever asked for it will see.
            if let Ok(claim) = server.interface::<_, Claim>(&*created.details.path).await {
                claim.get().await.hold_or_close(header).await?;
            }
        }
        Ok(created)
    }

    async fn ensure(&self, request: &ReceivedMap) -> Outcome<CreatedChannel> {
        let request = ChannelRequest::new(&values::given_map(request))?;
        if request.claimed {
            return Err(Error::NotImplemented(
                "only a channel that is created can be claimed by its request".into(),
            ));
        }
        self.connection.request(request, true).await
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
        #[zbus(header)] header: Header<'_>,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> Result<(OwnedObjectPath, Announced<Map>)> {
        answered("CreateChannel", async move {
            let created = self.create(&request, &header, server).await?;
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
            let created = self.ensure(&request).await?;
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
