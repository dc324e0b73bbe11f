//! Commands that list sweeps, and those that pause, resume and cancel one.

use std::process::ExitCode;

use clap::Args;
use earshot_proto::earshot::v1::{Sweep, SweepList};

use super::{
    ask::{OutputArgs, answer},
    document,
    source::{Source, SourceArgs},
};

/// Every sweep, oldest first
#[derive(Debug, Clone, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Hand out no more runs for now; those that workers hold train on
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator pause          the newest sweep
  coordinator resume")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    target: TargetArgs,
}

/// Let a paused sweep go on
#[derive(Debug, Clone, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    target: TargetArgs,
}

/// End a sweep for good: workers drop its runs, what has completed is kept
#[derive(Debug, Clone, Args)]
pub(super) struct CancelArgs {
    /// Its name, in full: this cannot be undone
    #[arg(value_name = "NAME")]
    sweep: String,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Which sweep, where.
#[derive(Debug, Clone, Args)]
struct TargetArgs {
    /// Its name [default: the newest]
    #[arg(value_name = "NAME")]
    sweep: Option<String>,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    answer(args.output, async { document::sweeps(&Source::open(&args.source).await?.list().await?) })
}

pub(super) fn pause(PauseArgs { target }: PauseArgs) -> anyhow::Result<ExitCode> {
    answer(target.output, async {
        shown(Source::open(&target.source).await?.running()?.pause(target.sweep).await?)
    })
}

pub(super) fn resume(ResumeArgs { target }: ResumeArgs) -> anyhow::Result<ExitCode> {
    answer(target.output, async {
        shown(Source::open(&target.source).await?.running()?.resume(target.sweep).await?)
    })
}

pub(super) fn cancel(args: CancelArgs) -> anyhow::Result<ExitCode> {
    answer(args.output, async {
        shown(Source::open(&args.source).await?.running()?.cancel(args.sweep).await?)
    })
}

fn shown(sweep: Sweep) -> anyhow::Result<super::render::Document> {
    document::sweeps(&SweepList { sweeps: vec![sweep] })
}
