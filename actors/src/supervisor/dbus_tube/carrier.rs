//! The life of one D-Bus tube's flow: the contact or our user agrees, the bytestream opens, messages go,
//! the bytestream is closed after a whole one. One task, which nobody restarts: what it has agreed on dies
//! with it.
//!
//! ```text
//!   offering ──▶ waiting for the contact's answer ─┐
//!   waiting for our user's ──▶ opening ────────────┴─▶ flowing ──▶ parting
//!      │                          │                       │
//!      └──────────────────────────┴───────────────────────┴──▶ ended: said once, before parting
//! ```

use std::{future::poll_fn, sync::Arc, time::Duration};

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use crate::{
    dbus_tube::{
        carrying::{Carrying, Door, End, Traffic},
        state::FlowEnd,
    },
    limits::Limits,
    model::{Error, Result, ServiceName, TubeParameters},
    ports::{Bytestream, DBusTubeOffering, IncomingDBusTube, Opening},
    relay::Wire,
    runtime::{Clock, Failure, FaultPoint, Faults, catch, within},
    supervisor::{AcceptedSocket, channel::Note},
};

/// What the flow tells the channel supervisor, in this order, each at most once.
pub(in crate::supervisor) enum FlowNote {
    /// The offer was written; the flow is over where it could not be.
    Offered(Result<()>),
    /// The bytestream is open.
    Opened { encrypted: bool },
    /// It is over.
    Ended(FlowEnd),
    /// It failed, and is over.
    Failed(Failure),
}

/// Where the flow's orders come from. Each is given once, but for applications.
pub(super) struct Orders {
    /// Our user agrees.
    pub(super) agree: Receiver<()>,
    /// That it is open is known: messages may flow.
    pub(super) flow: Receiver<Door>,
    /// Applications, one at a time.
    pub(super) applications: Receiver<AcceptedSocket>,
    /// End it. Its being closed is an order too.
    pub(super) stop: Receiver<()>,
}

/// The other end of [`Orders`].
pub(super) struct Reins {
    pub(super) agree: Sender<()>,
    pub(super) flow: Sender<Door>,
    pub(super) applications: Sender<AcceptedSocket>,
    pub(super) stop: Sender<()>,
}

/// Orders, and who gives them.
pub(super) fn orders() -> (Reins, Orders) {
    let (agree, agree_out) = async_channel::bounded(1);
    let (flow, flow_out) = async_channel::bounded(1);
    let (applications, applications_out) = async_channel::bounded(super::APPLICATIONS);
    let (stop, stop_out) = async_channel::bounded(1);
    let reins = Reins {
        agree,
        flow,
        applications,
        stop,
    };
    let orders = Orders {
        agree: agree_out,
        flow: flow_out,
        applications: applications_out,
        stop: stop_out,
    };
    (reins, orders)
}

/// How the bytestream is come by.
pub(super) enum Port {
    Offer(Arc<dyn DBusTubeOffering>, ServiceName, TubeParameters),
    Accept(Box<dyn IncomingDBusTube>),
}

/// See the module's head.
pub(super) struct Carrier {
    pub(super) orders: Orders,
    pub(super) traffic: Arc<Traffic>,
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) opening_limit: Duration,
    pub(super) farewell_limit: Duration,
    pub(super) faults: Faults,
    pub(super) notes: Sender<Note<FlowNote>>,
}

/// What is there once the tube is open. Kept beside the flow rather than in it, so that a bytestream
/// whose flow stops can still be closed after a whole message.
struct Open {
    wire: Wire,
    carrying: Option<Carrying>,
}

impl Carrier {
    /// Runs it to its end, which it tells.
    pub(super) async fn run(self, port: Port) {
        let mut open = None;
        let stopped = async {
            // Nothing but the order, or nobody to give one.
            self.orders.stop.recv().await.ok();
            FlowNote::Ended(FlowEnd::Stopped)
        };
        let flowing = async {
            match catch("flow", self.flow(port, &mut open)).await {
                Ok(Ok(end)) => end,
                Ok(Err(failure)) | Err(failure) => FlowNote::Failed(failure),
            }
        };
        let note = stopped.or(flowing).await;
        let in_order = matches!(
            &note,
            FlowNote::Ended(FlowEnd::Stopped | FlowEnd::Messages(End::Closed))
        );
        self.tell(note).await;
        let Some(mut open) = open else {
            return;
        };
        if !in_order {
            open.wire.reset();
            return;
        }
        let parting = within(&*self.clock, self.farewell_limit, open.part());
        let parting = self.faults.survive(FaultPoint::FlowParting, parting);
        // It has been told how it ended; that the contact hears of it is not its failure.
        catch("parting", parting).await.ok();
    }

