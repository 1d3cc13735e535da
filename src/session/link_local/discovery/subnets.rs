//! Which addresses are on our links: those in a subnet of an interface of ours.

use std::{net::IpAddr, time::Duration};

use actors::runtime::Time;
use if_addrs::IfAddr;

/// What we know of our interfaces is not looked at again before that.
const FRESH: Duration = Duration::from_secs(1);

/// The subnets of this machine's interfaces, read when an address is in none of those known.
#[derive(Debug)]
pub struct Subnets {
    /// The only interface that counts.
    interface: Option<String>,
    own: Vec<(IpAddr, u8)>,
    read_at: Option<Time>,
}

impl Subnets {
    /// Of one interface, or of all.
    pub fn new(interface: Option<String>) -> Self {
        Subnets {
            interface,
            own: Vec::new(),
            read_at: None,
        }
    }

    /// Whether the address is in one of them. A flood of addresses that are not makes us read them
    /// once in [`FRESH`].
    pub fn hold(&mut self, address: IpAddr, now: Time) -> bool {
        if self.known(address) {
            return true;
        }
        if self.read_at.is_some_and(|at| now < at + FRESH) {
            return false;
        }
        self.read_at = Some(now);
        match if_addrs::get_if_addrs() {
            Ok(interfaces) => {
                let ours = interfaces
                    .into_iter()
                    .filter(|interface| self.counts(&interface.name));
                self.own = ours
                    .map(|interface| match interface.addr {
                        IfAddr::V4(v4) => (v4.ip.into(), v4.prefixlen),
                        IfAddr::V6(v6) => (v6.ip.into(), v6.prefixlen),
                    })
                    .collect();
            }
            Err(error) => tracing::warn!(%error, "our network interfaces cannot be listed"),
        }
        self.known(address)
    }

    fn known(&self, address: IpAddr) -> bool {
        let holds = |(own, prefix): &(IpAddr, u8)| in_subnet(address, *own, *prefix);
        self.own.iter().any(holds)
    }

    /// Further IPv4 addresses of an interface may be listed as `eth0:1`.
    fn counts(&self, name: &str) -> bool {
        let Some(wanted) = &self.interface else {
            return true;
        };
        let rest = name.strip_prefix(wanted.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }
}

fn in_subnet(address: IpAddr, own: IpAddr, prefix: u8) -> bool {
    match (address, own) {
        (IpAddr::V4(address), IpAddr::V4(own)) => {
            let host = 32_u32.saturating_sub(prefix.into());
            let differ = u64::from(address.to_bits() ^ own.to_bits());
            differ >> host == 0
        }
        (IpAddr::V6(address), IpAddr::V6(own)) => {
            let host = 128_u32.saturating_sub(prefix.into());
            let differ = address.to_bits() ^ own.to_bits();
            differ.checked_shr(host).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_holds_what_has_its_prefix() {
        for (address, own, prefix, holds) in [
            ("192.0.2.77", "192.0.2.1", 24, true),
            ("192.0.3.77", "192.0.2.1", 24, false),
            ("192.0.3.77", "192.0.2.1", 23, true),
            ("192.0.2.1", "192.0.2.1", 32, true),
            ("192.0.2.2", "192.0.2.1", 32, false),
            ("203.0.113.9", "192.0.2.1", 0, true),
            ("2001:db8::7", "2001:db8::1", 64, true),
            ("2001:db8:1::7", "2001:db8::1", 64, false),
            ("2001:db8::1", "2001:db8::1", 128, true),
            ("2001:db8::2", "2001:db8::1", 128, false),
            ("ff::", "2001:db8::1", 0, true),
            ("192.0.2.1", "::1", 0, false),
        ] {
            let found = in_subnet(ip(address), ip(own), prefix);
            assert_eq!(found, holds, "{address} in {own}/{prefix}");
        }
    }

    #[test]
    fn our_own_interfaces_are_read_now_and_then() {
        let mut subnets = Subnets::new(Some("lo".into()));
        let now = Time::from_secs(1000);
        assert!(subnets.hold(ip("127.0.0.5"), now));
        assert!(!subnets.hold(ip("203.0.113.9"), now));
        subnets.own.clear();
        assert!(!subnets.hold(ip("127.0.0.5"), now));
        assert!(subnets.hold(ip("127.0.0.5"), now + FRESH));
        let mut none = Subnets::new(Some("l".into()));
        assert!(!none.hold(ip("127.0.0.5"), now));
    }
}
