//! The command line `pneuma`: wiring only.

use std::process::ExitCode;

use pneuma::cli::Outside;

fn main() -> ExitCode {
    pneuma::cli::main(Outside {
        service: |arguments| pneuma::service_main(arguments),
        service_command: pneuma::service_command,
    })
}
