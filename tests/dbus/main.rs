//! The service on a private bus, with a network that is not there: every object, signal and error
//! as a client sees them.

mod bad_input;
mod channels;
mod contacts;
mod debug;
mod fake;
mod files;
mod introspection;
mod lifecycle;
mod manager;
mod peers;
mod policy;
mod process;
mod world;
