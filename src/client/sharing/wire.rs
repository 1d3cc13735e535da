//! The connection of two that a shared service goes over, and those of the small bus's clients: both
//! with a bound for messages, and every body checked before anybody looks into it.

use std::{num::NonZeroUsize, os::unix::net::UnixStream, sync::Arc};

use actors::runtime::{Clock, Spawner};
use async_io::Async;
use zbus::{
    Guid, MessageStream,
    connection::{AuthMechanism, Builder},
};

use crate::{
    bounded_socket::PeerSocket,
    client::{
        bus::within,
        error::{Error, Kind, Result},
    },
    place::own_uid,
    runtime::OurRuntime,
};

/// Most bytes of a message to or from a shared service; who sends a longer one is disconnected.
pub const MOST_BYTES: usize = 16 * 1024 * 1024;
/// How long the greeting may take.
const GREETING: std::time::Duration = std::time::Duration::from_secs(10);
/// Messages that are read ahead.
const READ_AHEAD: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Greets as the client of a D-Bus connection of two, such as a tube's socket.
///
/// # Errors
/// [`Kind::ConnectionFailed`] when there is nobody who speaks D-Bus, [`Kind::Io`].
pub async fn join(
    stream: UnixStream,
    spawner: &Spawner,
    clock: &Arc<dyn Clock>,
) -> Result<MessageStream> {
    let builder = Builder::socket(socket(stream)?);
    greet(builder, spawner, clock).await
}

/// Greets as the server: who is there must be this user's process.
///
/// # Errors
/// As [`join`].
pub(super) async fn welcome(
    stream: UnixStream,
    guid: Guid<'static>,
    spawner: &Spawner,
    clock: &Arc<dyn Clock>,
) -> Result<MessageStream> {
    let builder = Builder::socket(socket(stream)?)
        .server(guid)
        .auth_mechanism(AuthMechanism::External);
    greet(builder, spawner, clock).await
}

fn socket(stream: UnixStream) -> Result<PeerSocket> {
    let stream =
        Async::new(stream).map_err(|error| Error::io("a connection cannot be used", &error))?;
    Ok(PeerSocket {
        stream: Arc::new(stream),
        uid: own_uid(),
        longest: MOST_BYTES,
    })
}

async fn greet(
    builder: Builder<'_>,
    spawner: &Spawner,
    clock: &Arc<dyn Clock>,
) -> Result<MessageStream> {
    let late = Error::new(Kind::TimedOut, "the greeting took too long");
    within(clock, GREETING, late, async {
        builder
            .p2p()
            .validate_bodies()
            .max_queued(READ_AHEAD)
            .runtime(OurRuntime::new(spawner.clone()))
            .build_message_stream()
            .await
            .map_err(|error| {
                let why = format!("the other end does not speak D-Bus: {error}");
                Error::new(Kind::ConnectionFailed, why)
            })
    })
    .await
}
