//! Files by stream initiation (XEP-0096): what is special about their offers and the answers to them.

use std::sync::Arc;

use actors::{
    model::{Error, FileOffer, Resume},
    ports::{AgreedFile, FileStream, IncomingFile},
    runtime::{BoxFuture, Reply},
};

use super::{Bytestreams, Incoming, Purpose, SiOffer, open::NotAgreed};
use crate::{
    session::link::{Link, StanzaError},
    xmpp::{
        Condition, ns,
        payload::file::{Agreement, FORM_TYPE, MAX_SIZE, Offer},
    },
};

impl Bytestreams {
    /// Offers a file to the link's peer and waits for a person's answer. Nothing when the XML stream
    /// ended before the peer saw the offer.
    ///
    /// # Errors
    /// As [`FileSending::offer`](actors::ports::FileSending::offer), `InvalidArgument` for a file that
    /// cannot be described on the wire, `ResourceUnavailable` at [`Config::max_offers`](super::Config).
    pub async fn offer_file(
        self: &Arc<Self>,
        link: Arc<dyn Link>,
        file: &FileOffer,
    ) -> Result<Option<AgreedFile>, Error> {
        file.check()?;
        let ours = link.security().is_some_and(|security| security.pneuma);
        if file.metadata.contains_key(FORM_TYPE) {
            return Err(Error::InvalidArgument(format!(
                "a file's metadata cannot have the name {FORM_TYPE}"
            )));
        }
        match file.size {
            Some(size) if size > MAX_SIZE => {
                return Err(Error::InvalidArgument("no file is that large".into()));
            }
            None if !ours => {
                return Err(Error::NotCapable(
                    "the contact takes only files whose size is known".into(),
                ));
            }
            _ => {}
        }
        let offer = Offer {
            file: file.clone(),
            ranges: true,
            ours,
        };
        let purpose = Purpose {
            profile: ns::SI_FILE_TRANSFER,
            mime_type: Some(file.content_type.clone()),
            elements: offer.to_elements(),
        };
        // Nothing is told of a file before its answer.
        let (written, _) = Reply::new();
        let agreed = match self.offer(link, written, |_| purpose).await {
            Ok(agreed) => agreed,
            Err(NotAgreed::Unseen) => return Ok(None),
            Err(NotAgreed::Failed(error)) => return Err(error),
        };
        let wanted = Agreement::parse(agreed.extra())
            .map_err(|error| Error::ConnectionFailed(format!("the contact's answer: {error}")))?;
        check_range(&wanted, file.size).map_err(Error::ConnectionFailed)?;
        let framed = agreed.is_secured() && wanted.ours;
        let from = Resume {
            stored: wanted.from.stored.filter(|_| framed),
            ..wanted.from
        };
        let end = agreed.end();
        Ok(Some(AgreedFile {
            from,
            withdrawn: Box::pin(async move { end.stopped().await }),
            opening: Box::pin(async move {
                let bytestream = agreed.open().await?;
                Ok(FileStream { bytestream, framed })
            }),
        }))
    }
}

/// Whether a file of this size can be sent so.
fn check_range(wanted: &Agreement, size: Option<u64>) -> Result<(), String> {
    let rest = size.map(|size| size.checked_sub(wanted.from.offset));
    match (rest, wanted.length) {
        (Some(None), _) => Err("the contact wants a part that the file does not have".into()),
        (Some(Some(rest)), Some(length)) if length == rest => Ok(()),
        (_, Some(_)) => Err("the contact wants a part from the file's middle".into()),
        (_, None) => Ok(()),
    }
}

impl SiOffer {
    /// The file that is offered; one that cannot be understood is answered here.
    pub fn file(self) -> Option<(FileOffer, Box<dyn IncomingFile>)> {
        let offer = match Offer::parse(self.mime_type.as_deref(), &self.elements) {
            Ok(offer) => offer,
            Err(error) => {
                self.incoming
                    .answer(StanzaError::with_text(Condition::BadRequest, error.0));
                return None;
            }
        };
        let framed = offer.ours && self.incoming.is_secured();
        let mut file = offer.file;
        // Anybody could say it, and have another one's file gone on with.
        file.id = file.id.filter(|_| framed);
        if file.size.is_none() && !framed {
            self.incoming.answer(StanzaError::with_text(
                Condition::NotAcceptable,
                "the size has to be known",
            ));
            return None;
        }
        let incoming = File {
            incoming: *self.incoming,
            ranges: offer.ranges,
            framed,
            size: file.size,
        };
        Some((file, Box::new(incoming)))
    }
}

/// A peer's offer. Dropping it declines it.
struct File {
    incoming: Incoming,
    ranges: bool,
    framed: bool,
    size: Option<u64>,
}

impl IncomingFile for File {
    fn has_ranges(&self) -> bool {
        self.ranges
    }

    fn accept(self: Box<Self>, from: Resume) -> BoxFuture<'static, Result<FileStream, Error>> {
        let File {
            incoming,
            ranges,
            framed,
            size,
        } = *self;
        let beyond = size.is_some_and(|size| from.offset > size) || from.offset > MAX_SIZE;
        if beyond || (from.offset > 0 && !ranges) {
            return Box::pin(async {
                Err(Error::InvalidArgument(
                    "the contact cannot begin there".into(),
                ))
            });
        }
        let wanted = Agreement {
            from: Resume {
                stored: from.stored.filter(|_| framed),
                ..from
            },
            length: None,
            ours: framed,
        };
        let agreed = incoming.agree(wanted.to_elements(), framed);
        Box::pin(async move {
            let bytestream = agreed.await?;
            Ok(FileStream { bytestream, framed })
        })
    }

    fn decline(self: Box<Self>, why: Error) {
        self.incoming.decline(&why);
    }

    fn withdrawn(&self) -> BoxFuture<'static, ()> {
        self.incoming.withdrawn()
    }
}
