//! Back-pressure, flushing, fairness, and streams that behave strangely within their contract.

use std::{
    collections::VecDeque,
    io::{Error, ErrorKind, Result},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_lite::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    future::{block_on, poll_once},
};

use super::{Rig, run_scripted};
use crate::{
    ports::{Bytestream, Duplex},
    relay::{Meters, RECORD, RelayEnd, run},
    runtime::Stopper,
    testing::FakeStream,
};

/// Writes until nothing more is taken, and says how much that was.
fn fill(rig: &Rig, stream: &mut FakeStream) -> usize {
    let mut taken = 0;
    loop {
        match block_on(poll_once(stream.write(&[7; 1000]))) {
            Some(count) => taken += count.unwrap(),
            None => {
                rig.sim.settle();
                match block_on(poll_once(stream.write(&[7; 1000]))) {
                    Some(count) => taken += count.unwrap(),
                    None => return taken,
                }
            }
        }
    }
}

/// Takes everything out that comes without waiting for more than the relay.
fn empty(rig: &Rig, stream: &mut FakeStream) -> usize {
    let mut taken = 0;
    let mut buffer = vec![0; 100_000];
    loop {
        rig.sim.settle();
        match block_on(poll_once(stream.read(&mut buffer))) {
            Some(count) => taken += count.unwrap(),
            None => return taken,
        }
    }
}

#[test]
fn a_contact_that_does_not_read_stops_the_application() {
    let mut rig = Rig::new(50_000);
    let (mut application, _spare) = crate::testing::pipe(1);
    std::mem::swap(&mut application, &mut rig.application);
    let taken = fill(&rig, &mut application);
    // One pipe on each side and the one buffer between them, and not a byte more.
    assert_eq!(taken, 50_000 + 16 * 1024 + 50_000);
    assert_eq!(rig.meters.sent(), 50_000);
    let (mut contact, _spare) = crate::testing::pipe(1);
    std::mem::swap(&mut contact, &mut rig.contact);
    assert_eq!(empty(&rig, &mut contact), taken, "and all of it arrives");
}

#[test]
fn an_application_that_does_not_read_stops_the_contact() {
    let mut rig = Rig::new(50_000);
    let (mut contact, _spare) = crate::testing::pipe(1);
    std::mem::swap(&mut contact, &mut rig.contact);
    let taken = fill(&rig, &mut contact);
    assert_eq!(taken, 50_000 + 16 * 1024 + 50_000);
    let (mut application, _spare) = crate::testing::pipe(1);
    std::mem::swap(&mut application, &mut rig.application);
    assert_eq!(empty(&rig, &mut application), taken);
    assert_eq!(rig.meters.received(), taken as u64);
}

#[test]
fn a_stuck_direction_does_not_hold_the_other_one() {
    let mut rig = Rig::new(16);
    while block_on(poll_once(rig.application.write(&[1; 8]))).is_some() {
        rig.sim.settle();
    }
    for round in 0..100 {
        let message = [round; 16];
        let mut heard = [0; 16];
        block_on(rig.contact.write_all(&message)).unwrap();
        rig.sim.run(rig.application.read_exact(&mut heard)).unwrap();
        assert_eq!(message, heard);
    }
}

#[test]
fn single_bytes_pass_one_by_one_without_waiting_for_more() {
    let mut rig = Rig::new(64);
    for byte in 0..=255 {
        let mut heard = [0];
        block_on(rig.application.write_all(&[byte])).unwrap();
        rig.sim.run(rig.contact.read_exact(&mut heard)).unwrap();
        assert_eq!(heard, [byte]);
        block_on(rig.contact.write_all(&[!byte])).unwrap();
        rig.sim.run(rig.application.read_exact(&mut heard)).unwrap();
        assert_eq!(heard, [!byte]);
    }
}

