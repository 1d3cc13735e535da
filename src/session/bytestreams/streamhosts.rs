//! Which streamhosts we offer and which of a peer's we dial. Pure.
//!
//! On a LAN a streamhost is the peer itself and nothing else: a literal address equal to the one its
//! XML stream comes from, so that nobody can make us dial third parties. So loopback is dialled only
//! when the XML stream itself is on loopback, and then at its very address.
//!
//! Of a peer in plaintext the other addresses that it announces count too: Pidgin listens on IPv4 alone,
//! whatever its XML stream goes through.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::xmpp::payload::bytestreams::Streamhost;

/// The addresses worth dialling, in the peer's order, each once, with what the peer calls it.
/// `peer` is where the peer's end of the XML stream is, `announced` where else it is said to be: that is
/// anybody's word, so this machine itself is not looked for there.
pub(super) fn acceptable(
    hosts: &[Streamhost],
    peer: SocketAddr,
    announced: &[IpAddr],
) -> Vec<(SocketAddr, String)> {
    let announced = |address| {
        let mut others = announced.iter().map(IpAddr::to_canonical);
        let elsewhere = |address: &IpAddr| {
            !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
        };
        others.any(|other| other == address) && elsewhere(&address)
    };
    let mut found: Vec<(SocketAddr, String)> = Vec::new();
    for host in hosts {
        let Ok(address) = host.host.parse::<IpAddr>() else {
            continue;
        };
        let address = address.to_canonical();
        let is_its_own = address == peer.ip().to_canonical() || announced(address);
        if !is_its_own || host.port == 0 {
            continue;
        }
        let address = with_scope(address, host.port, peer);
        if !found.iter().any(|(known, _)| *known == address) {
            found.push((address, host.jid.clone()));
        }
    }
    found
}

/// Where we listen for a peer whose XML stream ends here at `local`: on that address only, the port
/// of the system's choice.
pub(super) fn listen_address(local: SocketAddr) -> SocketAddr {
    with_scope(local.ip().to_canonical(), 0, local)
}

/// Our one streamhost, listening at `address`. Scope ids mean something on one machine only, so
/// they are not sent: the peer takes that of its own end of the XML stream.
pub(super) fn offer(us: &str, address: SocketAddr) -> Streamhost {
    Streamhost {
        jid: us.to_owned(),
        host: address.ip().to_string(),
        port: address.port(),
    }
}

/// Whether two addresses are the same host's, whatever the port and the notation.
pub(super) fn same_host(one: SocketAddr, two: SocketAddr) -> bool {
    one.ip().to_canonical() == two.ip().to_canonical()
}

fn with_scope(address: IpAddr, port: u16, stream: SocketAddr) -> SocketAddr {
    match (address, stream) {
        (IpAddr::V6(address), SocketAddr::V6(stream)) if needs_scope(&address) => {
            SocketAddrV6::new(address, port, 0, stream.scope_id()).into()
        }
        _ => SocketAddr::new(address, port),
    }
}

/// fe80::/10
fn needs_scope(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(host: &str, port: u16) -> Streamhost {
        Streamhost {
            jid: format!("j{port}"),
            host: host.into(),
            port,
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_the_peers_own_address_is_dialled() {
        let hosts = [
            host("198.51.100.7", 1),
            host("proxy.example", 2),
            host("127.0.0.1", 3),
            host("192.0.2.2", 4),
            host("::ffff:192.0.2.2", 5),
            host("192.0.2.2", 4),
            host("0.0.0.0", 6),
            host("192.0.2.2", 0),
        ];
        let expected = [
            (address("192.0.2.2:4"), "j4".to_owned()),
            (address("192.0.2.2:5"), "j5".to_owned()),
        ];
        assert_eq!(acceptable(&hosts, address("192.0.2.2:5298"), &[]), expected);
        assert_eq!(
            acceptable(&hosts, address("[::ffff:192.0.2.2]:5298"), &[]),
            expected
        );
    }

    #[test]
    fn where_a_peer_announces_itself_it_is_dialled_too() {
        let hosts = [
            host("fd99::2", 1),
            host("10.99.0.2", 2),
            host("10.99.0.3", 3),
        ];
        let announced: [IpAddr; 2] = [[10, 99, 0, 2].into(), [0, 0, 0, 0].into()];
        let found = acceptable(&hosts, address("[fd99::2]:5298"), &announced);
        let found: Vec<SocketAddr> = found.into_iter().map(|(address, _)| address).collect();
        assert_eq!(found, [address("[fd99::2]:1"), address("10.99.0.2:2")]);
    }

    #[test]
    fn loopback_is_dialled_from_loopback_only() {
        let hosts = [
            host("127.0.0.1", 1),
            host("::1", 2),
            host("127.0.0.2", 3),
            host("192.0.2.2", 4),
        ];
        for (stream, dialled) in [
            ("127.0.0.1:5298", address("127.0.0.1:1")),
            ("[::1]:5298", address("[::1]:2")),
        ] {
            let found = acceptable(&hosts, address(stream), &[]);
            let found: Vec<SocketAddr> = found.into_iter().map(|(address, _)| address).collect();
            assert_eq!(found, [dialled]);
        }
        let loopback: [IpAddr; 2] = [[127, 0, 0, 1].into(), "::1".parse().unwrap()];
        for announced in [&[][..], &loopback] {
            assert!(acceptable(&hosts[..3], address("192.0.2.2:5298"), announced).is_empty());
        }
    }

    #[test]
    fn link_local_addresses_take_the_scope_of_our_end() {
        let stream = SocketAddrV6::new("fe80::2".parse().unwrap(), 5298, 0, 7).into();
        let found = acceptable(&[host("fe80::2", 9)], stream, &[]);
        assert_eq!(
            found[0].0,
            SocketAddrV6::new("fe80::2".parse().unwrap(), 9, 0, 7).into()
        );
        let listen = listen_address(stream);
        assert_eq!(
            listen,
            SocketAddrV6::new("fe80::2".parse().unwrap(), 0, 0, 7).into()
        );
        assert_eq!(offer("us", listen).host, "fe80::2");
        // Other addresses have none.
        let stream = SocketAddrV6::new("2001:db8::2".parse().unwrap(), 5298, 0, 7).into();
        assert_eq!(listen_address(stream), address("[2001:db8::2]:0"));
    }
}
