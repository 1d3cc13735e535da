//! Discovery by ourselves, with mdns-sd.
//!
//! ```text
//!  session ── start, update, set_pinned, stop ──▶ driver task ◀──▶ mdns-sd's own thread
//!          ◀────────── DiscoveryEvent ─────────── (Pending)
//! ```
//!
//! mdns-sd drops a subscription whose channel (1,000 events) is full, so the driver does nothing but
//! empty it into `Pending`; when it is dropped all the same, the driver browses again and, ten
//! seconds later, takes those it did not hear of for gone. mdns-sd's thread and its cache are not
//! ours: the cache of a flooded network grows until the records' lifetimes end.
//!
//! The host name we give ourselves is made of our key, so that two connection managers of one machine,
//! or one and an Avahi, never contend for it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actors::{
    model::Error,
    runtime::{
        BoxFuture, Clock, Failure, Reply, Snapshot, SnapshotWriter, Spawner, Stop, Stopper, Time,
    },
};
use async_channel::{Receiver, Sender};
use futures_lite::{FutureExt as _, future};
use mdns_sd::{DaemonEvent, IfKind, RRType, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};

use super::{
    Announcement, Discovery, DiscoveryEvent, MAX_ADDRESSES, MAX_INSTANCE, PresenceText, Sighting,
    next_name, pending::Pending, subnets::Subnets, truncated,
};
use crate::session::{
    link_local::fault::{Faults, Point},
    trust::KeyId,
};

pub(super) const SERVICE: &str = "_presence._tcp.local.";
/// Events that wait for the session; behind them [`Pending`] coalesces.
const EVENTS: usize = 64;
/// How long somebody has to be heard again after we browse anew.
const SETTLE: Duration = Duration::from_secs(10);
/// Between two attempts to browse, and between two changes of our own name: a hostile network must not
/// keep us busy.
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
pub struct Mdns {
    port: u16,
    interface: Option<String>,
    key: KeyId,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    faults: Faults,
}

struct Shared {
    wanted: Mutex<(Wanted, SnapshotWriter<Wanted>)>,
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
    pinned: BTreeSet<KeyId>,
}

struct Driver {
    stopper: Stopper,
    done: actors::runtime::Pending<()>,
}

