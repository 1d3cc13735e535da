//! The actor of one stream that carries stanzas.
//!
//! ```text
//!            ┌─ peer's </stream>, told to close, idle ─▶ Closing ─ peer's </stream>, 10 s ─▶ end
//!  Open ─────┤
//!            └─ connection broken, rule broken, unanswered ping, stalled ─▶ end (failed)
//! ```
//!
//! Retired is an open stream whose place another one has taken: it is used for nothing new, answers what
//! comes, and is idle after five seconds instead of two minutes, so that no stanza on its way is lost.
//!
//! A machine that loses its power, or sleeps, ends nothing: what is written to it vanishes for a quarter
//! of an hour before the kernel gives up. So while something waits for an answer, a peer that is silent
//! for [`QUIET`] is pinged; and a message after such a silence counts as written only once the ping that
//! follows it is answered. Only peers of our own kind are pinged for that: others need not know pings.
//!
//! In-band bytestreams send by turns through the [`Lane`](crate::session::lane::Lane), and only while less than
//! [`MAX_BULK`] bytes wait to be written, so that whatever else there is to say waits for little. While they
//! are open the stream is not idle, and a silent peer is pinged now and then; one of their requests waits for
//! its answer for as long as the reader at the other end, and no longer than its bytestream is there.
//!
//! An iq that a person answers waits for as long as the stream lives. Those who sent it are users of the lane,
//! so the stream is not idle meanwhile. When they do not wait any more the iq is forgotten, and a peer of our
//! own kind is told ([`Standing`](crate::session::lane::Standing)).
//!
//! Bounds: while [`MAX_OUT`] bytes wait to be written, nothing is read and no command is taken (a peer
//! that does not read stops us from listening to it, nobody else); a peer that takes nothing for
//! [`STALL`] is dropped. [`MAX_ANSWERING`] requests of the peer may wait for their answer; one more is
//! answered `resource-constraint`; those that a person answers are bounded elsewhere
//! ([`Config::max_offers`](crate::session::bytestreams::Config::max_offers)). Our own requests are bounded by the iq tracker.

mod bulk;
mod pipe;
mod stanzas;
mod waiter;

use bulk::Ending;
use pipe::Pipe;
use waiter::{Waiter, answer_waiter, forget};

use std::{collections::VecDeque, future::poll_fn, io, pin::Pin, sync::Arc, time::Duration};

use actors::runtime::{
    Actor, Address, BoxFuture, Clock, Exit, Failure, Flow, Mailbox, Reply, Snapshot, Spawner, Stop,
    Time,
};
use futures_lite::{AsyncWrite as _, FutureExt as _, future};
use minidom::Element;

use super::{
    Admitted, Faults, Point, StreamContext, StreamEvent, StreamId, StreamLink,
    opening::{Opened, stream_error},
};
use crate::{
    session::{
        ContactId,
        bytestreams::Bytestreams,
        lane::{Source, Ticket},
        link::{Link, RequestError},
    },
    xmpp::{
        Iq, IqKind, Message,
        iq_tracker::{IqTracker, TrackError},
        payload::disco,
        stream::{Action, SendError, Stream},
    },
};

/// Most bytes that wait to be written before nothing more is taken.
pub const MAX_OUT: usize = 512 * 1024;
/// Most bytes that wait to be written before bulk waits.
pub const MAX_BULK: usize = 64 * 1024;
/// Most requests of in-band bytestreams that wait for their answers; more than their own bounds allow, as
/// those that are over are forgotten before anybody's next turn.
const MAX_BLOCKS: usize = 2048;
/// Most requests of the peer that wait for their answers.
pub const MAX_ANSWERING: usize = 64;
/// Most events that wait for the session before nothing more is read.
const MAX_TELLING: usize = 16;
/// How long a request of ours waits for its answer.
const REQUEST: Duration = Duration::from_secs(60);
/// How long service discovery and a ping wait.
const PING: Duration = Duration::from_secs(10);
/// A peer that was not heard for this long may be gone without a word.
const QUIET: Duration = Duration::from_secs(5);
/// The same where nothing is awaited but bytestreams are open.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// A stream without stanzas for this long is closed.
const IDLE: Duration = Duration::from_secs(120);
/// The same for one that is retired.
const RETIRED: Duration = Duration::from_secs(5);
/// How long the peer has to close its end.
const CLOSING: Duration = Duration::from_secs(10);
/// How long the peer may take nothing of what waits to be written.
const STALL: Duration = Duration::from_secs(60);
/// XMPP ping (XEP-0199).
const PING_NS: &str = "urn:xmpp:ping";

