//! A connection of our connection manager: going online and offline, contacts, tubes, files, trust,
//! policy.

use std::{collections::HashMap, sync::Arc, time::Duration};

use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::{
    account::Account,
    bus::{Bus, Remote, path, within},
    contact::{Contact, Trust, dictionary},
    error::{Error, Kind, Result},
    event::{Event, Events},
    managed::{self, Handler, ManagedAccount},
    offers::Offers,
    policy::{Rule, Terms},
    transfer::{self, Deliveries, Offer, Transfer, TransferDescription, transfer_from_properties},
    tube::{Tube, TubeDescription, TubeKind, tube_from_properties},
};
use crate::names;

/// `Connection_Status`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Online.
    Connected,
    /// On its way.
    Connecting,
    /// Not online: new, or ended for good.
    Disconnected,
}

impl Status {
    fn from_number(number: u32) -> Self {
        match number {
            0 => Status::Connected,
            1 => Status::Connecting,
            _ => Status::Disconnected,
        }
    }

    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Connected => "online",
            Status::Connecting => "connecting",
            Status::Disconnected => "offline",
        }
    }
}

/// A connection. Cheap to clone; dropping it leaves the connection as it is.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(super) remote: Remote,
    /// The account it belongs to, where Mission Control manages that.
    account: Option<ManagedAccount>,
    /// A Handler that was registered before the account went online.
    early: Option<Arc<Handler>>,
}

/// The bus name of the connection that has this object path.
pub(super) fn bus_name(object: &str) -> String {
    object.trim_start_matches('/').replace('/', ".")
}

impl Connection {
    /// The connection that has this bus name.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when it is not the name of a connection.
    pub fn named(bus: &Bus, name: &str) -> Result<Self> {
        let object = format!("/{}", name.replace('.', "/"));
        Ok(Connection {
            remote: bus.remote(name, path(&object)?),
            account: None,
            early: None,
        })
    }

    /// The connection that has this object path.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when it is not the path of a connection.
    pub(super) fn at(bus: &Bus, object: &str) -> Result<Self> {
        Connection::named(bus, &bus_name(object))
    }

    /// The same connection, used as one that Mission Control manages.
    pub(super) fn managed_by(self, account: ManagedAccount, early: Option<Arc<Handler>>) -> Self {
        Connection {
            account: Some(account),
            early,
            ..self
        }
    }

    /// The Handler that was registered before the account went online, if there is one.
    pub(super) fn early(&self) -> Option<&Arc<Handler>> {
        self.early.as_ref()
    }

    /// The same connection, used past Mission Control. What is requested through it is nobody's to
    /// handle and outlives this program; Mission Control closes what a program that ends has handled.
    pub fn directly(&self) -> Self {
        Connection {
            account: None,
            early: None,
            ..self.clone()
        }
    }

    /// The account it belongs to, where Mission Control manages that.
    pub fn account(&self) -> Option<&ManagedAccount> {
        self.account.as_ref()
    }

