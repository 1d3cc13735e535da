//! What a connection is told and asked, and the handle through which `dbus/` does so.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use actors::{
    dbus_tube::DBusTubeMessage,
    file_transfer::FileTransferMessage,
    model::{
        AccessControl, AccessRule, AddressType, ChannelId, ContactHandle, Error, FileTransferState,
        OwnerId, Result, Resume, ServiceName, SocketAddress, TubeParameters, TubeState,
    },
    ports::{ChannelObject, DBusTubeObject, FileTransferObject, Parties, StreamTubeObject},
    runtime::{Address, Reply, Snapshot},
    stream_tube::StreamTubeMessage,
    supervisor::LocalSockets,
};

use async_channel::Receiver;
use smol::lock::RwLock;

use super::{
    capabilities::ClientCapabilities,
    contacts::Contact,
    parameters::Account,
    policy,
    requests::{ChannelRequest, Kind, Target, Wanted},
    view::{ChannelDetails, ConnectionView},
};
use crate::session::{
    Presence, Session, Trust,
    trust::{ComparisonCode, KeyId, ParseKeyIdError},
};

/// The answer to a request for a channel.
pub struct CreatedChannel {
    /// The channel.
    pub details: Arc<ChannelDetails>,
    /// `Yours`: it was made for this request.
    pub yours: bool,
    /// Dropped once the answer has been sent: NewChannels waits for it. `None` for a channel that
    /// was announced before.
    pub sent: Option<Reply<()>>,
}

/// What a connection is told and asked.
pub enum ConnectionMessage {
    /// `Connection.Connect`
    Connect {
        /// Done at once; StatusChanged tells what comes of it.
        reply: Reply<()>,
    },
    /// `Connection.Disconnect`
    Disconnect {
        /// Done once everything is gone.
        reply: Reply<()>,
    },
    /// `SimplePresence.SetPresence`
    SetPresence {
        /// The presence; not Offline.
        presence: Presence,
        /// Done once the session has it.
        reply: Reply<Result<()>>,
    },
    /// `Aliasing.SetAliases`
    SetAliases {
        /// By handle; only our own may be among them.
        aliases: BTreeMap<u32, String>,
        /// Done once the session has it.
        reply: Reply<Result<()>>,
    },
    /// `ContactCapabilities.UpdateCapabilities`
    UpdateCapabilities {
        /// What these clients can do now.
        clients: Vec<ClientCapabilities>,
        /// Done once the session has it.
        reply: Reply<Result<()>>,
    },
    /// `Requests.CreateChannel` and `EnsureChannel`
    RequestChannel {
        /// What is wanted.
        request: ChannelRequest,
        /// EnsureChannel: one that is there will do.
        ensure: bool,
        /// The channel.
        reply: Reply<Result<CreatedChannel>>,
    },
    /// Our own handle: the session has stored other rules.
    PolicyChanged {
        /// Done once they are in force.
        reply: Reply<()>,
    },
    /// The channel's object, if it is open.
    Channel {
        /// Which.
        channel: ChannelId,
        /// Nothing where there is none any more.
        reply: Reply<Option<ChannelObject>>,
    },
    /// The tree: a channel's object is gone.
    ChannelClosed(ChannelId),
    /// Our own chore: the supervisor has answered.
    Opened {
        /// Which opening.
        ticket: u64,
        /// What it answered.
        outcome: Result<ChannelObject>,
    },
    /// Our own chore: the session has done what it was asked.
    ChoreDone(Result<()>),
}

/// Talks to one connection. Cheap to clone; holding one keeps nothing alive but the last view.
#[derive(Clone)]
pub struct ConnectionHandle {
    /// Which.
    pub id: OwnerId,
    /// Its bus name.
    pub bus_name: Arc<str>,
    /// Its object path.
    pub path: Arc<str>,
    /// The profile it has the key and the contacts of.
    pub profile: Arc<str>,
    /// The account.
    pub account: Arc<Account>,
    /// Where its questions go.
    pub address: Address<ConnectionMessage>,
    /// Where its properties are read.
    pub view: Snapshot<ConnectionView>,
    /// See [`ConnectionHandle::order`].
    pub(super) order: Arc<RwLock<()>>,
    pub(super) session: Arc<dyn Session>,
    /// Nothing is sent: closed once nothing of the connection is left.
    pub(super) gone: Receiver<Infallible>,
    pub(super) sockets: Arc<dyn LocalSockets>,
    /// Somebody asked for its end.
    pub(super) asked_to_end: Arc<AtomicBool>,
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("id", &self.id)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl ConnectionHandle {
    /// Asks the connection.
    ///
    /// # Errors
    /// `Disconnected` when it is gone.
    pub async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> ConnectionMessage) -> Result<T> {
        self.address
            .ask(question)
            .await
            .map_err(|_| Error::Disconnected("the connection is closed".into()))
    }

