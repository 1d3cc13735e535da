//! A file to a contact, through one channel: from the request to its end.
//!
//! ```text
//!  requested ──► the contact agrees, and says what it has ──► compared with what we have ──► provided
//!                                                                                              │
//!  Completed ◄── verified there ◄── a thread writes into the service's socket ◄── Open ◄───────┘
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures_lite::FutureExt as _;

use super::{
    End, Offer, Progress, Source,
    following::{Following, Step, broken, connect, shut},
    source::{Cut, Outlet},
};
use crate::client::{
    bus::Bus,
    connection::Connection,
    error::{Kind, Result},
};

/// Has the thread that writes stop, when whoever waits for it goes.
struct Leash {
    outlet: Arc<Outlet>,
    source: Arc<Source>,
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.outlet.off.store(true, Ordering::Relaxed);
        shut(&self.outlet.socket);
        self.source.wake();
    }
}

/// Sends `source` to a contact, as `offer` says of it, and waits for the end, without a limit: whether the
/// contact wants it is a person's decision. `watch` is told how it goes. Dropping the future stops the
/// bytes; the channel closes with this program.
///
/// # Errors
/// What the service answers to the request; that the connection ended; and what cannot be read of the
/// source, after which it makes no sense to send it again as it is.
pub async fn send(
    connection: &Connection,
    contact: u32,
    offer: &Offer,
    source: &Arc<Source>,
    mut watch: impl FnMut(Progress),
) -> Result<End> {
    let events = connection.events().await?;
    let transfer = connection.create_transfer(contact, offer).await?;
    watch(Progress::Offered);
    let mut following = Following::new(events, &transfer);
    let ended = async {
        match transfer.claim().await {
            // Whoever handed it over, or who knows no claims, sees to it.
            Err(error) if matches!(error.kind, Kind::NotImplemented | Kind::NotYours) => {}
            answer => answer?,
        }
        // Steps that came before we listened are in the state.
        let mut agreed = false;
        while !agreed {
            let step = following.next().await?;
            if let Some(end) = following.end(step).await? {
                return Ok(end);
            }
            use actors::model::FileTransferState as State;
            agreed = matches!(
                step,
                Step::Asked | Step::State(State::Accepted | State::Open, _)
            );
        }
        watch(Progress::Agreed);
        let asked = transfer.asked().await?;
        let compared = {
            let source = source.clone();
            smol::unblock(move || source.begin(&asked)).await
        };
        let address = transfer.provide(compared?).await?;
        if let Some(end) = open(&mut following).await? {
            return Ok(end);
        }
        let offset = transfer.initial_offset().await?;
        watch(Progress::From(offset));
        let socket = match connect(address).await {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, "the service's socket cannot be reached");
                return following.verdict(connection.bus()).await;
            }
        };
        let outlet = Arc::new(Outlet {
            socket,
            at: AtomicU64::new(offset),
            off: AtomicBool::new(false),
        });
        flow(
            connection.bus(),
            &mut following,
            offset,
            source,
            outlet,
            &mut watch,
        )
        .await
    }
    .await;
    let ended = match ended {
        // It is ours to close, whatever became of it; then nobody knows of it any more.
        Err(error) if error.kind.is_gone() => Ok(broken(
            Kind::ConnectionLost,
            "the transfer's channel is gone",
        )),
        ended => ended,
    };
    if let Err(error) = transfer.close().await {
        tracing::debug!(%error, "a transfer's channel could not be closed");
    }
    ended
}

/// Waits until bytes can flow; or gives the end, if that comes first.
pub(super) async fn open(following: &mut Following<'_>) -> Result<Option<End>> {
    use actors::model::FileTransferState as State;
    loop {
        let step = following.next().await?;
        if matches!(step, Step::State(State::Open, _)) {
            return Ok(None);
        }
        if let Some(end) = following.end(step).await? {
            return Ok(Some(end));
        }
    }
}

async fn flow(
    bus: &Bus,
    following: &mut Following<'_>,
    offset: u64,
    source: &Arc<Source>,
    outlet: Arc<Outlet>,
    watch: &mut impl FnMut(Progress),
) -> Result<End> {
    let _leash = Leash {
        outlet: outlet.clone(),
        source: source.clone(),
    };
    let mut copying = {
        let (source, outlet) = (source.clone(), outlet.clone());
        smol::unblock(move || {
            let copied = source.copy(offset, &outlet);
            if copied.is_ok() {
                // The end of the file, as the service sees it.
                shut(&outlet.socket);
            }
            copied
        })
    };
    let mut copied = false;
    loop {
        enum Either {
            Copied(Result<(), Cut>),
            Step(Result<Step>),
        }
        let done = async {
            if copied {
                return std::future::pending().await;
            }
            Either::Copied((&mut copying).await)
        };
        let step = async { Either::Step(following.next().await) };
        match step.or(done).await {
            Either::Copied(Ok(())) => copied = true,
            // The service will say why nobody reads it any more.
            Either::Copied(Err(Cut::Socket)) => {
                watch(Progress::Handed(outlet.at.load(Ordering::Relaxed) - offset));
                return following.verdict(bus).await;
            }
            Either::Copied(Err(Cut::Source(error))) => {
                // Before the socket ends: what the service has read may be as long as the file, and would
                // count as all of it.
                if let Err(error) = following.transfer().close().await {
                    tracing::debug!(%error, "a transfer's channel could not be closed");
                }
                return Err(error);
            }
            Either::Step(step) => {
                let step = step?;
                if let Step::Transferred(count) = step {
                    watch(Progress::At(offset.saturating_add(count)));
                }
                if let Some(end) = following.end(step).await? {
                    watch(Progress::Handed(outlet.at.load(Ordering::Relaxed) - offset));
                    return Ok(end);
                }
            }
        }
    }
}
