//! Features of service discovery and classes of channels, in both directions.
//!
//! A contact that announces the tubes' namespace and ours can be offered tubes, and one that also
//! announces a service has somebody waiting for it. What our own handlers wait for arrives by
//! UpdateCapabilities and leaves as features.

use std::collections::{BTreeMap, BTreeSet};

use actors::model::ServiceName;

use super::{
    protocol::{ChannelClass, HANDLE_TYPE_CONTACT, property, stream_tube_class},
    value::{Given, GivenMap},
};
use crate::names;
use crate::xmpp::ns;

/// Most services of one contact that are shown; the others are not there.
pub const MAX_SERVICES: usize = 128;
/// Most clients whose capabilities are kept; those of further ones are ignored, since
/// UpdateCapabilities must not fail.
pub const MAX_CLIENTS: usize = 256;

/// What a contact can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Stream tubes can be offered.
    pub stream_tubes: bool,
    /// Services it announces.
    pub services: BTreeSet<String>,
}

impl Capabilities {
    /// Reads a contact's features. Services count only beside the tubes themselves.
    pub fn of_features(features: &BTreeSet<String>) -> Self {
        let stream_tubes = features.contains(ns::TUBES) && features.contains(ns::PNEUMA);
        if !stream_tubes {
            return Capabilities::default();
        }
        let prefix = service_feature("");
        let services = features
            .iter()
            .filter_map(|feature| feature.strip_prefix(&prefix))
            .filter(|service| ServiceName::new(*service).is_ok())
            .take(MAX_SERVICES)
            .map(str::to_owned)
            .collect();
        Capabilities {
            stream_tubes,
            services,
        }
    }

    /// The channel classes they mean: the generic one and one for each service.
    pub fn classes(&self) -> Vec<ChannelClass> {
        if !self.stream_tubes {
            return Vec::new();
        }
        std::iter::once(stream_tube_class(None))
            .chain(
                self.services
                    .iter()
                    .map(|service| stream_tube_class(Some(service))),
            )
            .collect()
    }
}

fn service_feature(service: &str) -> String {
    format!("{}/stream#{service}", ns::TUBES)
}

/// `Handler_Capabilities` of one client, as far as it means something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCapabilities {
    /// `Well_Known_Name`
    pub client: String,
    /// `Channel_Classes`
    pub filters: Vec<GivenMap>,
}

/// What our own clients can do, by client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnCapabilities(BTreeMap<String, BTreeSet<String>>);

impl OwnCapabilities {
    /// Replaces what these clients can do. A client without services is forgotten.
    pub fn update(&mut self, clients: Vec<ClientCapabilities>) {
        for client in clients {
            let services: BTreeSet<String> = client
                .filters
                .iter()
                .filter_map(announced_service)
                .take(MAX_SERVICES)
                .collect();
            self.0.remove(&client.client);
            if services.is_empty() {
                continue;
            }
            if self.0.len() >= MAX_CLIENTS {
                tracing::warn!(
                    client = client.client,
                    "too many clients: its capabilities are not announced"
                );
                continue;
            }
            self.0.insert(client.client, services);
        }
    }

    /// All of them together, as our own contact shows them.
    pub fn together(&self) -> Capabilities {
        Capabilities {
            stream_tubes: true,
            services: self
                .0
                .values()
                .flatten()
                .take(MAX_SERVICES)
                .cloned()
                .collect(),
        }
    }

    /// The features to announce beside the built-in ones.
    pub fn features(&self) -> BTreeSet<String> {
        self.together()
            .services
            .iter()
            .map(|service| service_feature(service))
            .collect()
    }
}

/// The service that a handler's filter waits for. `Requested` true means tubes that we offer, which
/// is no reason to tell others.
fn announced_service(filter: &GivenMap) -> Option<String> {
    let is = |name: &str, wanted: &Given| filter.get(name).is_none_or(|given| given == wanted);
    let stream_tube =
        filter.get(property::CHANNEL_TYPE) == Some(&Given::Text(names::STREAM_TUBE.into()));
    let to_contacts = filter
        .get(property::TARGET_HANDLE_TYPE)
        .is_none_or(|given| {
            given.number::<u32>("TargetHandleType").ok() == Some(HANDLE_TYPE_CONTACT)
        });
    if !stream_tube || !to_contacts || !is(property::REQUESTED, &Given::Bool(false)) {
        return None;
    }
    match filter.get(property::SERVICE) {
        Some(Given::Text(service)) => ServiceName::new(service.as_str())
            .ok()
            .map(|service| service.as_str().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn filter(service: &str, requested: Option<bool>) -> GivenMap {
        let mut filter = GivenMap::from([
            (
                property::CHANNEL_TYPE.to_owned(),
                Given::Text(names::STREAM_TUBE.into()),
            ),
            (property::TARGET_HANDLE_TYPE.to_owned(), Given::Uint(1)),
            (property::SERVICE.to_owned(), Given::Text(service.into())),
        ]);
        if let Some(requested) = requested {
            filter.insert(property::REQUESTED.into(), Given::Bool(requested));
        }
        filter
    }

    fn client(name: &str, filters: Vec<GivenMap>) -> Vec<ClientCapabilities> {
        vec![ClientCapabilities {
            client: name.into(),
            filters,
        }]
    }

    #[test]
    fn only_those_who_speak_our_form_are_capable() {
        let http = format!("{}/stream#http", ns::TUBES);
        let none = Capabilities::of_features(&features(&[ns::TUBES, &http]));
        assert!(none.classes().is_empty());
        let both = Capabilities::of_features(&features(&[ns::TUBES, ns::PNEUMA, &http]));
        let classes = both.classes();
        assert_eq!(classes.len(), 2);
        assert_eq!(classes[0].fixed.len(), 2);
        assert_eq!(classes[1].fixed.len(), 3);
        assert_eq!(
            classes[1].fixed[2],
            (property::SERVICE, Given::Text("http".into()))
        );
    }

    #[test]
    fn a_contact_with_a_thousand_services_shows_some() {
        let mut many: BTreeSet<String> = (0..1000)
            .map(|number| format!("{}/stream#s{number}", ns::TUBES))
            .collect();
        many.extend(features(&[ns::TUBES, ns::PNEUMA]));
        assert_eq!(
            Capabilities::of_features(&many).services.len(),
            MAX_SERVICES
        );
    }

    #[test]
    fn our_handlers_become_features() {
        let mut own = OwnCapabilities::default();
        own.update(client(
            "A",
            vec![filter("rfb", None), filter("x", Some(true))],
        ));
        own.update(client("B", vec![filter("http", Some(false))]));
        let expected = [
            format!("{}/stream#http", ns::TUBES),
            format!("{}/stream#rfb", ns::TUBES),
        ];
        assert!(own.features().iter().eq(expected.iter()));
        own.update(client("A", vec![]));
        assert_eq!(own.features().len(), 1);
        assert!(own.together().stream_tubes);
    }
}
