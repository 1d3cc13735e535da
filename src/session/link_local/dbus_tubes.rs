//! D-Bus tubes that are offered to contacts.

use std::sync::Arc;

use actors::{
    model::{Error, ServiceName, TubeParameters},
    ports::{DBusTubeOffering, Opening},
    runtime::{Address, BoxFuture},
};

use super::{
    actor::Message,
    handle::{ATTEMPTS, link, takes_tubes},
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
            let mut attempts = 0;
            let mut gone = None;
            loop {
                attempts += 1;
                let linked = link(&address, &contact, gone.take()).await?;
                takes_tubes(&contact, &linked)?;
                let offered = bytestreams.offer_dbus_tube(linked.link.clone(), offer.clone());
                match offered.await? {
                    Some(opening) => return Ok(opening),
                    None if attempts < ATTEMPTS => gone = Some(linked.link),
                    None => {
                        return Err(Error::Offline(format!(
                            "{contact} cannot be kept on the line"
                        )));
                    }
                }
            }
        })
    }
}
