//! Features of service discovery and classes of channels, in both directions.
//!
//! A contact that announces the tubes' namespace and ours can be offered tubes, and one that also
//! announces a service has somebody waiting for it. Files can be offered to whoever announces that it
//! takes them. What our own handlers wait for arrives by UpdateCapabilities and leaves as features.

use std::collections::{BTreeMap, BTreeSet};

use actors::model::{Result, ServiceName};

use super::{
    protocol::{
        ChannelClass, HANDLE_TYPE_CONTACT, dbus_tube_class, file_transfer_classes, property,
        stream_tube_class,
    },
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
    /// Tubes can be offered.
    pub tubes: bool,
    /// Services of stream tubes it announces.
    pub services: BTreeSet<String>,
    /// Services of D-Bus tubes it announces.
    pub dbus_services: BTreeSet<String>,
    /// Files can be offered.
    pub files: bool,
    /// It speaks our namespace: files whose size nobody knows can be offered too.
    pub pneuma: bool,
}

impl Capabilities {
    /// Reads a contact's features. Services count only beside the tubes themselves.
    pub fn of_features(features: &BTreeSet<String>) -> Self {
        let pneuma = features.contains(ns::PNEUMA);
        let others = Capabilities {
            files: features.contains(ns::SI_FILE_TRANSFER),
            pneuma,
            ..Capabilities::default()
        };
        let tubes = features.contains(ns::TUBES) && pneuma;
        if !tubes {
            return others;
        }
        let announced = |prefix: &str, check: fn(&str) -> Result<ServiceName>| {
            features
                .iter()
                .filter_map(|feature| feature.strip_prefix(prefix))
                .filter(|service| check(service).is_ok())
                .take(MAX_SERVICES)
                .map(str::to_owned)
                .collect()
        };
        Capabilities {
            tubes,
            services: announced(&service_feature(""), |service| ServiceName::new(service)),
            dbus_services: announced(&dbus_service_feature(""), |name| ServiceName::of_bus(name)),
            ..others
        }
    }

    /// Those of a program that answers no questions, which is Pidgin's way on a link-local network: it
    /// takes files, and no tubes.
    pub fn of_the_silent() -> Self {
        Capabilities {
            files: true,
            ..Capabilities::default()
        }
    }

    /// The channel classes they mean: for each type of tube the generic one and one for each service, then
    /// those of files.
    pub fn classes(&self) -> Vec<ChannelClass> {
        let mut classes = Vec::new();
        if self.tubes {
            classes.push(stream_tube_class(None));
            let services = self.services.iter();
            classes.extend(services.map(|service| stream_tube_class(Some(service))));
            classes.push(dbus_tube_class(None));
            let services = self.dbus_services.iter();
            classes.extend(services.map(|service| dbus_tube_class(Some(service))));
        }
        if self.files {
            classes.extend(file_transfer_classes());
        }
        classes
    }
}

fn service_feature(service: &str) -> String {
    format!("{}/stream#{service}", ns::TUBES)
}

fn dbus_service_feature(service: &str) -> String {
    format!("{}/dbus#{service}", ns::TUBES)
}

/// `Handler_Capabilities` of one client, as far as it means something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCapabilities {
    /// `Well_Known_Name`
    pub client: String,
    /// `Channel_Classes`
    pub filters: Vec<GivenMap>,
}

/// What one client waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Awaited {
    services: BTreeSet<String>,
    dbus_services: BTreeSet<String>,
    files: bool,
}

/// What our own clients can do, by client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnCapabilities(BTreeMap<String, Awaited>);

impl OwnCapabilities {
    /// Replaces what these clients can do. A client that waits for nothing is forgotten.
    pub fn update(&mut self, clients: Vec<ClientCapabilities>) {
        for client in clients {
            let services = client.filters.iter().filter_map(announced_service);
            let dbus_services = client.filters.iter().filter_map(announced_dbus_service);
            let awaited = Awaited {
                services: services.take(MAX_SERVICES).collect(),
                dbus_services: dbus_services.take(MAX_SERVICES).collect(),
                files: client.filters.iter().any(takes_files),
            };
            self.0.remove(&client.client);
            if awaited == Awaited::default() {
                continue;
            }
            if self.0.len() >= MAX_CLIENTS {
                tracing::warn!(
                    client = client.client,
                    "too many clients: its capabilities are not announced"
                );
                continue;
            }
            self.0.insert(client.client, awaited);
        }
    }

    /// All of them together, as our own contact shows them.
    pub fn together(&self) -> Capabilities {
        let all = |of: fn(&Awaited) -> &BTreeSet<String>| {
            let services = self.0.values().flat_map(of);
            services.take(MAX_SERVICES).cloned().collect()
        };
        Capabilities {
            tubes: true,
            services: all(|awaited| &awaited.services),
            dbus_services: all(|awaited| &awaited.dbus_services),
            files: self.0.values().any(|awaited| awaited.files),
            pneuma: true,
        }
    }

    /// The features to announce beside the built-in ones.
    pub fn features(&self) -> BTreeSet<String> {
        let together = self.together();
        let services = together.services.iter();
        let dbus_services = together.dbus_services.iter();
        services
            .map(|service| service_feature(service))
            .chain(dbus_services.map(|service| dbus_service_feature(service)))
            .chain(together.files.then(|| ns::SI_FILE_TRANSFER.to_owned()))
            .collect()
    }
}

