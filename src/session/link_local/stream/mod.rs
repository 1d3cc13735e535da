//! One XML stream: its opening, its actor, and the [`Link`](crate::session::link::Link) others talk through.
//!
//! ```text
//!  open ── header, STARTTLS, TLS, header ──▶ admitted by the session ──▶ Running ──▶ Closing ──▶ end
//!    │ 15 s                                     │ 12 s                     │ idle, told to,   │ 10 s
//!    ▼                                          ▼                          ▼ failed           ▼
//!   end (error)                               end (refused)               end               end
//! ```
//!
//! The session starts a task for each stream and hears [`StreamEvent`]s; whoever has the link puts
//! commands into the stream's mailbox and never passes the session. A stream that fails is gone with
//! all that waited on it ([`RequestError::Gone`](crate::session::link::RequestError)); the session opens
//! another when there is something to say.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actors::{
    model::{Error, FileOffer},
    ports::{IncomingBytestream, IncomingDBusTube, IncomingFile},
    runtime::{Address, Clock, Exit, Mailbox, Pending, Reply, Snapshot, Spawner, Stop, within},
};
use futures_lite::{AsyncRead, AsyncWrite};

use crate::{
    session::{
        ContactId,
        bytestreams::Bytestreams,
        link::LinkSecurity,
        trust::{Identity, KeyId, RunId},
    },
    xmpp::{
        StreamCondition,
        payload::{
            disco,
            tube::{self, DBusOffer},
        },
        stream::Role,
    },
};

use super::fault::{Faults, Point};

mod link;
mod opening;
mod running;
mod wire;

pub use link::StreamLink;
use opening::{Opened, Opening};
use running::Running;
pub use running::{Command, MAX_ANSWERING};

/// How long connecting, both handshakes and the headers may take together.
pub const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long the session may think about an inbound stream; longer than it waits for a record.
const ADMISSION: Duration = Duration::from_secs(12);
/// Commands that may wait for one stream. Whoever has one more waits.
const MAILBOX: usize = 64;

/// A connection under a stream; in tests, one in memory.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Carrier for T {}

/// One stream for the life of the session; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What a stream asks the session once it knows who the peer says it is.
#[derive(Debug)]
pub struct Admission {
    /// The peer's `from`.
    pub from: String,
    /// The key it proved.
    pub key: Option<KeyId>,
    /// Which run of the peer's program proved it.
    pub run: Option<RunId>,
    /// Where it is.
    pub peer: SocketAddr,
    /// Who opened it.
    pub role: Role,
    /// The answer.
    pub reply: Reply<Result<Admitted, Error>>,
}

/// The session believes the peer.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who it is.
    pub contact: ContactId,
    /// Whether its features have to be asked; else whether they hold our namespace.
    pub pneuma: Option<bool>,
    /// Where it announces itself, of one in plaintext.
    pub announced: Vec<IpAddr>,
}

/// What a stream tells the session.
pub enum StreamEvent {
    /// May it be used?
    Admit(Admission),
    /// It carries stanzas, and the peer's features are known or will not be.
    Ready(Arc<StreamLink>),
    /// The peer's features.
    Features(disco::Info),
    /// The contact offers a tube.
    Offered(tube::Offer),
    /// The contact closes a tube.
    Closed(u32),
    /// The contact asks for a connection through a tube of ours.
    Connection(u32, Box<dyn IncomingBytestream>),
    /// The contact offers a file.
    File(Box<FileOffer>, Box<dyn IncomingFile>),
    /// The contact offers a D-Bus tube.
    DBusTube(Box<DBusOffer>, Box<dyn IncomingDBusTube>),
}

/// What every stream of a session shares.
#[derive(Clone)]
pub struct StreamContext {
    /// Our key.
    pub identity: Arc<Identity>,
    /// What we answer to service discovery.
    pub info: Snapshot<disco::Info>,
    /// Takes the requests that are about bytestreams.
    pub bytestreams: Arc<Bytestreams>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Runs the tasks that wait for answers.
    pub spawner: Spawner,
    /// Where events go.
    pub events: Address<(StreamId, StreamEvent)>,
    /// Where tests kill streams.
    pub faults: Faults,
}

/// How one stream is to be opened.
pub struct StreamRequest {
    /// Its id.
    pub id: StreamId,
    /// Who opens it.
    pub role: Role,
    /// Our name.
    pub us: String,
    /// The peer's name; an inbound stream's peer says it itself.
    pub them: Option<String>,
    /// The key that has to be proved; an inbound stream's is compared by the session.
    pub expected: Option<KeyId>,
    /// Whether a stream in plaintext fails.
    pub require_tls: bool,
    /// The connection's own address.
    pub local: SocketAddr,
    /// The connection's peer.
    pub peer: SocketAddr,
}

