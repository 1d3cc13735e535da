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
    coming: Pin<Box<Receiver<Box<dyn Duplex>>>>,
    patience: BoxFuture<'static, ()>,
    left_alone: Arc<AtomicBool>,
}

impl Seat {
    /// A seat for what comes from there, and until when it may be empty: from now for so long. Afterwards
    /// `left_alone` says whether the application had gone by itself.
    pub(crate) fn new(
        coming: Receiver<Box<dyn Duplex>>,
        clock: &dyn Clock,
        patience: Duration,
        left_alone: Arc<AtomicBool>,
    ) -> Self {
        Seat {
            socket: None,
            coming: Box::pin(coming),
            patience: clock.sleep(patience),
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
            } else if self.patience.as_mut().poll(context).is_ready() {
                let why = "no application has connected to transfer the file";
                return Poll::Ready(Err(FlowEnd::LocalError(Error::NotAvailable(why.into()))));
            }
        }
        match self.socket() {
            Some(socket) => Poll::Ready(Ok(socket)),
            None => Poll::Pending,
        }
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
        if let Some(socket) = &mut self.socket {
            self.left_alone
                .store(socket.is_hung_up(), Ordering::Relaxed);
            socket.reset();
        }
    }
}
