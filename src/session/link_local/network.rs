//! Connections: dialled and accepted. A trait, so that tests have a network in memory.
//!
//! The listener is open to the whole network. What has not authenticated is counted by a [`Permit`]:
//! at most [`MAX_STRANGERS`] in all and [`MAX_STRANGERS_EACH`] from one address; one more is closed as
//! soon as it is accepted. Addresses are free, so some places are kept ([`Strangers::keep_for`]) for
//! those of pinned contacts: [`KEPT_FOR_CLAIMED`] and [`KEPT_FOR_PROVEN`]. A process that is out of
//! descriptors stops accepting for a moment.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use actors::runtime::{BoxFuture, Clock, Spawner, Task, within};
use async_channel::{Receiver, Sender};
use async_net::{TcpListener, TcpStream};

use super::stream::Carrier;

/// Most connections in all that have not authenticated yet.
pub const MAX_STRANGERS: usize = 64;
/// Most of them from one address.
pub const MAX_STRANGERS_EACH: usize = 8;
/// Of these places, those kept for addresses where records say that a pinned contact is. Anybody can
/// publish such a record.
pub const KEPT_FOR_CLAIMED: usize = 8;
/// And those kept for addresses from which a pinned contact has proved its key.
pub const KEPT_FOR_PROVEN: usize = 8;
/// How long one attempt to connect may take.
const DIAL: Duration = Duration::from_secs(4);
/// After an error of accept.
const PAUSE: Duration = Duration::from_millis(250);
/// How often the same port is looked for in both families.
const PORTS: usize = 16;

/// A connection and who is at its ends.
pub struct Connection {
    /// The bytes.
    pub carrier: Box<dyn Carrier>,
    /// Our end.
    pub local: SocketAddr,
    /// The peer's end.
    pub peer: SocketAddr,
    /// Held until the peer has authenticated.
    pub permit: Option<Permit>,
}

/// Connections that come in, until it is dropped.
pub struct Listening {
    /// The port, the same for IPv4 and IPv6.
    pub port: u16,
    /// They come through here.
    pub accepted: Receiver<Connection>,
    /// Who of those that come has a place.
    pub strangers: Strangers,
    /// Closes the listeners when it is dropped.
    pub tasks: Vec<Task<()>>,
}

/// See the module's head.
pub trait Network: Send + Sync + 'static {
    /// Connects.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Connection>>;

    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none, in either family.
    fn listen(&self) -> io::Result<Listening>;
}

/// TCP.
pub struct Tcp {
    loopback: bool,
    clock: Arc<dyn Clock>,
    spawner: Spawner,
}

impl Tcp {
    /// TCP on loopback only, or on all interfaces.
    pub fn new(loopback: bool, clock: Arc<dyn Clock>, spawner: Spawner) -> Self {
        Tcp {
            loopback,
            clock,
            spawner,
        }
    }

    fn bind(&self) -> io::Result<(u16, Vec<TcpListener>)> {
        let (v4, v6) = if self.loopback {
            (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
        } else {
            (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
        };
        let mut last = None;
        for _ in 0..PORTS {
            let (first, port) = match bind(v4.into(), 0) {
                Ok(listener) => {
                    let port = listener.local_addr()?.port();
                    (Some(listener), port)
                }
                // A machine without IPv4.
                Err(_) => (None, 0),
            };
            match (first, bind(v6.into(), port)) {
                (Some(first), Ok(second)) => return Ok((port, vec![first, second])),
                (None, Ok(second)) => return Ok((second.local_addr()?.port(), vec![second])),
                (Some(_), Err(error)) if error.kind() == io::ErrorKind::AddrInUse => {
                    last = Some(error);
                }
                // A machine without IPv6.
                (Some(first), Err(_)) => return Ok((port, vec![first])),
                (None, Err(error)) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }
}

/// IPv6 listeners are IPv6 only, so that both families can have the same port.
fn bind(ip: IpAddr, port: u16) -> io::Result<TcpListener> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
    let family = if ip.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(ip, port))?;
    listen(&socket, 128)?;
    let listener = async_io::Async::new(std::net::TcpListener::from(socket))?;
    Ok(TcpListener::from(listener))
}

impl Network for Tcp {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Connection>> {
        let clock = self.clock.clone();
        Box::pin(async move {
            let stream = within(&*clock, DIAL, TcpStream::connect(address))
                .await
                .ok_or(io::ErrorKind::TimedOut)??;
            connection(stream, address)
        })
    }

    fn listen(&self) -> io::Result<Listening> {
        let (port, listeners) = self.bind()?;
        let (sender, accepted) = async_channel::bounded(MAX_STRANGERS);
        let strangers = Strangers::default();
        let tasks = listeners
            .into_iter()
            .map(|listener| {
                let accepting = accept(
                    listener,
                    sender.clone(),
                    strangers.clone(),
                    self.clock.clone(),
                );
                self.spawner.spawn("xml listener", accepting)
            })
            .collect();
        Ok(Listening {
            port,
            accepted,
            strangers,
            tasks,
        })
    }
}

fn connection(stream: TcpStream, peer: SocketAddr) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    Ok(Connection {
        local: stream.local_addr()?,
        peer,
        carrier: Box::new(stream),
        permit: None,
    })
}

/// Whether this failure, counted from one, is written to the log: what fails once (no descriptors, say)
/// fails again after each pause, for hours perhaps.
fn worth_a_line(count: u64) -> bool {
    count.is_power_of_two()
}

async fn accept(
    listener: TcpListener,
    sender: Sender<Connection>,
    strangers: Strangers,
    clock: Arc<dyn Clock>,
) {
    let mut refused: u64 = 0;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                refused += 1;
                if worth_a_line(refused) {
                    tracing::warn!(%error, refused, "a connection could not be accepted");
                }
                clock.sleep(PAUSE).await;
                continue;
            }
        };
        let Some(permit) = strangers.admit(peer.ip()) else {
            tracing::debug!(%peer, "too many strangers at once");
            // Whoever connects faster than we close must not keep this thread.
            drop(stream);
            futures_lite::future::yield_now().await;
            continue;
        };
        let connection = connection(stream, peer).map(|connection| Connection {
            permit: Some(permit),
            ..connection
        });
        // Full cannot be: there are no more permits than places. A session that is gone ends us.
        if let Ok(connection) = connection
            && sender.send(connection).await.is_err()
        {
            return;
        }
    }
}

