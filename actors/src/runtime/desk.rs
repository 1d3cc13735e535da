//! The actor that decides for a channel, whatever the channel's type: it waits for what may happen, lets
//! its [`Decider`] decide, and hands each decision over, one after the other.

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{
    Actor, Commit, Decision, Exit, FaultPoint, Faults, Flow, Mailbox, Pending, Reply, Stop,
};

/// Who decides for a channel, without waiting for anything.
pub(crate) trait Decider: Send + Sized + 'static {
    /// What every incarnation is made from.
    type Seed: Clone + Send + 'static;
    /// What it is asked.
    type Message: Send + 'static;
    /// What the channel supervisor tells it. Facts rather than messages: after a restart those that still
    /// hold are told again.
    type Fact: Clone + Send + 'static;
    /// Its state, from which a successor goes on.
    type Record: Clone + Send + 'static;
    /// What the channel supervisor does for it.
    type Command: Send + 'static;

    /// Where it may be killed.
    const POINTS: Points;

    /// One that goes on from `record`.
    fn new(seed: Self::Seed, record: Self::Record) -> Self;

    /// Takes one event and says what follows.
    fn decide(&mut self, event: DeskEvent<Self>) -> Decision<Self::Command>;

    /// Where it stands.
    fn record(&self) -> &Self::Record;

    /// Whether it is done.
    fn is_finished(&self) -> bool;

    /// Whether it knows already that the channel is to close; then it is not told again.
    fn is_closing(&self) -> bool {
        self.is_finished()
    }

    /// Something it waits for by itself, beside what it is told and asked. Must be cancel-safe.
    fn own_fact(&mut self) -> impl Future<Output = Self::Fact> + Send {
        std::future::pending()
    }
}

/// What every incarnation of such an actor shares with its channel supervisor.
pub(crate) struct Post<D: Decider> {
    pub(crate) facts: Receiver<D::Fact>,
    /// One place: the actor waits until it is empty.
    pub(crate) commits: Sender<Commit<D>>,
    /// Asks the channel to close in order.
    pub(crate) stop: Stop,
    pub(crate) faults: Faults,
}

// Derived, it would want a decider that can be cloned.
impl<D: Decider> Clone for Post<D> {
    fn clone(&self) -> Self {
        Post {
            facts: self.facts.clone(),
            commits: self.commits.clone(),
            stop: self.stop.clone(),
            faults: self.faults.clone(),
        }
    }
}

/// Where it may be killed.
#[derive(Clone, Copy)]
pub(crate) struct Points {
    pub(crate) waiting: FaultPoint,
    pub(crate) decide: FaultPoint,
    pub(crate) commit: FaultPoint,
    pub(crate) committed: FaultPoint,
}

impl Points {
    /// Of a tube, whatever goes through it.
    pub(crate) const TUBE: Points = Points {
        waiting: FaultPoint::TubeWaiting,
        decide: FaultPoint::TubeDecide,
        commit: FaultPoint::TubeCommit,
        committed: FaultPoint::TubeCommitted,
    };
}

/// What is to be decided about.
pub(crate) enum DeskEvent<D: Decider> {
    Message(D::Message),
    Fact(D::Fact),
    /// The channel is to close.
    Stopped,
}

/// See the module's head.
pub(crate) struct Desk<D: Decider> {
    post: Post<D>,
    mailbox: Mailbox<D::Message>,
    decider: D,
    committed: Option<Pending<()>>,
}

impl<D: Decider> Desk<D> {
    /// At this post, with a mailbox that was lent.
    pub(crate) fn new(post: Post<D>, mailbox: Mailbox<D::Message>, decider: D) -> Self {
        Desk {
            post,
            mailbox,
            decider,
            committed: None,
        }
    }

    fn handle(&mut self, event: Result<DeskEvent<D>, Exit>) -> Result<(), Exit> {
        let event = event?;
        self.hit(D::POINTS.decide)?;
        let decision = self.decider.decide(event);
        self.hit(D::POINTS.commit)?;
        let (taken, committed) = Reply::new();
        let commit = Commit {
            record: self.decider.record().clone(),
            decision,
            taken,
        };
        // There is room: the one before was taken, or `select` would not have returned.
        let handed = self.post.commits.try_send(commit);
        handed.map_err(|_| Exit::Stopped)?;
        self.committed = Some(committed);
        self.hit(D::POINTS.committed)
    }

    fn hit(&self, point: FaultPoint) -> Result<(), Exit> {
        self.post.faults.hit(point).map_err(Exit::Failed)
    }
}

impl<D: Decider> Actor for Desk<D> {
    type Event = Result<DeskEvent<D>, Exit>;

    /// Waits, in this order, for: the last decision to be taken, the stop token, facts (the decider's own
    /// last), and messages (the priority inbox first).
    async fn select(&mut self) -> Self::Event {
        if let Some(committed) = &mut self.committed {
            // Taken or dropped, both tell that the channel supervisor has seen it.
            committed.ready().await;
            self.committed = None;
        }
        let closing = self.decider.is_closing();
        let stopped = async {
            if closing {
                std::future::pending::<()>().await;
            }
            self.post.stop.stopped().await;
            Ok(DeskEvent::Stopped)
        };
        // The channel supervisor holds the other ends, so one that is closed means that it is gone:
        // there is nobody to work for.
        let told = async { self.post.facts.recv().await.map_err(|_| Exit::Stopped) };
        let own = async { Ok(self.decider.own_fact().await) };
        let fact = async { Ok(DeskEvent::Fact(told.or(own).await?)) };
        let message = async {
            let message = self.mailbox.next().await;
            message.map(DeskEvent::Message).ok_or(Exit::Stopped)
        };
        let event = stopped.or(fact).or(message);
        let survived = self.post.faults.survive(D::POINTS.waiting, event).await;
        survived.unwrap_or_else(|failure| Err(Exit::Failed(failure)))
    }

    fn apply(&mut self, event: Self::Event) -> Flow {
        match self.handle(event) {
            Err(exit) => Flow::Exit(exit),
            Ok(()) if self.decider.is_finished() => Flow::Exit(Exit::Finished),
            Ok(()) => Flow::Continue,
        }
    }
}
