//! What one transfer's channel tells while it goes on, and what its end means.

use std::{fs::File, io, os::fd::OwnedFd, time::Duration};

use actors::model::{FileTransferReason, FileTransferState, SocketAddress};
use futures_lite::FutureExt as _;

use super::{End, Transfer};
use crate::client::{
    bus::Bus,
    error::{Error, Kind, Result},
    event::{Event, Events},
};

/// How long the service may take to say what became of a transfer whose bytes have ended.
const VERDICT: Duration = Duration::from_secs(30);

/// One thing that it told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The state is another.
    State(FileTransferState, FileTransferReason),
    /// The contact has said where it wants to begin.
    Asked,
    /// So many bytes have gone or come, from the initial offset on.
    Transferred(u64),
    /// The channel is no more.
    Closed,
}

/// The events of a connection, as far as they are of one transfer.
#[derive(Debug)]
pub struct Following<'a> {
    events: Events,
    transfer: &'a Transfer,
}

impl<'a> Following<'a> {
    /// `events` have to be from before what is waited for.
    pub fn new(events: Events, transfer: &'a Transfer) -> Self {
        Following { events, transfer }
    }

    /// Whose events they are.
    pub fn transfer(&self) -> &'a Transfer {
        self.transfer
    }

    /// The next. Cancel-safe.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn next(&mut self) -> Result<Step> {
        loop {
            let event = self.events.next().await?;
            event.still_online()?;
            let (channel, step) = match event {
                Event::TransferState {
                    channel,
                    state,
                    reason,
                } => (channel, Step::State(state, reason)),
                Event::Asked { channel } => (channel, Step::Asked),
                Event::Transferred { channel, count } => (channel, Step::Transferred(count)),
                Event::Closed(channel) => (channel, Step::Closed),
                _ => continue,
            };
            if channel == *self.transfer.path() {
                return Ok(step);
            }
        }
    }

    /// Waits until it ends, for so long as the service may take for that.
    ///
    /// # Errors
    /// As [`Following::next`].
    pub async fn verdict(&mut self, bus: &Bus) -> Result<End> {
        let ended = self.over();
        let late = async {
            bus.clock().sleep(VERDICT).await;
            Ok(broken(
                Kind::TimedOut,
                "the transfer neither ended nor went on",
            ))
        };
        ended.or(late).await
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// As [`Following::next`].
    pub async fn over(&mut self) -> Result<End> {
        loop {
            let step = self.next().await?;
            if let Some(end) = self.end(step).await? {
                return Ok(end);
            }
        }
    }

    /// What a step ends the transfer with, if it does.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn end(&self, step: Step) -> Result<Option<End>> {
        use FileTransferReason as Reason;
        Ok(match step {
            Step::State(FileTransferState::Completed, _) => Some(End::Completed),
            Step::State(FileTransferState::Cancelled, Reason::RemoteStopped) => Some(End::Stopped),
            Step::State(FileTransferState::Cancelled, reason) => {
                let error = match self.transfer.error().await {
                    Ok(error) => error,
                    Err(error) if error.kind.is_gone() => None,
                    Err(error) => return Err(error),
                };
                let said = match reason {
                    Reason::LocalStopped | Reason::Requested => {
                        "another program of yours stopped the transfer"
                    }
                    Reason::LocalError => "something went wrong on this machine",
                    _ => "the link to the contact broke, or something went wrong there",
                };
                let end = error.map_or_else(|| broken(Kind::ConnectionLost, said), End::Broken);
                Some(end)
            }
            Step::Closed => Some(broken(Kind::Cancelled, "the transfer's channel was closed")),
            Step::State(..) | Step::Asked | Step::Transferred(_) => None,
        })
    }
}

/// A transfer that broke.
pub fn broken(kind: Kind, sentence: &str) -> End {
    End::Broken(Error::new(kind, sentence))
}

/// Connects to the socket of the service's.
///
/// # Errors
/// What the system says.
pub async fn connect(address: SocketAddress) -> io::Result<File> {
    let socket: OwnedFd = smol::unblock(move || {
        use std::{
            net::TcpStream,
            os::{linux::net::SocketAddrExt as _, unix::net},
        };
        Ok::<OwnedFd, io::Error>(match address {
            SocketAddress::Unix(path) => net::UnixStream::connect(path)?.into(),
            SocketAddress::AbstractUnix(name) => {
                let address = net::SocketAddr::from_abstract_name(name)?;
                net::UnixStream::connect_addr(&address)?.into()
            }
            SocketAddress::Ipv4(address) => TcpStream::connect(address)?.into(),
            SocketAddress::Ipv6(address) => TcpStream::connect(address)?.into(),
        })
    })
    .await?;
    Ok(socket.into())
}

/// Ends the use of a socket that a thread may wait at: whoever does is let go.
pub fn shut(socket: &File) {
    // One that is shut already is what is wanted.
    rustix::net::shutdown(socket, rustix::net::Shutdown::Both).unwrap_or_default();
}
