//! The stop tree. A [`Stopper`] stops its [`Stop`] token and every token made below it; nothing
//! stops upward.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicBool, Ordering},
};

use event_listener::Event;

/// Asks everything below it to stop. Dropping it stops too, so that a forgotten branch ends.
#[derive(Debug)]
pub struct Stopper(Arc<Node>);

/// What an actor watches. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    stopped: AtomicBool,
    changed: Event,
    children: Mutex<Vec<Weak<Node>>>,
}

impl Node {
    /// Stops the branch. A list of what is still to do rather than recursion: trees may be deep.
    fn stop(&self) {
        let mut below = self.stop_one();
        while let Some(child) = below.pop() {
            if let Some(node) = child.upgrade() {
                below.append(&mut node.stop_one());
            }
        }
    }

    /// Stops this node and gives its children. One that is added afterwards finds its parent
    /// stopped: the flag is set before the list is taken.
    fn stop_one(&self) -> Vec<Weak<Node>> {
        self.stopped.store(true, Ordering::Release);
        self.changed.notify(usize::MAX);
        std::mem::take(&mut *lock(&self.children))
    }
}

/// The list of children stays valid whatever panicked while it was locked: every change to it is
/// one push or one take.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Stopper {
    /// The root of a new tree.
    pub fn new() -> (Stopper, Stop) {
        let node = Arc::new(Node::default());
        (Stopper(node.clone()), Stop(node))
    }

    /// Stops the whole branch. Doing it twice does nothing more.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Stop {
    /// A branch below this token.
    pub fn branch(&self) -> (Stopper, Stop) {
        let node = Arc::new(Node::default());
        {
            let mut children = lock(&self.0.children);
            children.retain(|child| child.strong_count() > 0);
            children.push(Arc::downgrade(&node));
        }
        if self.is_stopped() {
            node.stop();
        }
        (Stopper(node.clone()), Stop(node))
    }

    /// Whether it was asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Waits until it is asked to stop. Cancel-safe.
    pub async fn stopped(&self) {
        loop {
            if self.is_stopped() {
                return;
            }
            let listener = self.0.changed.listen();
            if self.is_stopped() {
                return;
            }
            listener.await;
        }
    }
}
