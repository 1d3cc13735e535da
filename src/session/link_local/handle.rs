//! The session as the floors above see it: a mailbox's address behind the traits.

use std::{collections::BTreeSet, sync::Arc};

use actors::{
    model::{BytestreamId, Error, FileOffer, ServiceName, TubeParameters},
    ports::{Bytestream, BytestreamConnector, DBusTubeOffering, FileSending, TubeSignalling},
    runtime::{Address, BoxFuture, Clock, Reply, Snapshot, Stopper},
};
use futures_lite::FutureExt as _;
use minidom::Element;

use super::{
    actor::{Linked, Message},
    dbus_tubes::DBusTube,
    discovery::{Discovery, Method},
    files::File,
    stream::StreamLink,
};
use crate::{
    session::{
        ContactId, PeerId, Presence, Session, TubeId, TubePorts,
        bytestreams::Bytestreams,
        link::{Link as _, RequestError},
        trust::{KeyId, Policy, Scope, Terms},
    },
    xmpp::{ns, payload::tube},
};

/// How many streams are tried, each after the one before turned out to be gone.
const ATTEMPTS: u32 = 3;
/// How long the closing of a tube may take to be told.
const CLOSE: std::time::Duration = std::time::Duration::from_secs(5);

/// A link-local account; see [`super::start`].
pub(super) struct LocalSession {
    pub(super) address: Address<Message>,
    pub(super) key: KeyId,
    pub(super) policy: Snapshot<Policy>,
    pub(super) bytestreams: Arc<Bytestreams>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) discovery: Arc<dyn Discovery>,
    /// Ends the session when the last handle is dropped.
    pub(super) _stopper: Stopper,
}

impl LocalSession {
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(Reply<Result<T, Error>>) -> Message + Send + 'static,
    ) -> BoxFuture<'static, Result<T, Error>> {
        let address = self.address.clone();
        Box::pin(async move { address.ask(question).await? })
    }
}

impl Session for LocalSession {
    fn responder(&self) -> Option<&'static str> {
        self.discovery.responder().map(Method::name)
    }

    fn connect(&self) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(Message::Connect)
    }

    fn disconnect(&self) -> BoxFuture<'static, ()> {
        let address = self.address.clone();
        Box::pin(async move {
            // An actor that is gone is offline.
            address.ask_first(Message::Disconnect).await.unwrap_or(());
        })
    }

    fn set_presence(&self, presence: Presence) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(|reply| Message::SetPresence(presence, reply))
    }

    fn set_alias(&self, alias: String) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(|reply| Message::SetAlias(alias, reply))
    }

    fn set_features(&self, features: BTreeSet<String>) -> BoxFuture<'static, ()> {
        let address = self.address.clone();
        Box::pin(async move {
            // An actor that is gone announces nothing.
            address
                .ask(|reply| Message::SetFeatures(features, reply))
                .await
                .unwrap_or(());
        })
    }

    fn tube(&self, peer: &PeerId, tube: TubeId) -> TubePorts {
        let ports = Arc::new(Tube {
            address: self.address.clone(),
            bytestreams: self.bytestreams.clone(),
            clock: self.clock.clone(),
            contact: peer.contact.clone(),
            tube,
        });
        TubePorts {
            connector: ports.clone(),
            signalling: ports,
        }
    }

    fn file(&self, peer: &PeerId, file: FileOffer) -> Arc<dyn FileSending> {
        Arc::new(File {
            address: self.address.clone(),
            bytestreams: self.bytestreams.clone(),
            contact: peer.contact.clone(),
            file,
        })
    }

    fn dbus_tube(&self, peer: &PeerId, tube: TubeId) -> Arc<dyn DBusTubeOffering> {
        Arc::new(DBusTube {
            address: self.address.clone(),
            bytestreams: self.bytestreams.clone(),
            contact: peer.contact.clone(),
            tube,
        })
    }

    fn self_key(&self) -> KeyId {
        self.key
    }

    fn pin(
        &self,
        contact: &ContactId,
        expected: Option<KeyId>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let contact = contact.clone();
        self.ask(move |reply| Message::Pin {
            contact,
            expected,
            reply,
        })
    }

    fn verify(
        &self,
        contact: &ContactId,
        code: &str,
        replace: bool,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let (contact, code) = (contact.clone(), code.to_owned());
        self.ask(move |reply| Message::Verify {
            contact,
            code,
            replace,
            reply,
        })
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.get()
    }

    fn set_rule(
        &self,
        scope: Scope,
        terms: Option<Terms>,
    ) -> BoxFuture<'static, Result<(), Error>> {
        self.ask(move |reply| Message::SetRule(scope, terms, reply))
    }

    fn forget(&self, contact: &ContactId) -> BoxFuture<'static, Result<(), Error>> {
        let contact = contact.clone();
        self.ask(|reply| Message::Forget(contact, reply))
    }
}

