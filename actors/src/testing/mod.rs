//! What tests of actors need: an executor that is turned by hand, a clock that moves only when told,
//! and a fake of everything an actor talks to. Feature `testing`; never on in what we ship.
//!
//! Nothing here touches the network, the bus, the file system or the machine's clock, so a test that
//! waits an hour takes a millisecond and two runs of it do the same steps in the same order.
//!
//! | fake | stands for |
//! | --- | --- |
//! | [`Sim`] | the executor and the clock together: runs a scenario, advancing time when all is idle |
//! | [`VirtualClock`] | [`crate::runtime::Clock`] |
//! | [`FakeTree`] | [`crate::ports::ObjectTree`], recording in order, failing when told |
//! | [`pipe`] | a pair of bounded [`crate::ports::Duplex`] streams with half-close, reset and loss |
//! | [`FakeConnector`], [`FakeSignalling`], [`FakeIncoming`] | the session |
//! | [`FakeSending`], [`FakeIncomingFile`] | the session, where files are sent and received |
//! | [`FakeDBusOffering`], [`FakeIncomingDBusTube`] | the session, where D-Bus tubes are offered and accepted |
//! | [`FakeSockets`] | the operating system's sockets |
//! | [`Faults`] | fate: kills an actor at a named point |
//! | [`Probe`] | an actor: what was sent to its address |
//!
//! [`Stage`] is a supervisor among them.

mod clock;
mod dbus_tubes;
mod files;
mod pipe;
mod probe;
mod session;
mod sim;
mod sockets;
mod stage;
mod tree;

pub use clock::VirtualClock;
pub use dbus_tubes::{Answering, FakeDBusOffer, FakeDBusOffering, FakeIncomingDBusTube, Offered};
pub use files::{FakeIncomingFile, FakeOffer, FakeSending, agreed, file_stream};
pub use pipe::{FakeStream, StreamCounter, Wire, pipe, pipe_counted};
pub use probe::Probe;
pub use session::{
    Answer, FakeConnector, FakeIncoming, FakeSignalling, IncomingOutcome, Signalled,
};
pub use sim::Sim;
pub use sockets::{FAKE_USER, FakeService, FakeSockets};
pub use stage::Stage;
pub use tree::{FakeTree, TreeEvent};

pub use crate::runtime::{Fault, FaultPoint, Faults};

/// Locks whatever panicked while it was held: fakes are looked at after injected panics.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