    /// All connections of our connection manager.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn all(bus: &Bus) -> Result<Vec<Self>> {
        let names = bus.connection_names().await?;
        names
            .iter()
            .map(|name| Connection::named(bus, name))
            .collect()
    }

    /// The connection of a profile, if there is one.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn of_profile(bus: &Bus, profile: &str) -> Result<Option<Self>> {
        for connection in Connection::all(bus).await? {
            match connection.profile().await {
                Ok(its) if its == profile => return Ok(Some(connection)),
                Ok(_) => {}
                // It has ended since it was listed.
                Err(error) if error.kind.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Asks the connection manager for a new connection; it is offline.
    ///
    /// # Errors
    /// [`Kind::NotAvailable`] when the profile has one already, [`Kind::InvalidArgument`] for
    /// parameters it does not take.
    pub async fn request(bus: &Bus, account: &Account) -> Result<Self> {
        let (name, object): (String, OwnedObjectPath) = bus
            .remote(names::MANAGER_BUS_NAME, path(names::MANAGER_PATH)?)
            .call(
                names::MANAGER_INTERFACE,
                "RequestConnection",
                &(names::PROTOCOL, account.parameters()),
            )
            .await?;
        Ok(Connection {
            remote: bus.remote(name, object),
            account: None,
            early: None,
        })
    }

    /// Its object path.
    pub(super) fn path(&self) -> &str {
        self.remote.path().as_str()
    }

    /// Its object.
    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Its bus name.
    pub fn bus_name(&self) -> &str {
        self.remote.destination()
    }

    /// The bus it is on.
    pub fn bus(&self) -> &Bus {
        self.remote.bus()
    }

    /// Everything that happens on it from now on.
    ///
    /// # Errors
    /// What the bus answers.
    pub async fn events(&self) -> Result<Events> {
        Events::subscribe(self.bus(), self.bus_name(), self.remote.path()).await
    }

    /// Goes online, and waits until it is.
    ///
    /// # Errors
    /// Why it did not; [`Kind::TimedOut`].
    pub async fn connect(&self, deadline: Duration) -> Result<()> {
        let mut events = self.events().await?;
        let late = Error::new(
            Kind::TimedOut,
            format!(
                "the account did not get online within {} seconds",
                deadline.as_secs()
            ),
        );
        within(self.bus().clock(), deadline, late, async {
            self.remote
                .call::<_, ()>(names::CONNECTION, "Connect", &())
                .await?;
            let mut why = None;
            // It may have got there before the answer to Connect.
            let mut status = self.status().await?;
            while status == Status::Connecting {
                match events.next().await? {
                    Event::Status { status: now, .. } => status = Status::from_number(now),
                    Event::ConnectionError(error) => why = Some(error),
                    Event::ServiceGone => status = Status::Disconnected,
                    _ => {}
                }
            }
            match (status, why) {
                (Status::Connected, _) => Ok(()),
                (_, Some(error)) => Err(error),
                (_, None) => Err(Error::new(
                    Kind::NetworkError,
                    "the account could not get online",
                )),
            }
        })
        .await
    }

    /// Goes offline for good; its object goes away.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn disconnect(&self) -> Result<()> {
        self.remote.call(names::CONNECTION, "Disconnect", &()).await
    }

    /// `Status`
    ///
    /// # Errors
    /// What the service answers.
    pub async fn status(&self) -> Result<Status> {
        let number: u32 = self.remote.get(names::CONNECTION, "Status").await?;
        Ok(Status::from_number(number))
    }

    /// `SelfID`; empty before it is known.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn self_id(&self) -> Result<String> {
        self.remote.get(names::CONNECTION, "SelfID").await
    }

    /// The fingerprint of our own key.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn own_fingerprint(&self) -> Result<String> {
        self.remote.get(names::TRUST, "OwnFingerprint").await
    }

    /// Who finds contacts for it: `avahi` or `built-in`; empty before it is online.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn responder(&self) -> Result<String> {
        self.remote.get(names::DISCOVERY, "Responder").await
    }

    /// Whether contacts without encryption are spoken to by nobody.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn encryption_required(&self) -> Result<bool> {
        self.remote.get(names::TRUST, "EncryptionRequired").await
    }

    /// The name of the profile it uses.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn profile(&self) -> Result<String> {
        self.remote.get(names::TRUST, "Profile").await
    }

    /// Everybody it knows, our user's own contacts and strangers on the network, by id.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn contacts(&self) -> Result<Vec<Contact>> {
        let attributes: HashMap<u32, HashMap<String, OwnedVariant>> = self
            .remote
            .call(
                names::CONTACT_LIST,
                "GetContactListAttributes",
                &(&Contact::INTERFACES[..], false),
            )
            .await?;
        let mut contacts = attributes
            .iter()
            .map(|(handle, attributes)| Contact::from_attributes(*handle, attributes))
            .collect::<Result<Vec<_>>>()?;
        contacts.sort_by(|one, other| one.id.cmp(&other.id));
        Ok(contacts)
    }

    /// What a person needs to judge a contact.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn trust(&self, contact: u32) -> Result<Trust> {
        let map: HashMap<String, OwnedVariant> =
            self.remote.call(names::TRUST, "GetTrust", &contact).await?;
        Ok(Trust::from_map(&map))
    }

    /// The code that our user and this contact compare.
    ///
    /// # Errors
    /// [`Kind::NotAvailable`] while the contact has shown no key.
    pub async fn comparison_code(&self, contact: u32) -> Result<String> {
        self.remote
            .call(names::TRUST, "GetComparisonCode", &contact)
            .await
    }

    /// Says that our user compared `code` with the contact. With `replace`, its key takes the
    /// place of the one that was pinned for its name.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] when it is another code, [`Kind::FingerprintMismatch`] for a
    /// blocked contact without `replace`.
    pub async fn verify(&self, contact: u32, code: &str, replace: bool) -> Result<()> {
        self.remote
            .call(names::TRUST, "Verify", &(contact, code, replace))
            .await
    }

    /// Pins the key our user was shown, and no other: before an offer or an accept, which pin whatever
    /// key the contact has by then.
    ///
    /// # Errors
    /// [`Kind::FingerprintMismatch`] when the contact has another key by now, and what the service
    /// answers for one that cannot be reached.
    pub async fn pin(&self, contact: u32, fingerprint: &str) -> Result<()> {
        self.remote
            .call(names::TRUST, "Pin", &(contact, fingerprint))
            .await
    }

    /// Forgets the contact's key.
    ///
    /// # Errors
    /// [`Kind::NotAvailable`] when none was pinned.
    pub async fn forget(&self, contact: u32) -> Result<()> {
        self.remote.call(names::TRUST, "Forget", &contact).await
    }

    /// What our user lets whom do: every rule, the least specific first.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn rules(&self) -> Result<Vec<Rule>> {
        let rules: Vec<HashMap<String, OwnedVariant>> =
            self.remote.call(names::POLICY, "ListRules", &()).await?;
        Ok(rules.iter().filter_map(Rule::from_map).collect())
    }

    /// What holds for somebody (a fingerprint, `pinned` or `everybody`) and a service; without one,
    /// for services that no rule names.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for what names nobody.
    pub async fn terms(&self, who: &str, service: Option<&str>) -> Result<Terms> {
        let place = (who, service.unwrap_or_default());
        let map: HashMap<String, OwnedVariant> =
            self.remote.call(names::POLICY, "GetTerms", &place).await?;
        Ok(Terms::from_map(&map))
    }

    /// Makes a rule or replaces it; without a service, for any. It is in force when this returns.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for what is no rule, [`Kind::ResourceUnavailable`] for one too many.
    pub async fn set_rule(&self, who: &str, service: Option<&str>, terms: Terms) -> Result<()> {
        let rule = (who, service.unwrap_or_default(), terms.to_map());
        self.remote.call(names::POLICY, "SetRule", &rule).await
    }

    /// Takes a rule back.
    ///
    /// # Errors
    /// [`Kind::NotAvailable`] when there is none.
    pub async fn remove_rule(&self, who: &str, service: Option<&str>) -> Result<()> {
        let place = (who, service.unwrap_or_default());
        self.remote.call(names::POLICY, "RemoveRule", &place).await
    }

    /// All tubes there are.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn tubes(&self) -> Result<Vec<Tube>> {
        let channels = self.channels().await?;
        let tubes = channels
            .into_iter()
            .filter_map(|(path, properties)| tube_from_properties(path, &properties));
        Ok(tubes.map(|tube| self.tube(tube)).collect())
    }

    /// All file transfers there are.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn transfers(&self) -> Result<Vec<Transfer>> {
        let channels = self.channels().await?;
        let transfers = channels
            .into_iter()
            .filter_map(|(path, properties)| transfer_from_properties(path, &properties));
        Ok(transfers.map(|transfer| self.transfer(transfer)).collect())
    }

    /// Every channel with its immutable properties.
    async fn channels(&self) -> Result<Vec<(OwnedObjectPath, HashMap<String, OwnedVariant>)>> {
        // A property of type a(oa{sv}): taken as a whole, so that it stays typed.
        let value: OwnedVariant = self
            .remote
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(names::REQUESTS, "Channels"),
            )
            .await?;
        let bad = || {
            Error::new(
                Kind::BadAnswer,
                "the service's list of channels cannot be understood",
            )
        };
        let Variant::Array(listed) = &*value else {
            return Err(bad());
        };
        let mut channels = Vec::new();
        for channel in listed.iter() {
            let Variant::Structure(channel) = channel else {
                return Err(bad());
            };
            let [Variant::ObjectPath(path), properties] = channel.fields() else {
                return Err(bad());
            };
            let map = dictionary(properties).ok_or_else(bad)?;
            channels.push((path.to_owned().into(), map));
        }
        Ok(channels)
    }

    /// The channel of a tube that an event told of.
    pub fn tube(&self, description: TubeDescription) -> Tube {
        Tube::new(
            self.bus().remote(self.bus_name(), description.path.clone()),
            description,
        )
    }

    /// Requests a tube to a contact; nothing is offered yet.
    ///
    /// # Errors
    /// [`Kind::NotCapable`], [`Kind::Offline`] and what else the service answers.
    pub async fn create_tube(&self, contact: u32, kind: TubeKind, service: &str) -> Result<Tube> {
        if let Some(account) = &self.account {
            let contact = self.id_of(contact).await?;
            return managed::create_tube(account, contact, kind, service).await;
        }
        let request: HashMap<String, Variant<'_>> = HashMap::from([
            (
                format!("{}.ChannelType", names::CHANNEL),
                Variant::from(kind.channel_type()),
            ),
            (
                format!("{}.TargetHandleType", names::CHANNEL),
                Variant::from(1u32),
            ),
            (
                format!("{}.TargetHandle", names::CHANNEL),
                Variant::from(contact),
            ),
            (kind.service_property(), Variant::from(service)),
        ]);
        let (path, properties): (OwnedObjectPath, HashMap<String, OwnedVariant>) = self
            .remote
            .call(names::REQUESTS, "CreateChannel", &request)
            .await?;
        let description = tube_from_properties(path, &properties).ok_or_else(|| {
            Error::new(
                Kind::BadAnswer,
                "the service made something else than a tube",
            )
        })?;
        Ok(self.tube(description))
    }

    /// The channel of a transfer that an event told of.
    pub fn transfer(&self, description: TransferDescription) -> Transfer {
        Transfer::new(
            self.bus().remote(self.bus_name(), description.path.clone()),
            description,
        )
    }

    /// Requests a file transfer to a contact. It is offered at once; whether it is wanted is for the
    /// contact's user to say.
    ///
    /// # Errors
    /// [`Kind::NotCapable`], [`Kind::Offline`] and what else the service answers.
    pub async fn create_transfer(&self, contact: u32, offer: &Offer) -> Result<Transfer> {
        if let Some(account) = &self.account {
            let contact = self.id_of(contact).await?;
            return managed::create_transfer(account, contact, offer).await;
        }
        let mut request = transfer::request(offer);
        request.insert(
            format!("{}.TargetHandle", names::CHANNEL),
            Variant::from(contact),
        );
        // It is an offer at once, and must not outlive us.
        let claimed = format!("{}.Claimed", names::CLAIM);
        request.insert(claimed.clone(), true.into());
        let create = async |request: &HashMap<String, Variant<'_>>| {
            let (remote, requests) = (&self.remote, names::REQUESTS);
            remote.call(requests, "CreateChannel", request).await
        };
        let (path, properties): (OwnedObjectPath, HashMap<String, OwnedVariant>) =
            match create(&request).await {
                // A service from before that was known still runs.
                Err(error) if error.kind == Kind::NotImplemented => {
                    request.remove(&claimed);
                    create(&request).await?
                }
                created => created?,
            };
        let description = transfer_from_properties(path, &properties).ok_or_else(|| {
            Error::new(
                Kind::BadAnswer,
                "the service made something else than a file transfer",
            )
        })?;
        Ok(self.transfer(description))
    }

    /// The files that contacts send, or this one, by its id. While it lives, contacts see that files are
    /// taken here.
    ///
    /// # Errors
    /// What the service and the bus answer.
    pub async fn deliveries(&self, contact: Option<&str>) -> Result<Deliveries> {
        Deliveries::of(self, contact).await
    }

    /// The tubes that a contact, by its id, offers for a service.
    ///
    /// # Errors
    /// What the service and the bus answer.
    pub async fn offers(&self, contact: &str, kind: TubeKind, service: &str) -> Result<Offers> {
        Offers::of(self, contact, kind, service).await
    }

    async fn id_of(&self, contact: u32) -> Result<String> {
        let ids: Vec<String> = self
            .remote
            .call(names::CONNECTION, "InspectHandles", &(1u32, vec![contact]))
            .await?;
        ids.into_iter().next().ok_or_else(|| {
            Error::new(
                Kind::BadAnswer,
                format!("the service knows no id for the contact with handle {contact}"),
            )
        })
    }
}