/// Counts those that have not authenticated. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Strangers(Arc<Mutex<Places>>);

#[derive(Debug, Default)]
struct Places {
    counts: HashMap<IpAddr, usize>,
    known: Known,
}

/// Where pinned contacts are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// As records say.
    pub claimed: BTreeSet<IpAddr>,
    /// Where one has proved its key.
    pub proven: BTreeSet<IpAddr>,
}

impl Known {
    /// How many places there are for an address.
    fn places(&self, address: IpAddr) -> usize {
        if self.proven.contains(&address) {
            MAX_STRANGERS
        } else if self.claimed.contains(&address) {
            MAX_STRANGERS - KEPT_FOR_PROVEN
        } else {
            MAX_STRANGERS - KEPT_FOR_PROVEN - KEPT_FOR_CLAIMED
        }
    }
}

impl Strangers {
    /// Keeps places for these addresses, and for no others any more.
    pub fn keep_for(&self, known: Known) {
        // The places are valid whoever panicked: each change is one insertion, removal or assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).known = known;
    }

    /// One more from `address`, if there is room.
    pub fn admit(&self, address: IpAddr) -> Option<Permit> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Places { counts, known } = &mut *places;
        let total: usize = counts.values().sum();
        let count = counts.entry(address).or_default();
        if total >= known.places(address) || *count >= MAX_STRANGERS_EACH {
            if *count == 0 {
                counts.remove(&address);
            }
            return None;
        }
        *count += 1;
        Some(Permit {
            strangers: self.clone(),
            address,
        })
    }
}

/// One place among the strangers; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    strangers: Strangers,
    address: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut places = self
            .strangers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let counts = &mut places.counts;
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_for_hours_is_a_few_lines_in_the_log() {
        let lines = (1..=100_000).filter(|n| worth_a_line(*n)).count();
        assert!((1..20).contains(&lines) && worth_a_line(1), "{lines}");
    }

    #[test]
    fn strangers_are_counted_in_all_and_for_each_address() {
        let strangers = Strangers::default();
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let from_one: Vec<_> = (0..100)
            .filter_map(|_| strangers.admit(address(1)))
            .collect();
        assert_eq!(from_one.len(), MAX_STRANGERS_EACH);
        let others: Vec<_> = (2..200)
            .filter_map(|n| strangers.admit(address(n)))
            .collect();
        let room = MAX_STRANGERS - KEPT_FOR_CLAIMED - KEPT_FOR_PROVEN;
        assert_eq!(from_one.len() + others.len(), room);
        drop(from_one);
        assert!(strangers.admit(address(1)).is_some());
        drop(others);
        assert!(strangers.0.lock().unwrap().counts.is_empty());
    }

    #[test]
    fn places_are_kept_for_where_pinned_contacts_are() {
        let strangers = Strangers::default();
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let many = |addresses: std::ops::Range<u8>| -> Vec<_> {
            let places = addresses.flat_map(|n| [n; 2]);
            places.filter_map(|n| strangers.admit(address(n))).collect()
        };
        let proven = BTreeSet::from([address(1)]);
        let claimed: BTreeSet<IpAddr> = (1..100).map(address).collect();
        strangers.keep_for(Known { claimed, proven });
        let unknown = many(100..200);
        // Claims are as free as addresses.
        let of_claimed = many(2..100);
        assert_eq!(
            unknown.len() + of_claimed.len() + KEPT_FOR_PROVEN,
            MAX_STRANGERS
        );
        assert_eq!(of_claimed.len(), KEPT_FOR_CLAIMED);
        assert_eq!(many(1..2).len(), 2);
        assert!(many(2..200).is_empty());
    }
}
