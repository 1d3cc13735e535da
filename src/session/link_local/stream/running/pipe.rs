//! The bytes of a running stream, both ways.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::{AsyncRead as _, AsyncWrite as _};

use super::super::wire::Wire;

use super::Event;

/// The connection and what waits on it. Apart from the rest, so that it can be polled while the
/// mailbox is.
pub(super) struct Pipe {
    pub(super) wire: Wire,
    pub(super) buffer: Box<[u8]>,
    pub(super) out: VecDeque<u8>,
    pub(super) unflushed: bool,
    pub(super) written: u64,
}

impl Pipe {
    /// Writes what waits, and flushes it. Ready once nothing waits.
    pub(super) fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let (bytes, _) = self.out.as_slices();
            let count = std::task::ready!(Pin::new(&mut self.wire).poll_write(context, bytes))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.drain(..count);
            self.written += count as u64;
            self.unflushed = true;
        }
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.wire).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The next thing that happens on the connection. `written` before is compared by the caller.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, read: bool) -> Poll<Event> {
        if !self.out.is_empty() || self.unflushed {
            let before = self.written;
            match self.poll_write_out(context) {
                Poll::Ready(result) => return Poll::Ready(Event::Wrote(result)),
                // The actor learns of progress, so that a slow peer is not taken for a stalled one.
                Poll::Pending if self.written != before => {
                    return Poll::Ready(Event::Wrote(Ok(())));
                }
                Poll::Pending => {}
            }
        }
        if read
            && let Poll::Ready(result) =
                Pin::new(&mut self.wire).poll_read(context, &mut self.buffer)
        {
            return Poll::Ready(Event::Read(result));
        }
        Poll::Pending
    }
}
