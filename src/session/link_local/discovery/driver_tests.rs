//! Multicast DNS over loopback, for real, with mdns-sd.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
};

use actors::{runtime::SystemClock, testing::Fault};
use smol::Executor;

use super::*;
use crate::{
    runtime::OurRuntime,
    session::{Show, link_local::discovery::Sighting},
};

/// A port of its own for each test, and loopback only.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + (std::process::id() % 20_000) as u16 + NEXT.fetch_add(1, Ordering::Relaxed)
}

fn discovery(port: u16, interface: &str, key: u8, spawner: &Spawner) -> MulticastDns {
    MulticastDns::new(Settings {
        method: Method::Auto,
        port,
        interface: Some(interface.into()),
        key: KeyId([key; 32]),
        spawner: spawner.clone(),
        clock: SystemClock::new(),
        bus: avahi::system_bus(OurRuntime::new(spawner.clone())),
    })
}

struct Side {
    mdns: MulticastDns,
    events: Receiver<DiscoveryEvent>,
    /// Events that came while another was waited for.
    earlier: std::cell::RefCell<Vec<DiscoveryEvent>>,
}

async fn side(executor: &Arc<Executor<'static>>, port: u16, name: &str, key: u8) -> Side {
    let mdns = discovery(port, "lo", key, &Spawner::new(executor.clone()));
    let key = KeyId([key; 32]);
    let announcement = Announcement {
        name: name.into(),
        port: 5298,
        text: PresenceText {
            key: Some(key),
            ..PresenceText::default()
        },
    };
    let events = mdns.start(announcement).await.unwrap();
    Side {
        mdns,
        events,
        earlier: Vec::new().into(),
    }
}

impl Side {
    async fn wait<T>(&self, mut wanted: impl FnMut(DiscoveryEvent) -> Option<T>) -> T {
        let clock = SystemClock::new();
        let found = async {
            for event in self.earlier.take() {
                match wanted(event.clone()) {
                    Some(found) => return Some(found),
                    None => self.earlier.borrow_mut().push(event),
                }
            }
            loop {
                let event = self.events.recv().await.unwrap();
                match wanted(event.clone()) {
                    Some(found) => return Some(found),
                    None => self.earlier.borrow_mut().push(event),
                }
            }
        };
        let late = async {
            clock.sleep(Duration::from_secs(20)).await;
            None
        };
        found
            .or(late)
            .await
            .expect("it should have happened by now")
    }

    async fn published(&self) -> String {
        self.wait(|event| match event {
            DiscoveryEvent::Published(name) => Some(name),
            _ => None,
        })
        .await
    }

    async fn sees(&self, name: &str, test: impl Fn(&Sighting) -> bool) -> Sighting {
        self.wait(|event| match event {
            DiscoveryEvent::Seen(seen) if seen.instance == name && test(&seen) => Some(*seen),
            _ => None,
        })
        .await
    }
}

fn run<T>(test: impl AsyncFnOnce(&Arc<Executor<'static>>) -> T) -> T {
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(test(&executor)))
}

#[test]
fn two_on_one_machine_meet_over_loopback_change_and_part() {
    run(async |executor| {
        let port = port();
        let romeo = side(executor, port, "romeo@forza", 1).await;
        let juliet = side(executor, port, "juliet.c@pronto", 2).await;
        assert_eq!(romeo.published().await, "romeo@forza");
        assert_eq!(juliet.published().await, "juliet.c@pronto");
        let seen = romeo.sees("juliet.c@pronto", |_| true).await;
        assert_eq!(seen.text.key, Some(KeyId([2; 32])));
        assert!(
            seen.addresses
                .contains(&SocketAddr::from(([127, 0, 0, 1], 5298))),
            "{seen:?}"
        );
        juliet.sees("romeo@forza", |_| true).await;

        romeo.mdns.update(PresenceText {
            show: Some(Show::Away),
            key: Some(KeyId([1; 32])),
            ..PresenceText::default()
        });
        juliet
            .sees("romeo@forza", |seen| seen.text.show == Some(Show::Away))
            .await;

        // There and back again at once: the last of them counts.
        for show in [Show::Busy, Show::Away] {
            romeo.mdns.update(PresenceText {
                show: Some(show),
                key: Some(KeyId([1; 32])),
                ..PresenceText::default()
            });
            juliet
                .sees("romeo@forza", |seen| seen.text.show == Some(show))
                .await;
        }

        romeo.mdns.stop().await;
        juliet
            .wait(|event| (event == DiscoveryEvent::Gone("romeo@forza".into())).then_some(()))
            .await;
        juliet.mdns.stop().await;
    });
}

