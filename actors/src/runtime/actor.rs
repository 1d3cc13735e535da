//! The shape of an actor: wait for one event, apply it, again.
//!
//! [`Actor::select`] waits and changes nothing that a cancellation could lose; [`Actor::apply`]
//! is synchronous, makes the decisions, and is what unit tests call. [`run`] drives the two until
//! the actor is done, is stopped, fails or panics.

use std::{fmt, future::Future};

use futures_lite::{FutureExt as _, future};

use super::Stop;

/// Why an actor failed. Text only: what failed is gone, and who restarts it needs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It gave up with an error.
    Failed(String),
    /// It panicked.
    Panicked(String),
}

impl Failure {
    /// Reads what a panic left.
    pub fn from_panic(payload: &(dyn std::any::Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        Failure::Panicked(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(text) => write!(f, "failed: {text}"),
            Failure::Panicked(text) => write!(f, "panicked: {text}"),
        }
    }
}

impl std::error::Error for Failure {}

/// How an actor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It finished what it was for.
    Finished,
    /// It was asked to stop.
    Stopped,
    /// It failed; its supervisor decides what happens.
    Failed(Failure),
}

/// What follows an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next event.
    Continue,
    /// The end.
    Exit(Exit),
}

/// An actor: see the module's head.
pub trait Actor: Send + 'static {
    /// What it waits for.
    type Event: Send;

    /// Waits for the next event. Must be cancel-safe.
    fn select(&mut self) -> impl Future<Output = Self::Event> + Send;

    /// Applies one event. Never blocks.
    fn apply(&mut self, event: Self::Event) -> Flow;
}

/// Runs an actor to its end. Stop is looked at first, before any event. A panic is not caught
/// here but by the task that runs it ([`super::Spawner::spawn`]).
pub async fn run<A: Actor>(mut actor: A, stop: &Stop) -> Exit {
    loop {
        let stopped = async {
            stop.stopped().await;
            None
        };
        let Some(event) = stopped.or(async { Some(actor.select().await) }).await else {
            return Exit::Stopped;
        };
        if let Flow::Exit(exit) = actor.apply(event) {
            return exit;
        }
        // Whoever floods this actor must not have its thread for as long as the flood lasts.
        future::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::{Actor, Exit, Flow, future, run};
    use crate::{runtime::Stopper, testing::Sim};

    /// Always has something to do, and ends after very much of it.
    struct Flooded(Arc<AtomicUsize>);

    impl Actor for Flooded {
        type Event = ();

        async fn select(&mut self) {}

        fn apply(&mut self, (): ()) -> Flow {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                10_000.. => Flow::Exit(Exit::Finished),
                _ => Flow::Continue,
            }
        }
    }

    #[test]
    fn a_flood_leaves_the_thread_to_others() {
        let sim = Sim::new();
        let done = Arc::new(AtomicUsize::new(0));
        let actor = Flooded(done.clone());
        let flooded = sim.spawner.spawn("flooded", async move {
            let (_stopper, stop) = Stopper::new();
            run(actor, &stop).await
        });
        let other = sim.spawner.spawn("other", async move {
            future::yield_now().await;
            done.load(Ordering::Relaxed)
        });
        assert!(sim.run(other).unwrap() < 100);
        assert_eq!(sim.run(flooded), Ok(Exit::Finished));
    }
}