    /// Keeps answers and signals in order. Whoever reads the view to answer with it holds this for
    /// reading from before it looks until its answer is sent; whoever emits a signal holds it for
    /// writing. So no answer with the old state follows the signal that tells of the new one.
    pub fn order(&self) -> &Arc<RwLock<()>> {
        &self.order
    }

    /// Disconnects and waits until all is gone. Nothing to do is fine.
    pub async fn disconnect(&self) {
        self.asked_to_end.store(true, Ordering::Relaxed);
        // A connection that is gone is disconnected.
        self.address
            .ask_first(|reply| ConnectionMessage::Disconnect { reply })
            .await
            .ok();
        // One whose end has begun already answers nobody new, and is not gone yet.
        self.gone().await;
    }

    /// Waits until nothing of it is left.
    pub async fn gone(&self) {
        // Nothing is ever sent.
        self.gone.recv().await.ok();
    }

    /// Whether somebody wanted its end, rather than it failing.
    pub fn was_asked_to_end(&self) -> bool {
        self.asked_to_end.load(Ordering::Relaxed)
    }

    /// `StreamTube.Offer`: our user deals with the contact, so its key is pinned; then the tube is
    /// asked.
    ///
    /// # Errors
    /// `InvalidArgument` for an address nobody can listen on and `PermissionDenied` by our user's
    /// rules, before anybody is pinned for it;
    /// what the session says of the contact (`NotCapable`, `Offline`, `CertFingerprintMismatch`,
    /// `EncryptionNotAvailable`), and what the tube answers.
    pub async fn offer(
        &self,
        channel: &StreamTubeObject,
        address: SocketAddress,
        access: AccessControl,
        parameters: TubeParameters,
    ) -> Result<()> {
        self.sockets.check(&address, access)?;
        if channel.view.get().state == TubeState::NotOffered {
            let description = &channel.description;
            let contact = self.capable(
                &Target::Handle(description.parties.target),
                &Wanted::StreamTube(description.service.clone()),
            )?;
            self.permitted(&Kind::StreamTube.ruled(&description.service), &contact)?;
            self.session.pin(&contact.contact_id(), None).await?;
        }
        channel
            .address
            .ask(|reply| StreamTubeMessage::Offer {
                address,
                access,
                parameters,
                reply,
            })
            .await?
    }

    /// `StreamTube.Accept`, in the same way.
    ///
    /// # Errors
    /// As for an offer.
    pub async fn accept(
        &self,
        channel: &StreamTubeObject,
        address_type: AddressType,
        access: AccessRule,
    ) -> Result<SocketAddress> {
        if channel.view.get().state == TubeState::LocalPending {
            let service = Kind::StreamTube.ruled(&channel.description.service);
            self.deal_with(&channel.description.parties, &service)
                .await?;
        }
        channel
            .address
            .ask(|reply| StreamTubeMessage::Accept {
                address_type,
                access,
                reply,
            })
            .await?
    }

    /// `DBusTube.Offer`, in the same way; gives the address where the application connects.
    ///
    /// # Errors
    /// As for a stream tube, but for the address.
    pub async fn offer_dbus(
        &self,
        channel: &DBusTubeObject,
        access: AccessControl,
        parameters: TubeParameters,
    ) -> Result<String> {
        if channel.view.get().state == TubeState::NotOffered {
            let description = &channel.description;
            let contact = self.capable(
                &Target::Handle(description.parties.target),
                &Wanted::DBusTube(description.service.clone()),
            )?;
            self.permitted(&Kind::DBusTube.ruled(&description.service), &contact)?;
            self.session.pin(&contact.contact_id(), None).await?;
        }
        channel
            .address
            .ask(|reply| DBusTubeMessage::Offer {
                parameters,
                access,
                reply,
            })
            .await?
    }

