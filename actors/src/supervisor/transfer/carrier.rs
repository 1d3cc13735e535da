//! The life of one transfer's flow: the contact or our user agrees, the bytestream opens, the bytes go,
//! the contact hears the last word. One task, which nobody restarts: what it has agreed on dies with it.
//!
//! ```text
//!   agreeing ──▶ waiting for our application ──▶ opening ──▶ flowing ──▶ parting
//!      │                    │                       │           │
//!      └────────────────────┴───────────────────────┴───────────┴──▶ ended: said once, before parting
//! ```
//!
//! The bytestream is kept beside the flow rather than in it, so that of a flow that fails, or panics,
//! the contact can still be told.
//!
//! What ends it from the other side before it flows, and how that counts here:
//!
//! | we | the contact | how it ends |
//! | --- | --- | --- |
//! | send, agreeing | declines | `RemoteStopped` |
//! | send, from then on until it is open | does not wait for it any more | `RemoteError` |
//! | receive, until the bytestream begins | takes its offer back | `RemoteStopped` |
//!
//! Who agreed and stopped waiting has said no more than that: Ctrl-C, a crash behind which Mission Control
//! tidied up, and a limit on time look the same. So the sender may offer it again, and who does not want it
//! declines that.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use crate::{
    file_transfer::{
        flow::{Coming, Known, Progress, Receiving, Reports, Seat, Sending},
        frames::{self, AbortReason, Word},
        state::FlowEnd,
    },
    limits::Limits,
    model::{Error, FileOffer, Result, Resume},
    ports::{AgreedFile, Duplex, FileSending, FileStream, IncomingFile},
    relay::Wire,
    runtime::{BoxFuture, Clock, Failure, FaultPoint, Faults, catch, within},
    supervisor::channel::Note,
};

/// What the flow tells the channel supervisor, in this order, each at most once.
pub(in crate::supervisor) enum FlowNote {
    /// The contact wants the file, from there.
    Agreed(Resume),
    /// The bytestream is open.
    Opened { offset: u64, encrypted: bool },
    /// It is over.
    Ended(FlowEnd),
    /// It failed, and is over.
    Failed(Failure),
}

/// How to begin.
pub(super) struct Start {
    /// There the bytes are to begin.
    pub(super) from: Resume,
    /// The contact hears that all is well only once the application has stored all of it.
    pub(super) stores: bool,
}

/// Where the flow's orders come from. Each is given once, but for reports, of which the last counts.
pub(super) struct Orders {
    /// The application is there, or will be: open the bytestream, the bytes begin there.
    pub(super) start: Receiver<Start>,
    /// That it is open is known: the bytes may flow.
    pub(super) flow: Receiver<()>,
    /// The application.
    pub(super) socket: Receiver<Box<dyn Duplex>>,
    /// An application was gone before it could be let in.
    pub(super) vanished: Receiver<()>,
    /// What the application has stored.
    pub(super) reports: Receiver<u64>,
    /// End it. Its being closed is an order too.
    pub(super) stop: Receiver<AbortReason>,
}

/// The other end of [`Orders`].
pub(super) struct Reins {
    pub(super) start: Sender<Start>,
    pub(super) flow: Sender<()>,
    pub(super) socket: Sender<Box<dyn Duplex>>,
    /// The listener's.
    pub(super) vanished: Sender<()>,
    pub(super) reports: Sender<u64>,
    pub(super) stop: Sender<AbortReason>,
}

/// Orders, and who gives them.
pub(super) fn orders() -> (Reins, Orders) {
    let start = async_channel::bounded(1);
    let flow = async_channel::bounded(1);
    let socket = async_channel::bounded(1);
    let vanished = async_channel::bounded(1);
    let reports = async_channel::bounded(1);
    let stop = async_channel::bounded(1);
    (
        Reins {
            start: start.0,
            flow: flow.0,
            socket: socket.0,
            vanished: vanished.0,
            reports: reports.0,
            stop: stop.0,
        },
        Orders {
            start: start.1,
            flow: flow.1,
            socket: socket.1,
            vanished: vanished.1,
            reports: reports.1,
            stop: stop.1,
        },
    )
}

