//! Shares a service of a bus over a connection of two, until either ends.

use std::{fs, time::Duration};

use actors::runtime::Time;
use futures_lite::StreamExt as _;
use sha2::{Digest as _, Sha256};
use zbus::{Message, MessageStream};

use super::{
    between::{Decides, carry},
    filter::Filter,
    offering::Offering,
    words::Out,
};
use crate::client::{
    bus::{Bus, within},
    error::{Error, Kind, Result},
};

/// Where a machine's id is.
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
/// How long the bus may take to say who has a name.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Shares what the filter allows with whoever is at the other end of `contact`; `id` is how he is called.
/// `bus` is a connection for this alone. A contact that does not read what it is sent is waited for: the bus
/// then keeps what it has for us, up to its own limits, for as long as
/// [`READ_WITHIN`](super::READ_WITHIN).
///
/// Ends well when the contact's end does.
///
/// # Errors
/// [`Kind::NoBus`] when the bus goes away, and what it answers if it does not let us hear the service;
/// [`Kind::NotAvailable`] when the program that has the name has others, now or later, and the filter names
/// no objects; [`Kind::TimedOut`] when the contact does not read.
pub async fn share(bus: &Bus, contact: MessageStream, filter: Filter, id: &str) -> Result<()> {
    let machine = machine_for(filter.name(), id);
    carry(bus, contact, &mut Offering::new(filter, &machine)).await
}

/// Whether the program that has the name may be shared as the filter says, as far as it runs. `bus` is a
/// connection for this alone.
///
/// # Errors
/// As [`share`], and [`Kind::TimedOut`] when the bus does not answer.
pub async fn look(bus: &Bus, filter: &Filter) -> Result<()> {
    let mut offering = Offering::new(filter.clone(), "");
    let gone = |_| Error::new(Kind::NoBus, "the session bus is gone");
    let looking = async {
        let mut from_bus = MessageStream::from(bus.connection());
        let mut out = offering.begin()?;
        loop {
            for out in out {
                // There is no contact yet.
                if let Out::Bus(message) = out {
                    bus.connection().send(&message).await.map_err(gone)?;
                }
            }
            if offering.is_settled() {
                return Ok(());
            }
            let message = from_bus
                .next()
                .await
                .unwrap_or(Err(zbus::Error::InvalidField));
            out = offering.hear_bus(&message.map_err(gone)?)?;
        }
    };
    let late = Error::new(
        Kind::TimedOut,
        "the session bus does not say who has a name",
    );
    within(bus.clock(), LOOK_WITHIN, late, looking).await
}

/// What a contact hears as the id of this machine: another one for each contact and service, and always
/// the same.
fn machine_for(name: &str, contact: &str) -> String {
    let id = MACHINE_ID
        .iter()
        .find_map(|path| fs::read_to_string(path).ok())
        .unwrap_or_default();
    hashed(id.trim(), name, contact)
}

fn hashed(machine: &str, name: &str, contact: &str) -> String {
    let mut context = Sha256::new();
    for part in [machine, name, contact] {
        context.update(part.as_bytes());
        // In none of them.
        context.update([0]);
    }
    let digest = context.finalize();
    let half = digest.iter().take(16);
    half.map(|byte| format!("{byte:02x}")).collect()
}

impl Decides for Offering {
    fn begin(&mut self) -> Result<Vec<Out>> {
        Offering::begin(self)
    }

    fn hear_bus(&mut self, message: &Message, _now: Time) -> Result<Vec<Out>> {
        Offering::hear_bus(self, message)
    }

    fn hear_contact(&mut self, message: &Message, now: Time) -> Vec<Out> {
        Offering::hear_contact(self, message, now)
    }

    fn expire(&mut self, now: Time) -> Vec<Out> {
        Offering::expire(self, now)
    }

    fn end(&mut self) -> Vec<Out> {
        // Nobody on the bus waits for the contact.
        vec![]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_another_id_for_everybody() {
        let ids = [
            ("m", "a.b", "bob"),
            ("m", "a.b", "eve"),
            ("m", "a.c", "bob"),
            ("n", "a.b", "bob"),
            ("ma", ".b", "bob"),
        ]
        .map(|(machine, name, contact)| hashed(machine, name, contact));
        for id in &ids {
            assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
            assert_eq!(ids.iter().filter(|other| *other == id).count(), 1);
        }
        assert_eq!(hashed("m", "a.b", "bob"), ids[0], "always the same");
    }
}