    /// `DBusTube.Accept`, in the same way.
    ///
    /// # Errors
    /// As for an offer.
    pub async fn accept_dbus(
        &self,
        channel: &DBusTubeObject,
        access: AccessControl,
    ) -> Result<String> {
        if channel.view.get().state == TubeState::LocalPending {
            let service = Kind::DBusTube.ruled(&channel.description.service);
            self.deal_with(&channel.description.parties, &service)
                .await?;
        }
        channel
            .address
            .ask(|reply| DBusTubeMessage::Accept { access, reply })
            .await?
    }

    /// Our user takes up what a contact offers: its key is pinned, if the rules let it.
    async fn deal_with(&self, parties: &Parties, service: &ServiceName) -> Result<()> {
        let view = self.view.get();
        let contact = view.contacts.get(parties.target)?;
        self.permitted(service, contact)?;
        self.session.pin(&contact.contact_id(), None).await
    }

    /// CreateChannel and EnsureChannel. A file is offered as soon as its channel is there, so this is
    /// where our user deals with the contact, whose key is pinned.
    ///
    /// # Errors
    /// What the session says of the contact, as for an offer; what the connection answers.
    pub async fn request(&self, request: ChannelRequest, ensure: bool) -> Result<CreatedChannel> {
        if let Wanted::File(_) = request.wanted
            && !ensure
        {
            let contact = self.capable(&request.target, &request.wanted)?;
            self.permitted(&ServiceName::of_files(), &contact)?;
            self.session.pin(&contact.contact_id(), None).await?;
        }
        self.ask(|reply| ConnectionMessage::RequestChannel {
            request,
            ensure,
            reply,
        })
        .await?
    }

    /// `FileTransfer.ProvideFile`, and `Transfer1.ProvideFrom` where `from` says where the application
    /// begins. The contact is pinned since the channel was requested.
    ///
    /// # Errors
    /// `NotAvailable` for a file that comes from the contact, and what the transfer answers.
    pub async fn provide_file(
        &self,
        channel: &FileTransferObject,
        address_type: AddressType,
        access: AccessRule,
        from: Option<u64>,
    ) -> Result<SocketAddress> {
        if !channel.description.parties.requested {
            return Err(Error::NotAvailable(
                "this file comes from the contact: accept it".into(),
            ));
        }
        channel
            .address
            .ask(|reply| FileTransferMessage::Provide {
                address_type,
                access,
                from,
                reply,
            })
            .await?
    }

    /// `FileTransfer.AcceptFile` and `Transfer1.AcceptFrom`: our user deals with the contact, so its key
    /// is pinned; then the transfer is asked. `stores`: the application says what it stores.
    ///
    /// # Errors
    /// `NotAvailable` for a file that we send, `InvalidArgument` for an offset beyond its end,
    /// `PermissionDenied` by our user's rules, before anybody is pinned for it; what the session says of
    /// the contact, as for an offer, and what the transfer answers.
    pub async fn accept_file(
        &self,
        channel: &FileTransferObject,
        address_type: AddressType,
        access: AccessRule,
        from: Resume,
        stores: bool,
    ) -> Result<SocketAddress> {
        let description = &channel.description;
        if description.parties.requested {
            return Err(Error::NotAvailable(
                "this file goes to the contact: provide it".into(),
            ));
        }
        if let Some(size) = description.file.size
            && from.offset > size
        {
            return Err(Error::InvalidArgument(format!(
                "the file has {size} bytes and cannot begin at {}",
                from.offset
            )));
        }
        if channel.view.get().state == FileTransferState::Pending {
            self.deal_with(&description.parties, &ServiceName::of_files())
                .await?;
        }
        channel
            .address
            .ask(|reply| FileTransferMessage::Accept {
                address_type,
                access,
                from,
                stores,
                reply,
            })
            .await?
    }

    /// Whether our user's rules have this service with this contact.
    fn permitted(&self, service: &ServiceName, contact: &Contact) -> Result<()> {
        policy::permitted(&self.session.policy(), contact, service)
    }

    /// A contact that this can be offered to.
    fn capable(&self, target: &Target, wanted: &Wanted) -> Result<Arc<Contact>> {
        let view = self.view.get();
        view.connected()?;
        let contact = view.contacts.named(target)?;
        can_be_offered(contact, wanted)?;
        Ok(contact.clone())
    }

