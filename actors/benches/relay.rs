//! What one relay hop costs, beside `socat` and beside no hop at all, in one run.
//!
//! ```text
//! cargo bench -p pneuma-actors --bench relay             # about half a minute
//! cargo bench -p pneuma-actors --bench relay -- --quick  # a few seconds, rough
//! cargo bench -p pneuma-actors --bench relay -- --only "one relay"   # to profile
//! cargo bench -p pneuma-actors --bench relay -- --threads 1  # for the relays' executor
//! ```
//!
//! A client and a server, threads of this program with plain blocking sockets, talk
//!
//! - directly, over TCP and over a Unix socket,
//! - through one relay (on an executor with up to four threads, as in the service), to a TCP server;
//!   once copying, as it does where TLS lies on the other side, and once inside the kernel,
//! - through one `socat` process, to a TCP server, if `socat` is installed,
//! - through eight relays, and eight `socat`s, in a row.
//!
//! Throughput: the client writes for a while, 64 KiB at a time, and closes; the clock stops when the
//! server has read the end and its answer is back. Latency: the client writes 64 bytes, the server
//! sends them back. Ways are measured in turns, several rounds each, so that whatever else the
//! machine does meets all of them; the median round counts. Ratios are against the direct
//! connection of the same client socket.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use actors::{
    endpoint::LocalStream,
    ports::{Bytestream, Duplex},
    relay::{self, Meters},
    runtime::{Spawner, Stopper},
};
use async_io::Async;
use futures_lite::{AsyncRead, AsyncWrite};
use smol::Executor;

const CHUNK: usize = 64 * 1024;
const MESSAGE: usize = 64;

