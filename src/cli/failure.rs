//! How a command fails: an exit code, and one sentence that says what happened and what to do.
//! The kinds of the client library become both here and nowhere else.

use crate::client::{self, Kind};

/// The exit codes, as `pneuma help` documents them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Something failed that no other code says better.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// The contact is unknown or not on the network.
    NotFound = 3,
    /// Somebody refused: the contact, the user, or the rules about trust.
    Refused = 4,
    /// It did not happen in time.
    TimedOut = 5,
    /// No connection manager could be reached or started, on the session bus or without one.
    NoService = 6,
    /// Stopped by Ctrl-C or SIGTERM before it was done.
    Interrupted = 130,
}

/// Why a command ends before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// With an exit code and a sentence.
    Error {
        /// The code.
        code: Code,
        /// A word for programs that read `--json`.
        word: &'static str,
        /// The sentence, without its full stop; safe for a terminal once made so.
        message: String,
    },
    /// Whoever read our output went away: nothing to say and nobody to say it to.
    BrokenPipe,
    /// Stopped by the user: nothing to say, the user knows.
    Interrupted,
}

/// Shorthand for what commands return.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with this code, word and sentence.
    pub fn new(code: Code, word: &'static str, message: impl Into<String>) -> Self {
        Failure::Error {
            code,
            word,
            message: message.into(),
        }
    }

    /// The command line asks for something that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Code::Usage, "usage", message)
    }

    /// Something failed that no other code says better.
    pub fn failed(message: impl Into<String>) -> Self {
        Failure::new(Code::Failed, "failed", message)
    }

    /// It did not happen in time.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Failure::new(Code::TimedOut, "timed-out", message)
    }

    /// The process's exit code. A reader that went away had what it wanted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Error { code, .. } => *code as u8,
            Failure::BrokenPipe => 0,
            Failure::Interrupted => Code::Interrupted as u8,
        }
    }
}

impl From<std::io::Error> for Failure {
    /// For output. Other input and output says what it was for.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Failure::BrokenPipe
        } else {
            Failure::failed(format!("the output could not be written: {error}"))
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let (code, word, advice) = explain(error.kind);
        let message = if advice.is_empty() {
            error.message
        } else {
            format!("{}; {advice}", error.message)
        };
        Failure::new(code, word, message)
    }
}

/// For each kind: the exit code, the word for programs, and what to do, where there is something.
fn explain(kind: Kind) -> (Code, &'static str, &'static str) {
    match kind {
        Kind::NoBus => (
            Code::NoService,
            "no-bus",
            "look whether DBUS_SESSION_BUS_ADDRESS names a bus that runs; without that variable, none is needed",
        ),
        Kind::NoService => (
            Code::NoService,
            "no-service",
            "install it with `pneuma install`, or run `telepathy-pneuma --persist` to see why it does not start",
        ),
        Kind::ServiceGone => (
            Code::NoService,
            "service-gone",
            "the connection manager went away; run the command again",
        ),
        Kind::InvalidArgument => (Code::Failed, "invalid-argument", ""),
        Kind::NotImplemented => (
            Code::Failed,
            "not-implemented",
            "the connection manager that runs may be older than this command; stop it and try again",
        ),
        Kind::NotAvailable => (Code::Failed, "not-available", ""),
        Kind::NotCapable => (
            Code::NotFound,
            "not-capable",
            "the contact's program cannot do this; it needs one that knows encrypted tubes, such as Pneuma",
        ),
        Kind::NotYours => (
            Code::Refused,
            "not-yours",
            "another program takes care of it already",
        ),
        Kind::PermissionDenied => (Code::Refused, "permission-denied", ""),
        Kind::Cancelled => (Code::Failed, "cancelled", ""),
        Kind::ConnectionRefused => (
            Code::Refused,
            "connection-refused",
            "ask the contact whether the service there runs",
        ),
        Kind::ConnectionLost => (
            Code::Failed,
            "connection-lost",
            "the link to the contact broke; try again",
        ),
        Kind::ConnectionFailed => (
            Code::Failed,
            "connection-failed",
            "look whether a firewall on one of the two machines is in the way",
        ),
        Kind::Disconnected => (
            Code::Failed,
            "disconnected",
            "your account went offline; run the command again",
        ),
        Kind::Offline => (
            Code::NotFound,
            "offline",
            "try again when the contact is on the network; `pneuma contacts` shows who is",
        ),
        Kind::NetworkError => (
            Code::Failed,
            "network-error",
            "look whether this machine is on a network",
        ),
        Kind::AlreadyConnected => (Code::Failed, "already-connected", ""),
        Kind::EncryptionNotAvailable => (
            Code::Refused,
            "encryption-not-available",
            "nothing was sent; --allow-plaintext permits this for contacts you never dealt with",
        ),
        Kind::FingerprintMismatch => (
            Code::Refused,
            "fingerprint-mismatch",
            "ask the person by another way whether the machine is new; if so, `pneuma verify --replace` takes the new key, else somebody is posing",
        ),
        Kind::CertInvalid => (Code::Refused, "certificate-invalid", ""),
        Kind::ResourceUnavailable => (
            Code::Failed,
            "resource-unavailable",
            "close something and try again",
        ),
        Kind::Confused => (
            Code::Failed,
            "confused",
            "this is a mistake in the connection manager; please report it",
        ),
        Kind::TimedOut => (Code::TimedOut, "timed-out", ""),
        Kind::BadAnswer => (
            Code::Failed,
            "bad-answer",
            "the connection manager that runs may not fit this command; stop it and try again",
        ),
        Kind::TooLarge => (Code::Refused, "too-large", ""),
        Kind::Io => (Code::Failed, "io", ""),
        Kind::Other => (Code::Failed, "other", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_become_the_documented_codes() {
        let code = |kind| Failure::from(client::Error::new(kind, "x")).exit_code();
        assert_eq!(code(Kind::Offline), 3);
        assert_eq!(code(Kind::NotCapable), 3);
        assert_eq!(code(Kind::FingerprintMismatch), 4);
        assert_eq!(code(Kind::EncryptionNotAvailable), 4);
        assert_eq!(code(Kind::TimedOut), 5);
        assert_eq!(code(Kind::NoBus), 6);
        assert_eq!(code(Kind::NoService), 6);
        assert_eq!(code(Kind::Confused), 1);
        assert_eq!(Failure::usage("x").exit_code(), 2);
        assert_eq!(Failure::Interrupted.exit_code(), 130);
    }

    #[test]
    fn a_reader_that_left_is_not_an_error() {
        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(broken), Failure::BrokenPipe);
        assert_eq!(Failure::BrokenPipe.exit_code(), 0);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        assert_eq!(Failure::from(full).exit_code(), 1);
    }

    #[test]
    fn sentences_say_what_happened_and_what_to_do() {
        let failure = Failure::from(client::Error::new(Kind::Offline, "bob@desk is offline"));
        let Failure::Error { message, word, .. } = failure else {
            panic!("an error became something else");
        };
        assert_eq!(word, "offline");
        assert!(message.starts_with("bob@desk is offline; try again when"));
    }
}
