//! The life of a channel, the same for every type; what differs is its [`ChannelType`].
//!
//! ```text
//!   new ──▶ publish ──▶ supervise: one event after the other, until finished ──▶ part ──▶ leave ──▶ gone
//!              │ refused                      │ an actor failed past its limit     ▲
//!              ▼                              └────────────────────────────────────┘
//!            gone
//! ```
//!
//! A commit of who decides is taken whole: record, published view, commands (signals among them) and answers
//! belong together.

use super::{Ended, Event, Followed, Note, Place, Shell, SiblingKind, publish, survive};
use crate::{
    endpoint::Token,
    model::Result,
    ports::{ChannelObject, ChannelSignal, Object},
    runtime::{Commit, Decider, Desk, Failure, FaultPoint, Reply, Stopper, Task, Time, run},
    supervisor::{AcceptedSocket, config::count},
};

/// What one type of channel has of its own, beside its [`Shell`].
pub(in crate::supervisor) trait ChannelType: Send + Sized + 'static {
    /// What it is made from.
    type Request: Send;
    /// What is fixed about it.
    type Description: Clone + Send + Sync;
    type Signal: Clone + Into<ChannelSignal> + Send + 'static;
    type View: Clone + Send + Sync + 'static;
    /// What is counted while it is open, for the view.
    type Meters: Default + Send + Sync + 'static;
    /// Who decides.
    type Decider: Decider;
    /// What its children tell, beside what all do.
    type Note: Send + 'static;
    /// A socket that waits for a decision.
    type Socket: From<AcceptedSocket> + Send + 'static;

    /// Who decides, among its siblings.
    const DECIDER: SiblingKind;

    /// One that nobody sees yet.
    ///
    /// # Errors
    /// Something that it cannot be without is not there.
    fn new(place: Place, request: Self::Request) -> Made<Self>;

    fn shell(&mut self) -> &mut Shell<Self>;

    /// What is published of it.
    fn view(record: &RecordOf<Self>, meters: &Self::Meters) -> Self::View;

    /// That a socket waits, as who decides is told it.
    fn waits(token: Token, socket: &Self::Socket) -> FactOf<Self>;

    /// That a sibling is given up, as who decides is told it.
    fn sibling_failed(what: String) -> FactOf<Self>;

    /// What else a successor of who decides is told again.
    fn still_holds(&self) -> Vec<FactOf<Self>> {
        Vec::new()
    }

    /// It is visible, and its siblings run.
    fn begin(&mut self) {}

    /// It is visible, and nobody ever got to know of it: it only ends.
    fn unwanted(&mut self) {}

    /// Starts the dialler, where there is one.
    fn start_dialler(&mut self) {}

    /// Does what who decides wants done.
    fn carry_out(&mut self, command: CommandOf<Self>) -> Result<(), Failure>;

    /// Hears one of its own children.
    fn hear(&mut self, note: Self::Note);

    /// The meters are due to be looked at; says whether they are again after a period.
    fn look(&mut self) -> Result<bool, Failure>;

    /// When [`ChannelType::on_time`] is due.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Something is due, be it this or something else.
    fn on_time(&mut self, _now: Time) {}

    /// Its actors are gone but for the announcer: does the last that signals tell of. After a failure it works
    /// on the recovery record alone.
    fn part(&mut self, failure: Option<Failure>) -> impl Future<Output = ()> + Send;

    /// It is withdrawn. Drops it, and gives what may tell the contact a little longer, within a limit of its own.
    fn last(self) -> Option<Task<()>>;
}

type MessageOf<C> = <<C as ChannelType>::Decider as Decider>::Message;
pub(super) type SeedOf<C> = <<C as ChannelType>::Decider as Decider>::Seed;
pub(super) type FactOf<C> = <<C as ChannelType>::Decider as Decider>::Fact;
pub(super) type RecordOf<C> = <<C as ChannelType>::Decider as Decider>::Record;
type CommandOf<C> = <<C as ChannelType>::Decider as Decider>::Command;
/// What is published of a channel.
pub(in crate::supervisor) type ObjectOf<C> =
    Object<<C as ChannelType>::Description, MessageOf<C>, <C as ChannelType>::View>;
/// A channel, and what is to be published of it.
pub(in crate::supervisor) type Made<C> = Result<(C, ObjectOf<C>)>;

/// Publishes its object, answers who asked for it, and runs it to its end.
pub(super) async fn live<C: ChannelType>(
    place: Place,
    request: C::Request,
    reply: Reply<Result<ObjectOf<C>>>,
) where
    ObjectOf<C>: Into<ChannelObject>,
{
    let (world, id, stop) = (place.world.clone(), place.id, place.stop.clone());
    let (mut channel, object) = match C::new(place, request) {
        Ok(made) => made,
        Err(why) => return reply.answer(Err(why)),
    };
    let Some(unwanted) = publish(&world, &stop, object, reply).await else {
        return;
    };
    let failure = if unwanted {
        channel.unwanted();
        None
    } else {
        survive(&world, id, supervise(&mut channel)).await
    };
    end(channel, failure).await;
}

