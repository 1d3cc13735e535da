//! The service: wiring only.

use std::process::ExitCode;

fn main() -> ExitCode {
    pneuma::service_main(std::env::args_os().skip(1))
}
