//! Multicast DNS by ourselves, with mdns-sd.
//!
//! mdns-sd drops a subscription whose channel (1,000 events) is full; when that happens, we browse
//! again, and whoever is not heard of any more is gone a little later. mdns-sd's thread and its cache
//! are not ours: the cache of a flooded network grows until the records' lifetimes end.
//!
//! mdns-sd tells of an instance whose TXT record it has not heard, and never asks for that: a responder that has
//! sent it in the last second leaves it out (RFC 6762 section 6), and after that the PTR record is known
//! already. A peer without it has no key. So we ask as somebody who knows nothing yet, with another daemon for
//! [`ASKING`]; the answer goes to everybody. Those who have no text after that are told of as they are. At most
//! [`MAX_SILENT`] are waited for; others are told of at once. Anybody can have us ask, every [`ASK_PAUSE`].
//!
//! The host name we give ourselves is made of our key, so that two connection managers of one machine,
//! or one and an Avahi, never contend for it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actors::{
    model::Error,
    runtime::{BoxFuture, Clock, Time},
};
use futures_lite::FutureExt as _;
use mdns_sd::{DaemonEvent, IfKind, RRType, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};

use super::{
    MAX_ADDRESSES, PresenceText, Sighting,
    driver::Settings,
    responder::{Heard, HeardOn, Responder, reachable},
    subnets::Subnets,
};
use crate::session::trust::KeyId;

pub(super) const SERVICE: &str = "_presence._tcp.local.";
/// Between two attempts to browse: a hostile network must not keep us busy.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after an instance without its text somebody may send the text again.
const ASK_AFTER: Duration = Duration::from_millis(1200);
/// How long we ask: twice, a second apart.
const ASKING: Duration = Duration::from_millis(2500);
/// Between two times that we ask.
const ASK_PAUSE: Duration = Duration::from_secs(10);
/// Most instances that wait for their text.
const MAX_SILENT: usize = 64;

/// Asking for texts.
enum Asking {
    /// There was nobody without a text since.
    No,
    /// From then on.
    Soon(Time),
    /// Until then; the receiver keeps the daemon browsing.
    Now(Time, Asker),
}

/// A daemon that knows nothing. It ends when this is dropped.
struct Asker {
    daemon: ServiceDaemon,
    _browse: mdns_sd::Receiver<ServiceEvent>,
}

impl Asker {
    fn new((port, interface): &(u16, Option<String>)) -> Result<Self, mdns_sd::Error> {
        let daemon = daemon(*port, interface.as_deref())?;
        let browse = daemon.browse(SERVICE)?;
        Ok(Asker {
            daemon,
            _browse: browse,
        })
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Err(error) = self.daemon.shutdown() {
            tracing::trace!(%error, "mDNS had ended");
        }
    }
}

/// mdns-sd where the settings want it.
fn daemon(port: u16, interface: Option<&str>) -> Result<ServiceDaemon, mdns_sd::Error> {
    let daemon = ServiceDaemon::new_with_port(port)?;
    if let Some(interface) = interface {
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(interface)?;
    }
    Ok(daemon)
}

/// See the module's head.
pub struct BuiltIn {
    daemon: ServiceDaemon,
    browse: mdns_sd::Receiver<ServiceEvent>,
    monitor: mdns_sd::Receiver<DaemonEvent>,
    browse_again_at: Option<Time>,
    subnets: Subnets,
    clock: Arc<dyn Clock>,
    host: String,
    port: u16,
    /// What we are announced under, or try to be.
    name: Option<String>,
    /// Where mDNS is spoken: the port and the only interface.
    mdns: (u16, Option<String>),
    asking: Asking,
    /// Not before then.
    ask_again_at: Time,
    /// Those whose text was not heard yet, and whether it was asked for.
    silent: BTreeMap<String, (Sighting, bool)>,
    /// Those who have none.
    textless: Vec<Sighting>,
}

fn network(error: mdns_sd::Error) -> Error {
    Error::NetworkError(format!(
        "the local network cannot be searched for contacts: {error}"
    ))
}

impl Drop for BuiltIn {
    fn drop(&mut self) {
        // The library's thread and sockets would outlive a driver that panicked. In order it has
        // been told before, and does not mind.
        if let Err(error) = self.daemon.shutdown() {
            tracing::trace!(%error, "mDNS had ended");
        }
    }
}

