//! The session's side of a tube: what opens, offers and asks to be opened.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{FakeStream, StreamCounter, lock, pipe_counted};
use crate::{
    model::{BytestreamId, Error, ServiceName, TubeParameters},
    ports::{Bytestream, BytestreamConnector, IncomingBytestream, TubeSignalling},
    runtime::{BoxFuture, Pending, Reply},
};

/// Bytes a fake bytestream buffers each way.
const CAPACITY: usize = 4096;

/// What a fake does with the next request.
#[derive(Debug)]
pub enum Answer {
    /// Fails with this.
    Fail(Error),
    /// Panics.
    Panic,
    /// Waits until something arrives here (or the other end is dropped), then succeeds.
    After(Pending<()>),
}

impl Answer {
    /// An answer that waits until the returned reply is sent or dropped.
    pub fn held() -> (Answer, Reply<()>) {
        let (reply, pending) = Reply::new();
        (Answer::After(pending), reply)
    }

    pub(super) async fn carry_out(this: Option<Self>) -> Result<(), Error> {
        match this {
            Some(Answer::Fail(why)) => Err(why),
            Some(Answer::Panic) => panic!("the fake was told to panic"),
            Some(Answer::After(pending)) => {
                pending.wait().await.ok();
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Opens bytestreams whose far ends the test holds.
#[derive(Debug)]
pub struct FakeConnector {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<BytestreamId>>,
    opened: (
        async_channel::Sender<FakeStream>,
        async_channel::Receiver<FakeStream>,
    ),
    counter: StreamCounter,
    in_the_clear: AtomicBool,
}

impl FakeConnector {
    /// One that opens whatever it is asked for.
    pub fn new(counter: &StreamCounter) -> Arc<Self> {
        Arc::new(FakeConnector {
            answers: Mutex::default(),
            asked: Mutex::default(),
            opened: async_channel::unbounded(),
            counter: counter.clone(),
            in_the_clear: AtomicBool::new(false),
        })
    }

    /// Decides over the next request that has no answer yet; the rest succeed.
    pub fn next(&self, answer: Answer) {
        lock(&self.answers).push_back(answer);
    }

    /// From now on bytestreams open without TLS.
    pub fn open_in_the_clear(&self) {
        self.in_the_clear.store(true, Ordering::Relaxed);
    }

    /// The ids it was asked for, in order.
    pub fn asked(&self) -> Vec<BytestreamId> {
        lock(&self.asked).clone()
    }

    /// Waits for the far end of the next bytestream that opens.
    pub async fn opened(&self) -> FakeStream {
        match self.opened.1.recv().await {
            Ok(stream) => stream,
            Err(_) => unreachable!("this connector holds a sender itself"),
        }
    }
}

impl BytestreamConnector for FakeConnector {
    fn connect(&self, id: BytestreamId) -> BoxFuture<'static, Result<Bytestream, Error>> {
        lock(&self.asked).push(id);
        let answer = lock(&self.answers).pop_front();
        let opened = self.opened.0.clone();
        let counter = self.counter.clone();
        let encrypted = !self.in_the_clear.load(Ordering::Relaxed);
        Box::pin(async move {
            Answer::carry_out(answer).await?;
            let (near, far) = pipe_counted(CAPACITY, &counter);
            drop(opened.try_send(far));
            Ok(Bytestream {
                io: Box::new(near),
                encrypted,
            })
        })
    }
}

/// What the contact was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// The tube was offered.
    Offered(ServiceName, TubeParameters),
    /// The tube was closed.
    Closed,
}

/// Tells a contact that is not there.
#[derive(Debug, Default)]
pub struct FakeSignalling {
    log: Arc<Mutex<Vec<Signalled>>>,
    answers: Mutex<VecDeque<Answer>>,
    close_answers: Mutex<VecDeque<Answer>>,
}

impl FakeSignalling {
    /// One whose offers succeed.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Decides over the next offer that has no answer yet; the rest succeed.
    pub fn next(&self, answer: Answer) {
        lock(&self.answers).push_back(answer);
    }

    /// Decides over the next close; [`Answer::Fail`] does nothing there.
    pub fn next_close(&self, answer: Answer) {
        lock(&self.close_answers).push_back(answer);
    }

    /// What the contact was told, in order.
    pub fn log(&self) -> Vec<Signalled> {
        lock(&self.log).clone()
    }
}

impl TubeSignalling for FakeSignalling {
    fn offer(
        &self,
        service: &ServiceName,
        parameters: &TubeParameters,
    ) -> BoxFuture<'static, Result<(), Error>> {
        let answer = lock(&self.answers).pop_front();
        let log = self.log.clone();
        let offered = Signalled::Offered(service.clone(), parameters.clone());
        Box::pin(async move {
            Answer::carry_out(answer).await?;
            lock(&log).push(offered);
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let answer = lock(&self.close_answers).pop_front();
        let log = self.log.clone();
        Box::pin(async move {
            if Answer::carry_out(answer).await.is_ok() {
                lock(&log).push(Signalled::Closed);
            }
        })
    }
}

/// What became of a bytestream the contact asked for.
#[derive(Debug)]
pub enum IncomingOutcome {
    /// It opened; this is the contact's end.
    Accepted(FakeStream),
    /// It was refused with a reason.
    Refused(Error),
    /// It was agreed to, and then did not open because the fake was told so.
    Failed,
}

/// A bytestream the contact asks for. [`IncomingBytestream`] of a contact that is not there.
#[derive(Debug)]
pub struct FakeIncoming {
    id: BytestreamId,
    answer: Option<Answer>,
    outcome: Reply<IncomingOutcome>,
    counter: StreamCounter,
}

impl FakeIncoming {
    /// A request and the place where its outcome arrives: dropped if the request was dropped, which
    /// refuses it too. `answer` decides over what accepting it does.
    pub fn request(
        id: u8,
        counter: &StreamCounter,
        answer: Option<Answer>,
    ) -> (Box<dyn IncomingBytestream>, Pending<IncomingOutcome>) {
        let (outcome, pending) = Reply::new();
        let incoming = FakeIncoming {
            id: BytestreamId([id; 16]),
            answer,
            outcome,
            counter: counter.clone(),
        };
        (Box::new(incoming), pending)
    }
}

impl IncomingBytestream for FakeIncoming {
    fn id(&self) -> BytestreamId {
        self.id
    }

    fn accept(self: Box<Self>) -> BoxFuture<'static, Result<Bytestream, Error>> {
        Box::pin(async move {
            if let Err(why) = Answer::carry_out(self.answer).await {
                self.outcome.answer(IncomingOutcome::Failed);
                return Err(why);
            }
            let (near, far) = pipe_counted(CAPACITY, &self.counter);
            self.outcome.answer(IncomingOutcome::Accepted(far));
            Ok(Bytestream {
                io: Box::new(near),
                encrypted: true,
            })
        })
    }

    fn refuse(self: Box<Self>, why: Error) {
        self.outcome.answer(IncomingOutcome::Refused(why));
    }
}
