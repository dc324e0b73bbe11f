//! The `worker` binary; the library does the work.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    worker::cli::main(worker::cli::Cli::parse())
}
