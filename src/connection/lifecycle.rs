//! A connection's beginning and its end, around the actor.
//!
//! ```text
//!  start ──> actor runs ──┬─ Disconnect, session lost, failed, panicked
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
//! actor's state: it works from what was published.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actors::{
    model::{Error, OwnerId},
    runtime::{Clock, Exit, Mailbox, Snapshot, SnapshotWriter, Spawner, Stopper, Task, run},
};
use async_channel::Receiver;
use futures_lite::FutureExt as _;

use super::{
    actor::{Connection, Parts},
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

/// What every connection is started with.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) spawner: Spawner,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tree: Arc<dyn ConnectionTree>,
    pub(super) opener: Arc<dyn ChannelOpener>,
    pub(super) sockets: SocketsOf,
}

/// Publishes a connection and starts it. `ended` runs after its end, whatever that was.
///
/// # Errors
/// What publishing it answers; the session is closed then.
pub(super) async fn start(
    surroundings: Surroundings,
    id: OwnerId,
    account: Account,
    (session, events): StartedSession,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<ConnectionHandle, Error> {
    let (mailbox, address) = Mailbox::new(MAILBOX);
    let (writer, view) = Snapshot::new(ConnectionView::new());
    let writer = Arc::new(writer);
    let handle = ConnectionHandle {
        id,
        bus_name: protocol::connection_bus_name(account.identifier()).into(),
        path: protocol::connection_path(account.identifier()).into(),
        profile: account.profile.as_str().into(),
        address,
        view,
        order: Arc::default(),
        session: session.clone(),
        sockets: (surroundings.sockets)(&account),
    };
    if let Err(error) = surroundings.tree.publish(handle.clone()).await {
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
    });
    let announcing = surroundings.spawner.spawn(
        "connection announcer",
        announce(surroundings.tree.clone(), id, outgoing),
    );
    let running = surroundings.spawner.spawn("connection", async move {
        // It ends by a message only, so that nothing is cut off.
        let (_never, stop) = Stopper::new();
        run(actor, &stop).await
    });
    let spawner = surroundings.spawner.clone();
    let last = handle.clone();
    spawner
        .spawn("connection lifecycle", async move {
            let exit = match running.await {
                Ok(exit) => exit,
                Err(failure) => Exit::Failed(failure),
            };
            let ending = ending.try_recv().unwrap_or_else(|_| Ending {
                reason: StatusReason::NoneSpecified,
                error: Some(Error::Confused(format!("the connection ended: {exit:?}"))),
                replies: Vec::new(),
                outbox: VecDeque::new(),
            });
            conclude(&surroundings, &last, &writer, announcing, ending).await;
            ended.await;
        })
        .detach();
    Ok(handle)
}

/// Emits signals in the order the actor gave them, until the actor is gone.
async fn announce(tree: Arc<dyn ConnectionTree>, id: OwnerId, outgoing: Receiver<Outgoing>) {
    while let Ok(next) = outgoing.recv().await {
        emit(&*tree, id, next).await;
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
    tree.emit(id, signal).await;
}

async fn conclude(
    surroundings: &Surroundings,
    handle: &ConnectionHandle,
    view: &SnapshotWriter<ConnectionView>,
    announcing: Task<()>,
    ending: Ending,
) {
    let Surroundings {
        tree,
        opener,
        clock,
        ..
    } = surroundings;
    // The actor is gone and with it the announcer's queue: this drains it.
    if let Err(failure) = announcing.await {
        tracing::error!(%failure, "the announcer failed; its signals are lost");
    }
    for outgoing in ending.outbox {
        emit(&**tree, handle.id, outgoing).await;
    }
    opener.close_owner(handle.id).await;
    let last = view.get();
    view.publish(ConnectionView {
        channels: Arc::default(),
        ..(*last).clone()
    });
    for channel in last.channels.values() {
        let closed = ConnectionSignal::ChannelClosed(channel.clone());
        tree.emit(handle.id, closed).await;
    }
    let in_time = async {
        handle.session.disconnect().await;
        true
    }
    .or(async {
        clock.sleep(GOODBYE).await;
        false
    })
    .await;
    if !in_time {
        tracing::warn!(connection = %handle.path, "the session did not say goodbye in time");
    }
    view.publish(ConnectionView {
        status: Status::Disconnected,
        self_handle: last.self_handle,
        contact_list: last.contact_list,
        contacts: last.contacts.clone(),
        channels: Arc::default(),
    });
    if let Some(error) = ending.error {
        tracing::info!(connection = %handle.path, %error, "disconnected");
        tree.emit(handle.id, ConnectionSignal::ConnectionError(error))
            .await;
    }
    let changed = ConnectionSignal::StatusChanged(Status::Disconnected, ending.reason);
    tree.emit(handle.id, changed).await;
    tree.withdraw(handle.id).await;
    ending
        .replies
        .into_iter()
        .for_each(|reply| reply.answer(()));
}
