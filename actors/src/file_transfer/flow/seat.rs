//! The one application that the file comes from or goes to.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_channel::Receiver;
use futures_lite::Stream as _;

use crate::{
    file_transfer::state::FlowEnd,
    model::Error,
    ports::Duplex,
    runtime::{BoxFuture, Clock},
};

/// Empty until the application has connected. An application that is taken away before
/// [`Seat::leave`] is reset: an end of file would claim that everything has arrived.
pub(crate) struct Seat {
    socket: Option<Box<dyn Duplex>>,
    /// One has come, whatever became of it.
    taken: bool,
    coming: Pin<Box<Receiver<Box<dyn Duplex>>>>,
    vanished: Pin<Box<Receiver<()>>>,
    clock: Arc<dyn Clock>,
    grace: Duration,
    patience: BoxFuture<'static, ()>,
    /// Runs once one has vanished, each time anew.
    last_patience: Option<BoxFuture<'static, ()>>,
    left_alone: Arc<AtomicBool>,
}

/// Where the application comes from, and until when.
pub(crate) struct Coming {
    pub(crate) socket: Receiver<Box<dyn Duplex>>,
    /// Says that one was gone before it could be let in.
    pub(crate) vanished: Receiver<()>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long the seat may be empty.
    pub(crate) within: Duration,
    /// How long it may be empty after one has vanished. That may have been before there was a seat; it counts
    /// from when the seat is there, so that an application that connects only once the transfer is open has
    /// that time, whoever else knocked before.
    pub(crate) grace: Duration,
}

impl Seat {
    /// A seat for what comes from there; its time runs from now. Afterwards `left_alone` says whether the
    /// application had gone by itself, or had never come.
    pub(crate) fn new(coming: Coming, left_alone: Arc<AtomicBool>) -> Self {
        Seat {
            socket: None,
            taken: false,
            coming: Box::pin(coming.socket),
            vanished: Box::pin(coming.vanished),
            patience: coming.clock.sleep(coming.within),
            clock: coming.clock,
            grace: coming.grace,
            last_patience: None,
            left_alone,
        }
    }

    /// Waits for the application.
    ///
    /// # Errors
    /// It has not come in time.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<&mut dyn Duplex, FlowEnd>> {
        if self.socket.is_none() {
            if let Poll::Ready(Some(socket)) = self.coming.as_mut().poll_next(context) {
                self.socket = Some(socket);
                self.taken = true;
            } else if let Poll::Ready(why) = self.poll_patience(context) {
                return Poll::Ready(Err(FlowEnd::LocalError(Error::NotAvailable(why.into()))));
            }
        }
        match self.socket() {
            Some(socket) => Poll::Ready(Ok(socket)),
            None => Poll::Pending,
        }
    }

    /// Waits until it has been empty for too long, and gives a sentence about that.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<&'static str> {
        while let Poll::Ready(Some(())) = self.vanished.as_mut().poll_next(context) {
            self.last_patience = Some(self.clock.sleep(self.grace));
        }
        if let Some(patience) = &mut self.last_patience
            && patience.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(
                "the application that connected to transfer the file was gone before it could be let in; \
                 it has to keep its socket open until the transfer is over",
            );
        }
        let why = "no application has connected to transfer the file";
        self.patience.as_mut().poll(context).map(|()| why)
    }

    /// The application, if it has come.
    pub(super) fn socket(&mut self) -> Option<&mut dyn Duplex> {
        match &mut self.socket {
            Some(socket) => Some(&mut **socket),
            None => None,
        }
    }

    /// The application has done all that it was for: its socket is closed.
    pub(super) fn leave(&mut self) {
        self.socket = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.taken {
            self.left_alone.store(true, Ordering::Relaxed);
        }
        if let Some(socket) = &mut self.socket {
            self.left_alone
                .store(socket.is_hung_up(), Ordering::Relaxed);
            socket.reset();
        }
    }
}
