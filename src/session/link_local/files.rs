//! Files that are sent to contacts.

use std::sync::Arc;

use actors::{
    model::{Error, FileOffer},
    ports::{AgreedFile, FileSending},
    runtime::{Address, BoxFuture},
};

use super::{
    actor::{Linked, Message},
    handle::Links,
};
use crate::{
    session::{ContactId, bytestreams::Bytestreams, link::Link as _},
    xmpp::ns,
};

/// The size that is too much for Pidgin's Bonjour, which counts in 32 bits with a sign.
const TOO_LARGE_WITHOUT_FEATURES: u64 = 1 << 31;

/// A file that is sent. Outlives the session; then everything fails.
pub(super) struct File {
    pub(super) address: Address<Message>,
    pub(super) bytestreams: Arc<Bytestreams>,
    pub(super) contact: ContactId,
    pub(super) file: FileOffer,
}

impl FileSending for File {
    fn offer(&self) -> BoxFuture<'static, Result<AgreedFile, Error>> {
        let (address, contact) = (self.address.clone(), self.contact.clone());
        let (bytestreams, file) = (self.bytestreams.clone(), self.file.clone());
        Box::pin(async move {
            let mut links = Links::to(&address, &contact);
            loop {
                let linked = links.next().await?;
                capable(&contact, &linked, &file)?;
                if let Some(agreed) = bytestreams.offer_file(linked.link, &file).await? {
                    return Ok(agreed);
                }
            }
        })
    }
}

/// Whether the contact can take this file.
fn capable(contact: &ContactId, linked: &Linked, file: &FileOffer) -> Result<(), Error> {
    let Some(features) = &linked.features else {
        // Nobody who has TLS leaves features unanswered. Pidgin's Bonjour answers nothing and takes files.
        let large = |size| size >= TOO_LARGE_WITHOUT_FEATURES;
        return match linked.link.security() {
            Some(_) => Err(Error::NotCapable(format!(
                "{contact} does not say what it can do"
            ))),
            None if file.size.is_some_and(large) => Err(Error::NotCapable(format!(
                "{contact} takes files below 2 GiB only"
            ))),
            None => Ok(()),
        };
    };
    let has = |feature: &str| features.contains(feature);
    if !has(ns::SI_FILE_TRANSFER) {
        return Err(Error::NotCapable(format!("{contact} cannot take files")));
    }
    let described = !file.service.is_empty() || !file.metadata.is_empty();
    if described && !has(ns::FILE_METADATA) && !has(ns::PNEUMA) {
        return Err(Error::NotCapable(format!(
            "{contact} cannot take what is said of the file beside its name"
        )));
    }
    Ok(())
}