/// What a scripted stream does next when it is asked to read or write.
#[derive(Debug)]
enum Step {
    /// Gives these bytes, or takes at most this many.
    Bytes(usize),
    /// Not yet; and asks to be polled again.
    Wait,
    /// Never again.
    Hang,
    Fail(ErrorKind),
    End,
}

/// A stream that follows a script and holds what is written back until it is flushed.
#[derive(Debug, Default)]
struct Scripted {
    reads: VecDeque<Step>,
    writes: VecDeque<Step>,
    held: usize,
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    /// Bytes that were written and flushed.
    delivered: usize,
    flushes: usize,
    closed: bool,
    reset: bool,
    /// The largest buffer that was offered for a read.
    largest: usize,
}

impl Scripted {
    fn new(
        reads: impl IntoIterator<Item = Step>,
        writes: impl IntoIterator<Item = Step>,
    ) -> (Self, Arc<Mutex<Record>>) {
        let stream = Scripted {
            reads: reads.into_iter().collect(),
            writes: writes.into_iter().collect(),
            ..Scripted::default()
        };
        let record = stream.record.clone();
        (stream, record)
    }

    fn step(steps: &mut VecDeque<Step>, context: &Context<'_>) -> Option<Poll<Result<usize>>> {
        Some(match steps.pop_front()? {
            Step::Bytes(count) => Poll::Ready(Ok(count)),
            Step::Wait => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Step::Hang => {
                steps.push_front(Step::Hang);
                Poll::Pending
            }
            Step::Fail(kind) => Poll::Ready(Err(Error::from(kind))),
            Step::End => Poll::Ready(Ok(0)),
        })
    }
}

