//! The second way, where Mission Control manages the account: it alone brings the account online, says
//! what this user's programs can do, makes channels, and hands each to one Handler.
//!
//! ```text
//!             AccountManager ◄── RequestedPresence ── ManagedAccount, Stay
//!                   │
//!  service ◄── Mission Control ── HandleChannels ──► Handler ──► a Tube, a Transfer
//!                   │                                   ▲
//!           ChannelDispatcher ◄── CreateChannel ── request
//! ```
//!
//! The types that programs work with are the same in both ways: a [`Connection`](super::Connection)
//! knows the account it belongs to, if any, and what it is read and the tubes that come out of it are
//! talked to directly. A Handler's filter names the one service of the one contact that it waits for,
//! so that other programs' channels go where they always went.

mod account;
mod handler;
mod request;

pub use account::{Expected, ManagedAccount, Stay};
pub(super) use handler::{Handed, Handler, Wish};
pub(super) use request::{create_transfer, create_tube};
