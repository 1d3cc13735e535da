//! One kept tube: makes it, notices its end, makes it again.
//!
//! ```text
//!                  ┌────────── the account is offline, the contact away, not trusted, denied, …
//!                  v                                                                  │
//!   Waiting ── the very contact is there ──> (offers, or takes the contact's offer) ──┤
//!                  ^                                     │ done                       │ error: a pause
//!                  └── the tube has closed: a pause ── Running                        │
//!                  └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! "The very contact" is one that our user has pinned with the key that the tube was kept for, and whom
//! no rule denies the service: nothing is opened that would only be closed. Dropping the task closes what it holds. An accepted tube's address is bound for as long as the tube is kept;
//! who connects while there is nothing behind it waits in the kernel's queue.

use std::{sync::Arc, time::Duration};

use actors::{
    bridge::Bridge,
    model::{
        AccessControl, AccessRule, AddressType, ChannelId, ContactHandle, Error, FileTransferState,
        Result, ServiceName, SocketAddress, TubeParameters, TubeState,
    },
    ports::{ChannelObject, StreamTubeDescription, StreamTubeObject},
    runtime::{Address, Clock, Exit, Snapshot, Spawner, Stopper},
    stream_tube::StreamTubeMessage,
};
use futures_lite::FutureExt as _;

use super::{
    Condition, Kept, Message,
    record::{KeptTube, Way},
};
use crate::connection::{
    ConnectionHandle,
    message::{ConnectionMessage, can_be_offered},
    policy,
    requests::{ChannelRequest, Target, Wanted},
    view::{ConnectionView, Status},
};

/// Before a tube is made again: after one that was used, and the first time after one that was not.
const PAUSE: Duration = Duration::from_secs(1);
/// How much longer the next time, so that a contact that turns an offer down is not bothered.
const GROWTH: u32 = 4;
/// And never longer.
const LONGEST: Duration = Duration::from_secs(300);
/// The longest where nobody is bothered: between two attempts to listen at an address that is taken.
const LONGEST_FOR_ADDRESS: Duration = Duration::from_secs(30);
/// Before a connection that is not needed any more is ended: whoever closed its last tube is answered,
/// and the tube has closed.
const LINGER: Duration = Duration::from_secs(5);
/// How long a contact that our user has just dealt with may take to be shown as pinned.
const PINNING: Duration = Duration::from_secs(5);

/// An open channel that closes when nobody holds it any more.
pub(super) struct Held {
    object: StreamTubeObject,
    spawner: Spawner,
}

impl Drop for Held {
    fn drop(&mut self) {
        let address = self.object.address.clone();
        self.spawner
            .spawn("closing of a kept tube", async move {
                // One that has closed already needs no closing.
                address
                    .ask_first(|reply| StreamTubeMessage::Close { reply })
                    .await
                    .ok();
            })
            .detach();
    }
}

impl Held {
    pub(super) fn id(&self) -> ChannelId {
        self.object.id
    }
}

/// A kept tube that is there already.
pub(super) enum Begun {
    Offered(Held),
    /// With the socket behind the bridge.
    Accepted(Held, Bridge, SocketAddress),
}

/// Requests a tube to a contact and offers a service through it.
pub(super) async fn offer(
    connection: &ConnectionHandle,
    spawner: &Spawner,
    contact: ContactHandle,
    service: &ServiceName,
    address: &SocketAddress,
) -> Result<Held> {
    let request = ChannelRequest {
        target: Target::Handle(contact),
        wanted: Wanted::StreamTube(service.clone()),
        claimed: false,
    };
    let created = connection.request(request, false).await?;
    // What waits for the answer to be sent may be told at once: nobody else gets one.
    let id = created.details.id;
    drop(created);
    let held = hold(connection, spawner, id).await?;
    connection
        .offer(
            &held.object,
            address.clone(),
            AccessControl::Localhost,
            TubeParameters::default(),
        )
        .await?;
    Ok(held)
}

/// Takes a tube that the contact offers; gives the socket that is the tube's own.
pub(super) async fn accept(
    connection: &ConnectionHandle,
    spawner: &Spawner,
    channel: ChannelId,
) -> Result<(Held, SocketAddress)> {
    let held = hold(connection, spawner, channel).await?;
    let target = connection
        .accept(&held.object, AddressType::Unix, AccessRule::Localhost)
        .await?;
    Ok((held, target))
}

