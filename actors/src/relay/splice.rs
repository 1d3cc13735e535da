//! One direction between two of the kernel's sockets: `splice(2)` moves the bytes through a pipe
//! without copying them into this process.
//!
//! The pipe is filled only when it is empty, as the buffer is. It holds [`PIPE_BYTES`] at most, in
//! the kernel. `SPLICE_F_MORE` is never set: on the last piece of a message it would make TCP wait
//! for more (200 ms), and we cannot know which piece is the last.

use std::{
    io,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use crate::endpoint::LocalStream;

/// Most bytes that one direction holds.
pub(super) const PIPE_BYTES: usize = 64 * 1024;

/// A pipe between two sockets.
#[derive(Debug)]
pub(super) struct Pipe {
    inlet: OwnedFd,
    outlet: OwnedFd,
    held: usize,
}

impl Pipe {
    /// A pipe for each direction, if both sides are sockets of the kernel and there are
    /// descriptors for them; without, bytes are copied.
    pub(super) fn pair(
        one: Option<&LocalStream>,
        other: Option<&LocalStream>,
    ) -> Option<[Pipe; 2]> {
        one.and(other)?;
        match Pipe::new().and_then(|first| Ok([first, Pipe::new()?])) {
            Ok(pipes) => Some(pipes),
            Err(error) => {
                tracing::debug!(%error, "no pipes for a relay: copying");
                None
            }
        }
    }

    fn new() -> io::Result<Self> {
        let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&inlet, PIPE_BYTES)?;
        Ok(Pipe {
            inlet,
            outlet,
            held: 0,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves bytes from the socket into the pipe, which is empty, so many at most; 0 at the end of file.
    pub(super) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        socket: Option<&LocalStream>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
        let most = most.min(PIPE_BYTES);
        loop {
            match splice(socket, None, &self.inlet, None, most, flags()) {
                Ok(moved) => {
                    self.held = moved;
                    return Poll::Ready(Ok(moved));
                }
                Err(Errno::AGAIN) => ready!(socket.poll_readable(context))?,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Moves bytes from the pipe, which is not empty, into the socket.
    pub(super) fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        socket: Option<&LocalStream>,
    ) -> Poll<io::Result<usize>> {
        let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
        loop {
            match splice(&self.outlet, None, socket, None, self.held, flags()) {
                Ok(moved) => {
                    self.held -= moved.min(self.held);
                    return Poll::Ready(Ok(moved));
                }
                Err(Errno::AGAIN) => ready!(socket.poll_writable(context))?,
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}
