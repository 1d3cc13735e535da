//! D-Bus tubes that are offered to contacts.

use std::sync::Arc;

use actors::{
    model::{Error, ServiceName, TubeParameters},
    ports::{DBusTubeOffering, Opening},
    runtime::{Address, BoxFuture},
};

use super::{
    actor::Message,
    handle::{Links, takes_tubes},
};
use crate::{
    session::{ContactId, TubeId, bytestreams::Bytestreams},
    xmpp::payload::tube::DBusOffer,
};

/// A D-Bus tube of ours. Outlives the session; then everything fails.
pub(super) struct DBusTube {
    pub(super) address: Address<Message>,
    pub(super) bytestreams: Arc<Bytestreams>,
    pub(super) contact: ContactId,
    pub(super) tube: TubeId,
}

impl DBusTubeOffering for DBusTube {
    fn offer(
        &self,
        service: &ServiceName,
        parameters: &TubeParameters,
    ) -> BoxFuture<'static, Result<Opening, Error>> {
        let (address, contact) = (self.address.clone(), self.contact.clone());
        let bytestreams = self.bytestreams.clone();
        let offer = DBusOffer {
            id: self.tube.0,
            service: service.clone(),
            parameters: parameters.clone(),
        };
        Box::pin(async move {
            let mut links = Links::to(&address, &contact);
            loop {
                let linked = links.next().await?;
                takes_tubes(&contact, &linked)?;
                let offered = bytestreams.offer_dbus_tube(linked.link, offer.clone());
                if let Some(opening) = offered.await? {
                    return Ok(opening);
                }
            }
        })
    }
}
