//! What the supervisor of a channel is made of, whatever the channel's type: its siblings and their
//! restarts, the listener, the announcer, how it appears and how it is withdrawn.
//!
//! ```text
//!   publish ──▶ supervise (see `life`) ──▶ leave: say the rest, withdraw, answer who waits ──▶ gone
//!      │ refused
//!      ▼
//!    gone
//! ```
//!
//! A channel supervisor owns a [`Shell`] and all that is particular to its [`ChannelType`];
//! [`tube`](super::tube), [`transfer`](super::transfer) and [`dbus_tube`](super::dbus_tube) are those there are.

mod announcer;
mod life;
mod sibling;
mod telling;
mod waiting;

use std::{collections::BTreeMap, sync::Arc};

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use self::{
    announcer::{Announcement, Announcer, InHand},
    life::{FactOf, RecordOf, SeedOf},
    sibling::{Life, Sibling},
    telling::Telling,
    waiting::Waiting,
};
use super::{
    AcceptedSocket, ListenJob, ListeningSocket,
    config::count,
    world::{RootMessage, World},
};
use crate::{
    endpoint::{Slot, Slots},
    model::{ChannelId, Error, OwnerId, Result},
    ports::{ChannelObject, Object},
    runtime::{
        Address, BoxFuture, Commit, Decider, Exit, Failure, FaultPoint, Mailbox, Post, Reply,
        Snapshot, SnapshotWriter, Stop, Stopper, Time, catch, within,
    },
};

pub(super) use self::{
    life::{ChannelType, Made, ObjectOf},
    sibling::SiblingKind,
};

/// What the children tell the channel supervisor; `N` is what only the channel's type has. The
/// commits of who decides have a queue of their own.
pub(super) enum Note<N> {
    /// One of the actors that restart has ended.
    SiblingEnded(SiblingKind, Ended),
    /// An application connected.
    Accepted(AcceptedSocket),
    /// Of the type's own.
    Own(N),
}

/// How one of the lives of a sibling ended, and which: by the time that it is heard of there may be another,
/// of whom it says nothing.
pub(super) struct Ended {
    life: u64,
    exit: Exit,
}

/// What every channel supervisor owns.
pub(super) struct Shell<C: ChannelType> {
    pub(super) world: World,
    pub(super) id: ChannelId,
    pub(super) notes: Queue<Note<C::Note>>,
    siblings: BTreeMap<SiblingKind, Sibling>,
    signals: Queue<Announcement<C::Signal>>,
    in_hand: InHand<C::Signal>,

    mailbox: Mailbox<<C::Decider as Decider>::Message>,
    pub(super) seed: SeedOf<C>,
    post: Post<C::Decider>,
    /// Where who decides stands: it survives it.
    pub(super) record: RecordOf<C>,
    pub(super) telling: Telling<FactOf<C>>,
    commits: Receiver<Commit<C::Decider>>,

    pub(super) view: SnapshotWriter<C::View>,
    pub(super) meters: Arc<C::Meters>,
    /// When they are looked at.
    pub(super) meters_due: Option<Time>,

    slots: Slots,
    listening: Option<Listening>,
    pub(super) waiting: Waiting<C::Socket>,

    /// Who waits for the channel to be gone.
    pub(super) closers: Vec<Reply<()>>,
    /// Who decides has nothing to decide any more.
    pub(super) finished: bool,
}

/// Both ends of one.
pub(super) type Queue<T> = (Sender<T>, Receiver<T>);

/// Where applications connect.
#[derive(Clone)]
struct Listening {
    socket: Arc<dyn ListeningSocket>,
    /// Hears of applications that were gone before they could be let in.
    vanished: Option<Sender<()>>,
}

/// What a [`Shell`] is made from.
pub(super) struct Outfit<C: ChannelType> {
    pub(super) description: C::Description,
    pub(super) seed: SeedOf<C>,
    pub(super) record: RecordOf<C>,
    pub(super) meters: Arc<C::Meters>,
    pub(super) slots: Slots,
    pub(super) room: Room,
}