async fn hold(
    connection: &ConnectionHandle,
    spawner: &Spawner,
    channel: ChannelId,
) -> Result<Held> {
    let object = object(connection, channel)
        .await?
        .and_then(|object| object.stream_tube().cloned())
        .ok_or_else(|| Error::NotAvailable("the tube is closed".into()))?;
    Ok(Held {
        object,
        spawner: spawner.clone(),
    })
}

/// The channel's object, if it is still there.
async fn object(
    connection: &ConnectionHandle,
    channel: ChannelId,
) -> Result<Option<ChannelObject>> {
    connection
        .ask(|reply| ConnectionMessage::Channel { channel, reply })
        .await
}

/// Whether somebody has a channel that a contact offered, or a file that is still to go.
fn is_used(object: &ChannelObject) -> bool {
    match object {
        ChannelObject::StreamTube(tube) => tube.view.get().state == TubeState::Open,
        ChannelObject::DBusTube(tube) => tube.view.get().state == TubeState::Open,
        ChannelObject::FileTransfer(transfer) => match transfer.view.get().state {
            FileTransferState::Pending => transfer.description.parties.requested,
            FileTransferState::Accepted | FileTransferState::Open => true,
            FileTransferState::Completed | FileTransferState::Cancelled => false,
        },
    }
}

/// Whether a connection has channels that somebody else made, or has taken.
pub(in crate::connection) async fn used_by_others(
    connection: &ConnectionHandle,
    kept: &[Kept],
) -> bool {
    let view = connection.view.get();
    for channel in view.channels.values() {
        let tube = channel.stream_tube();
        let same = |one: &Kept, description: &StreamTubeDescription| match &one.condition {
            Condition::Running(id) => *id == channel.id,
            // It may be there already, and we are about to hear of it.
            Condition::Waiting(_) => {
                matches!(one.tube.way, Way::Offer(_)) == description.parties.requested
                    && one.tube.service == description.service
                    && one.tube.contact == description.parties.target_id
            }
        };
        if let Some(description) = tube {
            if kept.iter().any(|one| same(one, description)) {
                continue;
            }
            if description.parties.requested {
                return true;
            }
        }
        // Without an answer it is gone.
        if let Ok(Some(object)) = object(connection, channel.id).await
            && is_used(&object)
        {
            return true;
        }
    }
    false
}

/// Waits until nobody but us has a tube of a connection, but for the time that a tube takes to close.
pub(super) async fn idle(connection: &ConnectionHandle, clock: &dyn Clock) {
    let unused = async {
        loop {
            clock.sleep(LINGER).await;
            let before = connection.view.get().channels.clone();
            if !used_by_others(connection, &[]).await {
                return;
            }
            connection.view.wait_for(|now| now.channels != before).await;
        }
    };
    unused.or(connection.gone()).await;
}

/// Who a contact is, once our user's dealing with it has pinned its key.
///
/// # Errors
/// `NotAvailable` for one without a key: nobody could tell later whether it is the same.
pub(super) async fn pinned(
    connection: &ConnectionHandle,
    clock: &dyn Clock,
    contact: ContactHandle,
) -> Result<(String, crate::session::trust::KeyId)> {
    let of = |view: &ConnectionView| {
        let contact = view.contacts.get(contact).ok()?;
        let key = contact.key.filter(|_| contact.is_pinned())?;
        Some((contact.id.as_ref().to_owned(), key))
    };
    let shown = connection.view.wait_for(|view| of(view).is_some());
    let view = actors::runtime::within(clock, PINNING, shown).await;
    view.and_then(|view| of(&view)).ok_or_else(|| {
        Error::NotAvailable(
            "a tube is kept only with a contact whose key is known, and this one shows none".into(),
        )
    })
}

/// What a tube waits for that has closed.
fn closed(pause: &Duration) -> Condition {
    Condition::Waiting(format!(
        "it was closed; it is made again in {} s, if the contact is there",
        pause.as_secs()
    ))
}

/// Where the contact of a kept tube is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    There(ContactHandle),
    Offline,
    Away,
    Untrusted,
    Denied,
    Incapable,
}

/// See the module's head.
pub(super) struct Tending {
    pub(super) spawner: Spawner,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) keeper: Address<Message>,
    pub(super) connection: Snapshot<Option<ConnectionHandle>>,
    pub(super) profile: String,
    pub(super) number: u32,
    pub(super) tube: KeptTube,
}

