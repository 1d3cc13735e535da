//! Kept tubes: what the connection manager makes again by itself, for as long as the user wants it.

use std::collections::HashMap;

use actors::model::{AddressType, SocketAddress};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::{
    connection::Connection,
    contact::{dictionary, number, text},
    error::{Error, Kind, Result},
    tube::{address_from_variant, address_to_variant, type_number},
};
use crate::names;

/// One of them, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTube {
    /// The number under which its user knows it.
    pub number: u32,
    /// The contact's identifier when it was kept.
    pub contact: String,
    /// `StreamTube.Service`
    pub service: String,
    /// Offered by us.
    pub offered: bool,
    /// The local address, as a person reads it.
    pub address: String,
    /// The channel, while it is there.
    pub channel: Option<OwnedObjectPath>,
    /// Why it is not there, as a sentence without its full stop.
    pub waiting: String,
}

impl KeptTube {
    fn from_map(map: &HashMap<String, OwnedVariant>) -> Option<Self> {
        let flag = |key: &str| match &**map.get(key)? {
            Variant::Bool(value) => Some(*value),
            _ => None,
        };
        Some(KeptTube {
            number: number(map, "number")?.try_into().ok()?,
            contact: text(map, "contact")?,
            service: text(map, "service")?,
            offered: flag("offered")?,
            address: text(map, "address")?,
            channel: match map.get("channel").map(|value| &**value) {
                Some(Variant::ObjectPath(path)) => Some(path.to_owned().into()),
                _ => None,
            },
            waiting: text(map, "waiting").unwrap_or_default(),
        })
    }
}

impl Connection {
    /// What the connection's profile keeps. Nothing where the service cannot keep tubes.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn kept(&self) -> Result<Vec<KeptTube>> {
        let asked = self
            .remote
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(names::KEPT, "Tubes"),
            )
            .await;
        let value: OwnedVariant = match asked {
            Ok(value) => value,
            Err(error) if error.kind == Kind::NotImplemented => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let bad = || {
            Error::new(
                Kind::BadAnswer,
                "the service's list of kept tubes cannot be understood",
            )
        };
        let Variant::Array(tubes) = &*value else {
            return Err(bad());
        };
        tubes
            .iter()
            .map(|tube| {
                dictionary(tube)
                    .and_then(|map| KeptTube::from_map(&map))
                    .ok_or_else(bad)
            })
            .collect()
    }

    /// Offers the local service at `address` to the contact, now and again and again. Gives the tube's
    /// number and its channel.
    ///
    /// # Errors
    /// As [`Tube::offer`](super::Tube::offer); [`Kind::NotAvailable`] when the same is kept already.
    pub async fn keep_offer(
        &self,
        contact: u32,
        service: &str,
        address: &SocketAddress,
    ) -> Result<(u32, OwnedObjectPath)> {
        let kind = type_number(address.address_type());
        self.remote
            .call(
                names::KEPT,
                "Offer",
                &(contact, service, kind, address_to_variant(address)),
            )
            .await
    }

    /// Accepts the tube that the contact offers as this channel, at a local address, now and again and
    /// again. Gives the tube's number and its address, which is another one only for port 0.
    ///
    /// # Errors
    /// As [`Tube::accept`](super::Tube::accept); [`Kind::NotAvailable`] when the address is taken.
    pub async fn keep_accept(
        &self,
        channel: &OwnedObjectPath,
        address: &SocketAddress,
    ) -> Result<(u32, SocketAddress)> {
        let kind: AddressType = address.address_type();
        let (number, bound): (u32, OwnedVariant) = self
            .remote
            .call(
                names::KEPT,
                "Accept",
                &(channel, type_number(kind), address_to_variant(address)),
            )
            .await?;
        Ok((number, address_from_variant(kind, &bound)?))
    }

    /// Closes a kept tube for good.
    ///
    /// # Errors
    /// [`Kind::NotAvailable`] when there is none of this number.
    pub async fn close_kept(&self, number: u32) -> Result<()> {
        self.remote.call(names::KEPT, "Close", &number).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_tube_is_read_from_its_dictionary() {
        let owned =
            |value: Variant<'static>| OwnedVariant::try_from(value).expect("no descriptors in it");
        let mut map = HashMap::from([
            ("number".to_owned(), owned(3u32.into())),
            ("contact".to_owned(), owned("bob@desk".into())),
            ("service".to_owned(), owned("rfb".into())),
            ("offered".to_owned(), owned(true.into())),
            ("address".to_owned(), owned("127.0.0.1:5900".into())),
            ("waiting".to_owned(), owned("bob@desk is away".into())),
        ]);
        let kept = KeptTube::from_map(&map).expect("it is one");
        assert_eq!((kept.number, kept.offered), (3, true));
        assert_eq!(kept.channel, None);
        assert_eq!(kept.waiting, "bob@desk is away");
        map.insert("number".to_owned(), owned((-1i64).into()));
        assert_eq!(KeptTube::from_map(&map), None);
    }
}
