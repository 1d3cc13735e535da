//! A contact, as the connection's contact list and our own trust interface describe it.

use std::collections::HashMap;

use zbus::{OwnedVariant, Variant};

use super::error::{Error, Kind, Result};
use crate::names;

/// `Connection_Presence_Type`, as far as link-local contacts have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Show {
    /// Known, and not on the network.
    Offline,
    /// Available.
    Available,
    /// Away, or away for long.
    Away,
    /// Does not want to be disturbed.
    Busy,
    /// The service has not said.
    #[default]
    Unknown,
}

impl Show {
    /// From the number on the bus.
    pub fn from_number(number: u32) -> Self {
        match number {
            1 => Show::Offline,
            2 => Show::Available,
            3 | 4 => Show::Away,
            6 => Show::Busy,
            _ => Show::Unknown,
        }
    }

    /// Whether the contact is on the network.
    pub fn is_online(self) -> bool {
        matches!(self, Show::Available | Show::Away | Show::Busy)
    }

    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Show::Offline => "offline",
            Show::Available => "available",
            Show::Away => "away",
            Show::Busy => "busy",
            Show::Unknown => "unknown",
        }
    }
}

/// How far our user trusts the key of a contact: `trust` of our own interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrustLevel {
    /// It announces no key.
    #[default]
    NoKey,
    /// It has a key; our user never dealt with it.
    Unpinned,
    /// Our user dealt with it: this key and no other.
    Pinned,
    /// Our user compared codes with it.
    Verified,
    /// Its name belongs to somebody with another key.
    Blocked,
}

impl TrustLevel {
    /// From the word on the bus. A word of a newer service counts as no trust at all.
    pub fn from_word(word: &str) -> Self {
        match word {
            "unpinned" => TrustLevel::Unpinned,
            "pinned" => TrustLevel::Pinned,
            "verified" => TrustLevel::Verified,
            "blocked" => TrustLevel::Blocked,
            _ => TrustLevel::NoKey,
        }
    }

    /// The word on the bus.
    pub fn as_str(self) -> &'static str {
        match self {
            TrustLevel::NoKey => "no-key",
            TrustLevel::Unpinned => "unpinned",
            TrustLevel::Pinned => "pinned",
            TrustLevel::Verified => "verified",
            TrustLevel::Blocked => "blocked",
        }
    }

    /// Whether it is one of our user's own contacts.
    pub fn is_pinned(self) -> bool {
        matches!(self, TrustLevel::Pinned | TrustLevel::Verified)
    }
}

/// What a person needs to judge a contact: `GetTrust` of our own interface. Times are seconds
/// since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// How far.
    pub level: TrustLevel,
    /// The key it proved or announces: 64 hexadecimal digits.
    pub fingerprint: Option<String>,
    /// Since when that key is pinned.
    pub pinned_since: Option<i64>,
    /// When codes were compared.
    pub verified_since: Option<i64>,
    /// Of a blocked contact: the key that its name belongs to.
    pub pinned_fingerprint: Option<String>,
}

impl Trust {
    /// Whether the contact is one of our user's own.
    pub fn is_pinned(&self) -> bool {
        self.level.is_pinned()
    }

    /// From the dictionary on the bus. What is missing or of another type is left out.
    pub fn from_map(map: &HashMap<String, OwnedVariant>) -> Self {
        Trust {
            level: text(map, "trust")
                .map(|word| TrustLevel::from_word(&word))
                .unwrap_or_default(),
            fingerprint: text(map, "fingerprint").filter(|text| !text.is_empty()),
            pinned_since: number(map, "pinned-since"),
            verified_since: number(map, "verified-since"),
            pinned_fingerprint: text(map, "pinned-fingerprint").filter(|text| !text.is_empty()),
        }
    }
}

/// A contact. Everything but the handle may come from the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// `Contact_Handle`
    pub handle: u32,
    /// `contact-id`: what selects it.
    pub id: String,
    /// The name it gives itself; never selects it.
    pub alias: String,
    /// Its presence.
    pub show: Show,
    /// What it wrote beside its presence.
    pub message: String,
    /// Whether it can be offered stream tubes.
    pub tubes: bool,
    /// Whether it takes files.
    pub files: bool,
    /// The services it announces for stream tubes, sorted.
    pub services: Vec<String>,
    /// Its key, and how far that is trusted.
    pub trust: Trust,
}

