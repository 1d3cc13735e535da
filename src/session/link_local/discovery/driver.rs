//! The driver: keeps what we announce and what was heard, whoever speaks multicast DNS for us.
//!
//! ```text
//!  session ── start, update, set_pinned, stop ──▶ driver task ◀──▶ Responder: mdns-sd, or Avahi
//!          ◀────────── DiscoveryEvent ─────────── (Pending)
//! ```
//!
//! Which one it is (`pneuma-discovery`): Avahi where a daemon owns its name on the system bus and answers
//! in time, else mdns-sd, which also takes over from an Avahi that is gone or silent for longer than
//! [`avahi::PATIENCE`]. It stays so until the account goes online again. What the session was told is
//! kept meanwhile: those not heard of again are gone [`SETTLE`] after somebody listens again.
//!
//! The driver chooses our name and another one when somebody has it; it does nothing else but empty
//! the responder into [`Pending`], so that a flood costs those who make it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actors::{
    model::Error,
    runtime::{
        BoxFuture, Clock, Failure, Reply, Snapshot, SnapshotWriter, Spawner, Stop, Stopper, Time,
        within,
    },
};
use async_channel::{Receiver, Sender};
use futures_lite::{FutureExt as _, future};

use super::{
    Announcement, Discovery, DiscoveryEvent, MAX_INSTANCE, Method, PresenceText,
    avahi::{self, Avahi},
    mdns::BuiltIn,
    next_name,
    pending::Pending,
    responder::{Heard, PACE, Responder, interface_index},
    truncated,
};
use crate::session::{
    link_local::{
        MDNS_PORT,
        fault::{Faults, Point},
    },
    trust::KeyId,
};

/// Events that wait for the session; behind them [`Pending`] coalesces.
const EVENTS: usize = 64;
/// How long somebody has to be heard again after we browse anew.
const SETTLE: Duration = Duration::from_secs(10);
/// Between two attempts to announce us, and between two changes of our own name: a hostile network
/// must not keep us busy.
const PAUSE: Duration = Duration::from_secs(1);
/// How long we listen before we take a name: one that somebody has is passed over at once, where a
/// conflict found later would show others a name in between.
const LISTEN: Duration = Duration::from_millis(600);
/// Most names that are remembered meanwhile; beyond it, conflicts are found later.
const MAX_TAKEN: usize = 64;
/// Names tried with a number; then one with a part of our key, which nobody has by accident.
const NUMBERED: u32 = 9;
/// How long the goodbye may take.
const GOODBYE: Duration = Duration::from_millis(800);

/// See the module's head.
pub struct MulticastDns {
    settings: Settings,
    shared: Arc<Shared>,
    faults: Faults,
}

/// What discovery goes by.
#[derive(Clone)]
pub struct Settings {
    /// Who is to speak for us.
    pub method: Method,
    /// 5353 but in tests, and of mdns-sd only.
    pub port: u16,
    /// The only interface; else all that there are, loopback included.
    pub interface: Option<String>,
    /// Our key.
    pub key: KeyId,
    /// Runs tasks.
    pub spawner: Spawner,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Connects to the bus that Avahi is on.
    pub bus: avahi::Open,
}

impl Settings {
    /// mdns-sd, to announce a listener on `port`.
    fn built_in(&self, port: u16) -> Result<Box<dyn Responder>, Error> {
        let made = BuiltIn::new(self, port)?;
        Ok(Box::new(made))
    }

    /// Who speaks for us, and whether mdns-sd may take over.
    async fn first(&self, port: u16) -> Result<(Box<dyn Responder>, Method, bool), Error> {
        let interface = match &self.interface {
            // Both wait for an interface that they do not find.
            Some(interface) => Some(interface_index(interface)?),
            None => None,
        };
        // Avahi knows the one port only.
        let automatic = match self.method {
            Method::Auto if self.port == MDNS_PORT => true,
            Method::Avahi if self.port == MDNS_PORT => false,
            Method::Auto | Method::BuiltIn => {
                return Ok((self.built_in(port)?, Method::BuiltIn, false));
            }
            Method::Avahi => {
                return Err(Error::InvalidArgument(format!(
                    "Avahi uses port {MDNS_PORT} only: leave out pneuma-mdns-port, or pneuma-discovery"
                )));
            }
        };
        match Avahi::begin(self, interface, port).await {
            Ok(avahi) => {
                tracing::info!("the Avahi daemon announces us and finds others");
                Ok((Box::new(avahi), Method::Avahi, automatic))
            }
            Err(error) if automatic => {
                tracing::info!(%error, "discovery is built in");
                Ok((self.built_in(port)?, Method::BuiltIn, false))
            }
            Err(error) => Err(error),
        }
    }
}

