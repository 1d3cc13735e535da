//! From the contact to the application.
//!
//! ```text
//!   Beginning ──header──► Flowing ──end, or all of the size, and it is right──► Closing
//!                                                                                │
//!            application's socket closed for writing, where the application stores: ▼
//!        over ◄──verdict written── Judging ◄──all is said to be stored── Storing ◄──┘
//! ```
//!
//! An application that says what it has stored keeps the verdict waiting: a contact that hears it may
//! throw its own file away. Until then the application's socket stays open for it, and its closing it, or
//! dying, is how we notice that nothing more will be said. The contact is not listened to meanwhile: all of
//! the file is here.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_channel::Receiver;
use futures_lite::Stream as _;

use super::{
    Ending, Known, Progress, Seat, TURNS, aborted, broke, closed_half_way, hash::Hashes,
    local_error, malformed, remote_error,
};
use crate::{
    file_transfer::{
        frames::{AbortReason, Frame, FrameReader, Malformed, Word},
        state::FlowEnd,
    },
    limits::Share,
    model::{Error, Sha256Digest},
    relay::{CHUNK, Wire},
    runtime::{BoxFuture, Clock, Failure, FaultPoint, Faults},
};

/// See the module's head.
pub(crate) struct Receiving {
    known: Known,
    seat: Seat,
    hashes: Hashes,
    buffer: Box<[u8]>,
    /// What of the buffer came from the contact and was not looked at.
    fresh: Range<usize>,
    /// What of the buffer is to be written to the application.
    ready: Range<usize>,
    /// Bytes of the file that came.
    received: u64,
    frames: FrameReader,
    step: Step,
    /// What came is not what was sent.
    mismatch: bool,
    /// What the application says it has stored.
    reports: Pin<Box<Receiver<u64>>>,
    /// What it has said last.
    stored: Option<u64>,
    /// The contact has not been told of that.
    untold: bool,
    /// Where the verdict waits for the application: for how long after all was handed over.
    patience: Option<(Arc<dyn Clock>, Duration)>,
    share: Share,
    progress: Arc<Progress>,
    faults: Faults,
}

enum Step {
    Beginning,
    Flowing,
    Closing,
    /// Until then the application may take to say that it has stored all of it.
    Storing(BoxFuture<'static, ()>),
    Judging,
}

/// What the application says of what it stores, and whether the contact's verdict waits for that.
pub(crate) struct Reports {
    pub(crate) said: Receiver<u64>,
    /// How long after all was handed over; nothing where the verdict does not wait.
    pub(crate) awaited: Option<(Arc<dyn Clock>, Duration)>,
}

impl Receiving {
    /// Of a file that begins at [`Known::offset`], or, framed, where its header says.
    ///
    /// # Errors
    /// Nobody could know where the file ends.
    pub(crate) fn new(
        known: Known,
        seat: Seat,
        reports: Reports,
        share: Share,
        progress: Arc<Progress>,
        faults: Faults,
    ) -> Result<Self, FlowEnd> {
        if !known.framed && known.size.is_none() {
            let why = "the contact does not say how long the file is";
            return Err(FlowEnd::RemoteError(Error::NotCapable(why.into())));
        }
        let mut receiving = Receiving {
            seat,
            hashes: Hashes::new(),
            buffer: vec![0; CHUNK].into(),
            fresh: 0..0,
            ready: 0..0,
            received: 0,
            frames: FrameReader::default(),
            step: if known.framed {
                Step::Beginning
            } else {
                Step::Flowing
            },
            mismatch: false,
            reports: Box::pin(reports.said),
            stored: None,
            untold: false,
            patience: reports.awaited,
            share,
            progress,
            faults,
            known,
        };
        if !receiving.known.framed {
            receiving.begin();
        }
        Ok(receiving)
    }

    fn begin(&mut self) {
        self.step = Step::Flowing;
        if self.known.offset == 0
            && let Some(hash) = self.known.hash.clone()
        {
            self.hashes.check_content(hash);
        }
    }

    /// How many bytes are still to come; nothing where nobody knows.
    fn left(&self) -> Option<u64> {
        let size = self.known.size?;
        Some(
            size.saturating_sub(self.known.offset)
                .saturating_sub(self.received),
        )
    }

    /// How far into the file that is what has come.
    fn end(&self) -> u64 {
        self.known.offset.saturating_add(self.received)
    }

    /// Waits for the header, and gives where the bytes begin.
    pub(crate) fn poll_beginning(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Poll<Result<u64, FlowEnd>> {
        while matches!(self.step, Step::Beginning) {
            if self.fresh.is_empty() {
                match wire.poll_read(context, &mut self.buffer) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Err(remote_error("the contact closed the connection")));
                    }
                    Poll::Ready(Ok(count)) => self.fresh = 0..count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(broke(&error))),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let end = self.look();
            if let Some(end) = end {
                return Poll::Ready(Err(end));
            }
        }
        Poll::Ready(Ok(self.known.offset))
    }

