//! The client library: what a program needs to use the connection manager over D-Bus.
//!
//! ```text
//!  Bus ── find_or_start() finds or starts the service, on the session bus or without one
//!   └─ Connection ── one account: go online, contacts, trust, offline
//!       ├─ Events ── everything that happens on it, one queue, in order
//!       ├─ KeptTube ── what the service makes again by itself
//!       ├─ Lease ── whether we may take it offline when we go
//!       ├─ Offers ── the tubes that a contact offers us
//!       ├─ Tube ── one tube, for a stream or for D-Bus: offer, accept, claim, statistics, close
//!       │   └─ Bridge ── an address of the user's choice, joined to the tube's socket
//!       ├─ sharing ── one service of the session bus, shared with a contact over a D-Bus tube
//!       └─ transfer ── files to and from contacts, that go on after whatever broke them
//! ```
//!
//! Where Mission Control manages the account, a ManagedAccount takes the place of going online, and
//! requests and offers go through it: the module `managed` says how.
//!
//! It talks to nothing but the bus and, in the socket bridge, to local sockets. The executor and
//! the clock are handed in with the [`Bus`]. Everything that comes from the bus is hostile until
//! checked: what is missing or of another type becomes an error or is left out, never a panic.

mod account;
mod bridge;
mod bus;
mod connection;
mod contact;
mod dbus_tube;
mod error;
mod event;
mod kept;
mod launch;
mod lease;
mod levels;
mod managed;
mod offers;
mod policy;
mod queue;
pub mod sharing;
pub mod transfer;
mod tube;

pub use account::Account;
pub use bridge::Bridge;
pub use bus::{Bus, Remote};
pub use connection::{Connection, Status};
pub use contact::{Contact, Show, Trust, TrustLevel};
pub use error::{Error, Kind, Result, kind_of};
pub use event::{Event, Events};
pub use kept::KeptTube;
pub use launch::{
    Program, Started, appears, find_or_start, is_activatable, is_running, process, start, version,
};
pub use lease::Lease;
pub use levels::{levels, not_running, set_levels};
pub use managed::{Expected, ManagedAccount, Stay};
pub use offers::Offers;
pub use policy::{Decision, Rule, Terms};
pub use tube::{Statistics, Tube, TubeDescription, TubeKind, TubeState, from_ip};
