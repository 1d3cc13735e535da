//! Everybody a connection has a handle for, and what is known of them.
//!
//! Handles are immortal (`HasImmortalHandles`): a number once given belongs to its identifier for
//! the connection's life, whether the contact is there or not. So the table only grows, to
//! [`MAX_HANDLES`]; whoever appears after that stays invisible, except that the last
//! [`KEPT_FOR_PINNED`] places are kept for contacts our user has dealt with. The table is published
//! as a whole inside the connection's snapshot; cloning it copies pointers.

use std::{collections::BTreeMap, sync::Arc};

use actors::model::{ContactHandle, Error};

use super::{capabilities::Capabilities, requests::Target};
use crate::session::{self, ContactId, Presence, Show, Trust, trust::KeyId};

/// Most handles one connection gives out.
pub const MAX_HANDLES: usize = 16_384;
/// How many of them only pinned contacts (and ourselves) get.
pub const KEPT_FOR_PINNED: usize = 1_024;

/// What is known of one contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The handle.
    pub handle: ContactHandle,
    /// `contact-id`
    pub id: Arc<str>,
    /// `alias`; the identifier where the contact gives itself none.
    pub alias: String,
    /// `presence`
    pub presence: Presence,
    /// `capabilities`; `None` while they are unknown.
    pub capabilities: Option<Arc<Capabilities>>,
    /// The key it proved or announces.
    pub key: Option<KeyId>,
    /// How far the key is trusted.
    pub trust: Trust,
    /// Whether it is on the contact list: the contacts that are on the network and the pinned ones.
    pub listed: bool,
}

impl Contact {
    fn unknown(handle: ContactHandle, id: Arc<str>) -> Self {
        Contact {
            handle,
            alias: id.as_ref().to_owned(),
            id,
            presence: offline(),
            capabilities: None,
            key: None,
            trust: Trust::NoKey,
            listed: false,
        }
    }

    /// Whether our user has dealt with it.
    pub fn is_pinned(&self) -> bool {
        is_pinned(&self.trust)
    }

    /// The identifier as the session takes it.
    pub fn contact_id(&self) -> ContactId {
        ContactId(self.id.as_ref().to_owned())
    }
}

/// A blocked contact is not: whoever makes a key can be one more of them.
fn is_pinned(trust: &Trust) -> bool {
    matches!(trust, Trust::Pinned { .. } | Trust::Verified { .. })
}