    async fn flow(&self, port: Port, open: &mut Option<Open>) -> Result<FlowNote, Failure> {
        let faults = &self.faults;
        faults.hit(FaultPoint::FlowStart)?;
        let opening = match port {
            Port::Offer(port, service, parameters) => {
                let offering = port.offer(&service, &parameters);
                match faults.survive(FaultPoint::FlowAgreeing, offering).await? {
                    Ok(opening) => {
                        self.tell(FlowNote::Offered(Ok(()))).await;
                        // It is a person who answers.
                        opening
                    }
                    Err(why) => return Ok(FlowNote::Offered(Err(why))),
                }
            }
            Port::Accept(incoming) => match self.agreed(incoming).await? {
                Ok(opening) => opening,
                Err(why) => return Ok(FlowNote::Ended(FlowEnd::NotOpened(why))),
            },
        };
        faults.hit(FaultPoint::FlowAgreed)?;
        let opened = faults.survive(FaultPoint::FlowOpening, opening).await?;
        faults.hit(FaultPoint::FlowOpened)?;
        let Bytestream { io, encrypted } = match opened {
            Ok(bytestream) => bytestream,
            Err(why) => return Ok(FlowNote::Ended(FlowEnd::NotOpened(why))),
        };
        let open = open.insert(Open {
            wire: Wire::for_chunks(io),
            carrying: None,
        });
        self.tell(FlowNote::Opened { encrypted }).await;
        let flowing = async {
            // Others see that it is open before a message goes. A channel that is gone stops the flow.
            let Ok(door) = self.orders.flow.recv().await else {
                return std::future::pending().await;
            };
            let carrying = open.carrying.insert(Carrying::new(
                door,
                self.orders.applications.clone(),
                &self.limits,
                self.traffic.clone(),
                self.clock.clone(),
                faults.clone(),
            ));
            poll_fn(|context| carrying.poll(&mut open.wire, context)).await
        };
        let end = faults.survive(FaultPoint::FlowFlowing, flowing).await??;
        faults.hit(FaultPoint::FlowEnded)?;
        Ok(FlowNote::Ended(FlowEnd::Messages(end)))
    }

    /// Waits until our user agrees, and gives what opens the bytestream.
    async fn agreed(
        &self,
        incoming: Box<dyn IncomingDBusTube>,
    ) -> Result<Result<Opening>, Failure> {
        let withdrawn = incoming.withdrawn();
        let agreed = async {
            if self.orders.agree.recv().await.is_err() {
                // A channel that is gone stops the flow.
                std::future::pending::<()>().await;
            }
            Ok(())
        };
        let taken_back = async {
            withdrawn.await;
            let why = "the contact took its offer back";
            Err(Error::Cancelled(why.into()))
        };
        let agreeing = self
            .faults
            .survive(FaultPoint::FlowAgreeing, agreed.or(taken_back));
        if let Err(why) = agreeing.await? {
            return Ok(Err(why));
        }
        let (clock, limit) = (self.clock.clone(), self.opening_limit);
        Ok(Ok(Box::pin(async move {
            let late = || Error::ConnectionFailed("the bytestream did not open in time".into());
            let opened = within(&*clock, limit, incoming.accept()).await;
            opened.unwrap_or_else(|| Err(late()))
        })))
    }

    async fn tell(&self, note: FlowNote) {
        // A channel that is gone stops the flow.
        self.notes.send(Note::Own(note)).await.ok();
    }
}

impl Open {
    /// Finishes the message that is half written, if there is one, and closes.
    async fn part(&mut self) {
        if let Some(mut carrying) = self.carrying.take() {
            carrying.leave();
            let finishing = poll_fn(|context| carrying.poll_finish(&mut self.wire, context));
            if let Err(error) = finishing.await {
                tracing::debug!(%error, "a D-Bus tube's last message may be lost");
                return;
            }
        }
        if let Err(error) = self.wire.part().await {
            tracing::debug!(%error, "the contact may not have heard that the tube is closed");
        }
    }
}
