//! The small bus at a socket: lets clients in, and carries what they and the contact say.
//!
//! ```text
//!   Serving (the socket) ── one task for each client ──► SmallBus (a lock, held for no wait)
//!                                                           ▲     │
//!   the contact's connection ── read in one place ──────────┘     │
//!                            ◄── written in one place ◄── queue ──┘
//! ```
//!
//! Nobody waits for a client: what is for one goes into its queue of [`MAX_WAITING`] messages and about
//! [`MAX_WAITING_BYTES`]. Signals may fill half of it: more of them are left out for this client, so that a
//! contact that says much closes nobody. A client for which another answer has no room is closed. A client
//! waits for the contact: its call is looked at once there is room for it, [`MAX_UNSENT`] of all clients at a
//! time.
//!
//! What is decided is queued in the same moment, so what a client hears has the order in which it was
//! decided. A message that is begun on the contact's connection is finished, whatever becomes of the client
//! that it is from: half of one would be the end for all.

use std::{
    collections::BTreeMap,
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actors::{
    endpoint::{Accepted, EndpointConfig, Listening, LocalStream, Slot, Slots, listen},
    model::{AccessRule, AddressType, SocketAddress},
    runtime::{Clock, Exit, Spawner, Stop, within},
};
use async_channel::{Receiver, Sender};
use futures_lite::{FutureExt as _, StreamExt as _};
use zbus::{Guid, Message, MessageStream, connection::Connection as Wire, message::Type};

use super::{
    between::SWEEP,
    small_bus::{Act, ClientId, MAX_CLIENTS, SmallBus},
    teller::Teller,
    wire::{Contact, welcome},
};
use crate::{
    client::error::{Error, Kind, Result},
    place::own_uid,
};

/// Most messages that wait for one client.
const MAX_WAITING: usize = 2048;
/// How much may wait for one client before the next message closes it.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Most calls that wait for the contact's connection to take them. Who has one more is read no further.
const MAX_UNSENT: usize = 4;
/// Most refusals of what the contact should not have asked that wait beside them. It is told of no more
/// than it reads.
const MAX_REFUSALS: usize = 16;
/// How long clients wait to be let in until the contact has said whether the service is there, which a
/// sharing contact does at once.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// A bound socket. Dropping it closes it and removes its file.
#[derive(Debug)]
pub struct Serving {
    listening: Arc<Listening>,
}

impl Serving {
    /// Binds at a path that nobody can guess, in this folder, which is made if there is none; for the rest
    /// as [`Serving::bind`].
    ///
    /// # Errors
    /// [`Kind::Io`] when others can get into the folder, and what the system says.
    pub fn bind_in(folder: PathBuf) -> Result<Self> {
        let config = EndpointConfig {
            socket_directory: folder,
            any_local_user: false,
        };
        Serving::of(Listening::bind(
            AddressType::Unix,
            AccessRule::Localhost,
            &config,
        ))
    }

    /// Binds at a Unix address; only this user's programs are let in. Nobody is served before
    /// [`Serving::run`]; who comes early waits.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for another kind of address, and what the system says.
    pub fn bind(address: &SocketAddress) -> Result<Self> {
        if !matches!(
            address,
            SocketAddress::Unix(_) | SocketAddress::AbstractUnix(_)
        ) {
            return Err(Error::new(
                Kind::InvalidArgument,
                "a bus is served at a Unix socket only: give a path",
            ));
        }
        let config = EndpointConfig {
            // The caller names every path himself here.
            socket_directory: PathBuf::new(),
            any_local_user: false,
        };
        Serving::of(Listening::bind_at(address, &config))
    }

    fn of(bound: std::result::Result<Listening, actors::model::Error>) -> Result<Self> {
        let listening = bound.map_err(|error| Error::new(Kind::Io, error.to_string()))?;
        Ok(Serving {
            listening: Arc::new(listening),
        })
    }

    /// Where programs find it, as D-Bus writes addresses.
    pub fn address(&self) -> String {
        let address = self.listening.address();
        // No bus is bound at another kind of socket.
        address.to_dbus(None).unwrap_or_else(|| address.to_string())
    }

    /// Serves the service called `name`, which is at the other end of `contact`, until that ends or
    /// `stop`. All clients are closed then. The first is let in when the contact has said whether the service
    /// is there, or after 5 seconds.
    ///
    /// # Errors
    /// [`Kind::Io`] when the socket fails, [`Kind::TimedOut`] when the contact does not read.
    pub async fn run(
        &self,
        name: &str,
        contact: MessageStream,
        spawner: &Spawner,
        clock: &Arc<dyn Clock>,
        stop: &Stop,
    ) -> Result<()> {
        let guid = Guid::generate();
        let (outbox, unsent) = async_channel::bounded(MAX_UNSENT + MAX_REFUSALS);
        let hub = Arc::new(Hub {
            outbox,
            room: Slots::new(MAX_UNSENT),
            inside: Mutex::new(Inside {
                bus: SmallBus::new(name, guid.as_str(), own_uid()),
                places: BTreeMap::new(),
            }),
        });
        // Every client goes when this does.
        let (_stopper, clients) = stop.branch();
        let deliver = |accepted: Accepted| {
            let (hub, guid, clients) = (hub.clone(), guid.clone(), clients.clone());
            let (inner, clock) = (spawner.clone(), clock.clone());
            let client = async move {
                let serving = serve_client(&hub, accepted, guid, &inner, &clock);
                clients.stopped().or(serving).await;
            };
            spawner.spawn("a client of the small bus", client).detach();
            async { true }
        };
        let slots = Slots::new(MAX_CLIENTS);
        let (told, awaits) = async_channel::bounded::<()>(1);
        let listening = async {
            // Who is let in before the contact has said anything would hear that the service is not there.
            within(&**clock, FIRST_WORD, awaits.recv()).await;
            match listen(self.listening.clone(), slots, clock.clone(), deliver, stop).await {
                Exit::Failed(failure) => {
                    Err(Error::new(Kind::Io, format!("the small bus {failure}")))
                }
                Exit::Stopped | Exit::Finished => Ok(()),
            }
        };
        let sweeping = async {
            loop {
                clock.sleep(SWEEP).await;
                hub.decide(None, |bus| bus.expire(clock.now()));
            }
        };
        let teller = Teller::new(Wire::from(&contact), clock.clone());
        let sending = async {
            while let Ok(Unsent { message, _room }) = unsent.recv().await {
                teller.tell(&message).await?;
            }
            // The hub is there for as long as this is.
            Ok(())
        };
        let hearing = async {
            let mut contact = Contact::new(contact, clock.clone());
            while let Some(message) = contact.next().await {
                hub.decide(None, |bus| bus.hear_contact(&message));
                if !told.is_closed() && hub.inside().bus.is_told() {
                    told.close();
                }
            }
            Ok(())
        };
        hearing.or(listening).or(sweeping).or(sending).await
    }
}

/// What all tasks share.
struct Hub {
    outbox: Sender<Unsent>,
    /// For the calls in it.
    room: Slots,
    inside: Mutex<Inside>,
}

/// What the contact is to be sent, and the room that it takes until it is.
struct Unsent {
    message: Message,
    _room: Option<Slot>,
}

struct Inside {
    bus: SmallBus,
    places: BTreeMap<ClientId, Place>,
}

/// A client's queue, and a second handle of its socket to shut it down by.
struct Place {
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    socket: UnixStream,
    /// Signals that it did not get.
    missed: u64,
}

impl Hub {
    /// Each change is whole before anything could panic.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides, and queues what follows before anybody else decides. `room` is for a call.
    fn decide(&self, mut room: Option<Slot>, decide: impl FnOnce(&mut SmallBus) -> Vec<Act>) {
        let mut inside = self.inside();
        for act in decide(&mut inside.bus) {
            match act {
                Act::Client(id, message) => inside.put(id, message),
                Act::End(id, why) => {
                    tracing::debug!(client = id, why, "a client of the small bus is closed");
                    inside.hang_up(id);
                }
                Act::Contact(message) => {
                    let _room = room.take();
                    // Of what else is there refusals take no more than their share, so a call has its room.
                    let too_many = _room.is_none() && self.outbox.len() >= MAX_REFUSALS;
                    if too_many || self.outbox.try_send(Unsent { message, _room }).is_err() {
                        tracing::debug!("a contact that does not read is not told of a refusal");
                    }
                }
            }
        }
    }
}

impl Inside {
    fn put(&mut self, id: ClientId, message: Message) {
        let Some(place) = self.places.get_mut(&id) else {
            return;
        };
        let half_full = place.queue.len() >= MAX_WAITING / 2
            || place.waiting.load(Ordering::Relaxed) > MAX_WAITING_BYTES / 2;
        if half_full && message.message_type() == Type::Signal {
            place.missed += 1;
            if place.missed == 1 {
                tracing::warn!(
                    client = id,
                    "a client of the small bus does not read: it misses signals"
                );
            }
            return;
        }
        // Counted first: the client's task may take it out at once.
        let before = place
            .waiting
            .fetch_add(message.data().len(), Ordering::Relaxed);
        if before > MAX_WAITING_BYTES || place.queue.try_send(message).is_err() {
            tracing::warn!(
                client = id,
                "a client of the small bus does not read: it is closed"
            );
            self.hang_up(id);
        }
    }

    fn hang_up(&mut self, id: ClientId) {
        let Some(place) = self.places.get(&id) else {
            return;
        };
        if let Err(error) = place.socket.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "a socket cannot be shut down");
        }
    }
}

