//! What is remembered of kept tubes, as it lies on the disk: pure, versioned and bounded.

use std::{
    collections::BTreeMap,
    net::{SocketAddrV4, SocketAddrV6},
    path::PathBuf,
};

use actors::model::{Error, ServiceName, SocketAddress};
use serde::{Deserialize, Serialize};

use crate::{connection::parameters::Account, session::trust::KeyId};

/// Most kept tubes of one profile. One more is refused with `ResourceUnavailable`.
pub const MAX_TUBES: usize = 64;
/// Most bytes of a file that is read: what we write is smaller. A larger one is put aside unread.
pub const MAX_FILE: u64 = 256 * 1024;
/// Most bytes of a contact's identifier.
const MAX_CONTACT: usize = 1024;
/// What this program writes and reads. A file of another version is put aside.
const VERSION: u32 = 1;

/// A tube that is made anew for as long as its user wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTube {
    /// The contact's identifier when it was kept.
    pub contact: String,
    /// Its key: with nobody else the tube is made.
    pub key: KeyId,
    /// `StreamTube.Service`.
    pub service: ServiceName,
    /// Which end is here.
    pub way: Way,
    /// Whether the account it was kept with lets every user of this machine in.
    pub any_local_user: bool,
}

/// Which end of a kept tube is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// We offer the service that listens here.
    Offer(SocketAddress),
    /// We use what the contact offers, at this address.
    Accept(SocketAddress),
}

impl Way {
    /// The local address.
    pub fn address(&self) -> &SocketAddress {
        match self {
            Way::Offer(address) | Way::Accept(address) => address,
        }
    }
}

/// All that is kept of one profile, and the account to go online with for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The account of the connection that kept the last of them.
    pub account: Account,
    /// Somebody took it offline: it goes online when somebody brings it online.
    pub offline: bool,
    /// By the number under which its user knows it.
    pub tubes: BTreeMap<u32, KeptTube>,
}

/// Why a file is not what [`Record::to_json`] wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub String);

impl Record {
    /// The record of an account that keeps nothing.
    pub fn new(account: Account) -> Self {
        Record {
            account,
            offline: false,
            tubes: BTreeMap::new(),
        }
    }

    /// Takes one more; gives its number, the smallest that is free: people type it.
    ///
    /// # Errors
    /// `NotAvailable` when the same is kept already, `ResourceUnavailable` at [`MAX_TUBES`],
    /// `InvalidArgument` for what cannot be written down.
    pub fn keep(&mut self, tube: KeptTube) -> Result<u32, Error> {
        if let Some((number, _)) = self.tubes.iter().find(|(_, kept)| same(kept, &tube)) {
            return Err(Error::NotAvailable(format!(
                "{} of {} is kept already, as k{number}; `pneuma tubes --close k{number}` ends that one",
                tube.service, tube.contact
            )));
        }
        if self.tubes.len() >= MAX_TUBES {
            return Err(Error::ResourceUnavailable(format!(
                "this profile keeps {MAX_TUBES} tubes already; `pneuma tubes --close` ends one"
            )));
        }
        if tube.contact.is_empty() || tube.contact.len() > MAX_CONTACT {
            return Err(Error::InvalidArgument(
                "the contact's name is too long to be remembered".into(),
            ));
        }
        let number = (1..)
            .find(|number| !self.tubes.contains_key(number))
            .unwrap_or(u32::MAX);
        self.tubes.insert(number, tube);
        Ok(number)
    }

    /// As the profile keeps it.
    ///
    /// # Errors
    /// `InvalidArgument` for a path that is no text.
    pub fn to_json(&self) -> Result<String, Error> {
        let file = File {
            version: VERSION,
            account: self.account.clone(),
            offline: self.offline,
            tubes: self.tubes.iter().map(Stored::from).collect(),
        };
        serde_json::to_string_pretty(&file)
            .map_err(|error| Error::InvalidArgument(format!("this cannot be remembered: {error}")))
    }

