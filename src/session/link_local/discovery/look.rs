//! Looks at what discovery needs of this machine, and changes none of it: for `pneuma doctor`. Blocks
//! for as long as [`ECHO`] and [`HEARD`] say.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use mdns_sd::{IfKind, ServiceDaemon, ServiceEvent};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::mdns::{SERVICE, instance_of, unescaped};

/// How long a packet to the group may take to come back to this machine.
const ECHO: Duration = Duration::from_millis(700);
/// How often it is sent: a machine under load loses one.
const ATTEMPTS: u16 = 3;
/// How long our own announcement may take to be heard.
const HEARD: Duration = Duration::from_secs(4);
/// The groups of multicast DNS (RFC 6762 section 3).
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// See [`GROUP_V4`].
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// An interface that is up and has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `eth0`
    pub name: String,
    /// An address of it, IPv4 where it has one.
    pub address: IpAddr,
    /// Its number.
    pub index: u32,
}

/// The interfaces discovery would use, the given one or all, loopback among them.
///
/// # Errors
/// The system's.
pub fn interfaces(only: Option<&str>) -> io::Result<Vec<Interface>> {
    let mut found: Vec<Interface> = Vec::new();
    for one in if_addrs::get_if_addrs()? {
        if only.is_some_and(|only| only != one.name) || !one.is_oper_up() {
            continue;
        }
        let (address, index) = (one.ip(), one.index.unwrap_or_default());
        match found.iter_mut().find(|known| known.name == one.name) {
            Some(known) if known.address.is_ipv6() && address.is_ipv4() => known.address = address,
            Some(_) => {}
            None => found.push(Interface {
                name: one.name,
                address,
                index,
            }),
        }
    }
    Ok(found)
}

/// A socket at the port, beside whoever else is there, as every responder has one.
///
/// # Errors
/// The system's: somebody has the port and shares it with nobody, for one.
pub fn beside(port: u16, v4: bool) -> io::Result<UdpSocket> {
    let family = if v4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket: OwnedFd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    let anywhere: IpAddr = if v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        Ipv6Addr::UNSPECIFIED.into()
    };
    bind(&socket, &SocketAddr::new(anywhere, port))?;
    Ok(socket.into())
}

/// Whether a packet to the group, sent on this interface, comes back to this machine. What a firewall
/// here drops does not. The packet asks who is there, as a program that looks for contacts does.
///
/// # Errors
/// The system's: the group cannot be joined, nothing can be sent.
pub fn comes_back(interface: &Interface, port: u16) -> io::Result<bool> {
    let v4 = interface.address.is_ipv4();
    let ear = beside(port, v4)?;
    ear.set_read_timeout(Some(ECHO))?;
    let (mouth, group) = match interface.address {
        IpAddr::V4(address) => {
            ear.join_multicast_v4(&GROUP_V4, &address)?;
            let mouth = UdpSocket::bind((address, 0))?;
            sockopt::set_ip_multicast_if(&mouth, &address)?;
            mouth.set_multicast_loop_v4(true)?;
            (mouth, SocketAddr::from((GROUP_V4, port)))
        }
        IpAddr::V6(_) => {
            ear.join_multicast_v6(&GROUP_V6, interface.index)?;
            let mouth = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            sockopt::set_ipv6_multicast_if(&mouth, interface.index)?;
            mouth.set_multicast_loop_v6(true)?;
            (mouth, SocketAddr::from((GROUP_V6, port)))
        }
    };
    let own = mouth.local_addr()?.port();
    let mut buffer = [0; 1500];
    for attempt in 1..=ATTEMPTS {
        mouth.send_to(&question(attempt), group)?;
        // Others talk on the network meanwhile; more than this is a flood, in which ours drowned.
        for _ in 0..256 {
            match ear.recv_from(&mut buffer) {
                Ok((_, from)) if from.port() == own => return Ok(true),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(false)
}

/// `PTR _presence._tcp.local`, as a DNS message (RFC 1035 section 4).
fn question(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in ["_presence", "_tcp", "local"] {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 12, 0, 1]);
    message
}

/// Whether somebody is announced under this name, heard as others hear it.
///
/// # Errors
/// A sentence, when nothing can be heard.
pub fn is_announced(instance: &str, port: u16, interface: Option<&str>) -> Result<bool, String> {
    let failed = |error: mdns_sd::Error| error.to_string();
    let is_it = |name: &str| name == instance || unescaped(name) == instance;
    let daemon = ServiceDaemon::new_with_port(port).map_err(failed)?;
    let heard = (|| {
        if let Some(interface) = interface {
            daemon.disable_interface(IfKind::All).map_err(failed)?;
            daemon.enable_interface(interface).map_err(failed)?;
        }
        let events = daemon.browse(SERVICE).map_err(failed)?;
        // Each wait is short, so that one who talks all the time does not keep us.
        let slice = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        while waited < HEARD {
            match events.recv_timeout(slice) {
                Ok(ServiceEvent::ServiceFound(_, name))
                    if instance_of(&name).is_some_and(is_it) =>
                {
                    return Ok(true);
                }
                Ok(_) => waited += Duration::from_millis(1),
                Err(_) => waited += slice,
            }
        }
        Ok(false)
    })();
    // Its thread ends with this; one that has ended does not mind.
    daemon.shutdown().map(drop).unwrap_or_default();
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Interface {
        let all = interfaces(Some("lo")).expect("interfaces");
        all.into_iter().next().expect("a loopback interface")
    }

    #[test]
    fn loopback_is_an_interface_and_hears_itself() {
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        assert!(comes_back(&loopback(), port).expect("loopback has multicast"));
        assert_eq!(interfaces(Some("no-such-one")).unwrap(), []);
    }

    #[test]
    fn a_port_that_is_not_shared_is_an_error() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = beside(port, true).expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        assert!(beside(port, true).is_ok());
    }

    #[test]
    fn nobody_is_announced_on_a_port_of_our_own() {
        let port = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        assert_eq!(is_announced("nobody@here", port, Some("lo")), Ok(false));
    }
}
