//! Avahi's D-Bus API as messages: [`Call`]s written, [`Incoming`] read. No I/O.
//!
//! Objects are made by `Server2`, whose `…Prepare` methods give an object that says nothing before its
//! `Start`: so no signal comes before we know whose it is. Names, addresses and records in signals were
//! written by strangers; the daemon has checked no more of them than that they are DNS.

use std::{net::IpAddr, num::NonZeroU32};

use serde::Serialize;
use zbus::{DynamicType, Message, message::Type};

use super::SERVICE;

/// The name of the daemon on the system bus.
pub const AVAHI: &str = "org.freedesktop.Avahi";
const BUS: &str = "org.freedesktop.DBus";
const SERVER: &str = "org.freedesktop.Avahi.Server2";
const GROUP: &str = "org.freedesktop.Avahi.EntryGroup";
const BROWSER: &str = "org.freedesktop.Avahi.ServiceBrowser";
const RESOLVER: &str = "org.freedesktop.Avahi.ServiceResolver";
const DOMAIN: &str = "local";
/// AVAHI_PROTO_UNSPEC
pub const ANY_PROTOCOL: i32 = -1;
/// AVAHI_IF_UNSPEC
pub const ANY_INTERFACE: i32 = -1;
/// Most strings of a TXT record that are looked at.
const MAX_STRINGS: usize = 64;

/// A record's strings, `key=value` each.
pub type Txt = Vec<Vec<u8>>;

/// Where an instance was heard: interface, protocol (0 IPv4, 1 IPv6) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The instance.
    pub name: String,
    /// Number of the interface.
    pub interface: i32,
    /// AVAHI_PROTO_INET or AVAHI_PROTO_INET6.
    pub protocol: i32,
}

/// What is asked of the bus or the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The bus: tell us who owns the daemon's name from now on.
    WatchOwner,
    /// The bus: let the daemon's broadcasts through.
    WatchDaemon,
    /// The bus: who owns the daemon's name?
    GetOwner,
    /// `Server2.GetState`
    GetState,
    /// `Server2.ServiceBrowserPrepare` on an interface.
    PrepareBrowser(i32),
    /// `ServiceBrowser.Start`
    StartBrowser(String),
    /// `Server2.ServiceResolverPrepare`
    PrepareResolver(Place),
    /// `ServiceResolver.Start`
    StartResolver(String),
    /// `ServiceResolver.Free`
    FreeResolver(String),
    /// `Server2.EntryGroupNew`
    NewGroup,
    /// `EntryGroup.AddService`
    AddService {
        /// The group.
        group: String,
        /// The interface, or all.
        interface: i32,
        /// The instance.
        name: String,
        /// The port of the XML stream listener.
        port: u16,
        /// The record.
        txt: Txt,
    },
    /// `EntryGroup.Commit`
    Commit(String),
    /// `EntryGroup.UpdateServiceTxt`
    Update {
        /// The group.
        group: String,
        /// As when it was added.
        interface: i32,
        /// As when it was added.
        name: String,
        /// The record.
        txt: Txt,
    },
    /// `EntryGroup.Reset`
    Reset(String),
    /// `EntryGroup.Free`
    FreeGroup(String),
}

/// A call's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but that it is done.
    Done,
    /// An object path, or a bus name.
    Text(String),
    /// A state.
    Number(i32),
    /// Refused: the error's name and what it says.
    Refused(String, String),
}

/// What the daemon or the bus says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Who owns the daemon's name now. Comes from the bus.
    Owner(Option<String>),
    /// `Server.StateChanged`
    ServerState(i32),
    /// `ServiceBrowser.ItemNew`
    New(Place),
    /// `ServiceBrowser.ItemRemove`
    Removed(Place),
    /// `ServiceBrowser.Failure`
    BrowserFailed(String),
    /// `ServiceResolver.Found`; again whenever something of it changes.
    Found {
        /// The resolver.
        resolver: String,
        /// The interface it was heard on.
        interface: i32,
        /// Where it listens.
        address: Option<IpAddr>,
        /// Where it listens.
        port: u16,
        /// Its record.
        txt: Txt,
    },
    /// `ServiceResolver.Failure`: nobody answered.
    NotFound(String),
    /// `EntryGroup.StateChanged`: the group and its state.
    GroupState(String, i32),
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// To the call of that serial number.
    Answer(u32, Answer),
    /// From the connection of that unique name.
    Signal(String, Signal),
}