/// What the mutexes guard is replaced as a whole, so it is valid whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mdns {
    /// Discovery on one interface, or on all that there are, loopback included. `port` is 5353 but in
    /// tests; `key` is ours.
    pub fn new(
        port: u16,
        interface: Option<String>,
        key: KeyId,
        spawner: Spawner,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (writer, _) = Snapshot::new(Wanted::default());
        Mdns {
            port,
            interface,
            key,
            spawner,
            clock,
            shared: Arc::new(Shared {
                wanted: Mutex::new((Wanted::default(), writer)),
                driver: Mutex::new(Running::Nothing),
            }),
            faults: Faults::default(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let mut wanted = lock(&self.shared.wanted);
        change(&mut wanted.0);
        wanted.0.version += 1;
        wanted.1.publish(wanted.0.clone());
    }
}

impl Discovery for Mdns {
    fn start(
        &self,
        announcement: Announcement,
    ) -> BoxFuture<'static, Result<Receiver<DiscoveryEvent>, Error>> {
        let begin = || -> Result<Receiver<DiscoveryEvent>, Error> {
            let stopped = || Error::Cancelled("discovery was stopped before it began".into());
            if matches!(*lock(&self.shared.driver), Running::Stopped) {
                return Err(stopped());
            }
            // mdns-sd waits for an interface that it does not find.
            if let Some(interface) = &self.interface {
                exists(interface)?;
            }
            let daemon = ServiceDaemon::new_with_port(self.port).map_err(network)?;
            if let Some(interface) = &self.interface {
                daemon.disable_interface(IfKind::All).map_err(network)?;
                daemon
                    .enable_interface(interface.as_str())
                    .map_err(network)?;
            }
            self.change(|wanted| wanted.text = Some(announcement.text.clone()));
            let wanted = lock(&self.shared.wanted).1.reader();
            let (events, receiver) = async_channel::bounded(EVENTS);
            let (stopper, stop) = Stopper::new();
            let (done, finished) = Reply::new();
            let now = self.clock.now();
            let mut driver = DriverTask {
                host: format!("pneuma-{}.local.", self.key.short()),
                key: self.key,
                base: truncated(&announcement.name, MAX_INSTANCE).to_owned(),
                name: truncated(&announcement.name, MAX_INSTANCE).to_owned(),
                port: announcement.port,
                attempt: 1,
                published: None,
                wanted: wanted.get(),
                snapshot: wanted,
                pending: Pending::default(),
                subnets: Subnets::new(self.interface.clone()),
                next: None,
                browse: daemon.browse(SERVICE).map_err(network)?,
                monitor: daemon.monitor().map_err(network)?,
                browse_again_at: None,
                settle_at: None,
                rename_at: None,
                register_at: Some(now + LISTEN),
                taken: BTreeSet::new(),
                events,
                clock: self.clock.clone(),
                faults: self.faults.clone(),
                daemon,
            };
            // What DNS cannot carry is refused now rather than later.
            driver.info(true)?;
            self.spawner
                .spawn("mdns", async move {
                    driver.run(&stop).await;
                    // Nobody waits for it when the session was dropped instead of stopped.
                    if done.send(()).is_err() {
                        tracing::debug!("discovery ended by itself");
                    }
                })
                .detach();
            let mut running = lock(&self.shared.driver);
            if matches!(*running, Running::Stopped) {
                // Stopped meanwhile. The driver ends with its stopper, before it has announced us.
                return Err(stopped());
            }
            *running = Running::Announced(Driver {
                stopper,
                done: finished,
            });
            drop(running);
            Ok(receiver)
        };
        Box::pin(future::ready(begin()))
    }

    fn update(&self, text: PresenceText) {
        self.change(|wanted| wanted.text = Some(text));
    }

    fn set_pinned(&self, keys: BTreeSet<KeyId>) {
        self.change(|wanted| wanted.pinned = keys);
    }

    fn stop(&self) -> BoxFuture<'static, ()> {
        let running = std::mem::replace(&mut *lock(&self.shared.driver), Running::Stopped);
        let timeout = self.clock.sleep(2 * GOODBYE);
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

/// Whether this machine has an interface of that name now.
fn exists(interface: &str) -> Result<(), Error> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    // Any socket will do: it is how the kernel is asked.
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    );
    socket
        .and_then(|socket| netdevice::name_to_index(&socket, interface))
        .map(|_| ())
        .map_err(|error| {
            Error::NetworkError(format!(
                "there is no network interface {interface:?} on this machine: {error}"
            ))
        })
}

fn network(error: mdns_sd::Error) -> Error {
    Error::NetworkError(format!(
        "the local network cannot be searched for contacts: {error}"
    ))
}

enum Step {
    Browsed(Result<ServiceEvent, mdns_sd::RecvError>),
    Daemon(Result<DaemonEvent, mdns_sd::RecvError>),
    Wanted(Arc<Wanted>),
    Told(bool),
    Timer,
    Stop,
    Failed(Failure),
}

struct DriverTask {
    daemon: ServiceDaemon,
    browse: mdns_sd::Receiver<ServiceEvent>,
    monitor: mdns_sd::Receiver<DaemonEvent>,
    snapshot: Snapshot<Wanted>,
    wanted: Arc<Wanted>,
    pending: Pending,
    subnets: Subnets,
    next: Option<DiscoveryEvent>,
    events: Sender<DiscoveryEvent>,
    clock: Arc<dyn Clock>,
    faults: Faults,
    host: String,
    key: KeyId,
    base: String,
    name: String,
    port: u16,
    attempt: u32,
    published: Option<String>,
    browse_again_at: Option<Time>,
    settle_at: Option<Time>,
    rename_at: Option<Time>,
    /// When to announce ourselves for the first time; nothing once that is done.
    register_at: Option<Time>,
    /// Names others have, heard before that.
    taken: BTreeSet<String>,
}

