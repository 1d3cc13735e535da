//! Stream tubes under their supervisor, on virtual time, with fakes: no bus, no network, no clock.

mod accepting;
mod closing;
mod killing;
mod limits;
mod offering;
mod restarting;
mod root;
mod support;
