//! The binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore_cli::main(&longshore_worker::App::new())
}
