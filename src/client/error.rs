//! The client library's error, and the one place where D-Bus error names become kinds of it.

use std::fmt;

/// What kind of thing went wrong, for programs. Named after the specification's `errors.xml`
/// where it comes from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// There is no session bus to talk over.
    NoBus,
    /// The connection manager does not run and could not be started.
    NoService,
    /// The connection manager went away while we talked to it.
    ServiceGone,
    /// `InvalidArgument`, `InvalidHandle`, and D-Bus's own `InvalidArgs`.
    InvalidArgument,
    /// `NotImplemented`, and D-Bus's own unknown method, interface or property.
    NotImplemented,
    /// `NotAvailable`
    NotAvailable,
    /// `NotCapable`
    NotCapable,
    /// `NotYours`
    NotYours,
    /// `PermissionDenied`, and D-Bus's own `AccessDenied`.
    PermissionDenied,
    /// `Cancelled`
    Cancelled,
    /// `ConnectionRefused`
    ConnectionRefused,
    /// `ConnectionLost`
    ConnectionLost,
    /// `ConnectionFailed`
    ConnectionFailed,
    /// `Disconnected`: our own account is offline.
    Disconnected,
    /// `Offline`: the contact is.
    Offline,
    /// `NetworkError`
    NetworkError,
    /// `AlreadyConnected`
    AlreadyConnected,
    /// `EncryptionNotAvailable`
    EncryptionNotAvailable,
    /// `Cert.FingerprintMismatch`: the contact's key is not the pinned one.
    FingerprintMismatch,
    /// Any other `Cert.…` error.
    CertInvalid,
    /// `ResourceUnavailable`, and D-Bus's own limits.
    ResourceUnavailable,
    /// `Confused`: the service does not understand itself what happened.
    Confused,
    /// Nobody answered in time.
    TimedOut,
    /// An answer that does not follow the specification.
    BadAnswer,
    /// A contact sends more than it said, or than our user allows.
    TooLarge,
    /// A local socket, file or process.
    Io,
    /// Everything else.
    Other,
}

impl Kind {
    /// Whether it may mean that an object that was there has ended: alone, or with the service, or
    /// interface by interface at this moment.
    pub fn is_gone(self) -> bool {
        matches!(
            self,
            Kind::NoService | Kind::ServiceGone | Kind::NotAvailable | Kind::NotImplemented
        )
    }
}

impl Kind {
    /// Whether to ask again later may help: it lies with the link, the contact or the service, and not with
    /// what was asked for or who is trusted.
    pub fn is_passing(self) -> bool {
        !matches!(
            self,
            Kind::InvalidArgument
                | Kind::NotImplemented
                | Kind::NotYours
                | Kind::PermissionDenied
                | Kind::EncryptionNotAvailable
                | Kind::FingerprintMismatch
                | Kind::CertInvalid
                | Kind::BadAnswer
                | Kind::NoBus
                | Kind::Io
        )
    }
}

/// An error of the client library: a kind, and a sentence without its full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// For programs.
    pub kind: Kind,
    /// For people. Where it came over the bus it may hold text of a peer: make it safe before it
    /// reaches a terminal.
    pub message: String,
}

/// Shorthand for results of the client library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind with this sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
        }
    }

    /// What a D-Bus error reply says.
    pub fn from_reply(name: &str, message: &str) -> Self {
        let kind = kind_of(name);
        // The daemon and some services answer with a name and nothing else.
        let message = message.trim().trim_end_matches('.');
        if message.is_empty() {
            Error::new(kind, format!("the service answered {name}"))
        } else {
            Error::new(kind, message)
        }
    }

    /// A failing system call, and what it was for.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        Error::new(Kind::Io, format!("{what}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The kind that belongs to a D-Bus error name.