impl Duplex for Scripted {
    fn reset(&mut self) {
        self.record.lock().unwrap().reset = true;
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        {
            let mut record = self.record.lock().unwrap();
            record.largest = record.largest.max(buffer.len());
        }
        let step = Scripted::step(&mut self.reads, context);
        step.unwrap_or(Poll::Ready(Ok(0)))
            .map_ok(|count| count.min(buffer.len()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let step = Scripted::step(&mut self.writes, context);
        let written = step
            .unwrap_or(Poll::Ready(Ok(bytes.len())))
            .map_ok(|count| count.min(bytes.len()));
        if let Poll::Ready(Ok(count)) = written {
            self.held += count;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        let held = std::mem::take(&mut self.held);
        let mut record = self.record.lock().unwrap();
        record.delivered += held;
        record.flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = self.as_mut().poll_flush(context);
        self.record.lock().unwrap().closed = true;
        flushed
    }
}

#[test]
fn what_is_written_is_flushed_before_the_relay_waits() {
    let (local, _) = Scripted::new([Step::Bytes(5), Step::Hang], []);
    let (remote, contact) = Scripted::new([Step::Bytes(7), Step::Hang], []);
    let (stopper, stop) = Stopper::new();
    let remote = Bytestream {
        io: Box::new(remote),
        encrypted: false,
    };
    block_on(async {
        let mut relay = pin!(run(local, remote, Arc::default(), &stop));
        assert!(poll_once(&mut relay).await.is_none());
        assert_eq!(contact.lock().unwrap().delivered, 5);
        stopper.stop();
        assert_eq!(relay.await, RelayEnd::Stopped);
    });
}

#[test]
fn a_bulk_transfer_is_not_flushed_record_by_record() {
    let reads = (0..10).map(|_| Step::Bytes(RECORD));
    let (local, _) = Scripted::new(reads, []);
    let (remote, contact) = Scripted::new([], []);
    assert_eq!(run_scripted(local, remote).0.unwrap(), RelayEnd::Finished);
    let contact = contact.lock().unwrap();
    assert_eq!(contact.delivered, 10 * RECORD);
    assert_eq!(contact.flushes, 1, "once, at the end");
    assert!(contact.closed && !contact.reset);
}

#[test]
fn a_writer_that_takes_little_and_often_waits_gets_everything() {
    let (local, _) = Scripted::new([Step::Bytes(RECORD), Step::Wait, Step::Bytes(100)], []);
    let trickle = (0..400).flat_map(|_| [Step::Bytes(50), Step::Wait]);
    let (remote, contact) = Scripted::new([], trickle);
    let (end, meters) = run_scripted(local, remote);
    assert_eq!(end.unwrap(), RelayEnd::Finished);
    assert_eq!(contact.lock().unwrap().delivered, RECORD + 100);
    assert_eq!(meters.sent(), (RECORD + 100) as u64);
}

#[test]
fn an_interrupted_call_is_made_again() {
    let interrupted = || Step::Fail(ErrorKind::Interrupted);
    let (local, _) = Scripted::new([interrupted(), Step::Bytes(9), interrupted()], []);
    let (remote, contact) = Scripted::new([], [interrupted(), Step::Bytes(4), interrupted()]);
    assert_eq!(run_scripted(local, remote).0.unwrap(), RelayEnd::Finished);
    assert_eq!(contact.lock().unwrap().delivered, 9);
}

#[test]
fn a_writer_that_takes_nothing_without_saying_why_has_failed() {
    let (local, application) = Scripted::new([Step::Bytes(9), Step::Hang], []);
    let (remote, _) = Scripted::new([Step::Hang], [Step::End]);
    assert_eq!(run_scripted(local, remote).0.unwrap(), RelayEnd::RemoteLost);
    assert!(application.lock().unwrap().reset);
}

#[test]
fn each_failure_of_the_contacts_side_gets_its_name() {
    for (kind, expected) in [
        (ErrorKind::ConnectionReset, RelayEnd::RemoteReset),
        (ErrorKind::UnexpectedEof, RelayEnd::RemoteLost),
        (ErrorKind::InvalidData, RelayEnd::RemoteLost),
        (ErrorKind::TimedOut, RelayEnd::RemoteLost),
        (ErrorKind::BrokenPipe, RelayEnd::RemoteLost),
    ] {
        // While reading …
        let (local, application) = Scripted::new([Step::Hang], []);
        let (remote, contact) = Scripted::new([Step::Bytes(3), Step::Fail(kind)], []);
        assert_eq!(run_scripted(local, remote).0.unwrap(), expected, "{kind}");
        assert!(application.lock().unwrap().reset);
        assert_eq!(application.lock().unwrap().delivered, 3, "flushed first");
        assert!(!contact.lock().unwrap().reset);
        // … and while writing.
        let (local, application) = Scripted::new([Step::Bytes(1), Step::Hang], []);
        let (remote, _) = Scripted::new([Step::Hang], [Step::Fail(kind)]);
        assert_eq!(run_scripted(local, remote).0.unwrap(), expected, "{kind}");
        assert!(application.lock().unwrap().reset);
    }
}

#[test]
fn whatever_happens_to_the_application_resets_the_contact() {
    for kind in [
        ErrorKind::ConnectionReset,
        ErrorKind::TimedOut,
        ErrorKind::BrokenPipe,
    ] {
        let (local, application) = Scripted::new([Step::Bytes(3), Step::Fail(kind)], []);
        let (remote, contact) = Scripted::new([Step::Hang], []);
        assert_eq!(run_scripted(local, remote).0.unwrap(), RelayEnd::LocalReset);
        assert!(contact.lock().unwrap().reset);
        assert_eq!(contact.lock().unwrap().delivered, 3, "flushed first");
        assert!(!application.lock().unwrap().reset);
    }
}

#[test]
fn an_application_that_shut_its_reading_half_only_goes_on_writing() {
    let reads = (0..50).flat_map(|_| [Step::Bytes(100), Step::Wait]);
    let (local, _) = Scripted::new(reads, [Step::Fail(ErrorKind::BrokenPipe)]);
    let chatter = (0..10).flat_map(|_| [Step::Bytes(10), Step::Wait]);
    let (remote, contact) = Scripted::new(chatter.chain([Step::Hang]), []);
    let (end, meters) = run_scripted(local, remote);
    assert_eq!(end.unwrap(), RelayEnd::LocalReset);
    assert_eq!(contact.lock().unwrap().delivered, 5000);
    assert!(contact.lock().unwrap().reset);
    assert_eq!(meters.received(), 0);
}

#[test]
fn what_an_application_wrote_before_it_went_away_is_written_before_the_reset() {
    let (local, _) = Scripted::new(
        [Step::Bytes(8), Step::Wait, Step::Bytes(9), Step::End],
        [Step::Fail(ErrorKind::BrokenPipe)],
    );
    let (remote, contact) = Scripted::new([Step::Bytes(6), Step::Hang], []);
    assert_eq!(run_scripted(local, remote).0.unwrap(), RelayEnd::LocalReset);
    let contact = contact.lock().unwrap();
    assert_eq!(contact.delivered, 17);
    assert!(contact.reset);
}

#[test]
fn what_had_arrived_from_a_contact_that_takes_nothing_more_is_delivered() {
    let slowly = (0..20).flat_map(|_| [Step::Bytes(4), Step::Wait]);
    let (local, application) = Scripted::new([Step::Bytes(3), Step::Hang], slowly);
    let (remote, _) = Scripted::new(
        [Step::Bytes(14), Step::Bytes(30), Step::Hang],
        [Step::Fail(ErrorKind::BrokenPipe)],
    );
    let (end, meters) = run_scripted(local, remote);
    assert_eq!(end.unwrap(), RelayEnd::RemoteLost);
    let application = application.lock().unwrap();
    assert_eq!(application.delivered, 44);
    assert!(application.reset);
    assert_eq!(
        meters.sent(),
        0,
        "what the writer did not take was not sent"
    );
}

#[test]
fn when_neither_side_takes_anything_it_is_over() {
    let broken = || [Step::Fail(ErrorKind::BrokenPipe)];
    let (local, application) = Scripted::new([Step::Bytes(1), Step::Hang], broken());
    let (remote, _) = Scripted::new([Step::Bytes(1), Step::Hang], broken());
    assert_eq!(run_scripted(local, remote).0.unwrap(), RelayEnd::RemoteLost);
    assert!(application.lock().unwrap().reset);
}

#[test]
fn no_more_than_one_record_is_ever_read_ahead() {
    let (local, application) = Scripted::new([Step::Bytes(usize::MAX)], []);
    let (remote, contact) = Scripted::new([Step::Bytes(usize::MAX)], []);
    assert_eq!(run_scripted(local, remote).0.unwrap(), RelayEnd::Finished);
    assert_eq!(application.lock().unwrap().largest, RECORD);
    assert_eq!(contact.lock().unwrap().largest, RECORD);
}

/// Reads and writes without end and without ever waiting.
#[derive(Debug)]
struct Endless;

impl Duplex for Endless {}

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<Result<usize>> {
        Poll::Ready(Ok(buffer.len()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_relay_that_never_has_to_wait_lets_others_run_all_the_same() {
    let (_stopper, stop) = Stopper::new();
    let meters = Arc::new(Meters::default());
    let remote = Bytestream {
        io: Box::new(Endless),
        encrypted: false,
    };
    let mut relay = pin!(run(Endless, remote, meters.clone(), &stop));
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut context = Context::from_waker(&waker);
    assert!(relay.as_mut().poll(&mut context).is_pending());
    assert!(wakes.0.load(Ordering::Relaxed) > 0, "it wants to go on");
    let once = (meters.sent(), meters.received());
    assert!(once.0 > 0 && once.0 <= 1_000_000, "{once:?}");
    assert!(once.1 > 0 && once.1 <= 1_000_000, "{once:?}");
    assert!(relay.as_mut().poll(&mut context).is_pending());
    assert!(meters.sent() > once.0);
}
