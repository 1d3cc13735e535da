//! What a tube costs: one end to end beside `ssh -L` and a direct connection, in one run.
//!
//! `cargo bench --bench tube` starts two connection managers on buses of their own, an sshd of its
//! own with keys of its own, and one service. It measures the same three things through each way:
//! how fast 1 GiB goes in, how long a request of one byte and its answer take, and how long it takes
//! until a new connection has answered. All on one machine, so that both ends share its processors.
//! `PNEUMA_BENCH_MIB` changes how much is sent.

use std::{io, net::SocketAddr, process::Command};

use support::{
    Person, Process, Sshd, World,
    measure::{Measured, mebibytes, print, serve},
    service,
    sshd::{free_port, wait_for_port},
};

fn main() -> io::Result<()> {
    let mib = mebibytes(1024);
    let server = serve()?;
    let mut rows = vec![Measured::of("direct", &server.into(), mib)?];

    let dir = tempfile::tempdir()?;
    let sshd = Sshd::start(dir.path())?;
    for (way, cipher) in [
        ("ssh -L", None),
        ("ssh -L, aes128-gcm", Some("aes128-gcm@openssh.com")),
    ] {
        let tunnel = Tunnel::start(&sshd, server, cipher)?;
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

/// An ssh with `-L`, to the sshd, on loopback.
struct Tunnel {
    address: SocketAddr,
    _ssh: Process,
}

impl Tunnel {
    fn start(sshd: &Sshd, target: SocketAddr, cipher: Option<&str>) -> io::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("ssh");
        command
            .arg("-N")
            .args(sshd.options())
            .args(["-o", "ExitOnForwardFailure=yes"])
            .args(["-L", &format!("127.0.0.1:{port}:{target}")])
            .args(["-p", &sshd.port().to_string(), "127.0.0.1"]);
        if let Some(cipher) = cipher {
            command.args(["-c", cipher]);
        }
        let ssh = Process::start("ssh", &mut command);
        if let Err(error) = wait_for_port(port) {
            return Err(io::Error::other(format!(
                "{error}\n{}{}",
                sshd.output(),
                ssh.output()
            )));
        }
        Ok(Tunnel {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _ssh: ssh,
        })
    }
}