    /// Reads what [`Record::to_json`] wrote for this profile.
    ///
    /// # Errors
    /// [`Damaged`] for anything else, as a whole: half of it would be a surprise.
    pub fn from_json(bytes: &[u8], profile: &str) -> Result<Self, Damaged> {
        if bytes.len() as u64 > MAX_FILE {
            return Err(Damaged(format!("it has more than {MAX_FILE} bytes")));
        }
        let version: Version =
            serde_json::from_slice(bytes).map_err(|error| Damaged(error.to_string()))?;
        if version.version != VERSION {
            return Err(Damaged(format!(
                "it has version {}, this program knows version {VERSION}",
                version.version
            )));
        }
        let file: File =
            serde_json::from_slice(bytes).map_err(|error| Damaged(error.to_string()))?;
        if file.account.profile != profile {
            return Err(Damaged("it belongs to another profile".into()));
        }
        let mut record = Record::new(file.account);
        record.offline = file.offline;
        for stored in file.tubes {
            let (number, tube) = stored.into_tube()?;
            if record.tubes.insert(number, tube).is_some() {
                return Err(Damaged(format!("number {number} is in it twice")));
            }
        }
        if record.tubes.len() > MAX_TUBES {
            return Err(Damaged(format!("it has more than {MAX_TUBES} tubes")));
        }
        Ok(record)
    }
}

/// Whether one would be in the other's way: the same service of the same contact in the same
/// direction.
fn same(one: &KeptTube, other: &KeptTube) -> bool {
    one.key == other.key
        && one.service == other.service
        && matches!(
            (&one.way, &other.way),
            (Way::Offer(_), Way::Offer(_)) | (Way::Accept(_), Way::Accept(_))
        )
}

/// What of a file of any version is read first.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    account: Account,
    #[serde(default)]
    offline: bool,
    tubes: Vec<Stored>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    number: u32,
    contact: String,
    key: String,
    service: String,
    offered: bool,
    address: StoredAddress,
    #[serde(default)]
    any_local_user: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StoredAddress {
    Unix(PathBuf),
    Abstract(Vec<u8>),
    Ipv4(SocketAddrV4),
    Ipv6(SocketAddrV6),
}

impl From<(&u32, &KeptTube)> for Stored {
    fn from((number, tube): (&u32, &KeptTube)) -> Self {
        Stored {
            number: *number,
            contact: tube.contact.clone(),
            key: tube.key.to_string(),
            service: tube.service.as_str().to_owned(),
            offered: matches!(tube.way, Way::Offer(_)),
            address: match tube.way.address().clone() {
                SocketAddress::Unix(path) => StoredAddress::Unix(path),
                SocketAddress::AbstractUnix(name) => StoredAddress::Abstract(name),
                SocketAddress::Ipv4(address) => StoredAddress::Ipv4(address),
                SocketAddress::Ipv6(address) => StoredAddress::Ipv6(address),
            },
            any_local_user: tube.any_local_user,
        }
    }
}

