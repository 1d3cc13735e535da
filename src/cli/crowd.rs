//! A few futures that are waited for together: whichever is ready is taken out. Each is polled whenever one
//! of them can go on, which is right for a few of them and wrong for many.

use std::{future::poll_fn, pin::Pin, task::Poll};

/// See the module's head.
pub struct Crowd<'a, T>(Vec<Pin<Box<dyn Future<Output = T> + 'a>>>);

impl<'a, T> Crowd<'a, T> {
    /// Nobody.
    pub fn new() -> Self {
        Crowd(Vec::new())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// One more.
    pub fn join(&mut self, future: impl Future<Output = T> + 'a) {
        self.0.push(Box::pin(future));
    }

    /// What the next gives that is ready. Without any, this never is. Cancel-safe.
    pub async fn next(&mut self) -> T {
        poll_fn(|context| {
            for number in 0..self.0.len() {
                if let Poll::Ready(output) = self.0[number].as_mut().poll(context) {
                    drop(self.0.swap_remove(number));
                    return Poll::Ready(output);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future;

    use super::*;

    #[test]
    fn whoever_is_ready_comes_first_and_once() {
        smol::block_on(async {
            let (sender, receiver) = async_channel::bounded::<u8>(1);
            let mut crowd = Crowd::new();
            assert!(future::poll_once(crowd.next()).await.is_none());
            crowd.join(async move { receiver.recv().await.ok() });
            crowd.join(async { Some(2) });
            assert_eq!(crowd.next().await, Some(2));
            assert!(future::poll_once(crowd.next()).await.is_none());
            sender.try_send(1).expect("there is room");
            assert_eq!((crowd.next().await, crowd.len()), (Some(1), 0));
        });
    }
}