/// A stream the session believes, ready to carry stanzas.
pub struct Established {
    context: StreamContext,
    request: StreamRequest,
    them: String,
    opened: Opened,
    admitted: Admitted,
}

/// Opens a stream and has it admitted.
///
/// # Errors
/// Why it could not be opened or was not admitted. The peer has been told, as far as it listens.
pub async fn establish(
    context: StreamContext,
    request: StreamRequest,
    carrier: Box<dyn Carrier>,
) -> Result<Established, Error> {
    let clock = context.clock.clone();
    let opened = opening::open(
        carrier,
        Opening {
            role: request.role,
            us: request.us.clone(),
            them: request.them.clone(),
            require_tls: request.require_tls,
            identity: context.identity.clone(),
            expected: request.expected,
        },
    );
    let mut opened = within(&*clock, HANDSHAKE, opened).await.ok_or_else(|| {
        Error::ConnectionFailed("the contact did not finish its greeting in time".into())
    })??;
    context.faults.hit(Point::Greeted).map_err(failed)?;
    let them = match peer_name(&request, &opened) {
        Ok(them) => them,
        Err((condition, error)) => {
            opened.refuse(condition, &*clock).await;
            return Err(error);
        }
    };
    let (reply, answer) = Reply::new();
    let admission = Admission {
        from: them.clone(),
        key: opened.key,
        run: opened.run,
        peer: request.peer,
        role: request.role,
        reply,
    };
    match admitted(&context, request.id, admission, answer).await {
        Ok(admitted) => Ok(Established {
            context,
            request,
            them,
            opened,
            admitted,
        }),
        Err(error) => {
            opened.refuse(StreamCondition::NotAuthorized, &*clock).await;
            Err(error)
        }
    }
}

impl Established {
    /// Runs the stream to its end.
    ///
    /// # Errors
    /// Why it failed. A stream that was closed in order is no error.
    pub async fn run(
        self,
        mailbox: Mailbox<Command>,
        address: Address<Command>,
        stop: &Stop,
    ) -> Result<(), Error> {
        let Established {
            context,
            request,
            them,
            opened,
            mut admitted,
        } = self;
        let security = opened
            .key
            .zip(opened.exporter)
            .map(|(peer, exporter)| LinkSecurity {
                own: context.identity.id(),
                peer,
                exporter,
                pneuma: false,
            });
        let addresses = (request.local, request.peer);
        let announced = std::mem::take(&mut admitted.announced);
        let link = StreamLink::new(request.us, them, addresses, announced, security, address);
        context.faults.hit(Point::Admitted).map_err(failed)?;
        let id = request.id;
        let running = Running::new(id, context, Arc::new(link), mailbox, admitted, opened);
        match running.run(stop).await {
            Exit::Finished | Exit::Stopped => Ok(()),
            Exit::Failed(failure) => Err(Error::ConnectionLost(failure.to_string())),
        }
    }
}

fn failed(failure: actors::runtime::Failure) -> Error {
    Error::ConnectionFailed(failure.to_string())
}

/// Who the peer says it is, and whether it is talking to us.
fn peer_name(request: &StreamRequest, opened: &Opened) -> Result<String, (StreamCondition, Error)> {
    let from = opened.peer.from.as_deref();
    let to = opened.peer.to.as_deref();
    match (request.role, request.them.as_deref(), from) {
        (Role::Initiator, Some(them), None) => Ok(them.to_owned()),
        (Role::Initiator, Some(them), Some(from)) if from == them => Ok(them.to_owned()),
        (Role::Recipient, None, Some(from)) if to.is_none_or(|to| to == request.us) => {
            Ok(from.to_owned())
        }
        (Role::Recipient, None, Some(_)) => Err((
            StreamCondition::HostUnknown,
            Error::ConnectionRefused("the stream is meant for somebody else".into()),
        )),
        _ => Err((
            StreamCondition::InvalidFrom,
            Error::ConnectionRefused("the contact does not say who it is, or is another".into()),
        )),
    }
}

async fn admitted(
    context: &StreamContext,
    id: StreamId,
    admission: Admission,
    answer: Pending<Result<Admitted, Error>>,
) -> Result<Admitted, Error> {
    let asked = async {
        if context
            .events
            .tell((id, StreamEvent::Admit(admission)))
            .await
            .is_err()
        {
            return Err(Error::unanswered());
        }
        answer.wait().await.unwrap_or(Err(Error::unanswered()))
    };
    within(&*context.clock, ADMISSION, asked)
        .await
        .unwrap_or_else(|| {
            Err(Error::PermissionDenied(
                "nothing on the network says that the contact has this key".into(),
            ))
        })
}

/// A mailbox for a stream that is about to be started.
pub fn mailbox() -> (Mailbox<Command>, Address<Command>) {
    Mailbox::new(MAILBOX)
}