/// A call as a message to the bus, or to the daemon, whose unique name `daemon` is: a daemon started
/// in its place is not asked for what this one made.
///
/// # Errors
/// For what D-Bus cannot carry: a name that holds NUL.
pub fn message(call: &Call, daemon: &str) -> zbus::Result<Message> {
    let server = |member, interface: &'static str| To(daemon, "/", interface, member);
    let rule = |rule: &str| To(BUS, "/org/freedesktop/DBus", BUS, "AddMatch").with(&rule);
    match call {
        Call::WatchOwner => rule(&format!(
            "type='signal',sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{AVAHI}'"
        )),
        Call::WatchDaemon => rule(&format!("type='signal',sender='{AVAHI}'")),
        Call::GetOwner => To(BUS, "/org/freedesktop/DBus", BUS, "GetNameOwner").with(&AVAHI),
        Call::GetState => server("GetState", SERVER).with(&()),
        Call::PrepareBrowser(interface) => server("ServiceBrowserPrepare", SERVER).with(&(
            interface,
            ANY_PROTOCOL,
            SERVICE,
            DOMAIN,
            0_u32,
        )),
        Call::StartBrowser(path) => To(daemon, path, BROWSER, "Start").with(&()),
        // An address of the protocol it was heard over: each place of an instance gives one.
        Call::PrepareResolver(place) => server("ServiceResolverPrepare", SERVER).with(&(
            place.interface,
            place.protocol,
            place.name.as_str(),
            SERVICE,
            DOMAIN,
            place.protocol,
            0_u32,
        )),
        Call::StartResolver(path) => To(daemon, path, RESOLVER, "Start").with(&()),
        Call::FreeResolver(path) => To(daemon, path, RESOLVER, "Free").with(&()),
        Call::NewGroup => server("EntryGroupNew", SERVER).with(&()),
        // No host: it is the daemon's own.
        Call::AddService {
            group,
            interface,
            name,
            port,
            txt,
        } => To(daemon, group, GROUP, "AddService").with(&(
            interface,
            ANY_PROTOCOL,
            0_u32,
            name.as_str(),
            SERVICE,
            DOMAIN,
            "",
            port,
            txt,
        )),
        Call::Commit(group) => To(daemon, group, GROUP, "Commit").with(&()),
        Call::Update {
            group,
            interface,
            name,
            txt,
        } => To(daemon, group, GROUP, "UpdateServiceTxt").with(&(
            interface,
            ANY_PROTOCOL,
            0_u32,
            name.as_str(),
            SERVICE,
            DOMAIN,
            txt,
        )),
        Call::Reset(group) => To(daemon, group, GROUP, "Reset").with(&()),
        Call::FreeGroup(group) => To(daemon, group, GROUP, "Free").with(&()),
    }
}

/// Destination, object, interface, method.
struct To<'a>(&'a str, &'a str, &'a str, &'a str);

impl To<'_> {
    fn with<B: Serialize + DynamicType>(self, body: &B) -> zbus::Result<Message> {
        let To(destination, path, interface, member) = self;
        let call = Message::method_call(path, member)
            .destination(destination)
            .interface(interface);
        call.build(body)
    }
}

/// What a message says, if it is for us and as it should be; anything else is ignored.
pub fn read(message: &Message) -> Option<Incoming> {
    let header = message.header();
    match message.message_type() {
        Type::MethodReturn => {
            let serial = header.reply_serial().map(NonZeroU32::get)?;
            Some(Incoming::Answer(serial, answer(message)))
        }
        Type::Error => {
            let serial = header.reply_serial().map(NonZeroU32::get)?;
            let name = header.error_name().map(ToString::to_string);
            let text = message.body().deserialize::<String>();
            let refused = Answer::Refused(name.unwrap_or_default(), text.unwrap_or_default());
            Some(Incoming::Answer(serial, refused))
        }
        Type::Signal => {
            let sender = header.sender()?.to_string();
            let (interface, member) = (header.interface()?.as_str(), header.member()?.as_str());
            let signal = signal(message, header.path()?.as_str(), interface, member)?;
            Some(Incoming::Signal(sender, signal))
        }
        Type::MethodCall => None,
    }
}

fn answer(message: &Message) -> Answer {
    let body = message.body();
    let text = || body.deserialize::<String>().ok();
    let path = || {
        let path = body.deserialize::<zbus::OwnedObjectPath>().ok()?;
        Some(path.to_string())
    };
    if let Some(text) = text().or_else(path) {
        return Answer::Text(text);
    }
    match body.deserialize::<i32>() {
        Ok(number) => Answer::Number(number),
        Err(_) => Answer::Done,
    }
}

fn signal(message: &Message, path: &str, interface: &str, member: &str) -> Option<Signal> {
    let body = message.body();
    let path = path.to_owned();
    match (interface.rsplit('.').next()?, member) {
        _ if interface == BUS && member == "NameOwnerChanged" => {
            let (name, _, owner) = body.deserialize::<(String, String, String)>().ok()?;
            (name == AVAHI).then(|| Signal::Owner(Some(owner).filter(|owner| !owner.is_empty())))
        }
        ("Server" | "Server2", "StateChanged") => {
            let (state, _) = body.deserialize::<(i32, String)>().ok()?;
            Some(Signal::ServerState(state))
        }
        ("ServiceBrowser", "ItemNew" | "ItemRemove") => {
            let (interface, protocol, name, kind, domain, _) = body
                .deserialize::<(i32, i32, String, String, String, u32)>()
                .ok()?;
            let fits = kind.eq_ignore_ascii_case(SERVICE) && domain.eq_ignore_ascii_case(DOMAIN);
            let place = fits.then_some(Place {
                name,
                interface,
                protocol,
            })?;
            Some(match member {
                "ItemNew" => Signal::New(place),
                _ => Signal::Removed(place),
            })
        }
        ("ServiceBrowser", "Failure") => {
            let reason = body.deserialize::<String>().unwrap_or_default();
            Some(Signal::BrowserFailed(reason))
        }
        ("ServiceResolver", "Found") => {
            type Body = (
                i32,
                i32,
                String,
                String,
                String,
                String,
                i32,
                String,
                u16,
                Txt,
                u32,
            );
            let found = body.deserialize::<Body>().ok()?;
            let (interface, _, _, _, _, _, _, address, port, mut txt, _) = found;
            txt.truncate(MAX_STRINGS);
            Some(Signal::Found {
                resolver: path,
                interface,
                address: address.parse().ok(),
                port,
                txt,
            })
        }
        ("ServiceResolver", "Failure") => Some(Signal::NotFound(path)),
        ("EntryGroup", "StateChanged") => {
            let (state, _) = body.deserialize::<(i32, String)>().ok()?;
            Some(Signal::GroupState(path, state))
        }
        _ => None,
    }
}