/// The port that the file goes through.
pub(super) enum Port {
    Send(Arc<dyn FileSending>),
    Receive(Box<dyn IncomingFile>),
}

/// See the module's head.
pub(super) struct Carrier {
    pub(super) file: Box<FileOffer>,
    pub(super) orders: Orders,
    pub(super) progress: Arc<Progress>,
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) opening_limit: Duration,
    pub(super) application_limit: Duration,
    pub(super) vanished_grace: Duration,
    pub(super) farewell_limit: Duration,
    pub(super) faults: Faults,
    pub(super) notes: Sender<Note<FlowNote>>,
}

/// The bytestream, once it is open, with what the contact must be told at the end.
struct Open {
    wire: Wire,
    framed: bool,
    sending: bool,
    /// Whether the application had gone by itself, or had never come, once the flow is over.
    left_alone: Arc<AtomicBool>,
}

/// How the flow's part that may fail ended.
enum Outcome {
    Ended(FlowEnd),
    Failed(Failure),
    Stopped(AbortReason),
}

impl Carrier {
    /// Runs it to its end, which it tells.
    pub(super) async fn run(self, port: Port) {
        let mut open = None;
        let stopped = async {
            let why = self.orders.stop.recv().await.unwrap_or(AbortReason::Failed);
            Outcome::Stopped(why)
        };
        let flowing = async {
            match catch("flow", self.flow(port, &mut open)).await {
                Ok(Ok(end)) => Outcome::Ended(end),
                Ok(Err(failure)) | Err(failure) => Outcome::Failed(failure),
            }
        };
        let outcome = stopped.or(flowing).await;
        // Whether what the contact hears last is what it ended with.
        let told = matches!(outcome, Outcome::Ended(_));
        let (note, why) = match outcome {
            Outcome::Ended(end) => {
                let why = (end != FlowEnd::Completed).then_some(AbortReason::Failed);
                (FlowNote::Ended(end), why)
            }
            Outcome::Failed(failure) => (FlowNote::Failed(failure), Some(AbortReason::Failed)),
            Outcome::Stopped(why) => (FlowNote::Ended(FlowEnd::Stopped), Some(why)),
        };
        self.tell(note).await;
        let Some(mut open) = open else {
            return;
        };
        if !told {
            open.wire.take_last_back();
        }
        let why = why.map(|why| open.reason(why));
        let parting = within(&*self.clock, self.farewell_limit, open.part(why));
        let parting = self.faults.survive(FaultPoint::FlowParting, parting);
        // It has been told how it ended; that the last word gets through is not its failure.
        catch("parting", parting).await.ok();
    }

    async fn flow(&self, port: Port, open: &mut Option<Open>) -> Result<FlowEnd, Failure> {
        self.faults.hit(FaultPoint::FlowStart)?;
        let ended = match port {
            Port::Send(port) => self.send(port, open).await?,
            Port::Receive(incoming) => self.receive(incoming, open).await?,
        };
        Ok(ended.unwrap_or_else(|end| end))
    }