async fn serve_client(
    hub: &Arc<Hub>,
    accepted: Accepted,
    guid: Guid<'static>,
    spawner: &Spawner,
    clock: &Arc<dyn Clock>,
) {
    let Accepted {
        stream,
        slot: _slot,
    } = accepted;
    let LocalStream::Unix(stream) = stream else {
        return;
    };
    let Ok(stream) = stream.into_inner() else {
        return;
    };
    let Ok(socket) = stream.try_clone() else {
        return;
    };
    let messages = match welcome(stream, guid, spawner, clock).await {
        Ok(messages) => messages,
        Err(error) => {
            tracing::debug!(%error, "the greeting of a client of the small bus failed");
            return;
        }
    };
    let (queue, waits) = async_channel::bounded(MAX_WAITING);
    let waiting = Arc::<AtomicUsize>::default();
    let place = Place {
        queue,
        waiting: waiting.clone(),
        socket,
        missed: 0,
    };
    let entered = {
        let mut inside = hub.inside();
        let id = inside.bus.enter();
        id.inspect(|id| drop(inside.places.insert(*id, place)))
    };
    let Some(id) = entered else {
        return;
    };
    // Whatever ends this task gives up the place.
    let _leaving = Leaving { hub, id };
    exchange(hub, id, messages, waits, &waiting, clock).await;
}

struct Leaving<'h> {
    hub: &'h Arc<Hub>,
    id: ClientId,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let left = self.hub.inside().places.remove(&self.id);
        if let Some(missed) = left.map(|place| place.missed).filter(|missed| *missed > 0) {
            tracing::info!(client = self.id, missed, "a client missed signals");
        }
        self.hub.decide(None, |bus| bus.leave(self.id));
    }
}

async fn exchange(
    hub: &Hub,
    id: ClientId,
    mut messages: MessageStream,
    waits: Receiver<Message>,
    waiting: &AtomicUsize,
    clock: &Arc<dyn Clock>,
) {
    let wire = Wire::from(&messages);
    let reading = async {
        while let Some(Ok(message)) = messages.next().await {
            let room = match SmallBus::is_for_service(&message) {
                true => Some(hub.room.reserve().await),
                false => None,
            };
            hub.decide(room, |bus| bus.hear_client(id, &message, clock.now()));
        }
    };
    let writing = async {
        while let Ok(message) = waits.recv().await {
            if wire.send(&message).await.is_err() {
                return;
            }
            waiting.fetch_sub(message.data().len(), Ordering::Relaxed);
        }
    };
    writing.or(reading).await;
}