    /// Moves what can be moved now.
    pub(crate) fn poll(&mut self, wire: &mut Wire, context: &mut Context<'_>) -> Poll<Ending> {
        let ended = self.try_poll(wire, context).transpose();
        if let Some(Ok(_)) = &ended
            && self.mismatch
            && self.known.framed
        {
            let mut word = Vec::new();
            Word::Mismatch.write(&mut word);
            wire.push_last(&word);
        }
        ended.map_or(Poll::Pending, Poll::Ready)
    }

    fn try_poll(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Result<Option<FlowEnd>, Failure> {
        for _ in 0..TURNS {
            // That the contact does not listen will show when it is read from.
            let said = self.poll_words(wire, context);
            // Always, so that its coming is noticed.
            if !matches!(self.step, Step::Storing(_) | Step::Judging)
                && let Poll::Ready(Err(end)) = self.seat.poll(context)
            {
                return Ok(Some(end));
            }
            if !self.ready.is_empty() {
                self.faults.hit(FaultPoint::FlowWrite)?;
                let Some(application) = self.seat.socket() else {
                    return Ok(None);
                };
                let bytes = &self.buffer[self.ready.clone()];
                match Pin::new(application).poll_write(context, bytes) {
                    Poll::Ready(Ok(written)) if written > 0 => {
                        self.ready.start += written;
                        self.progress.add(written);
                        continue;
                    }
                    Poll::Ready(Ok(_)) => return Ok(Some(taken_no_more("it takes nothing"))),
                    Poll::Ready(Err(error)) => return Ok(Some(taken_no_more(&error.to_string()))),
                    Poll::Pending => return Ok(None),
                }
            }
            match self.step {
                Step::Flowing if !self.known.framed && self.left() == Some(0) => {
                    if let Some(end) = self.judge(None) {
                        return Ok(Some(end));
                    }
                }
                Step::Beginning | Step::Flowing => {
                    if !self.fresh.is_empty() {
                        if let Some(end) = self.look() {
                            return Ok(Some(end));
                        }
                        continue;
                    }
                    match self.poll_contact(wire, context)? {
                        Poll::Ready(Some(end)) => return Ok(Some(end)),
                        Poll::Ready(None) => {}
                        Poll::Pending => return Ok(None),
                    }
                }
                Step::Closing => {
                    self.faults.hit(FaultPoint::FlowClose)?;
                    let Some(application) = self.seat.socket() else {
                        return Ok(None);
                    };
                    match Pin::new(application).poll_close(context) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => {
                            return Ok(Some(taken_no_more(&error.to_string())));
                        }
                        Poll::Pending => return Ok(None),
                    }
                    match &self.patience {
                        Some((clock, patience)) => {
                            self.step = Step::Storing(clock.sleep(*patience));
                        }
                        None => self.approve(wire),
                    }
                }
                Step::Storing(_) => match self.poll_storing(context) {
                    Poll::Ready(None) => self.approve(wire),
                    Poll::Ready(Some(end)) => return Ok(Some(end)),
                    Poll::Pending => return Ok(None),
                },
                Step::Judging => {
                    // Who does not hear it any more cannot be helped: the file is here.
                    return Ok(said.is_ready().then_some(FlowEnd::Completed));
                }
            }
        }
        context.waker().wake_by_ref();
        Ok(None)
    }

    /// All is well.
    fn approve(&mut self, wire: &mut Wire) {
        self.seat.leave();
        self.step = Step::Judging;
        if self.known.framed {
            let mut word = Vec::new();
            Word::Verified.write(&mut word);
            wire.push_last(&word);
        }
    }

    /// Waits until the application has stored all of it. Ready with an end: it never will have.
    fn poll_storing(&mut self, context: &mut Context<'_>) -> Poll<Option<FlowEnd>> {
        // In this order: who reports and then leaves has reported.
        let left = self.poll_leaving(context);
        self.poll_reports(context);
        if self.stored.is_some_and(|stored| stored >= self.end()) {
            return Poll::Ready(None);
        }
        if left.is_ready() {
            let why = "it left before it said that it has stored all of it";
            return Poll::Ready(Some(taken_no_more(why)));
        }
        let Step::Storing(late) = &mut self.step else {
            return Poll::Pending;
        };
        late.as_mut().poll(context).map(|()| {
            Some(local_error(
                "the application that receives the file has not said in time that it has stored all of it",
            ))
        })
    }

    /// Listens to what the application has stored.
    fn poll_reports(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(Some(stored)) = self.reports.as_mut().poll_next(context) {
            self.stored = Some(stored);
            self.untold = true;
        }
    }

