//! One local connection, whichever kind of socket carries it.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_io::Async;
use futures_lite::{AsyncRead, AsyncWrite};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::access_control::peer_uid;
use crate::{model::AddressType, ports::Duplex};

/// A connection between an application and us.
///
/// Closing it shuts its writing half down: the application reads end of file and may go on
/// writing. Dropping it closes the descriptor. [`Duplex::reset`] before the drop makes the
/// application see a reset instead of an end of file; see there for Unix sockets.
#[derive(Debug)]
#[non_exhaustive]
pub enum LocalStream {
    /// Loopback TCP, or wherever an offered service lies.
    Tcp(Async<TcpStream>),
    /// A Unix stream socket.
    Unix(Async<UnixStream>),
}

impl LocalStream {
    /// Takes a connected, non-blocking socket over. Small writes go out at once (`TCP_NODELAY`):
    /// the application has batched what it wanted to batch.
    ///
    /// # Errors
    /// When the reactor cannot take one descriptor more, or the socket is dead already.
    pub(super) fn from_connected(kind: AddressType, socket: OwnedFd) -> io::Result<Self> {
        Ok(match kind {
            AddressType::Ipv4 | AddressType::Ipv6 => {
                let stream = TcpStream::from(socket);
                stream.set_nodelay(true)?;
                LocalStream::Tcp(Async::new_nonblocking(stream)?)
            }
            AddressType::Unix | AddressType::AbstractUnix => {
                LocalStream::Unix(Async::new_nonblocking(UnixStream::from(socket))?)
            }
        })
    }

    /// Waits until there may be something to read. The kernel's answer comes first: asked only after
    /// a call that had nothing.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            LocalStream::Tcp(stream) => stream.poll_readable(context),
            LocalStream::Unix(stream) => stream.poll_readable(context),
        }
    }

    /// The same for room to write.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            LocalStream::Tcp(stream) => stream.poll_writable(context),
            LocalStream::Unix(stream) => stream.poll_writable(context),
        }
    }

    /// The user whose process connected, where the kernel says so: on Unix sockets.
    pub fn peer_user(&self) -> Option<u32> {
        match self {
            LocalStream::Tcp(_) => None,
            LocalStream::Unix(stream) => peer_uid(stream.as_fd()).ok(),
        }
    }

    /// Both ends of a TCP connection, ours first; `None` for other sockets.
    pub(super) fn tcp_ends(&self) -> Option<io::Result<(SocketAddr, SocketAddr)>> {
        let LocalStream::Tcp(stream) = self else {
            return None;
        };
        let stream = stream.get_ref();
        Some(
            stream
                .local_addr()
                .and_then(|own| Ok((own, stream.peer_addr()?))),
        )
    }
}

impl From<Async<TcpStream>> for LocalStream {
    fn from(stream: Async<TcpStream>) -> Self {
        LocalStream::Tcp(stream)
    }
}

impl From<Async<UnixStream>> for LocalStream {
    fn from(stream: Async<UnixStream>) -> Self {
        LocalStream::Unix(stream)
    }
}

impl AsFd for LocalStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            LocalStream::Tcp(stream) => stream.as_fd(),
            LocalStream::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Duplex for LocalStream {
    fn socket(&self) -> Option<&LocalStream> {
        Some(self)
    }

    /// Of TCP it is known only once the application was reset; its end of file may be half a close.
    fn is_hung_up(&self) -> bool {
        let mut asked = [PollFd::new(self, PollFlags::empty())];
        let told = rustix::event::poll(&mut asked, Some(&Timespec::default()));
        told.is_ok()
            && asked[0]
                .revents()
                .intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// TCP: the drop that follows sends RST, and what had not been sent is thrown away. A Unix
    /// socket has no such thing: its peer reads `ECONNRESET` if bytes it wrote are still unread
    /// here, and end of file otherwise.
    fn reset(&mut self) {
        if let LocalStream::Tcp(stream) = self
            && let Err(error) =
                rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))
        {
            // The socket is closed in any case; its application merely reads an end of file.
            tracing::debug!(%error, "cannot reset a local connection");
        }
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            LocalStream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            LocalStream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            LocalStream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            LocalStream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            LocalStream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            LocalStream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        use rustix::{
            io::Errno,
            net::{Shutdown, shutdown},
        };
        Poll::Ready(match shutdown(self.as_fd(), Shutdown::Write) {
            // Not connected any more: there is nobody left to tell. Whoever reads sees why.
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error.into()),
        })
    }
}