impl Stored {
    fn into_tube(self) -> Result<(u32, KeptTube), Damaged> {
        let damaged = |error: &dyn std::fmt::Display| Damaged(error.to_string());
        let address = match self.address {
            StoredAddress::Unix(path) => SocketAddress::Unix(path),
            StoredAddress::Abstract(name) => SocketAddress::AbstractUnix(name),
            StoredAddress::Ipv4(address) => SocketAddress::Ipv4(address),
            StoredAddress::Ipv6(address) => SocketAddress::Ipv6(address),
        };
        let tube = KeptTube {
            contact: self.contact,
            key: self
                .key
                .parse()
                .map_err(|error: crate::session::trust::ParseKeyIdError| damaged(&error))?,
            service: ServiceName::new(self.service).map_err(|error| damaged(&error))?,
            way: if self.offered {
                Way::Offer(address)
            } else {
                Way::Accept(address)
            },
            any_local_user: self.any_local_user,
        };
        Ok((self.number, tube))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn tube(service: &str, way: Way) -> KeptTube {
        KeptTube {
            contact: "bob@there".into(),
            key: KeyId([7; 32]),
            service: ServiceName::new(service).unwrap(),
            way,
            any_local_user: false,
        }
    }

    fn account() -> Account {
        Account::new(&Default::default(), "ada").unwrap()
    }

    fn full() -> Record {
        let mut record = Record::new(account());
        for (service, way) in [
            ("a", Way::Offer(SocketAddress::Unix("/run/x y".into()))),
            (
                "b",
                Way::Accept(SocketAddress::Ipv4("127.0.0.1:80".parse().unwrap())),
            ),
            (
                "c",
                Way::Offer(SocketAddress::Ipv6("[fe80::1%3]:80".parse().unwrap())),
            ),
            (
                "d",
                Way::Offer(SocketAddress::AbstractUnix(b"x\0y".to_vec())),
            ),
        ] {
            record.keep(tube(service, way)).unwrap();
        }
        // One of them was kept with an account that lets everybody in.
        record.tubes.get_mut(&2).unwrap().any_local_user = true;
        record.offline = true;
        record
    }

    #[test]
    fn a_record_survives_being_written_and_read() {
        let record = full();
        let text = record.to_json().unwrap();
        assert_eq!(Record::from_json(text.as_bytes(), "default"), Ok(record));
    }

    #[test]
    fn numbers_are_small_and_the_same_is_kept_once() {
        let mut record = full();
        let again = tube("a", Way::Offer(SocketAddress::Unix("/other".into())));
        let Err(Error::NotAvailable(why)) = record.keep(again.clone()) else {
            panic!("kept twice");
        };
        assert!(why.contains("k1"), "{why}");
        // The other direction is another tube.
        let accepted = tube("a", Way::Accept(SocketAddress::Unix("/z".into())));
        assert_eq!(record.keep(accepted), Ok(5));
        record.tubes.remove(&1);
        assert_eq!(record.keep(again), Ok(1));
    }

    #[test]
    fn the_bound_holds_and_fits_into_the_file() {
        let mut record = Record::new(account());
        let long = "x".repeat(100);
        for number in 0..MAX_TUBES {
            let mut one = tube(
                &format!("{long}{number}"),
                Way::Offer(SocketAddress::Unix(long.clone().into())),
            );
            one.contact = "c".repeat(MAX_CONTACT);
            record.keep(one).unwrap();
        }
        let one_more = tube("z", Way::Offer(SocketAddress::Unix("/z".into())));
        assert!(matches!(
            record.keep(one_more),
            Err(Error::ResourceUnavailable(_))
        ));
        let text = record.to_json().unwrap();
        assert!(Record::from_json(text.as_bytes(), "default").is_ok());
    }

    #[test]
    fn damage_is_an_error_as_a_whole() {
        let text = full().to_json().unwrap();
        let too_large = format!("{text}{}", " ".repeat(MAX_FILE as usize));
        for wrong in [
            "",
            "{}",
            "\u{fffd}",
            &text[..text.len() / 2],
            &text.replace("\"version\": 1", "\"version\": 2"),
            &text.replace("0707", "zz"),
            &text.replace("\"number\": 2", "\"number\": 1"),
            &text.replace("\"profile\": \"default\"", "\"profile\": \"work\""),
            &too_large,
        ] {
            assert!(
                Record::from_json(wrong.as_bytes(), "default").is_err(),
                "{wrong}"
            );
        }
        let newer = text.replace("\"version\": 1", "\"version\": 2, \"new\": 0");
        let Err(Damaged(why)) = Record::from_json(newer.as_bytes(), "default") else {
            panic!("a newer file was read");
        };
        assert!(why.contains("version 2"), "{why}");
    }
}
