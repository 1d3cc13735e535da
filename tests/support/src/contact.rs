//! Contacts as a client sees them.

use std::collections::{HashMap, HashSet};

use zbus::OwnedVariant;

use crate::{Person, name};

/// A contact of the contact list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactInfo {
    /// Its handle.
    pub handle: u32,
    /// Its identifier.
    pub id: String,
    /// Its alias.
    pub alias: String,
    /// `Connection_Presence_Type`, 2 for available.
    pub presence: u32,
    /// Services of stream tubes it announces.
    pub services: HashSet<String>,
    /// Whether it takes stream tubes at all.
    pub stream_tubes: bool,
}

type Class = (HashMap<String, OwnedVariant>, Vec<String>);

impl Person {
    /// Everybody in the contact list now.
    ///
    /// # Panics
    /// When the Connection does not answer as the specification says.
    pub fn contacts(&self) -> Vec<ContactInfo> {
        let answer = self
            .on_connection(
                name::CONTACT_LIST,
                "GetContactListAttributes",
                &(vec![name::ALIASING, name::SIMPLE_PRESENCE], false),
            )
            .unwrap_or_else(|error| self.fail(&format!("GetContactListAttributes: {error}")));
        let attributes: HashMap<u32, HashMap<String, OwnedVariant>> =
            answer.body().deserialize().expect("a{ua{sv}}");
        let handles: Vec<u32> = attributes.keys().copied().collect();
        let mut classes: HashMap<u32, Vec<Class>> = self
            .on_connection(
                name::CONTACT_CAPABILITIES,
                "GetContactCapabilities",
                &(handles.clone(),),
            )
            .unwrap_or_else(|error| self.fail(&format!("GetContactCapabilities: {error}")))
            .body()
            .deserialize()
            .expect("a{ua(a{sv}as)}");
        let presences: HashMap<u32, (u32, String, String)> = self
            .on_connection(name::SIMPLE_PRESENCE, "GetPresences", &(handles,))
            .unwrap_or_else(|error| self.fail(&format!("GetPresences: {error}")))
            .body()
            .deserialize()
            .expect("a{u(uss)}");
        let mut contacts: Vec<ContactInfo> = attributes
            .into_iter()
            .map(|(handle, attributes)| {
                let text = |key: &str| {
                    attributes
                        .get(key)
                        .and_then(|value| value.downcast_ref::<String>().ok())
                        .unwrap_or_default()
                };
                let classes = classes.remove(&handle).unwrap_or_default();
                let of_stream_tubes = |class: &&Class| {
                    class
                        .0
                        .get(&format!("{}.ChannelType", name::CHANNEL))
                        .and_then(|value| value.downcast_ref::<String>().ok())
                        .is_some_and(|kind| kind == name::STREAM_TUBE)
                };
                let services = classes
                    .iter()
                    .filter(of_stream_tubes)
                    .filter_map(|class| class.0.get(&format!("{}.Service", name::STREAM_TUBE)))
                    .filter_map(|value| value.downcast_ref::<String>().ok())
                    .collect();
                ContactInfo {
                    handle,
                    id: text(&format!("{}/contact-id", name::CONNECTION)),
                    alias: text(&format!("{}/alias", name::ALIASING)),
                    presence: presences.get(&handle).map_or(0, |presence| presence.0),
                    services,
                    stream_tubes: classes.iter().any(|class| of_stream_tubes(&class)),
                }
            })
            .collect();
        contacts.sort_by(|a, b| a.id.cmp(&b.id));
        contacts
    }

    /// Waits until `other` is in the contact list and known to take stream tubes.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn sees(&self, other: &Person) -> ContactInfo {
        let what = format!("{} can be offered tubes", other.name());
        self.until(&what, || {
            self.contacts()
                .into_iter()
                .find(|contact| is_called(&contact.id, other.name()) && contact.stream_tubes)
        })
    }
}

/// Whether a contact id is `name` or `name@machine`.
fn is_called(id: &str, name: &str) -> bool {
    id.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
}
