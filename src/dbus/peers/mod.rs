//! Clients without a bus: each has a connection of its own to our Unix socket, and all of them share
//! one tree of objects.
//!
//! ```text
//!   door ── accepts, asks the kernel who it is, says the D-Bus greeting ──► peer
//!
//!   peer 1 ── calls ──┐                    ┌── answer, to whom asked ──► queue ──► peer 1
//!   peer 2 ── calls ──┼─► objects (zbus) ──┤
//!   peer 3 ── calls ──┘                    └── signal, to everybody ───► queues ─► peers
//! ```
//!
//! The objects are served on one zbus connection whose other end is not a socket but this module. A
//! call gets its peer's name as the sender, whatever the peer itself wrote there; the answer is
//! addressed to that name, and so finds its way back. Nothing but that name, which never leaves this
//! process, tells a peer from a client on a bus: so a new peer sees every object at once, and nothing
//! about an object depends on how many there are.
//!
//! Peers speak to us and never to each other. There is no `org.freedesktop.DBus` here, no `Hello`, and
//! names in a call's destination mean nothing.
//!
//! # Bounds
//! [`MAX_PEERS`] at once, those that still greet us counted; one more is closed. A greeting takes
//! [`GREETING`] and [`bounded_socket::MAX_GREETING`](crate::bounded_socket::MAX_GREETING) bytes at most. A message to us has at most
//! [`MAX_MESSAGE`] bytes; who sends a longer one is closed. A peer has at most [`MAX_CALLS`]
//! unanswered calls; we read no further from it until one is answered. What waits for a peer that does
//! not read is at most [`MAX_WAITING`] messages and about [`MAX_WAITING_BYTES`]; one that lets more
//! wait is closed. So nobody waits for a peer: to send to one is to put a message into its queue.

mod door;
mod objects;
mod peer;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actors::runtime::{Snapshot, SnapshotWriter};
use async_channel::{Receiver, Sender};
use event_listener::Event;
use zbus::{
    Message,
    message::{Flags, Type},
    names::{OwnedUniqueName, UniqueName},
};

pub(super) use door::Door;
pub(super) use objects::connect;

/// Most peers at once.
const MAX_PEERS: usize = 64;
/// How long a peer may take for its greeting.
const GREETING: Duration = Duration::from_secs(5);
/// Most bytes of a message of a peer.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Most calls of one peer that wait for their answer.
const MAX_CALLS: usize = 256;
/// Most messages that wait for one peer.
const MAX_WAITING: usize = 2048;
/// How much may wait for one peer before the next message closes it. A single answer can be larger: a
/// list of all contacts has some megabytes.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Calls of all peers that the objects have not taken yet; peers wait for room.
const MAX_INCOMING: usize = 4;

/// What every name of a peer begins with.
const NAME_PREFIX: &str = ":peer.";

/// All peers. Cheap to clone.
#[derive(Clone)]
pub(super) struct Peers(Arc<Shared>);

struct Shared {
    /// Bytes of whole messages, for the objects.
    incoming: Sender<Vec<u8>>,
    places: Mutex<Places>,
    count: SnapshotWriter<usize>,
}

#[derive(Default)]
struct Places {
    peers: BTreeMap<u64, Place>,
    last: u64,
    closing: bool,
}

/// What is known of a peer. Dropped when it is gone.
struct Place {
    /// A second handle of its socket, to shut it down by.
    socket: UnixStream,
    queue: Sender<Message>,
    waiting: Arc<AtomicUsize>,
    /// Whether it has said its greeting: signals go to those only.
    greeted: bool,
    /// By serial number, and whether an answer is wanted.
    calls: BTreeMap<u32, bool>,
    answered: Arc<Event>,
    gone: Receiver<Infallible>,
    _alive: Sender<Infallible>,
}

/// A new peer's end of its queue.
struct Queue {
    messages: Receiver<Message>,
    waiting: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("count", &self.places().peers.len())
            .finish_non_exhaustive()
    }
}

impl Peers {
    /// Nobody yet, and what the objects will read their calls from.
    fn new() -> (Self, Receiver<Vec<u8>>) {
        let (incoming, calls) = async_channel::bounded(MAX_INCOMING);
        let (count, _) = Snapshot::new(0);
        let shared = Shared {
            incoming,
            places: Mutex::default(),
            count,
        };
        (Peers(Arc::new(shared)), calls)
    }

