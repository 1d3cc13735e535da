//! Stream tubes by D-Bus.

use std::{
    collections::HashMap,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    path::PathBuf,
};

use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use crate::{Access, CallError, Person};

/// Interface names.
pub mod name {
    /// `ConnectionManager`
    pub const CONNECTION_MANAGER: &str = "org.freedesktop.Telepathy.ConnectionManager";
    /// `Connection`
    pub const CONNECTION: &str = "org.freedesktop.Telepathy.Connection";
    /// `Connection.Interface.Requests`
    pub const REQUESTS: &str = "org.freedesktop.Telepathy.Connection.Interface.Requests";
    /// `Connection.Interface.Contacts`
    pub const CONTACTS: &str = "org.freedesktop.Telepathy.Connection.Interface.Contacts";
    /// `Connection.Interface.ContactList`
    pub const CONTACT_LIST: &str = "org.freedesktop.Telepathy.Connection.Interface.ContactList";
    /// `Connection.Interface.ContactGroups`
    pub const CONTACT_GROUPS: &str = "org.freedesktop.Telepathy.Connection.Interface.ContactGroups";
    /// `Connection.Interface.ContactCapabilities`
    pub const CONTACT_CAPABILITIES: &str =
        "org.freedesktop.Telepathy.Connection.Interface.ContactCapabilities";
    /// `Connection.Interface.Aliasing`
    pub const ALIASING: &str = "org.freedesktop.Telepathy.Connection.Interface.Aliasing";
    /// `Connection.Interface.SimplePresence`
    pub const SIMPLE_PRESENCE: &str =
        "org.freedesktop.Telepathy.Connection.Interface.SimplePresence";
    /// Our own: who finds contacts.
    pub const DISCOVERY: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Discovery1";
    /// Our own: fingerprints, codes, verification.
    pub const TRUST: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Trust1";
    /// Our own: what our user lets whom do.
    pub const POLICY: &str = "org.freedesktop.Telepathy.Connection.Interface.Pneuma.Policy1";
    /// `Channel`
    pub const CHANNEL: &str = "org.freedesktop.Telepathy.Channel";
    /// `Channel.Interface.Tube`
    pub const TUBE: &str = "org.freedesktop.Telepathy.Channel.Interface.Tube";
    /// `Channel.Type.StreamTube`
    pub const STREAM_TUBE: &str = "org.freedesktop.Telepathy.Channel.Type.StreamTube";
    /// `Channel.Type.DBusTube`
    pub const DBUS_TUBE: &str = "org.freedesktop.Telepathy.Channel.Type.DBusTube";
    /// `Channel.Type.FileTransfer`
    pub const FILE_TRANSFER: &str = "org.freedesktop.Telepathy.Channel.Type.FileTransfer";
    /// `Channel.Interface.FileTransfer.Metadata`
    pub const FILE_TRANSFER_METADATA: &str =
        "org.freedesktop.Telepathy.Channel.Interface.FileTransfer.Metadata";
    /// Our own: a transfer that outlives its channel.
    pub const TRANSFER: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Transfer1";
    /// Our own: counts of a tube.
    pub const STATISTICS: &str = "org.freedesktop.Telepathy.Channel.Interface.Pneuma.Statistics1";
}

/// `Tube_Channel_State`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TubeState {
    /// 0
    LocalPending = 0,
    /// 1
    RemotePending = 1,
    /// 2
    Open = 2,
    /// 3
    NotOffered = 3,
}

/// A local socket's address, as Offer takes it and Accept gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A path.
    Unix(PathBuf),
    /// A name in Linux's abstract namespace, without its leading zero.
    Abstract(Vec<u8>),
    /// IPv4 and a port.
    Ipv4(SocketAddrV4),
    /// IPv6 and a port.
    Ipv6(SocketAddrV6),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Address::Ipv4(address),
            SocketAddr::V6(address) => Address::Ipv6(address),
        }
    }
}

impl Address {
    /// `Socket_Address_Type`.
    pub fn kind(&self) -> u32 {
        match self {
            Address::Unix(_) => 0,
            Address::Abstract(_) => 1,
            Address::Ipv4(_) => 2,
            Address::Ipv6(_) => 3,
        }
    }

