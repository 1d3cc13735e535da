//! The difference between two states of the contacts, as signals.

use std::{collections::BTreeSet, sync::Arc};

use actors::model::ContactHandle;

use super::{
    contacts::{self, Contact, Contacts},
    view::ConnectionSignal,
};
use crate::session::Trust;

/// What to tell of `touched`, once: somebody who appeared and went between two publications was
/// never there. Who is on the list comes first, then what is known of them, then their trust.
pub fn signals(
    before: &Contacts,
    now: &Contacts,
    touched: &BTreeSet<ContactHandle>,
) -> Vec<ConnectionSignal> {
    let mut changed = Vec::new();
    let mut removed = Vec::new();
    let mut aliases = Vec::new();
    let mut presences = Vec::new();
    let mut capabilities = Vec::new();
    let mut trust = Vec::new();
    for handle in touched {
        let Ok(contact) = now.get(*handle) else {
            continue;
        };
        let old = before.get(*handle).ok();
        let was_listed = old.is_some_and(|old| old.listed);
        if contact.listed && !was_listed {
            changed.push(contact.clone());
        }
        if was_listed && !contact.listed {
            removed.push(contact.clone());
        }
        let gone = was_listed && !contact.listed;
        if differs(
            old,
            contact,
            |contact| contact.alias.clone(),
            || contact.id.as_ref().to_owned(),
        ) && !gone
        {
            aliases.push(contact.clone());
        }
        if differs(
            old,
            contact,
            |contact| contact.presence.clone(),
            contacts::offline,
        ) {
            presences.push(contact.clone());
        }
        if differs(
            old,
            contact,
            |contact| contact.capabilities.clone(),
            || None,
        ) && !gone
        {
            capabilities.push(contact.clone());
        }
        if differs(
            old,
            contact,
            |contact| (contact.key, contact.trust.clone()),
            || (None, Trust::NoKey),
        ) {
            trust.push(contact.clone());
        }
    }
    let mut signals = Vec::new();
    if !changed.is_empty() || !removed.is_empty() {
        signals.push(ConnectionSignal::ContactsChanged { changed, removed });
    }
    if !aliases.is_empty() {
        signals.push(ConnectionSignal::AliasesChanged(aliases));
    }
    if !presences.is_empty() {
        signals.push(ConnectionSignal::PresencesChanged(presences));
    }
    if !capabilities.is_empty() {
        signals.push(ConnectionSignal::CapabilitiesChanged(capabilities));
    }
    signals.extend(trust.into_iter().map(ConnectionSignal::TrustChanged));
    signals
}

/// Whether something about a contact is not what it was, or not what one assumes of somebody
/// nothing is known of.
fn differs<T: PartialEq>(
    old: Option<&Arc<Contact>>,
    now: &Arc<Contact>,
    what: impl Fn(&Contact) -> T,
    assumed: impl FnOnce() -> T,
) -> bool {
    old.map_or_else(assumed, |old| what(old)) != what(now)
}
