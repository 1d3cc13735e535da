//! From the application to the contact.
//!
//! ```text
//!   Flowing ──all of the size──► Lingering ──end of file, or time──► Ending ──► Waiting for the verdict
//!      │                                                              ▲   │
//!      ├── end of file, where the size is not known ──────────────────┘   └──► Closing ──► Waiting for
//!      │                                              without frames           the contact's close
//!      └── the contact's side takes nothing more ──► Severed: its last word is awaited
//! ```

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    Ending, Known, LAST_WORDS_WITHIN, LINGER, Progress, Seat, TURNS, aborted, broke,
    closed_half_way, hash::Hashes, local_error, malformed, remote_error,
};
use crate::{
    file_transfer::{
        frames::{self, LENGTH, Malformed, Word, WordReader},
        state::FlowEnd,
    },
    limits::Share,
    model::Error,
    relay::{CHUNK, Wire},
    runtime::{BoxFuture, Clock, Failure, FaultPoint, Faults},
};

/// See the module's head.
pub(crate) struct Sending {
    known: Known,
    seat: Seat,
    hashes: Hashes,
    /// Bytes that were read from the application.
    read: u64,
    /// Those of them that lie in the wire's buffer.
    lying: usize,
    step: Step,
    words: WordReader,
    share: Share,
    progress: Arc<Progress>,
    clock: Arc<dyn Clock>,
    faults: Faults,
}

