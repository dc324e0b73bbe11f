//! The `coordinator` binary; the library does the work.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    coordinator::cli::main(coordinator::cli::Args::parse())
}
