//! Trains a completed trial again and says whether it gave the same, bit for bit.

use std::{process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use earshot_proto::earshot::v1::{Difference, Replay, ReplayedRun, Trainer};
use tokio::{runtime::Builder, time};
use tonic::Code;

use super::{
    ask::OutputArgs,
    document,
    render::{self, Document, Grid},
    screen::{LogFormat, Screen},
    source::{OfArgs, Source, SourceArgs},
};
use crate::client::{Client, ClientError};

/// How often the coordinator is asked how far it has got.
const REFRESH: Duration = Duration::from_millis(500);

/// How long a coordinator that is being started again may be away.
const AWAY_TRIES: u32 = 120;

/// What a difference need not mean.
const PROMISE: &str = "the same result is promised where the same build of Earshot trains on the same kind of CPU; \
                       another kind may round otherwise";

/// Train a completed trial again, and compare every epoch and the weights, bit for bit
///
/// Its runs are handed to workers once more, with their seeds, folds and shards, before those of the sweep. The sweep
/// itself does not notice: neither its budget nor its leaderboard changes. At the first difference the run is stopped.
/// A replay goes on when this command is interrupted; asking again joins it.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator trial replay 7
  coordinator trial replay 7 --format json

Needs a running coordinator, and a worker. A database whose sweep is complete is served again
by `coordinator start` without --exit-when-done.

Exit codes: 0 identical, 1 different or not to be trained again, 2 wrong usage, no such trial,
or one that has not completed.

`coordinator replay` is another thing: it trains nothing, and recomputes a database's decisions.")]
pub(super) struct ReplayArgs {
    /// The trial's number, as the leaderboard shows it
    #[arg(value_name = "N")]
    trial: u32,

    #[command(flatten)]
    of: OfArgs,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// There is nothing to replay under that number.
#[derive(Debug, thiserror::Error)]
#[error("this trial cannot be replayed")]
pub(super) struct NotReplayable(#[source] ClientError);

pub(super) fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let screen = Screen::start(LogFormat::Text);
    let replay = Builder::new_current_thread().enable_all().build()?.block_on(replayed(args, &screen))?;
    render::print(&document(&replay)?, args.output.format)?;
    Ok(if replay.state == "identical" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks for the replay and waits for its end.
async fn replayed(args: &ReplayArgs, screen: &Screen) -> anyhow::Result<Replay> {
    let source = Source::open(&args.source).await?;
    let mut client = source.running().context("a replay needs a running coordinator, and a worker")?;
    let asked = client.replay_trial(args.of.sweep(), args.trial).await;
    let mut replay = asked.map_err(|error| match error {
        ClientError::Refused { ref status, .. } if is_of_trial(status.code()) => NotReplayable(error).into(),
        error => anyhow::Error::from(error),
    })?;
    let bar = screen.bar("{bar:24} {pos}/{len} epochs, {msg}");
    let mut told = String::new();
    while is_under_way(&replay) {
        bar.set_length(replay.runs.iter().map(|run| u64::from(run.epochs_total)).sum());
        bar.set_position(replay.runs.iter().map(|run| u64::from(run.epochs_compared)).sum());
        let doing = doing(&replay, &mut client).await;
        bar.set_message(doing.clone());
        if doing != told && !screen.has_bars() {
            tracing::info!("{doing}");
        }
        told = doing;
        time::sleep(REFRESH).await;
        replay = look(&mut client, replay.replay).await?;
    }
    Ok(replay)
}

/// Whether a refusal is about the trial that was named.
fn is_of_trial(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::FailedPrecondition)
}

fn is_under_way(replay: &Replay) -> bool {
    matches!(replay.state.as_str(), "waiting" | "running")
}

/// How far it has got; a coordinator that is away may be on its way back.
async fn look(client: &mut Client, replay: u64) -> anyhow::Result<Replay> {
    let mut tries = 0;
    loop {
        match client.replay(replay).await {
            Ok(replay) => return Ok(replay),
            Err(ClientError::Refused { status, .. })
                if matches!(status.code(), Code::Unavailable | Code::Unknown) && tries < AWAY_TRIES =>
            {
                tries += 1;
                time::sleep(REFRESH).await;
            }
            Err(error) => {
                return Err(error).context(
                    "the replay is kept, and goes on when its coordinator runs; ask again to wait for it",
                );
            }
        }
    }
}

/// What is being done, or what is waited for.
async fn doing(replay: &Replay, client: &mut Client) -> String {
    let workers: Vec<&str> =
        replay.runs.iter().filter(|run| run.state == "leased").filter_map(worker).collect();
    if !workers.is_empty() {
        return format!("trial {} trains again on {}", replay.trial, workers.join(", "));
    }
    match client.status(Some(&replay.sweep)).await {
        Ok(status) if status.state == "paused" => {
            format!("waiting: the sweep is paused; let it go on with `coordinator resume {}`", replay.sweep)
        }
        Ok(status) if status.workers.iter().all(|worker| worker.state != "present") => {
            format!("waiting for a worker: start one with `worker --coordinator {}`", client.url())
        }
        _ => "waiting for a worker's free slot".to_owned(),
    }
}

fn worker(run: &ReplayedRun) -> Option<&str> {
    run.replayed.as_ref().map(|trainer| trainer.worker.as_str())
}

/// What came of it; a row of CSV is a run.
fn document(replay: &Replay) -> anyhow::Result<Document> {
    let mut facts = vec![
        ("sweep", replay.sweep.clone()),
        ("trial", replay.trial.to_string()),
        ("state", replay.state.clone()),
    ];
    if replay.state == "different" {
        facts.push(("note", PROMISE.to_owned()));
    }
    let mut shown = Grid::new([
        "fold",
        "state",
        "epochs",
        "first difference",
        "checkpoint",
        "logits",
        "trained on",
        "replayed on",
        "failures",
    ]);
    shown.rows.extend(replay.runs.iter().map(|run| {
        vec![
            run.fold.to_string(),
            run.state.clone(),
            format!("{} of {}", run.epochs_compared, run.epochs_total),
            run.difference.as_ref().map_or_else(|| "none".to_owned(), in_words),
            run.checkpoint.replace('_', " "),
            run.logits.replace('_', " "),
            place(run.original.as_ref()),
            place(run.replayed.as_ref()),
            run.failures.join("\n"),
        ]
    }));
    Ok(Document { json: document::json(replay)?, facts, grids: vec![shown], csv: rows(replay) })
}

fn in_words(difference: &Difference) -> String {
    let Difference { epoch, field, original, replayed } = difference;
    format!("epoch {epoch}: {field} {original} became {replayed}")
}

fn place(trainer: Option<&Trainer>) -> String {
    trainer.map(|trainer| format!("{} ({})", trainer.worker, trainer.device)).unwrap_or_default()
}

fn rows(replay: &Replay) -> Grid {
    let mut grid = Grid::new([
        "trial",
        "fold",
        "state",
        "attempts",
        "epochs_compared",
        "epochs_total",
        "difference_epoch",
        "difference_field",
        "difference_original",
        "difference_replayed",
        "checkpoint",
        "logits",
        "original_worker",
        "original_device",
        "replayed_worker",
        "replayed_device",
    ]);
    grid.rows.extend(replay.runs.iter().map(|run| {
        let [trial, fold, attempts, compared, total] =
            [replay.trial, run.fold, run.attempts, run.epochs_compared, run.epochs_total]
                .map(|number| number.to_string());
        let difference = run.difference.as_ref().map(|Difference { epoch, field, original, replayed }| {
            [epoch.to_string(), field.clone(), original.to_string(), replayed.to_string()]
        });
        let trainers = [&run.original, &run.replayed].map(|trainer| {
            let names = trainer.as_ref().map(|trainer| [trainer.worker.clone(), trainer.device.clone()]);
            names.unwrap_or_default()
        });
        let head = [trial, fold, run.state.clone(), attempts, compared, total];
        let blobs = [run.checkpoint.clone(), run.logits.clone()];
        let tail = blobs.into_iter().chain(trainers.into_iter().flatten());
        head.into_iter().chain(difference.unwrap_or_default()).chain(tail).collect()
    }));
    grid
}

#[cfg(test)]
mod tests {
    use super::{
        super::render::{Format, render},
        *,
    };

    fn replay(difference: Option<Difference>) -> Replay {
        let state = if difference.is_some() { "different" } else { "identical" }.to_owned();
        let blob = if difference.is_some() { "not_compared" } else { "equal" }.to_owned();
        let trainer = |worker: &str| Some(Trainer { worker: worker.to_owned(), device: "cpu".to_owned() });
        let run = ReplayedRun {
            fold: 1,
            state: state.clone(),
            attempts: 1,
            epochs_compared: 3,
            epochs_total: 12,
            difference,
            checkpoint: blob.clone(),
            logits: blob,
            original: trainer("attic"),
            replayed: trainer("cellar"),
            failures: Vec::new(),
        };
        Replay { replay: 99, sweep: "grid".to_owned(), trial: 7, state, runs: vec![run] }
    }

    #[test]
    fn a_difference_is_named_with_its_numbers_and_with_what_is_promised() {
        let difference =
            Difference { epoch: 3, field: "loss".to_owned(), original: 0.1 + 0.2, replayed: 0.3 };
        let document = document(&replay(Some(difference))).unwrap();
        let table = render(&document, Format::Table).unwrap();
        for part in ["epoch 3: loss 0.30000000000000004 became 0.3", "cellar (cpu)", "same kind of CPU"] {
            assert!(table.contains(part), "{table}");
        }
        let csv = render(&document, Format::Csv).unwrap();
        let row = "7,1,different,1,3,12,3,loss,0.30000000000000004,0.3,not_compared,not_compared,attic,cpu,cellar,cpu";
        assert_eq!(csv.lines().nth(1), Some(row), "{csv}");
        assert_eq!(document.json["runs"][0]["difference"]["field"], "loss");
    }

    #[test]
    fn what_is_identical_needs_no_note() {
        let document = document(&replay(None)).unwrap();
        let csv = render(&document, Format::Csv).unwrap();
        assert_eq!(csv.lines().nth(1), Some("7,1,identical,1,3,12,,,,,equal,equal,attic,cpu,cellar,cpu"));
        let table = render(&document, Format::Table).unwrap();
        assert!(table.contains("none") && !table.contains("note"), "{table}");
    }
}