enum Step {
    Flowing,
    /// All of the size was read; the application's end of file is awaited for a moment.
    Lingering(BoxFuture<'static, ()>),
    /// All is read.
    Ending,
    /// Without frames, the contact reads the end of the file from the end of the stream.
    Closing,
    /// All is written: what does the contact say? Without frames it says nothing, and has so much time to
    /// close its side; who does not has the file all the same.
    Waiting(Option<BoxFuture<'static, ()>>),
    /// The contact's side takes nothing more. It may have said why.
    Severed(FlowEnd, BoxFuture<'static, ()>),
}

impl Sending {
    /// Puts the header on the wire.
    ///
    /// # Errors
    /// The contact could not know where the file ends.
    pub(crate) fn new(
        known: Known,
        wire: &mut Wire,
        seat: Seat,
        share: Share,
        progress: Arc<Progress>,
        clock: Arc<dyn Clock>,
        faults: Faults,
    ) -> Result<Self, FlowEnd> {
        if known.framed {
            wire.push(&frames::header(known.offset));
        } else if known.size.is_none() {
            let why = "the contact cannot take a file of unknown size";
            return Err(FlowEnd::RemoteError(Error::NotCapable(why.into())));
        }
        Ok(Sending {
            known,
            seat,
            hashes: Hashes::new(),
            read: 0,
            lying: 0,
            step: Step::Flowing,
            words: WordReader::default(),
            share,
            progress,
            clock,
            faults,
        })
    }

    /// How many bytes are still to be read from the application; nothing where nobody knows.
    fn left(&self) -> Option<u64> {
        let size = self.known.size?;
        Some(
            size.saturating_sub(self.known.offset)
                .saturating_sub(self.read),
        )
    }

    /// Moves what can be moved now.
    pub(crate) fn poll(&mut self, wire: &mut Wire, context: &mut Context<'_>) -> Poll<Ending> {
        let ended = self.try_poll(wire, context).transpose();
        ended.map_or(Poll::Pending, Poll::Ready)
    }

    fn try_poll(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Result<Option<FlowEnd>, Failure> {
        for _ in 0..TURNS {
            if let Some(end) = self.poll_contact(wire, context) {
                return Ok(Some(end));
            }
            if !matches!(self.step, Step::Severed(..)) {
                if !wire.is_empty() {
                    self.faults.hit(FaultPoint::FlowWrite)?;
                }
                match wire.poll_empty(context) {
                    Poll::Ready(Ok(())) => self.progress.add(std::mem::take(&mut self.lying)),
                    Poll::Ready(Err(error)) => {
                        self.sever(&error);
                        continue;
                    }
                    Poll::Pending => return Ok(None),
                }
            }
            let went_on = match &mut self.step {
                Step::Flowing => match self.poll_application(wire, context)? {
                    Read::Bytes => true,
                    Read::Nothing => false,
                    Read::End(end) => return Ok(Some(end)),
                },
                Step::Lingering(over) => {
                    if over.as_mut().poll(context).is_ready() {
                        self.step = Step::Ending;
                        true
                    } else {
                        match self.poll_too_many(context) {
                            Poll::Ready(Some(end)) => return Ok(Some(end)),
                            Poll::Ready(None) => {
                                self.step = Step::Ending;
                                true
                            }
                            Poll::Pending => false,
                        }
                    }
                }
                Step::Ending => {
                    self.faults.hit(FaultPoint::FlowClose)?;
                    self.seat.leave();
                    self.step = if self.known.framed {
                        let (digest, _) = self.hashes.finish();
                        wire.push_last(&frames::end(digest));
                        Step::Waiting(None)
                    } else {
                        Step::Closing
                    };
                    true
                }
                Step::Closing => match wire.poll_close(context) {
                    Poll::Ready(Ok(())) => {
                        let over = self.clock.sleep(LAST_WORDS_WITHIN);
                        self.step = Step::Waiting(Some(over));
                        true
                    }
                    Poll::Ready(Err(error)) => {
                        self.sever(&error);
                        true
                    }
                    Poll::Pending => false,
                },
                Step::Waiting(Some(over)) => {
                    if over.as_mut().poll(context).is_ready() {
                        return Ok(Some(FlowEnd::Completed));
                    }
                    return Ok(None);
                }
                Step::Waiting(None) => false,
                Step::Severed(end, over) => {
                    if over.as_mut().poll(context).is_ready() {
                        return Ok(Some(end.clone()));
                    }
                    return Ok(None);
                }
            };
            if !went_on {
                // Nothing more for now: nothing is held back below either.
                if let Poll::Ready(Err(error)) = wire.poll_flush(context) {
                    self.sever(&error);
                    continue;
                }
                return Ok(None);
            }
        }
        context.waker().wake_by_ref();
        Ok(None)
    }

    fn sever(&mut self, error: &io::Error) {
        let over = self.clock.sleep(LAST_WORDS_WITHIN);
        self.step = Step::Severed(broke(error), over);
    }

    /// Whether all that the contact needs to have the file was written.
    fn all_is_written(&self, wire: &Wire) -> bool {
        let all = match self.known.framed {
            true => matches!(self.step, Step::Waiting(_)),
            false => self.left() == Some(0),
        };
        all && wire.is_empty()
    }

    /// Reads what the contact says. Gives the end if that is one.
    fn poll_contact(&mut self, wire: &mut Wire, context: &mut Context<'_>) -> Option<FlowEnd> {
        let mut bytes = [0; 256];
        for _ in 0..TURNS {
            let read = match wire.poll_read(context, &mut bytes) {
                Poll::Ready(read) => read,
                Poll::Pending => return None,
            };
            let count = match read {
                Ok(0) if self.known.framed => {
                    return Some(remote_error("the contact closed the connection"));
                }
                Ok(0) if self.all_is_written(wire) => return Some(FlowEnd::Completed),
                Ok(0) => return Some(closed_half_way()),
                Ok(count) => count,
                Err(error) => {
                    return Some(match &self.step {
                        Step::Severed(end, _) => end.clone(),
                        _ => broke(&error),
                    });
                }
            };
            // Without frames there is nothing to say, and nothing is listened to.
            let mut input = &bytes[..count];
            while self.known.framed {
                match self.words.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(word)) => {
                        if let Some(end) = self.hear(word, wire) {
                            return Some(end);
                        }
                    }
                    Err(what) => return Some(malformed(what)),
                }
            }
        }
        context.waker().wake_by_ref();
        None
    }

    fn hear(&mut self, word: Word, wire: &Wire) -> Option<FlowEnd> {
        match word {
            Word::Stored(offset) => {
                let most = self.known.offset.saturating_add(self.read);
                if offset < self.progress.stored() || offset > most {
                    return Some(malformed(Malformed::Stored(offset)));
                }
                let stored = &self.progress.stored;
                stored.store(offset, std::sync::atomic::Ordering::Relaxed);
                None
            }
            Word::Verified if self.all_is_written(wire) => Some(FlowEnd::Completed),
            Word::Mismatch if self.all_is_written(wire) => Some(FlowEnd::RemoteError(
                Error::Confused("what arrived at the contact's is not what was sent".into()),
            )),
            Word::Verified | Word::Mismatch => Some(malformed(Malformed::TooEarly)),
            Word::Abort(why) => Some(aborted(why)),
        }
    }

    /// Reads from the application onto the wire, which is empty.
    fn poll_application(
        &mut self,
        wire: &mut Wire,
        context: &mut Context<'_>,
    ) -> Result<Read, Failure> {
        let left = self.left();
        let socket = match self.seat.poll(context) {
            Poll::Ready(Ok(socket)) => socket,
            Poll::Ready(Err(end)) => return Ok(Read::End(end)),
            Poll::Pending => return Ok(Read::Nothing),
        };
        if left == Some(0) {
            self.step = Step::Lingering(self.clock.sleep(LINGER));
            return Ok(Read::Bytes);
        }
        let Poll::Ready(turn) = self.share.poll_turn(context) else {
            return Ok(Read::Nothing);
        };
        let lead = if self.known.framed { LENGTH } else { 0 };
        let left = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let most = turn.min(CHUNK).min(left);
        self.faults.hit(FaultPoint::FlowRead)?;
        let room = &mut wire.room()[lead..lead + most];
        let read = std::pin::Pin::new(socket).poll_read(context, room);
        self.share.spent(match &read {
            Poll::Ready(Ok(count)) => *count,
            _ => 0,
        });
        let count = match read {
            Poll::Pending => return Ok(Read::Nothing),
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => {
                let why = format!("the application that provides the file broke off: {error}");
                return Ok(Read::End(local_error(why)));
            }
        };
        if count == 0 {
            if self.known.size.is_some() {
                let why = "the application has provided less of the file than its size";
                return Ok(Read::End(local_error(why)));
            }
            self.step = Step::Ending;
            return Ok(Read::Bytes);
        }
        self.hashes.update(&wire.room()[lead..lead + count]);
        self.read += count as u64;
        self.lying = count;
        if self.known.framed {
            wire.room()[..lead].copy_from_slice(&frames::chunk_length(count));
        }
        wire.filled(lead + count);
        Ok(Read::Bytes)
    }

    /// Whether the application goes on behind the size. Ready without an end: it does not.
    fn poll_too_many(&mut self, context: &mut Context<'_>) -> Poll<Option<FlowEnd>> {
        let socket = match self.seat.poll(context) {
            Poll::Ready(Ok(socket)) => socket,
            Poll::Ready(Err(end)) => return Poll::Ready(Some(end)),
            Poll::Pending => return Poll::Pending,
        };
        std::pin::Pin::new(socket)
            .poll_read(context, &mut [0])
            .map(|read| match read {
                Ok(0) | Err(_) => None,
                Ok(_) => Some(local_error(
                    "the application has provided more of the file than its size",
                )),
            })
    }
}

/// What reading from the application gave.
enum Read {
    /// Something was done; there may be more.
    Bytes,
    /// Nothing for now.
    Nothing,
    /// The end.
    End(FlowEnd),
}
