//! Between a bus and the contact: reads both, asks whoever decides, sends what follows.
//!
//! ```text
//!   bus ══ one loop ══► Decides ◄══ one loop ══ contact
//!    ▲                     │                       ▲
//!    └── one loop ◄─ queue ┴───────────────────────┘
//! ```
//!
//! The bus's connection is written in one place, so that what is begun is finished when the contact's end
//! comes meanwhile: there are last things to say on it, which must not become the rest of something else.
//! The contact's is used by nobody once this is over.
//!
//! Who does not read what it is sent is waited for, and only what comes from the other side waits with it.
//! A contact that does not read leaves what is for it with the bus, up to the bus's own limits, and not for
//! ever: [`READ_WITHIN`](super::READ_WITHIN). Here wait [`READ_AHEAD`] messages of it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use actors::runtime::Time;
use async_channel::Sender;
use futures_lite::{
    FutureExt as _, StreamExt as _,
    future::{or, zip},
};
use zbus::{Message, MessageStream, connection::Connection as Wire, message::Type};

use super::{
    pace::Pace,
    teller::Teller,
    wire::{Contact, READ_AHEAD},
    words::Out,
};
use crate::client::{
    bus::{Bus, within},
    error::{Error, Kind, Result},
};

/// How often it is looked for calls that waited too long.
pub(super) const SWEEP: Duration = Duration::from_secs(30);

/// Signals of the contact a second that are put on the bus, and as many at once: everybody there may be woken
/// by each. Who sends more is read later, answers too.
pub const SIGNALS_PER_SECOND: u32 = 200;

/// Most messages that wait for the bus to take them; more than [`Decides::begin`] gives, so that those are
/// queued before anything of the contact is heard.
const MAX_UNSENT: usize = 8;

/// How long the bus may take to take the last of them.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Who decides. Each call leaves it whole: nothing of it waits.
pub(super) trait Decides {
    /// What the bus is asked first.
    fn begin(&mut self) -> Result<Vec<Out>>;
    /// What follows from a message of the bus; an error ends it all.
    fn hear_bus(&mut self, message: &Message, now: Time) -> Result<Vec<Out>>;
    /// What follows from a message of the contact.
    fn hear_contact(&mut self, message: &Message, now: Time) -> Vec<Out>;
    /// Answers for calls that waited too long, and what else waited.
    fn expire(&mut self, now: Time) -> Vec<Out>;
    /// How often something may have waited long enough.
    fn pause(&self) -> Duration {
        SWEEP
    }
    /// What the bus is to hear at the end.
    fn end(&mut self) -> Vec<Out>;
}

/// Goes on until the contact's end does, which is well. `bus` is a connection for this alone: it can be
/// used on when this is over, except after [`Kind::NoBus`] or when this is dropped, which may leave half a
/// message on it.
///
/// # Errors
/// [`Kind::NoBus`] when the bus goes away or takes nothing any more, [`Kind::TimedOut`] when the contact does
/// not read, and what whoever decides says.
pub(super) async fn carry(
    bus: &Bus,
    contact: MessageStream,
    decides: &mut (impl Decides + Send),
) -> Result<()> {
    let decides = Mutex::new(decides);
    // Each change is whole before anything could panic.
    let decides = || decides.lock().unwrap_or_else(PoisonError::into_inner);
    let clock = bus.clock();
    let (to_bus, unsent) = async_channel::bounded(MAX_UNSENT);
    let ends = Ends {
        bus: to_bus,
        contact: Teller::new(Wire::from(&contact), clock.clone()),
    };
    // The contact can make the service send large answers, so bound what zbus queues; set before we ask
    // anything, when the queue holds nothing we need.
    bus.connection().clone().set_max_queued(READ_AHEAD);
    let writing = async {
        while let Ok(message) = unsent.recv().await {
            if bus.connection().send(&message).await.is_err() {
                // Nobody is to wait for room any more.
                unsent.close();
                return Err(gone());
            }
        }
        Ok(())
    };
    let mut writing = std::pin::pin!(writing);
    // Heard from before anything is asked.
    let mut from_bus = MessageStream::from(bus.connection());
    let mut from_contact = Contact::new(contact, clock.clone());

    let begin = decides().begin()?;
    // Whatever the contact has said already comes after this.
    ends.send(begin).await?;
    let listening = async {
        while let Some(message) = from_bus.next().await {
            let message = message.map_err(|_| gone())?;
            let out = decides().hear_bus(&message, clock.now())?;
            ends.send(out).await?;
        }
        Err(gone())
    };
    let calling = async {
        let mut signals = Pace::new(SIGNALS_PER_SECOND);
        while let Some(message) = from_contact.next().await {
            let out = decides().hear_contact(&message, clock.now());
            for out in out {
                if is_for_everybody(&out) {
                    let wait = signals.take(clock.now());
                    if !wait.is_zero() {
                        clock.sleep(wait).await;
                    }
                }
                ends.send(vec![out]).await?;
            }
        }
        Ok(())
    };
    let sweeping = async {
        let pause = decides().pause();
        loop {
            clock.sleep(pause).await;
            let out = decides().expire(clock.now());
            ends.send(out).await?;
        }
    };
    let going_on = calling.or(listening).or(sweeping);
    let ended = or(async { Err(writing.as_mut().await) }, async {
        Ok(going_on.await)
    });
    let ended = match ended.await {
        Ok(ended) => ended,
        Err(broken) => return broken,
    };
    let last = decides().end();
    let saying = async {
        let said = ends.send(last).await;
        ends.bus.close();
        said
    };
    let saying = async {
        let (said, written) = zip(saying, writing).await;
        said.and(written)
    };
    let said = within(clock, LAST_WORDS, gone(), saying).await;
    ended.and(said)
}

/// Whether it is a signal that whoever listens on the bus hears.
fn is_for_everybody(out: &Out) -> bool {
    matches!(out, Out::Bus(message) if message.message_type() == Type::Signal)
}

fn gone() -> Error {
    Error::new(Kind::NoBus, "the session bus is gone")
}

/// What goes to the bus, and the contact's connection.
struct Ends {
    bus: Sender<Message>,
    contact: Teller,
}

impl Ends {
    async fn send(&self, out: Vec<Out>) -> Result<()> {
        for out in out {
            match out {
                Out::Bus(message) => self.bus.send(message).await.map_err(|_| gone())?,
                Out::Contact(message) => self.contact.tell(&message).await?,
            }
        }
        Ok(())
    }
}
