//! Where an actor sits that decides for a channel: what it waits for, in which order, and how its
//! decisions are handed over, one after the other.

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{Commit, Exit, Failure, FaultPoint, Faults, Mailbox, Pending, Reply, Stop};

/// What every incarnation of such an actor is given: facts come from its channel supervisor, and its
/// decisions go there.
pub(crate) struct Post<Fact, Commit> {
    pub(crate) facts: Receiver<Fact>,
    /// One place: the actor waits until it is empty.
    pub(crate) commits: Sender<Commit>,
    /// Asks the channel to close in order.
    pub(crate) stop: Stop,
    pub(crate) faults: Faults,
    pub(crate) points: Points,
}

// Derived, it would want commits that can be cloned.
impl<Fact, Commit> Clone for Post<Fact, Commit> {
    fn clone(&self) -> Self {
        Post {
            facts: self.facts.clone(),
            commits: self.commits.clone(),
            stop: self.stop.clone(),
            faults: self.faults.clone(),
            points: self.points,
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

/// What it waits for.
pub(crate) enum DeskEvent<Message, Fact> {
    Message(Message),
    Fact(Fact),
    /// The channel is to close. Said once.
    Stopped,
    /// The channel supervisor is gone: there is nobody to work for.
    Orphaned,
    Fault(Failure),
}

/// See the module's head.
pub(crate) struct Desk<Message, Fact, Commit> {
    post: Post<Fact, Commit>,
    mailbox: Mailbox<Message>,
    committed: Option<Pending<()>>,
}

impl<Message, Fact, Record, Command, Answer> Desk<Message, Fact, Commit<Record, Command, Answer>> {
    /// At this post, with a mailbox that was lent.
    pub(crate) fn new(
        post: Post<Fact, Commit<Record, Command, Answer>>,
        mailbox: Mailbox<Message>,
    ) -> Self {
        Desk {
            post,
            mailbox,
            committed: None,
        }
    }

    /// Waits, in this order, for: the last decision to be taken, the stop token, facts, and messages
    /// (the priority inbox first).
    pub(crate) async fn next(&mut self) -> DeskEvent<Message, Fact> {
        if let Some(committed) = &mut self.committed {
            // Taken or dropped, both tell that the channel supervisor has seen it.
            committed.ready().await;
            self.committed = None;
        }
        let stopped = async {
            self.post.stop.stopped().await;
            DeskEvent::Stopped
        };
        let fact = async {
            match self.post.facts.recv().await {
                Ok(fact) => DeskEvent::Fact(fact),
                Err(_) => DeskEvent::Orphaned,
            }
        };
        let message = async {
            match self.mailbox.next().await {
                Some(message) => DeskEvent::Message(message),
                // The channel supervisor holds an address, so it is gone.
                None => DeskEvent::Orphaned,
            }
        };
        let event = stopped.or(fact).or(message);
        let waiting = self.post.points.waiting;
        match self.post.faults.survive(waiting, event).await {
            Ok(event) => event,
            Err(failure) => DeskEvent::Fault(failure),
        }
    }

    /// An event is there, and it is about to decide.
    pub(crate) fn deciding(&self) -> Result<(), Exit> {
        let decide = self.post.points.decide;
        self.post.faults.hit(decide).map_err(Exit::Failed)
    }

    /// Hands over a decision.
    pub(crate) fn hand_over(
        &mut self,
        record: Record,
        commands: Vec<Command>,
        answers: Vec<Answer>,
    ) -> Result<(), Exit> {
        let (faults, points) = (&self.post.faults, self.post.points);
        faults.hit(points.commit).map_err(Exit::Failed)?;
        let (taken, committed) = Reply::new();
        let commit = Commit {
            record,
            commands,
            answers,
            taken,
        };
        // There is room: the one before was taken, or `next` would not have returned.
        let handed = self.post.commits.try_send(commit);
        handed.map_err(|_| Exit::Stopped)?;
        self.committed = Some(committed);
        faults.hit(points.committed).map_err(Exit::Failed)
    }
}
