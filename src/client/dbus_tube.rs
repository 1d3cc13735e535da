//! What only a D-Bus tube does: it is offered with parameters, each side gets an address at which one
//! program speaks D-Bus with one of the contact's, and what is spoken may be a shared service
//! ([`sharing`](super::sharing)).

use std::{collections::HashMap, os::unix::net::UnixStream};

use async_io::Async;
use zbus::{
    Address, MessageStream, OwnedVariant, Variant,
    address::transport::{Transport, UnixSocket},
};

use super::{
    error::{Error, Kind, Result},
    event::{Event, Events},
    sharing,
    tube::{Tube, TubeState},
};
use crate::names;

/// `Socket_Access_Control` Credentials: this user's programs, by what the kernel says.
const CREDENTIALS: u32 = 3;
/// The parameter of a tube through which a service is shared, and what it says now.
const SHARE: (&str, u32) = ("pneuma-share", 1);

impl Tube {
    /// Offers a D-Bus tube through which a service is shared; gives the address for our end of it.
    ///
    /// # Errors
    /// What the service answers; `NotCapable`, `Offline` and `FingerprintMismatch` among them.
    pub async fn offer_share(&self) -> Result<String> {
        let parameters = HashMap::from([(SHARE.0, Variant::from(SHARE.1))]);
        self.remote
            .call(names::DBUS_TUBE, "Offer", &(parameters, CREDENTIALS))
            .await
    }

    /// Accepts the D-Bus tube the contact offers; gives the address for our end of it.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn accept_dbus(&self) -> Result<String> {
        self.remote
            .call(names::DBUS_TUBE, "Accept", &CREDENTIALS)
            .await
    }

    /// Whether a service is shared through the D-Bus tube that the contact offers.
    ///
    /// # Errors
    /// What the service answers.
    pub async fn is_share(&self) -> Result<bool> {
        let parameters: HashMap<String, OwnedVariant> = self
            .remote
            .call(
                "org.freedesktop.DBus.Properties",
                "Get",
                &(names::TUBE, "Parameters"),
            )
            .await
            .and_then(|value: OwnedVariant| {
                HashMap::try_from(value).map_err(|_| {
                    Error::new(
                        Kind::BadAnswer,
                        "the parameters of the tube cannot be understood",
                    )
                })
            })?;
        let says = parameters.get(SHARE.0).map(|value| &**value);
        // Its type is whatever the way to here made of it.
        Ok(match says {
            Some(Variant::U32(version)) => *version == SHARE.1,
            Some(Variant::I32(version)) => u32::try_from(*version) == Ok(SHARE.1),
            _ => false,
        })
    }

    /// Waits until the tube is open. `events` are the connection's, from before it was offered or accepted.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] when it is closed instead, and when the connection ends.
    pub async fn opened(&self, events: &mut Events) -> Result<()> {
        loop {
            let event = events.next().await?;
            event.still_online()?;
            match event {
                Event::TubeState {
                    channel,
                    state: TubeState::Open,
                } if channel == *self.path() => return Ok(()),
                Event::Closed(channel) if channel == *self.path() => {
                    return Err(Error::new(Kind::Cancelled, "the tube was closed"));
                }
                _ => {}
            }
        }
    }

    /// Begins to speak D-Bus at our end of an open tube.
    ///
    /// # Errors
    /// [`Kind::BadAnswer`] for an address that cannot be understood, [`Kind::ConnectionFailed`] when nobody
    /// answers there.
    pub async fn join(&self, address: &str) -> Result<MessageStream> {
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
        sharing::join(stream, bus.spawner(), bus.clock()).await
    }
}