/// What a stream is told.
pub enum Command {
    /// Send an iq and wait for its answer.
    Request {
        /// `Get` or `Set`.
        kind: IqKind,
        /// The iq's id, where its payload wants a certain one.
        id: Option<String>,
        /// The answer.
        reply: Reply<Result<Option<Element>, RequestError>>,
    },
    /// Send an iq that a person answers: it has no time limit, and is forgotten once nobody waits for it.
    Offer {
        /// The payload of the `<iq type='set'>`.
        payload: Element,
        /// The iq's id.
        id: String,
        /// Done when it has been written; dropped when it is not.
        written: Reply<Result<(), RequestError>>,
        /// The answer.
        reply: Reply<Result<Option<Element>, RequestError>>,
    },
    /// Send a message.
    Message {
        /// Its children.
        payloads: Vec<Element>,
        /// Done when it has been written.
        reply: Reply<Result<(), RequestError>>,
    },
    /// The answer to a request of the peer's is there.
    Answer(Iq),
    /// The same, for requests that are not counted here: those of in-band bytestreams, and those that a
    /// person answers.
    AnswerUncounted(Iq),
    /// Ask for the peer's features again.
    Ask,
    /// See whether the peer is still there; end if not.
    Ping,
    /// Another stream has this one's place now.
    Retire,
    /// Close in order.
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Retired,
    Closing { until: Time },
}

/// What the actor waits for.
pub enum Event {
    Read(io::Result<usize>),
    Wrote(io::Result<()>),
    Command(Option<Command>),
    Told(bool),
    /// Bulk may go, or somebody who sends it has left.
    Turn(Option<Arc<dyn Source>>),
    Timer,
    Ended,
}

/// See the module's head.
pub struct Running {
    id: StreamId,
    contact: ContactId,
    link: Arc<StreamLink>,
    pipe: Pipe,
    stream: Stream,
    phase: Phase,
    ready: bool,
    mailbox: Mailbox<Command>,
    events: Address<(StreamId, StreamEvent)>,
    telling: VecDeque<StreamEvent>,
    /// The first of them on its way, once the session has room for it.
    sending: Option<BoxFuture<'static, bool>>,
    info: Snapshot<disco::Info>,
    bytestreams: Arc<Bytestreams>,
    clock: Arc<dyn Clock>,
    spawner: Spawner,
    tracker: IqTracker<Waiter>,
    /// The requests of in-band bytestreams.
    blocks: IqTracker<(Arc<dyn Source>, Ticket)>,
    /// The connection had the last turn, so bulk has the next.
    bulk_first: bool,
    ending: Ending,
    answering: usize,
    next_id: u64,
    /// What is told that it is written, and at which count of written bytes its own end.
    written: VecDeque<(u64, Reply<Result<(), RequestError>>)>,
    queued: u64,
    last_stanza: Time,
    last_heard: Time,
    last_progress: Time,
    ended: Option<Exit>,
    faults: Faults,
}

impl Running {
    pub(super) fn new(
        id: StreamId,
        context: StreamContext,
        link: Arc<StreamLink>,
        mailbox: Mailbox<Command>,
        admitted: Admitted,
        opened: Opened,
    ) -> Self {
        let now = context.clock.now();
        let mut running = Running {
            id,
            contact: admitted.contact,
            tracker: IqTracker::new(link.them()),
            blocks: IqTracker::with_room(link.them(), MAX_BLOCKS),
            bulk_first: false,
            ending: Ending {
                link: link.clone(),
                bytestreams: context.bytestreams.clone(),
            },
            link,
            pipe: Pipe {
                wire: opened.wire,
                buffer: vec![0; 8192].into_boxed_slice(),
                out: VecDeque::new(),
                unflushed: false,
                written: 0,
            },
            stream: opened.stream,
            phase: Phase::Open,
            ready: false,
            mailbox,
            events: context.events,
            telling: VecDeque::new(),
            sending: None,
            info: context.info,
            bytestreams: context.bytestreams,
            clock: context.clock,
            spawner: context.spawner,
            answering: 0,
            next_id: 0,
            written: VecDeque::new(),
            queued: 0,
            last_stanza: now,
            last_heard: now,
            last_progress: now,
            ended: None,
            faults: context.faults,
        };
        match admitted.pneuma {
            Some(pneuma) => {
                running.link.set_pneuma(pneuma);
                running.become_ready();
            }
            None => running.ask(),
        }
        // Pidgin's Bonjour does not answer; nobody shall wait for that.
        if !opened.peer.has_features() {
            running.become_ready();
        }
        running.carry_out(opened.left);
        running
    }

