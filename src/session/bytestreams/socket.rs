//! Sockets of SOCKS5 bytestreams: listening, dialling, and the handshake over either.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_net::{TcpListener, TcpStream};
use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    group::Group,
    socks5::{Client, Server, SocksError, Step},
    streamhosts::same_host,
};

/// Why a connection is not the bytestream.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// SOCKS5 failed.
    #[error("{0}")]
    Socks(#[from] SocksError),
}

/// Dials a streamhost and asks it for the bytestream.
pub(super) async fn dial(
    address: SocketAddr,
    destination: String,
) -> Result<TcpStream, HandshakeError> {
    let mut stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    ask(&mut stream, destination).await?;
    Ok(stream)
}

/// The dialling side's handshake.
pub(super) async fn ask(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    destination: String,
) -> Result<(), HandshakeError> {
    let (mut client, greeting) = Client::new(destination);
    stream.write_all(&greeting).await?;
    handshake(stream, |bytes| match bytes {
        None => Err(client.wants()),
        Some(bytes) => Ok(client.read(bytes)),
    })
    .await
}

/// Waits until somebody who connected asks for the bytestream.
pub(super) async fn welcome(
    mut stream: TcpStream,
    destination: String,
) -> Result<TcpStream, HandshakeError> {
    prepare(&stream)?;
    answer(&mut stream, destination).await?;
    Ok(stream)
}

/// The listening side's handshake.
pub(super) async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    destination: String,
) -> Result<(), HandshakeError> {
    let mut server = Server::new(destination);
    handshake(stream, |bytes| match bytes {
        None => Err(server.wants()),
        Some(bytes) => Ok(server.read(bytes)),
    })
    .await
}

/// Small writes go out at once, for TLS and what people type. A peer that vanished without a word is
/// noticed after about two minutes, even while nothing is written.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// Drives one side. `machine` says how much it wants when it is given nothing.
async fn handshake(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut machine: impl FnMut(Option<&[u8]>) -> Result<Step, usize>,
) -> Result<(), HandshakeError> {
    let mut buffer = [0; 257];
    loop {
        let wants = machine(None).err().unwrap_or(0).min(buffer.len());
        stream.read_exact(&mut buffer[..wants]).await?;
        let Ok(step) = machine(Some(&buffer[..wants])) else {
            continue;
        };
        match step {
            Step::Read => {}
            Step::Write(bytes) => stream.write_all(&bytes).await?,
            Step::Done(bytes) => {
                stream.write_all(&bytes).await?;
                return Ok(());
            }
            Step::Fail(bytes, error) => {
                stream.write_all(&bytes).await?;
                return Err(error.into());
            }
        }
    }
}

/// Most connections that may be tried for one bytestream at the same time. One more takes the place
/// of the oldest that has not named the bytestream; or, if it comes from the peer's own address, of
/// the oldest that has named it and comes from elsewhere; else it is dropped.
pub(super) const MAX_CANDIDATES: usize = 16;

/// What is known of a connection before it is authenticated.
#[derive(Debug)]
pub(super) struct Standing {
    from_peer: bool,
    /// It asked for the bytestream by its right name.
    named: Arc<AtomicBool>,
}

/// Which candidate makes room for one more: its place, or `None` when the newcomer has to go.
fn makes_room<'a>(
    candidates: impl Iterator<Item = &'a Standing> + Clone,
    newcomer_from_peer: bool,
) -> Option<usize> {
    let nameless = |standing: &Standing| !standing.named.load(Ordering::Relaxed);
    candidates
        .clone()
        .position(|standing| nameless(standing) && !standing.from_peer)
        .or_else(|| candidates.clone().position(nameless))
        .or_else(|| {
            candidates
                .clone()
                .position(|standing| newcomer_from_peer && !standing.from_peer)
        })
}

/// A listener that lives while one bytestream is being opened, and the connections that came.
pub(super) struct Door<T> {
    listener: TcpListener,
    peer: SocketAddr,
    candidates: Group<Standing, Option<T>>,
}

