//! Our own Handler: the one object that a client shows on the bus. Mission Control reads what it
//! waits for and hands it channels.
//!
//! ```text
//!  registered ──HandleChannels, it fits──► holding one tube ──the program asks for another──┐
//!      ▲  └───HandleChannels, it does not fit: NotAvailable, and Mission Control tries      │
//!      │      the next Handler                                                              │
//!      └────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! While it holds a tube it takes no other, so that a second offer goes to a program that waits for it. Of
//! files it takes one after the other, up to [`MOST_FILES`] that nobody has looked at yet.
//! Anybody on the user's own bus may call it; what fits is all they can have it take.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use async_channel::{Receiver, Sender};
use zbus::{DBusError, ObjectPath, OwnedObjectPath, OwnedVariant, Variant};

use super::ManagedAccount;
use crate::{
    client::{
        bus::path,
        connection::bus_name,
        error::{Error, Kind, Result},
        transfer::{Transfer, TransferDescription, transfer_from_properties},
        tube::{Tube, TubeDescription, TubeKind, tube_from_properties},
    },
    names,
};

/// Most files that wait for the program to look at them; Mission Control closes further ones.
const MOST_FILES: usize = 64;
/// `User_Action_Time` of what the user did not do just now.
const NOT_NOW: i64 = 0;

/// The channels that another Handler has taken, and those that are still ours, with an error each.
type Delegated = (
    Vec<OwnedObjectPath>,
    HashMap<OwnedObjectPath, (String, String)>,
);

/// The channels a Handler is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// One that we asked for, rather than one that the contact offers.
    pub requested: bool,
    /// The contact's id; nothing is anybody.
    pub contact: Option<String>,
    /// What kind.
    pub what: What,
}

/// A kind of channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Tubes of this kind for this service.
    Tube(TubeKind, String),
    /// Files.
    Files,
}

impl Wish {
    /// A tube that the contact offers.
    pub fn offered(contact: &str, kind: TubeKind, service: &str) -> Self {
        Wish {
            requested: false,
            contact: Some(contact.to_owned()),
            what: What::Tube(kind, service.to_owned()),
        }
    }

    /// The files that anybody sends, or this contact.
    pub fn files(contact: Option<&str>) -> Self {
        Wish {
            requested: false,
            contact: contact.map(str::to_owned),
            what: What::Files,
        }
    }

    /// `HandlerChannelFilter`: what Mission Control hands over, and what the service announces to
    /// contacts. For a tube that we asked for it is empty: Mission Control brings that anyhow.
    pub fn filter(&self) -> Vec<HashMap<String, Variant<'static>>> {
        if self.requested {
            return Vec::new();
        }
        let property = |name: &str| format!("{}.{name}", names::CHANNEL);
        let mut filter: HashMap<String, Variant<'static>> = HashMap::from([
            (property("TargetHandleType"), 1u32.into()),
            (property("Requested"), false.into()),
        ]);
        if let Some(contact) = &self.contact {
            filter.insert(property("TargetID"), contact.clone().into());
        }
        let channel_type = match &self.what {
            What::Tube(kind, service) => {
                filter.insert(kind.service_property(), service.clone().into());
                kind.channel_type()
            }
            What::Files => names::FILE_TRANSFER,
        };
        filter.insert(property("ChannelType"), channel_type.into());
        vec![filter]
    }

    /// Whether this is such a tube.
    pub fn fits(&self, tube: &TubeDescription) -> bool {
        tube.requested == self.requested
            && self.is_of(&tube.contact_id)
            && self.what == What::Tube(tube.kind, tube.service.clone())
    }

    /// Whether this is such a transfer.
    pub fn fits_transfer(&self, transfer: &TransferDescription) -> bool {
        transfer.requested == self.requested
            && self.is_of(&transfer.contact_id)
            && self.what == What::Files
    }

    fn is_of(&self, contact: &str) -> bool {
        self.contact
            .as_deref()
            .is_none_or(|wanted| wanted == contact)
    }
}

/// A channel that was handed over.
#[derive(Clone, Debug)]
pub enum Handed {
    /// A tube.
    Tube(Tube),
    /// A file transfer.
    Transfer(Transfer),
}

/// What a Handler answers when it does not take a channel.
#[derive(Debug, DBusError, PartialEq, Eq)]
#[zbus(prefix = "org.freedesktop.Telepathy.Error")]
enum Refusal {
    NotAvailable(String),
}

