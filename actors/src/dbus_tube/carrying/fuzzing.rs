//! The fuzzing target of messages on their way: a tube that is open, with a contact and with applications
//! that come and go as the input says. See `pneuma::fuzzing`.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::{Wake, Waker},
};

use async_channel::Sender;
use futures_lite::{AsyncRead as _, AsyncWrite as _};

use super::{
    AccessControl, Arc, Carrying, Clock, Context, Door, End, Faults, GREET_WITHIN, Guid, Limits,
    Pin, Poll, QUEUE, READ, Traffic, Wire,
};
use crate::{
    dbus_tube::splitter::fuzzing::{ends, is_refused},
    endpoint::Slots,
    supervisor::AcceptedSocket,
    testing::{FAKE_USER, FakeStream, VirtualClock, pipe},
};

const HELLO: &[u8] = b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n";
const WELCOME: &[u8] = b"OK 07070707070707070707070707070707\r\n";
/// Bytes the contact's stream buffers each way, and an application's socket: more than is read at once.
const CAPACITY: usize = 4096;
const SOCKET: usize = READ + READ / 2;
/// What happens at most.
const STEPS: usize = 96;
/// Bytes of messages that the target makes up, at most; more is slow and shows nothing new.
const MADE: usize = 3 * QUEUE;

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An application that is there.
struct Application {
    stream: FakeStream,
    /// It greets at once; else never.
    greets: bool,
    /// What it wrote behind its greeting, and what it has read.
    wrote: Vec<u8>,
    read: usize,
}

struct World {
    carrying: Carrying,
    wire: Wire,
    clock: Arc<VirtualClock>,
    flag: Arc<Flag>,
    lobby: Sender<AcceptedSocket>,
    slots: Slots,
    traffic: Arc<Traffic>,
    ended: Option<End>,
    contact: Option<FakeStream>,
    /// The contact wrote this, and no more.
    wrote: Vec<u8>,
    closed: bool,
    /// It read so much, and was to read this of those who have gone.
    read: usize,
    gone: Vec<u8>,
    application: Option<Application>,
    /// So much of what the contact wrote has been read by applications, or was nobody's.
    taken: usize,
    /// Whether whoever is there now has had nothing of it.
    fresh: bool,
    made: usize,
}

impl World {
    fn new() -> Self {
        let (near, contact) = pipe(CAPACITY);
        let (lobby, coming) = async_channel::bounded(1);
        let clock = VirtualClock::new();
        let its_clock: Arc<dyn Clock> = clock.clone();
        let traffic = Arc::<Traffic>::default();
        let door = Door {
            guid: Guid([7; 16]),
            access: AccessControl::Localhost,
        };
        let limits = Limits::new(&its_clock);
        let faults = Faults::default();
        World {
            carrying: Carrying::new(door, coming, &limits, traffic.clone(), its_clock, faults),
            wire: Wire::for_chunks(Box::new(near)),
            clock,
            flag: Arc::default(),
            lobby,
            // One is there, and one may wait.
            slots: Slots::new(2),
            traffic,
            ended: None,
            contact: Some(contact),
            wrote: Vec::new(),
            closed: false,
            read: 0,
            gone: Vec::new(),
            application: None,
            taken: 0,
            fresh: true,
            made: 0,
        }
    }

