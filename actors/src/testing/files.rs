//! Fakes of the ports of file transfers.

use std::sync::Arc;

use async_channel::{Receiver, Sender};

use crate::{
    model::Error,
    ports::{AgreedFile, FileSending},
    runtime::BoxFuture,
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
