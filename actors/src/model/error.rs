//! The one error type that crosses from an actor to whoever asked it something.
//!
//! Each variant corresponds to one error name of the specification (`errors.xml`); the mapping to
//! the D-Bus name is made in exactly one place, `dbus/error.rs`. The text is one sentence for a
//! person.

/// Shorthand for results whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request could not be carried out. Named after the specification's `errors.xml`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is malformed, out of range or of the wrong type.
    #[error("{0}")]
    InvalidArgument(String),
    /// The request is understood and will never be possible here.
    #[error("{0}")]
    NotImplemented(String),
    /// The request is possible in principle but not now, or not in this state.
    #[error("{0}")]
    NotAvailable(String),
    /// Not before something else has happened, which it will.
    #[error("{0}")]
    NotYet(String),
    /// A handle is unknown.
    #[error("{0}")]
    InvalidHandle(String),
    /// The contact cannot do what is asked of it.
    #[error("{0}")]
    NotCapable(String),
    /// The contact does not want it.
    #[error("{0}")]
    Rejected(String),
    /// Somebody else already handles it.
    #[error("{0}")]
    NotYours(String),
    /// The caller may not do this.
    #[error("{0}")]
    PermissionDenied(String),
    /// The local user cancelled it.
    #[error("{0}")]
    Cancelled(String),
    /// The remote side, or the service behind it, refused the connection.
    #[error("{0}")]
    ConnectionRefused(String),
    /// An established connection broke.
    #[error("{0}")]
    ConnectionLost(String),
    /// No connection could be made.
    #[error("{0}")]
    ConnectionFailed(String),
    /// Our Connection is not online.
    #[error("{0}")]
    Disconnected(String),
    /// The contact is offline.
    #[error("{0}")]
    Offline(String),
    /// The network cannot be reached.
    #[error("{0}")]
    NetworkError(String),
    /// The account is online already.
    #[error("{0}")]
    AlreadyConnected(String),
    /// The peer offers no encryption and the account demands it.
    #[error("{0}")]
    EncryptionNotAvailable(String),
    /// The peer's key is not the one that is pinned for it.
    #[error("{0}")]
    CertFingerprintMismatch(String),
    /// The peer's certificate cannot be used.
    #[error("{0}")]
    CertInvalid(String),
    /// A bound was reached: memory, descriptors, numbers of things.
    #[error("{0}")]
    ResourceUnavailable(String),
    /// The service itself does not understand what happened; a bug or a failing system call.
    #[error("{0}")]
    Confused(String),
}

impl Error {
    /// The answer to a request whose actor is gone or dropped the request unanswered.
    pub fn unanswered() -> Self {
        Error::NotAvailable("the object this was asked of has closed".into())
    }
}