pub fn kind_of(name: &str) -> Kind {
    if let Some(name) = name.strip_prefix("org.freedesktop.Telepathy.Error.") {
        return match name {
            "InvalidArgument" | "InvalidHandle" => Kind::InvalidArgument,
            "NotImplemented" => Kind::NotImplemented,
            "NotAvailable" => Kind::NotAvailable,
            "NotCapable" => Kind::NotCapable,
            "NotYours" => Kind::NotYours,
            "PermissionDenied" => Kind::PermissionDenied,
            "Cancelled" => Kind::Cancelled,
            "ConnectionRefused" => Kind::ConnectionRefused,
            "ConnectionLost" => Kind::ConnectionLost,
            "ConnectionFailed" => Kind::ConnectionFailed,
            "Disconnected" => Kind::Disconnected,
            "Offline" => Kind::Offline,
            "NetworkError" => Kind::NetworkError,
            "AlreadyConnected" => Kind::AlreadyConnected,
            "EncryptionNotAvailable" => Kind::EncryptionNotAvailable,
            "Cert.FingerprintMismatch" => Kind::FingerprintMismatch,
            "ResourceUnavailable" => Kind::ResourceUnavailable,
            "Confused" => Kind::Confused,
            name if name.starts_with("Cert.") => Kind::CertInvalid,
            _ => Kind::Other,
        };
    }
    match name.strip_prefix("org.freedesktop.DBus.Error.") {
        Some("ServiceUnknown" | "NameHasNoOwner") => Kind::NoService,
        Some(name) if name.starts_with("Spawn.") => Kind::NoService,
        // The daemon answers so for a call whose recipient left the bus before it answered.
        Some("NoReply") => Kind::ServiceGone,
        Some("Disconnected") => Kind::ServiceGone,
        Some("UnknownObject") => Kind::NotAvailable,
        Some("UnknownMethod" | "UnknownInterface" | "UnknownProperty" | "NotSupported") => {
            Kind::NotImplemented
        }
        Some("InvalidArgs") => Kind::InvalidArgument,
        Some("AccessDenied" | "AuthFailed") => Kind::PermissionDenied,
        Some("LimitsExceeded" | "NoMemory") => Kind::ResourceUnavailable,
        Some("TimedOut" | "Timeout") => Kind::TimedOut,
        Some("NoServer" | "BadAddress") => Kind::NoBus,
        _ => Kind::Other,
    }
}

impl From<zbus::Error> for Error {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => {
                Error::from_reply(name.as_str(), message.as_deref().unwrap_or_default())
            }
            zbus::Error::FDO(error) => Error::from(*error),
            zbus::Error::InputOutput(error) => match error.kind() {
                std::io::ErrorKind::TimedOut => {
                    Error::new(Kind::TimedOut, "the service did not answer in time")
                }
                _ => Error::new(Kind::NoBus, format!("the session bus is gone: {error}")),
            },
            zbus::Error::Connection(error, address) => Error::new(
                Kind::NoBus,
                format!("nobody answers on the session bus at {address}: {error}"),
            ),
            zbus::Error::Address(text) => Error::new(
                Kind::NoBus,
                format!("the session bus has no usable address: {text}"),
            ),
            zbus::Error::Handshake(text) => {
                Error::new(Kind::NoBus, format!("the session bus refused us: {text}"))
            }
            error => Error::new(
                Kind::BadAnswer,
                format!("the answer could not be understood: {error}"),
            ),
        }
    }
}

impl From<zbus::fdo::Error> for Error {
    fn from(error: zbus::fdo::Error) -> Self {
        use zbus::DBusError as _;
        match error {
            zbus::fdo::Error::ZBus(error) => Error::from(error),
            error => Error::from_reply(
                error.name().as_str(),
                error.description().unwrap_or_default(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn telepathy_names_become_kinds() {
        for (name, kind) in [
            ("Offline", Kind::Offline),
            ("NotCapable", Kind::NotCapable),
            ("Cert.FingerprintMismatch", Kind::FingerprintMismatch),
            ("Cert.Expired", Kind::CertInvalid),
            ("InvalidHandle", Kind::InvalidArgument),
            ("SomethingNew", Kind::Other),
        ] {
            assert_eq!(
                kind_of(&format!("org.freedesktop.Telepathy.Error.{name}")),
                kind,
                "{name}"
            );
        }
    }

    #[test]
    fn the_bus_s_own_names_become_kinds() {
        assert_eq!(
            kind_of("org.freedesktop.DBus.Error.ServiceUnknown"),
            Kind::NoService
        );
        assert_eq!(
            kind_of("org.freedesktop.DBus.Error.Spawn.ExecFailed"),
            Kind::NoService
        );
        assert_eq!(
            kind_of("org.freedesktop.DBus.Error.NoReply"),
            Kind::ServiceGone
        );
        assert_eq!(kind_of("com.example.Else"), Kind::Other);
    }

    #[test]
    fn a_reply_without_text_still_says_something() {
        let error = Error::from_reply("org.freedesktop.Telepathy.Error.Offline", "  ");
        assert_eq!(error.kind, Kind::Offline);
        assert_eq!(
            error.message,
            "the service answered org.freedesktop.Telepathy.Error.Offline"
        );
        let error = Error::from_reply("org.freedesktop.Telepathy.Error.Offline", "Gone home.");
        assert_eq!(error.message, "Gone home");
    }

    #[test]
    fn errors_of_the_bus_library_keep_their_names() {
        let error = Error::from(zbus::Error::FDO(Box::new(
            zbus::fdo::Error::ServiceUnknown("nobody".into()),
        )));
        assert_eq!(error, Error::new(Kind::NoService, "nobody"));
    }
}
