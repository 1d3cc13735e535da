//! Trying again, with pauses that grow: for what lasts longer than a connection, `send` and `receive`
//! ([`Again`]), and for what is offered once more each time that the contact closes it, `offer --again`
//! ([`rounds`]).

use std::time::Duration;

use super::{
    app::App,
    failure::{Code, Failure, Outcome},
    offer::EndedBy,
};

/// How long to wait before something is tried again: the first time, and at most.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// How often a connection may end before the command had one at all: one that somebody else takes
/// offline at this moment must not end it, and one that never lasts must.
const MOST_EARLY: u32 = 5;

/// See the module's head.
#[derive(Debug)]
pub struct Again {
    pause: Duration,
    early: u32,
}

impl Again {
    /// Nothing has gone wrong yet.
    pub fn new() -> Self {
        Again {
            pause: FIRST,
            early: 0,
        }
    }

    /// It went on for a while.
    pub fn went_on(&mut self) {
        self.pause = FIRST;
    }

    /// Why to try again to get online, or the failure itself: what keeps a command from beginning is said at
    /// once; later, it will pass.
    ///
    /// # Errors
    /// The failure.
    pub fn why(&mut self, failure: Failure, began: bool) -> Outcome<String> {
        match failure {
            Failure::Error { word, message, .. }
                if matches!(word, "disconnected" | "service-gone")
                    && (began || self.early < MOST_EARLY) =>
            {
                self.early += 1;
                Ok(message)
            }
            Failure::Error {
                word,
                message,
                code: Code::Failed | Code::NoService | Code::TimedOut,
            } if began && !matches!(word, "no-bus" | "io") => Ok(message),
            failure => Err(failure),
        }
    }

    /// Waits; longer each time.
    pub async fn wait(&mut self, app: &App) {
        app.clock.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST);
    }
}

/// Goes through a round, and with `again` through another one each time that the contact has ended one. Who
/// ends them at once waits for the next: see [`Pauses`].
///
/// # Errors
/// What a round fails with.
pub async fn rounds(
    app: &App,
    again: bool,
    mut round: impl AsyncFnMut() -> Outcome<EndedBy>,
) -> Outcome {
    let mut pauses = Pauses::new();
    loop {
        let began = app.clock.now();
        if round().await? != EndedBy::Contact || !again {
            return Ok(());
        }
        let pause = pauses.after(app.clock.now().saturating_sub(began));
        if !pause.is_zero() {
            let waiting = async {
                app.clock.sleep(pause).await;
                Ok(())
            };
            match app.interruptible(waiting).await {
                Err(Failure::Interrupted) => return Ok(()),
                waited => waited?,
            }
        }
    }
}

/// The pause between two rounds: none after one that lasted, else a second, and twice as long each time, up
/// to a minute, until one lasts longer than the pause before it would be.
#[derive(Debug)]
struct Pauses {
    next: Duration,
}

impl Pauses {
    const FIRST: Duration = Duration::from_secs(1);

    fn new() -> Self {
        Pauses { next: Self::FIRST }
    }

    /// After a round that lasted so long.
    fn after(&mut self, lasted: Duration) -> Duration {
        if lasted >= self.next {
            self.next = Self::FIRST;
            return Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Error, Kind};

    #[test]
    fn short_rounds_have_pauses_that_grow() {
        let mut pauses = Pauses::new();
        let short = Duration::from_millis(1);
        let seconds: Vec<u64> = (0..8).map(|_| pauses.after(short).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses.after(LONGEST - short), LONGEST, "not long enough");
        assert_eq!(pauses.after(LONGEST), Duration::ZERO);
        assert_eq!(pauses.after(short).as_secs(), 1);
    }

    #[test]
    fn what_passes_is_tried_again_once_it_had_begun() {
        let of = |kind| Failure::from(Error::new(kind, "x"));
        let mut again = Again::new();
        assert!(again.why(of(Kind::NetworkError), false).is_err());
        assert!(again.why(of(Kind::NetworkError), true).is_ok());
        assert!(again.why(of(Kind::NoBus), true).is_err());
        assert!(again.why(of(Kind::Io), true).is_err());
        assert!(again.why(of(Kind::FingerprintMismatch), true).is_err());
        assert!(again.why(Failure::Interrupted, true).is_err());
        let early = (0..9).take_while(|_| again.why(of(Kind::Disconnected), false).is_ok());
        assert_eq!(early.count(), usize::try_from(MOST_EARLY).unwrap_or(0));
        assert!(again.why(of(Kind::Disconnected), true).is_ok());
    }
}
