//! The carrier's end of an in-band bytestream: what TLS, or in plaintext the relay, reads and writes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actors::ports::Duplex;
use futures_lite::{AsyncRead, AsyncWrite};

use super::{Stream, state::Read};

/// See the module's head. Dropping it ends the bytestream.
pub(in super::super) struct Carrier {
    stream: Arc<Stream>,
    reset: bool,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carrier")
            .field("state", &self.stream.lock().state)
            .finish()
    }
}

impl Carrier {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Carrier {
            stream,
            reset: false,
        }
    }

    /// The peer has agreed to blocks of this size.
    pub(in super::super) fn set_block(&self, block: u16) {
        self.stream.set_block(block);
    }

    /// The peer has refused to open it: there is nothing to close.
    pub(in super::super) fn abandon(self) {
        self.stream.lost();
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let mut inner = self.stream.lock();
        inner.state.drop_carrier(self.reset);
        inner.reader = None;
        inner.writer = None;
        self.stream.settle(inner);
    }
}

impl Duplex for Carrier {
    fn reset(&mut self) {
        self.reset = true;
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if out.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut inner = self.stream.lock();
        match inner.state.read(out) {
            Read::Bytes(count) => {
                self.stream.settle(inner);
                Poll::Ready(Ok(count))
            }
            Read::End => Poll::Ready(Ok(0)),
            Read::Broken(kind) => Poll::Ready(Err(kind.into())),
            Read::Nothing => {
                inner.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.stream.lock();
        let count = inner.state.write(bytes)?;
        if count == 0 && !bytes.is_empty() {
            inner.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.stream.settle(inner);
        Poll::Ready(Ok(count))
    }

    /// Ready when everything has been given to the XML stream. The peer acknowledges it later.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.stream.lock();
        if inner.state.flush()? {
            return Poll::Ready(Ok(()));
        }
        inner.writer = Some(context.waker().clone());
        self.stream.settle(inner);
        Poll::Pending
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(context))?;
        let mut inner = self.stream.lock();
        inner.state.close();
        self.stream.settle(inner);
        Poll::Ready(Ok(()))
    }
}
