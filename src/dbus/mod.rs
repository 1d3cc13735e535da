//! The server side of zbus: objects, signals, and the service that holds them together. (The one other
//! object there is stands in the client library: by it, a client of Mission Control is handed channels.)
//!
//! Each interface has its own file; its methods take `&self`, turn their arguments into typed
//! values, ask once, and answer. Properties read what actors have published. `tree` implements the
//! ports through which the floors below become visible, and `error` is the only place where
//! errors get their D-Bus names.

mod about;
mod aliasing;
mod attributes;
mod builder;
mod caller;
mod capabilities;
mod channel;
mod claim;
mod connection;
mod connections;
mod contact_groups;
mod contact_list;
mod contacts;
mod dbus_tube;
mod debug;
mod discovery;
mod emit;
mod error;
mod file_transfer;
mod file_transfer_metadata;
mod held;
mod kept;
mod lease;
mod manager;
mod name;
mod outlet;
mod peers;
mod policy;
mod presence;
mod protocol;
mod requests;
mod service;
mod sockets;
mod statistics;
mod stream_tube;
mod transfer;
mod tree;
mod trust;
mod values;

pub use builder::Builder;
pub use service::{End, Service};