    async fn send(
        &self,
        port: Arc<dyn FileSending>,
        open: &mut Option<Open>,
    ) -> Result<Result<FlowEnd, FlowEnd>, Failure> {
        let faults = self.faults.clone();
        let agreeing = faults.survive(FaultPoint::FlowAgreeing, port.offer());
        let AgreedFile {
            from,
            opening,
            withdrawn,
        } = match agreeing.await? {
            Ok(agreed) => agreed,
            Err(why) => return Ok(Err(failed(why))),
        };
        self.tell(FlowNote::Agreed(from.clone())).await;
        faults.hit(FaultPoint::FlowAgreed)?;
        // No crash counts as a stop, and this may be one: see the module's head.
        let mut withdrawn = async {
            withdrawn.await;
            let why = "the contact does not wait for the file any more";
            FlowEnd::RemoteError(Error::Cancelled(why.into()))
        }
        .boxed();
        let provided = async {
            let start = self.orders.start.recv().await;
            start.map_err(|_| FlowEnd::Stopped)
        };
        let regretted = async { Err((&mut withdrawn).await) };
        let providing = within(&*self.clock, self.application_limit, provided.or(regretted));
        let providing = faults.survive(FaultPoint::FlowProviding, providing);
        let start = match providing.await? {
            Some(Ok(start)) => start.from,
            Some(Err(end)) => return Ok(Err(end)),
            None => {
                let why = "no application has provided the file that the contact wants";
                return Ok(Err(FlowEnd::LocalError(Error::NotAvailable(why.into()))));
            }
        };
        let opening = self.open(opening, self.opening_limit);
        let regretted = async { Ok(Err(withdrawn.await)) };
        let FileStream { bytestream, framed } = match regretted.or(opening).await? {
            Ok(stream) => stream,
            Err(end) => return Ok(Err(end)),
        };
        if !framed && start.offset != from.offset {
            let why = "this contact takes the file only from where it wants it to begin";
            return Ok(Err(FlowEnd::LocalError(Error::NotAvailable(why.into()))));
        }
        let known = Known {
            size: self.file.size,
            hash: None,
            framed,
            offset: start.offset,
        };
        let encrypted = bytestream.encrypted;
        let open = open.insert(Open {
            wire: Wire::for_chunks(bytestream.io),
            framed,
            sending: true,
            left_alone: Arc::default(),
        });
        let seat = self.seat(open);
        let sending = Sending::new(
            known,
            &mut open.wire,
            seat,
            self.limits.sending(),
            self.progress.clone(),
            self.clock.clone(),
            faults.clone(),
        );
        let mut sending = match sending {
            Ok(sending) => sending,
            Err(end) => return Ok(Err(end)),
        };
        self.tell(FlowNote::Opened {
            offset: start.offset,
            encrypted,
        })
        .await;
        let flowing = async {
            self.permission().await;
            poll_fn(|context| sending.poll(&mut open.wire, context)).await
        };
        let end = faults.survive(FaultPoint::FlowFlowing, flowing).await??;
        faults.hit(FaultPoint::FlowEnded)?;
        Ok(Ok(end))
    }

    async fn receive(
        &self,
        incoming: Box<dyn IncomingFile>,
        open: &mut Option<Open>,
    ) -> Result<Result<FlowEnd, FlowEnd>, Failure> {
        let faults = self.faults.clone();
        let withdrawn = incoming.withdrawn();
        let start = self.orders.start.clone();
        let accepted = async { start.recv().await.map_err(|_| FlowEnd::Stopped) };
        let taken_back = async {
            withdrawn.await;
            let why = "the contact took its offer back";
            Err(FlowEnd::RemoteStopped(Error::Cancelled(why.into())))
        };
        let agreeing = faults.survive(FaultPoint::FlowAgreeing, accepted.or(taken_back));
        let Start { from, stores } = match agreeing.await? {
            Ok(start) => start,
            Err(end) => return Ok(Err(end)),
        };
        faults.hit(FaultPoint::FlowAgreed)?;
        let opening = incoming.accept(from.clone());
        let FileStream { bytestream, framed } =
            match self.open(opening, self.application_limit).await? {
                Ok(stream) => stream,
                Err(end) => return Ok(Err(end)),
            };
        let known = Known {
            size: self.file.size,
            hash: self.file.hash.clone(),
            framed,
            offset: from.offset,
        };
        let encrypted = bytestream.encrypted;
        let open = open.insert(Open {
            wire: Wire::for_words(bytestream.io),
            framed,
            sending: false,
            left_alone: Arc::default(),
        });
        let seat = self.seat(open);
        let receiving = Receiving::new(
            known,
            seat,
            Reports {
                said: self.orders.reports.clone(),
                awaited: stores.then(|| (self.clock.clone(), self.application_limit)),
            },
            self.limits.receiving(),
            self.progress.clone(),
            faults.clone(),
        );
        let mut receiving = match receiving {
            Ok(receiving) => receiving,
            Err(end) => return Ok(Err(end)),
        };
        let beginning = poll_fn(|context| receiving.poll_beginning(&mut open.wire, context));
        let beginning = within(&*self.clock, self.opening_limit, beginning);
        let offset = match faults.survive(FaultPoint::FlowOpening, beginning).await? {
            Some(Ok(offset)) => offset,
            Some(Err(end)) => return Ok(Err(end)),
            None => return Ok(Err(failed(not_in_time()))),
        };
        self.tell(FlowNote::Opened { offset, encrypted }).await;
        let flowing = async {
            self.permission().await;
            poll_fn(|context| receiving.poll(&mut open.wire, context)).await
        };
        let end = faults.survive(FaultPoint::FlowFlowing, flowing).await??;
        faults.hit(FaultPoint::FlowEnded)?;
        Ok(Ok(end))
    }

