//! Whether somebody who opened a stream is who it says.

use std::net::IpAddr;

use super::super::discovery::Sighting;
use crate::session::{ContactId, Trust, trust::KeyId};

use super::{Claim, Contacts};

/// Whether somebody in plaintext comes from where the record says. Avahi leaves a machine's IPv6
/// link-local address out of the record when there are others, and the machine uses it all the same:
/// such an address is believed where the record has none. Whoever has one is on this link, and could
/// as well answer for the record.
fn is_its_own(sighting: &Sighting, address: IpAddr) -> bool {
    let link_local = |address: IpAddr| match address {
        IpAddr::V6(address) => address.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    };
    let mut own = sighting.addresses.iter().map(|own| own.ip());
    own.clone().any(|own| own == address) || link_local(address) && !own.any(link_local)
}

impl Contacts {
    /// Somebody opened a stream, as `from`, proving `key` (or none, in plaintext), from `address`.
    pub fn claim(&self, from: &str, key: Option<KeyId>, address: IpAddr) -> Claim {
        if key == Some(self.own_key) || from == self.own_name {
            return Claim::Refused("that is us");
        }
        let seen = self.sightings.get(from).map(|seen| &seen.sighting);
        let Some(key) = key else {
            return self.plain_claim(from, seen, address);
        };
        let id = match seen {
            Some(sighting) if sighting.text.key == Some(key) => self.by_instance.get(from),
            // Out of sight, but it was resolved before, under this name and with this key.
            None => self
                .entries
                .iter()
                .find(|(_, entry)| {
                    let last = entry.last.as_ref().map(|last| last.instance.as_str());
                    entry.key == Some(key) && last == Some(from)
                })
                .map(|(id, _)| id),
            Some(_) => None,
        };
        match id {
            Some(id) if self.is_blocked(id) => Claim::Refused("its name is pinned to another key"),
            Some(id) => Claim::Is(id.clone()),
            None => Claim::Unknown,
        }
    }

    pub(super) fn plain_claim(
        &self,
        from: &str,
        seen: Option<&Sighting>,
        address: IpAddr,
    ) -> Claim {
        if self.require_encryption {
            return Claim::Refused("encryption is required");
        }
        let Some(sighting) = seen else {
            return Claim::Unknown;
        };
        if sighting.text.key.is_some() {
            return Claim::Refused("it announces a key and proved none");
        }
        if !is_its_own(sighting, address) {
            return Claim::Refused("it comes from an address that is not its own");
        }
        match self.by_instance.get(from) {
            Some(id) if self.is_blocked(id) => Claim::Refused("its name is pinned to a key"),
            Some(id) => Claim::Is(id.clone()),
            None => Claim::Unknown,
        }
    }

    pub(super) fn is_blocked(&self, id: &ContactId) -> bool {
        self.entries
            .get(id)
            .is_some_and(|entry| matches!(entry.trust, Trust::Blocked { .. }))
    }

    /// Whether a stream that proved `key` may be used for the contact.
    pub fn is_key_of(&self, id: &ContactId, key: Option<KeyId>) -> bool {
        self.entries
            .get(id)
            .is_some_and(|entry| entry.key == key && !matches!(entry.trust, Trust::Blocked { .. }))
    }
}