fn main() -> io::Result<()> {
    // `cargo test --all-targets` runs benchmarks too, without this word.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("nothing is measured except by `cargo bench`");
        return Ok(());
    }
    let quick = std::env::args().any(|argument| argument == "--quick");
    let (rounds, span) = if quick {
        (3, Duration::from_millis(100))
    } else {
        (7, Duration::from_millis(500))
    };
    let directory = std::env::temp_dir().join(format!("pneuma-bench-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let only = std::env::args().skip_while(|word| word != "--only").nth(1);
    let outcome = measure_all(
        &directory,
        rounds,
        span,
        only.as_deref().unwrap_or_default(),
    );
    std::fs::remove_dir_all(&directory)?;
    outcome
}

fn measure_all(directory: &Path, rounds: usize, span: Duration, only: &str) -> io::Result<()> {
    let server = serve_tcp()?;
    let unix_server = Place::Unix(directory.join("server"));
    serve(unix_server.listen()?);
    let executor = Arc::new(Executor::new());
    let _running = run_executor(&executor);
    let mut ways = vec![
        Way::new("tcp, direct", server.clone(), 0),
        Way::new("unix, direct", unix_server, 1),
    ];
    let relays = |first: Place, count: usize, how: How| {
        chain(first, &server, count, |listen, target| {
            relay_hop(&executor, listen, target, how)
        })
    };
    let any = Place::any_tcp;
    let unix = |name| Place::Unix(directory.join(name));
    let mut add = |name, place, baseline| ways.push(Way::new(name, place, baseline));
    add("tcp, one relay", relays(any()?, 1, How::Copied)?, 0);
    add(
        "unix, one relay",
        relays(unix("copied"), 1, How::Copied)?,
        1,
    );
    add("tcp, one, spliced", relays(any()?, 1, How::Spliced)?, 0);
    add(
        "unix, one, spliced",
        relays(unix("spliced"), 1, How::Spliced)?,
        1,
    );
    add("tcp, eight relays", relays(any()?, 8, How::Copied)?, 0);
    add("tcp, eight, spliced", relays(any()?, 8, How::Spliced)?, 0);
    let mut socats = Socats::default();
    if Command::new("socat")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_ok()
    {
        let mut hop = |listen: &Place, target: &Place| socats.hop(listen, target);
        let tcp = chain(Place::any_tcp()?, &server, 1, &mut hop)?;
        ways.push(Way::new("tcp, one socat", tcp, 0));
        let unix = chain(Place::Unix(directory.join("socat")), &server, 1, &mut hop)?;
        ways.push(Way::new("unix, one socat", unix, 1));
        let eight = chain(Place::any_tcp()?, &server, 8, &mut hop)?;
        ways.push(Way::new("tcp, eight socats", eight, 0));
    } else {
        println!("socat is not installed: measured without it");
    }
    for round in 0..=rounds {
        for way in ways.iter_mut().filter(|way| way.name.contains(only)) {
            let rate = throughput(&way.place, span)?;
            let delays = latency(&way.place, span)?;
            // The first round warms up.
            if round > 0 {
                way.rates.push(rate);
                way.delays.push(delays);
            }
        }
    }
    report(&ways);
    Ok(())
}

/// One way from the client to the server, and what was measured on it.
struct Way {
    name: &'static str,
    place: Place,
    baseline: usize,
    rates: Vec<f64>,
    delays: Vec<Delays>,
}

/// Round trips of one round.
#[derive(Clone, Copy)]
struct Delays {
    median: f64,
    late: f64,
}

impl Way {
    fn new(name: &'static str, place: Place, baseline: usize) -> Self {
        Way {
            name,
            place,
            baseline,
            rates: Vec::new(),
            delays: Vec::new(),
        }
    }

    fn rate(&self) -> f64 {
        median(self.rates.iter().copied())
    }

    fn delay(&self) -> f64 {
        median(self.delays.iter().map(|delays| delays.median))
    }

    fn late(&self) -> f64 {
        median(self.delays.iter().map(|delays| delays.late))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(ways: &[Way]) {
    println!(
        "{:<20} {:>10} {:>8}   {:>11} {:>11} {:>8}",
        "way", "MB/s", "ratio", "median, µs", "99 %, µs", "ratio"
    );
    for way in ways.iter().filter(|way| !way.rates.is_empty()) {
        let direct = &ways[way.baseline];
        println!(
            "{:<20} {:>10.0} {:>8.2}   {:>11.1} {:>11.1} {:>8.2}",
            way.name,
            way.rate(),
            way.rate() / direct.rate(),
            way.delay(),
            way.late(),
            way.delay() / direct.delay(),
        );
    }
}

/// Where somebody listens.
#[derive(Clone)]
enum Place {
    Tcp(u16),
    Unix(PathBuf),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind, blocking.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Place {
    /// A TCP port that is free now.
    fn any_tcp() -> io::Result<Self> {
        let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Place::Tcp(probe.local_addr()?.port()))
    }

    fn listen(&self) -> io::Result<Listener> {
        Ok(match self {
            Place::Tcp(port) => Listener::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?),
            Place::Unix(path) => Listener::Unix(UnixListener::bind(path)?),
        })
    }

    fn connect(&self) -> io::Result<Stream> {
        let stream = match self {
            Place::Tcp(port) => {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, *port))?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Place::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        };
        Ok(stream)
    }
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
            Listener::Unix(listener) => Stream::Unix(listener.accept()?.0),
        })
    }
}