    /// Runs to the end, or until the session does not want it any more; then closes in order, as far
    /// as the peer listens.
    pub(super) async fn run(mut self, stop: &Stop) -> Exit {
        let exit = loop {
            let stopped = async {
                stop.stopped().await;
                None
            };
            let Some(event) = stopped.or(async { Some(self.select().await) }).await else {
                break Exit::Stopped;
            };
            if let Err(failure) = self.faults.hit(Point::Decide) {
                break Exit::Failed(failure);
            }
            if let Flow::Exit(exit) = self.apply(event) {
                break exit;
            }
            if let Err(failure) = self.faults.hit(Point::Decided) {
                break Exit::Failed(failure);
            }
            // A peer that sends faster than we read would otherwise keep this thread for itself.
            future::yield_now().await;
        };
        self.finish().await;
        exit
    }

    /// Tells the session what the peer said last, writes what is left, for a second at most, and
    /// lets everybody who waits know.
    async fn finish(mut self) {
        self.ending.tell();
        for waiter in self.tracker.drain() {
            answer_waiter(waiter, Err(RequestError::Gone));
        }
        for (source, ticket) in self.blocks.drain() {
            source.answered(ticket, Err(RequestError::Gone));
        }
        let actions = self.stream.close();
        self.carry_out(actions);
        let sending = self.sending.take();
        let telling = std::mem::take(&mut self.telling);
        let (events, id) = (self.events.clone(), self.id);
        let flushed = async {
            // A tube's `<close>` often comes right before the end of the stream.
            if let Some(sending) = sending {
                sending.await;
            }
            for event in telling {
                if events.tell((id, event)).await.is_err() {
                    break;
                }
            }
            poll_fn(|context| self.pipe.poll_write_out(context))
                .await
                .is_ok()
                && poll_fn(|context| Pin::new(&mut self.pipe.wire).poll_close(context))
                    .await
                    .is_ok()
        };
        let clock = self.clock.clone();
        let late = async {
            clock.sleep(Duration::from_secs(1)).await;
            false
        };
        if !flushed.or(late).await {
            tracing::debug!(contact = %self.contact, "the stream ended with things unsaid");
        }
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn become_ready(&mut self) {
        if !self.ready {
            self.ready = true;
            self.telling
                .push_back(StreamEvent::Ready(self.link.clone()));
        }
    }

    fn queue(&mut self, bytes: &[u8]) {
        if self.pipe.out.is_empty() {
            self.last_progress = self.now();
        }
        self.pipe.out.extend(bytes);
        self.queued += bytes.len() as u64;
    }

    fn send(&mut self, stanza: &Element) -> Result<(), SendError> {
        let bytes = self.stream.send(stanza)?;
        self.queue(&bytes);
        self.last_stanza = self.now();
        Ok(())
    }

    fn fresh_id(&mut self) -> String {
        self.next_id += 1;
        format!("p{}", self.next_id)
    }

    fn request(
        &mut self,
        kind: IqKind,
        id: Option<String>,
        time: Option<Duration>,
        waiter: Waiter,
    ) {
        let id = id.unwrap_or_else(|| self.fresh_id());
        let deadline = time.map_or(Time::MAX, |time| self.now() + time);
        let refused = |condition: &str| RequestError::Refused {
            condition: condition.to_owned(),
            text: Some("it was not sent".into()),
        };
        match self.tracker.track(&id, deadline, waiter) {
            Ok(()) => {}
            // It is not known whether the message arrives, but it is written.
            Err(TrackError::Full(Waiter::Message(reply))) => {
                self.written.push_back((self.queued, reply));
                return;
            }
            Err(TrackError::Full(waiter) | TrackError::SameId(waiter)) => {
                answer_waiter(waiter, Err(refused("resource-constraint")));
                return;
            }
        }
        let iq = Iq::new(self.link.us(), self.link.them(), id.clone(), kind);
        if let Err(error) = self.send(&iq.to_element()) {
            let why = match error {
                SendError::NotEstablished => RequestError::NotSent,
                SendError::TooLarge => refused("policy-violation"),
            };
            if let Some(waiter) = self.tracker.forget(&id) {
                answer_waiter(waiter, Err(why));
            }
        }
    }

    fn ask(&mut self) {
        let query = IqKind::Get(disco::query(None));
        self.request(query, None, Some(PING), Waiter::Features);
    }

    fn ping(&mut self, waiter: Waiter) {
        let ping = IqKind::Get(Element::bare("ping", PING_NS));
        self.request(ping, None, Some(PING), waiter);
    }

    /// When a peer that owes us an answer is asked whether it is still there.
    fn quiet_at(&self) -> Option<Time> {
        let pinged = |waiter: &Waiter| matches!(waiter, Waiter::Ping | Waiter::Message(_));
        if !self.link.is_pneuma() || self.tracker.any(pinged) {
            return None;
        }
        let program = |waiter: &Waiter| !matches!(waiter, Waiter::Offer(_));
        let owes = self.tracker.any(program) || !self.blocks.is_empty();
        let after = match (owes, self.link.lane().users()) {
            (true, _) => QUIET,
            (false, 1..) => KEEPALIVE,
            (false, 0) => return None,
        };
        Some(self.last_heard + after)
    }

    fn carry_out(&mut self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            match action {
                Action::Write(bytes) => self.queue(&bytes),
                Action::Stanza(stanza) => self.stanza(stanza),
                Action::Closed => self.ended = Some(Exit::Finished),
                Action::Fail(error) => self.fail(&stream_error(&error).to_string()),
                // Both belong to the opening, which is over.
                Action::StartTls | Action::Established { .. } => {}
            }
        }
    }

