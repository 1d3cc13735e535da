//! The actor that emits a channel's signals, one after the other.
//!
//! The queue and the signal in hand belong to the channel, so a successor goes on where its
//! predecessor failed. A signal is in hand until the tree says that it is emitted; one whose
//! emission broke off is emitted again, so that none is ever missing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_channel::Receiver;

use crate::{
    endpoint::Slot,
    model::ChannelId,
    ports::{ChannelSignal, ObjectTree},
    runtime::{Exit, FaultPoint, Faults},
};

/// A signal to be emitted, and the slot that its connection occupies until it is.
pub(super) struct Announcement<S> {
    pub(super) signal: S,
    pub(super) _slot: Option<Slot>,
}

/// The signal in hand.
pub(super) struct InHand<S>(Arc<Mutex<Option<Announcement<S>>>>);

// Derived, these would ask something of the signal.
impl<S> Clone for InHand<S> {
    fn clone(&self) -> Self {
        InHand(self.0.clone())
    }
}

impl<S> Default for InHand<S> {
    fn default() -> Self {
        InHand(Arc::default())
    }
}

impl<S> InHand<S> {
    /// Takes what is in hand.
    pub(super) fn take(&self) -> Option<Announcement<S>> {
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Announcement<S>>> {
        // Only ever replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every incarnation of a channel's announcer is made from.
pub(super) struct Announcer<S> {
    pub(super) channel: ChannelId,
    pub(super) tree: Arc<dyn ObjectTree>,
    pub(super) queue: Receiver<Announcement<S>>,
    pub(super) in_hand: InHand<S>,
    pub(super) faults: Faults,
}

impl<S: Clone + Into<ChannelSignal>> Announcer<S> {
    /// Emits until the queue is closed and empty.
    pub(super) async fn run(self) -> Exit {
        match self.work().await {
            Ok(()) => Exit::Finished,
            Err(failure) => Exit::Failed(failure),
        }
    }

    async fn work(&self) -> Result<(), crate::runtime::Failure> {
        loop {
            if self.in_hand.lock().is_none() {
                let next = self
                    .faults
                    .survive(FaultPoint::AnnouncerWaiting, self.queue.recv())
                    .await?;
                let Ok(next) = next else {
                    return Ok(());
                };
                *self.in_hand.lock() = Some(next);
            }
            self.faults.hit(FaultPoint::AnnouncerTake)?;
            let signal = self.in_hand.lock().as_ref().map(|next| next.signal.clone());
            let Some(signal) = signal else {
                continue;
            };
            let emitting = async {
                self.tree.emit(self.channel, signal.into()).await;
                // Emitted: it is nobody's any more, and its slot is free.
                drop(self.in_hand.take());
            };
            self.faults
                .survive(FaultPoint::AnnouncerEmitting, emitting)
                .await?;
            self.faults.hit(FaultPoint::AnnouncerEmitted)?;
        }
    }
}
