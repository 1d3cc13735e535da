//! Whom the user means. A part of an id selects among our user's own (pinned) contacts only;
//! anybody else takes the whole id. The name a contact gives itself never selects: anybody can
//! call himself anything.

use crate::client::{Contact, TrustLevel};

use super::text::safe;

/// Most ids that an error names; a network can be full of strangers.
const MOST_NAMED: usize = 5;

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection<'a> {
    /// One of our user's own contacts.
    Known(&'a Contact),
    /// Somebody our user never dealt with, by the whole id: takes a confirmation.
    Stranger(&'a Contact),
    /// Several of our user's contacts fit: a sentence.
    Ambiguous(String),
    /// Nobody fits now; whoever has exactly this id may still appear.
    Nobody(String),
}

/// Selects; see the module's head.
pub fn select<'a>(wanted: &str, contacts: &'a [Contact]) -> Selection<'a> {
    if let Some(contact) = contacts.iter().find(|contact| contact.id == wanted) {
        return if contact.trust.is_pinned() {
            Selection::Known(contact)
        } else {
            Selection::Stranger(contact)
        };
    }
    let folded = wanted.to_lowercase();
    let fits = |contact: &&Contact| contact.id.to_lowercase().contains(&folded);
    let mut known: Vec<&Contact> = contacts
        .iter()
        .filter(|contact| contact.trust.is_pinned())
        .filter(fits)
        .collect();
    if wanted.is_empty() {
        known.clear();
    }
    // The whole name before the @ beats a part of a longer one.
    let whole = |contact: &&Contact| {
        contact
            .id
            .rsplit_once('@')
            .is_some_and(|(name, _)| name.to_lowercase() == folded)
    };
    if known.iter().filter(|contact| whole(contact)).count() == 1 {
        known.retain(whole);
    }
    match known[..] {
        [contact] => Selection::Known(contact),
        [] => Selection::Nobody(nobody(wanted, contacts, fits)),
        _ => Selection::Ambiguous(format!(
            "`{}` fits several of your contacts: {}; write more of the one you mean",
            safe(wanted),
            named(&known)
        )),
    }
}

/// Why nobody was selected, and what to do.
fn nobody(wanted: &str, contacts: &[Contact], fits: impl Fn(&&Contact) -> bool) -> String {
    let strangers: Vec<&Contact> = contacts
        .iter()
        .filter(|contact| !contact.trust.is_pinned() && !wanted.is_empty())
        .filter(fits)
        .collect();
    if strangers.is_empty() {
        format!(
            "nobody called `{}` is among your contacts or on this network; `pneuma contacts` lists who is",
            safe(wanted)
        )
    } else {
        format!(
            "`{}` is not one of your contacts, and a part of a name selects only those; for somebody new write the whole id: {}",
            safe(wanted),
            named(&strangers)
        )
    }
}

fn named(contacts: &[&Contact]) -> String {
    let mut text = contacts
        .iter()
        .take(MOST_NAMED)
        .map(|contact| safe(&contact.id))
        .collect::<Vec<_>>()
        .join(", ");
    if contacts.len() > MOST_NAMED {
        text.push_str(&format!(" and {} more", contacts.len() - MOST_NAMED));
    }
    text
}

/// Whether a contact can never be dealt with as it is.
pub fn is_blocked(contact: &Contact) -> bool {
    contact.trust.level == TrustLevel::Blocked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Trust;

    fn contact(id: &str, alias: &str, trust: TrustLevel) -> Contact {
        Contact {
            id: id.into(),
            alias: alias.into(),
            trust: Trust {
                level: trust,
                ..Trust::default()
            },
            ..Contact::default()
        }
    }

    fn people() -> Vec<Contact> {
        vec![
            contact("bob@desk", "Alice", TrustLevel::Pinned),
            contact("bobby@shed", "", TrustLevel::Verified),
            contact("eve@desk", "bob", TrustLevel::Unpinned),
            contact("mallory@cellar", "carol", TrustLevel::NoKey),
            contact("carol@attic", "", TrustLevel::Verified),
            contact("dave@x", "", TrustLevel::Blocked),
        ]
    }

    fn chosen(wanted: &str) -> Result<String, String> {
        match select(wanted, &people()) {
            Selection::Known(contact) => Ok(contact.id.clone()),
            Selection::Stranger(contact) => Err(format!("stranger {}", contact.id)),
            Selection::Ambiguous(_) => Err("ambiguous".into()),
            Selection::Nobody(_) => Err("nobody".into()),
        }
    }

    #[test]
    fn a_part_selects_one_own_contact() {
        assert_eq!(chosen("car"), Ok("carol@attic".into()));
        assert_eq!(chosen("SHED"), Ok("bobby@shed".into()));
        assert_eq!(chosen("bob"), Ok("bob@desk".into()), "the whole name wins");
        assert_eq!(chosen("bo"), Err("ambiguous".into()));
    }

    #[test]
    fn strangers_take_the_whole_id() {
        assert_eq!(chosen("eve"), Err("nobody".into()));
        assert_eq!(chosen("mallory"), Err("nobody".into()));
        assert_eq!(chosen("eve@desk"), Err("stranger eve@desk".into()));
        assert_eq!(chosen("dave"), Err("nobody".into()));
        assert_eq!(chosen("dave@x"), Err("stranger dave@x".into()));
    }

    #[test]
    fn an_alias_never_selects() {
        assert_eq!(chosen("Alice"), Err("nobody".into()));
        let eve_first = vec![
            contact("eve@desk", "carol@attic", TrustLevel::Pinned),
            contact("carol@attic", "", TrustLevel::Pinned),
        ];
        assert_eq!(
            select("carol@attic", &eve_first),
            Selection::Known(&eve_first[1])
        );
    }

    #[test]
    fn nothing_selects_nobody() {
        assert_eq!(chosen(""), Err("nobody".into()));
        assert_eq!(chosen("zoe"), Err("nobody".into()));
    }

    #[test]
    fn sentences_name_whom_they_can_and_hide_tricks() {
        let people = vec![contact("e\u{202e}ve@desk", "", TrustLevel::Unpinned)];
        let Selection::Nobody(text) = select("ve@", &people) else {
            panic!("a stranger was selected by a part of its id");
        };
        assert!(text.contains("e\\u{202e}ve@desk"), "{text}");
        let crowd: Vec<_> = (0..9)
            .map(|n| contact(&format!("x{n}@y"), "", TrustLevel::Pinned))
            .collect();
        let Selection::Ambiguous(text) = select("x", &crowd) else {
            panic!("nine contacts were one");
        };
        assert!(text.contains("x4@y and 4 more"), "{text}");
    }
}
