//! Telepathy without D-Bus: accounts, their connections, contacts, capabilities and channels.
//!
//! ```text
//!  manager (actor)                 one for the process: which accounts are online
//!   └─ connection (actor)          one for each account: status, contacts, capabilities, channels
//!       ├─ announcer (task)        emits the signals in order, through the ConnectionTree port
//!       └─ chores (tasks)          one at a time: what the session or the supervisor takes time for
//!  keeper (actor)                  one for the process: tubes that are made anew, see `kept`
//! ```
//!
//! A caller in `dbus/` parses its arguments into the types of this floor, sends one question to an
//! actor, or reads a published `ConnectionView`. Upward everything goes through the ports
//! in [`ports`]; downward a connection speaks to its [`crate::session::Session`] and to the
//! supervisor of channels.

mod actor;
pub(crate) mod capabilities;
mod changes;
mod channels;
pub(crate) mod contacts;
mod events;
pub mod fault;
pub(crate) mod kept;
mod lifecycle;
pub(crate) mod manager;
pub(crate) mod message;
mod offer_rate;
mod outgoing;
pub mod parameters;
mod policy;
pub mod ports;
pub(crate) mod protocol;
pub(crate) mod requests;
pub(crate) mod sessions;
mod table;
pub(crate) mod value;
pub(crate) mod view;

pub(crate) use manager::{ManagerConfig, ManagerHandle};
pub use message::ConnectionHandle;

#[cfg(test)]
mod tests;