impl BuiltIn {
    /// mdns-sd, browsing, to announce a listener on `port`.
    ///
    /// # Errors
    /// `NetworkError` when nothing can be sent or heard.
    pub fn new(settings: &Settings, port: u16) -> Result<Self, Error> {
        let mdns = (settings.port, settings.interface.clone());
        let daemon = daemon(mdns.0, mdns.1.as_deref()).map_err(network)?;
        Ok(BuiltIn {
            browse: daemon.browse(SERVICE).map_err(network)?,
            monitor: daemon.monitor().map_err(network)?,
            browse_again_at: None,
            subnets: Subnets::new(settings.interface.clone()),
            clock: settings.clock.clone(),
            host: format!("pneuma-{}.local.", settings.key.short()),
            port,
            name: None,
            mdns,
            asking: Asking::No,
            ask_again_at: settings.clock.now(),
            silent: BTreeMap::new(),
            textless: Vec::new(),
            daemon,
        })
    }

    async fn turn(&mut self) -> Option<Heard> {
        enum Turn {
            Browsed(Result<ServiceEvent, mdns_sd::RecvError>),
            Daemon(Result<DaemonEvent, mdns_sd::RecvError>),
            Again,
            Ask,
        }
        if let Some(sighting) = self.textless.pop() {
            return Some(Heard::Seen(Box::new(sighting)));
        }
        let ask = async {
            match &self.asking {
                Asking::No => std::future::pending().await,
                Asking::Soon(at) | Asking::Now(at, _) => self.clock.sleep_until(*at).await,
            }
            Turn::Ask
        };
        let browsed = async {
            match self.browse_again_at {
                Some(at) => {
                    self.clock.sleep_until(at).await;
                    Turn::Again
                }
                None => Turn::Browsed(self.browse.recv_async().await),
            }
        };
        let daemon = async { Turn::Daemon(self.monitor.recv_async().await) };
        // Asking first: its turns come seldom, and a flood of the others must not put them off.
        match ask.or(browsed).or(daemon).await {
            Turn::Browsed(Ok(event)) => self.browsed(event),
            Turn::Browsed(Err(_)) => {
                tracing::warn!("mdns-sd dropped our subscription; browsing again");
                self.browse_again_at = Some(self.clock.now() + PAUSE);
                None
            }
            Turn::Ask => {
                self.ask();
                None
            }
            Turn::Daemon(Ok(event)) => self.daemon_said(event),
            Turn::Daemon(Err(_)) => Some(Heard::Ended(Error::NetworkError(
                "mDNS on this machine has ended".into(),
            ))),
            Turn::Again => match self.daemon.browse(SERVICE) {
                Ok(browse) => {
                    self.browse = browse;
                    self.browse_again_at = None;
                    Some(Heard::Again)
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot browse; trying again");
                    self.browse_again_at = Some(self.clock.now() + PAUSE);
                    None
                }
            },
        }
    }

    fn browsed(&mut self, event: ServiceEvent) -> Option<Heard> {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let (now, subnets) = (self.clock.now(), &mut self.subnets);
                let sighting = sighting(&service, |ip| subnets.hold(ip, now))?;
                if !service.txt_properties.is_empty() {
                    self.silent.remove(&sighting.instance);
                } else if self.silent.len() < MAX_SILENT
                    || self.silent.contains_key(&sighting.instance)
                {
                    let asked = self
                        .silent
                        .get(&sighting.instance)
                        .is_some_and(|known| known.1);
                    self.silent
                        .insert(sighting.instance.clone(), (sighting, asked));
                    if matches!(self.asking, Asking::No) {
                        self.asking = Asking::Soon(self.ask_again_at.max(now + ASK_AFTER));
                    }
                    return None;
                }
                Some(Heard::Seen(Box::new(sighting)))
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                let instance = instance_of(&fullname)?;
                self.silent.remove(instance);
                self.textless.retain(|one| one.instance != instance);
                Some(Heard::Gone(instance.to_owned()))
            }
            _ => None,
        }
    }

    /// Asks, if there is still something to ask for; or has asked.
    fn ask(&mut self) {
        let now = self.clock.now();
        match std::mem::replace(&mut self.asking, Asking::No) {
            Asking::Now(_, asker) => {
                drop(asker);
                self.tell_asked();
            }
            _ if self.silent.is_empty() => {}
            _ => {
                self.ask_again_at = now + ASK_PAUSE;
                self.silent
                    .values_mut()
                    .for_each(|(_, asked)| *asked = true);
                match Asker::new(&self.mdns) {
                    Ok(asker) => self.asking = Asking::Now(now + ASKING, asker),
                    Err(error) => {
                        tracing::warn!(%error, "nobody can be asked for what it says");
                        self.tell_asked();
                    }
                }
            }
        }
        if matches!(self.asking, Asking::No) && !self.silent.is_empty() {
            self.asking = Asking::Soon(self.ask_again_at.max(now + ASK_AFTER));
        }
    }

    /// Those who still have no text have none.
    fn tell_asked(&mut self) {
        for (instance, (sighting, asked)) in std::mem::take(&mut self.silent) {
            if asked {
                self.textless.push(sighting);
            } else {
                self.silent.insert(instance, (sighting, false));
            }
        }
    }

    fn daemon_said(&mut self, event: DaemonEvent) -> Option<Heard> {
        let name = self.name.as_ref()?;
        let is_ours = |fullname: &str| unescaped(fullname) == format!("{name}.{SERVICE}");
        match event {
            DaemonEvent::Announce(fullname, _) => {
                is_ours(&fullname).then(|| Heard::Announced(name.clone()))
            }
            // The library chooses a name by itself; we choose our own, once.
            DaemonEvent::NameChange(change) => {
                let taken = matches!(change.rr_type, RRType::SRV | RRType::TXT);
                (taken && is_ours(&change.original)).then(|| Heard::Conflict(name.clone()))
            }
            DaemonEvent::Error(error) => {
                tracing::warn!(%error, "mdns-sd");
                None
            }
            _ => None,
        }
    }

    fn info(&self, name: &str, text: &PresenceText) -> Result<ServiceInfo, Error> {
        let pairs = text.pairs(self.port);
        let info = ServiceInfo::new(SERVICE, name, &self.host, "", self.port, &pairs[..])
            .map_err(|error| Error::InvalidArgument(error.to_string()))?;
        Ok(info.enable_addr_auto())
    }

    fn withdraw(&mut self) -> Option<mdns_sd::Receiver<mdns_sd::UnregisterStatus>> {
        let name = self.name.take()?;
        let fullname = ServiceInfo::new(SERVICE, &name, &self.host, "", self.port, None)
            .ok()?
            .get_fullname()
            .to_owned();
        self.daemon.unregister(&fullname).ok()
    }
}

