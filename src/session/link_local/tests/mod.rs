//! Two sessions and more, in one process: on loopback for real, and on a network in memory with
//! virtual time.

mod dbus_tubes;
mod faults;
mod files;
mod files_hostile;
mod greedy;
mod hostile;
mod in_band;
mod lan;
mod loopback;
mod policy;
mod streams;
mod support;
