//! The D-Bus tube that a service is shared over: how it is offered, how it is known, and how our end of it is
//! spoken at.

use std::{collections::HashMap, os::unix::net::UnixStream};

use async_io::Async;
use zbus::{
    Address, MessageStream, Variant,
    address::transport::{Transport, UnixSocket},
};

use super::wire;
use crate::client::{
    error::{Error, Kind, Result},
    tube::Tube,
};

/// The parameter of a tube through which a service is shared, and what it says now.
const SHARE: (&str, u32) = ("pneuma-share", 1);

impl Tube {
    /// Offers a D-Bus tube through which a service is shared; gives the address for our end of it.
    ///
    /// # Errors
    /// As [`Tube::offer_dbus`].
    pub async fn offer_share(&self) -> Result<String> {
        self.offer_dbus(&HashMap::from([(SHARE.0, Variant::from(SHARE.1))]))
            .await
    }

    /// Whether a service is shared through the D-Bus tube that the contact offers.
    ///
    /// # Errors
    /// As [`Tube::parameters`].
    pub async fn is_share(&self) -> Result<bool> {
        let parameters = self.parameters().await?;
        Ok(match parameters.get(SHARE.0).map(|value| &**value) {
            Some(Variant::U32(version)) => *version == SHARE.1,
            Some(Variant::I32(version)) => u32::try_from(*version) == Ok(SHARE.1),
            _ => false,
        })
    }

    /// Begins to speak at our end of an open tube through which a service is shared, within the limits of
    /// [`sharing`](super).
    ///
    /// # Errors
    /// [`Kind::BadAnswer`] for an address that cannot be understood, [`Kind::ConnectionFailed`] when nobody
    /// answers there.
    pub async fn join_share(&self, address: &str) -> Result<MessageStream> {
        let bad = || {
            Error::new(
                Kind::BadAnswer,
                "the address of the tube cannot be understood",
            )
        };
        let parsed = Address::try_from(address).map_err(|_| bad())?;
        let Transport::Unix(unix) = parsed.transport() else {
            return Err(bad());
        };
        let UnixSocket::File(path) = unix.path() else {
            return Err(bad());
        };
        let nobody = |error: std::io::Error| {
            let why = format!("nobody answers at the socket of the tube: {error}");
            Error::new(Kind::ConnectionFailed, why)
        };
        let stream = Async::<UnixStream>::connect(path).await.map_err(nobody)?;
        let stream = stream.into_inner().map_err(nobody)?;
        let bus = self.remote.bus();
        wire::join(stream, bus.spawner(), bus.clock()).await
    }
}
