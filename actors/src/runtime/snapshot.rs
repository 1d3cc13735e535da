//! What an actor publishes: a value that others read without asking, replaced as a whole by an
//! atomic swap, so that neither a slow reader nor a panic can hold it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use event_listener::Event;

#[derive(Debug)]
struct Shared<T> {
    value: ArcSwap<T>,
    changed: Event,
}

/// The reading side. Cheap to clone.
#[derive(Debug)]
pub struct Snapshot<T>(Arc<Shared<T>>);

/// The publishing side; one for each snapshot.
#[derive(Debug)]
pub struct SnapshotWriter<T>(Arc<Shared<T>>);

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Snapshot(self.0.clone())
    }
}

impl<T> Snapshot<T> {
    /// A snapshot that starts with `value`.
    pub fn new(value: T) -> (SnapshotWriter<T>, Snapshot<T>) {
        let shared = Arc::new(Shared {
            value: ArcSwap::from_pointee(value),
            changed: Event::new(),
        });
        (SnapshotWriter(shared.clone()), Snapshot(shared))
    }

    /// The value as it was last published.
    pub fn get(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    /// Waits until `wanted` holds of the published value, and gives that value.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&T) -> bool) -> Arc<T> {
        loop {
            let listener = self.0.changed.listen();
            let value = self.get();
            if wanted(&value) {
                return value;
            }
            listener.await;
        }
    }
}

impl<T> SnapshotWriter<T> {
    /// Replaces the value.
    pub fn publish(&self, value: T) {
        self.0.value.store(Arc::new(value));
        self.0.changed.notify(usize::MAX);
    }

    /// The value as it was last published.
    pub fn get(&self) -> Arc<T> {
        self.0.value.load_full()
    }

    /// Another reader.
    pub fn reader(&self) -> Snapshot<T> {
        Snapshot(self.0.clone())
    }
}