    /// Whether our user has dealt with a contact, which is then never spoken to without encryption.
    pub fn is_pinned(&self, contact: ContactHandle) -> bool {
        let view = self.view.get();
        view.contacts
            .get(contact)
            .is_ok_and(|contact| contact.is_pinned())
    }

    /// `Trust1.OwnFingerprint`
    pub fn own_fingerprint(&self) -> String {
        self.session.self_key().to_string()
    }

    /// `Discovery1.Responder`
    pub fn responder(&self) -> &'static str {
        self.session.responder().unwrap_or_default()
    }

    /// `Trust1.GetComparisonCode`
    ///
    /// # Errors
    /// `NotAvailable` for a contact without a key, `Disconnected`, `InvalidHandle`.
    pub fn comparison_code(&self, contact: u32) -> Result<String> {
        let view = self.view.get();
        view.connected()?;
        let contact = view.contacts.get(ContactHandle(contact))?;
        let key = contact.key.ok_or_else(|| {
            Error::NotAvailable(format!("{} has shown no key to compare", contact.id))
        })?;
        Ok(ComparisonCode::of(self.session.self_key(), key).to_string())
    }

    /// `Trust1.Verify`
    ///
    /// # Errors
    /// What [`Session::verify`] answers, `Disconnected`, `InvalidHandle`.
    pub async fn verify(&self, contact: u32, code: &str, replace: bool) -> Result<()> {
        let contact = self.contact(contact)?;
        self.session
            .verify(&contact.contact_id(), code, replace)
            .await?;
        // The rules for a key that was replaced are the new one's.
        self.policy_changed().await
    }

    /// `Trust1.Pin`: our user means the key that was shown, and no other.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no fingerprint, what [`Session::pin`] answers, `Disconnected`,
    /// `InvalidHandle`.
    pub async fn pin(&self, contact: u32, fingerprint: &str) -> Result<()> {
        let key: KeyId = fingerprint
            .parse()
            .map_err(|error: ParseKeyIdError| Error::InvalidArgument(error.to_string()))?;
        let contact = self.contact(contact)?;
        self.session.pin(&contact.contact_id(), Some(key)).await
    }

    /// `Trust1.Forget`
    ///
    /// # Errors
    /// What [`Session::forget`] answers, `Disconnected`, `InvalidHandle`.
    pub async fn forget(&self, contact: u32) -> Result<()> {
        let contact = self.contact(contact)?;
        self.session.forget(&contact.contact_id()).await?;
        self.policy_changed().await
    }

    fn contact(&self, handle: u32) -> Result<Arc<Contact>> {
        let view = self.view.get();
        view.connected()?;
        view.contacts.get(ContactHandle(handle)).cloned()
    }
}

/// Whether this can be offered to a contact now.
///
/// # Errors
/// `CertFingerprintMismatch` for a blocked contact, `Offline`, `NotCapable` for one that cannot
/// or has not yet said what it can.
pub fn can_be_offered(contact: &Contact, wanted: &Wanted) -> Result<()> {
    if let Trust::Blocked { pinned } = &contact.trust {
        let shown = contact
            .key
            .map_or_else(|| "none".to_owned(), |key| key.to_string());
        return Err(Error::CertFingerprintMismatch(format!(
            "{} shows the key {shown}, but {pinned} is the one you know",
            contact.id
        )));
    }
    if contact.presence.show == crate::session::Show::Offline {
        return Err(Error::Offline(format!(
            "{} is not on the network",
            contact.id
        )));
    }
    let Some(capabilities) = &contact.capabilities else {
        return Err(Error::NotCapable(format!(
            "{} has not said yet what it can do",
            contact.id
        )));
    };
    let cannot = match wanted {
        Wanted::StreamTube(_) | Wanted::DBusTube(_) if !capabilities.tubes => "cannot take tubes",
        Wanted::File(_) if !capabilities.files => "does not take files now",
        Wanted::File(request) if request.file.size.is_none() && !capabilities.pneuma => {
            "cannot take a file whose size nobody knows"
        }
        Wanted::StreamTube(_) | Wanted::DBusTube(_) | Wanted::File(_) => return Ok(()),
    };
    Err(Error::NotCapable(format!(
        "the program {} uses {cannot}",
        contact.id
    )))
}
