//! Messages between one application at a time and a contact, without the actors around them.

use std::{future::poll_fn, os::unix::net::UnixStream};

use async_channel::Sender;
use async_io::Async;
use futures_lite::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, future::block_on,
};
use proptest::prelude::*;

use super::*;
use crate::{
    dbus_tube::splitter::tests::call,
    endpoint::{LocalStream, Slots},
    ports::Duplex,
    runtime::{SystemClock, Task},
    testing::{FAKE_USER, FakeStream, Sim, pipe},
};

const DOOR: Door = Door {
    guid: Guid([7; 16]),
    access: AccessControl::Localhost,
};
/// What a library writes before its first message, and what it hears.
const HELLO: &[u8] = b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n";
const WELCOME: &[u8] = b"OK 07070707070707070707070707070707\r\n";
const CAPACITY: usize = 4096;

/// A tube that is open, without its actors.
struct Tube {
    clock: Arc<dyn Clock>,
    lobby: Sender<AcceptedSocket>,
    slots: Slots,
    traffic: Arc<Traffic>,
}

type Ended = Task<Result<End, Failure>>;

impl Tube {
    fn open(sim: &Sim) -> (Tube, FakeStream, Ended) {
        let (near, contact) = pipe(CAPACITY);
        let (tube, ended) = Tube::over(sim, near, Count::default());
        (tube, contact, ended)
    }

    /// Over this bytestream; it counts how often it is woken.
    fn over(sim: &Sim, near: impl Duplex, woken: Count) -> (Tube, Ended) {
        let (lobby, coming) = async_channel::bounded(1);
        let clock: Arc<dyn Clock> = sim.clock.clone();
        let traffic = Arc::<Traffic>::default();
        let mut carrying = Carrying::new(
            DOOR,
            coming,
            &Limits::new(&clock),
            traffic.clone(),
            clock.clone(),
            Faults::default(),
        );
        let mut wire = Wire::for_chunks(Box::new(near));
        let ended = sim.spawner.spawn("carrying", async move {
            poll_fn(|context| {
                woken.one_more();
                carrying.poll(&mut wire, context)
            })
            .await
        });
        let tube = Tube {
            clock,
            lobby,
            slots: Slots::new(1),
            traffic,
        };
        (tube, ended)
    }

    /// Connects, once whoever was there before is gone.
    async fn connect(&self) -> FakeStream {
        self.connect_by(CAPACITY, Count::default()).await
    }

    /// The same at a socket that buffers so much, and counts how often its end here had nothing to read.
    async fn connect_by(&self, capacity: usize, empty: Count) -> FakeStream {
        let (near, far) = pipe(capacity);
        let slot = self.slots.reserve().await;
        let accepted = AcceptedSocket {
            stream: Box::new(Counted(near.like_a_socket(), empty)),
            slot,
            user: Some(FAKE_USER),
        };
        self.lobby.send(accepted).await.ok();
        far.like_a_socket()
    }

    /// Connects, and begins.
    async fn application(&self) -> FakeStream {
        begin(self.connect().await).await
    }
}

async fn begin(mut stream: FakeStream) -> FakeStream {
    stream.write_all(HELLO).await.unwrap();
    expect(&mut stream, WELCOME).await;
    stream
}

#[derive(Clone, Default)]
struct Count(Arc<AtomicU64>);

impl Count {
    fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream, and how often it was read when it had nothing.
struct Counted(FakeStream, Count);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.0).poll_read(context, into);
        if read.is_pending() {
            self.1.one_more();
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}

impl Duplex for Counted {}

async fn expect(stream: &mut FakeStream, wanted: &[u8]) {
    expect_of(stream, wanted).await;
}