impl Tending {
    pub(super) async fn run(self, begun: Option<Begun>) {
        match (self.tube.way.clone(), begun) {
            (Way::Offer(address), Some(Begun::Offered(held))) => {
                self.offering(&address, Some(held)).await;
            }
            (Way::Offer(address), _) => self.offering(&address, None).await,
            (Way::Accept(address), Some(Begun::Accepted(held, bridge, target))) => {
                self.accepting(&address, Some((held, bridge, target))).await;
            }
            (Way::Accept(address), _) => self.accepting(&address, None).await,
        }
    }

    async fn offering(&self, address: &SocketAddress, mut begun: Option<Held>) {
        let mut pause = PAUSE;
        loop {
            let held = match begun.take() {
                Some(held) => held,
                None => {
                    let (connection, contact) = self.meet().await;
                    let service = &self.tube.service;
                    match offer(&connection, &self.spawner, contact, service, address).await {
                        Ok(held) => held,
                        Err(error) => {
                            self.fails(&error, &mut pause).await;
                            continue;
                        }
                    }
                }
            };
            self.say(Condition::Running(held.id())).await;
            let turned_down = self.ended(held.id()).await;
            if held.object.view.get().state == TubeState::Open {
                pause = PAUSE;
            }
            drop(held);
            if !turned_down {
                // Our connection ended: that is no reason to come more seldom.
                continue;
            }
            self.say(closed(&pause)).await;
            self.rest(&mut pause).await;
        }
    }

    async fn accepting(
        &self,
        address: &SocketAddress,
        begun: Option<(Held, Bridge, SocketAddress)>,
    ) {
        // Relays end with their connections, or with us; not with the listener, which may be ahead.
        let (_stopper, stop) = Stopper::new();
        let mut pause = PAUSE;
        let (mut begun, bridge) = match begun {
            Some((held, bridge, target)) => (Some((held, target)), bridge),
            None => (None, self.bound(address).await),
        };
        loop {
            let (held, target) = match begun.take() {
                Some(begun) => begun,
                None => match self.taken().await {
                    Ok(taken) => taken,
                    Err(error) => {
                        self.fails(&error, &mut pause).await;
                        continue;
                    }
                },
            };
            self.say(Condition::Running(held.id())).await;
            let serving = bridge.run(&self.spawner, &self.clock, &target, &stop);
            let ended = async {
                self.ended(held.id()).await;
                Exit::Finished
            };
            if let Exit::Failed(failure) = ended.or(serving).await {
                let error = Error::Confused(format!("its socket {failure}"));
                self.fails(&error, &mut pause).await;
            } else {
                pause = PAUSE;
                self.say(closed(&Duration::ZERO)).await;
            }
        }
    }

    /// The address of an accepted tube, once it is free.
    async fn bound(&self, address: &SocketAddress) -> Bridge {
        let mut pause = PAUSE;
        loop {
            match Bridge::bind(address, self.tube.any_local_user) {
                Ok(bridge) => return bridge,
                Err(error) => self.fails(&error, &mut pause).await,
            }
            pause = pause.min(LONGEST_FOR_ADDRESS);
        }
    }

    /// The tube that the contact offers, once it does, taken.
    async fn taken(&self) -> Result<(Held, SocketAddress)> {
        loop {
            let (connection, contact) = self.meet().await;
            self.say(Condition::Waiting(format!(
                "{} is there and does not offer it",
                self.tube.contact
            )))
            .await;
            let mut passed = std::collections::BTreeSet::new();
            loop {
                let offered = |view: &ConnectionView| {
                    let mut channels = view.channels.values();
                    let found = channels.find(|channel| {
                        let Some(description) = channel.stream_tube() else {
                            return false;
                        };
                        !description.parties.requested
                            && description.parties.target == contact
                            && description.service == self.tube.service
                            && !passed.contains(&channel.id)
                    });
                    found.map(|channel| channel.id)
                };
                let gone =
                    |view: &ConnectionView| self.look(&connection, view) != Look::There(contact);
                let changed = async {
                    let changed = connection
                        .view
                        .wait_for(|view| offered(view).is_some() || gone(view));
                    Some(changed.await)
                };
                let ended = async {
                    connection.gone().await;
                    None
                };
                let Some(view) = changed.or(ended).await else {
                    break;
                };
                let Some(channel) = offered(&view) else {
                    break;
                };
                // One that somebody else has taken, or that has closed again, is not for us.
                let held = object(&connection, channel).await?;
                let free = |object: &ChannelObject| {
                    let tube = object.stream_tube();
                    tube.is_some_and(|tube| tube.view.get().state == TubeState::LocalPending)
                };
                if held.as_ref().is_some_and(free) {
                    return accept(&connection, &self.spawner, channel).await;
                }
                passed.insert(channel);
            }
        }
    }