    /// The address in the form its type has on D-Bus.
    pub fn to_variant(&self) -> Variant<'static> {
        use std::os::unix::ffi::OsStrExt as _;
        match self {
            Address::Unix(path) => Variant::new(path.as_os_str().as_bytes().to_vec()),
            Address::Abstract(name) => Variant::new([&[0], name.as_slice()].concat()),
            Address::Ipv4(address) => Variant::new((address.ip().to_string(), address.port())),
            Address::Ipv6(address) => Variant::new((address.ip().to_string(), address.port())),
        }
    }

    /// An address of this `Socket_Address_Type` as D-Bus has it, if it is one.
    pub fn from_variant(kind: u32, value: OwnedVariant) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt as _;
        if kind == 0 {
            let mut path: Vec<u8> = value.try_into().ok()?;
            if path.last() == Some(&0) {
                path.pop();
            }
            return Some(Address::Unix(std::ffi::OsString::from_vec(path).into()));
        }
        if kind == 1 {
            let name: Vec<u8> = value.try_into().ok()?;
            return Some(Address::Abstract(name.strip_prefix(&[0])?.to_vec()));
        }
        let pair: zbus::Structure<'_> = value.downcast_ref().ok()?;
        let [ip, port] = pair.fields() else {
            return None;
        };
        let ip: String = ip.downcast_ref().ok()?;
        let port: u16 = port.downcast_ref().ok()?;
        Some(SocketAddr::new(ip.parse().ok()?, port).into())
    }
}

/// What a request for a tube of this type says, whose service has this name.
pub fn tube_request<'a>(
    kind: &'a str,
    named: &str,
    contact: u32,
    service: &'a str,
) -> HashMap<String, Variant<'a>> {
    let channel = |property: &str| format!("{}.{property}", name::CHANNEL);
    HashMap::from([
        (channel("ChannelType"), Variant::from(kind)),
        (channel("TargetHandleType"), Variant::from(1u32)),
        (channel("TargetHandle"), Variant::from(contact)),
        (format!("{kind}.{named}"), Variant::from(service)),
    ])
}

impl Person {
    /// Requests a stream tube to a contact; not offered yet. Gives its object path.
    ///
    /// # Errors
    /// What CreateChannel answers.
    ///
    /// # Panics
    /// When the answer is not what the specification says.
    pub fn create_tube(&self, contact: u32, service: &str) -> Result<String, CallError> {
        self.create_channel(&tube_request(
            name::STREAM_TUBE,
            "Service",
            contact,
            service,
        ))
    }

    /// Requests a channel. Gives its object path.
    ///
    /// # Errors
    /// What CreateChannel answers.
    ///
    /// # Panics
    /// When the answer is not what the specification says.
    pub fn create_channel(
        &self,
        request: &HashMap<String, Variant<'_>>,
    ) -> Result<String, CallError> {
        let answer = self.on_connection(name::REQUESTS, "CreateChannel", &(request,))?;
        let made: (OwnedObjectPath, HashMap<String, OwnedVariant>) = answer
            .body()
            .deserialize()
            .expect("an object path and properties");
        Ok(made.0.to_string())
    }

    /// Offers a tube with Localhost access control.
    ///
    /// # Errors
    /// What Offer answers.
    pub fn offer(
        &self,
        tube: &str,
        address: &Address,
        parameters: HashMap<&str, Variant<'_>>,
    ) -> Result<(), CallError> {
        self.offer_with(tube, address, Access::Localhost, parameters)
    }

    /// Offers a tube to a service that has this access control.
    ///
    /// # Errors
    /// What Offer answers.
    pub fn offer_with(
        &self,
        tube: &str,
        address: &Address,
        access: Access,
        parameters: HashMap<&str, Variant<'_>>,
    ) -> Result<(), CallError> {
        let body = (
            address.kind(),
            address.to_variant(),
            access as u32,
            parameters,
        );
        self.on_object(tube, name::STREAM_TUBE, "Offer", &body)
            .map(drop)
    }