/// What the object on the bus and its owner share.
#[derive(Debug)]
struct Desk {
    /// The account whose channels are taken.
    account: OwnedObjectPath,
    wish: Wish,
    /// Whether the next one that fits is taken.
    wanted: AtomicBool,
    /// Taken, and not collected yet: one at most, but for files.
    taken: Sender<Taken>,
    /// All that were taken.
    handled: Mutex<HashSet<OwnedObjectPath>>,
}

/// A channel, and the object path of its connection.
type Taken = (String, Seen);

#[derive(Debug)]
enum Seen {
    Tube(TubeDescription),
    Transfer(TransferDescription),
}

impl Desk {
    fn new(account: OwnedObjectPath, wish: Wish) -> (Self, Receiver<Taken>) {
        let most = match wish.what {
            What::Tube(..) => 1,
            What::Files => MOST_FILES,
        };
        let (taken, tubes) = async_channel::bounded(most);
        let desk = Desk {
            account,
            wish,
            wanted: AtomicBool::new(true),
            taken,
            handled: Mutex::default(),
        };
        (desk, tubes)
    }

    /// What is in it is whole whatever panicked: it is only ever inserted into.
    fn handled(&self) -> MutexGuard<'_, HashSet<OwnedObjectPath>> {
        self.handled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what Mission Control hands over, or not.
    fn take(
        &self,
        account: &str,
        connection: &str,
        channels: Vec<(OwnedObjectPath, HashMap<String, OwnedVariant>)>,
    ) -> std::result::Result<(), Refusal> {
        let refused = |why: &str| Err(Refusal::NotAvailable(why.to_owned()));
        // Mission Control never hands over several at a time.
        let Ok([(path, properties)]) = <[_; 1]>::try_from(channels) else {
            return refused("this program takes one channel at a time");
        };
        if account != self.account.as_str() {
            return refused("this program uses another account");
        }
        if self.handled().contains(&path) {
            // It is to be shown to the user again; it has no window.
            return Ok(());
        }
        let Some(seen) = self.seen(path.clone(), &properties) else {
            return refused("this program waits for another channel");
        };
        let one_by_one = matches!(seen, Seen::Tube(_)) || self.wish.requested;
        if one_by_one && !self.wanted.swap(false, Ordering::AcqRel)
            || self.taken.try_send((connection.to_owned(), seen)).is_err()
        {
            return refused("this program has the channel that it waited for");
        }
        self.handled().insert(path);
        Ok(())
    }

    /// The channel, if it is one that we wait for.
    fn seen(
        &self,
        path: OwnedObjectPath,
        properties: &HashMap<String, OwnedVariant>,
    ) -> Option<Seen> {
        match self.wish.what {
            What::Tube(..) => tube_from_properties(path, properties)
                .filter(|tube| self.wish.fits(tube))
                .map(Seen::Tube),
            What::Files => transfer_from_properties(path, properties)
                .filter(|transfer| self.wish.fits_transfer(transfer))
                .map(Seen::Transfer),
        }
    }
}

/// `Client`
struct ClientObject;

#[zbus::interface(name = "org.freedesktop.Telepathy.Client", introspection_docs = false)]
impl ClientObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn interfaces(&self) -> Vec<String> {
        vec![names::HANDLER.to_owned()]
    }
}

/// `Client.Handler`
struct HandlerObject(Arc<Desk>);

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Client.Handler",
    introspection_docs = false
)]
impl HandlerObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn handler_channel_filter(&self) -> Vec<HashMap<String, Variant<'static>>> {
        self.0.wish.filter()
    }

    /// Nobody need be asked about what the user has just asked for.
    #[zbus(property(emits_changed_signal = "const"))]
    fn bypass_approval(&self) -> bool {
        true
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn capabilities(&self) -> Vec<String> {
        Vec::new()
    }

    #[zbus(property(emits_changed_signal = "false"))]
    fn handled_channels(&self) -> Vec<OwnedObjectPath> {
        self.0.handled().iter().cloned().collect()
    }

    // The names are the specification's, and there are as many as it has.
    async fn handle_channels(
        &self,
        account: ObjectPath<'_>,
        connection: ObjectPath<'_>,
        channels: Vec<(OwnedObjectPath, HashMap<String, OwnedVariant>)>,
        requests_satisfied: Vec<OwnedObjectPath>,
        user_action_time: u64,
        handler_info: HashMap<String, OwnedVariant>,
    ) -> std::result::Result<(), Refusal> {
        tracing::debug!(
            ?channels,
            ?requests_satisfied,
            user_action_time,
            ?handler_info,
            "channels are handed over"
        );
        self.0.take(account.as_str(), connection.as_str(), channels)
    }
}

