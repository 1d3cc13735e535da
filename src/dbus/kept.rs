//! `Connection.Interface.Pneuma.Kept1`, our own: tubes that outlive the program that made them, and
//! this service too. Read when somebody wants to know; nothing is signalled.

use actors::model::ContactHandle;
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::{
    error::{Result, answered, read},
    sockets,
    values::{self, Map},
};
use crate::connection::{
    ConnectionHandle,
    kept::{Condition, Kept as KeptTube, KeptHandle, record::Way},
};

/// The interface.
#[derive(Debug)]
pub struct Kept {
    connection: ConnectionHandle,
    keeper: KeptHandle,
}

impl Kept {
    /// Of this connection.
    pub fn new(connection: ConnectionHandle, keeper: KeptHandle) -> Self {
        Kept { connection, keeper }
    }

    /// One tube: `number` (u), `contact` and `service` (s), `offered` (b), `address` (s) as a person reads
    /// it, `channel` (o) where it is there, `waiting` (s), a sentence, where it is not.
    fn shown(&self, kept: &KeptTube) -> Map {
        let mut map = Map::new();
        let mut set = |name: &str, value: Variant<'static>| {
            map.insert(name.to_owned(), value);
        };
        set("number", Variant::new(kept.number));
        set("contact", Variant::new(kept.tube.contact.clone()));
        set(
            "service",
            Variant::new(kept.tube.service.as_str().to_owned()),
        );
        set(
            "offered",
            Variant::new(matches!(kept.tube.way, Way::Offer(_))),
        );
        set("address", Variant::new(kept.tube.way.address().to_string()));
        let view = self.connection.view.get();
        let channel = match &kept.condition {
            Condition::Running(channel) => view.channels.get(channel),
            Condition::Waiting(_) => None,
        };
        match (&kept.condition, channel) {
            (Condition::Waiting(why), _) => set("waiting", Variant::new(why.clone())),
            (_, None) => set("waiting", Variant::new("it has just closed".to_owned())),
            (_, Some(channel)) => {
                if let Ok(path) = values::object_path(&channel.path) {
                    set("channel", Variant::new(path));
                }
            }
        }
        map
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Kept1",
    introspection_docs = false
)]
impl Kept {
    /// All that this connection's profile keeps.
    #[zbus(property(emits_changed_signal = "false"))]
    fn tubes(&self) -> Result<Vec<Map>> {
        read("Tubes", || {
            let kept = self.keeper.of(&self.connection.profile);
            kept.iter().map(|kept| self.shown(kept)).collect()
        })
    }

    /// Offers a local service to a contact, now and again after every end of the tube or the service,
    /// until Close.
    #[zbus(out_args("Number", "Channel"))]
    async fn offer(
        &self,
        contact: u32,
        service: String,
        address_type: u32,
        address: OwnedVariant,
    ) -> Result<(u32, OwnedObjectPath)> {
        answered("Offer", async {
            let kind = sockets::address_type(address_type)?;
            let address = sockets::given_address(kind, &address)?;
            let service = actors::model::ServiceName::new(service)?;
            let contact = ContactHandle(contact);
            let (number, channel) = self
                .keeper
                .offer(&self.connection, contact, service, address)
                .await?;
            Ok((number, values::object_path(&channel.path)?))
        })
        .await
    }

    /// Accepts what a contact offers as this channel, at a local address, and the same service of the
    /// same contact at the same address again and again, until Close. Port 0 is one of the kernel's
    /// choice.
    #[zbus(out_args("Number", "Address"))]
    async fn accept(
        &self,
        channel: OwnedObjectPath,
        address_type: u32,
        address: OwnedVariant,
    ) -> Result<(u32, Variant<'static>)> {
        answered("Accept", async {
            let kind = sockets::address_type(address_type)?;
            let address = sockets::given_address(kind, &address)?;
            let (number, address) = self
                .keeper
                .accept(&self.connection, channel.as_str(), &address)
                .await?;
            Ok((number, sockets::address(&address)))
        })
        .await
    }

    /// Closes a kept tube for good.
    async fn close(&self, number: u32) -> Result<()> {
        answered("Close", async {
            self.keeper.close(&self.connection, number).await
        })
        .await
    }
}
