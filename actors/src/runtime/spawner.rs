//! The executor is handed in. The spawner counts what runs, so that tests can see that nothing is
//! left, and a task that panics ends as an `Err` for its owner instead of a second panic.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_executor::Executor;
use futures_lite::FutureExt as _;

use super::Failure;

/// Starts tasks on one executor. Cheap to clone.
#[derive(Clone)]
pub struct Spawner {
    executor: Arc<Executor<'static>>,
    running: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Spawner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawner")
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}

/// A running task. Dropping it cancels the task; [`Task::detach`] lets it run on.
#[derive(Debug)]
#[must_use = "dropping a task cancels it"]
pub struct Task<T>(async_executor::Task<Result<T, Failure>>);

impl Spawner {
    /// A spawner on `executor`, which somebody else runs.
    pub fn new(executor: Arc<Executor<'static>>) -> Self {
        Spawner {
            executor,
            running: Arc::default(),
        }
    }

    /// Starts a task. A panic inside becomes [`Failure::Panicked`] for whoever awaits it, and a
    /// `tracing` error for everybody.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        // Boxed first: on its way into the executor a task is moved several times, and an unoptimised
        // build keeps every copy on the stack.
        let future = Box::pin(future);
        self.running.fetch_add(1, Ordering::Relaxed);
        let guard = Guard(self.running.clone());
        Task(self.executor.spawn(catch(name, async move {
            let _guard = guard;
            future.await
        })))
    }

    /// How many tasks are running now.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// The executor itself, for libraries that bring their own tasks (zbus).
    pub fn executor(&self) -> &Arc<Executor<'static>> {
        &self.executor
    }
}

/// Runs a future whose panic becomes [`Failure::Panicked`], and a `tracing` error. Sound only where
/// nothing the future could have left half done is looked at afterwards.
///
/// # Errors
/// The panic.
pub async fn catch<T>(name: &'static str, future: impl Future<Output = T>) -> Result<T, Failure> {
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .map_err(|payload| {
            let failure = Failure::from_panic(&*payload);
            tracing::error!(task = name, %failure, "task panicked");
            failure
        })
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T> Task<T> {
    /// Lets the task run to its end on its own.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Cancels the task and waits until it is gone. Gives the output if it had just finished.
    pub async fn cancel(self) -> Option<Result<T, Failure>> {
        self.0.cancel().await
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}
