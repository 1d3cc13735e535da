//! What one hop costs: a relay of ours beside `socat` and a direct connection, in one run.
//!
//! `cargo bench --bench relay`. The relay is the actors crate's own, between two TCP sockets and without
//! TLS, on one thread, as socat is.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::Arc,
    thread,
};

use actors::{
    endpoint::LocalStream,
    ports::Bytestream,
    relay::{self, Meters},
    runtime::Stopper,
};
use async_io::Async;
use support::{
    Process,
    measure::{Measured, mebibytes, print, serve},
};

fn main() -> io::Result<()> {
    let mib = mebibytes(1024);
    let server = serve()?;
    let mut rows = vec![Measured::of("direct", &server.into(), mib)?];
    for (way, buffer) in [("socat", None), ("socat -b 65536", Some("65536"))] {
        let (socat, port) = start_socat(server, buffer)?;
        rows.push(Measured::of(way, &port.into(), mib)?);
        drop(socat);
    }
    rows.push(Measured::of("relay", &start_relay(server)?.into(), mib)?);
    print(mib, &rows);
    Ok(())
}

/// Takes connections and relays each to `target`, on a thread of its own.
fn start_relay(target: SocketAddr) -> io::Result<SocketAddr> {
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    let address = listener.get_ref().local_addr()?;
    thread::spawn(move || {
        let executor = smol::LocalExecutor::new();
        let (_stopper, stop) = Stopper::new();
        smol::block_on(executor.run(async {
            while let Ok((application, _)) = listener.accept().await {
                let stop = stop.clone();
                let one = async move {
                    let service = Async::<std::net::TcpStream>::connect(target).await?;
                    for socket in [&application, &service] {
                        socket.get_ref().set_nodelay(true)?;
                    }
                    let remote = Bytestream {
                        io: Box::new(LocalStream::from(service)),
                        encrypted: false,
                    };
                    let local = LocalStream::from(application);
                    relay::run(local, remote, Arc::new(Meters::default()), &stop).await;
                    io::Result::Ok(())
                };
                executor.spawn(one).detach();
            }
        }));
    });
    Ok(address)
}

fn start_socat(target: SocketAddr, buffer: Option<&str>) -> io::Result<(Process, SocketAddr)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let socat = Process::start(
        "socat",
        Command::new("socat")
            .args(buffer.map(|size| ["-b", size]).into_iter().flatten())
            .arg(format!(
                "TCP-LISTEN:{},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=64",
                port.port()
            ))
            .arg(format!("TCP:{target},nodelay")),
    );
    while std::net::TcpStream::connect(port).is_err() {
        // There is no event for "it listens now" in another process.
        thread::yield_now();
    }
    Ok((socat, port))
}