impl Drop for DriverTask {
    fn drop(&mut self) {
        // The library's thread and sockets would outlive a driver that panicked. In order it has
        // been told before, and does not mind.
        if let Err(error) = self.daemon.shutdown() {
            tracing::trace!(%error, "mDNS had ended");
        }
    }
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
                Step::Browsed(Ok(event)) => self.browsed(event),
                Step::Browsed(Err(_)) => {
                    tracing::warn!("mdns-sd dropped our subscription; browsing again");
                    self.browse_again_at = Some(self.clock.now() + PAUSE);
                }
                Step::Daemon(Ok(event)) => self.daemon_said(event),
                Step::Daemon(Err(_)) => {
                    let error = Error::NetworkError("mDNS on this machine has ended".into());
                    // The session that does not listen any more has no use for it.
                    self.events
                        .send(DiscoveryEvent::Failed(error))
                        .await
                        .unwrap_or(());
                    return;
                }
                Step::Wanted(wanted) => {
                    let text_changed = wanted.text != self.wanted.text;
                    self.pending.set_pinned(wanted.pinned.clone());
                    self.wanted = wanted;
                    if text_changed
                        && self.register_at.is_none()
                        && let Err(error) = self.register(false)
                    {
                        tracing::warn!(%error, "our presence could not be announced");
                    }
                }
                Step::Told(true) => self.next = None,
                Step::Told(false) => return self.goodbye().await,
                Step::Timer => self.timers(),
                Step::Stop => return self.goodbye().await,
            }
        }
    }

    /// Cancel-safe: whatever loses was not taken from its channel.
    async fn select(&self, stop: &Stop) -> Step {
        let stopped = async {
            stop.stopped().await;
            Step::Stop
        };
        let browsed = async {
            match self.browse_again_at {
                Some(_) => future::pending().await,
                None => Step::Browsed(self.browse.recv_async().await),
            }
        };
        let daemon = async { Step::Daemon(self.monitor.recv_async().await) };
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
            self.browse_again_at,
            self.settle_at,
            self.rename_at,
            self.register_at,
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
        stopped
            .or(browsed)
            .or(daemon)
            .or(wanted)
            .or(told)
            .or(timer)
            .await
    }

    fn timers(&mut self) {
        let now = self.clock.now();
        let due = |at: &mut Option<Time>| at.take_if(|at| *at <= now).is_some();
        if due(&mut self.browse_again_at) {
            match self.daemon.browse(SERVICE) {
                Ok(browse) => {
                    self.browse = browse;
                    self.pending.begin_again();
                    self.settle_at = Some(now + SETTLE);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot browse; trying again");
                    self.browse_again_at = Some(now + PAUSE);
                }
            }
        }
        if due(&mut self.settle_at) {
            self.pending.settle();
        }
        if due(&mut self.register_at) {
            while self.taken.remove(&self.name) {
                self.name = self.another_name();
            }
            if let Err(error) = self.register(true) {
                tracing::warn!(%error, "cannot announce our presence; trying again");
                self.register_at = Some(now + PAUSE);
            }
        }
        if due(&mut self.rename_at)
            && let Err(error) = self.rename()
        {
            tracing::warn!(%error, "cannot announce a new name; trying again");
            self.rename_at = Some(now + PAUSE);
        }
    }

    fn browsed(&mut self, event: ServiceEvent) {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let (now, subnets) = (self.clock.now(), &mut self.subnets);
                if let Some(sighting) = sighting(&service, |ip| subnets.hold(ip, now)) {
                    if self.register_at.is_some()
                        && self.taken.len() < MAX_TAKEN
                        && sighting.text.key != Some(self.key)
                    {
                        self.taken.insert(sighting.instance.clone());
                    }
                    self.pending.seen(sighting);
                }
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                if let Some(instance) = instance_of(&fullname) {
                    self.pending.gone(instance);
                }
            }
            _ => {}
        }
    }

    fn daemon_said(&mut self, event: DaemonEvent) {
        match event {
            DaemonEvent::Announce(fullname, _)
                if unescaped(&fullname) == format!("{}.{SERVICE}", self.name)
                    && self.published.as_ref() != Some(&self.name) =>
            {
                self.published = Some(self.name.clone());
                self.next_published();
            }
            DaemonEvent::NameChange(change) => {
                let ours = unescaped(&change.original) == format!("{}.{SERVICE}", self.name);
                if ours && matches!(change.rr_type, RRType::SRV | RRType::TXT) {
                    // The library chooses a name by itself; we choose our own, once.
                    self.rename_at.get_or_insert(if self.attempt == 1 {
                        self.clock.now()
                    } else {
                        self.clock.now() + PAUSE
                    });
                }
            }
            DaemonEvent::Error(error) => tracing::warn!(%error, "mdns-sd"),
            _ => {}
        }
    }

    /// `Published` overtakes sightings that wait, but not the one that is being told.
    fn next_published(&mut self) {
        let event = DiscoveryEvent::Published(self.name.clone());
        self.pending.tell_first(event);
    }

    fn rename(&mut self) -> Result<(), Error> {
        self.unregister();
        self.name = self.another_name();
        self.register(true)
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

    fn register(&self, probe: bool) -> Result<(), Error> {
        self.daemon.register(self.info(probe)?).map_err(network)
    }

    fn info(&self, probe: bool) -> Result<ServiceInfo, Error> {
        let text = self.wanted.text.clone().unwrap_or_default();
        let pairs = text.pairs(self.port);
        let mut info = ServiceInfo::new(SERVICE, &self.name, &self.host, "", self.port, &pairs[..])
            .map_err(|error| Error::InvalidArgument(error.to_string()))?
            .enable_addr_auto();
        info.set_requires_probe(probe);
        Ok(info)
    }

    fn unregister(&self) -> Option<mdns_sd::Receiver<mdns_sd::UnregisterStatus>> {
        let fullname = ServiceInfo::new(SERVICE, &self.name, &self.host, "", self.port, None)
            .ok()?
            .get_fullname()
            .to_owned();
        self.daemon.unregister(&fullname).ok()
    }

    /// mdns-sd repeats the goodbye after 120 ms; then its thread ends too.
    async fn goodbye(&mut self) {
        let said = async {
            if let Some(status) = self.unregister() {
                // An error means that the thread has ended: nothing to wait for.
                if status.recv_async().await.is_ok() {
                    self.clock.sleep(Duration::from_millis(150)).await;
                }
            }
            match self.daemon.shutdown() {
                Ok(status) => status.recv_async().await.is_ok(),
                Err(_) => false,
            }
        };
        let timeout = async {
            self.clock.sleep(GOODBYE).await;
            false
        };
        if !said.or(timeout).await {
            tracing::debug!("mDNS did not end in time");
        }
    }
}

