//! Multicast DNS by ourselves, with mdns-sd.
//!
//! mdns-sd drops a subscription whose channel (1,000 events) is full; when that happens, we browse
//! again, and whoever is not heard of any more is gone a little later. mdns-sd's thread and its cache
//! are not ours: the cache of a flooded network grows until the records' lifetimes end.
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
        let daemon = ServiceDaemon::new_with_port(settings.port).map_err(network)?;
        if let Some(interface) = &settings.interface {
            daemon.disable_interface(IfKind::All).map_err(network)?;
            daemon
                .enable_interface(interface.as_str())
                .map_err(network)?;
        }
        Ok(BuiltIn {
            browse: daemon.browse(SERVICE).map_err(network)?,
            monitor: daemon.monitor().map_err(network)?,
            browse_again_at: None,
            subnets: Subnets::new(settings.interface.clone()),
            clock: settings.clock.clone(),
            host: format!("pneuma-{}.local.", settings.key.short()),
            port,
            name: None,
            daemon,
        })
    }

    async fn turn(&mut self) -> Option<Heard> {
        enum Turn {
            Browsed(Result<ServiceEvent, mdns_sd::RecvError>),
            Daemon(Result<DaemonEvent, mdns_sd::RecvError>),
            Again,
        }
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
        match browsed.or(daemon).await {
            Turn::Browsed(Ok(event)) => self.browsed(event),
            Turn::Browsed(Err(_)) => {
                tracing::warn!("mdns-sd dropped our subscription; browsing again");
                self.browse_again_at = Some(self.clock.now() + PAUSE);
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
                Some(Heard::Seen(Box::new(sighting)))
            }
            ServiceEvent::ServiceRemoved(_, fullname) => {
                instance_of(&fullname).map(|instance| Heard::Gone(instance.to_owned()))
            }
            _ => None,
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
    use super::*;

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
}
