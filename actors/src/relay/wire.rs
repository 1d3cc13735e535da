//! Our side of the bytestream: what is to be written lies here, so that what is half written is finished
//! before a last word, whatever became of who wrote it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_lite::{AsyncRead as _, AsyncWrite as _};

use crate::ports::Duplex;

/// Most bytes of a file, or of messages, that lie here.
pub(crate) const CHUNK: usize = 128 * 1024;
/// Room for what goes around them.
const MARGIN: usize = 64;

/// See the module's head.
pub(crate) struct Wire {
    io: Box<dyn Duplex>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Something was written and not flushed.
    unflushed: bool,
    /// Where the last that we have to say begins here, once there is such.
    last: Option<usize>,
}

impl Wire {
    /// For the side that has much to write.
    pub(crate) fn for_chunks(io: Box<dyn Duplex>) -> Self {
        Self::with(io, CHUNK + MARGIN)
    }

    /// For the side that only answers.
    pub(crate) fn for_words(io: Box<dyn Duplex>) -> Self {
        Self::with(io, MARGIN)
    }

    fn with(io: Box<dyn Duplex>, room: usize) -> Self {
        Wire {
            io,
            buffer: vec![0; room].into(),
            start: 0,
            end: 0,
            unflushed: false,
            last: None,
        }
    }

    /// Whether all was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether our last word lies here or was written.
    pub(crate) fn is_last(&self) -> bool {
        self.last.is_some()
    }

    /// Takes our last word back, if none of it was written, so that there can be another one.
    pub(crate) fn take_last_back(&mut self) {
        if let Some(place) = self.last.filter(|place| self.start <= *place) {
            self.end = place;
            self.last = None;
        }
    }

    /// Where bytes may be put; only while it is empty. [`Wire::filled`] says how many they are.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// So many bytes were put into [`Wire::room`].
    pub(crate) fn filled(&mut self, bytes: usize) {
        (self.start, self.end) = (0, bytes);
    }

    /// Puts something short behind what is there. There is room: at most a chunk lies here, and around it
    /// a header, an end and a last word.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
        let end = self.end + bytes.len();
        self.buffer[self.end..end].copy_from_slice(bytes);
        self.end = end;
    }

    /// The same for the last that we have to say.
    pub(crate) fn push_last(&mut self, bytes: &[u8]) {
        self.push(bytes);
        self.last = Some(self.end - bytes.len());
    }

    /// Writes what lies here.
    pub(crate) fn poll_empty(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let bytes = &self.buffer[self.start..self.end];
            match ready!(Pin::new(&mut self.io).poll_write(context, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => {
                    self.start += written;
                    self.unflushed = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what lies here and sees to it that no layer below keeps it.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_empty(context))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what lies here and closes our side.
    pub(crate) fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(context))?;
        Pin::new(&mut self.io).poll_close(context)
    }

    /// Reads.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }

    /// Says what is to be said, closes our side, and reads until the contact has closed its own: a
    /// socket that is dropped with something unread in it throws away what was written last.
    pub(crate) async fn part(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_close(context)).await?;
        let mut rest = vec![0; 16 * 1024];
        let mut turns = 0;
        std::future::poll_fn(move |context| {
            loop {
                if ready!(self.poll_read(context, &mut rest))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                turns += 1;
                if turns % 16 == 0 {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Breaks it off.
    pub(crate) fn reset(&mut self) {
        self.io.reset();
    }
}
