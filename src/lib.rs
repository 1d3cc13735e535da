//! Pneuma: a Telepathy connection manager for tubes and files.
//!
//! A program on smol can have the manager inside itself, on its own executor:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let executor = Arc::new(smol::Executor::new());
//! smol::block_on(executor.run(async {
//!     let service = pneuma::Service::builder()
//!         .persist(true)
//!         .start(executor.clone())
//!         .await?;
//!     // … the program does what it is for …
//!     service.shutdown().await;
//!     Ok(())
//! }))
//! # }
//! ```
//!
//! It serves on a bus, at a private socket ([`Builder::private_socket`]), or both: the examples
//! `embed_in_smol` and `embed_without_a_bus`. [`client`] is what programs use it with, and [`cli`] the
//! command line on top of that.

mod bounded_socket;
pub mod cli;
pub mod client;
pub mod connection;
mod dbus;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod inspection;
mod log;
pub mod names;
mod packaging;
mod place;
mod plain;
mod runtime;
mod service_main;
pub mod session;
mod threads;
pub mod xmpp;

pub use dbus::{Builder, End, Service};
pub use log::{KEPT, LONGEST, Levels, Log, LogMessage};
pub use service_main::{service_command, service_main};
