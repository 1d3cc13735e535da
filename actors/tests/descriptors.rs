//! Two hundred connections at once through a listener, a dialler and a relay each; afterwards no
//! descriptor, task, slot or file is left. Alone in its process, because it counts descriptors.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use actors::{
    endpoint::{Accepted, EndpointConfig, Introduction, Listening, Slots, dial, listen},
    model::{AccessRule, AddressType, BytestreamId, SocketAddress},
    ports::Bytestream,
    relay::{self, Meters, RelayEnd},
    runtime::{Exit, Spawner, Stopper, SystemClock},
};
use futures_lite::future;
use smol::Executor;

const CONNECTIONS: usize = 200;

fn open_descriptors() -> usize {
    // One of them is the directory itself, every time.
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A service that sends back what it gets, in threads that end with their connections.
fn echo() -> (SocketAddr, Arc<AtomicBool>, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    let server = thread::spawn(move || {
        let mut threads = Vec::new();
        while let Ok((mut stream, _)) = listener.accept() {
            if flag.load(Ordering::Relaxed) {
                break;
            }
            threads.push(thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            }));
        }
        threads.into_iter().for_each(|one| one.join().unwrap());
    });
    (address, stopped, server)
}

trait Client: Read + Write + Send {
    fn shut_writing(&self);
}

impl Client for TcpStream {
    fn shut_writing(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Client for UnixStream {
    fn shut_writing(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

fn connect(address: &SocketAddress) -> Box<dyn Client> {
    match address {
        SocketAddress::Unix(path) => Box::new(UnixStream::connect(path).unwrap()),
        SocketAddress::Ipv4(ip) => Box::new(TcpStream::connect(ip).unwrap()),
        SocketAddress::Ipv6(ip) => Box::new(TcpStream::connect(ip).unwrap()),
        other => panic!("nobody connects to {other}"),
    }
}

/// Everybody connects, then everybody talks, then everybody leaves.
fn talk(address: &SocketAddress) {
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| connect(address)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        write!(client, "client {index} says {}", "x".repeat(index * 50)).unwrap();
        client.shut_writing();
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(
            answer,
            format!("client {index} says {}", "x".repeat(index * 50))
        );
    }
}

fn one_round(kind: AddressType, config: &EndpointConfig, service: SocketAddr) {
    let executor = Arc::new(Executor::new());
    let spawner = Spawner::new(executor.clone());
    let slots = Slots::new(CONNECTIONS / 4);
    let listening = Listening::bind(kind, AccessRule::Localhost, config).unwrap();
    let listening = Arc::new(listening);
    let address = listening.address().clone();
    let (stopper, stop) = Stopper::new();
    let meters = Arc::new(Meters::default());
    let (ended, ends) = async_channel::unbounded();
    let relay = {
        let (spawner, config, meters) = (spawner.clone(), config.clone(), meters.clone());
        move |Accepted { stream, slot }| {
            let (config, meters, ended) = (config.clone(), meters.clone(), ended.clone());
            let relay = async move {
                let SocketAddr::V4(service) = service else {
                    panic!("the service speaks IPv4")
                };
                let clock = SystemClock::new();
                let target = SocketAddress::Ipv4(service);
                let dialled = dial(&target, Introduction::None, &config, &*clock)
                    .await
                    .unwrap();
                let remote = Bytestream {
                    io: Box::new(dialled.stream),
                    encrypted: false,
                };
                let (_stopper, stop) = Stopper::new();
                let end = relay::run(stream, remote, meters, &stop).await;
                drop(slot);
                ended.send(end).await.unwrap();
            };
            spawner.spawn("relay", relay).detach();
            async { true }
        }
    };
    let listener = spawner.spawn("listener", {
        let (listening, slots) = (listening.clone(), slots.clone());
        async move { listen(listening, slots, SystemClock::new(), relay, &stop).await }
    });
    let clients = thread::spawn(move || talk(&address));
    smol::block_on(executor.run(async {
        for _ in 0..CONNECTIONS {
            assert_eq!(ends.recv().await.unwrap(), RelayEnd::Finished);
        }
        stopper.stop();
        assert_eq!(listener.await.unwrap(), Exit::Stopped);
        while spawner.running() > 0 {
            future::yield_now().await;
        }
    }));
    clients.join().unwrap();
    assert_eq!(slots.taken(), 0);
    assert_eq!(meters.sent(), meters.received());
    assert_eq!(listening.refused(), 0);
}

#[test]
fn nothing_is_left_of_two_hundred_connections() {
    let name = format!("pneuma-descriptors-{}", BytestreamId::random().unwrap());
    let config = EndpointConfig {
        socket_directory: std::env::temp_dir().join(name),
        any_local_user: false,
    };
    // What async-io opens for itself, once.
    drop(async_io::Async::<UnixStream>::pair().unwrap());
    let (service, stopped, server) = echo();
    // The service's own descriptors are gone when its connections are: wait for that, too.
    let before = open_descriptors();
    for kind in [AddressType::Unix, AddressType::Ipv4, AddressType::Ipv6] {
        one_round(kind, &config, service);
        let deadline = Instant::now() + Duration::from_secs(10);
        while open_descriptors() > before {
            assert!(
                Instant::now() < deadline,
                "{} descriptors are left after {kind:?}",
                open_descriptors() - before
            );
            thread::yield_now();
        }
    }
    assert_eq!(
        std::fs::read_dir(&config.socket_directory).unwrap().count(),
        0
    );
    std::fs::remove_dir(&config.socket_directory).unwrap();
    stopped.store(true, Ordering::Relaxed);
    TcpStream::connect(service).unwrap();
    server.join().unwrap();
}
