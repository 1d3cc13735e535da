//! Fakes of the ports of D-Bus tubes.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{Answer, FakeStream, StreamCounter, lock, pipe_counted};
use crate::{
    model::{Error, ServiceName, TubeParameters},
    ports::{Bytestream, DBusTubeOffering, IncomingDBusTube, Opening},
    runtime::{BoxFuture, Reply},
};

/// Bytes a fake bytestream buffers each way.
const CAPACITY: usize = 4096;

/// Where a contact answers that was offered a tube, or whose offer was accepted. Dropped, it says no.
#[derive(Debug)]
pub struct Answering(Reply<Result<Bytestream, Error>>);

impl Answering {
    /// Opens a bytestream, and gives the contact's end.
    pub fn open(self, counter: &StreamCounter) -> FakeStream {
        let (near, far) = pipe_counted(CAPACITY, counter);
        self.0.answer(Ok(Bytestream {
            io: Box::new(near),
            encrypted: true,
        }));
        far
    }

    /// Does not.
    pub fn refuse(self, why: Error) {
        self.0.answer(Err(why));
    }

    /// Whether somebody still waits for it.
    pub fn is_wanted(&self) -> bool {
        self.0.is_wanted()
    }
}

/// A contact that is offered tubes.
#[derive(Debug)]
pub struct FakeDBusOffering {
    answers: Mutex<VecDeque<Answer>>,
    offered: Sender<(ServiceName, TubeParameters, Answering)>,
}

/// What the contact was offered.
pub type Offered = Receiver<(ServiceName, TubeParameters, Answering)>;

impl FakeDBusOffering {
    /// The port, and where the contact finds what it is offered.
    pub fn new() -> (Arc<Self>, Offered) {
        let (sender, offered) = async_channel::unbounded();
        let port = FakeDBusOffering {
            answers: Mutex::default(),
            offered: sender,
        };
        (Arc::new(port), offered)
    }

    /// Decides over the next offer that has no answer yet; the rest are written.
    pub fn next(&self, answer: Answer) {
        lock(&self.answers).push_back(answer);
    }
}

impl DBusTubeOffering for FakeDBusOffering {
    fn offer(
        &self,
        service: &ServiceName,
        parameters: &TubeParameters,
    ) -> BoxFuture<'static, Result<Opening, Error>> {
        let answer = lock(&self.answers).pop_front();
        let offered = self.offered.clone();
        let (service, parameters) = (service.clone(), parameters.clone());
        Box::pin(async move {
            Answer::carry_out(answer).await?;
            let (reply, pending) = Reply::new();
            drop(offered.try_send((service, parameters, Answering(reply))));
            let rejected = || Error::Rejected("the contact does not want it".into());
            let opening: Opening =
                Box::pin(async move { pending.wait().await.unwrap_or_else(|_| Err(rejected())) });
            Ok(opening)
        })
    }
}

/// A tube that a contact offers, as the accepting side sees it.
#[derive(Debug)]
pub struct FakeIncomingDBusTube {
    accepted: Sender<Answering>,
    withdrawn: Receiver<Infallible>,
}

/// The contact that offers it.
#[derive(Debug)]
pub struct FakeDBusOffer {
    accepted: Receiver<Answering>,
    standing: Option<Sender<Infallible>>,
}

impl FakeIncomingDBusTube {
    /// The port, and the contact behind it.
    pub fn offered() -> (Box<Self>, FakeDBusOffer) {
        let (accepted, accepted_out) = async_channel::bounded(1);
        let (standing, withdrawn) = async_channel::bounded(1);
        let port = FakeIncomingDBusTube {
            accepted,
            withdrawn,
        };
        let offer = FakeDBusOffer {
            accepted: accepted_out,
            standing: Some(standing),
        };
        (Box::new(port), offer)
    }
}

impl FakeDBusOffer {
    /// Waits until it is accepted. `None`: it is declined.
    pub async fn accepted(&self) -> Option<Answering> {
        self.accepted.recv().await.ok()
    }

    /// Takes it back.
    pub fn withdraw(&mut self) {
        self.standing = None;
    }
}

impl IncomingDBusTube for FakeIncomingDBusTube {
    fn accept(self: Box<Self>) -> Opening {
        Box::pin(async move {
            let (reply, answer) = Reply::new();
            drop(self.accepted.try_send(Answering(reply)));
            let gone = || Error::Offline("the contact is gone".into());
            let withdrawn = self.withdrawn();
            let answered = async { answer.wait().await.unwrap_or_else(|_| Err(gone())) };
            let taken_back = async {
                withdrawn.await;
                Err(Error::Rejected("the contact took its offer back".into()))
            };
            answered.or(taken_back).await
        })
    }

    fn withdrawn(&self) -> BoxFuture<'static, ()> {
        let withdrawn = self.withdrawn.clone();
        Box::pin(async move {
            // Nothing is ever sent.
            withdrawn.recv().await.ok();
        })
    }
}
