//! The command line `pneuma`: wiring only.

use std::{ffi::OsString, process::ExitCode};

use pneuma::cli::Outside;

fn main() -> ExitCode {
    pneuma::cli::main(Outside { service })
}

fn service(_arguments: Vec<OsString>) -> ExitCode {
    eprintln!("pneuma: the connection manager is not part of this program yet.");
    ExitCode::FAILURE
}
