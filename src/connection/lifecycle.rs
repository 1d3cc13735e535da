//! A connection's beginning and its end, around the actor.
//!
//! ```text
//!  start ──> actor runs ──┬─ Disconnect, session lost, failed, panicked,
//!     │                   │  announcer, supervisor or manager failed
//!     │                   v
//!     │               signals that wait are emitted
//!     │               channels close (Closed, ChannelClosed each)
//!     │               the session says goodbye
//!     │               ConnectionError if any, StatusChanged(Disconnected)
//!     │               object and bus name go
//!     │               those who asked for it are answered
//! ```
//!
//! The end is the same whatever brought it, a panic included, because nothing in it needs the
//! actor's state: it works from what was published. A connection's actors are not restarted: its
//! session knows only the one it told everything, and a Disconnected is what clients deal with.
//!
//! A step of the end that panics is skipped, and a tree that does not answer within [`PATIENCE`], a
//! session within [`GOODBYE`], is not waited for any longer; so every end comes.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use actors::{
    model::{Error, OwnerId},
    runtime::{
        Clock, Exit, Failure, Faults, Mailbox, Snapshot, SnapshotWriter, Spawner, Stop, Stopper,
        Task, catch, run, within,
    },
};
use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{
    actor::{Connection, Parts},
    fault::Point,
    message::ConnectionHandle,
    outgoing::{Ending, Outgoing},
    parameters::Account,
    ports::{ChannelOpener, ConnectionTree, SocketsOf, StartedSession},
    protocol,
    view::{ConnectionSignal, ConnectionView, Status, StatusReason},
};

/// Questions that wait for a connection; whoever asks one more waits.
const MAILBOX: usize = 64;
/// Signals that wait to be emitted; the actor does nothing more until there is room.
const SIGNALS: usize = 64;
/// How long a session may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);
/// How long the tree may take for the signals that wait, again for those of the end, and again to
/// take the object away. Signals that are not emitted by then are lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// What every connection is started with.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) spawner: Spawner,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tree: Arc<dyn ConnectionTree>,
    pub(super) opener: Arc<dyn ChannelOpener>,
    pub(super) sockets: SocketsOf,
    /// Ends every connection, in order, when the manager is gone.
    pub(super) stop: Stop,
    pub(super) faults: Faults<Point>,
    /// Nothing is sent: closed once the manager and every connection are gone.
    pub(super) _alive: Sender<Infallible>,
}

/// Whom a connection tells of its end.
pub(super) struct Mourner<Begun, Over> {
    /// Runs before anybody else can notice that it ends.
    pub(super) begun: Begun,
    /// Runs when nothing of it is left.
    pub(super) over: Over,
}

/// Publishes a connection and starts it; `mourner` hears of its end, whatever that was.
///
/// # Errors
/// What publishing it answers; the session is closed then.
pub(super) async fn start(
    surroundings: Surroundings,
    id: OwnerId,
    account: Account,
    (session, events): StartedSession,
    mourner: Mourner<
        impl Future<Output = ()> + Send + 'static,
        impl Future<Output = ()> + Send + 'static,
    >,
) -> Result<ConnectionHandle, Error> {
    let (mailbox, address) = Mailbox::new(MAILBOX);
    let (writer, view) = Snapshot::new(ConnectionView::new());
    let writer = Arc::new(writer);
    let (left, gone) = async_channel::bounded(1);
    let handle = ConnectionHandle {
        id,
        bus_name: protocol::connection_bus_name(account.identifier()).into(),
        path: protocol::connection_path(account.identifier()).into(),
        profile: account.profile.as_str().into(),
        account: Arc::new(account.clone()),
        address,
        view,
        order: Arc::default(),
        session: session.clone(),
        gone,
        sockets: (surroundings.sockets)(&account),
        asked_to_end: Arc::default(),
    };
    let published = catch("publish", surroundings.tree.publish(handle.clone())).await;
    let published = published.unwrap_or_else(|failure| Err(Error::Confused(failure.to_string())));
    if let Err(error) = published {
        surroundings.tree.withdraw(id).await;
        session.disconnect().await;
        return Err(error);
    }
    let (announcer, outgoing) = async_channel::bounded(SIGNALS);
    let (ending_sender, ending) = async_channel::bounded(1);
    let actor = Connection::new(Parts {
        handle: handle.clone(),
        account,
        events,
        mailbox,
        view: writer.clone(),
        announcer,
        ending: ending_sender,
        spawner: surroundings.spawner.clone(),
        clock: surroundings.clock.clone(),
        opener: surroundings.opener.clone(),
        faults: surroundings.faults.clone(),
    });
    let mut announcing = surroundings.spawner.spawn(
        "connection announcer",
        announce(surroundings.clone(), id, outgoing),
    );
    let mut running = surroundings.spawner.spawn("connection", async move {
        // It ends by a message only, so that nothing is cut off.
        let (_never, stop) = Stopper::new();
        run(actor, &stop).await
    });
    let spawner = surroundings.spawner.clone();
    let last = handle.clone();
    spawner
        .spawn("connection lifecycle", async move {
            // Whichever of these ends, the connection does. Its own actor first: what that says of
            // its end counts.
            let exit = async { (&mut running).await.unwrap_or_else(Exit::Failed) }
                .or(async {
                    let failure = match (&mut announcing).await {
                        Ok(Ok(())) => Failure::Failed("it ended by itself".into()),
                        Ok(Err(failure)) | Err(failure) => failure,
                    };
                    failed("the announcer", &failure.to_string())
                })
                .or(async {
                    surroundings.stop.stopped().await;
                    failed("the manager", "is gone")
                })
                .or(async {
                    surroundings.opener.gone().await;
                    failed("the supervisor", "is gone")
                })
                .await;
            mourner.begun.await;
            running.cancel().await;
            let ending = ending.try_recv().unwrap_or_else(|_| Ending {
                reason: StatusReason::NoneSpecified,
                error: Some(Error::Confused(format!("the connection ended: {exit:?}"))),
                replies: Vec::new(),
                outbox: VecDeque::new(),
            });
            conclude(&surroundings, &last, &writer, announcing, ending).await;
            drop(left);
            mourner.over.await;
        })
        .detach();
    Ok(handle)
}

