//! zbus on our executor: its tasks run where the rest of Pneuma runs, its sockets and timers are
//! async-io's, and what blocks goes to smol's pool of threads.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    path::Path,
    pin::Pin,
    process::{Command, ExitStatus, Stdio},
    task::{Context, Poll, ready},
    time::Duration,
};

use actors::runtime::{Spawner, Task};
use async_io::{Async, Timer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use zbus::runtime::{
    Interest, IoSource,
    traits::{PollIo, Runtime, TaskHandle},
};

/// How long to wait before a listener whose queue is full is tried again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

/// The adapter; hand it to `zbus::connection::Builder::runtime`.
#[derive(Clone, Debug)]
pub struct OurRuntime(Spawner);

impl OurRuntime {
    /// An adapter that spawns through `spawner`, so that zbus's tasks are counted with ours.
    pub fn new(spawner: Spawner) -> Self {
        OurRuntime(spawner)
    }
}

impl Runtime for OurRuntime {
    type RegisteredIoSource = Watched;
    type Sleep = Sleep;
    type Task<T>
        = Spawned<T>
    where
        T: Send + 'static;

    fn register_io_source(&self, source: IoSource) -> io::Result<Watched> {
        Async::new(source).map(Watched)
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep(Timer::after(duration))
    }

    fn spawn<T>(&self, _name: &str, future: impl Future<Output = T> + Send + 'static) -> Spawned<T>
    where
        T: Send + 'static,
    {
        Spawned(self.0.spawn("zbus", future))
    }

    async fn connect_tcp(&self, address: SocketAddr) -> io::Result<IoSource> {
        let stream = Async::<TcpStream>::connect(address).await?.into_inner()?;
        Ok(OwnedFd::from(stream).into())
    }

    async fn connect_unix(&self, path: &Path) -> io::Result<IoSource> {
        let bytes = path.as_os_str().as_bytes();
        let address = match bytes.split_first() {
            Some((0, name)) => SocketAddrUnix::new_abstract_name(name)?,
            _ => SocketAddrUnix::new(path)?,
        };
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        // A Unix socket is connected at once or not at all; EAGAIN says the listener's queue is
        // full, for as long as it does not accept.
        loop {
            match rustix::net::connect(&socket, &address) {
                Err(rustix::io::Errno::AGAIN) => {
                    Timer::after(FULL_QUEUE_PAUSE).await;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(OwnedFd::from(UnixStream::from(socket)).into()),
            }
        }
    }

    fn spawn_process(
        &self,
        mut command: Command,
        stdin: Stdio,
        stdout: Stdio,
        stderr: Stdio,
    ) -> io::Result<Pin<Box<dyn Future<Output = io::Result<ExitStatus>> + Send>>> {
        let child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn();
        drop(command);
        let mut child = child?;
        Ok(Box::pin(Unblocked::new(move || child.wait())))
    }

    fn spawn_blocking<T>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send>>
    where
        T: Send + 'static,
    {
        Box::pin(Unblocked::new(work))
    }
}

/// A timer whose output is nothing.
#[derive(Debug)]
pub struct Sleep(Timer);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context).map(drop)
    }
}

/// A socket watched by async-io.
#[derive(Debug)]
pub struct Watched(Async<IoSource>);

impl PollIo for Watched {
    fn poll_io<T>(
        &self,
        context: &mut Context<'_>,
        interest: Interest,
        mut operation: impl FnMut() -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            match operation() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
            ready!(match interest {
                Interest::Readable => self.0.poll_readable(context),
                _ => self.0.poll_writable(context),
            })?;
        }
    }
}

/// A task of zbus's on our executor. One that panicked is lost, and says so.
#[derive(Debug)]
pub struct Spawned<T>(Task<T>);

impl<T> Future for Spawned<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|outcome| outcome.map_err(io::Error::other))
    }
}

impl<T: Send + 'static> TaskHandle<T> for Spawned<T> {
    fn detach(self) {
        self.0.detach();
    }
}

/// Work on the pool, which runs to its end whether or not anybody still waits.
struct Unblocked<T>(Option<smol::Task<T>>);

impl<T: Send + 'static> Unblocked<T> {
    fn new(work: impl FnOnce() -> T + Send + 'static) -> Self {
        Unblocked(Some(smol::unblock(work)))
    }
}

impl<T> Future for Unblocked<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Some(task) => Pin::new(task).poll(context),
            // Only the drop takes the task out.
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Unblocked<T> {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.detach();
        }
    }
}
