//! What a tube costs: one end to end beside `ssh -L` and a direct connection, in one run.
//!
//! `cargo bench --bench tube` starts two connection managers on buses of their own, an sshd of its
//! own with keys of its own, and one service. It measures the same three things through each way:
//! how fast 1 GiB goes in, how long a request of one byte and its answer take, and how long it takes
//! until a new connection has answered. All on one machine, so that both ends share its processors.
//! `PNEUMA_BENCH_MIB` changes how much is sent.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use support::{
    Person, Process, World,
    measure::{Measured, mebibytes, print, serve},
    service,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> io::Result<()> {
    let mib = mebibytes();
    let server = serve()?;
    let mut rows = vec![Measured::of("direct", &server.into(), mib)?];

    let dir = tempfile::tempdir()?;
    for (way, cipher) in [
        ("ssh -L", None),
        ("ssh -L, aes128-gcm", Some("aes128-gcm@openssh.com")),
    ] {
        let tunnel = Tunnel::start(dir.path(), server, cipher)?;
        rows.push(Measured::of(way, &tunnel.address.into(), mib)?);
    }

    let world = World::new();
    let alice = Person::online(&world, "alice", service!());
    let bob = Person::online(&world, "bob", service!());
    bob.sees(&alice);
    for (way, kind) in [("tube, Unix", 0), ("tube, IPv4", 2)] {
        let (ours, theirs, door) =
            alice.tube_to(&bob, &format!("x-bench-{kind}"), &server.into(), kind);
        rows.push(Measured::of(way, &door, mib)?);
        alice.close(&ours).map_err(io::Error::other)?;
        bob.closed(&theirs);
    }
    print(mib, &rows);
    Ok(())
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