impl<T: Send + 'static> Door<T> {
    /// Listens at `address` for `peer` (its port does not matter).
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn open(address: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        Ok(Door {
            listener: TcpListener::bind(address).await?,
            peer,
            candidates: Group::new(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Waits until one of those who come gets through `examine`, which says by its flag that the
    /// bytestream was named. `strangers`: whether others than the peer's address are examined at
    /// all. Cancel-safe: candidates go on at the next call.
    ///
    /// # Errors
    /// When the system cannot accept.
    pub(super) async fn authenticated<F>(
        &mut self,
        strangers: bool,
        mut examine: impl FnMut(TcpStream, Arc<AtomicBool>) -> F,
    ) -> io::Result<T>
    where
        F: Future<Output = Option<T>> + Send + 'static,
    {
        enum Event<T> {
            Came(io::Result<(TcpStream, SocketAddr)>),
            Examined(Option<T>),
        }
        loop {
            let came = async { Event::Came(self.listener.accept().await) };
            let examined = async { Event::Examined(self.candidates.next().await) };
            match futures_lite::future::or(examined, came).await {
                Event::Examined(Some(authenticated)) => return Ok(authenticated),
                Event::Examined(None) => {}
                Event::Came(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Event::Came(Err(error)) => return Err(error),
                Event::Came(Ok((stream, address))) => {
                    let from_peer = same_host(address, self.peer);
                    if !from_peer && !strangers {
                        tracing::debug!(%address, "a stranger connected to a bytestream");
                        // Whoever connects faster than we close must not keep this thread.
                        drop(stream);
                        futures_lite::future::yield_now().await;
                        continue;
                    }
                    if self.candidates.keys().count() >= MAX_CANDIDATES {
                        let standings: Vec<&Standing> = self.candidates.keys().collect();
                        let Some(place) = makes_room(standings.into_iter(), from_peer) else {
                            drop(stream);
                            futures_lite::future::yield_now().await;
                            continue;
                        };
                        self.candidates.remove(place);
                    }
                    let named = Arc::new(AtomicBool::new(false));
                    let future = Box::pin(examine(stream, named.clone()));
                    self.candidates.push(Standing { from_peer, named }, future);
                    futures_lite::future::yield_now().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing((from_peer, named): (bool, bool)) -> Standing {
        Standing {
            from_peer,
            named: Arc::new(AtomicBool::new(named)),
        }
    }

    #[test]
    fn who_connects_faster_than_we_close_leaves_the_thread_to_others() {
        const CROWD: usize = 60;
        async_io::block_on(async {
            let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
            let elsewhere = SocketAddr::from(([127, 0, 0, 9], 0));
            let mut door: Door<()> = Door::open(loopback, elsewhere).await.unwrap();
            let address = door.address().unwrap();
            let crowd: Vec<_> = (0..CROWD)
                .map(|_| std::net::TcpStream::connect(address).unwrap())
                .collect();
            let mut opening = Box::pin(door.authenticated(false, |_, _| async { None }));
            let mut polls = 0;
            let closed = |stream: &std::net::TcpStream| {
                stream.set_nonblocking(true).unwrap();
                !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            };
            while !crowd.iter().all(closed) {
                assert!(
                    futures_lite::future::poll_once(&mut opening)
                        .await
                        .is_none()
                );
                polls += 1;
            }
            assert!(polls >= CROWD, "{polls}");
        });
    }

    #[test]
    fn strangers_make_room_before_the_peer_does() {
        let room = |standings: &[(bool, bool)], newcomer| {
            let standings: Vec<Standing> = standings.iter().copied().map(standing).collect();
            makes_room(standings.iter(), newcomer)
        };
        let (peer, stranger) = ((true, true), (false, true));
        assert_eq!(room(&[(true, false), (false, false)], false), Some(1));
        assert_eq!(room(&[peer, stranger, (true, false)], false), Some(2));
        assert_eq!(room(&[peer, stranger], true), Some(1));
        assert_eq!(room(&[peer, stranger], false), None);
        assert_eq!(room(&[peer, peer], true), None);
    }
}