    /// Accepts a tube with Localhost access control, asking for a socket of this
    /// `Socket_Address_Type`. Gives the address to connect to.
    ///
    /// # Errors
    /// What Accept answers.
    ///
    /// # Panics
    /// When the answer is no address.
    pub fn accept(&self, tube: &str, kind: u32) -> Result<Address, CallError> {
        self.accept_with(tube, kind, Access::Localhost, Variant::from(0u32))
    }

    /// Accepts a tube with this access control and its parameter.
    ///
    /// # Errors
    /// What Accept answers.
    ///
    /// # Panics
    /// When the answer is no address.
    pub fn accept_with(
        &self,
        tube: &str,
        kind: u32,
        access: Access,
        parameter: Variant<'_>,
    ) -> Result<Address, CallError> {
        let body = (kind, access as u32, parameter);
        let answer = self.on_object(tube, name::STREAM_TUBE, "Accept", &body)?;
        let value: OwnedVariant = answer.body().deserialize().expect("a variant");
        Ok(Address::from_variant(kind, value).expect("an address of the type that was asked for"))
    }

    /// Waits until a stream tube for `service` is offered to us. Gives its object path.
    ///
    /// # Panics
    /// When none is.
    pub fn offered(&self, service: &str) -> String {
        self.offered_as(&format!("{}.Service", name::STREAM_TUBE), service)
    }

    /// Waits until a contact offers a channel of which this property says this.
    pub(crate) fn offered_as(&self, property: &str, service: &str) -> String {
        type Channels = Vec<(OwnedObjectPath, HashMap<String, OwnedVariant>)>;
        self.wait_for(&format!("NewChannels with {service}"), |event| {
            if event.member != "NewChannels" {
                return None;
            }
            let channels: Channels = event.arguments()?;
            channels.into_iter().find_map(|(path, properties)| {
                let requested: bool = properties
                    .get(&format!("{}.Requested", name::CHANNEL))?
                    .downcast_ref()
                    .ok()?;
                let of: String = properties.get(property)?.downcast_ref().ok()?;
                (!requested && of == service).then(|| path.to_string())
            })
        })
    }

    /// A tube from `self`, who has a service at `address`, to `other`, who accepts with a socket of
    /// this type. Gives both object paths and the address `other` connects to.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn tube_to(
        &self,
        other: &Person,
        service: &str,
        address: &Address,
        kind: u32,
    ) -> (String, String, Address) {
        let contact = self.sees(other);
        let ours = self
            .create_tube(contact.handle, service)
            .unwrap_or_else(|error| self.fail(&format!("CreateChannel: {error}")));
        self.offer(&ours, address, HashMap::new())
            .unwrap_or_else(|error| self.fail(&format!("Offer: {error}")));
        let theirs = other.offered(service);
        let door = other
            .accept(&theirs, kind)
            .unwrap_or_else(|error| other.fail(&format!("Accept: {error}")));
        (ours, theirs, door)
    }

    /// Closes a channel.
    ///
    /// # Errors
    /// What Close answers.
    pub fn close(&self, channel: &str) -> Result<(), CallError> {
        self.on_object(channel, name::CHANNEL, "Close", &())
            .map(drop)
    }

    /// Waits for a channel's Closed.
    ///
    /// # Panics
    /// When it does not come.
    pub fn closed(&self, channel: &str) {
        self.wait_for(&format!("Closed of {channel}"), |event| {
            let this = event.path == channel
                && event.member == "Closed"
                && event.interface == name::CHANNEL;
            this.then_some(())
        });
    }

    /// Waits for one `ConnectionClosed` of a tube: the connection's id and the error's last component.
    ///
    /// # Panics
    /// When it does not come.
    pub fn connection_closed(&self, tube: &str) -> (u32, String) {
        self.wait_for(&format!("ConnectionClosed of {tube}"), |event| {
            let this = event.path == tube && event.member == "ConnectionClosed";
            let (id, error, _message): (u32, String, String) =
                this.then(|| event.arguments())??;
            let short = error.rsplit('.').next().unwrap_or_default().to_owned();
            Some((id, short))
        })
    }
}