/// The most that there can be at once, by the bounds of the type's own.
pub(super) struct Room {
    /// What who decides is told.
    pub(super) facts: usize,
    /// What the children say, beside the ends of siblings.
    pub(super) notes: usize,
    /// What waits for the announcer.
    pub(super) signals: usize,
}

/// What a channel supervisor waits for.
enum Event<C: ChannelType> {
    Commit(Box<Commit<C::Decider>>),
    Note(Note<C::Note>),
    /// The channel is to close while who decides pauses before a restart.
    Hurry,
    Timer,
}

/// What follows the end of a sibling.
enum Followed {
    /// Nothing: it was told to stop, or a successor is on its way.
    Nothing,
    /// It failed past its limit; the sentence says what.
    GivenUp(String),
}

/// Where a channel is, in its tree.
pub(super) struct Place {
    pub(super) world: World,
    pub(super) id: ChannelId,
    /// Whose it is.
    pub(super) owner: OwnerId,
    /// Asks it to close in order.
    pub(super) stop: Stop,
}

/// Runs a channel's life on a task of its own and tells the root when all of it is gone.
pub(super) fn start<C: ChannelType>(
    place: Place,
    root: Address<RootMessage>,
    request: C::Request,
    reply: Reply<Result<ObjectOf<C>>>,
) where
    ObjectOf<C>: Into<ChannelObject>,
{
    let (id, spawner) = (place.id, place.world.spawner.clone());
    let life = life::live::<C>(place, request, reply);
    let task = spawner.spawn("channel", async move {
        // Its own failures it deals with itself; this is for what it cannot.
        catch("channel", life).await.ok();
        // A root that is gone waits for nobody.
        root.tell_first(RootMessage::Ended(id)).await.ok();
    });
    task.detach();
}

/// Makes a channel's object visible and answers whoever asked for it. `None` when it could not be
/// made visible; otherwise whether nobody ever got to know of it.
async fn publish<O: Clone + Into<ChannelObject>>(
    world: &World,
    stop: &Stop,
    object: O,
    reply: Reply<Result<O>>,
) -> Option<bool> {
    let publishing = async {
        let published = catch("publish", world.tree.publish(object.clone().into())).await;
        published.unwrap_or_else(|failure| Err(Error::Confused(failure.to_string())))
    };
    let closing = || Error::Disconnected("the connection is closing".into());
    let stopped = async {
        stop.stopped().await;
        Err(closing())
    };
    let late = async {
        world.clock.sleep(world.config.tree_limit).await;
        let why = "the channel's object could not be made visible in time";
        Err(Error::NotAvailable(why.into()))
    };
    // Dropping the attempt leaves nothing behind.
    if let Err(why) = publishing.or(stopped).or(late).await {
        reply.answer(Err(why));
        return None;
    }
    if stop.is_stopped() {
        reply.answer(Err(closing()));
        return Some(true);
    }
    Some(reply.send(Ok(object)).is_err())
}

/// Runs what supervises a published channel, and says why it failed, if it did.
async fn survive(
    world: &World,
    id: ChannelId,
    supervising: impl Future<Output = Result<(), Failure>>,
) -> Option<Failure> {
    let failure = match catch("channel", supervising).await {
        Ok(Ok(())) => return None,
        Ok(Err(failure)) | Err(failure) => failure,
    };
    count(&world.counters.channels);
    tracing::error!(channel = id.0, %failure, "a channel closes because it failed");
    Some(failure)
}