struct Shared {
    wanted: Mutex<(Wanted, SnapshotWriter<Wanted>)>,
    responder: Mutex<Option<Method>>,
    driver: Mutex<Running>,
}

/// What runs; a goodbye is the last of it.
enum Running {
    Nothing,
    Announced(Driver),
    /// Said goodbye: a start that comes late announces nothing, not even for a moment.
    Stopped,
}

#[derive(Clone, Debug, Default)]
struct Wanted {
    version: u64,
    text: Option<PresenceText>,
    pinned: BTreeMap<KeyId, String>,
}

struct Driver {
    stopper: Stopper,
    done: actors::runtime::Pending<()>,
}

/// What the mutexes guard is replaced as a whole, so it is valid whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MulticastDns {
    /// Discovery that has not begun.
    pub fn new(settings: Settings) -> Self {
        let (writer, _) = Snapshot::new(Wanted::default());
        MulticastDns {
            settings,
            shared: Arc::new(Shared {
                wanted: Mutex::new((Wanted::default(), writer)),
                responder: Mutex::default(),
                driver: Mutex::new(Running::Nothing),
            }),
            faults: Faults::default(),
        }
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let mut wanted = lock(&self.wanted);
        change(&mut wanted.0);
        wanted.0.version += 1;
        wanted.1.publish(wanted.0.clone());
    }

    fn is_stopped(&self) -> bool {
        matches!(*lock(&self.driver), Running::Stopped)
    }
}

fn stopped() -> Error {
    Error::Cancelled("discovery was stopped before it began".into())
}

impl Discovery for MulticastDns {
    fn start(
        &self,
        announcement: Announcement,
    ) -> BoxFuture<'static, Result<Receiver<DiscoveryEvent>, Error>> {
        let (settings, shared, faults) = (
            self.settings.clone(),
            self.shared.clone(),
            self.faults.clone(),
        );
        Box::pin(async move {
            if shared.is_stopped() {
                return Err(stopped());
            }
            shared.change(|wanted| wanted.text = Some(announcement.text.clone()));
            let (responder, who, may_change) = settings.first(announcement.port).await?;
            let snapshot = lock(&shared.wanted).1.reader();
            let (events, receiver) = async_channel::bounded(EVENTS);
            let (stopper, stop) = Stopper::new();
            let (done, finished) = Reply::new();
            let base = truncated(&announcement.name, MAX_INSTANCE).to_owned();
            let mut driver = DriverTask {
                responder,
                may_change,
                shared: shared.clone(),
                key: settings.key,
                name: base.clone(),
                base,
                port: announcement.port,
                attempt: 1,
                published: None,
                wanted: snapshot.get(),
                snapshot,
                pending: Pending::default(),
                next: None,
                settle_at: None,
                rename_at: None,
                announced_at: None,
                update_at: None,
                register_at: Some(settings.clock.now() + LISTEN),
                taken: BTreeSet::new(),
                events,
                clock: settings.clock.clone(),
                faults,
                settings: settings.clone(),
            };
            driver.pinned();
            *lock(&shared.responder) = Some(who);
            let mut running = lock(&shared.driver);
            if matches!(*running, Running::Stopped) {
                return Err(stopped());
            }
            settings
                .spawner
                .spawn("discovery", async move {
                    driver.run(&stop).await;
                    // Nobody waits for it when the session was dropped instead of stopped.
                    if done.send(()).is_err() {
                        tracing::debug!("discovery ended by itself");
                    }
                })
                .detach();
            *running = Running::Announced(Driver {
                stopper,
                done: finished,
            });
            drop(running);
            Ok(receiver)
        })
    }

    fn update(&self, text: PresenceText) {
        self.shared.change(|wanted| wanted.text = Some(text));
    }

    fn responder(&self) -> Option<Method> {
        *lock(&self.shared.responder)
    }

    fn set_pinned(&self, pinned: BTreeMap<KeyId, String>) {
        self.shared.change(|wanted| wanted.pinned = pinned);
    }

    fn stop(&self) -> BoxFuture<'static, ()> {
        let running = std::mem::replace(&mut *lock(&self.shared.driver), Running::Stopped);
        let timeout = self.settings.clock.sleep(2 * GOODBYE);
        Box::pin(async move {
            if let Running::Announced(driver) = running {
                driver.stopper.stop();
                let done = async {
                    // Gone without an answer is gone too.
                    driver.done.wait().await.unwrap_or(());
                };
                done.or(timeout).await;
            }
        })
    }
}

