//! Puts a contact's service on a bus that is there, under a name of our choice, until either ends.

use std::time::Duration;

use actors::runtime::Time;
use zbus::{Message, MessageStream};

use super::{
    between::{Decides, carry},
    filter::Filter,
    owning::{FLICKER, Owning, Standing},
    words::Out,
};
use crate::client::{
    bus::Bus,
    error::{Error, Kind, Result},
};

/// Gives the contact's service that the filter is of, which is at the other end of `contact`, the name `name`
/// on a bus, while it is there; its signals go there as far as the filter lets them. `told` hears each time that this changes (that it is away, a moment before the name
/// is free). `bus` is a connection for this alone: it has no other name, and nothing is called on it.
///
/// Ends well when the contact's end does, with the name given back. Whoever waits for an answer then has an
/// error, also when this ends badly, if the bus is there. Dropped before, the name is the bus
/// connection's until that is closed, which is all that it is good for: half a message may be on it.
///
/// # Errors
/// [`Kind::InvalidArgument`] when a name is none, [`Kind::NotAvailable`] when the name on the bus is
/// somebody else's or one that the bus can start a service for, [`Kind::TimedOut`] when the contact does
/// not read, [`Kind::NoBus`] when there is no bus or it goes away, and what it answers if we
/// may not have the name.
pub async fn own(
    bus: &Bus,
    signals: Filter,
    name: &str,
    contact: MessageStream,
    told: impl FnMut(Standing) + Send,
) -> Result<()> {
    if bus.is_private() {
        return Err(Error::new(
            Kind::NoBus,
            format!("there is no session bus here on which {name} could be"),
        ));
    }
    let mut telling = Telling {
        owning: Owning::new(signals, name)?,
        last: Standing::Away,
        told,
    };
    carry(bus, contact, &mut telling).await?;
    // Whether it was ours does not matter: the bus gives back what is.
    if let Err(error) = bus.call_daemon::<_, u32>("ReleaseName", &name).await {
        tracing::debug!(%error, "a name is not given back");
    }
    if telling.last != Standing::Away {
        (telling.told)(Standing::Away);
    }
    Ok(())
}

struct Telling<T> {
    owning: Owning,
    last: Standing,
    told: T,
}

impl<T: FnMut(Standing)> Telling<T> {
    fn tell(&mut self) {
        let now = self.owning.standing();
        if self.last != now {
            self.last = now;
            (self.told)(now);
        }
    }
}

impl<T: FnMut(Standing)> Decides for Telling<T> {
    fn begin(&mut self) -> Result<Vec<Out>> {
        self.owning.begin()
    }

    fn hear_bus(&mut self, message: &Message, now: Time) -> Result<Vec<Out>> {
        let out = self.owning.hear_bus(message, now)?;
        self.tell();
        Ok(out)
    }

    fn hear_contact(&mut self, message: &Message, now: Time) -> Vec<Out> {
        let out = self.owning.hear_contact(message, now);
        self.tell();
        out
    }

    fn expire(&mut self, now: Time) -> Vec<Out> {
        let out = self.owning.expire(now);
        self.tell();
        out
    }

    fn pause(&self) -> Duration {
        FLICKER
    }

    fn end(&mut self) -> Vec<Out> {
        self.owning.end()
    }
}
