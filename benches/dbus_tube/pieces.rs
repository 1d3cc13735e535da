//! What a tube is made of, one piece more at a time: relays of ours with less between them than there is in a
//! tube. Each is a process of its own, as the services are, and copies, as a D-Bus tube does.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actors::{
    ports::{Bytestream, Duplex},
    relay::{self, Meters},
    runtime::Stopper,
};
use async_io::Async;
use futures_lite::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use pneuma::session::{tls, trust::Identity};

use crate::ready;

/// Where one side of a relay is: a path, or TCP on loopback.
#[derive(Clone, Copy)]
pub enum Side<'a> {
    /// A Unix socket.
    Path(&'a str),
    /// A port; 0 to listen on any.
    Port(u16),
}

impl<'a> From<&'a str> for Side<'a> {
    fn from(text: &'a str) -> Self {
        text.parse().map_or(Side::Path(text), Side::Port)
    }
}

/// Bytes of either kind of socket or of TLS, as a relay sees a bytestream.
struct Copied<T>(T);

/// Any of them.
trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl<T: Bytes> AsyncRead for Copied<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<T: Bytes> AsyncWrite for Copied<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}

impl<T: Bytes + 'static> Duplex for Copied<T> {}

enum Door {
    Unix(Async<UnixListener>),
    Tcp(Async<TcpListener>),
}

impl Door {
    async fn accept(&self) -> io::Result<Box<dyn Bytes>> {
        Ok(match self {
            Door::Unix(listener) => Box::new(listener.accept().await?.0),
            Door::Tcp(listener) => Box::new(at_once(listener.accept().await?.0)?),
        })
    }
}

fn at_once(stream: Async<TcpStream>) -> io::Result<Async<TcpStream>> {
    stream.get_ref().set_nodelay(true)?;
    Ok(stream)
}

/// Relays whoever comes from one side to the other, one after the other, with TLS over TCP or without. Says
/// where it listens.
pub fn relay(from: Side<'_>, to: Side<'_>, with_tls: bool) -> io::Result<()> {
    let (door, address) = match from {
        Side::Path(path) => (
            Door::Unix(Async::<UnixListener>::bind(path)?),
            path.to_owned(),
        ),
        Side::Port(port) => {
            let listener = Async::<TcpListener>::bind((Ipv4Addr::LOCALHOST, port))?;
            let port = listener.get_ref().local_addr()?.port().to_string();
            (Door::Tcp(listener), port)
        }
    };
    ready(&address)?;
    let identity = Identity::generate().map_err(io::Error::other)?;
    let (_stopper, stop) = Stopper::new();
    async_io::block_on(async {
        loop {
            let mut one = door.accept().await?;
            let mut other: Box<dyn Bytes> = match to {
                Side::Path(path) => Box::new(Async::<UnixStream>::connect(path).await?),
                Side::Port(port) => {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    Box::new(at_once(Async::<TcpStream>::connect(address).await?)?)
                }
            };
            if with_tls && let Door::Tcp(_) = door {
                let config = tls::server_config(&identity, None, None).map_err(io::Error::other)?;
                let stream = TlsAcceptor::from(config).accept(one).await?;
                one = Box::new(TlsStream::Server(stream));
            } else if with_tls {
                let config = tls::client_config(&identity, None, None).map_err(io::Error::other)?;
                let connector = TlsConnector::from(config);
                let stream = connector.connect(tls::any_name(), other).await?;
                other = Box::new(TlsStream::Client(stream));
            }
            let remote = Bytestream {
                io: Box::new(Copied(other)),
                encrypted: with_tls,
            };
            relay::run(Copied(one), remote, Arc::new(Meters::default()), &stop).await;
        }
    })
}
