//! The connection of two that a shared service goes over, and those of the small bus's clients: both
//! with a bound for messages, and every body checked before anybody looks into it.

use std::{num::NonZeroUsize, os::unix::net::UnixStream, sync::Arc};

use actors::runtime::{Clock, Spawner};
use async_io::Async;
use futures_lite::StreamExt as _;
use zbus::{
    Guid, Message, MessageStream,
    connection::{AuthMechanism, Builder},
};

use super::pace::Pace;
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
/// Messages a second of the contact, and as many at once; who sends more is read later.
pub const MESSAGES_PER_SECOND: u32 = 5000;
/// How long the greeting may take.
const GREETING: std::time::Duration = std::time::Duration::from_secs(10);
/// Messages that are read ahead, of the contact, of a client and of the bus. Each may have as many bytes as may
/// be said there.
pub(super) const READ_AHEAD: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// What the contact says, at the pace that we take it.
pub(super) struct Contact {
    messages: MessageStream,
    pace: Pace,
    clock: Arc<dyn Clock>,
}

impl Contact {
    pub(super) fn new(messages: MessageStream, clock: Arc<dyn Clock>) -> Self {
        Contact {
            messages,
            pace: Pace::new(MESSAGES_PER_SECOND),
            clock,
        }
    }

    /// The next message; `None` when nothing more is read.
    pub(super) async fn next(&mut self) -> Option<Message> {
        let message = match self.messages.next().await? {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "nothing more is read from the contact");
                return None;
            }
        };
        let wait = self.pace.take(self.clock.now());
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
        Some(message)
    }
}

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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use actors::testing::VirtualClock;
    use futures_lite::future::{block_on, or, yield_now};
    use smol::Executor;

    use super::*;
    use crate::bounded_socket::MAX_GREETING;

    /// How joining ends when the other end says this and nothing more, and this much time passes.
    fn joining(says: &[u8], passes: std::time::Duration) -> Kind {
        let executor = Arc::new(Executor::new());
        let spawner = Spawner::new(executor.clone());
        let clock = VirtualClock::new();
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all(says).unwrap();
        let its_clock: Arc<dyn Clock> = clock.clone();
        let joined = async {
            join(here, &spawner, &its_clock)
                .await
                .err()
                .map(|error| error.kind)
        };
        let passing = async {
            while clock.sleepers() == 0 {
                yield_now().await;
            }
            clock.advance(passes);
            std::future::pending().await
        };
        let ended = block_on(executor.run(or(joined, passing)));
        ended.expect("nobody spoke D-Bus")
    }

    #[test]
    fn a_greeting_has_its_time() {
        assert_eq!(joining(b"", GREETING), Kind::TimedOut);
        assert_eq!(joining(b"OK 0123", GREETING), Kind::TimedOut);
    }

    #[test]
    fn a_greeting_has_its_length() {
        let nothing = std::time::Duration::ZERO;
        let endless = vec![b'A'; MAX_GREETING + 1];
        assert_eq!(joining(&endless, nothing), Kind::ConnectionFailed);
        let other = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(joining(other, nothing), Kind::ConnectionFailed);
    }
}