async fn expect_of(stream: &mut (impl AsyncRead + Unpin), wanted: &[u8]) {
    let mut heard = vec![0; wanted.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert!(heard == wanted, "another message came");
}

/// Runs a scenario with a tube and the contact's end of it, then that end breaks. How the tube ended.
fn with_tube(scenario: impl AsyncFnOnce(&Tube, &mut FakeStream)) -> End {
    let sim = Sim::new();
    let (tube, mut contact, ended) = Tube::open(&sim);
    sim.run(scenario(&tube, &mut contact));
    drop(contact);
    sim.run(ended).unwrap().unwrap()
}

fn big(member: &str) -> Vec<u8> {
    call(false, member, &vec![1; 5 * CAPACITY])
}

#[test]
fn messages_go_both_ways() {
    let end = with_tube(async |tube, contact| {
        let mut application = tube.application().await;
        let (ping, pong) = (call(false, "Ping", b""), call(true, "Pong", b"12345678"));
        application.write_all(&ping).await.unwrap();
        expect(contact, &ping).await;
        contact.write_all(&pong).await.unwrap();
        expect(&mut application, &pong).await;
        assert!(tube.traffic.is_connected());
        assert_eq!(tube.traffic.sent(), ping.len() as u64);
        assert_eq!(tube.traffic.received(), pong.len() as u64);
        contact.close().await.unwrap();
        assert_eq!(application.read(&mut [0]).await.unwrap(), 0);
    });
    assert_eq!(end, End::Closed);
}

#[test]
fn who_has_nothing_to_read_is_not_asked_again_before_it_wakes_us() {
    let sim = Sim::new();
    let [woken, here, there] = [(); 3].map(|()| Count::default());
    let (near, mut contact) = pipe(CAPACITY);
    let (tube, _ended) = Tube::over(&sim, Counted(near, there.clone()), woken.clone());
    sim.run(async {
        let mut application = begin(tube.connect_by(CAPACITY, here.clone()).await).await;
        for number in 0..100 {
            let (ping, pong) = (
                call(false, "Ping", &[number]),
                call(true, "Pong", &[number]),
            );
            application.write_all(&ping).await.unwrap();
            expect(&mut contact, &ping).await;
            contact.write_all(&pong).await.unwrap();
            expect(&mut application, &pong).await;
        }
    });
    for empty in [here, there] {
        assert!((1..=woken.get()).contains(&empty.get()));
    }
}

#[test]
fn a_message_that_its_application_did_not_finish_is_none() {
    with_tube(async |tube, contact| {
        let mut first = tube.application().await;
        let (whole, half) = (call(false, "Whole", b""), big("Half"));
        first.write_all(&whole).await.unwrap();
        first.write_all(&half[..half.len() - 1]).await.unwrap();
        drop(first);
        let mut second = tube.application().await;
        let next = call(false, "Next", b"");
        second.write_all(&next).await.unwrap();
        expect(contact, &[whole, next].concat()).await;
    });
}

#[test]
fn the_next_application_begins_with_a_whole_message() {
    with_tube(async |tube, contact| {
        let (half, whole) = (big("Half"), big("Whole"));
        let all = [&half[..], &whole].concat();
        let mut first = tube.application().await;
        let written = contact.write_all(&all);
        let read = async {
            expect(&mut first, &half[..10]).await;
            drop(first);
            let mut second = tube.application().await;
            expect(&mut second, &whole).await;
        };
        futures_lite::future::zip(written, read).await.0.unwrap();
    });
}

#[test]
fn what_it_wrote_before_it_went_is_sent_although_it_takes_nothing_any_more() {
    with_tube(async |tube, contact| {
        let mut application = tube.application().await;
        // The contact does not read, so what follows the first stays in the application's socket.
        let first = call(false, "Large", &vec![2; 3 * CHUNK]);
        application.write_all(&first).await.unwrap();
        tube.clock.sleep(Duration::from_secs(1)).await;
        let signals: Vec<_> = (0..20).map(|_| call(false, "Signal", b"x")).collect();
        application.write_all(&signals.concat()).await.unwrap();
        drop(application);
        let late = call(false, "Late", b"");
        contact.write_all(&late).await.unwrap();
        tube.clock.sleep(Duration::from_secs(1)).await;
        expect(contact, &[first, signals.concat()].concat()).await;
        // What it did not take is for the next.
        expect(&mut tube.application().await, &late).await;
    });
}

#[test]
fn what_comes_while_nobody_is_there_waits_and_then_the_contact_waits() {
    with_tube(async |tube, contact| {
        let message = big("Early");
        let mut written = 0;
        let mut stuck = false;
        while !stuck {
            let write = async {
                contact.write_all(&message).await.unwrap();
                false
            };
            let patience = async {
                tube.clock.sleep(Duration::from_secs(1)).await;
                true
            };
            stuck = write.or(patience).await;
            written += usize::from(!stuck);
            assert!(written * message.len() < 2 * QUEUE, "it takes everything");
        }
        let mut application = tube.application().await;
        for _ in 0..written {
            expect(&mut application, &message).await;
        }
        assert!(written * message.len() > QUEUE - 2 * message.len());
    });
}

#[test]
fn an_application_that_writes_nonsense_is_cut_off_and_nobody_else() {
    with_tube(async |tube, contact| {
        let good = call(false, "Good", b"");
        let mut first = tube.application().await;
        first
            .write_all(&[&good[..], b"nonsense"].concat())
            .await
            .unwrap();
        assert_eq!(first.read(&mut [0]).await.unwrap(), 0);
        let mut second = tube.application().await;
        second.write_all(&good).await.unwrap();
        expect(contact, &[&good[..], &good].concat()).await;
    });
}

#[test]
fn a_contact_that_sends_nonsense_ends_the_tube() {
    let end = with_tube(async |tube, contact| {
        let mut application = tube.application().await;
        let good = call(false, "Good", b"");
        contact
            .write_all(&[&good[..], b"x"].concat())
            .await
            .unwrap();
        let mut all = Vec::new();
        application.read_to_end(&mut all).await.unwrap();
        // The whole message may have come or not; half of one may not.
        assert!(all.is_empty() || all == good);
    });
    assert_eq!(end, End::Malformed(Malformed::Endianness));
}

#[test]
fn an_end_within_a_message_is_none_in_order() {
    let end = with_tube(async |tube, contact| {
        let mut application = tube.application().await;
        contact.write_all(&big("Half")[..100]).await.unwrap();
        contact.close().await.unwrap();
        application.read_to_end(&mut Vec::new()).await.unwrap();
    });
    assert!(matches!(end, End::Lost(_)), "{end:?}");
    let end = with_tube(async |tube, _| drop(tube.application().await));
    assert!(matches!(end, End::Lost(_)), "{end:?}");
}

#[test]
fn what_came_before_the_end_is_handed_over_but_not_for_ever() {
    let all = [big("One"), big("Two")].concat();
    let end = with_tube(async |tube, contact| {
        let mut application = tube.application().await;
        contact.write_all(&all).await.unwrap();
        contact.close().await.unwrap();
        tube.clock.sleep(HAND_OVER_WITHIN / 2).await;
        let mut read = Vec::new();
        application.read_to_end(&mut read).await.unwrap();
        assert!(read == all);
    });
    assert_eq!(end, End::Closed);
    let end = with_tube(async |tube, contact| {
        let mut application = tube.application().await;
        contact.write_all(&all).await.unwrap();
        contact.close().await.unwrap();
        tube.clock.sleep(2 * HAND_OVER_WITHIN).await;
        let mut read = Vec::new();
        application.read_to_end(&mut read).await.unwrap();
        assert!(read.len() < all.len());
    });
    assert_eq!(end, End::Closed);
}

#[test]
fn what_the_contact_said_before_it_went_is_handed_over_though_it_hears_nothing_any_more() {
    let all = [big("One"), big("Two")].concat();
    // It closes, or is gone at once; and the application speaks.
    for closes in [true, false] {
        let sim = Sim::new();
        let (tube, contact, ended) = Tube::open(&sim);
        let mut contact = contact.like_a_socket();
        sim.run(async {
            let mut application = tube.application().await;
            contact.write_all(&all).await.unwrap();
            if closes {
                contact.close().await.unwrap();
                // Its end has been read.
                tube.clock.sleep(Duration::from_secs(1)).await;
            }
            drop(contact);
            let late = call(false, "Late", b"");
            for _ in 0..3 {
                application.write_all(&late).await.unwrap();
                tube.clock.sleep(Duration::from_millis(100)).await;
            }
            let mut read = Vec::new();
            application.read_to_end(&mut read).await.unwrap();
            assert!(read == all, "{} of {}", read.len(), all.len());
        });
        assert_eq!(sim.run(ended).unwrap().unwrap(), End::Closed);
    }
}

#[test]
fn an_application_that_goes_after_the_contact_has_keeps_nobody() {
    let sim = Sim::new();
    let (tube, contact, ended) = Tube::open(&sim);
    let mut contact = contact.like_a_socket();
    sim.run(async {
        let mut application = tube.application().await;
        contact.write_all(&big("Last")).await.unwrap();
        contact.close().await.unwrap();
        drop(contact);
        tube.clock.sleep(Duration::from_secs(1)).await;
        // What it writes goes nowhere; that it goes is seen behind that.
        application
            .write_all(&call(false, "Late", &[1; 100]))
            .await
            .unwrap();
        drop(application);
        let before = tube.clock.now();
        assert_eq!(ended.await.unwrap().unwrap(), End::Closed);
        assert_eq!(tube.clock.now(), before);
    });
}

#[test]
fn what_a_contact_said_that_is_gone_before_anybody_came_waits_for_the_first() {
    let said = big("Hello and goodbye");
    let end = with_tube(async |tube, contact| {
        contact.write_all(&said).await.unwrap();
        contact.close().await.unwrap();
        tube.clock.sleep(HAND_OVER_WITHIN / 2).await;
        let mut application = tube.application().await;
        let mut read = Vec::new();
        application.read_to_end(&mut read).await.unwrap();
        assert!(read == said);
    });
    assert_eq!(end, End::Closed);
    // Nobody comes.
    let sim = Sim::new();
    let (tube, mut contact, ended) = Tube::open(&sim);
    sim.run(async {
        contact.write_all(&said).await.unwrap();
        let before = tube.clock.now();
        contact.close().await.unwrap();
        assert_eq!(ended.await.unwrap().unwrap(), End::Closed);
        assert_eq!(tube.clock.now() - before, HAND_OVER_WITHIN);
    });
    // Somebody came before, and went.
    let sim = Sim::new();
    let (tube, mut contact, ended) = Tube::open(&sim);
    sim.run(async {
        drop(tube.application().await);
        tube.clock.sleep(Duration::from_secs(1)).await;
        contact.write_all(&said).await.unwrap();
        let before = tube.clock.now();
        contact.close().await.unwrap();
        assert_eq!(ended.await.unwrap().unwrap(), End::Closed);
        assert_eq!(tube.clock.now(), before);
    });
}

#[test]
fn who_does_not_begin_makes_room_for_the_next() {
    with_tube(async |tube, contact| {
        let silent = tube.connect().await;
        let before = tube.clock.now();
        let mut next = tube.application().await;
        assert_eq!(tube.clock.now() - before, GREET_WITHIN);
        drop(silent);
        let message = call(false, "Here", b"");
        next.write_all(&message).await.unwrap();
        expect(contact, &message).await;
    });
}

#[test]
fn who_stops_within_a_message_makes_room_for_the_next() {
    with_tube(async |tube, contact| {
        let mut slow = tube.application().await;
        let (whole, half) = (call(false, "Whole", b""), big("Half"));
        // Between two messages it may be silent for as long as it likes.
        slow.write_all(&whole).await.unwrap();
        expect(contact, &whole).await;
        tube.clock.sleep(3 * FINISH_WITHIN).await;
        slow.write_all(&half[..3]).await.unwrap();
        for at in [3, 4] {
            tube.clock
                .sleep(FINISH_WITHIN / 2 + FINISH_WITHIN / 4)
                .await;
            slow.write_all(&half[at..=at]).await.unwrap();
        }
        let before = tube.clock.now();
        let mut next = tube.application().await;
        assert_eq!(tube.clock.now() - before, FINISH_WITHIN);
        let message = call(false, "Next", b"");
        next.write_all(&message).await.unwrap();
        expect(contact, &message).await;
        drop(slow);
    });
}

#[test]
fn who_is_somebody_else_is_refused_and_may_try_again() {
    with_tube(async |tube, contact| {
        let mut other = tube.connect().await;
        other
            .write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n")
            .await
            .unwrap();
        let mut all = Vec::new();
        other.read_to_end(&mut all).await.unwrap();
        assert!(!String::from_utf8(all).unwrap().contains("OK"));
        let mut next = tube.application().await;
        // What does not wait for answers writes its first message at once.
        drop(next.close().await);
        drop(next);
        let mut eager = tube.connect().await;
        let message = call(false, "Eager", b"");
        eager.write_all(&[HELLO, &message].concat()).await.unwrap();
        expect(contact, &message).await;
    });
}

#[test]
fn who_does_not_stay_for_the_answers_is_sent_all_the_same() {
    with_tube(async |tube, contact| {
        // More than is read at once, and all of it is there before any of it is.
        let signals = call(false, "Signal", &[1; 1000]).repeat(3 * READ / 1000);
        let mut eager = tube.connect_by(4 * READ, Count::default()).await;
        let all = [HELLO, &signals].concat();
        eager.write_all(&all).await.unwrap();
        drop(eager);
        expect(contact, &signals).await;
        let next = call(false, "Next", b"");
        tube.application().await.write_all(&next).await.unwrap();
        expect(contact, &next).await;
    });
}

#[test]
fn large_messages_go_through_the_kernel_s_sockets() {
    let pair = || {
        let (near, far) = UnixStream::pair().unwrap();
        (
            LocalStream::from(Async::new(near).unwrap()),
            Async::new(far).unwrap(),
        )
    };
    let ((near, contact), (seat, application)) = (pair(), pair());
    let (lobby, coming) = async_channel::bounded(1);
    let clock: Arc<dyn Clock> = SystemClock::new();
    let (limits, traffic) = (Limits::new(&clock), Arc::default());
    let mut carrying = Carrying::new(DOOR, coming, &limits, traffic, clock, Faults::default());
    let mut wire = Wire::for_chunks(Box::new(near));
    let user = seat.peer_user();
    assert_eq!(user, Some(rustix::process::geteuid().as_raw()));
    let slot = Slots::new(1).try_reserve().unwrap();
    let stream = Box::new(seat);
    assert!(
        lobby
            .try_send(AcceptedSocket { stream, slot, user })
            .is_ok()
    );
    let (request, answer) = (
        call(false, "Take", &vec![3; 9_000_001]),
        call(true, "Took", &vec![4; 7_000_007]),
    );
    let talking = async {
        let mut application = &application;
        application
            .write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
            .await
            .unwrap();
        expect_of(&mut application, b"DATA\r\n").await;
        expect_of(&mut application, WELCOME).await;
        expect_of(&mut application, b"ERROR\r\n").await;
        let writing = async { (&*application).write_all(&request).await.unwrap() };
        let reading = async { expect_of(&mut &*application, &answer).await };
        futures_lite::future::zip(writing, reading).await;
    };
    let answering = async {
        let writing = async { (&contact).write_all(&answer).await.unwrap() };
        let reading = async { expect_of(&mut &contact, &request).await };
        futures_lite::future::zip(writing, reading).await;
    };
    let both = async {
        futures_lite::future::zip(talking, answering).await;
        Ok(End::Closed)
    };
    let carried = poll_fn(|context| carrying.poll(&mut wire, context));
    assert_eq!(block_on(both.or(carried)), Ok(End::Closed));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // The fuzzing target, for a moment: what happens, and with which bytes.
    #[test]
    fn whatever_happens_whole_messages_arrive_in_order(
        steps in prop::collection::vec((0u8..11, any::<u8>(), prop::option::of(0usize..40)), 0..40),
    ) {
        let message = call(false, "Ping", b"body");
        let mut input = Vec::new();
        for (what, number, cut) in steps {
            match (what, cut) {
                // Bytes as they are: whole messages, or what somebody broke off.
                (0 | 3, cut) => {
                    let bytes = &message[..message.len() - cut.unwrap_or(0)];
                    input.extend([what, bytes.len() as u8]);
                    input.extend(bytes);
                }
                _ => input.extend([what, number]),
            }
        }
        fuzzing::dbus_carrying(&input);
    }
}

/// Says nothing until we write for the second time; by then the contact has said a message and closed, and
/// takes nothing, as `<close/>` in band.
struct ClosedMeanwhile {
    writes: usize,
    says: Vec<u8>,
}

impl AsyncRead for ClosedMeanwhile {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.writes < 2 {
            // Woken for what comes.
            let _ = context;
            return Poll::Pending;
        }
        let count = self.says.len().min(into.len());
        into[..count].copy_from_slice(&self.says[..count]);
        self.says.drain(..count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for ClosedMeanwhile {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        if self.writes < 2 {
            return Poll::Ready(Ok(bytes.len()));
        }
        context.waker().wake_by_ref();
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Duplex for ClosedMeanwhile {}

#[test]
fn rev_last_message_before_close() {
    let sim = Sim::new();
    let last = call(false, "Last", b"12345678");
    let near = ClosedMeanwhile {
        writes: 0,
        says: last.clone(),
    };
    let (tube, ended) = Tube::over(&sim, near, Count::default());
    let heard = sim.run(async {
        let mut application = begin(tube.connect_by(1 << 20, Count::default()).await).await;
        let one = call(false, "Ping", &[1; 8000]);
        let all: Vec<u8> = (0..40).flat_map(|_| one.clone()).collect();
        application.write_all(&all).await.unwrap();
        let mut heard = Vec::new();
        application.read_to_end(&mut heard).await.ok();
        heard
    });
    println!("heard {} of {}", heard.len(), last.len());
    let end = sim.run(ended);
    println!("{end:?}");
    assert_eq!(heard.len(), last.len());
}