/// The instance of a full name, as it was on the wire. A stranger chose it: `None` when it is empty
/// or holds control characters.
pub(super) fn instance_of(fullname: &str) -> Option<&str> {
    let split = fullname.len().checked_sub(SERVICE.len() + 1)?;
    let (instance, service) = (fullname.get(..split)?, fullname.get(split..)?);
    let fits = service.starts_with('.')
        && service[1..].eq_ignore_ascii_case(SERVICE)
        && !instance.is_empty()
        && super::clean(instance) == instance;
    fits.then_some(instance)
}

/// Our own names come back escaped, others' do not.
pub(super) fn unescaped(name: &str) -> String {
    let mut text = String::new();
    let mut characters = name.chars();
    while let Some(c) = characters.next() {
        text.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    text
}

fn sighting(
    service: &mdns_sd::ResolvedService,
    mut on_our_links: impl FnMut(IpAddr) -> bool,
) -> Option<Sighting> {
    let mut addresses: Vec<SocketAddr> = service
        .addresses
        .iter()
        .filter_map(|address| reachable(address, service.port, &mut on_our_links))
        .collect();
    // The set has no order; ours is the same each time, so that unchanged news is seen to be unchanged.
    addresses.sort_by_key(|address| (address.is_ipv6(), *address));
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    Some(Sighting {
        instance: instance_of(&service.fullname)?.to_owned(),
        addresses,
        text: PresenceText::read(
            service
                .txt_properties
                .iter()
                .map(|property| (property.key(), property.val())),
        ),
    })
}

/// Ports below this one are those of the system's own services, which no contact listens on.
const FIRST_PORT: u16 = 1024;

/// An address we would dial: one that is on our links, so that nobody sends us to third parties.
/// Loopback counts only when it was heard on loopback: nobody on the network sends us to our own ports.
fn reachable(
    address: &ScopedIp,
    port: u16,
    on_our_links: &mut impl FnMut(IpAddr) -> bool,
) -> Option<SocketAddr> {
    let on_loopback = |name: &str| name == "lo" || name.starts_with("lo:");
    let ip = address.to_ip_addr();
    if port < FIRST_PORT || ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    let by_itself = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    if !by_itself && !on_our_links(ip) {
        return None;
    }
    match address {
        ScopedIp::V4(v4) => {
            let fits =
                !ip.is_loopback() || v4.interface_ids().iter().any(|id| on_loopback(&id.name));
            (fits && !v4.addr().is_broadcast()).then(|| SocketAddr::new(ip, port))
        }
        ScopedIp::V6(v6) => {
            let scope = v6.scope_id();
            if ip.is_loopback() && !on_loopback(&scope.name) {
                return None;
            }
            let IpAddr::V6(ip) = ip else { return None };
            if ip.to_ipv4_mapped().is_some() {
                return None;
            }
            let scope = if ip.is_unicast_link_local() {
                scope.index
            } else {
                0
            };
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
#[path = "mdns_tests.rs"]
mod tests;
