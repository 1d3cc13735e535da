//! A process that has no descriptors left waits and goes on once it has some again. Alone in its
//! process, because it takes them all.

use std::{
    io::Write as _,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use actors::{
    endpoint::{EndpointConfig, Introduction, Listening, Slots, dial, listen},
    model::{AccessRule, AddressType, Error, SocketAddress},
    runtime::{BoxFuture, Clock, Exit, Stopper, SystemClock, Time},
};
use futures_lite::{AsyncReadExt as _, future};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// So many descriptors can be had above the highest that is open.
const SPARE: u64 = 4;

/// The machine's clock, which also counts how often somebody slept on it.
struct Counted {
    clock: Arc<SystemClock>,
    naps: Arc<AtomicUsize>,
}

impl Clock for Counted {
    fn now(&self) -> Time {
        self.clock.now()
    }

    fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    fn sleep_until(&self, deadline: Time) -> BoxFuture<'static, ()> {
        self.naps.fetch_add(1, Ordering::Relaxed);
        self.clock.sleep_until(deadline)
    }
}

#[test]
fn a_listener_without_descriptors_waits_and_loses_nobody() {
    let config = EndpointConfig {
        socket_directory: "/nowhere".into(),
        any_local_user: false,
    };
    let listening = Listening::bind(AddressType::Ipv4, AccessRule::Localhost, &config).unwrap();
    let listening = Arc::new(listening);
    let SocketAddress::Ipv4(address) = *listening.address() else {
        panic!("asked for IPv4")
    };
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"still here").unwrap();
    let naps = Arc::new(AtomicUsize::new(0));
    let clock = Arc::new(Counted {
        clock: SystemClock::new(),
        naps: naps.clone(),
    });
    let usual = getrlimit(Resource::Nofile);
    // Few descriptors may have a number above those that are open, but a few must: whether there are
    // gaps below depends on what this process inherited, and the scenario gives some back.
    let highest = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u64>().ok())
        .max()
        .unwrap();
    let mut hoard = Vec::new();
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(highest + SPARE),
            maximum: usual.maximum,
        },
    )
    .unwrap();
    while let Ok(one) = std::fs::File::open("/dev/null") {
        hoard.push(one);
    }
    assert!(
        hoard.len() >= 2,
        "one for the connection, one for the question"
    );

    let dialled = future::block_on(dial(
        listening.address(),
        Introduction::None,
        &config,
        &*clock,
    ));
    assert!(
        matches!(dialled, Err(Error::ResourceUnavailable(_))),
        "{dialled:?}"
    );
    let bound = Listening::bind(AddressType::Ipv4, AccessRule::Localhost, &config);
    assert!(
        matches!(bound, Err(Error::ResourceUnavailable(_))),
        "{bound:?}"
    );

    let (stopper, stop) = Stopper::new();
    let (sender, accepted) = async_channel::bounded(1);
    naps.store(0, Ordering::Relaxed);
    let listener = listen(
        listening.clone(),
        Slots::new(2),
        clock.clone(),
        move |connection| {
            let sender = sender.clone();
            async move { sender.send(connection).await.is_ok() }
        },
        &stop,
    );
    let scenario = async {
        // It cannot accept.
        while naps.load(Ordering::Relaxed) < 2 {
            clock.clock.sleep(Duration::from_millis(5)).await;
        }
        assert!(accepted.is_empty());
        // Room for the connection, but none for the question whose it is.
        hoard.pop();
        let so_far = naps.load(Ordering::Relaxed);
        while naps.load(Ordering::Relaxed) < so_far + 3 {
            clock.clock.sleep(Duration::from_millis(5)).await;
        }
        assert!(accepted.is_empty());
        drop(hoard);
        let mut connection = accepted.recv().await.unwrap();
        let mut heard = [0; 10];
        connection.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"still here");
        stopper.stop();
    };
    let in_time = async {
        let both = future::zip(listener, scenario);
        let late = async {
            clock.clock.sleep(Duration::from_secs(60)).await;
            panic!("nobody was let in")
        };
        future::or(both, late).await
    };
    let (exit, ()) = future::block_on(in_time);
    assert_eq!(exit, Exit::Stopped);
    assert_eq!(listening.refused(), 0);
}
