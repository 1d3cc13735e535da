//! What a relay does: with fakes in virtual time ([`ends`], [`flow`], [`chunks`], [`limits`]) and with
//! the kernel's own sockets ([`sockets`]).

mod chunks;
mod ends;
mod flow;
mod limits;
mod sockets;

use std::sync::Arc;

use super::{Meters, RelayEnd, run};
use crate::{
    ports::{Bytestream, Duplex},
    runtime::{Failure, Stopper, Task},
    testing::{FakeStream, Sim, StreamCounter, pipe_counted},
};

/// A relay between two people, in a world of its own.
struct Rig {
    sim: Sim,
    counter: StreamCounter,
    meters: Arc<Meters>,
    stopper: Stopper,
    /// The other end of the relay's local side.
    application: FakeStream,
    /// The other end of the relay's remote side.
    contact: FakeStream,
    relay: Task<RelayEnd>,
}

impl Rig {
    /// Each pipe holds `capacity` bytes each way.
    fn new(capacity: usize) -> Self {
        let counter = StreamCounter::default();
        let (application, local) = pipe_counted(capacity, &counter);
        let (contact, remote) = pipe_counted(capacity, &counter);
        let sim = Sim::new();
        let meters = Arc::new(Meters::default());
        let (stopper, relay) = start(&sim, local.like_a_socket(), remote, &meters);
        Rig {
            sim,
            counter,
            meters,
            stopper,
            application: application.like_a_socket(),
            contact,
            relay,
        }
    }

    /// Waits for the relay's end, and sees that it let go of both sides.
    fn end(self) -> (RelayEnd, FakeStream, FakeStream) {
        let end = self.sim.run(self.relay).unwrap();
        assert_eq!(self.counter.open(), 2, "the relay still holds a stream");
        assert_eq!(self.sim.spawner.running(), 0);
        (end, self.application, self.contact)
    }
}

/// Starts a relay in this world.
fn start(
    sim: &Sim,
    local: impl Duplex,
    remote: impl Duplex,
    meters: &Arc<Meters>,
) -> (Stopper, Task<RelayEnd>) {
    let (stopper, stop) = Stopper::new();
    let remote = Bytestream {
        io: Box::new(remote),
        encrypted: true,
    };
    let meters = meters.clone();
    let relay = async move { run(local, remote, meters, &stop).await };
    (stopper, sim.spawner.spawn("relay", relay))
}

/// A relay between two scripted streams, run to its end.
fn run_scripted(
    local: impl Duplex,
    remote: impl Duplex,
) -> (Result<RelayEnd, Failure>, Arc<Meters>) {
    let sim = Sim::new();
    let meters = Arc::new(Meters::default());
    let (_stopper, relay) = start(&sim, local, remote, &meters);
    (sim.run(relay), meters)
}