impl<C: ChannelType> Shell<C> {
    /// A shell, and what is to be published.
    pub(super) fn new(place: Place, outfit: Outfit<C>) -> (Self, ObjectOf<C>) {
        let Place {
            world,
            id,
            owner,
            stop,
        } = place;
        let config = world.config.clone();
        let room = outfit.room;
        let (mailbox, address) = Mailbox::new(config.mailbox.max(1));
        let (writer, view) = Snapshot::new(C::view(&outfit.record, &outfit.meters));
        let telling = Telling::new(id, room.facts);
        // One: who decides waits until it is taken.
        let (commits_in, commits) = async_channel::bounded(1);
        // A type without a dialler never starts it.
        let siblings = [
            SiblingKind::Announcer,
            C::DECIDER,
            SiblingKind::Listener,
            SiblingKind::Dialler,
        ];
        let shell = Shell {
            world,
            id,
            notes: async_channel::bounded(room.notes + siblings.len()),
            siblings: siblings
                .map(|kind| (kind, Sibling::new(config.restart)))
                .into(),
            signals: async_channel::bounded(room.signals),
            in_hand: InHand::default(),
            mailbox,
            seed: outfit.seed,
            post: Post {
                facts: telling.listen(),
                commits: commits_in,
                stop,
                faults: config.faults.clone(),
            },
            record: outfit.record,
            telling,
            commits,
            view: writer,
            meters: outfit.meters,
            meters_due: None,
            slots: outfit.slots,
            listening: None,
            waiting: Waiting::new(),
            closers: Vec::new(),
            finished: false,
        };
        let object = Object {
            id,
            owner,
            description: outfit.description,
            address,
            view,
        };
        (shell, object)
    }

    /// Waits for what the children say, and until something is due or this deadline is there.
    async fn select(&mut self, deadline: Option<Time>) -> Event<C> {
        let due = [self.next_restart(), self.meters_due, deadline];
        let deadline = due.into_iter().flatten().min();
        let pausing = self.is_pausing(C::DECIDER);
        let commit = async {
            match self.commits.recv().await {
                Ok(commit) => Event::Commit(Box::new(commit)),
                Err(_) => std::future::pending().await,
            }
        };
        let note = async {
            match self.notes.1.recv().await {
                Ok(note) => Event::Note(note),
                Err(_) => std::future::pending().await,
            }
        };
        let hurry = async {
            if !pausing {
                std::future::pending::<()>().await;
            }
            self.post.stop.stopped().await;
            Event::Hurry
        };
        let timer = async {
            match deadline {
                Some(deadline) => self.world.clock.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
            Event::Timer
        };
        // Commits first: a note may be about something a commit has just made.
        commit.or(note).or(hurry).or(timer).await
    }

    /// Runs one of the siblings, the first or a successor.
    pub(super) fn run_sibling(
        &mut self,
        kind: SiblingKind,
        stopper: Stopper,
        life: BoxFuture<'static, Exit>,
    ) {
        let Some(sibling) = self.siblings.get_mut(&kind) else {
            return;
        };
        sibling.lives += 1;
        let number = sibling.lives;
        let notes = self.notes.0.clone();
        let name = kind.name();
        let task = self.world.spawner.spawn(name, async move {
            let exit = catch(name, life).await.unwrap_or_else(Exit::Failed);
            let ended = Ended { life: number, exit };
            // A channel that is gone restarts nobody.
            notes.send(Note::SiblingEnded(kind, ended)).await.ok();
        });
        sibling.life = Life::Running { task, stopper };
    }

    /// Shows where it stands.
    pub(super) fn publish(&self) {
        self.view.publish(C::view(&self.record, &self.meters));
    }

    /// When the meters are looked at again.
    pub(super) fn next_look(&self) -> Time {
        self.world.clock.now() + self.world.config.meter_period
    }

    /// Keeps a socket until it is decided about.
    pub(super) fn keep(&mut self, socket: C::Socket) {
        let token = self.waiting.next();
        self.telling.tell(C::waits(token, &socket));
        self.waiting.keep(token, socket);
    }

    /// A flow has failed, and nobody restarts it.
    pub(super) fn count_failed_flow(&self, failure: &Failure) {
        count(&self.world.counters.flows);
        tracing::warn!(channel = self.id.0, %failure, "a flow failed");
    }

    /// Lets applications in at a socket that is bound. `vanished` hears of those that were gone before.
    pub(super) fn listen(
        &mut self,
        socket: Arc<dyn ListeningSocket>,
        vanished: Option<Sender<()>>,
    ) {
        self.listening = Some(Listening { socket, vanished });
        self.start_listener();
    }

    /// Lets nobody in any more.
    pub(super) fn stop_listening(&mut self) {
        self.listening = None;
        self.stop_sibling(SiblingKind::Listener);
    }

    /// Starts the announcer, the first or a successor. It ends with its queue and is told nothing.
    fn start_announcer(&mut self) {
        let announcer = Announcer {
            channel: self.id,
            tree: self.world.tree.clone(),
            queue: self.signals.1.clone(),
            in_hand: self.in_hand.clone(),
            faults: self.world.config.faults.clone(),
        };
        let (stopper, _) = Stopper::new();
        self.run_sibling(SiblingKind::Announcer, stopper, Box::pin(announcer.run()));
    }

    /// Starts the listener on the socket that is there already, the first or a successor.
    fn start_listener(&mut self) {
        let Some(Listening { socket, vanished }) = self.listening.clone() else {
            return;
        };
        let (stopper, stop) = Stopper::new();
        let faults = self.world.config.faults.clone();
        let notes = self.notes.0.clone();
        let (killed, dying) = async_channel::bounded(1);
        let deliver_faults = faults.clone();
        let deliver = move |accepted: AcceptedSocket| -> BoxFuture<'static, bool> {
            let (notes, faults, killed) = (notes.clone(), deliver_faults.clone(), killed.clone());
            Box::pin(async move {
                let delivered = notes.send(Note::Accepted(accepted)).await.is_ok();
                match faults.hit(FaultPoint::ListenerDelivered) {
                    Ok(()) => delivered,
                    Err(failure) => {
                        // One place, one message.
                        killed.try_send(failure).ok();
                        false
                    }
                }
            })
        };
        let job = ListenJob {
            slots: self.slots.clone(),
            deliver: Box::new(deliver),
            vanished,
            stop,
        };
        let listening = async move {
            if let Err(failure) = faults.hit(FaultPoint::ListenerStart) {
                return Exit::Failed(failure);
            }
            let listening = socket.listen(job);
            match faults.survive(FaultPoint::ListenerWaiting, listening).await {
                Ok(exit) => dying.try_recv().map_or(exit, Exit::Failed),
                Err(failure) => Exit::Failed(failure),
            }
        };
        self.run_sibling(SiblingKind::Listener, stopper, Box::pin(listening));
    }

