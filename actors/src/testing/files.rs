//! Fakes of the ports of file transfers.

use std::{convert::Infallible, sync::Arc};

use async_channel::{Receiver, Sender};
use futures_lite::FutureExt as _;

use super::{FakeStream, StreamCounter, pipe_counted};
use crate::{
    model::{Error, Resume},
    ports::{AgreedFile, Bytestream, FileSending, FileStream, IncomingFile},
    runtime::{BoxFuture, Reply},
};

/// A contact that answers each offer of a file with what the test gives it, and waits for that.
#[derive(Debug)]
pub struct FakeSending {
    answers: Receiver<Result<AgreedFile, Error>>,
}

impl FakeSending {
    /// The port, and where its contact's answers are given. Dropping the sender refuses what is
    /// offered.
    pub fn new() -> (Arc<Self>, Sender<Result<AgreedFile, Error>>) {
        let (sender, answers) = async_channel::bounded(8);
        (Arc::new(FakeSending { answers }), sender)
    }
}

impl FileSending for FakeSending {
    fn offer(&self) -> BoxFuture<'static, Result<AgreedFile, Error>> {
        let answers = self.answers.clone();
        Box::pin(async move {
            answers
                .recv()
                .await
                .unwrap_or_else(|_| Err(Error::Rejected("the contact does not want it".into())))
        })
    }
}

/// A bytestream for a file, and the contact's end of it.
pub fn file_stream(
    capacity: usize,
    framed: bool,
    counter: &StreamCounter,
) -> (FileStream, FakeStream) {
    let (near, far) = pipe_counted(capacity, counter);
    let bytestream = Bytestream {
        io: Box::new(near),
        encrypted: framed,
    };
    (FileStream { bytestream, framed }, far)
}

/// A contact that wants a file from there, and opens this bytestream for it.
pub fn agreed(from: Resume, stream: FileStream) -> AgreedFile {
    AgreedFile {
        from,
        opening: Box::pin(async { Ok(stream) }),
        withdrawn: Box::pin(std::future::pending()),
    }
}

/// A file that a contact offers, as the receiving side sees it.
#[derive(Debug)]
pub struct FakeIncomingFile {
    has_ranges: bool,
    accepted: Sender<Accepting>,
    declined: Sender<Error>,
    withdrawn: Receiver<Infallible>,
}

/// The contact that offers it.
#[derive(Debug)]
pub struct FakeOffer {
    accepted: Receiver<Accepting>,
    declined: Receiver<Error>,
    standing: Option<Sender<Infallible>>,
}

type Accepting = (Resume, Reply<Result<FileStream, Error>>);

impl FakeIncomingFile {
    /// The port, and the contact behind it.
    pub fn offered(has_ranges: bool) -> (Box<Self>, FakeOffer) {
        let (accepted, accepted_out) = async_channel::bounded(1);
        let (declined, declined_out) = async_channel::bounded(1);
        let (standing, withdrawn) = async_channel::bounded(1);
        let port = FakeIncomingFile {
            has_ranges,
            accepted,
            declined,
            withdrawn,
        };
        let offer = FakeOffer {
            accepted: accepted_out,
            declined: declined_out,
            standing: Some(standing),
        };
        (Box::new(port), offer)
    }
}

impl FakeOffer {
    /// Waits until it is accepted: from where, and what opens the bytestream.
    /// `None` when it never will be.
    pub async fn accepted(&self) -> Option<(Resume, Reply<Result<FileStream, Error>>)> {
        self.accepted.recv().await.ok()
    }

    /// Waits until it is accepted, opens a bytestream of this kind, and gives from where it is wanted, and
    /// the contact's end.
    ///
    /// # Panics
    /// When it is never accepted.
    pub async fn open(
        &self,
        capacity: usize,
        framed: bool,
        counter: &StreamCounter,
    ) -> (Resume, FakeStream) {
        let Some((from, reply)) = self.accepted().await else {
            panic!("the offer was not accepted");
        };
        let (near, far) = file_stream(capacity, framed, counter);
        reply.answer(Ok(near));
        (from, far)
    }

    /// Takes it back.
    pub fn withdraw(&mut self) {
        self.standing = None;
    }

    /// Waits until it does not stand on the other side any more: why it was declined, if it was by a word.
    pub async fn declined(&self) -> Option<Error> {
        self.declined.recv().await.ok()
    }
}

impl IncomingFile for FakeIncomingFile {
    fn has_ranges(&self) -> bool {
        self.has_ranges
    }

    fn accept(self: Box<Self>, from: Resume) -> BoxFuture<'static, Result<FileStream, Error>> {
        Box::pin(async move {
            let (reply, answer) = Reply::new();
            let gone = || Error::Offline("the contact is gone".into());
            self.accepted
                .send((from, reply))
                .await
                .map_err(|_| gone())?;
            let withdrawn = self.withdrawn();
            let answered = async { answer.wait().await.unwrap_or_else(|_| Err(gone())) };
            let taken_back = async {
                withdrawn.await;
                Err(Error::Cancelled("the contact took its offer back".into()))
            };
            answered.or(taken_back).await
        })
    }

    fn decline(self: Box<Self>, why: Error) {
        self.declined.try_send(why).ok();
    }

    fn withdrawn(&self) -> BoxFuture<'static, ()> {
        let withdrawn = self.withdrawn.clone();
        Box::pin(async move {
            // Nothing is ever sent.
            withdrawn.recv().await.ok();
        })
    }
}
