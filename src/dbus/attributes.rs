//! What is known of a contact, as D-Bus values: attributes of `Contacts`, and the same values in
//! signals and older methods.

use std::time::{SystemTime, UNIX_EPOCH};

use zbus::Variant;

use super::values::{self, Class, Map};
use crate::names;
use crate::{
    connection::{
        contacts::Contact,
        protocol::{ATTRIBUTE_INTERFACES, PresenceType, STATUSES},
    },
    session::{self, Show},
};

/// `Subscription_State`: No (1), Yes (4).
const NO: u32 = 1;
const YES: u32 = 4;

/// `Simple_Presence`.
pub type SimplePresence = (u32, String, String);

/// `subscribe` and `publish`: whoever is on the list sees us and is seen.
pub fn subscription(contact: &Contact) -> u32 {
    if contact.listed { YES } else { NO }
}

/// `presence`
pub fn presence(contact: &Contact) -> SimplePresence {
    let kind = match contact.presence.show {
        Show::Offline => PresenceType::Offline,
        Show::Available => PresenceType::Available,
        Show::Away => PresenceType::Away,
        Show::Busy => PresenceType::Busy,
    };
    let name = STATUSES
        .iter()
        .find(|status| status.presence == kind)
        .map_or("offline", |status| status.name);
    (
        kind as u32,
        name.to_owned(),
        contact.presence.message.clone(),
    )
}

/// `capabilities`; none while they are unknown.
pub fn classes(contact: &Contact) -> Vec<Class> {
    contact
        .capabilities
        .as_deref()
        .map(|capabilities| capabilities.classes().iter().map(values::class).collect())
        .unwrap_or_default()
}

/// `Trust1/trust`: what a person needs to judge a contact.
pub fn trust(contact: &Contact) -> Map {
    let mut map = Map::new();
    let mut set = |key: &str, value: Variant<'static>| {
        map.insert(key.to_owned(), value);
    };
    let word = match &contact.trust {
        session::Trust::NoKey => "no-key",
        session::Trust::Unpinned => "unpinned",
        session::Trust::Pinned { since } => {
            set("pinned-since", Variant::new(seconds(*since)));
            "pinned"
        }
        session::Trust::Verified { since, verified } => {
            set("pinned-since", Variant::new(seconds(*since)));
            set("verified-since", Variant::new(seconds(*verified)));
            "verified"
        }
        session::Trust::Blocked { pinned } => {
            set("pinned-fingerprint", Variant::new(pinned.to_string()));
            "blocked"
        }
    };
    set("trust", Variant::new(word));
    if let Some(key) = contact.key {
        set("fingerprint", Variant::new(key.to_string()));
    }
    map
}

/// Seconds since 1970, as the specification's `Unix_Timestamp64`.
fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or_default()
}

/// The interfaces of a request that have attributes, each once; the others are ignored, by the
/// specification, and however many there are they cost nothing for each contact.
pub fn wanted(interfaces: &[String]) -> Vec<&'static str> {
    ATTRIBUTE_INTERFACES
        .iter()
        .copied()
        .filter(|known| interfaces.iter().any(|wanted| wanted == known))
        .collect()
}

/// The attributes from these interfaces; those of Connection are always among them.
pub fn of(contact: &Contact, interfaces: &[&'static str]) -> Map {
    let mut map = Map::new();
    let mut set = |interface: &str, attribute: &str, value: Variant<'static>| {
        map.insert(format!("{interface}/{attribute}"), value);
    };
    let id = Variant::new(contact.id.as_ref().to_owned());
    set(names::CONNECTION, "contact-id", id);
    for wanted in interfaces {
        match *wanted {
            name @ names::CONTACT_LIST => {
                set(name, "subscribe", Variant::new(subscription(contact)));
                set(name, "publish", Variant::new(subscription(contact)));
            }
            name @ names::CONTACT_GROUPS => {
                set(name, "groups", Variant::new(Vec::<String>::new()));
            }
            name @ names::SIMPLE_PRESENCE => {
                set(name, "presence", Variant::new(presence(contact)));
            }
            name @ names::ALIASING => {
                set(name, "alias", Variant::new(contact.alias.clone()));
            }
            // Left out while it is unknown.
            name @ names::CONTACT_CAPABILITIES if contact.capabilities.is_some() => {
                set(name, "capabilities", Variant::new(classes(contact)));
            }
            name @ names::TRUST => set(name, "trust", Variant::new(trust(contact))),
            _ => {}
        }
    }
    map
}