    /// Waits until the account is online and the very contact is there.
    async fn meet(&self) -> (ConnectionHandle, ContactHandle) {
        loop {
            let mut last = None;
            let online = self.connection.get();
            if online
                .as_ref()
                .as_ref()
                .is_none_or(|one| one.address.is_gone())
            {
                self.say(Condition::Waiting("the account is offline".into()))
                    .await;
            }
            let connection = self
                .connection
                .wait_for(|one| one.as_ref().is_some_and(|one| !one.address.is_gone()))
                .await;
            let Some(connection) = connection.as_ref().clone() else {
                continue;
            };
            loop {
                let changed = async {
                    let view = connection
                        .view
                        .wait_for(|view| Some(self.look(&connection, view)) != last);
                    Some(self.look(&connection, &*view.await))
                };
                let ended = async {
                    connection.gone().await;
                    None
                };
                match ended.or(changed).await {
                    Some(Look::There(contact)) => return (connection, contact),
                    Some(look) => {
                        last = Some(look);
                        self.say(Condition::Waiting(self.sentence(look))).await;
                    }
                    None => break,
                }
            }
        }
    }

    /// Whoever waits for another look waits for another view: rules that change are told to the
    /// connection, which publishes its view anew.
    fn look(&self, connection: &ConnectionHandle, view: &ConnectionView) -> Look {
        if view.status != Status::Connected {
            return Look::Offline;
        }
        let Ok(contact) = view.contacts.by_id(&self.tube.contact) else {
            return Look::Away;
        };
        if contact.key.is_some_and(|key| key != self.tube.key) || !contact.is_pinned() {
            return if contact.key.is_none() && !contact.listed {
                Look::Away
            } else {
                Look::Untrusted
            };
        }
        if policy::permitted(
            &connection.policy(),
            contact,
            &self.tube.service.of_stream(),
        )
        .is_err()
        {
            return Look::Denied;
        }
        let wanted = Wanted::StreamTube(self.tube.service.clone());
        match can_be_offered(contact, &wanted) {
            Ok(()) => Look::There(contact.handle),
            Err(Error::Offline(_)) => Look::Away,
            Err(_) => Look::Incapable,
        }
    }

    fn sentence(&self, look: Look) -> String {
        let contact = &self.tube.contact;
        match look {
            Look::There(_) => format!("{contact} is there"),
            Look::Offline => "the account is offline".into(),
            Look::Away => format!("{contact} is not on the network"),
            Look::Untrusted => {
                format!("{contact} is not the contact you trusted when you made it")
            }
            Look::Denied => {
                let service = &self.tube.service;
                format!("your policy denies {contact} the service {service}")
            }
            Look::Incapable => format!("{contact} cannot take tubes now"),
        }
    }

    /// Waits until a channel of the connection is closed. False when that is because the connection
    /// ends.
    async fn ended(&self, channel: ChannelId) -> bool {
        let connection = self.connection.get();
        let Some(connection) = connection.as_ref() else {
            return false;
        };
        let closed = async {
            connection
                .view
                .wait_for(|view| {
                    view.status == Status::Disconnected || !view.channels.contains_key(&channel)
                })
                .await;
        };
        closed.or(connection.gone()).await;
        connection.view.get().status == Status::Connected && !connection.address.is_gone()
    }

    async fn fails(&self, error: &Error, pause: &mut Duration) {
        tracing::info!(profile = self.profile, number = self.number, %error, "a kept tube has to wait");
        self.say(Condition::Waiting(error.to_string())).await;
        self.rest(pause).await;
    }

    async fn rest(&self, pause: &mut Duration) {
        self.clock.sleep(*pause).await;
        *pause = (*pause * GROWTH).min(LONGEST);
    }

    async fn say(&self, condition: Condition) {
        let message = Message::Condition {
            profile: self.profile.clone(),
            number: self.number,
            condition,
        };
        // A keeper that is gone drops us.
        self.keeper.tell(message).await.ok();
    }
}