    /// Waits until the application has closed its side, or is gone. What it writes is nothing to us.
    fn poll_leaving(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(application) = self.seat.socket() else {
            return Poll::Ready(());
        };
        let mut nothing = [0; 256];
        for _ in 0..TURNS {
            match Pin::new(&mut *application).poll_read(context, &mut nothing) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Tells the contact what is stored, and writes what there is to say. Ready when all is said, or
    /// can be said no more.
    fn poll_words(&mut self, wire: &mut Wire, context: &mut Context<'_>) -> Poll<()> {
        loop {
            match wire.poll_flush(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            if !self.known.framed || wire.is_last() {
                return Poll::Ready(());
            }
            self.poll_reports(context);
            let Some(stored) = self.stored.filter(|_| self.untold) else {
                return Poll::Ready(());
            };
            self.untold = false;
            let mut word = Vec::new();
            Word::Stored(stored).write(&mut word);
            wire.push(&word);
        }
    }

    /// Reads from the contact into the buffer, which is empty.
    fn poll_contact(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Result<Poll<Option<FlowEnd>>, Failure> {
        let Poll::Ready(turn) = self.share.poll_turn(context) else {
            return Ok(Poll::Pending);
        };
        let mut most = turn.min(CHUNK);
        if let (false, Some(left)) = (self.known.framed, self.left()) {
            // What comes behind the file is none of ours.
            most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.faults.hit(FaultPoint::FlowRead)?;
        let read = wire.poll_read(context, &mut self.buffer[..most]);
        self.share.spent(match &read {
            Poll::Ready(Ok(count)) => *count,
            _ => 0,
        });
        Ok(match read {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) if self.known.framed => {
                Poll::Ready(Some(remote_error("the contact closed the connection")))
            }
            Poll::Ready(Ok(0)) => Poll::Ready(Some(closed_half_way())),
            Poll::Ready(Ok(count)) => {
                self.fresh = 0..count;
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(broke(&error))),
        })
    }

    /// Looks at the next thing in the buffer.
    fn look(&mut self) -> Option<FlowEnd> {
        if !self.known.framed {
            let bytes = std::mem::replace(&mut self.fresh, 0..0);
            return self.take(bytes);
        }
        let mut input = &self.buffer[self.fresh.clone()];
        let frame = match self.frames.next(&mut input) {
            Ok(frame) => frame,
            Err(what) => return Some(malformed(what)),
        };
        let next = self.fresh.end - input.len();
        let bytes = match frame {
            Some(Frame::Bytes(bytes)) => next - bytes.len()..next,
            _ => 0..0,
        };
        let frame = frame.map(|frame| match frame {
            Frame::Begin { offset } => Seen::Begin(offset),
            Frame::Bytes(_) => Seen::Bytes,
            Frame::End(digest) => Seen::End(digest),
            Frame::Abort(why) => Seen::Abort(why),
        });
        self.fresh.start = next;
        match frame {
            None => None,
            Some(Seen::Begin(offset)) => self.hear_beginning(offset),
            Some(Seen::Bytes) => self.take(bytes),
            Some(Seen::End(_)) if !self.fresh.is_empty() => Some(malformed(Malformed::AfterTheEnd)),
            Some(Seen::End(digest)) => self.judge(Some(digest)),
            Some(Seen::Abort(why)) => Some(aborted(why)),
        }
    }

    fn hear_beginning(&mut self, offset: u64) -> Option<FlowEnd> {
        if offset != 0 && offset != self.known.offset {
            return Some(malformed(Malformed::Beginning(offset)));
        }
        self.known.offset = offset;
        self.begin();
        None
    }

    /// Bytes of the file have come.
    fn take(&mut self, bytes: Range<usize>) -> Option<FlowEnd> {
        let count = bytes.len() as u64;
        if self.left().is_some_and(|left| count > left) {
            return Some(FlowEnd::RemoteError(Error::Confused(
                "the contact sends more of the file than its size".into(),
            )));
        }
        self.received = self.received.saturating_add(count);
        self.hashes.update(&self.buffer[bytes.clone()]);
        self.ready = bytes;
        None
    }

    /// All has come: is it what was sent?
    fn judge(&mut self, digest: Option<Sha256Digest>) -> Option<FlowEnd> {
        let whole = self.end();
        let (own, content_is_right) = self.hashes.finish();
        let wrong = if digest.is_some_and(|digest| digest != own) {
            "what arrived is not what the contact sent"
        } else if self.left().is_some_and(|left| left > 0) {
            "the contact has sent less of the file than its size"
        } else if !content_is_right {
            "the file does not have the content hash that the contact gave for it"
        } else {
            // Before the application can see the end.
            self.progress.verified.get_or_init(|| whole);
            self.step = Step::Closing;
            return None;
        };
        self.mismatch = true;
        Some(FlowEnd::RemoteError(Error::Confused(wrong.into())))
    }
}

/// A frame without the bytes.
enum Seen {
    Begin(u64),
    Bytes,
    End(Sha256Digest),
    Abort(AbortReason),
}

fn taken_no_more(why: &str) -> FlowEnd {
    local_error(format!(
        "the application that receives the file broke off: {why}"
    ))
}
