//! From a bare connection to a stream that can carry stanzas: header, STARTTLS, TLS, header.
//!
//! The protocol is [`crate::xmpp::stream`]; this drives it over a connection. Whoever calls bounds
//! the time it may take.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actors::{
    model::{BytestreamId, Error},
    runtime::Clock,
};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Carrier, wire::Wire};
use crate::{
    session::{
        tls,
        trust::{Identity, KeyId, RunId},
    },
    xmpp::{
        StreamCondition, StreamError,
        stream::{Action, Role, Stream, StreamConfig},
        write::Header,
    },
};

/// Bytes read at once.
const READ: usize = 4096;

/// How a stream is to be opened.
pub struct Opening {
    pub role: Role,
    pub us: String,
    pub them: Option<String>,
    pub require_tls: bool,
    pub identity: Arc<Identity>,
    pub expected: Option<KeyId>,
}

/// A stream that can carry stanzas.
pub struct Opened {
    pub wire: Wire,
    pub stream: Stream,
    /// The peer's header, the one inside TLS.
    pub peer: Header,
    /// The key it proved.
    pub key: Option<KeyId>,
    /// Which run of the peer's program proved it.
    pub run: Option<RunId>,
    /// The stream's exporter value.
    pub exporter: Option<[u8; 32]>,
    /// What the peer's first stanzas already ask for.
    pub left: VecDeque<Action>,
}

impl Opened {
    /// Ends the stream with an error, as far as the peer listens within a second.
    pub async fn refuse(&mut self, condition: StreamCondition, clock: &dyn Clock) {
        let actions = self.stream.refuse(condition, "");
        let told = async {
            for action in actions {
                if let Action::Write(bytes) = action
                    && (self.wire.write_all(&bytes).await.is_err()
                        || self.wire.flush().await.is_err())
                {
                    return false;
                }
            }
            self.wire.close().await.is_ok()
        };
        let late = async {
            clock.sleep(Duration::from_secs(1)).await;
            false
        };
        if !told.or(late).await {
            tracing::debug!(%condition, "the peer did not wait to hear why it was refused");
        }
    }
}

/// See the module's head.
///
/// # Errors
/// `EncryptionNotAvailable` when TLS is required and the peer does not offer it,
/// `CertFingerprintMismatch` when it has another key, `ConnectionFailed` for the rest.
pub async fn open(carrier: Box<dyn Carrier>, opening: Opening) -> Result<Opened, Error> {
    let id = BytestreamId::random()
        .map_err(|error| Error::Confused(format!("no random bytes: {error}")))?;
    let (mut stream, actions) = Stream::new(StreamConfig {
        role: opening.role,
        us: opening.us.clone(),
        them: opening.them.clone(),
        id: id.to_string(),
        require_tls: opening.require_tls,
    });
    let mut wire = Wire::Plain(carrier);
    let (mut key, mut run, mut exporter) = (None, None, None);
    let mut actions: VecDeque<Action> = actions.into();
    loop {
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Write(bytes) => {
                    wire.write_all(&bytes).await.map_err(failed)?;
                    wire.flush().await.map_err(failed)?;
                }
                Action::StartTls => {
                    let tls = secure(wire, &opening).await?;
                    key = tls::peer_key(tls.get_ref().1);
                    run = tls::peer_run(tls.get_ref().1);
                    exporter = tls::stream_exporter(&tls, tls::STREAM_EXPORTER, b"");
                    if key.is_none() || exporter.is_none() {
                        return Err(Error::CertInvalid(
                            "the contact's certificate cannot be used".into(),
                        ));
                    }
                    wire = Wire::Tls(Box::new(tls));
                    actions = stream.secured().into();
                }
                Action::Established { peer, secured } => {
                    if secured != key.is_some() {
                        return Err(Error::Confused(
                            "the stream is not as secure as it says".into(),
                        ));
                    }
                    return Ok(Opened {
                        wire,
                        stream,
                        peer,
                        key,
                        run,
                        exporter,
                        left: actions,
                    });
                }
                // Nothing of that kind comes before the stream is established.
                Action::Stanza(_) => {}
                Action::Closed => {
                    return Err(Error::ConnectionRefused(
                        "the contact closed the stream at once".into(),
                    ));
                }
                Action::Fail(error) => return Err(stream_error(&error)),
            }
        }
        let mut bytes = [0; READ];
        let count = wire.read(&mut bytes).await.map_err(failed)?;
        actions = if count == 0 {
            stream.end_of_file().into()
        } else {
            stream.feed(&bytes[..count]).into()
        };
    }
}

async fn secure(wire: Wire, opening: &Opening) -> Result<TlsStream<Box<dyn Carrier>>, Error> {
    let Wire::Plain(carrier) = wire else {
        return Err(Error::Confused("TLS inside TLS".into()));
    };
    let (identity, expected) = (&*opening.identity, opening.expected);
    let unusable = |error: rustls::Error| Error::CertInvalid(format!("our own key: {error}"));
    match opening.role {
        Role::Initiator => {
            let config = tls::client_config(identity, expected, None).map_err(unusable)?;
            let connector = TlsConnector::from(config);
            let stream = connector.connect(tls::any_name(), carrier).await;
            Ok(TlsStream::Client(stream.map_err(tls_failed)?))
        }
        Role::Recipient => {
            let config = tls::server_config(identity, expected, None).map_err(unusable)?;
            let stream = TlsAcceptor::from(config).accept(carrier).await;
            Ok(TlsStream::Server(stream.map_err(tls_failed)?))
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::ConnectionFailed(format!("the stream to the contact broke: {error}"))
}

/// The one reason that matters to our user is told apart.
fn tls_failed(error: std::io::Error) -> Error {
    let mismatch =
        rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure);
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if inner == Some(&mismatch) {
        Error::CertFingerprintMismatch("the contact has another key than it announces".into())
    } else {
        Error::ConnectionFailed(format!("no encryption could be agreed on: {error}"))
    }
}

/// What a stream's end means to whoever wanted it.
pub fn stream_error(error: &StreamError) -> Error {
    match error {
        StreamError::TlsUnavailable(_) => Error::EncryptionNotAvailable(error.to_string()),
        StreamError::Remote { .. } => Error::ConnectionRefused(error.to_string()),
        StreamError::Local { .. } | StreamError::Ended => {
            Error::ConnectionFailed(error.to_string())
        }
    }
}