    fn fail(&mut self, why: &str) {
        self.ended
            .get_or_insert(Exit::Failed(Failure::Failed(why.to_owned())));
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Request { kind, id, reply } => {
                self.request(kind, id, Some(REQUEST), Waiter::Caller(reply));
            }
            Command::Offer {
                payload,
                id,
                written,
                reply,
            } => {
                let before = self.queued;
                self.request(IqKind::Set(payload), Some(id), None, Waiter::Offer(reply));
                if self.queued > before {
                    self.written.push_back((self.queued, written));
                }
            }
            Command::Message { payloads, reply } => {
                let message = Message {
                    from: Some(self.link.us().to_owned()),
                    to: Some(self.link.them().to_owned()),
                    id: Some(self.fresh_id()),
                    kind: None,
                    payloads,
                };
                match self.send(&message.to_element()) {
                    Ok(()) if self.link.is_pneuma() && self.last_heard + QUIET <= self.now() => {
                        self.ping(Waiter::Message(reply));
                    }
                    Ok(()) => self.written.push_back((self.queued, reply)),
                    Err(error) => {
                        let why = match error {
                            SendError::NotEstablished => RequestError::Gone,
                            SendError::TooLarge => RequestError::Refused {
                                condition: "policy-violation".into(),
                                text: Some("it is too large to be sent".into()),
                            },
                        };
                        forget(reply.send(Err(why)));
                    }
                }
            }
            Command::Answer(iq) => {
                self.answering = self.answering.saturating_sub(1);
                self.answer(&iq);
            }
            Command::AnswerUncounted(iq) => self.answer(&iq),
            Command::Ask => self.ask(),
            Command::Ping => self.ping(Waiter::Ping),
            Command::Retire if self.phase == Phase::Open => self.phase = Phase::Retired,
            Command::Retire => {}
            Command::Close => self.close(),
        }
    }

    fn close(&mut self) {
        if !matches!(self.phase, Phase::Closing { .. }) {
            let until = self.now() + CLOSING;
            self.phase = Phase::Closing { until };
            let actions = self.stream.close();
            self.carry_out(actions);
        }
    }

    /// When the stream is idle, if nothing happens until then.
    fn idle_at(&self) -> Option<Time> {
        let busy = !self.tracker.is_empty()
            || !self.blocks.is_empty()
            || self.link.lane().users() > 0
            || self.answering > 0
            || !self.pipe.out.is_empty();
        match self.phase {
            Phase::Open if !busy => Some(self.last_stanza + IDLE),
            Phase::Retired if !busy => Some(self.last_stanza + RETIRED),
            Phase::Closing { until } => Some(until),
            _ => None,
        }
    }

    fn stalled_at(&self) -> Option<Time> {
        (!self.pipe.out.is_empty()).then_some(self.last_progress + STALL)
    }

    fn timers(&mut self) {
        let now = self.now();
        for waiter in self.tracker.expire(now) {
            match waiter {
                Waiter::Ping | Waiter::Message(_) => {
                    self.fail("the contact does not answer any more")
                }
                Waiter::Features => self.features(Err(RequestError::TimedOut)),
                waiter => answer_waiter(waiter, Err(RequestError::TimedOut)),
            }
        }
        for (source, ticket) in self.blocks.expire(now) {
            source.answered(ticket, Err(RequestError::TimedOut));
        }
        if self.quiet_at().is_some_and(|at| at <= now) {
            self.ping(Waiter::Ping);
        }
        if self.stalled_at().is_some_and(|at| at <= now) {
            self.fail("the contact does not read any more");
        }
        if self.idle_at().is_some_and(|at| at <= now) {
            match self.phase {
                Phase::Closing { .. } => self.ended = Some(Exit::Finished),
                _ => self.close(),
            }
        }
    }

    fn read(&mut self, count: usize) {
        self.last_heard = self.now();
        let actions = if count == 0 {
            self.stream.end_of_file()
        } else {
            self.stream.feed(&self.pipe.buffer[..count])
        };
        self.carry_out(actions);
    }
}