#[test]
fn the_second_of_one_name_gets_a_number() {
    run(async |executor| {
        let port = port();
        let first = side(executor, port, "nurse@verona", 3).await;
        assert_eq!(first.published().await, "nurse@verona");
        let second = side(executor, port, "nurse@verona", 4).await;
        let name = second.published().await;
        let name = if name == "nurse@verona" {
            second.published().await
        } else {
            name
        };
        assert_eq!(name, "nurse@verona #2");
        let seen = first.sees("nurse@verona #2", |_| true).await;
        assert_eq!(seen.text.key, Some(KeyId([4; 32])));
        first.mdns.stop().await;
        second.mdns.stop().await;
    });
}

#[test]
fn an_interface_that_is_not_there_is_an_error_at_once() {
    let executor = Arc::new(Executor::new());
    for interface in [
        "pneuma-none0",
        "",
        "a name far longer than any interface can have",
    ] {
        let mdns = discovery(port(), interface, 1, &Spawner::new(executor.clone()));
        let started = smol::block_on(mdns.start(Announcement {
            name: "ada@here".into(),
            port: 5298,
            text: PresenceText::default(),
        }));
        let Err(Error::NetworkError(sentence)) = started else {
            panic!("{interface:?}: {started:?}");
        };
        assert!(sentence.contains("no network interface"), "{sentence}");
    }
}

#[test]
fn a_driver_that_dies_ends_the_events_and_its_daemon() {
    for point in [Point::DiscoveryWaiting, Point::DiscoveryDecide] {
        for fault in [Fault::Error, Fault::Panic] {
            let executor = Arc::new(Executor::new());
            let driven = executor.clone();
            smol::block_on(driven.run(async move {
                let spawner = Spawner::new(executor.clone());
                let faults = Faults::counting();
                let mdns = MulticastDns {
                    faults: faults.clone(),
                    ..discovery(port(), "lo", 9, &spawner)
                };
                let announcement = Announcement {
                    name: "romeo@here".into(),
                    port: 5298,
                    text: PresenceText::default(),
                };
                let events = mdns.start(announcement).await.unwrap();
                faults.arm(point, fault, 2, 1);
                let over = async {
                    // The session takes the end of this for the end of discovery.
                    while events.recv().await.is_ok() {}
                    mdns.stop().await;
                    while spawner.running() > 0 {
                        future::yield_now().await;
                    }
                    true
                };
                let late = async {
                    SystemClock::new().sleep(Duration::from_secs(20)).await;
                    false
                };
                assert!(over.or(late).await, "{point:?} {fault:?}");
                assert_eq!(faults.fired(), 1);
            }));
        }
    }
}

#[test]
fn a_start_that_comes_after_the_goodbye_announces_nothing() {
    let executor = Arc::new(Executor::new());
    smol::block_on(executor.run(async {
        let spawner = Spawner::new(executor.clone());
        let mdns = discovery(port(), "lo", 1, &spawner);
        mdns.stop().await;
        let announcement = Announcement {
            name: "late@forza".into(),
            port: 5298,
            text: PresenceText::default(),
        };
        let started = mdns.start(announcement).await;
        assert!(matches!(started, Err(Error::Cancelled(_))));
        assert_eq!(spawner.running(), 0);
    }));
}