/// The presence of somebody who is not there.
pub fn offline() -> Presence {
    Presence {
        show: Show::Offline,
        message: String::new(),
    }
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contacts {
    /// By handle; handle 1 is at index 0, so numbers are never reused and never 0.
    by_handle: Vec<Arc<Contact>>,
    by_id: BTreeMap<Arc<str>, ContactHandle>,
    /// Whoever has no key is spoken to all the same, without encryption.
    plaintext: bool,
    /// The log was told that there is no room for more; once is enough.
    full: bool,
}

impl Contacts {
    /// Nobody yet. `plaintext`: the account allows it with those who have no key.
    pub fn new(plaintext: bool) -> Self {
        Contacts {
            plaintext,
            ..Contacts::default()
        }
    }

    /// The contact behind a handle.
    ///
    /// # Errors
    /// `InvalidHandle`.
    pub fn get(&self, handle: ContactHandle) -> Result<&Arc<Contact>, Error> {
        self.index(handle)
            .and_then(|index| self.by_handle.get(index))
            .ok_or_else(|| Error::InvalidHandle(format!("there is no contact handle {}", handle.0)))
    }

    /// The contact of an identifier that was seen before. Nobody else can be named: on a link-local
    /// network whoever is not there cannot be reached, and inventing handles would fill the table.
    ///
    /// # Errors
    /// `InvalidHandle`.
    pub fn by_id(&self, id: &str) -> Result<&Arc<Contact>, Error> {
        let handle = self.by_id.get(id).ok_or_else(|| {
            Error::InvalidHandle(format!(
                "nobody called '{}' has been seen on this network",
                shortened(id)
            ))
        })?;
        self.get(*handle)
    }

    /// The contact that a request names.
    ///
    /// # Errors
    /// `InvalidHandle`.
    pub fn named(&self, target: &Target) -> Result<&Arc<Contact>, Error> {
        match target {
            Target::Handle(handle) => self.get(*handle),
            Target::Id(id) => self.by_id(id),
        }
    }

    /// The contacts on the contact list.
    pub fn listed(&self) -> impl Iterator<Item = &Arc<Contact>> {
        self.by_handle.iter().filter(|contact| contact.listed)
    }

    /// How many handles were given out.
    pub fn len(&self) -> usize {
        self.by_handle.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.by_handle.is_empty()
    }

    /// The handle of an identifier, which gets one now if it has none. `important` for ourselves
    /// and for pinned contacts.
    ///
    /// # Errors
    /// `ResourceUnavailable` when the table is full.
    pub fn ensure(&mut self, id: &str, important: bool) -> Result<ContactHandle, Error> {
        if let Some(handle) = self.by_id.get(id) {
            return Ok(*handle);
        }
        let most = if important {
            MAX_HANDLES
        } else {
            MAX_HANDLES - KEPT_FOR_PINNED
        };
        let next = u32::try_from(self.by_handle.len() + 1).ok();
        let (Some(number), true) = (next, self.by_handle.len() < most) else {
            if !self.full {
                self.full = true;
                tracing::warn!(
                    contacts = self.by_handle.len(),
                    "too many contacts were seen: new ones stay invisible until the next connection"
                );
            }
            return Err(Error::ResourceUnavailable(
                "this connection has seen more contacts than it keeps handles for".into(),
            ));
        };
        let handle = ContactHandle(number);
        let id: Arc<str> = id.into();
        self.by_id.insert(id.clone(), handle);
        self.by_handle.push(Arc::new(Contact::unknown(handle, id)));
        Ok(handle)
    }

    /// Takes what the session says of a contact; gives its handle.
    ///
    /// # Errors
    /// `ResourceUnavailable` when the table is full.
    pub fn update(&mut self, seen: session::Contact) -> Result<ContactHandle, Error> {
        let handle = self.ensure(&seen.id.0, is_pinned(&seen.trust))?;
        // Programs that have no key and answer no questions take files, and clients look for that in the
        // capabilities.
        let silent = self.plaintext && seen.key.is_none() && seen.trust == Trust::NoKey;
        self.change(handle, |contact| {
            contact.alias = if seen.alias.is_empty() {
                seen.id.0
            } else {
                seen.alias
            };
            // Whoever is not there can do nothing: programs such as ssh-contact list whom they can reach by
            // capabilities alone.
            let known = match seen.features.as_deref() {
                Some(features) => Some(Capabilities::of_features(features)),
                None => silent.then(Capabilities::of_the_silent),
            };
            contact.capabilities = known
                .filter(|_| seen.presence.show != Show::Offline)
                .map(Arc::new);
            contact.presence = seen.presence;
            contact.key = seen.key;
            contact.trust = seen.trust;
            contact.listed = true;
        });
        Ok(handle)
    }

    /// The contact has gone and is not pinned: only its handle stays.
    pub fn remove(&mut self, id: &ContactId) -> Option<ContactHandle> {
        let handle = *self.by_id.get(id.0.as_str())?;
        self.change(handle, |contact| {
            *contact = Contact::unknown(contact.handle, contact.id.clone());
        });
        Some(handle)
    }

    /// Changes one contact; nothing for an unknown handle.
    pub fn change(&mut self, handle: ContactHandle, change: impl FnOnce(&mut Contact)) {
        if let Some(contact) = self
            .index(handle)
            .and_then(|index| self.by_handle.get_mut(index))
        {
            change(Arc::make_mut(contact));
        }
    }

    fn index(&self, handle: ContactHandle) -> Option<usize> {
        usize::try_from(handle.0).ok()?.checked_sub(1)
    }
}

/// What a caller wrote, short enough to be said back to it.
pub fn shortened(text: &str) -> String {
    const MOST: usize = 64;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: &str, trust: Trust) -> session::Contact {
        session::Contact {
            id: ContactId(id.into()),
            alias: String::new(),
            presence: Presence {
                show: Show::Available,
                message: String::new(),
            },
            features: None,
            key: None,
            trust,
        }
    }

    #[test]
    fn a_handle_stays_with_its_contact() {
        let mut contacts = Contacts::default();
        let ada = contacts.update(seen("ada@a", Trust::Unpinned)).unwrap();
        let bob = contacts.update(seen("bob@b", Trust::Unpinned)).unwrap();
        assert_eq!((ada.0, bob.0), (1, 2));
        assert_eq!(contacts.get(ada).unwrap().alias, "ada@a");
        assert_eq!(contacts.remove(&ContactId("ada@a".into())), Some(ada));
        assert!(!contacts.get(ada).unwrap().listed);
        assert_eq!(contacts.listed().count(), 1);
        assert_eq!(
            contacts.update(seen("ada@a", Trust::Unpinned)).unwrap(),
            ada
        );
        assert_eq!(contacts.by_id("ada@a").unwrap().handle, ada);
        assert!(contacts.by_id("eve@e").is_err());
        assert!(contacts.get(ContactHandle(0)).is_err());
        assert!(contacts.get(ContactHandle(3)).is_err());
        assert!(contacts.get(ContactHandle(u32::MAX)).is_err());
    }

    #[test]
    fn a_contact_that_is_not_there_can_do_nothing() {
        let mut contacts = Contacts::default();
        let since = std::time::UNIX_EPOCH;
        let capable = || {
            let features = [crate::xmpp::ns::TUBES, crate::xmpp::ns::PNEUMA];
            session::Contact {
                features: Some(Arc::new(features.map(str::to_owned).into())),
                ..seen("bob@b", Trust::Pinned { since })
            }
        };
        let bob = contacts.update(capable()).unwrap();
        let can = |contacts: &Contacts| contacts.get(bob).unwrap().capabilities.clone();
        assert!(can(&contacts).unwrap().tubes);
        let mut gone = capable();
        gone.presence.show = Show::Offline;
        contacts.update(gone).unwrap();
        assert_eq!(can(&contacts), None);
        // What it can do is known once more as soon as it is back.
        contacts.update(capable()).unwrap();
        assert!(can(&contacts).unwrap().tubes);
    }

    #[test]
    fn who_has_no_key_and_says_nothing_takes_files_where_plaintext_is_allowed() {
        let takes = |plaintext, seen: session::Contact| {
            let mut contacts = Contacts::new(plaintext);
            let handle = contacts.update(seen).unwrap();
            let capabilities = contacts.get(handle).unwrap().capabilities.clone();
            capabilities.map(|can| (can.files, can.tubes))
        };
        let pidgin = || seen("pidgin@p", Trust::NoKey);
        assert_eq!(takes(true, pidgin()), Some((true, false)));
        assert_eq!(takes(false, pidgin()), None);
        let key = Some(KeyId([1; 32]));
        let ours = session::Contact {
            key,
            ..seen("bob@b", Trust::Unpinned)
        };
        assert_eq!(takes(true, ours), None);
        let says_no = session::Contact {
            features: Some(Arc::default()),
            ..pidgin()
        };
        assert_eq!(takes(true, says_no), Some((false, false)));
        let mut gone = pidgin();
        gone.presence.show = Show::Offline;
        assert_eq!(takes(true, gone), None);
    }

    #[test]
    fn a_crowd_fills_the_table_but_not_the_places_of_pinned_contacts() {
        let mut contacts = Contacts::default();
        for number in 0..MAX_HANDLES {
            let fits = contacts.ensure(&format!("n{number}"), false).is_ok();
            assert_eq!(fits, number < MAX_HANDLES - KEPT_FOR_PINNED);
        }
        let since = std::time::UNIX_EPOCH;
        contacts
            .update(seen("friend", Trust::Pinned { since }))
            .unwrap();
        assert!(contacts.update(seen("stranger", Trust::Unpinned)).is_err());
        contacts.update(seen("n7", Trust::Unpinned)).unwrap();
    }
}
