//! One peer: its greeting, then its messages both ways, then its end.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, atomic::Ordering},
};

use actors::runtime::{Clock, Spawner, catch, within};
use async_io::Async;
use futures_lite::{FutureExt as _, StreamExt as _};
use zbus::{
    Guid, MessageStream,
    connection::{AuthMechanism, Builder},
};

use super::{GREETING, MAX_MESSAGE, Peers, Queue};
use crate::{bounded_socket::PeerSocket, runtime::OurRuntime};

/// Messages of a peer that zbus reads ahead.
const READ_AHEAD: std::num::NonZeroUsize = std::num::NonZeroUsize::new(2).unwrap();

/// Serves who has connected, until either side has had enough. `uid` is what the kernel said of it.
pub(super) async fn serve(
    peers: Peers,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    guid: Guid<'static>,
    stream: Async<UnixStream>,
    uid: u32,
) {
    let Ok(second) = stream.get_ref().try_clone() else {
        return;
    };
    let Some((id, queue)) = peers.enter(second) else {
        tracing::warn!("a client more than there is room for is closed");
        return;
    };
    // Whatever ends this task gives up the place.
    let place = Leaving(&peers, id);
    let socket = PeerSocket {
        stream: Arc::new(stream),
        uid,
        longest: MAX_MESSAGE,
    };
    // Also a panic of the library at what a peer sends is the end of that peer only.
    let greeting = catch("a client's greeting", greet(socket, guid, &spawner));
    match within(&*clock, GREETING, greeting).await {
        Some(Ok(Ok(calls))) => {
            tracing::debug!(peer = id, "a client without a bus has come");
            peers.greeted(id);
            exchange(&peers, id, calls, queue).await;
        }
        Some(Ok(Err(error))) => tracing::debug!(%error, "a client's greeting failed"),
        Some(Err(_)) => {}
        None => tracing::debug!("a client took too long for its greeting"),
    }
    drop(place);
    tracing::debug!(peer = id, "a client without a bus is gone");
}

struct Leaving<'p>(&'p Peers, u64);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

async fn greet(
    socket: PeerSocket,
    guid: Guid<'static>,
    spawner: &Spawner,
) -> zbus::Result<MessageStream> {
    Builder::socket(socket)
        .server(guid)
        .p2p()
        .auth_mechanism(AuthMechanism::External)
        .validate_bodies()
        .max_queued(READ_AHEAD)
        .runtime(OurRuntime::new(spawner.clone()))
        .build_message_stream()
        .await
}

async fn exchange(peers: &Peers, id: u64, mut calls: MessageStream, queue: Queue) {
    let connection = zbus::Connection::from(&calls);
    let reading = async {
        while let Some(message) = calls.next().await {
            match message {
                Ok(message) if peers.receive(id, &message).await => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(peer = id, %error, "nothing more is read from a client");
                    return;
                }
            }
        }
    };
    let writing = async {
        // The queue ends when the service does, and is emptied first.
        while let Ok(message) = queue.messages.recv().await {
            let size = message.data().len();
            if let Err(error) = connection.send(&message).await {
                tracing::debug!(peer = id, %error, "nothing more is sent to a client");
                return;
            }
            queue.waiting.fetch_sub(size, Ordering::Relaxed);
        }
    };
    writing.or(reading).await;
}
