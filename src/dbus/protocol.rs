//! The Protocol object of `local-xmpp`, and its immutable properties.

use std::collections::BTreeMap;

use actors::model::Error;
use zbus::Variant;

use super::{
    error::{Result, answered, read},
    values::{self, Class, Map, ParamSpec, ReceivedMap, StatusSpec},
};
use crate::connection::{parameters::Account, protocol};
use crate::names;

/// `Protocol`.
#[derive(Debug)]
pub struct Protocol {
    login: String,
}

impl Protocol {
    /// The object; `login` is what `published-name` is where it is not given.
    pub fn new(login: String) -> Self {
        Protocol { login }
    }
}

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Protocol",
    introspection_docs = false
)]
impl Protocol {
    #[zbus(property(emits_changed_signal = "const"))]
    fn interfaces(&self) -> Result<Vec<String>> {
        read("Interfaces", || {
            values::strings(protocol::PROTOCOL_INTERFACES)
        })
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn parameters(&self) -> Result<Vec<ParamSpec>> {
        read("Parameters", values::param_specs)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn connection_interfaces(&self) -> Result<Vec<String>> {
        read("ConnectionInterfaces", || {
            values::strings(protocol::CONNECTION_INTERFACES)
        })
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn requestable_channel_classes(&self) -> Result<Vec<Class>> {
        read("RequestableChannelClasses", classes)
    }

    #[zbus(property(emits_changed_signal = "const"), name = "VCardField")]
    fn vcard_field(&self) -> Result<String> {
        read("VCardField", || protocol::VCARD_FIELD.to_owned())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn english_name(&self) -> Result<String> {
        read("EnglishName", || protocol::ENGLISH_NAME.to_owned())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn icon(&self) -> Result<String> {
        read("Icon", || protocol::ICON.to_owned())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn authentication_types(&self) -> Result<Vec<String>> {
        read("AuthenticationTypes", || {
            values::strings(protocol::AUTHENTICATION_TYPES)
        })
    }

    #[zbus(out_args("Account_ID"))]
    async fn identify_account(&self, parameters: ReceivedMap) -> Result<String> {
        answered("IdentifyAccount", async {
            let account = Account::new(&values::given_map(&parameters), &self.login)?;
            Ok(account.identifier().to_owned())
        })
        .await
    }

    /// Link-local names are what they are: nothing about them is normalised, and who is not there
    /// cannot be named. So a name that could be one is its own normal form.
    #[zbus(out_args("Normalized_Contact_ID"))]
    async fn normalize_contact(&self, contact_id: String) -> Result<String> {
        answered("NormalizeContact", async move {
            if contact_id.is_empty() || contact_id.chars().any(char::is_control) {
                return Err(Error::InvalidHandle(
                    "a contact's identifier is not empty and has no control characters".into(),
                ));
            }
            Ok(contact_id)
        })
        .await
    }
}

/// `Protocol.Interface.Presence`.
#[derive(Debug)]
pub struct ProtocolPresence;

#[zbus::interface(
    name = "org.freedesktop.Telepathy.Protocol.Interface.Presence",
    introspection_docs = false
)]
impl ProtocolPresence {
    #[zbus(property(emits_changed_signal = "const"))]
    fn statuses(&self) -> Result<BTreeMap<String, StatusSpec>> {
        read("Statuses", values::statuses)
    }
}

/// The Protocol's immutable properties by their full names, as `ConnectionManager.Protocols` has
/// them.
pub fn immutable_properties() -> Map {
    let name = |property: &str| format!("org.freedesktop.Telepathy.Protocol.{property}");
    let strings = |names: &[&str]| Variant::new(values::strings(names));
    Map::from([
        (name("Interfaces"), strings(protocol::PROTOCOL_INTERFACES)),
        (name("Parameters"), Variant::new(values::param_specs())),
        (
            name("ConnectionInterfaces"),
            strings(protocol::CONNECTION_INTERFACES),
        ),
        (name("RequestableChannelClasses"), Variant::new(classes())),
        (name("VCardField"), Variant::new(protocol::VCARD_FIELD)),
        (name("EnglishName"), Variant::new(protocol::ENGLISH_NAME)),
        (name("Icon"), Variant::new(protocol::ICON)),
        (
            name("AuthenticationTypes"),
            strings(protocol::AUTHENTICATION_TYPES),
        ),
        (
            format!("{}.Statuses", names::PROTOCOL_PRESENCE),
            Variant::new(values::statuses()),
        ),
    ])
}

fn classes() -> Vec<Class> {
    protocol::requestable_channel_classes()
        .iter()
        .map(values::class)
        .collect()
}