impl Contact {
    /// The interfaces whose attributes [`Contact::from_attributes`] reads.
    pub(super) const INTERFACES: [&'static str; 4] = [
        names::ALIASING,
        names::SIMPLE_PRESENCE,
        names::CONTACT_CAPABILITIES,
        names::TRUST,
    ];

    /// From the attributes on the bus.
    ///
    /// # Errors
    /// [`Kind::BadAnswer`] when it has no id; everything else may be missing.
    pub(super) fn from_attributes(
        handle: u32,
        attributes: &HashMap<String, OwnedVariant>,
    ) -> Result<Self> {
        let attribute = |interface: &str, name: &str| format!("{interface}/{name}");
        let id =
            text(attributes, &attribute(names::CONNECTION, "contact-id")).ok_or_else(|| {
                Error::new(
                    Kind::BadAnswer,
                    format!("the service knows no id for the contact with handle {handle}"),
                )
            })?;
        let mut contact = Contact {
            handle,
            id,
            alias: text(attributes, &attribute(names::ALIASING, "alias")).unwrap_or_default(),
            trust: attributes
                .get(&attribute(names::TRUST, "trust"))
                .and_then(|value| dictionary(value))
                .map(|map| Trust::from_map(&map))
                .unwrap_or_default(),
            ..Contact::default()
        };
        if let Some(Variant::Structure(presence)) = attributes
            .get(&attribute(names::SIMPLE_PRESENCE, "presence"))
            .map(|value| &**value)
            && let [Variant::U32(show), _, Variant::Str(message)] = presence.fields()
        {
            contact.show = Show::from_number(*show);
            contact.message = message.as_str().to_owned();
        }
        if let Some(Variant::Array(classes)) = attributes
            .get(&attribute(names::CONTACT_CAPABILITIES, "capabilities"))
            .map(|value| &**value)
        {
            classes.iter().for_each(|class| contact.take_class(class));
            contact.services.sort();
            contact.services.dedup();
        }
        Ok(contact)
    }

    /// Notes one requestable channel class: a structure of fixed and allowed properties.
    fn take_class(&mut self, class: &Variant<'_>) {
        let Variant::Structure(class) = class else {
            return;
        };
        let Some(Variant::Dict(fixed)) = class.fields().first() else {
            return;
        };
        let (mut stream_tube, mut file) = (false, false);
        let mut service = None;
        for (key, value) in fixed.iter() {
            let (Variant::Str(key), Variant::Variant(value)) = (key, value) else {
                continue;
            };
            let Variant::Str(value) = &**value else {
                continue;
            };
            if key.strip_prefix(names::CHANNEL) == Some(".ChannelType") {
                stream_tube = value.as_str() == names::STREAM_TUBE;
                file = value.as_str() == names::FILE_TRANSFER;
            } else if key.strip_prefix(names::STREAM_TUBE) == Some(".Service") {
                service = Some(value.as_str().to_owned());
            }
        }
        self.files |= file;
        if stream_tube {
            self.tubes = true;
            self.services.extend(service);
        }
    }
}

/// A dictionary (`a{sv}`) that is a value itself. `None` when it is something else.
pub(super) fn dictionary(value: &Variant<'_>) -> Option<HashMap<String, OwnedVariant>> {
    let Variant::Dict(dict) = value else {
        return None;
    };
    let mut map = HashMap::new();
    for (key, value) in dict.iter() {
        let (Variant::Str(key), Variant::Variant(value)) = (key, value) else {
            return None;
        };
        map.insert(key.as_str().to_owned(), value.try_to_owned().ok()?);
    }
    Some(map)
}