impl Stream {
    fn shut_writing(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    fn into_local(self) -> io::Result<LocalStream> {
        Ok(match self {
            Stream::Tcp(stream) => Async::new(stream)?.into(),
            Stream::Unix(stream) => Async::new(stream)?.into(),
        })
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve_tcp() -> io::Result<Place> {
    let place = Place::any_tcp()?;
    serve(place.listen()?);
    Ok(place)
}

/// The server: the first byte of a connection says what it wants. Its threads end with the program.
fn serve(listener: Listener) {
    thread::spawn(move || {
        while let Ok(stream) = listener.accept() {
            thread::spawn(move || {
                // Who only looks whether we listen says nothing.
                if let Err(error) = answer(stream)
                    && error.kind() != ErrorKind::UnexpectedEof
                {
                    eprintln!("server: {error}");
                }
            });
        }
    });
}

fn answer(mut stream: Stream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    stream.read_exact(&mut buffer[..1])?;
    let echo = buffer[0] == b'e';
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length if echo => stream.write_all(&buffer[..length])?,
            length => total += length as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())
}

/// Megabytes (10^6) each second.
fn throughput(place: &Place, span: Duration) -> io::Result<f64> {
    let mut stream = place.connect()?;
    stream.write_all(b"s")?;
    let chunk = vec![42; CHUNK];
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < span {
        stream.write_all(&chunk)?;
        sent += CHUNK as u64;
    }
    stream.shut_writing()?;
    let mut received = [0; 8];
    stream.read_exact(&mut received)?;
    let took = begun.elapsed();
    if u64::from_be_bytes(received) != sent {
        return Err(io::Error::other("bytes were lost on the way"));
    }
    Ok(sent as f64 / 1e6 / took.as_secs_f64())
}

fn latency(place: &Place, span: Duration) -> io::Result<Delays> {
    let mut stream = place.connect()?;
    stream.write_all(b"e")?;
    let mut message = [7; MESSAGE];
    let mut micros = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < span {
        let asked = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        micros.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    stream.shut_writing()?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    micros.sort_by(f64::total_cmp);
    Ok(Delays {
        median: micros[micros.len() / 2],
        late: micros[micros.len() * 99 / 100],
    })
}

/// `count` hops in a row; gives where the first one listens.
fn chain(
    first: Place,
    server: &Place,
    count: usize,
    mut hop: impl FnMut(&Place, &Place) -> io::Result<()>,
) -> io::Result<Place> {
    let mut target = server.clone();
    for _ in 1..count {
        let listen = Place::any_tcp()?;
        hop(&listen, &target)?;
        target = listen;
    }
    hop(&first, &target)?;
    Ok(first)
}

/// Runs the relays as the service does: one executor, a thread for each core but at most four. They
/// run until the sender that is returned is dropped.
fn run_executor(executor: &Arc<Executor<'static>>) -> async_channel::Sender<()> {
    let (running, stopped) = async_channel::bounded::<()>(1);
    let wanted = std::env::args()
        .skip_while(|word| word != "--threads")
        .nth(1);
    let threads = match wanted.and_then(|number| number.parse().ok()) {
        Some(number) => number,
        None => thread::available_parallelism().map_or(1, |cores| cores.get().min(4)),
    };
    for _ in 0..threads {
        let (executor, stopped) = (executor.clone(), stopped.clone());
        thread::spawn(move || smol::block_on(executor.run(stopped.recv())));
    }
    running
}

/// How a relay moves its bytes.
#[derive(Clone, Copy)]
enum How {
    /// Through its buffer, as between an application and a bytestream with TLS.
    Copied,
    /// In the kernel, as between two plain sockets.
    Spliced,
}

/// A socket that does not say what it is.
struct Opaque(LocalStream);

impl Duplex for Opaque {
    fn reset(&mut self) {
        self.0.reset();
    }
}

impl AsyncRead for Opaque {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Opaque {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}

fn relay_hop(
    executor: &Arc<Executor<'static>>,
    listen: &Place,
    target: &Place,
    how: How,
) -> io::Result<()> {
    let listener = listen.listen()?;
    let target = target.clone();
    let spawner = Spawner::new(executor.clone());
    thread::spawn(move || -> io::Result<()> {
        loop {
            let local = listener.accept()?.into_local()?;
            let remote = target.connect()?.into_local()?;
            let remote = Bytestream {
                io: match how {
                    How::Copied => Box::new(Opaque(remote)),
                    How::Spliced => Box::new(remote),
                },
                encrypted: false,
            };
            spawner
                .spawn("relay", async move {
                    let (_stopper, stop) = Stopper::new();
                    relay::run(local, remote, Arc::new(Meters::default()), &stop).await
                })
                .detach();
        }
    });
    Ok(())
}

/// The `socat` processes; they end with the measurement.
#[derive(Default)]
struct Socats(Vec<Child>);

impl Socats {
    fn hop(&mut self, listen: &Place, target: &Place) -> io::Result<()> {
        let listening = match listen {
            Place::Tcp(port) => format!("TCP4-LISTEN:{port},bind=127.0.0.1,fork,nodelay,reuseaddr"),
            Place::Unix(path) => format!("UNIX-LISTEN:{},fork", path.display()),
        };
        let calling = match target {
            Place::Tcp(port) => format!("TCP4:127.0.0.1:{port},nodelay"),
            Place::Unix(path) => format!("UNIX-CONNECT:{}", path.display()),
        };
        self.0
            .push(Command::new("socat").args([listening, calling]).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(5);
        while let Err(error) = listen.connect() {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for Socats {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
                eprintln!("cannot stop socat: {error}");
            }
        }
    }
}
