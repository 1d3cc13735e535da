//! Stands where an actor would: shows what was sent to its address.

use crate::runtime::{Address, Mailbox};

/// The mailbox of an actor that does nothing but show what it gets.
#[derive(Debug)]
pub struct Probe<M>(Mailbox<M>);

impl<M> Probe<M> {
    /// A probe whose mailbox holds `capacity` messages, and its address.
    pub fn new(capacity: usize) -> (Probe<M>, Address<M>) {
        let (mailbox, address) = Mailbox::new(capacity);
        (Probe(mailbox), address)
    }

    /// Waits for the next message.
    ///
    /// # Panics
    /// When every address is gone.
    pub async fn expect(&mut self) -> M {
        match self.0.next().await {
            Some(message) => message,
            None => panic!("everybody who could send something is gone"),
        }
    }

    /// What has arrived so far.
    pub fn drain(&mut self) -> Vec<M> {
        std::iter::from_fn(|| self.0.try_next().ok()).collect()
    }
}
