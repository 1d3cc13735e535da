//! D-Bus tubes: their actors on virtual time, with fakes of all they talk to.

mod accepting;
mod killing;
mod offering;
mod support;
