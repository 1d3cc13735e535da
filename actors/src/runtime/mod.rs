//! What an actor is made of: a bounded mailbox, an address, replies, a stop tree, a clock and an
//! executor that are handed in, and a snapshot others may read without asking.

mod actor;
mod clock;
mod commit;
mod desk;
mod faults;
mod mailbox;
mod reply;
mod snapshot;
mod spawner;
mod stop;

pub use actor::{Actor, Exit, Failure, Flow, run};
pub use clock::{Clock, SystemClock, Time, within};
pub(crate) use commit::{Commit, Decision};
pub(crate) use desk::{Decider, Desk, DeskEvent, Points, Post};
#[cfg(feature = "testing")]
pub use faults::Fault;
pub use faults::{ActorKind, FaultPoint, Faults};
pub use mailbox::{Address, AskError, Gone, Mailbox, TellError};
pub use reply::{Dropped, Pending, Reply};
pub use snapshot::{Snapshot, SnapshotWriter};
pub use spawner::{Spawner, Task, catch};
pub use stop::{Stop, Stopper};

/// A boxed future, as the object-safe ports return them.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn std::future::Future<Output = T> + Send + 'a>>;
