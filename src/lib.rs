//! Pneuma: a Telepathy connection manager for tubes and file transfers.

pub mod cli;
pub mod client;
pub mod connection;
pub mod dbus;
pub mod session;
pub mod xmpp;