/// A text of a dictionary, where it is one.
pub(super) fn text(map: &HashMap<String, OwnedVariant>, key: &str) -> Option<String> {
    match &**map.get(key)? {
        Variant::Str(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// A number of a dictionary, whatever its width, where it is one.
pub(super) fn number(map: &HashMap<String, OwnedVariant>, key: &str) -> Option<i64> {
    match &**map.get(key)? {
        Variant::I64(number) => Some(*number),
        Variant::U64(number) => i64::try_from(*number).ok(),
        Variant::I32(number) => Some((*number).into()),
        Variant::U32(number) => Some((*number).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(value: impl Into<Variant<'static>>) -> OwnedVariant {
        OwnedVariant::try_from(value.into()).expect("no descriptors in it")
    }

    fn class(
        pairs: &[(&'static str, &'static str)],
    ) -> (HashMap<String, Variant<'static>>, Vec<String>) {
        let fixed = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), Variant::from(*value)))
            .collect();
        (fixed, vec![])
    }

    #[test]
    fn a_contact_is_read_from_its_attributes() {
        let attributes = HashMap::from([
            (
                format!("{}/contact-id", names::CONNECTION),
                owned("bob@desk"),
            ),
            (format!("{}/alias", names::ALIASING), owned("Bob")),
            (
                format!("{}/presence", names::SIMPLE_PRESENCE),
                owned((3u32, "away", "at lunch")),
            ),
            (
                format!("{}/trust", names::TRUST),
                owned(HashMap::from([
                    ("trust", Variant::from("verified")),
                    ("pinned-since", Variant::from(5i64)),
                ])),
            ),
            (
                format!("{}/capabilities", names::CONTACT_CAPABILITIES),
                owned(vec![
                    class(&[(
                        "org.freedesktop.Telepathy.Channel.ChannelType",
                        names::STREAM_TUBE,
                    )]),
                    class(&[
                        (
                            "org.freedesktop.Telepathy.Channel.ChannelType",
                            names::STREAM_TUBE,
                        ),
                        (
                            "org.freedesktop.Telepathy.Channel.Type.StreamTube.Service",
                            "rfb",
                        ),
                    ]),
                    class(&[("org.freedesktop.Telepathy.Channel.ChannelType", "other")]),
                    class(&[(
                        "org.freedesktop.Telepathy.Channel.ChannelType",
                        names::FILE_TRANSFER,
                    )]),
                ]),
            ),
        ]);
        let contact = Contact::from_attributes(7, &attributes).expect("it has an id");
        assert_eq!(
            contact,
            Contact {
                handle: 7,
                id: "bob@desk".into(),
                alias: "Bob".into(),
                show: Show::Away,
                message: "at lunch".into(),
                tubes: true,
                files: true,
                services: vec!["rfb".into()],
                trust: Trust {
                    level: TrustLevel::Verified,
                    pinned_since: Some(5),
                    ..Trust::default()
                },
            }
        );
    }

    #[test]
    fn wrong_types_are_left_out_and_a_missing_id_is_an_error() {
        let attributes = HashMap::from([
            (format!("{}/contact-id", names::CONNECTION), owned("x@y")),
            (format!("{}/alias", names::ALIASING), owned(7u32)),
            (format!("{}/trust", names::TRUST), owned("verified")),
            (
                format!("{}/presence", names::SIMPLE_PRESENCE),
                owned("away"),
            ),
            (
                format!("{}/capabilities", names::CONTACT_CAPABILITIES),
                owned(vec![1u32]),
            ),
        ]);
        let contact = Contact::from_attributes(1, &attributes).expect("it has an id");
        assert_eq!(contact.alias, "");
        assert_eq!(contact.show, Show::Unknown);
        assert_eq!(contact.trust, Trust::default());
        assert!(!contact.tubes);
        assert_eq!(
            Contact::from_attributes(1, &HashMap::new())
                .unwrap_err()
                .kind,
            Kind::BadAnswer
        );
    }

    #[test]
    fn trust_is_read_from_its_dictionary() {
        let map = HashMap::from([
            ("trust".to_owned(), owned("blocked")),
            ("fingerprint".to_owned(), owned("ab")),
            ("pinned-since".to_owned(), owned(12i64)),
            ("pinned-fingerprint".to_owned(), owned("cd")),
        ]);
        let trust = Trust::from_map(&map);
        assert_eq!(trust.level, TrustLevel::Blocked);
        assert_eq!(trust.fingerprint.as_deref(), Some("ab"));
        assert_eq!(trust.pinned_since, Some(12));
        assert_eq!(trust.verified_since, None);
        assert_eq!(trust.pinned_fingerprint.as_deref(), Some("cd"));
    }

    #[test]
    fn a_word_from_the_future_is_not_trust() {
        assert_eq!(TrustLevel::from_word("super-verified"), TrustLevel::NoKey);
        for level in ["no-key", "unpinned", "pinned", "verified", "blocked"] {
            assert_eq!(TrustLevel::from_word(level).as_str(), level);
        }
    }
}
