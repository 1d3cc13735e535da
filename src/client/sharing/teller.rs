//! Tells the contact, and leaves one that does not read: what waits for it waits with a bus or with programs
//! that have other things to do.
//!
//! Who reads slowly is waited for; who reads now and then, so that it is never late with one message, is waited
//! for less and less: what it kept us waiting is taken from what the next message may take, but for a second
//! for each [`LEAST_A_SECOND`] of what it read, until nothing waited for as long.

use std::{sync::Arc, time::Duration};

use actors::runtime::{Clock, Time};
use smol::lock::Mutex;
use zbus::{Message, connection::Connection as Wire};

use crate::client::{
    bus::within,
    error::{Error, Kind, Result},
};

/// How long the contact may take to read a message, and one second more for each [`BYTES_A_SECOND`] of it and
/// of the one before it, which may still be on its way. Who takes longer is left.
pub const READ_WITHIN: Duration = Duration::from_secs(30);
const BYTES_A_SECOND: u32 = 256 * 1024;
/// What any line can carry that is good for anything.
const LEAST_A_SECOND: u32 = 4 * 1024;

/// See the module's head.
pub(super) struct Teller {
    wire: Wire,
    clock: Arc<dyn Clock>,
    /// Held while a message is sent, so that the time of each begins when it is its turn.
    patience: Mutex<Patience>,
}

impl Teller {
    /// For a contact of which nothing is known yet.
    pub(super) fn new(wire: Wire, clock: Arc<dyn Clock>) -> Self {
        Teller {
            wire,
            clock,
            patience: Mutex::default(),
        }
    }

    /// Sends it. A contact that is gone is noticed where it is read from.
    ///
    /// # Errors
    /// [`Kind::TimedOut`] when the contact does not read. Half a message may have been sent then.
    pub(super) async fn tell(&self, message: &Message) -> Result<()> {
        let mut patience = self.patience.lock().await;
        let begun = self.clock.now();
        let bytes = message.data().len();
        let late = Error::new(Kind::TimedOut, "the contact does not read what it is told");
        within(&self.clock, patience.with(bytes, begun), late, async {
            if let Err(error) = self.wire.send(message).await {
                tracing::debug!(%error, "nothing more is sent to the contact");
            }
            Ok(())
        })
        .await?;
        patience.had(bytes, begun, self.clock.now());
        Ok(())
    }
}

/// How long the contact is waited for.
#[derive(Debug, Default)]
struct Patience {
    /// Bytes of the last message.
    before: usize,
    /// What it kept us waiting beyond its pace.
    debt: Duration,
    /// When it had read that.
    until: Time,
}

impl Patience {
    /// How long it may take to read so much.
    fn with(&mut self, bytes: usize, now: Time) -> Duration {
        self.debt = self.debt.saturating_sub(now.saturating_sub(self.until));
        (READ_WITHIN + at(BYTES_A_SECOND, self.before + bytes)).saturating_sub(self.debt)
    }

    /// It has read it.
    fn had(&mut self, bytes: usize, begun: Time, now: Time) {
        let took = now.saturating_sub(begun);
        self.debt = (self.debt + took).saturating_sub(at(LEAST_A_SECOND, bytes));
        (self.before, self.until) = (bytes, now);
    }
}

/// How long so many bytes take at so many a second.
fn at(pace: u32, bytes: usize) -> Duration {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Duration::from_secs(1) * bytes / pace
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages of so many bytes, each of which takes so long, until one takes too long.
    fn read(bytes: usize, each: Duration, most: usize) -> usize {
        let (mut patience, mut now) = (Patience::default(), Time::ZERO);
        (0..most)
            .take_while(|_| {
                let within = patience.with(bytes, now);
                let begun = now;
                now += each;
                patience.had(bytes, begun, now);
                each < within
            })
            .count()
    }

    #[test]
    fn who_reads_is_never_left() {
        assert_eq!(read(16 * 1024 * 1024, Duration::from_secs(64), 1000), 1000);
        assert_eq!(read(4096, Duration::from_secs(1), 1000), 1000);
        assert_eq!(read(1024, Duration::from_millis(3), 100_000), 100_000);
    }

    #[test]
    fn who_reads_in_drips_is_left() {
        assert_eq!(read(4096, Duration::from_secs(29), 1000), 1);
        assert!(read(100, Duration::from_secs(1), 1000) < 40);
    }

    #[test]
    fn a_stall_is_forgiven_once_nothing_waited_for_as_long() {
        let mut patience = Patience::default();
        let stall = Duration::from_secs(25);
        patience.had(100, Time::ZERO, stall);
        let short = patience.with(100, stall);
        assert!(short < Duration::from_secs(6), "{short:?}");
        let long = patience.with(100, stall * 2);
        assert!(long >= READ_WITHIN, "{long:?}");
    }
}
