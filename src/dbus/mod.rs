//! The only server-side zbus: objects, signals, and the service that holds them together.
//!
//! Each interface has its own file; its methods take `&self`, turn their arguments into typed
//! values, ask once, and answer. Properties read what actors have published. [`tree`] implements the
//! ports through which the floors below become visible, and [`error`] is the only place where
//! errors get their D-Bus names.

pub mod aliasing;
pub mod attributes;
pub mod caller;
pub mod capabilities;
pub mod channel;
pub mod claim;
pub mod connection;
pub mod contact_list;
pub mod contacts;
pub mod emit;
pub mod error;
pub mod held;
pub mod manager;
mod name;
pub mod presence;
pub mod protocol;
pub mod requests;
pub mod service;
pub mod statistics;
pub mod stream_tube;
pub mod tree;
pub mod trust;
pub mod values;
