//! The endpoint with the kernel's sockets, in this process.

mod chosen;
mod credentials;
mod dialling;
mod killing;
mod listener;
mod listening;
mod others;

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_channel::Receiver;
use futures_lite::future;

use super::{Accepted, EndpointConfig, Listening, Slots, listen};
use crate::{
    model::{AccessRule, AddressType, BytestreamId, SocketAddress},
    runtime::{Clock as _, Exit, Stopper, SystemClock},
};

const KINDS: [AddressType; 4] = [
    AddressType::Unix,
    AddressType::AbstractUnix,
    AddressType::Ipv4,
    AddressType::Ipv6,
];

/// A configuration with a directory of its own, removed at the end.
struct Place(EndpointConfig);

impl Place {
    fn new() -> Self {
        let name = format!("pneuma-endpoint-{}", BytestreamId::random().unwrap());
        Place(EndpointConfig {
            socket_directory: std::env::temp_dir().join(name),
            any_local_user: false,
        })
    }

    fn directory(&self) -> &PathBuf {
        &self.0.socket_directory
    }

    fn bind(&self, kind: AddressType) -> Arc<Listening> {
        self.bind_with(kind, AccessRule::Localhost)
    }

    fn bind_with(&self, kind: AddressType, rule: AccessRule) -> Arc<Listening> {
        Arc::new(Listening::bind(kind, rule, &self.0).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(self.directory()) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

fn path(listening: &Listening) -> &Path {
    match listening.address() {
        SocketAddress::Unix(path) => path,
        other => panic!("{other} has no path"),
    }
}

fn ip(listening: &Listening) -> SocketAddr {
    match listening.address() {
        SocketAddress::Ipv4(address) => (*address).into(),
        SocketAddress::Ipv6(address) => (*address).into(),
        other => panic!("{other} is no IP address"),
    }
}

/// A client's blocking socket.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    fn connect(listening: &Listening) -> Self {
        Client::try_connect(listening.address()).unwrap()
    }

    fn try_connect(address: &SocketAddress) -> std::io::Result<Self> {
        use std::os::{linux::net::SocketAddrExt as _, unix::net};
        Ok(match address {
            SocketAddress::Unix(path) => Client::Unix(UnixStream::connect(path)?),
            SocketAddress::AbstractUnix(name) => {
                let address = net::SocketAddr::from_abstract_name(name)?;
                Client::Unix(UnixStream::connect_addr(&address)?)
            }
            SocketAddress::Ipv4(address) => Client::Tcp(TcpStream::connect(address)?),
            SocketAddress::Ipv6(address) => Client::Tcp(TcpStream::connect(address)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) {
        use std::io::Write as _;
        match self {
            Client::Tcp(stream) => stream.write_all(bytes).unwrap(),
            Client::Unix(stream) => stream.write_all(bytes).unwrap(),
        }
    }

    fn read_to_end(&mut self) -> std::io::Result<Vec<u8>> {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        match self {
            Client::Tcp(stream) => stream.read_to_end(&mut bytes)?,
            Client::Unix(stream) => stream.read_to_end(&mut bytes)?,
        };
        Ok(bytes)
    }
}

/// Waits, but not for ever.
fn within<T>(what: impl Future<Output = T>) -> T {
    let clock = SystemClock::new();
    future::block_on(future::or(what, async {
        clock.sleep(Duration::from_secs(20)).await;
        panic!("waited in vain")
    }))
}

/// Runs a listener beside a scenario, which gets what is accepted; then stops it.
fn listening_to<T>(
    listening: &Arc<Listening>,
    slots: &Slots,
    scenario: impl AsyncFnOnce(Receiver<Accepted>) -> T,
) -> T {
    let (stopper, stop) = Stopper::new();
    let (sender, accepted) = async_channel::unbounded();
    let deliver = move |connection| {
        let sender = sender.clone();
        async move { sender.send(connection).await.is_ok() }
    };
    let listener = listen(
        listening.clone(),
        slots.clone(),
        SystemClock::new(),
        deliver,
        &stop,
    );
    let scenario = async {
        let outcome = scenario(accepted.clone()).await;
        stopper.stop();
        outcome
    };
    let (exit, outcome) = within(future::zip(listener, scenario));
    assert_eq!(exit, Exit::Stopped);
    outcome
}

/// Listens until one connection has come in, and gives it.
fn accept_one(listening: &Arc<Listening>) -> Accepted {
    listening_to(listening, &Slots::new(4), async |accepted| {
        accepted.recv().await.unwrap()
    })
}