/// What one tube needs of the session. Outlives it; then everything fails.
struct Tube {
    address: Address<Message>,
    bytestreams: Arc<Bytestreams>,
    clock: Arc<dyn Clock>,
    contact: ContactId,
    tube: TubeId,
}

/// Links to a contact: another if the one before has ended meanwhile.
pub(super) struct Links<'a> {
    address: &'a Address<Message>,
    contact: &'a ContactId,
    gone: Option<Arc<StreamLink>>,
    left: u32,
}

impl<'a> Links<'a> {
    pub(super) fn to(address: &'a Address<Message>, contact: &'a ContactId) -> Self {
        Links {
            address,
            contact,
            gone: None,
            left: ATTEMPTS,
        }
    }

    /// Whether it is worth while to ask for another.
    fn are_left(&self) -> bool {
        self.left > 0
    }

    /// The first, or another than the one before.
    pub(super) async fn next(&mut self) -> Result<Linked, Error> {
        let contact = self.contact.clone();
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            let why = format!("{contact} cannot be kept on the line");
            Error::Offline(why)
        })?;
        let gone = self.gone.take();
        let asked = self.address.ask(|reply| Message::Link {
            contact,
            gone,
            reply,
        });
        let linked = asked.await??;
        self.gone = Some(linked.link.clone());
        Ok(linked)
    }
}

/// Whether the contact can take tubes. Others that know them expect the form of Salut, whose connections
/// anybody gets into.
pub(super) fn takes_tubes(contact: &ContactId, linked: &Linked) -> Result<(), Error> {
    let features = linked.features.as_ref();
    if features.is_some_and(|f| f.contains(ns::PNEUMA) && f.contains(ns::TUBES)) {
        Ok(())
    } else {
        Err(Error::NotCapable(format!("{contact} cannot take tubes")))
    }
}

/// Sends a message; over another stream if the first one ends meanwhile.
async fn send(
    address: &Address<Message>,
    contact: &ContactId,
    payload: Element,
    check: impl Fn(&Linked) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut links = Links::to(address, contact);
    loop {
        let linked = links.next().await?;
        check(&linked)?;
        match linked.link.message(vec![payload.clone()]).await {
            Ok(()) => return Ok(()),
            Err(RequestError::Gone) if links.are_left() => {}
            Err(error @ RequestError::Refused { .. }) => {
                return Err(Error::InvalidArgument(error.to_string()));
            }
            Err(error) => return Err(Error::ConnectionFailed(error.to_string())),
        }
    }
}

impl TubeSignalling for Tube {
    fn offer(
        &self,
        service: &ServiceName,
        parameters: &TubeParameters,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let offer = tube::Offer {
            id: self.tube.0,
            service: service.clone(),
            parameters: parameters.clone(),
        };
        let (address, contact) = (self.address.clone(), self.contact.clone());
        Box::pin(async move {
            let check = |linked: &Linked| takes_tubes(&contact, linked);
            send(&address, &contact, offer.to_element(), check).await
        })
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let (address, contact) = (self.address.clone(), self.contact.clone());
        let (payload, late) = (tube::close(self.tube.0), self.clock.sleep(CLOSE));
        Box::pin(async move {
            let sent = send(&address, &contact, payload, |_| Ok(()));
            let late = async {
                late.await;
                Err(Error::ConnectionFailed("it took too long".into()))
            };
            if let Err(error) = sent.or(late).await {
                tracing::debug!(%contact, %error, "the contact was not told that the tube is closed");
            }
        })
    }
}

impl BytestreamConnector for Tube {
    fn connect(&self, id: BytestreamId) -> BoxFuture<'static, Result<Bytestream, Error>> {
        let (address, contact) = (self.address.clone(), self.contact.clone());
        let (bytestreams, tube) = (self.bytestreams.clone(), self.tube.0);
        Box::pin(async move {
            let mut links = Links::to(&address, &contact);
            loop {
                let link = links.next().await?.link;
                let purpose = tube::stream(tube);
                match bytestreams.open(link, id, ns::TUBES, purpose).await {
                    // The stream ended before anything came of it.
                    Err(Error::Offline(_)) if links.are_left() => {}
                    outcome => return outcome,
                }
            }
        })
    }
}
