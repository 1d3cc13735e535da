//! Shares a service of a bus over a connection of two, until either ends.

use actors::runtime::Time;
use zbus::{Message, MessageStream};

use super::{
    between::{Decides, carry},
    filter::Filter,
    offering::{Offering, Out},
};
use crate::client::{bus::Bus, error::Result};

/// Shares what the filter allows with whoever is at the other end of `contact`. `bus` is a connection for
/// this alone. A contact that does not read what it is sent is waited for: the bus then keeps what it
/// has for us, up to its own limits.
///
/// Ends well when the contact's end does.
///
/// # Errors
/// [`Kind::NoBus`](crate::client::Kind::NoBus) when the bus goes away, and what it answers if it does
/// not let us hear the service.
pub async fn share(bus: &Bus, contact: MessageStream, filter: Filter) -> Result<()> {
    carry(bus, contact, &mut Offering::new(filter)).await
}

impl Decides for Offering {
    fn begin(&mut self) -> Result<Vec<Out>> {
        Offering::begin(self)
    }

    fn hear_bus(&mut self, message: &Message, _now: Time) -> Result<Vec<Out>> {
        Offering::from_bus(self, message)
    }

    fn hear_contact(&mut self, message: &Message, now: Time) -> Vec<Out> {
        Offering::from_contact(self, message, now)
    }

    fn expire(&mut self, now: Time) -> Vec<Out> {
        Offering::expire(self, now)
    }

    fn end(&mut self) -> Vec<Out> {
        // Nobody on the bus waits for the contact.
        vec![]
    }
}
