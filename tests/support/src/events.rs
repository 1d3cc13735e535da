//! One queue with every signal that a person's bus carried to us.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use futures_lite::{StreamExt as _, future::block_on};
use zbus::{Message, MessageStream, wire::DynamicDeserialize};

/// Signals remembered for a failure's message.
const HISTORY: usize = 300;

/// A signal.
#[derive(Clone)]
pub struct Event {
    /// Which one arrived how manieth, from 1.
    pub number: u64,
    /// The object that emitted it.
    pub path: String,
    /// The interface.
    pub interface: String,
    /// Its name.
    pub member: String,
    /// The message itself.
    pub message: Message,
}

impl Event {
    /// The arguments; `None` when they are not of this type.
    pub fn arguments<T>(&self) -> Option<T>
    where
        T: for<'de> DynamicDeserialize<'de>,
    {
        self.message.body().deserialize::<T>().ok()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.message.body();
        let short = self.interface.trim_start_matches("org.freedesktop.");
        write!(
            f,
            "{:>4} {} {short}.{}",
            self.number, self.path, self.member
        )?;
        match body.deserialize::<zbus::Structure<'_>>() {
            Ok(arguments) => write!(f, " {arguments}"),
            Err(_) => write!(f, " ({})", body.signature()),
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Event>,
    history: VecDeque<Event>,
    total: u64,
}

/// The queue. An event that somebody waited for is taken out; the others stay for those who wait
/// later.
#[derive(Clone)]
pub struct Events(Arc<(Mutex<Queue>, Condvar)>);

impl Events {
    /// Reads all signals of `connection` from now on, on a thread that ends with the connection.
    pub fn of(connection: &zbus::Connection) -> Self {
        let events = Events(Arc::default());
        let queue = Arc::clone(&events.0);
        let mut stream = MessageStream::from(connection);
        std::thread::spawn(move || {
            while let Some(Ok(message)) = block_on(stream.next()) {
                if message.message_type() == zbus::message::Type::Signal {
                    add(&queue, message);
                }
            }
        });
        events
    }

    /// Takes the first event, past or to come, of which `find` makes something.
    ///
    /// # Errors
    /// What was seen instead, when the deadline passes.
    pub fn take<T>(
        &self,
        patience: Duration,
        mut find: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + patience;
        let (lock, changed) = &*self.0;
        let mut queue = lock.lock().expect("the queue's lock");
        let mut looked_at = 0;
        loop {
            let news = queue
                .waiting
                .iter()
                .enumerate()
                .filter(|(_, event)| event.number > looked_at)
                .find_map(|(place, event)| find(event).map(|found| (place, found)));
            if let Some((place, found)) = news {
                queue.waiting.remove(place);
                return Ok(found);
            }
            looked_at = queue.total;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(seen(&queue));
            }
            queue = changed
                .wait_timeout(queue, left)
                .expect("the queue's lock")
                .0;
        }
    }

    /// Tries `attempt` now and after every event until it gives something. Slow changes that no
    /// signal announces are looked at once a second too.
    ///
    /// # Errors
    /// What was seen, when the deadline passes.
    pub fn until<T>(
        &self,
        patience: Duration,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + patience;
        let (lock, changed) = &*self.0;
        loop {
            let before = lock.lock().expect("the queue's lock").total;
            if let Some(done) = attempt() {
                return Ok(done);
            }
            let mut queue = lock.lock().expect("the queue's lock");
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(seen(&queue));
            }
            if queue.total == before {
                let pause = left.min(Duration::from_secs(1));
                queue = changed
                    .wait_timeout(queue, pause)
                    .expect("the queue's lock")
                    .0;
            }
            drop(queue);
        }
    }

    /// Forgets what nobody waited for, so that the next wait sees only what comes.
    ///
    /// # Panics
    /// When a thread died holding the queue.
    pub fn clear(&self) {
        self.0.0.lock().expect("the queue's lock").waiting.clear();
    }

    /// The events that wait and of which `find` makes something; they stay.
    ///
    /// # Panics
    /// When a thread died holding the queue.
    pub fn waiting<T>(&self, find: impl FnMut(&Event) -> Option<T>) -> Vec<T> {
        let queue = self.0.0.lock().expect("the queue's lock");
        queue.waiting.iter().filter_map(find).collect()
    }
}

fn add(queue: &(Mutex<Queue>, Condvar), message: Message) {
    let header = message.header();
    let text = |part: Option<String>| part.unwrap_or_default();
    let path = text(header.path().map(|path| path.to_string()));
    let interface = text(header.interface().map(|name| name.to_string()));
    let member = text(header.member().map(|name| name.to_string()));
    drop(header);
    let mut now = queue.0.lock().expect("the queue's lock");
    now.total += 1;
    let event = Event {
        number: now.total,
        path,
        interface,
        member,
        message,
    };
    if now.history.len() == HISTORY {
        now.history.pop_front();
    }
    now.history.push_back(event.clone());
    now.waiting.push_back(event);
    queue.1.notify_all();
}

fn seen(queue: &Queue) -> String {
    let lines: Vec<String> = queue.history.iter().map(Event::to_string).collect();
    format!(
        "{} signals so far (the last ones):\n{}",
        queue.total,
        lines.join("\n")
    )
}
