//! One direction of a relay: from a reader, through one small buffer, to a writer. See the parent
//! module for its states.

use std::{
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll, ready},
};

use super::splice::Pipe;
use crate::{
    limits::Share,
    ports::Duplex,
    runtime::{Failure, FaultPoint, Faults},
};

/// Most bytes one direction holds: what fits into one TLS record.
pub const RECORD: usize = 16 * 1024;
/// How many times one direction reads before it lets others run.
const TURNS: usize = 16;

/// One direction.
pub(super) struct Pump {
    state: State,
    store: Store,
    /// Its part of what may be read each second.
    share: Share,
    /// Something was written and not flushed.
    unflushed: bool,
}

/// Where the bytes are between the reader and the writer.
enum Store {
    Buffer(Buffer),
    /// In the kernel; see [`splice`](super::splice).
    Pipe(Pipe),
}

struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

enum State {
    Flowing,
    /// The reader has ended and the buffer is empty.
    Closing,
    Closed,
    /// The writer failed. Reads go on, so that a reader that is blocked on us, or breaks, is
    /// noticed; `ended` once there is nothing to read any more.
    Severed {
        why: io::ErrorKind,
        ended: bool,
    },
}

/// Where a direction stands after a poll. In every case the task is woken when that may change.
#[derive(Debug)]
pub(super) enum Pumped {
    /// It waits for the writer or for its share, or has used its turns up.
    Busy,
    /// All that could be read has been written and flushed.
    Idle,
    /// The reader has ended, all is written and the writer is closed.
    Closed,
    /// The writer failed like this; what is read now is lost.
    Severed(io::ErrorKind),
    /// The reader failed.
    ReadFailed(io::Error),
    /// A test killed it.
    Killed(Failure),
}

impl Pump {
    pub(super) fn new(share: Share) -> Self {
        Self::with(Store::Buffer(Buffer::new()), share)
    }

    /// A direction between two sockets of the kernel.
    pub(super) fn within_the_kernel(pipe: Pipe, share: Share) -> Self {
        Self::with(Store::Pipe(pipe), share)
    }

    fn with(store: Store, share: Share) -> Self {
        Pump {
            state: State::Flowing,
            store,
            share,
            unflushed: false,
        }
    }