    /// Whether it runs, or will again.
    pub(super) fn is_started(&self, kind: SiblingKind) -> bool {
        self.siblings.get(&kind).is_some_and(Sibling::is_started)
    }

    /// Whether it pauses before a restart.
    fn is_pausing(&self, kind: SiblingKind) -> bool {
        self.siblings.get(&kind).is_some_and(Sibling::is_pausing)
    }

    /// Asks it to stop, for good.
    pub(super) fn stop_sibling(&mut self, kind: SiblingKind) {
        if let Some(sibling) = self.siblings.get_mut(&kind) {
            sibling.stop();
        }
    }

    /// Cancels it, and waits until it is gone.
    async fn end_sibling(&mut self, kind: SiblingKind) {
        if let Some(sibling) = self.siblings.get_mut(&kind) {
            sibling.end().await;
        }
    }

    /// A sibling has ended: if it failed, when it is restarted, or that it will not be.
    fn sibling_ended(&mut self, kind: SiblingKind, ended: Ended, now: Time) -> Followed {
        let Ended { life, exit } = ended;
        let of_this_life = |sibling: &&mut Sibling| sibling.lives == life;
        let Some(sibling) = self.siblings.get_mut(&kind).filter(of_this_life) else {
            return Followed::Nothing;
        };
        if let Life::Stopping { .. } = std::mem::replace(&mut sibling.life, Life::Idle) {
            return Followed::Nothing;
        }
        let failure = match exit {
            Exit::Failed(failure) => failure,
            // Nobody told it to: what it was for is not done.
            Exit::Finished | Exit::Stopped => Failure::Failed("it ended by itself".into()),
        };
        let name = kind.name();
        let Some(pause) = sibling.budget.failed(now) else {
            tracing::error!(channel = self.id.0, actor = name, %failure, "failed too often");
            return Followed::GivenUp(format!("the {name} failed too often and last {failure}"));
        };
        count(kind.counter(&self.world.counters));
        tracing::warn!(channel = self.id.0, actor = name, %failure, ?pause, "restarting");
        sibling.life = Life::Pausing { until: now + pause };
        Followed::Nothing
    }

