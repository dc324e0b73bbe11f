//! Commands that show where a sweep stands.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use tokio::runtime::Builder;

use super::{
    document,
    render::{self, Document, Format},
    replay::ReplayArgs,
    source::{OfArgs, Source, SourceArgs},
    watch,
};

/// Where the sweep stands: trials, runs, workers
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator status                                        of the coordinator on this machine
  coordinator status --watch                                until it has ended
  coordinator status --watch --format json                  one line for each change, for programs
  coordinator status --sweep grid                           of another sweep than the newest
  coordinator status --coordinator http://10.0.0.1:7070     of another coordinator
  coordinator status --db earshot.redb --format json        when none runs")]
pub(super) struct StatusArgs {
    /// Show it again each time it has changed, until the sweep has ended
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    of: OfArgs,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Completed trials, the best first
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator leaderboard --top 5
  coordinator leaderboard --top 0 --format csv > trials.csv     all of them, every hyperparameter
  coordinator leaderboard --pareto                              the best at their costs

The order is by the sweep's objective, the mean over a trial's folds; then by lower loss, then
by lower number.")]
pub(super) struct LeaderboardArgs {
    /// Rows at most; 0: all
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: u32,

    /// Only trials on the front: no other scores as well and costs as little (by objective.minimise), and is better in something
    #[arg(long)]
    pareto: bool,

    #[command(flatten)]
    of: OfArgs,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// About one trial
#[derive(Debug, Clone, Subcommand)]
pub(super) enum TrialCommand {
    Show(TrialArgs),
    Replay(ReplayArgs),
}

/// One trial: its point, its cost, its runs with every epoch and every failure
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator trial show 7
  coordinator trial show 7 --format csv > epochs.csv     its learning curves")]
pub(super) struct TrialArgs {
    /// Its number, as the leaderboard shows it
    #[arg(value_name = "N")]
    trial: u32,

    #[command(flatten)]
    of: OfArgs,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// How the answer looks.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct OutputArgs {
    /// How the answer looks
    #[arg(long, value_enum, default_value = "table")]
    pub(super) format: Format,
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    if args.watch {
        return watch::run(&args.source, &args.of, args.output.format);
    }
    answer(args.output, async {
        let mut source = Source::open(&args.source).await?;
        document::status(&source.status(&args.of).await?)
    })
}

pub(super) fn leaderboard(args: &LeaderboardArgs) -> anyhow::Result<ExitCode> {
    answer(args.output, async {
        let mut source = Source::open(&args.source).await?;
        document::leaderboard(&source.leaderboard(&args.of, args.top, args.pareto).await?)
    })
}

pub(super) fn trial(args: &TrialArgs) -> anyhow::Result<ExitCode> {
    answer(args.output, async {
        let mut source = Source::open(&args.source).await?;
        document::trial(&source.trial(&args.of, args.trial).await?)
    })
}

pub(super) fn answer(
    output: OutputArgs,
    ask: impl Future<Output = anyhow::Result<Document>>,
) -> anyhow::Result<ExitCode> {
    let document = Builder::new_current_thread().enable_all().build()?.block_on(ask)?;
    render::print(&document, output.format)?;
    Ok(ExitCode::SUCCESS)
}
