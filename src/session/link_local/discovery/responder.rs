//! What lies below the driver: whoever speaks multicast DNS for us, mdns-sd ([`super::mdns`]) or the
//! Avahi daemon of this machine ([`super::avahi`]); and what both take from the network with the same
//! care.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    time::Duration,
};

use actors::{model::Error, runtime::BoxFuture};

use super::{PresenceText, Sighting};
use crate::session::trust::KeyId;

/// What a responder tells the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Somebody appeared or changed, or is there still.
    Seen(Box<Sighting>),
    /// Somebody is gone.
    Gone(String),
    /// We are announced under this name.
    Announced(String),
    /// Somebody else has this name, which we are announced under or wanted to be.
    Conflict(String),
    /// Some news may have been lost: whoever is there will be told of again.
    Again,
    /// There will be nothing more.
    Ended(Error),
}

/// Speaks multicast DNS for us. Dropping it ends it without a goodbye.
pub trait Responder: Send {
    /// Waits for what is to be told next. Cancel-safe.
    fn next(&mut self) -> BoxFuture<'_, Heard>;

    /// Announces us under a name with this record, in place of what is announced. Told by
    /// [`Heard::Announced`] and [`Heard::Conflict`].
    ///
    /// # Errors
    /// `InvalidArgument` for what DNS cannot carry, `NetworkError` when it has ended.
    fn announce(&mut self, name: &str, text: &PresenceText) -> Result<(), Error>;

    /// Whose news come first when there is too much: pinned keys, and the name that each was pinned under.
    fn set_pinned(&mut self, pinned: &BTreeMap<KeyId, String>);

    /// Takes back what was announced, and ends. May take as long as it likes; who waits does not.
    fn goodbye(&mut self) -> BoxFuture<'_, ()>;
}

/// Between two changes of our record; of those in between the last counts. Each is announced again after a
/// second, and whoever caches records keeps a replaced one for another second (RFC 6762 sections 8.3 and
/// 10.2): mdns-sd does not notice, while it does, that the old one is back.
pub const PACE: Duration = Duration::from_millis(2500);
/// The name of the loopback interface.
const LOOPBACK: &str = "lo";
/// Ports below this one are those of the system's own services, which no contact listens on.
const FIRST_PORT: u16 = 1024;

/// The interface something was heard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardOn {
    /// Its number.
    pub index: u32,
    /// Whether it is the loopback interface.
    pub loopback: bool,
}

impl HeardOn {
    /// An interface by number and name.
    pub fn new(index: u32, name: &str) -> Self {
        let rest = name.strip_prefix(LOOPBACK);
        HeardOn {
            index,
            // Further addresses of an interface may be listed as `lo:1`.
            loopback: rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':')),
        }
    }
}

/// An address we would dial: one that is on our links, so that nobody sends us to third parties.
/// Loopback counts only when it was heard on loopback: nobody on the network sends us to our own ports.
pub fn reachable(
    ip: IpAddr,
    port: u16,
    heard_on: HeardOn,
    mut on_our_links: impl FnMut(IpAddr) -> bool,
) -> Option<SocketAddr> {
    if port < FIRST_PORT || ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    let by_itself = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    };
    if !by_itself && !on_our_links(ip) || ip.is_loopback() && !heard_on.loopback {
        return None;
    }
    match ip {
        IpAddr::V4(v4) => (!v4.is_broadcast()).then(|| SocketAddr::new(ip, port)),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        IpAddr::V6(v6) => {
            let scope = match v6.is_unicast_link_local() {
                true => heard_on.index,
                false => 0,
            };
            Some(SocketAddrV6::new(v6, port, 0, scope).into())
        }
    }
}

/// The number of an interface that this machine has now.
///
/// # Errors
/// `NetworkError` when there is none of that name.
pub fn interface_index(interface: &str) -> Result<u32, Error> {
    use rustix::net::netdevice::name_to_index;
    let index = any_socket().and_then(|socket| name_to_index(&socket, interface));
    index.map_err(|error| {
        Error::NetworkError(format!(
            "there is no network interface {interface:?} on this machine: {error}"
        ))
    })
}

/// The interface of that number, if there is one now.
pub fn interface_of(index: u32) -> Option<HeardOn> {
    use rustix::net::netdevice::index_to_name;
    let name = any_socket().and_then(|socket| index_to_name(&socket, index));
    name.ok().map(|name| HeardOn::new(index, &name))
}

/// Any socket will do: it is how the kernel is asked.
fn any_socket() -> rustix::io::Result<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sends_us_to_those_who_are_not_on_our_links() {
        let ours: IpAddr = "192.0.2.7".parse().unwrap();
        let dialled = |ip: &str, port, name| {
            let heard_on = HeardOn::new(7, name);
            reachable(ip.parse().unwrap(), port, heard_on, |ip| ip == ours)
        };
        let scoped: SocketAddr = "[fe80::1%7]:5298".parse().unwrap();
        assert_eq!(dialled("fe80::1", 5298, "eth0"), Some(scoped));
        for (ip, port, name) in [
            ("192.0.2.7", 5298, "eth0"),
            ("192.0.2.7", 40_000, "eth0"),
            ("169.254.3.4", 5298, "eth0"),
            ("127.0.0.1", 5298, "lo"),
            ("::1", 5298, "lo:1"),
        ] {
            assert!(dialled(ip, port, name).is_some(), "{ip} {port} {name}");
        }
        for (ip, port, name) in [
            ("203.0.113.80", 8080, "eth0"),
            ("2001:db8::80", 8080, "eth0"),
            ("192.0.2.7", 22, "eth0"),
            ("fe80::1", 80, "eth0"),
            ("127.0.0.1", 5298, "eth0"),
            ("::1", 5298, "lol"),
            ("::ffff:192.0.2.7", 5298, "eth0"),
            ("0.0.0.0", 5298, "lo"),
            ("224.0.0.251", 5298, "eth0"),
            ("255.255.255.255", 5298, "eth0"),
        ] {
            assert_eq!(dialled(ip, port, name), None, "{ip} {port} {name}");
        }
    }

    #[test]
    fn an_interface_is_known_by_number_and_name() {
        let index = interface_index("lo").unwrap();
        assert!(interface_of(index).unwrap().loopback);
        assert!(interface_index("pneuma-none0").is_err());
        assert_eq!(interface_of(u32::MAX), None);
    }
}
