//! Shares a service of a bus over a connection of two, until either ends.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_lite::{FutureExt as _, StreamExt as _};
use zbus::{MessageStream, connection::Connection as Wire};

use super::{
    filter::Filter,
    offering::{Offering, Out},
    wire::Contact,
};
use crate::client::{
    bus::Bus,
    error::{Error, Kind, Result},
};

/// How often it is looked for calls that waited too long.
pub(super) const SWEEP: Duration = Duration::from_secs(30);

/// Shares what the filter allows with whoever is at the other end of `contact`. `bus` is a connection for
/// this alone. A contact that does not read what it is sent is waited for: the bus then keeps what it
/// has for us, up to its own limits.
///
/// Ends well when the contact's end does.
///
/// # Errors
/// [`Kind::NoBus`] when the bus goes away, and what it answers if it does not let us hear the service.
pub async fn share(bus: &Bus, contact: MessageStream, filter: Filter) -> Result<()> {
    let offering = Mutex::new(Offering::new(filter));
    // Each change is whole before anything could panic.
    let offering = || offering.lock().unwrap_or_else(PoisonError::into_inner);
    let clock = bus.clock();
    let ends = Ends {
        bus: bus.connection().clone(),
        contact: Wire::from(&contact),
    };
    // Heard from before anything is asked.
    let mut from_bus = MessageStream::from(bus.connection());
    let mut from_contact = Contact::new(contact, clock.clone());

    let listening = async {
        let begin = offering().begin()?;
        ends.send(begin).await?;
        while let Some(message) = from_bus.next().await {
            let message = message.map_err(|_| gone())?;
            let out = offering().from_bus(&message)?;
            ends.send(out).await?;
        }
        Err(gone())
    };
    let calling = async {
        while let Some(message) = from_contact.next().await {
            let out = offering().from_contact(&message, clock.now());
            ends.send(out).await?;
        }
        Ok(())
    };
    let sweeping = async {
        loop {
            clock.sleep(SWEEP).await;
            let out = offering().expire(clock.now());
            ends.send(out).await?;
        }
    };
    calling.or(listening).or(sweeping).await
}

fn gone() -> Error {
    Error::new(Kind::NoBus, "the session bus is gone")
}

/// Both connections.
struct Ends {
    bus: Wire,
    contact: Wire,
}

impl Ends {
    async fn send(&self, out: Vec<Out>) -> Result<()> {
        for out in out {
            match out {
                Out::Bus(message) => self.bus.send(&message).await.map_err(|_| gone())?,
                Out::Contact(message) => {
                    if let Err(error) = self.contact.send(&message).await {
                        // Its end is noticed where it is read from.
                        tracing::debug!(%error, "nothing more is sent to the contact");
                    }
                }
            }
        }
        Ok(())
    }
}