enum Step {
    Heard(Heard),
    Wanted(Arc<Wanted>),
    Told(bool),
    Timer,
    Stop,
    Failed(Failure),
}

struct DriverTask {
    responder: Box<dyn Responder>,
    /// Whether mdns-sd takes over when this one ends.
    may_change: bool,
    shared: Arc<Shared>,
    settings: Settings,
    snapshot: Snapshot<Wanted>,
    wanted: Arc<Wanted>,
    pending: Pending,
    next: Option<DiscoveryEvent>,
    events: Sender<DiscoveryEvent>,
    clock: Arc<dyn Clock>,
    faults: Faults,
    key: KeyId,
    base: String,
    name: String,
    port: u16,
    attempt: u32,
    published: Option<String>,
    settle_at: Option<Time>,
    rename_at: Option<Time>,
    /// When our record was announced last, and when it is next.
    announced_at: Option<Time>,
    update_at: Option<Time>,
    /// When to announce ourselves for the first time; nothing once that is done.
    register_at: Option<Time>,
    /// Names others have, heard before that.
    taken: BTreeSet<String>,
}

impl DriverTask {
    async fn run(&mut self, stop: &Stop) {
        let faults = self.faults.clone();
        loop {
            if self.next.is_none() {
                self.next = self.pending.pop();
            }
            let waiting = faults.survive(Point::DiscoveryWaiting, self.select(stop));
            let step = match waiting.await {
                Ok(step) => step,
                Err(failure) => Step::Failed(failure),
            };
            let step = match faults.hit(Point::DiscoveryDecide) {
                Ok(()) => step,
                Err(failure) => Step::Failed(failure),
            };
            match step {
                Step::Failed(failure) => {
                    // The session hears that there is nothing more to hear.
                    tracing::error!(%failure, "discovery ends because it failed");
                    return self.goodbye().await;
                }
                Step::Heard(Heard::Ended(error)) => {
                    let Err(error) = self.take_over(error) else {
                        continue;
                    };
                    // The session that does not listen any more has no use for it.
                    self.events
                        .send(DiscoveryEvent::Failed(error))
                        .await
                        .unwrap_or(());
                    return;
                }
                Step::Heard(heard) => self.heard(heard),
                Step::Wanted(wanted) => {
                    let text_changed = wanted.text != self.wanted.text;
                    self.wanted = wanted;
                    self.pinned();
                    if text_changed && self.register_at.is_none() {
                        let now = self.clock.now();
                        let paced = self.announced_at.map_or(now, |at| now.max(at + PACE));
                        self.update_at = Some(paced);
                    }
                }
                Step::Told(true) => self.next = None,
                Step::Told(false) | Step::Stop => return self.goodbye().await,
                Step::Timer => self.timers(),
            }
        }
    }

    /// Cancel-safe: whatever loses was not taken from its channel.
    async fn select(&mut self, stop: &Stop) -> Step {
        let stopped = async {
            stop.stopped().await;
            Step::Stop
        };
        let heard = async { Step::Heard(self.responder.next().await) };
        let version = self.wanted.version;
        let wanted = async {
            Step::Wanted(
                self.snapshot
                    .wait_for(|wanted| wanted.version != version)
                    .await,
            )
        };
        let told = async {
            match &self.next {
                Some(event) => Step::Told(self.events.send(event.clone()).await.is_ok()),
                None => future::pending().await,
            }
        };
        let deadline = [
            self.settle_at,
            self.rename_at,
            self.register_at,
            self.update_at,
        ]
        .into_iter()
        .flatten()
        .min();
        let timer = async {
            match deadline {
                Some(deadline) => self.clock.sleep_until(deadline).await,
                None => future::pending().await,
            }
            Step::Timer
        };
        stopped.or(heard).or(wanted).or(told).or(timer).await
    }

