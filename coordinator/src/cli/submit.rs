//! Hands a sweep in to a coordinator that runs.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, ensure};
use clap::Args;
use earshot_common::sweep::Sweep;
use earshot_proto::earshot::v1::{Submission, SubmitSweepRequest, SweepList};
use tokio::runtime::Builder;
use tonic::Code;

use super::{
    ask::OutputArgs,
    document, render,
    screen::{LogFormat, Screen},
    source::{Source, SourceArgs},
    sweep::Overrides,
};
use crate::{
    client::{Client, ClientError},
    service::REQUEST_BYTES_MAX,
};

/// Hand a sweep in to a running coordinator, beside those that it has
///
/// Its features are prepared where they are missing, on the coordinator's machine and in the folders that it knows by the names
/// in the file: under the one that it was started in, or those of a sweep that it has. Then its runs are handed out, too; sweeps
/// share the workers' time by their `weight`. Interrupted before that, nothing has changed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator submit sweeps/random.toml
  coordinator submit sweeps/random.toml --set weight=3     three times as much of the workers' time
  coordinator list                                         all sweeps, with their weights
  coordinator leaderboard --sweep random

Exit codes: 0 handed in, 1 an error, 2 wrong usage, a sweep that cannot run, or a name that is taken.")]
pub(super) struct SubmitArgs {
    /// The sweep file
    #[arg(value_name = "FILE")]
    sweep: PathBuf,

    #[command(flatten)]
    overrides: Overrides,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// The coordinator does not take this sweep, and would not another time.
#[derive(Debug, thiserror::Error)]
#[error("the sweep is not taken")]
pub(super) struct NotTaken(#[source] ClientError);

pub(super) fn run(args: &SubmitArgs) -> anyhow::Result<ExitCode> {
    // What is wrong with the file is said whether a coordinator runs or not.
    Sweep::load(&args.sweep, &args.overrides.set)?;
    let text =
        fs::read_to_string(&args.sweep).with_context(|| format!("cannot read {}", args.sweep.display()))?;
    ensure!(
        text.len() < REQUEST_BYTES_MAX / 2,
        "{} has {} bytes, a sweep that is handed in has less than {}",
        args.sweep.display(),
        text.len(),
        REQUEST_BYTES_MAX / 2
    );
    let request = SubmitSweepRequest {
        text,
        file: args.sweep.display().to_string(),
        overrides: args.overrides.set.clone(),
    };
    let screen = Screen::start(LogFormat::Text);
    let submission = Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut client = Source::open(&args.source).await?.running()?;
        submit(&mut client, request, &screen).await.map_err(told_apart)
    })?;
    for warning in &submission.warnings {
        tracing::warn!("{warning}");
    }
    let sweeps = submission.sweep.into_iter().collect();
    render::print(&document::sweeps(&SweepList { sweeps })?, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}

async fn submit(
    client: &mut Client,
    request: SubmitSweepRequest,
    screen: &Screen,
) -> Result<Submission, ClientError> {
    let mut answers = client.submit(request).await?;
    let bar = screen.bar("{msg} {bar:32} {pos}/{len}");
    let mut last = Submission::default();
    let mut told = String::new();
    while let Some(answer) = client.next(&mut answers).await? {
        bar.set_length(answer.total);
        bar.set_position(answer.done);
        bar.set_message(answer.doing.clone());
        if !screen.has_bars() && !answer.doing.is_empty() && answer.doing != told {
            tracing::info!("{} ({})", answer.doing, answer.total);
        }
        told.clone_from(&answer.doing);
        last = answer;
    }
    Ok(last)
}

fn told_apart(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused { ref status, .. }
            if matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists) =>
        {
            NotTaken(error).into()
        }
        error => error.into(),
    }
}
