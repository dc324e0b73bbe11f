//! The command line: flags to validated values, values to commands, their end to an exit code.
//!
//! - `start`: serves a sweep; `signals` and `serving` are parts of it.
//! - `entrance`: where a coordinator listens, with which certificate, and who may come in.
//! - `token`, `tls`: what listening to others takes: tokens and certificates.
//! - `ask`: status, leaderboard, trial; `source` decides who answers. `watch`: the status until the sweep has ended.
//! - `insight`: the best so far, and which hyperparameters decided.
//! - `replay`: a trial once more, compared with what it gave.
//! - `submit`: one more sweep for a coordinator that runs; `steer`: list, pause, resume, cancel.
//! - `retrace`: a database's decisions, made again.
//! - `export`: the champion's bundle; `champion` gathers what it is made of.
//! - `predict`: clips to labels, by a bundle; `verify`: whether it is still what was exported.
//! - `rebuild`: a bundle's model trained again from its recordings, and compared.
//! - `sweep`, `data`: what needs no coordinator.
//! - `db`: a database as such: verify it, print it, tidy its blobs.
//! - `document`, `render`: answers as table, JSON or CSV.
//! - `screen`: progress bars and log lines on one terminal.

mod ask;
mod champion;
mod data;
mod db;
mod document;
mod entrance;
mod export;
mod insight;
mod predict;
mod rebuild;
mod render;
mod replay;
mod retrace;
mod screen;
mod serving;
mod signals;
mod source;
mod start;
mod steer;
mod submit;
mod sweep;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod verify;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use earshot_common::sweep::SweepError;

use crate::{access::exposure::Exposed, dataset::DatasetError};

/// Exit code of a wrong sweep file, of one that does not fit its data or database, of a trial that is not there, or of an address
/// without what listening on it takes; clap's own for wrong usage.
const USAGE: u8 = 2;

/// Tunes audio classifiers for edge devices: serves a sweep to workers, ranks its trials, exports the best.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "coordinator",
    version,
    after_help = "Examples:
  coordinator data synth                          made-up clips in data/raw, to try it out
  coordinator sweep check sweeps/grid.toml        what a sweep file would train
  coordinator start --sweep sweeps/grid.toml      serves it on this machine; then:
      worker --coordinator http://localhost:7070
  coordinator leaderboard                         while it runs, or after
  coordinator export --out champion               ONNX models of the best trial, verified
  coordinator predict --bundle champion dog.wav   what it hears

Exit codes: 0 done, 1 an error, 2 wrong usage or a sweep that cannot run. EARSHOT_LOG=debug says more."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    Start(start::StartArgs),
    Status(ask::StatusArgs),
    Submit(submit::SubmitArgs),
    List(steer::ListArgs),
    Pause(steer::PauseArgs),
    Resume(steer::ResumeArgs),
    Cancel(steer::CancelArgs),
    Leaderboard(ask::LeaderboardArgs),
    Curve(insight::CurveArgs),
    Importance(insight::ImportanceArgs),
    #[command(subcommand)]
    Trial(ask::TrialCommand),
    Replay(retrace::ReplayArgs),
    Export(export::ExportArgs),
    Predict(predict::PredictArgs),
    Verify(verify::VerifyArgs),
    Rebuild(rebuild::RebuildArgs),
    #[command(subcommand)]
    Sweep(sweep::SweepCommand),
    #[command(subcommand)]
    Data(data::DataCommand),
    #[command(subcommand)]
    Token(token::TokenCommand),
    #[command(subcommand)]
    Tls(tls::TlsCommand),
    #[command(subcommand)]
    Db(db::DbCommand),
}

/// Runs a command and says how it ended.
pub fn main(args: Args) -> ExitCode {
    let done = match args.command {
        Command::Start(args) => start::run(&args),
        Command::Status(args) => ask::status(&args),
        Command::Submit(args) => submit::run(&args),
        Command::List(args) => steer::list(&args),
        Command::Pause(args) => steer::pause(args),
        Command::Resume(args) => steer::resume(args),
        Command::Cancel(args) => steer::cancel(args),
        Command::Leaderboard(args) => ask::leaderboard(&args),
        Command::Curve(args) => insight::curve(&args),
        Command::Importance(args) => insight::importance(&args),
        Command::Trial(ask::TrialCommand::Show(args)) => ask::trial(&args),
        Command::Trial(ask::TrialCommand::Replay(args)) => replay::run(&args),
        Command::Replay(args) => retrace::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Rebuild(args) => rebuild::run(&args),
        Command::Sweep(sweep::SweepCommand::Check(args)) => sweep::check(&args),
        Command::Token(command) => token::run(command),
        Command::Tls(command) => tls::run(command),
        Command::Db(db::DbCommand::Check(args)) => db::check(&args),
        Command::Db(db::DbCommand::Export(args)) => db::export(&args),
        Command::Db(db::DbCommand::Gc(args)) => db::gc(&args),
        Command::Data(data::DataCommand::Synth(args)) => data::synth(&args),
        Command::Data(data::DataCommand::Prepare(args)) => data::prepare(args),
        Command::Data(data::DataCommand::Inspect(args)) => data::inspect(&args),
    };
    done.unwrap_or_else(|error| {
        // Not through tracing: it must be seen whatever EARSHOT_LOG says.
        eprintln!("error: {}", chain(&error));
        exit_code(&error)
    })
}

/// The error and its causes, on one line unless one of them has several. Some libraries' errors repeat their cause's text.
fn chain(error: &anyhow::Error) -> String {
    let mut texts: Vec<String> = error.chain().map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": caused by ")
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<SweepError>()
            || cause.is::<DatasetError>()
            || cause.is::<Exposed>()
            || cause.is::<start::AnotherSweep>()
            || cause.is::<replay::NotReplayable>()
            || cause.is::<submit::NotTaken>()
    };
    if error.chain().any(is_usage) { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
}
