//! Asks the kernel for one TCP socket by its exact pair of addresses (`NETLINK_SOCK_DIAG`).
//!
//! A question names the socket from that socket's own side: its address first, then its peer's.
//! The kernel answers one question at a time and within the call that asks; the wait for the
//! answer is there all the same, with a limit, and an answer to an earlier question that came too
//! late is told by its sequence number and thrown away.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use async_io::Async;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{
        AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT1,
        TCP_FIN_WAIT2,
    },
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect,
        netlink::{self, SocketAddrNetlink},
        recvfrom, send, socket_with,
    },
};

use super::ANSWER_WITHIN;
use crate::runtime::{Clock, within};

/// Room for one answer. One socket without extensions takes about 100 bytes; a datagram that does
/// not fit is cut off, does not parse and refuses its client.
const ANSWER_BYTES: usize = 4096;

/// A socket to ask on.
#[derive(Debug)]
pub(in crate::endpoint) struct SockDiag {
    socket: Async<OwnedFd>,
    asked: u32,
}

/// What the kernel says of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) state: TcpState,
    /// The user of the process that made it; 0 on many kernels once it was closed.
    pub(super) uid: u32,
    /// 0 once no process holds it.
    pub(super) inode: u32,
}

/// The states that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) enum TcpState {
    Established,
    /// Its writing half is shut down; it may still read.
    FinWait,
    /// Its peer's writing half is shut down.
    CloseWait,
    /// Any other, by its number.
    Other(u8),
}

impl From<u8> for TcpState {
    fn from(code: u8) -> Self {
        match code {
            TCP_ESTABLISHED => TcpState::Established,
            TCP_FIN_WAIT1 | TCP_FIN_WAIT2 => TcpState::FinWait,
            TCP_CLOSE_WAIT => TcpState::CloseWait,
            other => TcpState::Other(other),
        }
    }
}

