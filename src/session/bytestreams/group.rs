//! A few futures driven together, without a task for each.

use std::{future::Future, pin::Pin, task::Poll};

use actors::runtime::BoxFuture;

/// A few futures, driven together by whoever awaits [`Group::next`]. Dropping it drops them all at
/// once, with the sockets they hold. Every wake polls all, so it is for a few only; who adds bounds
/// how many.
pub(super) struct Group<K, T> {
    members: Vec<(K, BoxFuture<'static, T>)>,
}

impl<K, T> Group<K, T> {
    pub(super) fn new() -> Self {
        Group {
            members: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, key: K, future: BoxFuture<'static, T>) {
        self.members.push((key, future));
    }

    /// The keys, the oldest first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.members.iter().map(|(key, _)| key)
    }

    /// Drops one, by its place among the keys.
    pub(super) fn remove(&mut self, place: usize) {
        if place < self.members.len() {
            drop(self.members.remove(place));
        }
    }

    /// Waits until one is finished, takes it out and gives its output. Waits for ever while there
    /// are none. Cancel-safe.
    pub(super) async fn next(&mut self) -> T {
        std::future::poll_fn(|context| {
            for place in 0..self.members.len() {
                if let Poll::Ready(output) = Pin::new(&mut self.members[place].1).poll(context) {
                    drop(self.members.remove(place));
                    return Poll::Ready(output);
                }
            }
            Poll::Pending
        })
        .await
    }
}