    /// Each change is an insertion, a removal or a number, so the places are whole whatever panicked.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn count(&self) -> Snapshot<usize> {
        self.0.count.reader()
    }

    /// A place for who has just connected; `None` when there is none.
    fn enter(&self, socket: UnixStream) -> Option<(u64, Queue)> {
        let mut places = self.places();
        if places.closing || places.peers.len() >= MAX_PEERS {
            return None;
        }
        places.last += 1;
        let id = places.last;
        let (queue, messages) = async_channel::bounded(MAX_WAITING);
        let (alive, gone) = async_channel::bounded(1);
        let waiting = Arc::<AtomicUsize>::default();
        let place = Place {
            socket,
            queue,
            waiting: waiting.clone(),
            greeted: false,
            calls: BTreeMap::new(),
            answered: Arc::default(),
            gone,
            _alive: alive,
        };
        places.peers.insert(id, place);
        self.0.count.publish(places.peers.len());
        Some((id, Queue { messages, waiting }))
    }

    /// It has said its greeting.
    fn greeted(&self, id: u64) {
        if let Some(place) = self.places().peers.get_mut(&id) {
            place.greeted = true;
        }
    }

    /// Gives up a place, and closes its socket.
    fn leave(&self, id: u64) {
        let mut places = self.places();
        if let Some(place) = places.peers.remove(&id) {
            place.hang_up();
            self.0.count.publish(places.peers.len());
        }
    }

    /// Waits until `id` may have one more call, and takes note of it. False when it is gone.
    async fn may_call(&self, id: u64, serial: u32, wants_answer: bool) -> bool {
        loop {
            let answered = match self.places().peers.get_mut(&id) {
                None => return false,
                // Two calls of one number cannot be told apart, nor counted.
                Some(place) if place.calls.contains_key(&serial) => return false,
                Some(place) if place.calls.len() < MAX_CALLS => {
                    place.calls.insert(serial, wants_answer);
                    return true;
                }
                Some(place) => place.answered.listen(),
            };
            answered.await;
        }
    }

    /// Hands a peer's message on to the objects. False when the peer is at its end.
    async fn receive(&self, id: u64, message: &Message) -> bool {
        if message.message_type() != Type::MethodCall {
            // We call nobody and listen to nobody.
            return true;
        }
        let header = message.primary_header();
        let wants_answer = !header.flags().contains(Flags::NO_REPLY_EXPECTED);
        if !self
            .may_call(id, header.serial_num().get(), wants_answer)
            .await
        {
            return false;
        }
        let Ok(named) = UniqueName::try_from(name(id)).and_then(|name| message.with_sender(&name))
        else {
            return false;
        };
        let mut bytes = named.data().bytes().to_vec();
        // Every call is answered, so that it can be counted; who wants no answer gets none.
        if let Some(flags) = bytes.get_mut(FLAGS) {
            *flags &= !Flags::NO_REPLY_EXPECTED.bits();
        }
        self.0.incoming.send(bytes).await.is_ok()
    }

    /// Puts what the objects say into the queues of whom it is for.
    fn send(&self, message: &Message) {
        let mut places = self.places();
        let mut full = Vec::new();
        match message.message_type() {
            Type::Signal => {
                for (id, place) in places.peers.iter().filter(|(_, place)| place.greeted) {
                    if !place.put(message) {
                        full.push(*id);
                    }
                }
            }
            Type::MethodReturn | Type::Error => {
                let header = message.header();
                let to = header.destination().and_then(|name| id_of(name.as_str()));
                if let (Some(id), Some(serial)) = (to, header.reply_serial())
                    && let Some(place) = places.peers.get_mut(&id)
                {
                    let wanted = place.calls.remove(&serial.get()).unwrap_or(false);
                    place.answered.notify(1);
                    if wanted && !place.put(message) {
                        full.push(id);
                    }
                }
            }
            Type::MethodCall => {}
        }
        for id in full {
            tracing::warn!(
                peer = id,
                "a client does not read what it is sent: it is closed"
            );
            if let Some(place) = places.peers.remove(&id) {
                place.hang_up();
            }
        }
        if *self.0.count.get() != places.peers.len() {
            self.0.count.publish(places.peers.len());
        }
    }

    /// Takes no more peers, and has those that are there leave when they have read what waits for
    /// them.
    fn part(&self) {
        let mut places = self.places();
        places.closing = true;
        for place in places.peers.values() {
            place.queue.close();
            if !place.greeted {
                place.hang_up();
            }
        }
    }

    /// Takes no more peers, if there are none. False when there are.
    pub(super) fn part_if_empty(&self) -> bool {
        let mut places = self.places();
        places.closing |= places.peers.is_empty();
        places.closing
    }

    /// Waits until all have left after the objects' connection was closed.
    pub(super) async fn parted(&self) {
        self.count().wait_for(|count| *count == 0).await;
    }

    /// Closes all that are left, whatever they have not read.
    pub(super) fn close(&self) {
        self.part();
        let mut places = self.places();
        for place in std::mem::take(&mut places.peers).into_values() {
            place.hang_up();
        }
        self.0.count.publish(0);
    }

    /// Completes when the peer of this name is gone, at once if it is gone already.
    pub(super) fn watch(
        &self,
        name: &OwnedUniqueName,
    ) -> impl Future<Output = ()> + Send + 'static + use<> {
        let place = id_of(name.as_str()).and_then(|id| {
            let places = self.places();
            places.peers.get(&id).map(|place| place.gone.clone())
        });
        async move {
            if let Some(gone) = place {
                // Nothing is ever sent.
                gone.recv().await.ok();
            }
        }
    }
}

/// Where a message's flags stand.
const FLAGS: usize = 2;

fn name(id: u64) -> String {
    format!("{NAME_PREFIX}{id}")
}

fn id_of(name: &str) -> Option<u64> {
    name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

impl Place {
    /// Whether there was room.
    fn put(&self, message: &Message) -> bool {
        if self.waiting.load(Ordering::Relaxed) > MAX_WAITING_BYTES {
            return false;
        }
        // Counted first: the peer's task may take it out at once.
        let size = message.data().len();
        self.waiting.fetch_add(size, Ordering::Relaxed);
        match self.queue.try_send(message.clone()) {
            Ok(()) => true,
            // It is leaving, and hears no more.
            Err(async_channel::TrySendError::Closed(_)) => true,
            Err(async_channel::TrySendError::Full(_)) => false,
        }
    }

    /// Whoever waits for the socket wakes up, the peer too.
    fn hang_up(&self) {
        self.answered.notify(usize::MAX);
        match self.socket.shutdown(Shutdown::Both) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                tracing::debug!(%error, "a socket cannot be shut down");
            }
            _ => {}
        }
    }
}
