//! The fuzzing target of TXT records. See [`crate::fuzzing`].

use super::{PresenceText, clean};
use crate::session::Presence;

/// The pairs of a record as they are on the wire (RFC 1035 section 3.3.14, RFC 6763 section 6): strings
/// with a byte of length each, a key up to the first `=`. A last string that is cut short counts.
fn pairs(mut data: &[u8]) -> Vec<(String, Option<&[u8]>)> {
    let mut pairs = Vec::new();
    while let Some((length, rest)) = data.split_first() {
        let (pair, after) = rest.split_at(usize::from(*length).min(rest.len()));
        data = after;
        let (key, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(place) => (&pair[..place], Some(&pair[place + 1..])),
            None => (pair, None),
        };
        pairs.push((String::from_utf8_lossy(key).into_owned(), value));
    }
    pairs
}

fn read(pairs: &[(String, Option<&[u8]>)]) -> PresenceText {
    PresenceText::read(pairs.iter().map(|(key, value)| (key.as_str(), *value)))
}

/// What is written of a text, read back.
fn written_and_read(text: &PresenceText) -> PresenceText {
    let pairs = text.pairs(5298);
    for (key, value) in &pairs {
        assert!(
            (1..=255).contains(&(key.len() + 1 + value.len())),
            "{key} is too long"
        );
    }
    PresenceText::read(
        pairs
            .iter()
            .map(|(key, value)| (key.as_str(), Some(value.as_bytes()))),
    )
}

/// A TXT record ([`PresenceText`]), as it is on the wire.
pub fn txt(data: &[u8]) {
    let text = read(&pairs(data));
    let back = written_and_read(&text);
    let texts = |text: &PresenceText| {
        [
            &text.first_name,
            &text.last_name,
            &text.nickname,
            &text.email,
            &text.jid,
            &text.message,
            &text.node,
            &text.ver,
            &text.hash,
        ]
        .map(String::clone)
    };
    for (shown, again) in texts(&text).iter().zip(&texts(&back)) {
        assert!(shown.chars().count() <= 128);
        assert!(!shown.chars().any(deceives), "{shown:?}");
        assert_eq!(clean(shown), *shown);
        assert_eq!(shown.trim(), shown);
        // Cut where it does not fit its pair, else the same.
        assert!(
            shown.starts_with(again.as_str()),
            "{shown:?} became {again:?}"
        );
        assert!(shown.len() > 200 || again == shown);
    }
    assert_eq!(back.key, text.key);
    let message = back.message.clone();
    assert_eq!(
        back.presence(),
        Presence {
            message,
            ..text.presence()
        }
    );
    assert_eq!(
        written_and_read(&back),
        back,
        "what was read back changes once more"
    );
    let alias = text.alias("romeo@forza");
    assert!(!alias.is_empty() && !alias.chars().any(deceives));
}

/// Characters that end a line, turn the direction of writing or take no room: a second list, shorter
/// than the first.
fn deceives(c: char) -> bool {
    c.is_control()
        || ('\u{200B}'..='\u{200F}').contains(&c)
        || ('\u{202A}'..='\u{202E}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
}