    /// Lets the tube do all that it can.
    fn settle(&mut self) {
        let waker = Waker::from(self.flag.clone());
        let mut context = Context::from_waker(&waker);
        while self.ended.is_none() {
            self.flag.0.store(false, Ordering::Relaxed);
            if let Poll::Ready(end) = self.carrying.poll(&mut self.wire, &mut context) {
                self.ended = Some(end.expect("nothing here fails"));
            }
            let incoming = &self.carrying.incoming.queue;
            assert!(incoming.len() <= QUEUE && incoming.capacity() <= 2 * QUEUE);
            let outgoing = &self.carrying.outgoing.bytes;
            let longest = self.made.max(16 * READ);
            assert!(outgoing.len() <= longest && outgoing.capacity() <= 2 * longest);
            if !self.flag.0.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// A message of so many kibibytes, if there may be another one.
    fn message(&mut self, kibibytes: u8) -> Vec<u8> {
        let body = usize::from(kibibytes) * 1024;
        if self.made + body > MADE {
            return Vec::new();
        }
        self.made += body + 16;
        let mut message = b"l\x04\x01\x01".to_vec();
        for number in [body as u32, 1, 0] {
            message.extend(number.to_le_bytes());
        }
        let count = self.made as u8;
        message.extend((0..body).map(|at| at as u8 ^ count));
        message
    }

    fn contact_writes(&mut self, mut bytes: &[u8]) {
        while let (Some(contact), false) = (&mut self.contact, bytes.is_empty() || self.closed) {
            let count = write(contact, bytes);
            self.wrote.extend(&bytes[..count]);
            bytes = &bytes[count..];
            self.settle();
            if count == 0 {
                return;
            }
        }
    }

    fn application_writes(&mut self, mut bytes: &[u8]) {
        while let (Some(application), false) = (&mut self.application, bytes.is_empty()) {
            if !application.greets {
                return;
            }
            let count = write(&mut application.stream, bytes);
            application.wrote.extend(&bytes[..count]);
            bytes = &bytes[count..];
            self.settle();
            if count == 0 {
                return;
            }
        }
    }

    fn arrives(&mut self, greets: bool) {
        let (near, mut stream) = pipe(SOCKET);
        let Some(slot) = self.slots.try_reserve() else {
            return;
        };
        let accepted = AcceptedSocket {
            stream: Box::new(near.like_a_socket()),
            slot,
            user: Some(FAKE_USER),
        };
        if self.application.is_some() || self.lobby.try_send(accepted).is_err() {
            return;
        }
        write(&mut stream, if greets { HELLO } else { b"\0AUTH" });
        self.application = Some(Application {
            stream: stream.like_a_socket(),
            greets,
            wrote: Vec::new(),
            read: 0,
        });
        self.fresh = true;
        self.settle();
    }

    /// So much of it is nobody's: the next one begins with a whole message.
    fn boundary(&self) -> Option<usize> {
        let (ends, _) = ends(&self.wrote);
        let boundaries = std::iter::once(0).chain(ends);
        boundaries.into_iter().find(|end| *end >= self.taken)
    }

    /// Reads what is there, up to so much. Whether that was anything.
    fn application_reads(&mut self, most: usize) -> bool {
        let Some(application) = &mut self.application else {
            return false;
        };
        let Some(bytes) = read(&mut application.stream, most) else {
            let right =
                is_refused(&application.wrote) || !application.greets || self.ended.is_some();
            assert!(right, "it is cut off and did nothing wrong");
            self.gone.extend(whole(application));
            self.application = None;
            return true;
        };
        let greeting = WELCOME
            .len()
            .saturating_sub(application.read)
            .min(bytes.len());
        let (welcome, messages) = bytes.split_at(greeting);
        assert!(WELCOME[application.read.min(WELCOME.len())..].starts_with(welcome));
        application.read += bytes.len();
        assert!(application.greets || bytes.is_empty());
        if !messages.is_empty() {
            if std::mem::take(&mut self.fresh) {
                self.taken = self.boundary().expect("it begins with a whole message");
            }
            let wanted = &self.wrote[self.taken..];
            assert!(wanted.starts_with(messages), "another message came");
            self.taken += messages.len();
        }
        !bytes.is_empty()
    }

    fn leaves(&mut self) {
        // What it has not read would be nobody's as well, and then we could not say how much that is.
        while self.application_reads(SOCKET) {}
        if let Some(application) = self.application.take() {
            self.gone.extend(whole(&application));
        }
        self.settle();
    }

    /// What the contact is to hear: whole messages, in the order of those who wrote them.
    fn contact_reads(&mut self, most: usize) -> bool {
        let Some(contact) = &mut self.contact else {
            return false;
        };
        let bytes = read(contact, most).unwrap_or_default();
        let there = self.application.as_ref().map_or(&b""[..], whole);
        let at = self.read;
        self.read += bytes.len();
        let wanted = self.gone.iter().chain(there).skip(at).take(bytes.len());
        assert!(wanted.eq(&bytes), "another message goes");
        !bytes.is_empty()
    }

    /// Everybody reads until nothing is left.
    fn drain(&mut self) {
        loop {
            let mut moved = self.contact_reads(CAPACITY);
            moved |= self.application_reads(SOCKET);
            self.settle();
            if !moved {
                return;
            }
        }
    }
}

/// What of its messages goes through.
fn whole(application: &Application) -> &[u8] {
    let (ends, _) = ends(&application.wrote);
    &application.wrote[..ends.last().copied().unwrap_or(0)]
}

/// How much of it goes in at once.
fn write(stream: &mut FakeStream, bytes: &[u8]) -> usize {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(stream).poll_write(&mut context, bytes) {
        Poll::Ready(Ok(count)) => count,
        _ => 0,
    }
}

/// What is there, up to so much; nothing when no more comes.
fn read(stream: &mut FakeStream, most: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; most.max(1)];
    let mut context = Context::from_waker(Waker::noop());
    let count = match Pin::new(stream).poll_read(&mut context, &mut bytes) {
        Poll::Pending => 0,
        Poll::Ready(Ok(count)) if count > 0 => count,
        Poll::Ready(_) => return None,
    };
    bytes.truncate(count);
    Some(bytes)
}

/// One input: what happens, each with a number, some with bytes behind it.
pub fn dbus_carrying(data: &[u8]) {
    let mut world = World::new();
    let mut rest = data;
    for _ in 0..STEPS {
        let [what, number, after @ ..] = rest else {
            break;
        };
        rest = after;
        let number = *number;
        let mut raw = || {
            let (bytes, after) = rest.split_at(rest.len().min(usize::from(number)));
            rest = after;
            bytes
        };
        match what % 11 {
            0 => world.contact_writes(raw()),
            1 => {
                let message = world.message(number);
                world.contact_writes(&message);
            }
            2 => world.arrives(number != 0),
            3 => world.application_writes(raw()),
            4 => {
                let message = world.message(number);
                world.application_writes(&message);
            }
            5 => drop(world.application_reads(usize::from(number) * 16)),
            6 => drop(world.contact_reads(usize::from(number) * 16)),
            7 => world.leaves(),
            8 if number > 250 => {
                if let Some(contact) = &mut world.contact {
                    let mut context = Context::from_waker(Waker::noop());
                    assert!(Pin::new(contact).poll_close(&mut context).is_ready());
                    world.closed = true;
                }
            }
            8 if number > 240 => world.contact = None,
            9 => world
                .clock
                .advance(GREET_WITHIN / 4 * u32::from(number % 8)),
            _ => world.drain(),
        }
        world.settle();
    }
    finish(world);
}

fn finish(mut world: World) {
    // Whoever never greeted goes, and somebody comes who takes what is there.
    if world
        .application
        .as_ref()
        .is_some_and(|there| !there.greets)
    {
        world.leaves();
    }
    world.drain();
    world.arrives(true);
    world.drain();
    let (found, bad) = ends(&world.wrote);
    let whole_to = found.last().copied().unwrap_or(0);
    let (sent, received) = (world.traffic.sent(), world.traffic.received());
    match &world.ended {
        Some(End::Malformed(_)) => return,
        Some(End::Closed) => {
            assert!(world.closed && whole_to == world.wrote.len());
            return;
        }
        Some(End::Lost(_)) => {
            assert!(world.contact.is_none() || world.closed && whole_to < world.wrote.len());
            return;
        }
        None => assert!(!bad, "what is no message goes on to applications"),
    }
    // Nobody waits for anything: all that can go has gone.
    let there = world.application.as_ref().map_or(&b""[..], whole);
    let to_hear = world.gone.len() + there.len();
    assert_eq!((world.read, sent), (to_hear, to_hear as u64));
    assert!(received >= (world.taken as u64).min(received));
    let begun = world
        .application
        .as_ref()
        .is_some_and(|there| there.read >= WELCOME.len());
    if begun && !world.fresh {
        assert_eq!(world.taken, world.wrote.len(), "something is kept back");
    } else if begun {
        let left = world.boundary();
        assert!(left.is_none_or(|left| left == world.wrote.len()));
    }
}