    /// Waits until others see that it is open. A channel that is gone stops the flow.
    async fn permission(&self) {
        if self.orders.flow.recv().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn seat(&self, open: &Open) -> Seat {
        let coming = Coming {
            socket: self.orders.socket.clone(),
            vanished: self.orders.vanished.clone(),
            clock: self.clock.clone(),
            within: self.application_limit,
            grace: self.vanished_grace,
        };
        Seat::new(coming, open.left_alone.clone())
    }

    async fn open(
        &self,
        opening: BoxFuture<'static, Result<FileStream>>,
        limit: Duration,
    ) -> Result<Result<FileStream, FlowEnd>, Failure> {
        let opening = within(&*self.clock, limit, opening);
        let opened = self.faults.survive(FaultPoint::FlowOpening, opening);
        let opened = opened.await?.unwrap_or_else(|| Err(not_in_time()));
        self.faults.hit(FaultPoint::FlowOpened)?;
        Ok(opened.map_err(failed))
    }

    async fn tell(&self, note: FlowNote) {
        // A channel that is gone stops the flow.
        self.notes.send(Note::Own(note)).await.ok();
    }
}

impl Open {
    /// What the contact is told of a stop. Mission Control closes the channels of a program that crashed,
    /// often before its socket is missed, or before it had one, and so does a claim; nobody has stopped
    /// anything then, and the sender may offer it again.
    fn reason(&self, why: AbortReason) -> AbortReason {
        if !self.sending && self.left_alone.load(Ordering::Relaxed) {
            return AbortReason::Failed;
        }
        why
    }

    /// The last word: `why` unless all is well.
    async fn part(mut self, why: Option<AbortReason>) {
        match why {
            Some(_) if !self.framed => {
                // An end of file would claim that all has come, or was taken.
                self.wire.reset();
                return;
            }
            Some(why) if !self.wire.is_last() => {
                if self.sending {
                    self.wire.push_last(&frames::abort(why));
                } else {
                    let mut word = Vec::new();
                    Word::Abort(why).write(&mut word);
                    self.wire.push_last(&word);
                }
            }
            _ => {}
        }
        if let Err(error) = self.wire.part().await {
            tracing::debug!(%error, "the contact may not have heard the last word");
        }
    }
}

fn not_in_time() -> Error {
    Error::ConnectionFailed("the bytestream did not open in time".into())
}

/// How a flow ends that could not be agreed on or opened.
fn failed(why: Error) -> FlowEnd {
    match why {
        Error::Rejected(_) | Error::Cancelled(_) => FlowEnd::RemoteStopped(why),
        Error::InvalidArgument(_)
        | Error::NotImplemented(_)
        | Error::PermissionDenied(_)
        | Error::Disconnected(_)
        | Error::ResourceUnavailable(_)
        | Error::Confused(_) => FlowEnd::LocalError(why),
        _ => FlowEnd::RemoteError(why),
    }
}
