//! What the tests from outside have in common: real processes on private buses.
//!
//! ```text
//!  World ── a free mDNS port that isolates it
//!    └── Person ── Bus      a dbus-daemon of its own (process, config, socket)
//!          ├──────  Process  its connection manager, output kept
//!          ├──────  zbus     a client's connection to the bus
//!          └──────  Events   every signal that the bus carried, in order
//! ```
//!
//! Everything waits for events with a deadline and, when the deadline passes, panics with all it
//! has seen: signals and the output of the processes. Nothing sleeps but [`storm`], which
//! looks again and again how long a file is, of which nothing tells. Everything is taken down on drop:
//! processes by their id, directories with what is in them.

mod access;
mod bus;
mod contact;
mod dbus_tube;
mod events;
mod friends;
pub mod measure;
mod person;
mod process;
mod server;
pub mod sshd;
pub mod storm;
mod tube;

pub use access::{Access, Caller, PortForm, Seen, say_byte};
pub use bus::{Bus, CallError};
pub use contact::ContactInfo;
pub use dbus_tube::{application, dbus_tube_request};
pub use events::{Event, Events};
pub use friends::befriend;
pub use person::{CM_NAME, CM_PATH, Options, Person, World};
pub use process::{Process, Usage};
pub use server::{Echo, Socket, Stalled, exchange, exchange_on};
pub use sshd::Sshd;
pub use tube::{Address, TubeState, name};

use std::time::Duration;

/// How long anything that should happen may take before a test gives up. Generous: it is only ever
/// waited out by a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The path of the service's binary, from inside an integration test or a benchmark of this package.
#[macro_export]
macro_rules! service {
    () => {
        std::path::Path::new(env!("CARGO_BIN_EXE_telepathy-pneuma"))
    };
}