impl Actor for Running {
    type Event = Event;

    async fn select(&mut self) -> Event {
        if self.ended.is_some() {
            return Event::Ended;
        }
        if self.sending.is_none()
            && let Some(event) = self.telling.pop_front()
        {
            let (events, id) = (self.events.clone(), self.id);
            // Kept in the actor, so that it survives when something else comes first.
            self.sending = Some(Box::pin(
                async move { events.tell((id, event)).await.is_ok() },
            ));
        }
        let deadlines = [
            self.tracker.next_deadline(),
            self.blocks.next_deadline(),
            self.idle_at(),
            self.stalled_at(),
            self.quiet_at(),
        ];
        let deadline = deadlines.into_iter().flatten().min();
        let bulk = self.pipe.out.len() < MAX_BULK && !matches!(self.phase, Phase::Closing { .. });
        let bulk_first = self.bulk_first;
        let room = self.pipe.out.len() < MAX_OUT;
        let read = room && self.telling.len() < MAX_TELLING;
        let Running {
            pipe,
            mailbox,
            sending,
            clock,
            link,
            ..
        } = self;
        let timer = async {
            match deadline {
                Some(deadline) => clock.sleep_until(deadline).await,
                None => future::pending().await,
            }
            Event::Timer
        };
        let command = async {
            if room {
                Event::Command(mailbox.next().await)
            } else {
                future::pending().await
            }
        };
        let told = async {
            match sending {
                Some(sending) => Event::Told(sending.await),
                None => future::pending().await,
            }
        };
        let io = poll_fn(|context| pipe.poll(context, read));
        let turn = async {
            if bulk {
                Event::Turn(poll_fn(|context| link.lane().poll_turn(context)).await)
            } else {
                future::pending().await
            }
        };
        // Neither keeps the other waiting for more than one turn.
        let either = async {
            if bulk_first {
                turn.or(io).await
            } else {
                io.or(turn).await
            }
        };
        // Time goes before the connection, which a peer can keep busy for ever.
        told.or(command).or(timer).or(either).await
    }

    fn apply(&mut self, event: Event) -> Flow {
        self.bulk_first = matches!(event, Event::Read(_) | Event::Wrote(_));
        match event {
            Event::Read(Ok(count)) => self.read(count),
            Event::Read(Err(error)) | Event::Wrote(Err(error)) => {
                // A peer that hangs up instead of closing its end is no failure once we are closing.
                if matches!(self.phase, Phase::Closing { .. }) {
                    self.ended = Some(Exit::Finished);
                } else {
                    self.fail(&error.to_string());
                }
            }
            Event::Wrote(Ok(())) => {
                self.last_progress = self.now();
                while let Some((end, _)) = self.written.front()
                    && *end <= self.pipe.written
                {
                    if let Some((_, reply)) = self.written.pop_front() {
                        forget(reply.send(Ok(())));
                    }
                }
            }
            Event::Command(Some(command)) => self.command(command),
            // The link holds an address of its own, so this does not happen.
            Event::Command(None) => self.close(),
            Event::Told(true) => self.sending = None,
            Event::Told(false) => self.ended = Some(Exit::Stopped),
            Event::Turn(Some(source)) => self.turn(source),
            // The stream is idle now, perhaps.
            Event::Turn(None) => self.left(),
            Event::Timer => self.timers(),
            Event::Ended => {}
        }
        match self.ended.take() {
            Some(exit) => Flow::Exit(exit),
            None => Flow::Continue,
        }
    }
}