/// Whether a handler's filter waits for channels of this type that contacts offer. `Requested` true means
/// those that we offer, which is no reason to tell others.
fn waits_for(filter: &GivenMap, channel_type: &str) -> bool {
    let is = |name: &str, wanted: &Given| filter.get(name).is_none_or(|given| given == wanted);
    let of_type = filter.get(property::CHANNEL_TYPE) == Some(&Given::Text(channel_type.into()));
    let to_contacts = filter
        .get(property::TARGET_HANDLE_TYPE)
        .is_none_or(|given| {
            given.number::<u32>("TargetHandleType").ok() == Some(HANDLE_TYPE_CONTACT)
        });
    of_type && to_contacts && is(property::REQUESTED, &Given::Bool(false))
}

/// Whether a handler's filter waits for files. One for a certain service's does not take those that
/// people send each other.
fn takes_files(filter: &GivenMap) -> bool {
    let any_service = filter
        .get(property::METADATA_SERVICE)
        .is_none_or(|given| *given == Given::Text(String::new()));
    waits_for(filter, names::FILE_TRANSFER) && any_service
}

/// The D-Bus tubes' service that a handler's filter waits for.
fn announced_dbus_service(filter: &GivenMap) -> Option<String> {
    match filter.get(property::SERVICE_NAME) {
        Some(Given::Text(name)) if waits_for(filter, names::DBUS_TUBE) => {
            ServiceName::of_bus(name.as_str())
                .ok()
                .map(|name| name.as_str().to_owned())
        }
        _ => None,
    }
}

/// The stream tubes' service that a handler's filter waits for.
fn announced_service(filter: &GivenMap) -> Option<String> {
    if !waits_for(filter, names::STREAM_TUBE) {
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
        let chess = format!("{}/dbus#com.example.Chess", ns::TUBES);
        // No bus name, and so nothing that anybody could ask for.
        let other = format!("{}/dbus#chess", ns::TUBES);
        let none = Capabilities::of_features(&features(&[ns::TUBES, &http, &chess]));
        assert!(none.classes().is_empty());
        let all = features(&[ns::TUBES, ns::PNEUMA, &http, &chess, &other]);
        let classes = Capabilities::of_features(&all).classes();
        let fixed: Vec<_> = classes.iter().map(|class| class.fixed.len()).collect();
        // telepathy-glib wants exactly two, and exactly three.
        assert_eq!(fixed, [2, 3, 2, 3]);
        let text = |name: &str| Given::Text(name.into());
        assert_eq!(classes[1].fixed[2], (property::SERVICE, text("http")));
        let named = (property::SERVICE_NAME, text("com.example.Chess"));
        assert_eq!(classes[3].fixed[2], named);
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
        let mut dbus = filter("ignored", None);
        dbus.insert(
            property::CHANNEL_TYPE.into(),
            Given::Text(names::DBUS_TUBE.into()),
        );
        dbus.insert(
            property::SERVICE_NAME.into(),
            Given::Text("com.example.Chess".into()),
        );
        own.update(client("B", vec![filter("http", Some(false)), dbus]));
        let expected = [
            format!("{}/dbus#com.example.Chess", ns::TUBES),
            format!("{}/stream#http", ns::TUBES),
            format!("{}/stream#rfb", ns::TUBES),
        ];
        assert!(own.features().iter().eq(expected.iter()));
        own.update(client("A", vec![]));
        assert_eq!(own.features().len(), 2);
        assert!(own.together().tubes);
    }

    #[test]
    fn files_are_announced_while_somebody_takes_them() {
        let files = |more: &[(&str, Given)]| {
            let mut filter = GivenMap::from([(
                property::CHANNEL_TYPE.to_owned(),
                Given::Text(names::FILE_TRANSFER.into()),
            )]);
            let more = more.iter().cloned();
            filter.extend(more.map(|(name, value)| (name.to_owned(), value)));
            filter
        };
        let no_reasons = vec![
            files(&[(property::REQUESTED, Given::Bool(true))]),
            files(&[(property::TARGET_HANDLE_TYPE, Given::Uint(2))]),
            files(&[(
                property::METADATA_SERVICE,
                Given::Text("com.example.X".into()),
            )]),
        ];
        let mut own = OwnCapabilities::default();
        own.update(client("A", no_reasons));
        assert!(own.features().is_empty() && !own.together().files);
        assert_eq!(own.together().classes().len(), 2);
        own.update(client("A", vec![files(&[])]));
        own.update(client("B", vec![filter("rfb", None)]));
        assert!(own.features().contains(ns::SI_FILE_TRANSFER));
        assert_eq!(own.features().len(), 2);
        let again = Capabilities::of_features(&own.features());
        assert!(again.files && !again.pneuma && !again.tubes);
        own.update(client("A", vec![]));
        assert!(!own.features().contains(ns::SI_FILE_TRANSFER));
    }

    #[test]
    fn clients_find_the_class_of_files_that_they_look_for() {
        let classes = Capabilities::of_the_silent().classes();
        // telepathy-glib wants one with exactly two fixed properties; the others are one for each hash.
        let (plain, hashed): (Vec<_>, Vec<_>) =
            classes.iter().partition(|class| class.fixed.len() == 2);
        assert_eq!(plain.len(), 1);
        assert!(plain[0].allowed.contains(&property::CONTENT_HASH_TYPE));
        let types: Vec<_> = hashed.iter().map(|class| class.fixed[2].clone()).collect();
        let hash = |number| (property::CONTENT_HASH_TYPE, Given::Uint(number));
        assert_eq!(types, [hash(1), hash(2), hash(3)]);
    }
}
