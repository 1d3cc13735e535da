//! A pair of streams in memory: bounded, with half-close, reset and loss.

use std::{
    collections::VecDeque,
    io::{Error, ErrorKind, Result},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use futures_lite::{AsyncRead, AsyncWrite};

use super::lock;
use crate::ports::Duplex;

/// How a direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The writer closed: what is buffered is still read, then end of file.
    Closed,
    /// The writer reset: reads fail with `ConnectionReset` at once.
    Reset,
    /// The carrier broke: reads fail with `UnexpectedEof` at once.
    Lost,
}

#[derive(Debug, Default)]
struct Direction {
    buffer: VecDeque<u8>,
    capacity: usize,
    end: Option<End>,
    reader_gone: bool,
    /// Nothing arrives any more: neither bytes nor an end.
    silent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Direction {
    fn wake(&mut self) {
        self.reader.take().into_iter().for_each(Waker::wake);
        self.writer.take().into_iter().for_each(Waker::wake);
    }

    fn finish(&mut self, end: End) {
        if self.end != Some(End::Reset) && self.end != Some(End::Lost) {
            self.end = Some(end);
        }
        self.wake();
    }
}

#[derive(Debug)]
struct Shared {
    /// `directions[side]` is what `side` reads.
    directions: [Direction; 2],
}

/// Counts streams that exist: what descriptors are to a real process.
#[derive(Clone, Debug, Default)]
pub struct StreamCounter(Arc<AtomicUsize>);

impl StreamCounter {
    /// How many exist now.
    pub fn open(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// One end. Closing the writer is a half-close; dropping the end without closing it breaks the
/// carrier, which the other end reads as `UnexpectedEof`, as a bytestream's other end would. Ends
/// made by [`FakeStream::like_a_socket`] read as end of file instead, as the kernel's sockets do.
#[derive(Debug)]
pub struct FakeStream {
    shared: Arc<Mutex<Shared>>,
    side: usize,
    socket: bool,
    counter: StreamCounter,
}

/// The carrier between two ends, to break it from outside.
#[derive(Clone, Debug)]
pub struct Wire(Arc<Mutex<Shared>>);

/// A pair of streams that buffer `capacity` bytes each way.
pub fn pipe(capacity: usize) -> (FakeStream, FakeStream) {
    pipe_counted(capacity, &StreamCounter::default())
}

/// A pair that is counted while it exists.
pub fn pipe_counted(capacity: usize, counter: &StreamCounter) -> (FakeStream, FakeStream) {
    let direction = || Direction {
        capacity: capacity.max(1),
        ..Direction::default()
    };
    let shared = Arc::new(Mutex::new(Shared {
        directions: [direction(), direction()],
    }));
    counter.0.fetch_add(2, Ordering::Relaxed);
    let end = |side| FakeStream {
        shared: shared.clone(),
        side,
        socket: false,
        counter: counter.clone(),
    };
    (end(0), end(1))
}

impl FakeStream {
    /// Makes dropping this end an orderly end of file for the other one, as with the kernel's
    /// sockets.
    #[must_use]
    pub fn like_a_socket(mut self) -> Self {
        self.socket = true;
        self
    }

    /// The carrier.
    pub fn wire(&self) -> Wire {
        Wire(self.shared.clone())
    }
}

impl Wire {
    /// Breaks the carrier: both ends read `UnexpectedEof` and write `BrokenPipe`.
    pub fn lose(&self) {
        for direction in &mut lock(&self.0).directions {
            direction.finish(End::Lost);
        }
    }

    /// Carries nothing any more and tells nobody, as when a machine loses its power: what is
    /// written is taken as long as there is room, and no end is heard of.
    pub fn silence(&self) {
        for direction in &mut lock(&self.0).directions {
            direction.silent = true;
        }
    }

    /// Bytes that were written and not yet read, both directions together.
    pub fn buffered(&self) -> usize {
        lock(&self.0)
            .directions
            .iter()
            .map(|direction| direction.buffer.len())
            .sum()
    }
}

impl AsyncRead for FakeStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        let mut shared = lock(&self.shared);
        let direction = &mut shared.directions[self.side];
        if direction.silent {
            direction.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        match direction.end {
            Some(End::Reset) => return Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            Some(End::Lost) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
            Some(End::Closed) | None => {}
        }
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = buffer.len().min(direction.buffer.len());
        if count == 0 {
            if direction.end == Some(End::Closed) {
                return Poll::Ready(Ok(0));
            }
            direction.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        for (place, byte) in buffer.iter_mut().zip(direction.buffer.drain(..count)) {
            *place = byte;
        }
        direction.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for FakeStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let mut shared = lock(&self.shared);
        let direction = &mut shared.directions[1 - self.side];
        if !direction.silent && (direction.end.is_some() || direction.reader_gone) {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let count = bytes
            .len()
            .min(direction.capacity - direction.buffer.len().min(direction.capacity));
        if count == 0 && !bytes.is_empty() {
            direction.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        direction.buffer.extend(&bytes[..count]);
        direction.reader.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        let mut shared = lock(&self.shared);
        let direction = &mut shared.directions[1 - self.side];
        if direction.end == Some(End::Lost) {
            return Poll::Ready(Err(Error::from(ErrorKind::BrokenPipe)));
        }
        direction.finish(End::Closed);
        Poll::Ready(Ok(()))
    }
}

impl Duplex for FakeStream {
    fn reset(&mut self) {
        let mut shared = lock(&self.shared);
        for direction in &mut shared.directions {
            direction.finish(End::Reset);
        }
    }
}

impl FakeStream {
    /// Whether the other end was dropped.
    pub(super) fn is_left(&self) -> bool {
        lock(&self.shared).directions[1 - self.side].reader_gone
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        self.counter.0.fetch_sub(1, Ordering::Relaxed);
        let mut shared = lock(&self.shared);
        let incoming = &mut shared.directions[self.side];
        incoming.reader_gone = true;
        incoming.wake();
        let outgoing = &mut shared.directions[1 - self.side];
        if outgoing.end.is_none() {
            outgoing.finish(if self.socket { End::Closed } else { End::Lost });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Duplex as _, ErrorKind, StreamCounter, pipe, pipe_counted};
    use futures_lite::{
        AsyncReadExt as _, AsyncWriteExt as _,
        future::{block_on, poll_once},
    };

    #[test]
    fn half_close_leaves_the_other_direction() {
        block_on(async {
            let (mut a, mut b) = pipe(64);
            a.write_all(b"question").await.unwrap();
            a.close().await.unwrap();
            let mut text = String::new();
            b.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question");
            b.write_all(b"answer").await.unwrap();
            b.close().await.unwrap();
            text.clear();
            a.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "answer");
        });
    }

    #[test]
    fn a_full_pipe_makes_the_writer_wait() {
        block_on(async {
            let (mut a, mut b) = pipe(4);
            assert!(poll_once(a.write_all(b"12345")).await.is_none());
            let mut four = [0; 4];
            b.read_exact(&mut four).await.unwrap();
            a.write_all(b"6").await.unwrap();
        });
    }

    #[test]
    fn reset_and_loss_are_told_apart() {
        block_on(async {
            let mut byte = [0];
            let (mut a, mut b) = pipe(4);
            a.reset();
            assert_eq!(
                b.read(&mut byte).await.unwrap_err().kind(),
                ErrorKind::ConnectionReset
            );
            let (a, mut b) = pipe(4);
            a.wire().lose();
            assert_eq!(
                b.read(&mut byte).await.unwrap_err().kind(),
                ErrorKind::UnexpectedEof
            );
            let (a, mut b) = pipe(4);
            drop(a);
            assert_eq!(
                b.read(&mut byte).await.unwrap_err().kind(),
                ErrorKind::UnexpectedEof
            );
            assert_eq!(
                b.write(&byte).await.unwrap_err().kind(),
                ErrorKind::BrokenPipe
            );
        });
    }

    #[test]
    fn a_socket_that_is_dropped_reads_as_end_of_file() {
        let counter = StreamCounter::default();
        let (a, mut b) = pipe_counted(4, &counter);
        assert_eq!(counter.open(), 2);
        drop(a.like_a_socket());
        assert_eq!(counter.open(), 1);
        assert_eq!(block_on(b.read(&mut [0])).unwrap(), 0);
    }
}
