//! D-Bus tubes by stream initiation, as Gabble offers them: one bytestream is the whole tube.

use std::sync::Arc;

use actors::{
    model::Error,
    ports::{IncomingDBusTube, Opening},
    runtime::{BoxFuture, Reply},
};
use futures_lite::FutureExt as _;

use super::{Bytestreams, Incoming, Purpose, SiOffer, open::NotAgreed};
use crate::{
    session::link::{Link, StanzaError},
    xmpp::{
        Condition, ns,
        payload::tube::{self, DBusOffer},
    },
};

impl Bytestreams {
    /// Offers a D-Bus tube to the link's peer. Completes when the offer has been written; what it gives waits
    /// for a person's answer and for the bytestream, and begins to do so when it is polled. Nothing when the
    /// XML stream ended before the peer saw the offer.
    ///
    /// # Errors
    /// As [`DBusTubeOffering::offer`](actors::ports::DBusTubeOffering::offer), `InvalidArgument` for
    /// parameters that are too large for the wire, `ResourceUnavailable` at
    /// [`Config::max_offers`](super::Config).
    pub async fn offer_dbus_tube(
        self: &Arc<Self>,
        link: Arc<dyn Link>,
        offer: DBusOffer,
    ) -> Result<Option<Opening>, Error> {
        let (written, told) = Reply::new();
        let this = self.clone();
        let mut agreeing = Box::pin(async move {
            let us = link.us().to_owned();
            let purpose = |sid: &str| Purpose {
                profile: ns::TUBES,
                mime_type: None,
                elements: vec![offer.to_element(sid, &us)],
            };
            this.offer(link, written, purpose).await
        });
        let on_its_way = async {
            if told.wait().await.is_err() {
                // It is not written; the answer says why.
                std::future::pending::<()>().await;
            }
            None
        };
        // Whoever answers has seen it, whatever is told first.
        let answered = async { Some((&mut agreeing).await) };
        match answered.or(on_its_way).await {
            Some(Ok(agreed)) => Ok(Some(agreed.open())),
            Some(Err(NotAgreed::Unseen)) => Ok(None),
            Some(Err(NotAgreed::Failed(error))) => Err(error),
            None => Ok(Some(Box::pin(async move {
                agreeing.await.map_err(Error::from)?.open().await
            }))),
        }
    }
}

impl SiOffer {
    /// The D-Bus tube that is offered; one that cannot be understood is answered here.
    pub fn dbus_tube(self) -> Option<(DBusOffer, Box<dyn IncomingDBusTube>)> {
        let offer = self.elements.iter().find(|element| DBusOffer::is(element));
        match offer.map(DBusOffer::parse) {
            Some(Ok(offer)) => Some((offer, Box::new(DBusTube(*self.incoming)))),
            malformed => {
                let why = malformed.and_then(Result::err);
                let text = why.map_or("no D-Bus tube", |error| error.0);
                self.incoming
                    .answer(StanzaError::with_text(Condition::BadRequest, text));
                None
            }
        }
    }
}

/// A peer's offer. Dropping it declines it.
struct DBusTube(Incoming);

impl IncomingDBusTube for DBusTube {
    fn accept(self: Box<Self>) -> Opening {
        // No person has to do anything before the peer goes on.
        self.0.agree(vec![tube::agreed()], false)
    }

    fn withdrawn(&self) -> BoxFuture<'static, ()> {
        self.0.withdrawn()
    }
}
