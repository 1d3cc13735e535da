//! Between a bus and the contact: reads both, asks whoever decides, sends what follows.
//!
//! ```text
//!   bus ══ one loop ══► Decides ◄══ one loop ══ contact
//!    ▲                     │                       ▲
//!    └─────────────────────┴───────────────────────┘
//! ```
//!
//! Who does not read what it is sent is waited for, and only what comes from the other side waits with it.
//! A contact that does not read leaves what is for it with the bus, up to the bus's own limits; here wait
//! [`READ_AHEAD`] messages of it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actors::runtime::Time;
use futures_lite::{FutureExt as _, StreamExt as _};
use zbus::{Message, MessageStream, connection::Connection as Wire};

use super::{
    offering::Out,
    wire::{Contact, READ_AHEAD},
};
use crate::client::{
    bus::Bus,
    error::{Error, Kind, Result},
};

/// How often it is looked for calls that waited too long.
pub(super) const SWEEP: Duration = Duration::from_secs(30);

/// Who decides. Each call leaves it whole: nothing of it waits.
pub(super) trait Decides {
    /// What the bus is asked first.
    fn begin(&mut self) -> Result<Vec<Out>>;
    /// What follows from a message of the bus; an error ends it all.
    fn hear_bus(&mut self, message: &Message, now: Time) -> Result<Vec<Out>>;
    /// What follows from a message of the contact.
    fn hear_contact(&mut self, message: &Message, now: Time) -> Vec<Out>;
    /// Answers for calls that waited too long.
    fn expire(&mut self, now: Time) -> Vec<Out>;
}

/// Goes on until the contact's end does, which is well. `bus` is a connection for this alone.
///
/// # Errors
/// [`Kind::NoBus`] when the bus goes away, and what whoever decides says.
pub(super) async fn carry(
    bus: &Bus,
    contact: MessageStream,
    decides: &mut (impl Decides + Send),
) -> Result<()> {
    let decides = Mutex::new(decides);
    // Each change is whole before anything could panic.
    let decides = || decides.lock().unwrap_or_else(PoisonError::into_inner);
    let clock = bus.clock();
    let ends = Ends {
        bus: bus.connection().clone(),
        contact: Wire::from(&contact),
    };
    // The contact has the service answer, and the answers may be large. Nothing that matters is there yet.
    bus.connection().clone().set_max_queued(READ_AHEAD);
    // Heard from before anything is asked.
    let mut from_bus = MessageStream::from(bus.connection());
    let mut from_contact = Contact::new(contact, clock.clone());

    let begin = decides().begin()?;
    let listening = async {
        ends.send(begin).await?;
        while let Some(message) = from_bus.next().await {
            let message = message.map_err(|_| gone())?;
            let out = decides().hear_bus(&message, clock.now())?;
            ends.send(out).await?;
        }
        Err(gone())
    };
    let calling = async {
        while let Some(message) = from_contact.next().await {
            let out = decides().hear_contact(&message, clock.now());
            ends.send(out).await?;
        }
        Ok(())
    };
    let sweeping = async {
        loop {
            clock.sleep(SWEEP).await;
            let out = decides().expire(clock.now());
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
