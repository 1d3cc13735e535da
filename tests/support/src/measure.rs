//! What the benchmarks measure, the same through every way: how fast much goes in, how long a request
//! of one byte and its answer take, and how long it takes until a new connection has answered.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::Address;

/// Bytes written and read at a time.
const BLOCK: usize = 256 * 1024;
/// Requests whose median is taken.
const REQUESTS: usize = 3000;
/// New connections whose median is taken.
const CONNECTIONS: usize = 200;

/// The first byte of a connection says what it is for.
const SINK: u8 = b's';
/// The other one.
const ECHO: u8 = b'e';

/// What was measured through one way.
pub struct Measured {
    way: String,
    mib_per_second: f64,
    request: Duration,
    connection: Duration,
}

/// A stream of either kind with what the measurements need.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Ipv4(address) => direct((*address).into()),
        Address::Ipv6(address) => direct((*address).into()),
        Address::Unix(_) | Address::Abstract(_) => Ok(Box::new(address.connect_unix()?)),
    }
}

fn direct(address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// The service: swallows or echoes, as the first byte says, and acknowledges the end of what it
/// swallowed (whose length it is told first) with one byte.
///
/// # Errors
/// When the kernel has no port.
pub fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // A connection that breaks shows at the client, which measures.
            thread::spawn(move || drop(answer(stream)));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    if kind[0] == ECHO {
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        return Ok(());
    }
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let mut left = u64::from_be_bytes(length);
    let mut block = vec![0; BLOCK];
    while left > 0 {
        let read = stream.read(&mut block)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(read as u64);
    }
    stream.write_all(b"!")
}

impl Measured {
    /// Measures the three things through one way to the service that [`serve`] started.
    ///
    /// # Errors
    /// When the way breaks.
    pub fn of(way: &str, address: &Address, mib: usize) -> io::Result<Self> {
        let block = vec![0x5a; BLOCK];
        let mut stream = connect(address)?;
        let total = mib * 1024 * 1024;
        let started = Instant::now();
        stream.write_all(&[SINK])?;
        stream.write_all(&(total as u64).to_be_bytes())?;
        for _ in 0..total / BLOCK {
            stream.write_all(&block)?;
        }
        stream.read_exact(&mut [0])?;
        let mib_per_second = mib as f64 / started.elapsed().as_secs_f64();
        drop(stream);

        let mut stream = connect(address)?;
        stream.write_all(&[ECHO])?;
        let request = median(REQUESTS, || {
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])
        })?;
        drop(stream);

        let connection = median(CONNECTIONS, || {
            let mut stream = connect(address)?;
            stream.write_all(&[ECHO, b'?'])?;
            stream.read_exact(&mut [0])
        })?;
        Ok(Measured {
            way: way.to_owned(),
            mib_per_second,
            request,
            connection,
        })
    }
}

fn median(times: usize, mut once: impl FnMut() -> io::Result<()>) -> io::Result<Duration> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        once()?;
        taken.push(started.elapsed());
    }
    taken.sort();
    Ok(taken[times / 2])
}

/// Prints a table of all ways, and how the last one stands beside each of the others.
pub fn print(mib: usize, rows: &[Measured]) {
    println!("{mib} MiB; {REQUESTS} requests of one byte and {CONNECTIONS} connections, medians\n");
    println!(
        "{:<22}{:>12}{:>14}{:>14}",
        "", "MiB/s", "request", "connection"
    );
    for row in rows {
        println!(
            "{:<22}{:>12.0}{:>14.1?}{:>14.1?}",
            row.way, row.mib_per_second, row.request, row.connection
        );
    }
    let Some((last, others)) = rows.split_last() else {
        return;
    };
    println!(
        "\n{} beside the others; above 1 it is the better one\n",
        last.way
    );
    for row in others {
        println!(
            "{:<22}{:>12.2}{:>14.2}{:>14.2}",
            row.way,
            last.mib_per_second / row.mib_per_second,
            row.request.as_secs_f64() / last.request.as_secs_f64(),
            row.connection.as_secs_f64() / last.connection.as_secs_f64(),
        );
    }
}

/// How much is sent, in MiB: so much, or what `PNEUMA_BENCH_MIB` says.
pub fn mebibytes(usually: usize) -> usize {
    number("PNEUMA_BENCH_MIB", usually)
}

/// What an environment variable says, or so many.
pub fn number(variable: &str, usually: usize) -> usize {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usually)
}