/// A registered Handler. Dropping it gives its name back; channels that it took stay as they are.
#[derive(Debug)]
pub struct Handler {
    account: ManagedAccount,
    name: String,
    object: OwnedObjectPath,
    desk: Arc<Desk>,
    tubes: Receiver<Taken>,
}

impl Handler {
    /// Registers under a name of its own.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn register(account: &ManagedAccount, wish: Wish) -> Result<Arc<Self>> {
        let bus = account.bus();
        let unique = bus
            .connection()
            .unique_name()
            .map(|name| name.as_str().replace([':', '.'], "_"))
            .unwrap_or_default();
        let number = account.handlers.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}{unique}.n{number}", names::CLIENT_PREFIX);
        let object = path(&format!("/{}", name.replace('.', "/")))?;
        let (desk, tubes) = Desk::new(account.path().clone(), wish);
        let desk = Arc::new(desk);
        let server = bus.connection().object_server();
        server.at(&object, ClientObject).await?;
        server.at(&object, HandlerObject(desk.clone())).await?;
        // From here on what goes wrong is undone by the drop.
        let handler = Arc::new(Handler {
            account: account.clone(),
            name,
            object,
            desk,
            tubes,
        });
        // Mission Control reads the object as soon as the name is there. 4: do not queue for it.
        let answer: u32 = bus
            .call_daemon("RequestName", &(handler.name(), 4u32))
            .await?;
        if answer == 1 {
            return Ok(handler);
        }
        Err(Error::new(
            Kind::NotAvailable,
            format!("somebody else has the name {} on the bus", handler.name()),
        ))
    }

    /// Its bus name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it waits for.
    pub fn wish(&self) -> &Wish {
        &self.desk.wish
    }

    /// A channel that has been handed over already.
    pub fn ready(self: &Arc<Self>) -> Option<Handed> {
        self.tubes.try_recv().ok().map(|taken| self.handed(taken))
    }

    /// The next channel that is handed over. Cancel-safe.
    pub async fn next(self: &Arc<Self>) -> Handed {
        if let Some(handed) = self.ready() {
            return handed;
        }
        self.desk.wanted.store(true, Ordering::Release);
        match self.tubes.recv().await {
            Ok(taken) => self.handed(taken),
            // Never: the desk, which sends, is ours.
            Err(_) => std::future::pending().await,
        }
    }

    /// Has Mission Control hand a channel of ours to another Handler, if there is one that takes it.
    ///
    /// # Errors
    /// What it answers; [`Kind::NotYours`] when we do not hold the channel.
    pub async fn hand_on(&self, channel: &OwnedObjectPath) -> Result<()> {
        let dispatcher = names::CHANNEL_DISPATCHER;
        let object = path(names::CHANNEL_DISPATCHER_PATH)?;
        let remote = self.account.bus().remote(dispatcher, object);
        let asked = (vec![channel], NOT_NOW, "");
        let (went, _): Delegated = remote.call(dispatcher, "DelegateChannels", &asked).await?;
        let mut handled = self.desk.handled();
        for channel in went {
            handled.remove(&channel);
        }
        Ok(())
    }

    fn handed(self: &Arc<Self>, (connection, seen): Taken) -> Handed {
        let name = bus_name(&connection);
        let bus = self.account.bus();
        match seen {
            Seen::Tube(tube) => {
                let remote = bus.remote(name, tube.path.clone());
                Handed::Tube(Tube::new(remote, tube).handled_by(self.clone()))
            }
            Seen::Transfer(transfer) => {
                let remote = bus.remote(name, transfer.path.clone());
                Handed::Transfer(Transfer::new(remote, transfer).handled_by(self.clone()))
            }
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        let bus = self.account.bus().clone();
        let (name, object) = (std::mem::take(&mut self.name), self.object.clone());
        let leaving = bus
            .spawner()
            .clone()
            .spawn("leave of a handler", async move {
                let released: Result<u32> = bus.call_daemon("ReleaseName", &name.as_str()).await;
                let server = bus.connection().object_server();
                let removed = server.remove::<HandlerObject, _>(&object).await;
                server.remove::<ClientObject, _>(&object).await.ok();
                if let (Err(error), _) | (Ok(_), Err(error)) =
                    (released, removed.map_err(Error::from))
                {
                    // The bus drops the name with our connection.
                    tracing::debug!(%error, "a handler could not leave the bus");
                }
            });
        // It ends by itself, or with the executor.
        leaving.detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: &str = "/org/freedesktop/Telepathy/Account/pneuma/local_xmpp/account0";
    const ONLINE: &str = "/org/freedesktop/Telepathy/Connection/pneuma/local_xmpp/ada";

    fn wish(requested: bool) -> Wish {
        Wish {
            requested,
            contact: Some("bob@desk".into()),
            what: What::Tube(TubeKind::Stream, "rfb".into()),
        }
    }

    fn desk(wish: Wish) -> (Desk, Receiver<Taken>) {
        Desk::new(path(ACCOUNT).expect("a path"), wish)
    }

    type Channel = (OwnedObjectPath, HashMap<String, OwnedVariant>);

    fn channel(number: u32, contact: &str, service: &str, requested: bool) -> Channel {
        let owned =
            |value: Variant<'static>| OwnedVariant::try_from(value).expect("no descriptors");
        let property = |name: &str| format!("{}.{name}", names::CHANNEL);
        let properties = HashMap::from([
            (property("ChannelType"), owned(names::STREAM_TUBE.into())),
            (property("Requested"), owned(requested.into())),
            (property("TargetHandle"), owned(4u32.into())),
            (property("TargetID"), owned(contact.to_owned().into())),
            (
                format!("{}.Service", names::STREAM_TUBE),
                owned(service.to_owned().into()),
            ),
        ]);
        let object = path(&format!("{ONLINE}/channel{number}")).expect("a path");
        (object, properties)
    }

    #[test]
    fn only_what_it_waits_for_is_taken() {
        let (desk, tubes) = desk(wish(false));
        for (account, channels) in [
            (ACCOUNT, vec![channel(1, "eve@desk", "rfb", false)]),
            (ACCOUNT, vec![channel(1, "bob@desk", "http", false)]),
            (ACCOUNT, vec![channel(1, "bob@desk", "rfb", true)]),
            ("/elsewhere", vec![channel(1, "bob@desk", "rfb", false)]),
            (ACCOUNT, vec![]),
            (
                ACCOUNT,
                vec![
                    channel(1, "bob@desk", "rfb", false),
                    channel(2, "bob@desk", "rfb", false),
                ],
            ),
        ] {
            assert!(desk.take(account, ONLINE, channels).is_err(), "{account}");
        }
        assert!(tubes.is_empty() && desk.handled().is_empty());
        desk.take(ACCOUNT, ONLINE, vec![channel(1, "bob@desk", "rfb", false)])
            .expect("it fits");
        let (connection, seen) = tubes.try_recv().expect("it was taken");
        let Seen::Tube(tube) = seen else {
            panic!("a tube became {seen:?}");
        };
        assert_eq!(
            (connection.as_str(), tube.service.as_str()),
            (ONLINE, "rfb")
        );
    }

    #[test]
    fn one_at_a_time() {
        let (desk, tubes) = desk(wish(false));
        let take = |number| {
            desk.take(
                ACCOUNT,
                ONLINE,
                vec![channel(number, "bob@desk", "rfb", false)],
            )
        };
        assert_eq!(take(1), Ok(()));
        assert!(take(2).is_err());
        assert!(tubes.try_recv().is_ok());
        // Collected, and no other is asked for.
        assert!(take(2).is_err());
        // The one that it has may be shown again.
        assert_eq!(take(1), Ok(()));
        assert!(tubes.is_empty());
        desk.wanted.store(true, Ordering::Release);
        assert_eq!(take(3), Ok(()));
        assert_eq!(desk.handled().len(), 2);
    }

    #[test]
    fn the_filter_names_one_service_of_one_contact() {
        let filter = wish(false).filter();
        assert_eq!(filter.len(), 1);
        assert_eq!(filter[0].len(), 5);
        let service = format!("{}.Service", names::STREAM_TUBE);
        assert_eq!(filter[0][&service], Variant::from("rfb"));
        let contact = format!("{}.TargetID", names::CHANNEL);
        assert_eq!(filter[0][&contact], Variant::from("bob@desk"));
        assert!(wish(true).filter().is_empty());
    }
}
