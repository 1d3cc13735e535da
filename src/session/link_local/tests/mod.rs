//! Two sessions and more, in one process.

mod loopback;
mod support;
