//! The TXT record (XEP-0174 section 3.1, table 1), read and written. Pure.
//!
//! Whatever a stranger wrote is made harmless here: texts are cut, and lose control characters and
//! those that turn the direction of writing, so that no name on a screen looks like another's.

use crate::session::{Presence, Show, trust::KeyId};

/// Most characters of a text that are kept.
const MAX_TEXT: usize = 128;
/// One `key=value` has at most this many bytes (RFC 6763 section 6.1).
const MAX_PAIR: usize = 255;

/// Our own key in the record: the SHA-256 of the public key, hexadecimal.
const KEY: &str = "pneuma-key";

/// What the record says. Everything is a hint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceText {
    /// `1st`
    pub first_name: String,
    /// `last`
    pub last_name: String,
    /// `nick`
    pub nickname: String,
    /// `email`
    pub email: String,
    /// `jid`
    pub jid: String,
    /// `status`; a record without one is available.
    pub show: Option<Show>,
    /// `msg`
    pub message: String,
    /// `node` (XEP-0115)
    pub node: String,
    /// `ver` (XEP-0115)
    pub ver: String,
    /// `hash` (XEP-0115)
    pub hash: String,
    /// The key it claims, ours to compare with the one a stream proves.
    pub key: Option<KeyId>,
}

impl PresenceText {
    /// Reads a record. Unknown keys, keys given twice (the first counts) and values that are not
    /// UTF-8 are ignored.
    pub fn read<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>) -> Self {
        let mut text = PresenceText::default();
        let mut seen = Vec::new();
        for (key, value) in pairs {
            let key = key.to_ascii_lowercase();
            let Some(value) = value.and_then(|value| std::str::from_utf8(value).ok()) else {
                continue;
            };
            let place = match key.as_str() {
                "1st" => &mut text.first_name,
                "last" => &mut text.last_name,
                "nick" => &mut text.nickname,
                "email" => &mut text.email,
                "jid" => &mut text.jid,
                "msg" => &mut text.message,
                "node" => &mut text.node,
                "ver" => &mut text.ver,
                "hash" => &mut text.hash,
                "status" => {
                    text.show = text.show.or(match value {
                        "avail" => Some(Show::Available),
                        "away" => Some(Show::Away),
                        "dnd" => Some(Show::Busy),
                        _ => None,
                    });
                    continue;
                }
                KEY => {
                    text.key = text.key.or(value.parse().ok());
                    continue;
                }
                _ => continue,
            };
            if !seen.contains(&key) {
                *place = clean(value);
                seen.push(key);
            }
        }
        text
    }

    /// Writes a record for a listener on `port`. A value too long for its pair is cut.
    pub fn pairs(&self, port: u16) -> Vec<(String, String)> {
        let show = match self.show {
            Some(Show::Away) => "away",
            Some(Show::Busy) => "dnd",
            Some(Show::Available | Show::Offline) | None => "avail",
        };
        let key = self.key.map(|key| key.to_string()).unwrap_or_default();
        let port = port.to_string();
        [
            ("txtvers", "1"),
            ("port.p2pj", &port),
            ("1st", &self.first_name),
            ("last", &self.last_name),
            ("nick", &self.nickname),
            ("email", &self.email),
            ("jid", &self.jid),
            ("status", show),
            ("msg", &self.message),
            ("node", &self.node),
            ("ver", &self.ver),
            ("hash", &self.hash),
            (KEY, &key),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| {
            let value = super::truncated(value, MAX_PAIR - key.len() - 1);
            (key.to_owned(), value.to_owned())
        })
        .collect()
    }

    /// The presence it announces.
    pub fn presence(&self) -> Presence {
        Presence {
            show: self.show.unwrap_or(Show::Available),
            message: self.message.clone(),
        }
    }

    /// What the contact calls itself: its nickname, else its names, else `instance`.
    pub fn alias(&self, instance: &str) -> String {
        if !self.nickname.is_empty() {
            return self.nickname.clone();
        }
        let names = format!("{} {}", self.first_name, self.last_name);
        match names.trim() {
            "" => instance.to_owned(),
            names => names.to_owned(),
        }
    }
}

/// A stranger's text, for a screen: cut to a line, without control characters and without those
/// that turn the direction of writing or take no room.
pub fn clean(text: &str) -> String {
    let harmless = |c: &char| {
        !c.is_control()
            && !matches!(c,
                '\u{061C}' | '\u{00AD}' | '\u{180E}' | '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FE00}'..='\u{FE0F}'
                | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFF}' | '\u{E0000}'..='\u{E0FFF}')
    };
    let text: String = text.chars().filter(harmless).take(MAX_TEXT).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pairs: &[(String, String)]) -> PresenceText {
        PresenceText::read(
            pairs
                .iter()
                .map(|(key, value)| (key.as_str(), Some(value.as_bytes()))),
        )
    }

    #[test]
    fn a_record_survives_being_written_and_read() {
        let text = PresenceText {
            first_name: "Romeo".into(),
            last_name: "Montague".into(),
            nickname: "rö".into(),
            email: "r@m.example".into(),
            jid: "romeo@montague.example".into(),
            show: Some(Show::Busy),
            message: "at the balcony".into(),
            node: "https://example.org".into(),
            ver: "q07IKJEyjvHSyhy//CH0CxmKi8w=".into(),
            hash: "sha-1".into(),
            key: Some(KeyId([0xab; 32])),
        };
        let pairs = text.pairs(5562);
        assert!(pairs.contains(&("txtvers".into(), "1".into())));
        assert!(pairs.contains(&("port.p2pj".into(), "5562".into())));
        assert_eq!(read(&pairs), text);
    }

    #[test]
    fn an_alias_is_the_nickname_then_the_names_then_the_instance() {
        let mut text = PresenceText::default();
        assert_eq!(text.alias("romeo@forza"), "romeo@forza");
        text.last_name = "Montague".into();
        assert_eq!(text.alias("romeo@forza"), "Montague");
        text.nickname = "r".into();
        assert_eq!(text.alias("romeo@forza"), "r");
    }

    #[test]
    fn texts_lose_what_deceives_the_eye() {
        let text = PresenceText::read([
            ("nick", Some("Juliet\u{202E}\u{200B}\n\u{7}".as_bytes())),
            ("NICK", Some(b"second".as_slice())),
            ("msg", Some(b"\xff\xfe".as_slice())),
            ("status", Some(b"gone fishing".as_slice())),
            (KEY, Some(b"no key".as_slice())),
            ("1st", None),
        ]);
        assert_eq!(text.nickname, "Juliet");
        assert_eq!(
            (text.message.as_str(), text.show, text.key),
            ("", None, None)
        );
        assert_eq!(clean(&"x".repeat(1000)).len(), MAX_TEXT);
    }

    #[test]
    fn a_long_value_is_cut_to_fit_its_pair() {
        let text = PresenceText {
            message: "ö".repeat(300),
            ..PresenceText::default()
        };
        for (key, value) in text.pairs(1) {
            assert!(key.len() + 1 + value.len() <= MAX_PAIR, "{key}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_bounded_and_harmless(
            pairs in proptest::collection::vec(("[ -~]{0,12}|nick|msg|ver|pneuma-key",
                proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300))), 0..20)
        ) {
            let text = PresenceText::read(
                pairs.iter().map(|(key, value)| (key.as_str(), value.as_deref())));
            for value in [&text.nickname, &text.message, &text.ver] {
                prop_assert!(value.chars().count() <= MAX_TEXT);
                prop_assert!(!value.chars().any(char::is_control));
            }
        }
    }
}
