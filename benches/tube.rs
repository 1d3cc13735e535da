//! What a tube costs: one end to end beside `ssh -L` and a direct connection, in one run.
//!
//! `cargo bench --bench tube` starts two connection managers on buses of their own, an sshd of its
//! own with keys of its own, and one service. It measures the same three things through each way:
//! how fast 1 GiB goes in, how long a request of one byte and its answer take, and how long it takes
//! until a new connection has answered. All on one machine, so that both ends share its processors.
//! `PNEUMA_BENCH_MIB` changes how much is sent.

use std::{
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use support::{Address, Person, Process, World, service};

const BLOCK: usize = 256 * 1024;
const REQUESTS: usize = 3000;
const CONNECTIONS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(20);

/// The first byte of a connection says what it is for.
const SINK: u8 = b's';
const ECHO: u8 = b'e';

/// What was measured through one way.
struct Measured {
    way: String,
    mib_per_second: f64,
    request: Duration,
    connection: Duration,
}

fn main() -> io::Result<()> {
    let mib: usize = std::env::var("PNEUMA_BENCH_MIB")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    let server = serve()?;
    println!("{mib} MiB, {REQUESTS} requests, {CONNECTIONS} connections; medians\n");

    let mut rows = vec![measure("direct", server, mib)?];
    let dir = tempfile::tempdir()?;
    for (way, cipher) in [
        ("ssh -L", None),
        ("ssh -L, aes128-gcm", Some("aes128-gcm@openssh.com")),
    ] {
        match Tunnel::start(dir.path(), server, cipher) {
            Ok(tunnel) => rows.push(measure(way, tunnel.address, mib)?),
            Err(error) => println!("{way}: not measured: {error}"),
        }
    }

    let world = World::new();
    let alice = Person::online(&world, "alice", service!());
    let bob = Person::online(&world, "bob", service!());
    bob.sees(&alice);
    for (way, kind) in [("tube, IPv4", 2), ("tube, Unix", 0)] {
        let (ours, theirs, door) =
            alice.tube_to(&bob, &format!("x-bench-{kind}"), &server.into(), kind);
        rows.push(measure_by(way, mib, || connect(&door))?);
        alice.close(&ours).map_err(io::Error::other)?;
        bob.closed(&theirs);
    }
    print(&rows);
    Ok(())
}

/// A stream of either kind with what the measurements need.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn connect(address: &Address) -> io::Result<Box<dyn Stream>> {
    match address {
        Address::Ipv4(address) => direct((*address).into()),
        Address::Ipv6(address) => direct((*address).into()),
        Address::Unix(path) => Ok(Box::new(std::os::unix::net::UnixStream::connect(path)?)),
    }
}

fn direct(address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(Box::new(stream))
}

/// The service: swallows or echoes, as the first byte says, and acknowledges the end of what it
/// swallowed (whose length it is told first) with one byte.
fn serve() -> io::Result<SocketAddr> {
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

fn measure(way: &str, address: SocketAddr, mib: usize) -> io::Result<Measured> {
    measure_by(way, mib, || direct(address))
}

fn measure_by(
    way: &str,
    mib: usize,
    connect: impl Fn() -> io::Result<Box<dyn Stream>>,
) -> io::Result<Measured> {
    let block = vec![0x5a; BLOCK];
    let mut stream = connect()?;
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

    let mut stream = connect()?;
    stream.write_all(&[ECHO])?;
    let request = median(REQUESTS, || {
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])
    })?;
    drop(stream);

    let connection = median(CONNECTIONS, || {
        let mut stream = connect()?;
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

fn print(rows: &[Measured]) {
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
    let Some(tube) = rows.iter().find(|row| row.way.starts_with("tube")) else {
        return;
    };
    println!("\nthe tube (IPv4) beside the others, above 1 it is better:");
    println!(
        "{:<22}{:>12}{:>14}{:>14}",
        "", "throughput", "request", "connection"
    );
    for row in rows.iter().filter(|row| !row.way.starts_with("tube")) {
        println!(
            "{:<22}{:>12.2}{:>14.2}{:>14.2}",
            row.way,
            tube.mib_per_second / row.mib_per_second,
            row.request.as_secs_f64() / tube.request.as_secs_f64(),
            row.connection.as_secs_f64() / tube.connection.as_secs_f64(),
        );
    }
}

/// An sshd and an ssh with `-L` to it, on loopback, with keys made for the moment.
struct Tunnel {
    address: SocketAddr,
    _processes: [Process; 2],
}

impl Tunnel {
    fn start(dir: &Path, target: SocketAddr, cipher: Option<&str>) -> io::Result<Self> {
        let at = |name: &str| dir.join(name).display().to_string();
        for key in ["host", "user"] {
            if !dir.join(key).exists() {
                let made = Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-f", &at(key)])
                    .status()?;
                if !made.success() {
                    return Err(io::Error::other("ssh-keygen failed"));
                }
            }
        }
        fs::copy(dir.join("user.pub"), dir.join("authorized"))?;
        // Where sshd runs as root it wants this directory; a packaged service would have made it.
        if rustix::process::geteuid().is_root() {
            fs::create_dir_all("/run/sshd")?;
        }
        let (server_port, port) = (free_port()?, free_port()?);
        fs::write(
            dir.join("sshd_config"),
            format!(
                "Port {server_port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\n\
                 PidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n",
                at("host"),
                at("authorized")
            ),
        )?;
        let sshd = Process::start(
            "sshd",
            Command::new(find("sshd")?).args(["-D", "-e", "-f", &at("sshd_config")]),
        );
        wait_for(server_port)?;
        let mut command = Command::new("ssh");
        command
            .args(["-N", "-F", "/dev/null", "-i", &at("user")])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"])
            .args(["-o", &format!("UserKnownHostsFile={}", at("known"))])
            .args(["-o", "ExitOnForwardFailure=yes", "-o", "IdentitiesOnly=yes"])
            .args(["-L", &format!("127.0.0.1:{port}:{target}")])
            .args(["-p", &server_port.to_string(), "127.0.0.1"]);
        if let Some(cipher) = cipher {
            command.args(["-c", cipher]);
        }
        let ssh = Process::start("ssh", &mut command);
        if let Err(error) = wait_for(port) {
            return Err(io::Error::other(format!(
                "{error}\n{}{}",
                sshd.output(),
                ssh.output()
            )));
        }
        Ok(Tunnel {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _processes: [ssh, sshd],
        })
    }
}

/// sshd insists on being started by its whole path.
fn find(program: &str) -> io::Result<std::path::PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
        .ok_or_else(|| io::Error::other(format!("{program} is not installed")))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until somebody listens on a port of 127.0.0.1.
fn wait_for(port: u16) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            // There is no event for "it listens now" in another process.
            Err(_) => thread::yield_now(),
        }
    }
}
