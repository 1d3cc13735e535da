//! What lies under TLS: a [`Duplex`] to one peer, neither secured nor authenticated. SOCKS5 gives a
//! TCP connection, which is here; the in-band carrier is in `ibb/`.
//!
//! For peers that are no Pneuma, where the account allows plaintext, the carrier is the bytestream
//! itself. Its end cannot be told from a loss then; nothing more can be known.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use actors::ports::Duplex;
use async_net::TcpStream;
use futures_lite::{AsyncRead, AsyncWrite};

/// A TCP connection.
///
/// It reads ahead by at most [`READ_AHEAD`] bytes: rustls asks for 4 KiB at a time, and one system
/// call for each of those costs a third of the throughput.
#[derive(Debug)]
pub(super) struct TcpCarrier {
    stream: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// One TLS record with its head, and a little.
pub(super) const READ_AHEAD: usize = 17 * 1024;

impl TcpCarrier {
    /// Takes a connection whose next byte is the bytestream's first.
    pub(super) fn new(stream: TcpStream) -> Self {
        TcpCarrier {
            stream,
            buffer: vec![0; READ_AHEAD].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }
}

impl Duplex for TcpCarrier {
    fn reset(&mut self) {
        // A connection that is gone already needs no reset.
        if let Err(error) =
            rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
        {
            tracing::debug!(%error, "a connection could not be set to be reset");
        }
    }
}

impl AsyncRead for TcpCarrier {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.start == this.end {
            if out.len() >= this.buffer.len() {
                return Pin::new(&mut this.stream).poll_read(context, out);
            }
            this.start = 0;
            this.end = 0;
            this.end = ready!(Pin::new(&mut this.stream).poll_read(context, &mut this.buffer))?;
        }
        let count = out.len().min(this.end - this.start);
        out[..count].copy_from_slice(&this.buffer[this.start..this.start + count]);
        this.start += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for TcpCarrier {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