impl Responder for BuiltIn {
    fn next(&mut self) -> BoxFuture<'_, Heard> {
        Box::pin(async move {
            loop {
                if let Some(heard) = self.turn().await {
                    return heard;
                }
            }
        })
    }

    fn announce(&mut self, name: &str, text: &PresenceText) -> Result<(), Error> {
        let mut info = self.info(name, text)?;
        let is_new = self.name.as_deref() != Some(name);
        if is_new {
            self.withdraw();
        }
        info.set_requires_probe(is_new);
        self.daemon.register(info).map_err(network)?;
        self.name = Some(name.to_owned());
        Ok(())
    }

    fn set_pinned(&mut self, _: &BTreeMap<KeyId, String>) {
        // mdns-sd tells everything.
    }

    /// mdns-sd repeats the goodbye after 120 ms; then its thread ends too.
    fn goodbye(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(status) = self.withdraw() {
                // An error means that the thread has ended: nothing to wait for.
                if status.recv_async().await.is_ok() {
                    self.clock.sleep(Duration::from_millis(150)).await;
                }
            }
            let ended = match self.daemon.shutdown() {
                Ok(status) => status.recv_async().await.is_ok(),
                Err(_) => false,
            };
            if !ended {
                tracing::debug!("mDNS had ended");
            }
        })
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
        .filter_map(|address| dialled(address, service.port, &mut on_our_links))
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

/// An address of a record, if we would dial it.
fn dialled(
    address: &ScopedIp,
    port: u16,
    on_our_links: impl FnMut(IpAddr) -> bool,
) -> Option<SocketAddr> {
    let heard_on = match address {
        ScopedIp::V4(v4) => {
            let mut ids = v4.interface_ids().iter();
            let loopback = ids.any(|id| HeardOn::new(id.index, &id.name).loopback);
            HeardOn { index: 0, loopback }
        }
        ScopedIp::V6(v6) => HeardOn::new(v6.scope_id().index, &v6.scope_id().name),
        _ => return None,
    };
    reachable(address.to_ip_addr(), port, heard_on, on_our_links)
}

#[cfg(test)]
mod tests {
    use actors::runtime::{Spawner, SystemClock};

    use super::{super::Method, *};

    #[test]
    fn names_from_the_network_are_taken_apart_with_care() {
        assert_eq!(
            instance_of("romeo@forza #2._presence._tcp.local."),
            Some("romeo@forza #2")
        );
        assert_eq!(instance_of("a.b@c._Presence._TCP.local."), Some("a.b@c"));
        for wrong in [
            "",
            "._presence._tcp.local.",
            "_presence._tcp.local.",
            "x._http._tcp.local.",
            "x\u{202e}y._presence._tcp.local.",
            "é",
        ] {
            assert_eq!(instance_of(wrong), None, "{wrong}");
        }
    }

