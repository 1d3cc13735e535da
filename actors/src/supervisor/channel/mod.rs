//! What the supervisor of a channel is made of, whatever the channel's type: its siblings and their
//! restarts, the listener, the announcer, how it appears and how it is withdrawn.
//!
//! ```text
//!   publish ──▶ (the type's own life) ──▶ leave: say the rest, withdraw, answer who waits ──▶ gone
//!      │ refused
//!      ▼
//!    gone
//! ```
//!
//! A channel supervisor owns a [`Shell`] and all that is particular to its type;
//! [`tube`](super::tube), [`transfer`](super::transfer) and [`dbus_tube`](super::dbus_tube) are those there are.

mod announcer;
mod sibling;
mod telling;

use std::{collections::BTreeMap, sync::Arc};

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use self::{
    announcer::{Announcer, InHand},
    sibling::{Life, Sibling},
};
use super::{
    AcceptedSocket, ListenJob, ListeningSocket,
    config::count,
    world::{RootMessage, World},
};
use crate::{
    endpoint::{Slot, Slots},
    model::{ChannelId, Error, Result},
    ports::{ChannelObject, ChannelSignal},
    runtime::{
        Address, BoxFuture, Exit, Failure, FaultPoint, Reply, Stop, Stopper, Time, catch, within,
    },
};

pub(super) use self::{announcer::Announcement, sibling::SiblingKind, telling::Telling};

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

/// What every channel supervisor owns. `S` is the type's signal, `N` its own notes.
pub(super) struct Shell<S, N> {
    pub(super) world: World,
    pub(super) id: ChannelId,
    /// Asks the channel to close in order.
    pub(super) stop: Stop,
    pub(super) notes: (Sender<Note<N>>, Receiver<Note<N>>),
    siblings: BTreeMap<SiblingKind, Sibling>,
    signals: (Sender<Announcement<S>>, Receiver<Announcement<S>>),
    in_hand: InHand<S>,
    /// Who waits for the channel to be gone.
    pub(super) closers: Vec<Reply<()>>,
}

/// What a channel supervisor waits for; `C` is the commit of who decides.
pub(super) enum Event<C, N> {
    Commit(Box<C>),
    Note(Note<N>),
    /// The channel is to close while who decides pauses before a restart.
    Hurry,
    Timer,
}

/// What follows the end of a sibling.
pub(super) enum Followed {
    /// Nothing: it was told to stop, or a successor is on its way.
    Nothing,
    /// It failed past its limit; the sentence says what.
    GivenUp(String),
}

/// Runs a channel's life on a task of its own and tells the root when all of it is gone.
pub(super) fn start(
    world: &World,
    id: ChannelId,
    root: Address<RootMessage>,
    life: impl Future<Output = ()> + Send + 'static,
) {
    world
        .spawner
        .spawn("channel", async move {
            // Its own failures it deals with itself; this is for what it cannot.
            catch("channel", life).await.ok();
            // A root that is gone waits for nobody.
            root.tell_first(RootMessage::Ended(id)).await.ok();
        })
        .detach();
}

/// Makes a channel's object visible and answers whoever asked for it. `None` when it could not be
/// made visible; otherwise whether nobody ever got to know of it.
pub(super) async fn publish<O: Clone + Into<ChannelObject>>(
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

/// Runs what supervises a published channel, and says why it failed, if it did. `unwanted`: nobody ever
/// got to know of the channel, so there is nothing to supervise.
pub(super) async fn survive(
    world: &World,
    id: ChannelId,
    unwanted: bool,
    supervising: impl Future<Output = Result<(), Failure>>,
) -> Option<Failure> {
    if unwanted {
        return None;
    }
    let failure = match catch("channel", supervising).await {
        Ok(Ok(())) => return None,
        Ok(Err(failure)) | Err(failure) => failure,
    };
    count(&world.counters.channels);
    tracing::error!(channel = id.0, %failure, "a channel closes because it failed");
    Some(failure)
}

impl<S, N> Shell<S, N>
where
    S: Clone + Into<ChannelSignal> + Send + 'static,
    N: Send + 'static,
{
    /// A shell with room for so many notes, beside the ends of siblings, and so many signals.
    pub(super) fn new(
        world: &World,
        id: ChannelId,
        stop: Stop,
        kinds: &[SiblingKind],
        (notes, signals): (usize, usize),
    ) -> Self {
        let policy = world.config.restart;
        Shell {
            world: world.clone(),
            id,
            stop,
            notes: async_channel::bounded(notes + kinds.len()),
            siblings: kinds
                .iter()
                .map(|kind| (*kind, Sibling::new(policy)))
                .collect(),
            signals: async_channel::bounded(signals),
            in_hand: InHand::default(),
            closers: Vec::new(),
        }
    }

    /// Waits for what the children say, and until a restart is due or this deadline is there.
    pub(super) async fn select<C>(
        &self,
        decider: SiblingKind,
        commits: &Receiver<C>,
        deadline: Option<Time>,
    ) -> Event<C, N> {
        let deadline = self.next_restart().into_iter().chain(deadline).min();
        let pausing = self.is_pausing(decider);
        let commit = async {
            match commits.recv().await {
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
            self.stop.stopped().await;
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

    /// Starts the announcer, the first or a successor. It ends with its queue and is told nothing.
    pub(super) fn start_announcer(&mut self) {
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

    /// Starts the listener on a socket that is there already, the first or a successor. `vanished` hears of
    /// applications that were gone before they could be let in.
    pub(super) fn start_listener(
        &mut self,
        socket: Arc<dyn ListeningSocket>,
        slots: Slots,
        vanished: Option<Sender<()>>,
    ) {
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
            slots,
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
    pub(super) fn is_pausing(&self, kind: SiblingKind) -> bool {
        self.siblings.get(&kind).is_some_and(Sibling::is_pausing)
    }

    /// Asks it to stop, for good.
    pub(super) fn stop_sibling(&mut self, kind: SiblingKind) {
        if let Some(sibling) = self.siblings.get_mut(&kind) {
            sibling.stop();
        }
    }

    /// Cancels it, and waits until it is gone.
    pub(super) async fn end_sibling(&mut self, kind: SiblingKind) {
        if let Some(sibling) = self.siblings.get_mut(&kind) {
            sibling.end().await;
        }
    }

    /// A sibling has ended: if it failed, when it is restarted, or that it will not be.
    pub(super) fn sibling_ended(&mut self, kind: SiblingKind, ended: Ended, now: Time) -> Followed {
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
    pub(super) fn next_restart(&self) -> Option<Time> {
        self.siblings.values().filter_map(Sibling::due).min()
    }

    /// Those whose pause is over: they are to be started.
    pub(super) fn due_for_restart(&mut self, now: Time) -> Vec<SiblingKind> {
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
    pub(super) fn announce(&self, signal: S, slot: Option<Slot>) -> Result<(), Failure> {
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
    pub(super) async fn leave(&mut self) {
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
            let note = async { self.notes.1.recv().await.ok() };
            let timer = async {
                match self.next_restart() {
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
