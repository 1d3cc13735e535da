//! Local services to offer, and clients that use them.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt as _,
        unix::{
            self,
            ffi::OsStrExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use crate::{Access, Address, PATIENCE, Seen, access::hear_byte};

/// A socket of either kind, blocking, with deadlines.
pub trait Socket: Read + Write + Send + AsFd {
    /// Half-closes: the other side reads end of file.
    ///
    /// # Errors
    /// The kernel's.
    fn finish(&self) -> io::Result<()>;
}

impl Socket for TcpStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Socket for UnixStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Address {
    /// Connects, with a deadline on every read and write.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect(&self) -> io::Result<Box<dyn Socket>> {
        let tcp = |address: SocketAddr| -> io::Result<Box<dyn Socket>> {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Box::new(stream))
        };
        match self {
            Address::Ipv4(address) => tcp((*address).into()),
            Address::Ipv6(address) => tcp((*address).into()),
            Address::Unix(_) | Address::Abstract(_) => {
                let stream = self.connect_unix()?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Connects to a Unix socket, by path or abstract name.
    pub(crate) fn connect_unix(&self) -> io::Result<UnixStream> {
        match self {
            Address::Unix(path) => UnixStream::connect(path),
            Address::Abstract(name) => {
                let name = unix::net::SocketAddr::from_abstract_name(name)?;
                UnixStream::connect_addr(&name)
            }
            Address::Ipv4(_) | Address::Ipv6(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Sends `bytes`, half-closes, and reads until the end.
///
/// # Errors
/// The kernel's, a deadline too.
pub fn exchange(address: &Address, bytes: &[u8]) -> io::Result<Vec<u8>> {
    exchange_on(address.connect()?, bytes)
}

/// The same on a socket that is connected.
///
/// # Errors
/// The kernel's, a deadline too.
pub fn exchange_on(mut socket: Box<dyn Socket>, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut back = Vec::with_capacity(bytes.len());
    // Larger than what sockets buffer would deadlock if nobody read: so in turns.
    for part in bytes.chunks(16 * 1024) {
        socket.write_all(part)?;
        let start = back.len();
        back.resize(start + part.len(), 0);
        socket.read_exact(&mut back[start..])?;
    }
    socket.finish()?;
    socket.read_to_end(&mut back)?;
    Ok(back)
}

/// A service that sends back what it gets and half-closes when its client did.
pub struct Echo {
    address: Address,
    connections: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What an echo accepts: where from, and both halves.
type Client = (Seen, Box<dyn Read + Send>, Box<dyn Socket>);

impl Echo {
    /// On a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When the kernel has none.
    pub fn ipv4() -> Self {
        Echo::tcp("127.0.0.1:0")
    }

    /// On a free port of ::1.
    ///
    /// # Panics
    /// When the kernel has none.
    pub fn ipv6() -> Self {
        Echo::tcp("[::1]:0")
    }

    /// On a Unix socket.
    ///
    /// # Panics
    /// When it cannot be bound.
    pub fn unix(path: &Path) -> Self {
        Echo::on_unix(Address::Unix(PathBuf::from(path)), Access::Localhost)
    }

    /// On an abstract Unix socket.
    ///
    /// # Panics
    /// When somebody has the name.
    pub fn abstract_name(name: &str) -> Self {
        Echo::on_unix(Address::Abstract(name.into()), Access::Localhost)
    }

    /// On a socket of this `Socket_Address_Type`, with what a service does where it was offered with
    /// this access control. A path lies in `folder`.
    ///
    /// # Panics
    /// When it cannot be bound.
    pub fn with(kind: u32, access: Access, folder: &Path) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        match kind {
            0 => Echo::on_unix(Address::Unix(folder.join(format!("echo{number}"))), access),
            1 => {
                // Any byte may stand in such a name.
                let name = [
                    folder.as_os_str().as_bytes(),
                    b"\0\xff",
                    &number.to_ne_bytes(),
                ];
                Echo::on_unix(Address::Abstract(name.concat()), access)
            }
            2 => Echo::ipv4(),
            _ => Echo::ipv6(),
        }
    }

    fn on_unix(address: Address, access: Access) -> Self {
        let listener = match &address {
            Address::Unix(path) => UnixListener::bind(path),
            Address::Abstract(name) => unix::net::SocketAddr::from_abstract_name(name)
                .and_then(|name| UnixListener::bind_addr(&name)),
            other => panic!("{other:?} is no Unix socket"),
        };
        let listener = listener.expect("a Unix socket");
        Echo::start(address, move || {
            let stream = listener.accept().ok()?.0;
            let reader = stream.try_clone().ok()?;
            let byte = match access {
                Access::Credentials => hear_byte(&stream).ok()?,
                _ => None,
            };
            let seen = Seen { from: None, byte };
            Some((seen, Box::new(reader) as _, Box::new(stream) as _))
        })
    }

    fn tcp(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a free TCP port");
        let address = listener.local_addr().expect("its address").into();
        Echo::start(address, move || {
            let (stream, from) = listener.accept().ok()?;
            stream.set_nodelay(true).ok()?;
            let reader = stream.try_clone().ok()?;
            let seen = Seen {
                from: Some(from),
                byte: None,
            };
            Some((seen, Box::new(reader) as _, Box::new(stream) as _))
        })
    }

    fn start(address: Address, accept: impl Fn() -> Option<Client> + Send + 'static) -> Self {
        let connections = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (count, stopped) = (Arc::clone(&connections), Arc::clone(&stop));
        let log = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            while let Some((client, mut reader, mut writer)) = accept() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                log.lock().expect("the log's lock").push(client);
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || {
                    // A client that goes away early is no failure of an echo.
                    drop(io::copy(&mut reader, &mut writer));
                    drop(writer.finish());
                });
            }
        });
        Echo {
            address,
            connections,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// How many connections it has had.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Echo {
    /// What it saw of each connection so far, in order.
    ///
    /// # Panics
    /// When its thread did.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("the log's lock").clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // The accept that waits needs a last connection.
        drop(self.address.connect());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A service that accepts and never reads, until it is let go.
pub struct Stalled {
    address: Address,
    listener: TcpListener,
}

impl Stalled {
    /// On a free port of 127.0.0.1.
    ///
    /// # Panics
    /// When the kernel has none.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free TCP port");
        let address = listener.local_addr().expect("its address").into();
        Stalled { address, listener }
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection; what it carries is up to the test.
    ///
    /// # Panics
    /// When the kernel fails.
    pub fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().expect("a connection");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a deadline on reads");
        stream
    }
}

impl Default for Stalled {
    fn default() -> Self {
        Stalled::new()
    }
}
