//! The one place where errors get their D-Bus names, and where a handler that panics still
//! answers.

use std::{future::Future, panic::AssertUnwindSafe};

use actors::{model::Error, runtime};
use futures_lite::FutureExt as _;
use zbus::{DBusError, Message, message::Header, names::ErrorName};

/// What a handler fails with: [`Error`], answered under its name in the specification.
#[derive(Debug)]
pub struct Failure(pub Error);

/// What handlers return.
pub type Result<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(error)
    }
}

/// The D-Bus name of an error (`errors.xml`).
pub fn name(error: &Error) -> &'static str {
    match error {
        Error::InvalidArgument(_) => "org.freedesktop.Telepathy.Error.InvalidArgument",
        Error::NotImplemented(_) => "org.freedesktop.Telepathy.Error.NotImplemented",
        Error::NotAvailable(_) => "org.freedesktop.Telepathy.Error.NotAvailable",
        Error::NotYet(_) => "org.freedesktop.Telepathy.Error.NotYet",
        Error::InvalidHandle(_) => "org.freedesktop.Telepathy.Error.InvalidHandle",
        Error::NotCapable(_) => "org.freedesktop.Telepathy.Error.NotCapable",
        Error::Rejected(_) => "org.freedesktop.Telepathy.Error.Rejected",
        Error::NotYours(_) => "org.freedesktop.Telepathy.Error.NotYours",
        Error::PermissionDenied(_) => "org.freedesktop.Telepathy.Error.PermissionDenied",
        Error::Cancelled(_) => "org.freedesktop.Telepathy.Error.Cancelled",
        Error::ConnectionRefused(_) => "org.freedesktop.Telepathy.Error.ConnectionRefused",
        Error::ConnectionLost(_) => "org.freedesktop.Telepathy.Error.ConnectionLost",
        Error::ConnectionFailed(_) => "org.freedesktop.Telepathy.Error.ConnectionFailed",
        Error::Disconnected(_) => "org.freedesktop.Telepathy.Error.Disconnected",
        Error::Offline(_) => "org.freedesktop.Telepathy.Error.Offline",
        Error::NetworkError(_) => "org.freedesktop.Telepathy.Error.NetworkError",
        Error::AlreadyConnected(_) => "org.freedesktop.Telepathy.Error.AlreadyConnected",
        Error::EncryptionNotAvailable(_) => {
            "org.freedesktop.Telepathy.Error.EncryptionNotAvailable"
        }
        Error::CertFingerprintMismatch(_) => {
            "org.freedesktop.Telepathy.Error.Cert.FingerprintMismatch"
        }
        Error::CertInvalid(_) => "org.freedesktop.Telepathy.Error.Cert.Invalid",
        Error::ResourceUnavailable(_) => "org.freedesktop.Telepathy.Error.ResourceUnavailable",
        // `Confused`, and what the model gains before this table does.
        _ => "org.freedesktop.Telepathy.Error.Confused",
    }
}

impl DBusError for Failure {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, DBusError::name(self)).build(&(self.0.to_string(),))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(name(&self.0))
    }

    /// None: the text is owned by the error and only made when a reply is built.
    fn description(&self) -> Option<&str> {
        None
    }
}

/// Runs a handler's body so that a panic in it is an answer (`Confused`) and a line in the log
/// instead of a caller that waits for ever.
pub async fn answered<T>(
    handler: &'static str,
    body: impl Future<Output = actors::model::Result<T>>,
) -> Result<T> {
    match AssertUnwindSafe(body).catch_unwind().await {
        Ok(outcome) => outcome.map_err(Failure),
        Err(payload) => Err(confused(handler, &*payload)),
    }
}

/// The same for a property's getter.
pub fn read<T>(handler: &'static str, body: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(body)).map_err(|payload| confused(handler, &*payload))
}

fn confused(handler: &'static str, payload: &(dyn std::any::Any + Send)) -> Failure {
    let failure = runtime::Failure::from_panic(payload);
    tracing::error!(handler, %failure, "a D-Bus handler panicked");
    Failure(Error::Confused(format!("{handler} {failure}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        let answer: Result<()> = futures_lite::future::block_on(answered("Test", async {
            let nothing: Option<()> = None;
            nothing.ok_or_else(|| panic!("on purpose"))
        }));
        let failure = answer.unwrap_err();
        assert_eq!(
            failure.name().as_str(),
            "org.freedesktop.Telepathy.Error.Confused"
        );
        assert!(failure.0.to_string().contains("on purpose"));
        assert!(read("Test", || -> () { panic!("again") }).is_err());
        assert_eq!(read("Test", || 7).unwrap(), 7);
    }

    #[test]
    fn errors_have_the_names_of_the_specification() {
        let text = String::new;
        for (error, short) in [
            (Error::InvalidArgument(text()), "InvalidArgument"),
            (Error::NotImplemented(text()), "NotImplemented"),
            (Error::NotAvailable(text()), "NotAvailable"),
            (Error::NotYet(text()), "NotYet"),
            (Error::InvalidHandle(text()), "InvalidHandle"),
            (Error::NotCapable(text()), "NotCapable"),
            (Error::Rejected(text()), "Rejected"),
            (Error::NotYours(text()), "NotYours"),
            (Error::PermissionDenied(text()), "PermissionDenied"),
            (Error::Cancelled(text()), "Cancelled"),
            (Error::ConnectionRefused(text()), "ConnectionRefused"),
            (Error::ConnectionLost(text()), "ConnectionLost"),
            (Error::ConnectionFailed(text()), "ConnectionFailed"),
            (Error::Disconnected(text()), "Disconnected"),
            (Error::Offline(text()), "Offline"),
            (Error::NetworkError(text()), "NetworkError"),
            (Error::AlreadyConnected(text()), "AlreadyConnected"),
            (
                Error::EncryptionNotAvailable(text()),
                "EncryptionNotAvailable",
            ),
            (
                Error::CertFingerprintMismatch(text()),
                "Cert.FingerprintMismatch",
            ),
            (Error::CertInvalid(text()), "Cert.Invalid"),
            (Error::ResourceUnavailable(text()), "ResourceUnavailable"),
            (Error::Confused(text()), "Confused"),
        ] {
            assert_eq!(
                name(&error),
                format!("org.freedesktop.Telepathy.Error.{short}")
            );
        }
    }
}