async fn supervise<C: ChannelType>(channel: &mut C) -> Result<(), Failure> {
    let faults = channel.shell().world.config.faults.clone();
    start(channel, SiblingKind::Announcer);
    start(channel, C::DECIDER);
    channel.begin();
    while !channel.shell().finished {
        let deadline = channel.deadline();
        let event = channel.shell().select(deadline);
        let event = faults.survive(FaultPoint::ChannelWaiting, event).await?;
        apply(channel, event)?;
    }
    Ok(())
}

/// Starts one of the siblings, the first or a successor.
fn start<C: ChannelType>(channel: &mut C, kind: SiblingKind) {
    match kind {
        SiblingKind::Announcer => channel.shell().start_announcer(),
        SiblingKind::Listener => channel.shell().start_listener(),
        SiblingKind::Dialler => channel.start_dialler(),
        SiblingKind::Tube | SiblingKind::Transfer => {
            let still = channel.still_holds();
            let shell = channel.shell();
            let waiting = shell.waiting.iter();
            let waiting = waiting.map(|(token, socket)| C::waits(token, socket));
            shell.telling.tell_again(waiting.chain(still));
            let decider = C::Decider::new(shell.seed.clone(), shell.record.clone());
            let desk = Desk::new(shell.post.clone(), shell.mailbox.lend(), decider);
            let (stopper, stop) = Stopper::new();
            let life = Box::pin(async move { run(desk, &stop).await });
            shell.run_sibling(kind, stopper, life);
        }
    }
}

fn apply<C: ChannelType>(channel: &mut C, event: Event<C>) -> Result<(), Failure> {
    let now = channel.shell().world.clock.now();
    if let Event::Note(_) = &event {
        let faults = &channel.shell().world.config.faults;
        faults.hit(FaultPoint::ChannelNote)?;
        // On several threads a decision may have come after `select` had looked for one, and before the
        // note that is about it: the end of who took it, for example.
        while let Ok(commit) = channel.shell().commits.try_recv() {
            take(channel, commit)?;
        }
    }
    match event {
        Event::Commit(commit) => take(channel, *commit)?,
        // Who is done ends. The announcer may have failed before it has said all.
        Event::Note(Note::SiblingEnded(kind, _))
            if kind == C::DECIDER && channel.shell().finished => {}
        Event::Note(Note::SiblingEnded(kind, ended)) => sibling_ended(channel, kind, ended, now)?,
        Event::Note(Note::Accepted(accepted)) => channel.shell().keep(accepted.into()),
        Event::Note(Note::Own(note)) => channel.hear(note),
        Event::Hurry => start(channel, C::DECIDER),
        Event::Timer => {
            for kind in channel.shell().due_for_restart(now) {
                start(channel, kind);
            }
            if channel.shell().meters_due.is_some_and(|due| due <= now) {
                let again = channel.look()?;
                let shell = channel.shell();
                shell.meters_due = again.then(|| shell.next_look());
            }
            channel.on_time(now);
        }
    }
    Ok(())
}

/// A sibling has ended; it is restarted if it failed. Past its limit the failure moves up: from the listener
/// or the dialler to who decides, which closes in order; from the others to the channel.
fn sibling_ended<C: ChannelType>(
    channel: &mut C,
    kind: SiblingKind,
    ended: Ended,
    now: Time,
) -> Result<(), Failure> {
    let shell = channel.shell();
    let Followed::GivenUp(what) = shell.sibling_ended(kind, ended, now) else {
        return Ok(());
    };
    match kind {
        SiblingKind::Listener | SiblingKind::Dialler => {
            count(&shell.world.counters.channels);
            shell.telling.tell_for_good(C::sibling_failed(what));
            Ok(())
        }
        _ => Err(Failure::Failed(what)),
    }
}

/// Takes a decision.
fn take<C: ChannelType>(channel: &mut C, commit: Commit<C::Decider>) -> Result<(), Failure> {
    let faults = channel.shell().world.config.faults.clone();
    faults.hit(FaultPoint::ChannelCommit)?;
    channel.shell().record = commit.record;
    // Before its signals: who hears one and looks sees the new state.
    channel.shell().publish();
    for command in commit.decision.commands {
        channel.carry_out(command)?;
    }
    let answers = commit.decision.answers.into_iter();
    answers.for_each(|answer| answer.send());
    commit.taken.answer(());
    faults.hit(FaultPoint::ChannelCommitted)
}

/// Ends a channel. Afterwards nothing of it is left: no task, no descriptor, no object.
async fn end<C: ChannelType>(mut channel: C, failure: Option<Failure>) {
    let shell = channel.shell();
    shell.end_sibling(C::DECIDER).await;
    // A decision nobody carries out any more: who waits for its answers learns so.
    while shell.commits.try_recv().is_ok() {}
    shell.listening = None;
    shell.end_sibling(SiblingKind::Listener).await;
    shell.end_sibling(SiblingKind::Dialler).await;
    shell.waiting.clear();
    channel.part(failure).await;
    channel.shell().leave().await;
    // Whoever still asks something is answered by the mailbox being gone, and a task that still tells something
    // is not held up.
    if let Some(task) = channel.last() {
        drop(task.await);
    }
}
