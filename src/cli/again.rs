//! Trying again, with pauses that grow, for what lasts longer than a connection: `send` and `receive`.

use std::time::Duration;

use super::{
    app::App,
    failure::{Code, Failure, Outcome},
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Error, Kind};

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