    /// When the next pause is over.
    fn next_restart(&self) -> Option<Time> {
        self.siblings.values().filter_map(Sibling::due).min()
    }

    /// Those whose pause is over: they are to be started.
    fn due_for_restart(&mut self, now: Time) -> Vec<SiblingKind> {
        self.siblings
            .iter_mut()
            .filter(|(_, sibling)| sibling.due().is_some_and(|due| due <= now))
            .map(|(kind, sibling)| {
                sibling.life = Life::Idle;
                *kind
            })
            .collect()
    }

    /// Queues a signal, and with it the slot that its connection occupies until it has been emitted.
    ///
    /// # Errors
    /// There is no room, which cannot be while the bounds count what they should; better a closed
    /// channel than a lost signal.
    pub(super) fn announce(&self, signal: C::Signal, slot: Option<Slot>) -> Result<(), Failure> {
        let announcement = Announcement {
            signal,
            _slot: slot,
        };
        self.signals
            .0
            .try_send(announcement)
            .map_err(|_| beyond_bound("signals"))
    }

    /// How many signals wait for the announcer.
    pub(super) fn unsaid(&self) -> usize {
        self.signals.1.len()
    }

    /// The last of a channel whose other actors are gone: says the rest, withdraws the object, and
    /// answers who waited for that.
    async fn leave(&mut self) {
        // A tree that never answers must not keep whoever waits for the end.
        let (clock, limit) = (self.world.clock.clone(), self.world.config.tree_limit);
        let said = within(&*clock, limit, self.say_the_rest()).await;
        self.end_sibling(SiblingKind::Announcer).await;
        if said.is_none() {
            let lost = self.signals.1.len() + usize::from(self.in_hand.take().is_some());
            tracing::error!(
                channel = self.id.0,
                lost,
                "the tree takes no signals: the last ones are lost"
            );
        }
        let withdrawing = catch("withdraw", self.world.tree.withdraw(self.id));
        match within(&*clock, limit, withdrawing).await {
            Some(Ok(())) => {}
            Some(Err(failure)) => {
                tracing::error!(channel = self.id.0, %failure, "cannot withdraw a channel");
            }
            None => tracing::error!(channel = self.id.0, "a channel is not withdrawn in time"),
        }
        self.closers.drain(..).for_each(|reply| reply.answer(()));
    }

    /// Waits until the announcer has emitted every signal, restarting it by its own policy. Past
    /// the limit the rest is emitted here, each signal caught by itself.
    async fn say_the_rest(&mut self) {
        self.signals.0.close();
        if !self.is_started(SiblingKind::Announcer) {
            self.start_announcer();
        }
        loop {
            let due = self.next_restart();
            let note = async { self.notes.1.recv().await.ok() };
            let timer = async {
                match due {
                    Some(due) => self.world.clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
                None
            };
            let note = note.or(timer).await;
            let now = self.world.clock.now();
            match note {
                Some(Note::SiblingEnded(SiblingKind::Announcer, ended)) => {
                    if !matches!(ended.exit, Exit::Failed(_)) {
                        return;
                    }
                    if let Followed::GivenUp(_) =
                        self.sibling_ended(SiblingKind::Announcer, ended, now)
                    {
                        break;
                    }
                }
                // All others are gone, and what they had to say is of no consequence now.
                Some(_) => {}
                None => {
                    if self.due_for_restart(now).contains(&SiblingKind::Announcer) {
                        self.start_announcer();
                    }
                }
            }
        }
        while let Some(announcement) = self
            .in_hand
            .take()
            .or_else(|| self.signals.1.try_recv().ok())
        {
            let emitting = self.world.tree.emit(self.id, announcement.signal.into());
            if let Err(failure) = catch("announcer", emitting).await {
                tracing::error!(channel = self.id.0, %failure, "a signal is lost");
            }
        }
    }
}

/// Cannot happen while what is bounded counts what it should.
pub(super) fn beyond_bound(what: &str) -> Failure {
    Failure::Failed(format!("more {what} than there can be"))
}