    /// A name of two labels and more.
    fn name(labels: &[&str]) -> Vec<u8> {
        let labels = labels.iter().flat_map(|label| {
            let length = u8::try_from(label.len()).unwrap();
            [&[length], label.as_bytes()].concat()
        });
        labels.chain([0]).collect()
    }

    /// A record of the Internet's class for two minutes; `flush`: there are no others of its name.
    fn record(name: &[u8], kind: u8, flush: bool, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let class = [if flush { 0x80 } else { 0 }, 1];
        [name, &[0, kind], &class, &[0, 0, 0, 120], &length, data].concat()
    }

    /// What a responder answers that has sent its text in the last second, or not.
    fn answer(with_text: bool) -> Vec<u8> {
        let service = name(&["_presence", "_tcp", "local"]);
        let instance = name(&["romeo@forza", "_presence", "_tcp", "local"]);
        let host = name(&["forza", "local"]);
        let place = [&[0, 0, 0, 0, 0x14, 0xb2], &host[..]].concat();
        let mut records = vec![
            record(&service, 12, false, &instance),
            record(&instance, 33, true, &place),
            record(&host, 1, true, &[127, 0, 0, 1]),
        ];
        if with_text {
            records.push(record(&instance, 16, true, b"\x09txtvers=1\x09nick=Romy"));
        }
        let count = u8::try_from(records.len()).unwrap();
        let head = [0, 0, 0x84, 0, 0, 0, 0, count, 0, 0, 0, 0];
        [&head[..], &records.concat()].concat()
    }

    /// Answers as long as `stop` is not dropped: who knows the name already hears nothing; who does not, the
    /// text if there is one and none was wanted in the second before.
    fn responder(port: u16, text: bool, stop: &Arc<()>) {
        use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
        use std::net::{Ipv4Addr, UdpSocket};
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let own = socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&own, true).unwrap();
        sockopt::set_socket_reuseport(&own, true).unwrap();
        bind(&own, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        sockopt::set_ip_multicast_if(&own, &Ipv4Addr::LOCALHOST).unwrap();
        let own = UdpSocket::from(own);
        own.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
        own.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let (stop, clock) = (Arc::downgrade(stop), SystemClock::new());
        std::thread::spawn(move || {
            let mut packet = [0; 9000];
            let mut first = None;
            while stop.strong_count() > 0 {
                let Ok(length) = own.recv(&mut packet) else {
                    continue;
                };
                let query = &packet[..length];
                let wanted = query.get(12..).is_some_and(|rest| {
                    rest.starts_with(b"\x09_presence\x04_tcp\x05local\x00\x00\x0c")
                });
                if !wanted || query[2] & 0x80 != 0 || query[6..8] != [0, 0] {
                    continue;
                }
                let now = clock.now();
                let since = now - *first.get_or_insert(now);
                let answer = answer(text && since > Duration::from_secs(1));
                own.send_to(&answer, (group, port)).unwrap();
            }
        });
    }

    fn heard_of(text: bool) -> Sighting {
        // Free again at once, for several to share.
        let free = std::net::UdpSocket::bind("127.0.0.1:0").and_then(|one| one.local_addr());
        let port = free.unwrap().port();
        let stop = Arc::new(());
        responder(port, text, &stop);
        let settings = Settings {
            method: Method::BuiltIn,
            port,
            interface: Some("lo".into()),
            key: KeyId([7; 32]),
            spawner: Spawner::new(Arc::new(smol::Executor::new())),
            clock: SystemClock::new(),
            bus: Arc::new(|| Box::pin(std::future::pending())),
        };
        let mut built_in = BuiltIn::new(&settings, 5298).unwrap();
        let heard = async {
            loop {
                if let Heard::Seen(sighting) = built_in.next().await {
                    return *sighting;
                }
            }
        };
        let late = async {
            async_io::Timer::after(Duration::from_secs(30)).await;
            panic!("nobody is heard of");
        };
        futures_lite::future::block_on(heard.or(late))
    }

    #[test]
    fn a_peer_is_asked_for_a_text_that_it_had_just_sent() {
        let romeo = heard_of(true);
        assert_eq!(romeo.instance, "romeo@forza");
        assert_eq!(romeo.text.nickname, "Romy");
    }

    #[test]
    fn a_peer_without_a_text_is_told_of_all_the_same() {
        let romeo = heard_of(false);
        assert_eq!(
            (romeo.instance.as_str(), romeo.text),
            ("romeo@forza", PresenceText::default())
        );
    }
}