fn failed(who: &str, how: &str) -> Exit {
    Exit::Failed(Failure::Failed(format!("{who} {how}")))
}

/// Emits signals in the order the actor gave them, until the actor is gone.
async fn announce(
    surroundings: Surroundings,
    id: OwnerId,
    outgoing: Receiver<Outgoing>,
) -> Result<(), Failure> {
    let Surroundings { tree, faults, .. } = surroundings;
    loop {
        let next = faults.survive(Point::AnnouncerWaiting, outgoing.recv());
        let Ok(next) = next.await? else {
            return Ok(());
        };
        faults.hit(Point::AnnouncerTake)?;
        let emitting = emit(&*tree, id, next);
        faults.survive(Point::AnnouncerEmitting, emitting).await?;
        faults.hit(Point::AnnouncerEmitted)?;
    }
}

async fn emit(tree: &dyn ConnectionTree, id: OwnerId, outgoing: Outgoing) {
    let signal = match outgoing {
        Outgoing::Signal(signal) => signal,
        Outgoing::After(sent, signal) => {
            // Dropped is how it says that the answer is on its way, or never will be.
            sent.wait().await.ok();
            signal
        }
    };
    if let Err(failure) = catch("signal of a connection", tree.emit(id, signal)).await {
        tracing::error!(%failure, "a signal is lost");
    }
}

/// Does a step of the end, for so long at most.
async fn step(clock: &dyn Clock, limit: Duration, what: &'static str, doing: impl Future) {
    // A panic is told of already; the other steps are done.
    if within(clock, limit, catch(what, doing)).await.is_none() {
        tracing::warn!(what, "not done in time");
    }
}

async fn conclude(
    surroundings: &Surroundings,
    handle: &ConnectionHandle,
    view: &SnapshotWriter<ConnectionView>,
    announcing: Task<Result<(), Failure>>,
    ending: Ending,
) {
    let Surroundings {
        tree,
        opener,
        clock,
        ..
    } = surroundings;
    let id = handle.id;
    let waiting = async {
        // The actor is gone and with it the announcer's queue: this drains it. One that failed has
        // been awaited already.
        if !announcing.is_finished()
            && let Ok(Err(failure)) | Err(failure) = announcing.await
        {
            tracing::error!(%failure, "the announcer failed; its signals are lost");
        }
        for outgoing in ending.outbox {
            emit(&**tree, id, outgoing).await;
        }
    };
    step(&**clock, PATIENCE, "signals that wait", waiting).await;
    // Has limits of its own.
    catch("closing of channels", opener.close_owner(id))
        .await
        .ok();
    let last = view.get();
    view.publish(ConnectionView {
        channels: Arc::default(),
        ..(*last).clone()
    });
    let closed = async {
        for channel in last.channels.values() {
            let closed = ConnectionSignal::ChannelClosed(channel.clone());
            emit(&**tree, id, Outgoing::Signal(closed)).await;
        }
    };
    step(&**clock, PATIENCE, "channels that closed", closed).await;
    let goodbye = async { handle.session.disconnect().await };
    step(&**clock, GOODBYE, "the session's goodbye", goodbye).await;
    view.publish(ConnectionView {
        status: Status::Disconnected,
        self_handle: last.self_handle,
        contact_list: last.contact_list,
        contacts: last.contacts.clone(),
        channels: Arc::default(),
    });
    let disconnected = async {
        if let Some(error) = ending.error {
            tracing::info!(connection = %handle.path, %error, "disconnected");
            let error = ConnectionSignal::ConnectionError(error);
            emit(&**tree, id, Outgoing::Signal(error)).await;
        }
        let changed = ConnectionSignal::StatusChanged(Status::Disconnected, ending.reason);
        emit(&**tree, id, Outgoing::Signal(changed)).await;
    };
    step(&**clock, PATIENCE, "the last signals", disconnected).await;
    let withdrawing = async { tree.withdraw(id).await };
    step(&**clock, PATIENCE, "the object's withdrawal", withdrawing).await;
    ending
        .replies
        .into_iter()
        .for_each(|reply| reply.answer(()));
}