    /// Moves what can be moved now.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut (impl Duplex + ?Sized),
        writer: &mut (impl Duplex + ?Sized),
        meter: &AtomicU64,
        faults: &Faults,
    ) -> Pumped {
        self.try_poll(context, reader, writer, meter, faults)
            .unwrap_or_else(Pumped::Killed)
    }

    fn try_poll(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut (impl Duplex + ?Sized),
        writer: &mut (impl Duplex + ?Sized),
        meter: &AtomicU64,
        faults: &Faults,
    ) -> Result<Pumped, Failure> {
        for _ in 0..TURNS {
            if !self.store.is_empty() {
                faults.hit(FaultPoint::RelayWrite)?;
            }
            if let Err(error) = match self.poll_write(context, writer, meter) {
                Poll::Ready(written) => written,
                Poll::Pending => return Ok(Pumped::Busy),
            } {
                self.sever(&error, false);
            }
            match self.state {
                State::Flowing | State::Severed { ended: false, .. } => {}
                State::Closing => {
                    faults.hit(FaultPoint::RelayClose)?;
                    match Pin::new(&mut *writer).poll_close(context) {
                        Poll::Ready(Ok(())) => {
                            self.state = State::Closed;
                            return Ok(Pumped::Closed);
                        }
                        Poll::Ready(Err(error)) => {
                            self.sever(&error, true);
                            continue;
                        }
                        Poll::Pending => return Ok(Pumped::Busy),
                    }
                }
                State::Closed => return Ok(Pumped::Closed),
                State::Severed { why, ended: true } => return Ok(Pumped::Severed(why)),
            }
            let Poll::Ready(most) = self.share.poll_turn(context) else {
                // Nothing is read that could not be written: it waits where it is.
                match self.rest(context, writer) {
                    Some(Pumped::Idle) => return Ok(Pumped::Busy),
                    Some(pumped) => return Ok(pumped),
                    None => continue,
                }
            };
            faults.hit(FaultPoint::RelayRead)?;
            let filled = self.store.poll_fill(context, reader, most);
            self.share.spent(match &filled {
                Poll::Ready(Ok(length)) => *length,
                Poll::Ready(Err(_)) | Poll::Pending => 0,
            });
            match filled {
                Poll::Ready(Ok(0)) => match &mut self.state {
                    State::Severed { ended, .. } => *ended = true,
                    state => *state = State::Closing,
                },
                Poll::Ready(Ok(_)) => {
                    if matches!(self.state, State::Severed { .. }) {
                        self.store.discard();
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => {
                    // What was written before the failure should still arrive, if it can at once.
                    if self.unflushed
                        && let Poll::Ready(Err(error)) = Pin::new(writer).poll_flush(context)
                    {
                        tracing::trace!(%error, "the writer failed too");
                    }
                    return Ok(Pumped::ReadFailed(error));
                }
                Poll::Pending => {
                    if self.unflushed {
                        faults.hit(FaultPoint::RelayFlush)?;
                    }
                    match self.rest(context, writer) {
                        Some(pumped) => return Ok(pumped),
                        None => continue,
                    }
                }
            }
        }
        context.waker().wake_by_ref();
        Ok(match self.state {
            State::Severed { why, .. } => Pumped::Severed(why),
            _ => Pumped::Busy,
        })
    }

    /// Writes the buffer out.
    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut (impl Duplex + ?Sized),
        meter: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        while !self.store.is_empty() {
            match ready!(self.store.poll_drain(context, writer)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    self.unflushed = true;
                    meter.fetch_add(written as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing is read now: flushes. `None` when the writer failed at it.
    fn rest(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut (impl Duplex + ?Sized),
    ) -> Option<Pumped> {
        if let State::Severed { why, .. } = self.state {
            return Some(Pumped::Severed(why));
        }
        if self.unflushed {
            match Pin::new(writer).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => {
                    self.sever(&error, false);
                    return None;
                }
                Poll::Pending => return Some(Pumped::Busy),
            }
        }
        Some(Pumped::Idle)
    }

    /// The writer failed; `ended` when the reader had ended before.
    fn sever(&mut self, error: &io::Error, ended: bool) {
        tracing::debug!(%error, "one side of a relay takes nothing more");
        // Bytes in a pipe can only be written, so what is thrown away from now on needs a buffer.
        self.store = Store::Buffer(Buffer::new());
        self.unflushed = false;
        self.state = State::Severed {
            why: error.kind(),
            ended,
        };
    }
}

impl Buffer {
    fn new() -> Self {
        Buffer {
            bytes: vec![0; RECORD].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }
}

impl Store {
    fn is_empty(&self) -> bool {
        match self {
            Store::Buffer(buffer) => buffer.start == buffer.end,
            Store::Pipe(pipe) => pipe.is_empty(),
        }
    }

    /// Forgets what was read.
    fn discard(&mut self) {
        if let Store::Buffer(buffer) = self {
            (buffer.start, buffer.end) = (0, 0);
        }
    }

    /// Reads into the store, which is empty, so many bytes at most.
    fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        reader: &mut (impl Duplex + ?Sized),
        most: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Store::Buffer(buffer) => {
                let room = most.min(buffer.bytes.len());
                let bytes = &mut buffer.bytes[..room];
                let length = ready!(Pin::new(reader).poll_read(context, bytes))?;
                (buffer.start, buffer.end) = (0, length);
                Poll::Ready(Ok(length))
            }
            Store::Pipe(pipe) => pipe.poll_fill(context, reader.socket(), most),
        }
    }

    /// Writes some of what is in the store.
    fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        writer: &mut (impl Duplex + ?Sized),
    ) -> Poll<io::Result<usize>> {
        match self {
            Store::Buffer(buffer) => {
                let bytes = &buffer.bytes[buffer.start..buffer.end];
                let written = ready!(Pin::new(writer).poll_write(context, bytes))?;
                buffer.start += written;
                Poll::Ready(Ok(written))
            }
            Store::Pipe(pipe) => pipe.poll_drain(context, writer.socket()),
        }
    }
}
