//! Bytes per second, on virtual time: kept to within a few percent, shared fairly, and in nobody's way
//! who has nothing to do with them.

use std::{io::ErrorKind, num::NonZeroU64, sync::Arc, time::Duration};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future::block_on};

use super::super::{Meters, RelayEnd, run_until};
use crate::{
    limits::{Caps, Limits, TURN},
    ports::{Bytestream, Duplex as _},
    runtime::{Clock, FaultPoint, Faults, Stopper, Task},
    testing::{FakeStream, Fault, Sim, Wire, pipe},
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Relays that share one limit.
struct Shop {
    sim: Sim,
    limits: Limits,
}

struct One {
    application: FakeStream,
    contact: FakeStream,
    meters: Arc<Meters>,
    stopper: Stopper,
    relay: Task<RelayEnd>,
    /// What the application wrote and the relay has not read.
    carrier: Wire,
}

impl Shop {
    fn new(rate: Option<u64>) -> Self {
        let sim = Sim::new();
        let clock: Arc<dyn Clock> = sim.clock.clone();
        let shop = Shop {
            limits: Limits::new(&clock),
            sim,
        };
        shop.set(rate);
        shop
    }

    fn set(&self, rate: Option<u64>) {
        self.limits.set(Caps {
            connections: None,
            bytes_per_second: rate.and_then(NonZeroU64::new),
        });
    }

    /// One more, whose pipes hold so many bytes each way.
    fn relay(&self, capacity: usize) -> One {
        self.relay_until(capacity, Faults::default())
    }

    /// The same, until it is killed.
    fn relay_until(&self, capacity: usize, faults: Faults) -> One {
        let (application, local) = pipe(capacity);
        let (contact, remote) = pipe(capacity);
        let carrier = application.wire();
        let (stopper, stop) = Stopper::new();
        let meters = Arc::new(Meters::default());
        let (counted, shares) = (meters.clone(), (&self.limits).into());
        let local = local.like_a_socket();
        let remote = Bytestream {
            io: Box::new(remote),
            encrypted: true,
        };
        let relay = self.sim.spawner.spawn("relay", async move {
            run_until(local, remote, counted, shares, &stop, faults)
                .await
                .unwrap()
        });
        One {
            application,
            contact,
            meters,
            stopper,
            relay,
            carrier,
        }
    }

    /// Writes and reads for ever at both ends of it, so many bytes at a time.
    fn greedy(&self, one: One, piece: usize) -> (Arc<Meters>, Stopper, Task<RelayEnd>) {
        for stream in [one.application, one.contact] {
            let (mut reader, mut writer) = futures_lite::io::split(stream);
            let bytes = vec![7; piece];
            self.sim
                .spawner
                .spawn("writer", async move {
                    while writer.write_all(&bytes).await.is_ok() {}
                })
                .detach();
            self.sim
                .spawner
                .spawn("reader", async move {
                    let mut bytes = vec![0; 64 * 1024];
                    while reader.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
                })
                .detach();
        }
        (one.meters, one.stopper, one.relay)
    }
}

/// Whether one number is another, give or take so many percent.
fn within(percent: u64, found: u64, wanted: u64) {
    let off = found.abs_diff(wanted);
    assert!(
        off * 100 <= wanted * percent,
        "{found} is not {wanted}, give or take {percent} percent"
    );
}

#[test]
fn the_rate_is_kept_and_shared_fairly_by_many() {
    for (rate, count, seconds) in [
        (MIB, 1, 10),
        (MIB, 20, 10),
        (32 * MIB, 3, 1),
        (10 * KIB, 30, 200),
        (KIB + 1, 5, 300),
    ] {
        let shop = Shop::new(Some(rate));
        let all: Vec<_> = (0..count)
            .map(|_| shop.greedy(shop.relay(64 * 1024), 4096))
            .collect();
        shop.sim.advance(Duration::from_secs(seconds));
        let each = rate * seconds / count;
        for (meters, ..) in &all {
            within(5, meters.sent(), each);
            within(5, meters.received(), each);
        }
        within(2, all.iter().map(|one| one.0.sent()).sum(), rate * seconds);
        let received = all.iter().map(|one| one.0.received()).sum();
        within(2, received, rate * seconds);
        // The first in line sleeps each way, for all of them.
        assert_eq!(shop.sim.clock.sleepers(), 2);
    }
}

#[test]
fn a_clock_that_wakes_late_loses_nothing() {
    let shop = Shop::new(Some(MIB));
    let (meters, _stopper, _relay) = shop.greedy(shop.relay(64 * 1024), 4096);
    for _ in 0..500 {
        // Whoever slept until some moment on the way sees the end of it only.
        shop.sim.clock.advance(Duration::from_millis(37));
        shop.sim.settle();
    }
    within(2, meters.sent(), MIB * 37 / 2);
}

#[test]
fn who_says_little_does_not_wait_behind_those_who_say_much() {
    let shop = Shop::new(Some(100 * KIB));
    let kept: Vec<_> = (0..9)
        .map(|_| shop.greedy(shop.relay(64 * 1024), 4096))
        .collect();
    let mut one = shop.relay(64);
    shop.sim.advance(Duration::from_secs(10));
    for _ in 0..20 {
        let before = shop.sim.now();
        shop.sim.run(async {
            one.application.write_all(b"x").await.unwrap();
            one.contact.read_exact(&mut [0]).await.unwrap();
        });
        // A turn of each of the nine is 50 ms.
        assert!(shop.sim.now() - before <= Duration::from_millis(9 * 50 + 60));
        shop.sim.advance(Duration::from_millis(700));
    }
    drop(kept);
}

#[test]
fn nothing_is_read_before_it_may_be_carried() {
    let shop = Shop::new(Some(10 * KIB));
    let mut one = shop.relay(1024 * 1024);
    let text = vec![1; 200 * 1024];
    block_on(one.application.write_all(&text)).unwrap();
    for second in 0..10 {
        let carried = (200 * KIB) as usize - one.carrier.buffered();
        let most = (10 * KIB * second) as usize + 2 * TURN;
        assert!(carried <= most, "{carried} bytes after {second} s");
        assert_eq!(one.meters.sent(), carried as u64);
        shop.sim.advance(Duration::from_secs(1));
    }
}

#[test]
fn half_closes_come_after_the_bytes_and_the_other_way_goes_on() {
    let shop = Shop::new(Some(100 * KIB));
    let mut one = shop.relay(1024 * 1024);
    let text: Vec<u8> = (0..300 * 1024).map(|n| (n % 251) as u8).collect();
    block_on(async {
        one.application.write_all(&text).await.unwrap();
        one.application.close().await.unwrap();
        one.contact.write_all(&text).await.unwrap();
        one.contact.close().await.unwrap();
    });
    let before = shop.sim.now();
    let (mut there, mut here) = (Vec::new(), Vec::new());
    shop.sim.run(async {
        let one_way = one.contact.read_to_end(&mut there);
        let other_way = one.application.read_to_end(&mut here);
        let (one, other) = futures_lite::future::zip(one_way, other_way).await;
        one.and(other).unwrap();
    });
    assert!(there == text && here == text);
    // Both ways at the same time, each at its own rate.
    within(4, (shop.sim.now() - before).as_millis() as u64, 3000);
    assert_eq!(shop.sim.run(one.relay), Ok(RelayEnd::Finished));
}

#[test]
fn a_reset_is_passed_on_while_others_are_ahead() {
    let shop = Shop::new(Some(10 * KIB));
    let kept: Vec<_> = (0..10)
        .map(|_| shop.greedy(shop.relay(64 * 1024), 4096))
        .collect();
    let mut one = shop.relay(64 * 1024);
    block_on(one.application.write_all(&[1; 20_000])).unwrap();
    shop.sim.advance(Duration::from_secs(1));
    let before = shop.sim.now();
    one.application.reset();
    assert_eq!(shop.sim.run(one.relay), Ok(RelayEnd::LocalReset));
    assert!(shop.sim.now() - before <= Duration::from_secs(1));
    let mut rest = Vec::new();
    let error = block_on(one.contact.read_to_end(&mut rest)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    drop(kept);
}

#[test]
fn what_has_arrived_is_delivered_in_its_time_when_nothing_more_can_be_sent() {
    let shop = Shop::new(Some(10 * KIB));
    let mut one = shop.relay(64 * 1024);
    block_on(async {
        one.contact.write_all(&[1; 30 * 1024]).await.unwrap();
        one.contact.close().await.unwrap();
    });
    drop(one.contact);
    block_on(one.application.write_all(b"too late")).unwrap();
    shop.sim.advance(Duration::from_secs(1));
    let received = one.meters.received();
    assert!(received < 12 * KIB, "{received}");
    assert!(
        !one.relay.is_finished(),
        "two thirds of it are not delivered"
    );
    assert_eq!(shop.sim.run(one.relay), Ok(RelayEnd::RemoteLost));
    assert_eq!(one.meters.received(), 30 * KIB);
}

#[test]
fn a_stop_waits_for_nobody() {
    let shop = Shop::new(Some(KIB));
    let (_meters, stopper, relay) = shop.greedy(shop.relay(64 * 1024), 4096);
    shop.sim.advance(Duration::from_secs(3));
    let before = shop.sim.now();
    stopper.stop();
    assert_eq!(shop.sim.run(relay), Ok(RelayEnd::Stopped));
    assert_eq!(shop.sim.now(), before);
    shop.sim.settle();
    assert_eq!(shop.sim.clock.sleepers(), 0);
}

#[test]
fn the_next_in_line_goes_on_when_one_is_gone() {
    let shop = Shop::new(Some(100 * KIB));
    let mut all: Vec<_> = (0..4)
        .map(|_| shop.greedy(shop.relay(64 * 1024), 4096))
        .collect();
    shop.sim.advance(Duration::from_secs(5));
    for (_, _stopper, relay) in all.drain(..3) {
        drop(relay);
        shop.sim.settle();
    }
    let before = all[0].0.sent();
    shop.sim.advance(Duration::from_secs(10));
    within(2, all[0].0.sent() - before, 1000 * KIB);
}

#[test]
fn one_that_is_killed_in_its_turn_gives_the_turn_up() {
    for fault in [Fault::Error, Fault::Panic] {
        let shop = Shop::new(Some(100 * KIB));
        let faults = Faults::counting();
        let (_meters, _stopper, killed) =
            shop.greedy(shop.relay_until(64 * 1024, faults.clone()), 4096);
        let (meters, _stop, _other) = shop.greedy(shop.relay(64 * 1024), 4096);
        shop.sim.advance(Duration::from_secs(2));
        faults.arm(FaultPoint::RelayRead, fault, 0, 1);
        assert!(shop.sim.run(killed).is_err());
        let before = meters.sent();
        shop.sim.advance(Duration::from_secs(10));
        within(2, meters.sent() - before, 1000 * KIB);
    }
}

#[test]
fn a_changed_limit_counts_at_once() {
    let shop = Shop::new(None);
    let mut one = shop.relay(MIB as usize);
    block_on(one.application.write_all(&vec![1; MIB as usize])).unwrap();
    shop.set(Some(KIB));
    shop.sim.advance(Duration::from_secs(10));
    within(3, one.meters.sent(), 10 * KIB);
    shop.set(Some(100 * KIB));
    shop.sim.advance(Duration::from_secs(1));
    within(10, one.meters.sent(), 110 * KIB);
    shop.set(Some(10 * KIB));
    shop.sim.advance(Duration::from_secs(10));
    within(10, one.meters.sent(), 210 * KIB);
    // Nobody sleeps the old limit's time out.
    let before = shop.sim.now();
    shop.set(None);
    shop.sim.settle();
    assert_eq!((one.meters.sent(), shop.sim.now()), (MIB, before));
    assert_eq!(shop.sim.clock.sleepers(), 0);
}

#[test]
fn who_is_not_limited_never_sleeps() {
    let shop = Shop::new(None);
    let mut one = shop.relay(64 * 1024);
    for _ in 0..100 {
        block_on(one.application.write_all(&[1; 1000])).unwrap();
        shop.sim.settle();
        block_on(one.contact.read_exact(&mut [0; 1000])).unwrap();
    }
    assert_eq!(shop.sim.clock.next_deadline(), None);
    assert_eq!(shop.sim.now(), Duration::ZERO);
}

#[test]
fn the_kernels_own_sockets_are_limited_too() {
    use std::io::{Read as _, Write as _};

    use crate::endpoint::LocalStream;

    let shop = Shop::new(Some(64 * KIB));
    let pair = || std::os::unix::net::UnixStream::pair().unwrap();
    let ((mut application, local), (mut contact, remote)) = (pair(), pair());
    let stream = |socket| LocalStream::Unix(async_io::Async::new(socket).unwrap());
    let (local, remote) = (stream(local), stream(remote));
    let meters = Arc::new(Meters::default());
    let (counted, shares) = (meters.clone(), (&shop.limits).into());
    let (_stopper, stop) = Stopper::new();
    let relay = shop.sim.spawner.spawn("relay", async move {
        let remote = Bytestream {
            io: Box::new(remote),
            encrypted: false,
        };
        let running = run_until(local, remote, counted, shares, &stop, Faults::default());
        running.await.unwrap()
    });
    application.write_all(&vec![1; 100 * 1024]).unwrap();
    application.shutdown(std::net::Shutdown::Write).unwrap();
    contact.shutdown(std::net::Shutdown::Write).unwrap();
    shop.sim.settle();
    assert!(meters.sent() <= 2 * TURN as u64, "{}", meters.sent());
    // All of it is in the kernel already, so nothing but the clock is waited for.
    assert_eq!(shop.sim.run(relay), Ok(RelayEnd::Finished));
    let mut text = Vec::new();
    contact.read_to_end(&mut text).unwrap();
    assert_eq!(text.len(), 100 * 1024);
    within(5, shop.sim.now().as_millis() as u64, 1500);
}