    fn timers(&mut self) {
        let now = self.clock.now();
        let due = |at: &mut Option<Time>| at.take_if(|at| *at <= now).is_some();
        if due(&mut self.settle_at) {
            self.pending.settle();
        }
        if due(&mut self.register_at) {
            while self.taken.remove(&self.name) {
                self.name = self.another_name();
            }
            if let Err(error) = self.announce() {
                tracing::warn!(%error, "cannot announce our presence; trying again");
                self.register_at = Some(now + PAUSE);
            }
        }
        if due(&mut self.update_at)
            && let Err(error) = self.announce()
        {
            tracing::warn!(%error, "our presence could not be announced");
        }
        if due(&mut self.rename_at) {
            self.name = self.another_name();
            if let Err(error) = self.announce() {
                tracing::warn!(%error, "cannot announce a new name; trying again");
                self.rename_at = Some(now + PAUSE);
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Seen(sighting) => {
                if self.register_at.is_some()
                    && self.taken.len() < MAX_TAKEN
                    && sighting.text.key != Some(self.key)
                {
                    self.taken.insert(sighting.instance.clone());
                }
                self.pending.seen(*sighting);
            }
            Heard::Gone(instance) => self.pending.gone(&instance),
            Heard::Announced(name) => {
                if name == self.name && self.published.as_ref() != Some(&name) {
                    self.published = Some(name.clone());
                    // It overtakes sightings that wait, but not the one that is being told.
                    self.pending.tell_first(DiscoveryEvent::Published(name));
                }
            }
            Heard::Conflict(name) => {
                if name == self.name {
                    let now = self.clock.now();
                    let first = self.attempt == 1;
                    self.rename_at
                        .get_or_insert(if first { now } else { now + PAUSE });
                }
            }
            Heard::Again => self.again(),
            // Taken care of before.
            Heard::Ended(_) => {}
        }
    }

    /// Whoever is not heard of from now on is gone.
    fn again(&mut self) {
        self.pending.begin_again();
        self.settle_at = Some(self.clock.now() + SETTLE);
    }

    /// mdns-sd in place of an Avahi that has ended, where that may be.
    fn take_over(&mut self, error: Error) -> Result<(), Error> {
        if !std::mem::take(&mut self.may_change) {
            return Err(error);
        }
        tracing::warn!(%error, "discovery is built in from now on");
        self.responder = self.settings.built_in(self.port)?;
        *lock(&self.shared.responder) = Some(Method::BuiltIn);
        self.pinned();
        self.again();
        if self.register_at.is_none() {
            // Our name is as good as it was; perhaps somebody else took it meanwhile.
            self.register_at = Some(self.clock.now() + LISTEN);
        }
        Ok(())
    }

    fn pinned(&mut self) {
        self.pending.set_pinned(&self.wanted.pinned);
        self.responder.set_pinned(&self.wanted.pinned);
    }

    fn another_name(&mut self) -> String {
        self.attempt += 1;
        if self.attempt <= NUMBERED {
            return next_name(&self.base, self.attempt);
        }
        let part = &self.key.to_string()[..16];
        let room = MAX_INSTANCE - part.len() - 12;
        format!("{} {part} #{}", truncated(&self.base, room), self.attempt)
    }

    fn announce(&mut self) -> Result<(), Error> {
        let text = self.wanted.text.clone().unwrap_or_default();
        self.announced_at = Some(self.clock.now());
        self.update_at = None;
        self.responder.announce(&self.name, &text)
    }

    async fn goodbye(&mut self) {
        let said = self.responder.goodbye();
        if within(&*self.clock, GOODBYE, said).await.is_none() {
            tracing::debug!("multicast DNS did not end in time");
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