impl SockDiag {
    /// A socket connected to the kernel.
    ///
    /// # Errors
    /// Without descriptors, or where the kernel (or a sandbox) has no such thing.
    pub(in crate::endpoint) fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(netlink::SOCK_DIAG),
        )?;
        let kernel = SocketAddrNetlink::new(0, 0);
        bind(&socket, &kernel)?;
        connect(&socket, &kernel)?;
        Self::on(socket)
    }

    fn on(socket: OwnedFd) -> io::Result<Self> {
        Ok(SockDiag {
            socket: Async::new_nonblocking(socket)?,
            asked: 0,
        })
    }

    /// Asks about a socket that is there: one of ours that listens at `listening`. So it is known
    /// beforehand whether the kernel answers such questions at all; it says "no such socket" to all of
    /// them where it was built without. The first question ever may make it load a module, which
    /// takes some milliseconds.
    ///
    /// # Errors
    /// `Unsupported` when it does not know the socket, `WouldBlock` when it does not answer at once,
    /// and whatever else it says.
    pub(in crate::endpoint) fn probe(&mut self, listening: SocketAddr) -> io::Result<()> {
        let nobody = match listening {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let sequence = self.ask(listening, nobody)?;
        let mut buffer = [0; ANSWER_BYTES];
        let length = receive(&self.socket, &mut buffer)?;
        let datagram = buffer.get(..length).unwrap_or_default();
        match read_answer(datagram, listening, nobody, sequence)? {
            Some(Some(found)) if found.inode != 0 => Ok(()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Puts a question; gives its number.
    fn ask(&mut self, own: SocketAddr, peer: SocketAddr) -> io::Result<u32> {
        self.asked = self.asked.wrapping_add(1);
        let question = question(own, peer, self.asked)?;
        send(&self.socket, &question, SendFlags::empty())?;
        Ok(self.asked)
    }

    /// Looks for the TCP socket that has `own` as its own address and `peer` as its peer's.
    ///
    /// # Errors
    /// `TimedOut` when the kernel does not answer in time, and whatever else it says instead of
    /// yes or no.
    pub(super) async fn find(
        &mut self,
        own: SocketAddr,
        peer: SocketAddr,
        clock: &dyn Clock,
    ) -> io::Result<Option<Found>> {
        let sequence = self.ask(own, peer)?;
        let socket = &self.socket;
        let answered = async move {
            let mut buffer = [0; ANSWER_BYTES];
            loop {
                let length = socket
                    .read_with(|socket| receive(socket, &mut buffer))
                    .await?;
                let Some(datagram) = buffer.get(..length).filter(|datagram| !datagram.is_empty())
                else {
                    continue;
                };
                if let Some(answer) = read_answer(datagram, own, peer, sequence)? {
                    return Ok(answer);
                }
            }
        };
        within(clock, ANSWER_WITHIN, answered)
            .await
            .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Takes one datagram; its length, or 0 when it is not the kernel's. A process with the right to
/// write here could lie to us in simpler ways, so looking at the sender costs nothing and asks little.
fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, length, sender) = recvfrom(socket, buffer, RecvFlags::TRUNC)?;
    let kernel = sender
        .and_then(|sender| SocketAddrNetlink::try_from(sender).ok())
        .is_some_and(|sender| sender.pid() == 0);
    Ok(if kernel { length } else { 0 })
}

fn question(own: SocketAddr, peer: SocketAddr, sequence: u32) -> io::Result<Vec<u8>> {
    let family = match (own, peer) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => AF_INET,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => AF_INET6,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = sequence;
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: own.port(),
            destination_port: peer.port(),
            source_address: own.ip(),
            destination_address: peer.ip(),
            interface_id: 0,
            // "Any": we do not know the socket's cookie.
            cookie: [0xff; 8],
        },
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    Ok(bytes)
}

/// The answer in this datagram; `None` when it answers another question.
fn read_answer(
    datagram: &[u8],
    own: SocketAddr,
    peer: SocketAddr,
    sequence: u32,
) -> io::Result<Option<Option<Found>>> {
    let message = NetlinkMessage::<SockDiagMessage>::deserialize(datagram)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    if message.header.sequence_number != sequence {
        return Ok(None);
    }
    match message.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
            Ok(Some(matching(&found, own, peer)))
        }
        NetlinkPayload::Error(error) => match error.to_io() {
            error if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(Some(None)),
            error => Err(error),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The kernel falls back to a *listening* socket on the same port when no connection matches, so
/// its answer counts only when it names exactly the addresses asked for. An IPv6 socket used for
/// IPv4 shows mapped addresses.
fn matching(found: &InetResponse, own: SocketAddr, peer: SocketAddr) -> Option<Found> {
    let header = &found.header;
    let id = &header.socket_id;
    let same = |ip: IpAddr, port: u16, wanted: SocketAddr| {
        ip.to_canonical() == wanted.ip().to_canonical() && port == wanted.port()
    };
    (same(id.source_address, id.source_port, own)
        && same(id.destination_address, id.destination_port, peer))
    .then(|| Found {
        state: header.state.into(),
        uid: header.uid,
        inode: header.inode,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Shutdown, TcpListener, TcpStream},
        os::unix::net::UnixDatagram,
    };

    use futures_lite::future::block_on;
    use proptest::prelude::*;
    use rustix::{fs::fstat, process::geteuid};

    use super::*;
    use crate::{runtime::SystemClock, testing::Sim};

    /// A connection to a loopback address; the client's end first.
    fn connection(listen: &str, client: Option<&str>) -> (TcpStream, TcpStream, TcpListener) {
        let listener = TcpListener::bind(listen).unwrap();
        let mut target = listener.local_addr().unwrap();
        if let Some(ip) = client {
            target.set_ip(ip.parse().unwrap());
        }
        let client = TcpStream::connect(target).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        (client, accepted, listener)
    }

    fn find(own: SocketAddr, peer: SocketAddr) -> io::Result<Option<Found>> {
        let clock = SystemClock::new();
        block_on(SockDiag::open().unwrap().find(own, peer, &*clock))
    }

    /// The client of an accepted connection.
    fn client_of(accepted: &TcpStream) -> Option<Found> {
        find(
            accepted.peer_addr().unwrap(),
            accepted.local_addr().unwrap(),
        )
        .unwrap()
    }

    fn inode(socket: &impl AsFd) -> u32 {
        fstat(socket).unwrap().st_ino as u32
    }

    #[test]
    fn the_kernel_knows_the_other_end_over_both_protocols_and_between_them() {
        for (listen, client) in [
            ("127.0.0.1:0", None),
            ("[::1]:0", None),
            // An IPv6 socket that speaks IPv4.
            ("127.0.0.1:0", Some("::ffff:127.0.0.1")),
        ] {
            let (client, accepted, _listener) = connection(listen, client);
            let found = client_of(&accepted).unwrap();
            assert_eq!(found.state, TcpState::Established);
            assert_eq!(found.uid, geteuid().as_raw());
            assert_eq!(found.inode, inode(&client));
            let own = find(
                accepted.local_addr().unwrap(),
                accepted.peer_addr().unwrap(),
            );
            assert_eq!(own.unwrap().unwrap().inode, inode(&accepted));
        }
    }

    #[test]
    fn a_client_that_shut_its_writing_half_still_has_its_inode() {
        let (client, accepted, _listener) = connection("127.0.0.1:0", None);
        client.shutdown(Shutdown::Write).unwrap();
        let found = client_of(&accepted).unwrap();
        assert_eq!(found.state, TcpState::FinWait);
        assert_eq!(found.inode, inode(&client));
        let own = find(
            accepted.local_addr().unwrap(),
            accepted.peer_addr().unwrap(),
        );
        assert_eq!(own.unwrap().unwrap().state, TcpState::CloseWait);
    }

    #[test]
    fn a_client_that_closed_has_no_inode_any_more() {
        let (client, accepted, _listener) = connection("127.0.0.1:0", None);
        drop(client);
        assert!(client_of(&accepted).is_none_or(|found| found.inode == 0));
    }

    #[test]
    fn a_listening_socket_on_the_clients_port_is_not_the_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = listener.local_addr().unwrap();
        let (_client, accepted, _other) = connection("127.0.0.1:0", None);
        assert_eq!(
            find(listening, accepted.local_addr().unwrap()).unwrap(),
            None
        );
    }

    #[test]
    fn the_probe_knows_a_listening_socket_and_only_that() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let address = listener.local_addr().unwrap();
            let mut kernel = SockDiag::open().unwrap();
            kernel.probe(address).unwrap();
            drop(listener);
            let error = kernel.probe(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        }
    }

    #[test]
    fn a_probe_does_not_wait() {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut kernel = SockDiag::on(ours.into()).unwrap();
        let error = kernel.probe("127.0.0.1:1".parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn addresses_of_two_families_are_no_question() {
        let four = "127.0.0.1:1".parse().unwrap();
        let six = "[::1]:1".parse().unwrap();
        let error = find(four, six).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_kernel_that_does_not_answer_is_waited_for_only_so_long() {
        let (ours, _theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut kernel = SockDiag::on(ours.into()).unwrap();
        let sim = Sim::new();
        let address = "127.0.0.1:1".parse().unwrap();
        let error = sim
            .run(kernel.find(address, address, &*sim.clock))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(sim.now(), ANSWER_WITHIN);
    }

    #[test]
    fn somebody_who_is_not_the_kernel_is_not_believed() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.send(&[0; 200]).unwrap();
        let mut kernel = SockDiag::on(ours.into()).unwrap();
        let sim = Sim::new();
        let address = "127.0.0.1:1".parse().unwrap();
        let error = sim
            .run(kernel.find(address, address, &*sim.clock))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_answer_that_came_too_late_is_not_taken_for_the_next_one() {
        let (client, accepted, _listener) = connection("127.0.0.1:0", None);
        let nobody = "127.0.0.1:1".parse().unwrap();
        let mut kernel = SockDiag::open().unwrap();
        // A question whose asker has given up before its answer.
        kernel.asked += 1;
        let asked = question(nobody, nobody, kernel.asked).unwrap();
        send(&kernel.socket, &asked, SendFlags::empty()).unwrap();
        let (own, peer) = (client.local_addr().unwrap(), accepted.local_addr().unwrap());
        let clock = SystemClock::new();
        let found = block_on(kernel.find(own, peer, &*clock)).unwrap().unwrap();
        assert_eq!(found.inode, inode(&client));
    }

    proptest! {
        #[test]
        fn no_datagram_upsets_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let address = "127.0.0.1:1".parse().unwrap();
            if let Ok(Some(found)) = read_answer(&bytes, address, address, 1) {
                prop_assert_eq!(found, None);
            }
        }
    }
}
