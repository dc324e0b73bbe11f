//! Trains what a bundle holds once more, from the recordings, and says whether it gave the same.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
};

use anyhow::{Context, bail, ensure};
use clap::Args;
use earshot_common::{
    blob::BlobStore,
    ids::BlobId,
    job::{Epoch, Job, Outcome, RunResult},
};
use earshot_data::{manifest::Manifest, prepare::BLOBS};
use serde::Serialize;
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Builder, sync::watch, time};
use tokio_util::sync::CancellationToken;

use super::{
    ask::OutputArgs,
    data, document,
    render::{self, Document, Grid},
    screen::{LogFormat, Screen},
    signals::Signals,
};
use crate::{
    blobs::Blobs,
    bundle::{Bundle, INITIAL_WEIGHTS_FILE, Origin, TEACHER_FILE},
    dataset,
    engine::{Engine, Settings},
    preparing::options_of,
    service::job::{self, Progress},
    store::EventLog,
};

/// How often the worker is looked at.
const REFRESH: time::Duration = time::Duration::from_millis(200);

/// Train an exported model again from its recordings, and compare epochs, weights and predictions
///
/// The bundle says which recordings, which front end, which split, which model and which seed; the recordings must be at hand. A worker
/// is started for it, and once more where the int8 model was trained to bear quantisation. The same result, bit for bit, is promised where the same build trains on the same kind of CPU.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator rebuild --bundle champion
  coordinator rebuild --bundle champion --data ESC-50 --processed /tmp/features

Exit codes: 0 identical, 1 different, or not to be trained again.")]
pub(super) struct RebuildArgs {
    /// Folder that `coordinator export --out` wrote
    #[arg(long, value_name = "DIR")]
    bundle: PathBuf,

    /// Folder of the recordings, or their list [default: the sweep's]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Folder of the features [default: the sweep's]
    #[arg(long, value_name = "DIR")]
    processed: Option<PathBuf>,

    /// The worker to start [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,

    /// What to train on
    #[arg(long, value_name = "DEVICE", value_parser = ["cpu", "cuda"], default_value = "cpu")]
    device: String,

    #[command(flatten)]
    on_bad: data::OnBadArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Answer {
    trial: u32,
    /// `identical` or `different`.
    state: &'static str,
    comparisons: Vec<Compared>,
}

/// One thing, then and now.
#[derive(Debug, Serialize)]
struct Compared {
    what: &'static str,
    original: String,
    rebuilt: String,
    is_equal: bool,
}

/// A worker process, ended with its owner.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn run(args: &RebuildArgs) -> anyhow::Result<ExitCode> {
    let screen = Screen::start(LogFormat::Text);
    let origin = Bundle::open(&args.bundle)?.origin()?;
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    let rebuilt = match runtime.block_on(rebuilt(args, &origin, &screen))? {
        Ok(rebuilt) => rebuilt,
        Err(exit_code) => return Ok(exit_code),
    };
    let answer = answer(&origin, &rebuilt);
    render::print(&compared(&answer)?, args.output.format)?;
    Ok(if answer.state == "identical" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prepares, serves and trains; the exit code of a signal that came in between.
async fn rebuilt(
    args: &RebuildArgs,
    origin: &Origin,
    screen: &Screen,
) -> anyhow::Result<Result<Rebuilt, ExitCode>> {
    let mut signals = Signals::listen()?;
    let mut sweep = origin.sweep.clone();
    sweep.data.root = args.data.clone().unwrap_or(sweep.data.root);
    sweep.data.processed = args.processed.clone().unwrap_or(sweep.data.processed);
    let prepared = data::prepared(&options_of(&sweep), args.on_bad, screen, &mut signals).await?;
    let manifest = match prepared {
        Ok(manifest) => manifest,
        Err(stopped) => return Ok(Err(stopped.exit_code())),
    };
    check_same(origin, &manifest, &sweep.data.root)?;
    let folder = tempfile::tempdir()?;
    let db = folder.path().join("rebuild.redb");
    let blobs = Blobs::open(&db, &sweep.data.processed)?;
    let dataset = dataset::dataset(&sweep, &manifest, &blobs)?;
    ensure!(
        dataset.splits.values().any(|split| *split == origin.job.split),
        "the split made from these recordings is not the one that trained the model; it was exported by another version of Earshot"
    );
    check_shards(origin, &sweep.data.processed)?;
    if origin.job.initial_weights.is_some() {
        blobs.put(&Bundle::open(&args.bundle)?.read(INITIAL_WEIGHTS_FILE)?)?;
    }
    if origin.job.teacher.is_some() {
        blobs.put(&Bundle::open(&args.bundle)?.read(TEACHER_FILE)?)?;
    }

    let stage = Stage { args, folder, blobs, screen };
    let whole = match stage.train("rebuild", origin.job.clone(), &mut signals).await? {
        Ok(trained) => trained,
        Err(exit_code) => return Ok(Err(exit_code)),
    };
    let Some(aware) = &origin.aware else { return Ok(Ok(Rebuilt { whole, aware: None })) };
    // It went on from those weights, so now it goes on from these.
    let job = Job { initial_weights: Some(whole.result.checkpoint), ..aware.job.clone() };
    let trained = stage.train("aware", job, &mut signals).await?;
    Ok(trained.map(|trained| Rebuilt { whole, aware: Some(trained) }))
}

/// Where jobs are trained.
struct Stage<'a> {
    args: &'a RebuildArgs,
    folder: TempDir,
    blobs: Blobs,
    screen: &'a Screen,
}

/// What a job came to.
struct Trained {
    result: RunResult,
    /// The epoch of its weights.
    best: Epoch,
}

/// What the bundle's jobs came to.
struct Rebuilt {
    whole: Trained,
    /// Of the one that trained to bear quantisation, where there was one.
    aware: Option<Trained>,
}

impl Stage<'_> {
    /// Serves a job to a worker of its own; the exit code of a signal that came in between. `name` tells its files from others'.
    async fn train(
        &self,
        name: &str,
        job: Job,
        signals: &mut Signals,
    ) -> anyhow::Result<Result<Trained, ExitCode>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let log = EventLog::open(&self.folder.path().join(format!("{name}.redb")))?.fold()?;
        let (engine, mut running) = Engine::start(log, Settings { lease_ms: 60_000 });
        let (progress, mut watching) = watch::channel(Progress::default());
        let stop = CancellationToken::new();
        let bar = self.screen.bar("{bar:24} {pos}/{len} epochs");
        bar.set_length(u64::from(job.recipe.epochs));
        // A job that stopped midway would go on from there; this one begins anew.
        let job = Job { resume: None, ..job };
        let service =
            job::serve_job(listener, job, engine, self.blobs.clone(), Arc::new(progress), stop.clone());
        let mut worker = start_worker(self.args, &address.to_string(), &self.folder)?;
        let trained = async {
            loop {
                let found = watching.borrow_and_update().clone();
                bar.set_position(found.epochs.len() as u64);
                if found.outcome.is_some() {
                    return Ok(found);
                }
                if let Some(status) = worker.0.try_wait()? {
                    bail!(
                        "the worker ended with {status} before its job did; run `worker --help` to see whether it starts"
                    );
                }
                // Either something new, or the worker has to be looked at.
                let _ = time::timeout(REFRESH, watching.changed()).await;
            }
        };
        let progress = tokio::select! {
            served = service => return Err(served.map_or_else(Into::into, |()| anyhow::anyhow!("the service ended"))),
            trained = trained => trained?,
            stopped = signals.next() => return Ok(Err(stopped.exit_code())),
        };
        stop.cancel();
        running.stop().await;
        running.stopped().await?;
        trained_by(&progress).map(Ok)
    }
}

/// How a job ended, if it completed.
fn trained_by(progress: &Progress) -> anyhow::Result<Trained> {
    let result: RunResult = match &progress.outcome {
        Some(Outcome::Completed(result)) => *result,
        Some(Outcome::Failed(failure)) => bail!("the job failed: {}", failure.message),
        None => bail!("the job did not end"),
    };
    let best = progress.epochs.iter().find(|epoch| epoch.epoch == result.best_epoch);
    let best = *best.context("the worker named an epoch that it never reported")?;
    Ok(Trained { result, best })
}

/// The same recordings under the same front end, or there is nothing to compare.
fn check_same(origin: &Origin, manifest: &Manifest, root: &Path) -> anyhow::Result<()> {
    ensure!(
        manifest.data_hash == origin.data_hash,
        "the recordings in {} are not those that trained the model: name theirs with --data",
        root.display()
    );
    ensure!(manifest.front_end_hash == origin.front_end_hash, "the front end is not the bundle's");
    Ok(())
}

/// Every shard that the job names must have come out of the preparation with the same bytes.
fn check_shards(origin: &Origin, processed: &Path) -> anyhow::Result<()> {
    let store = BlobStore::open(processed.join(BLOBS))?;
    let levels = origin.job.augment.iter().flat_map(|augment| &augment.levels).flatten();
    match origin.job.shards.iter().chain(levels).find(|shard| !store.contains(**shard)) {
        None => Ok(()),
        Some(shard) => bail!(
            "the same recordings gave other features than those that trained the model (shard {shard} is missing): they were \
             prepared by another version of Earshot, or on another kind of machine"
        ),
    }
}

fn start_worker(args: &RebuildArgs, address: &str, folder: &TempDir) -> anyhow::Result<Worker> {
    let beside = || env::current_exe().ok().map(|program| program.with_file_name("worker"));
    let program = args.worker.clone().or_else(beside).context("name the worker with --worker FILE")?;
    let child = Command::new(&program)
        .args(["--coordinator", &format!("http://{address}"), "--slots", "1", "--name", "rebuild"])
        .args(["--device", &args.device, "--exit-when-done", "--cache"])
        .arg(folder.path().join("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let child = child.with_context(|| {
        format!("{} cannot be started; name the worker with --worker FILE", program.display())
    })?;
    Ok(Worker(child))
}

fn answer(origin: &Origin, rebuilt: &Rebuilt) -> Answer {
    let original = (&origin.best_epoch, origin.checkpoint, origin.logits);
    let names = ["checkpoint", "logits", "best_epoch", "train_loss", "loss", "accuracy", "macro_f1"];
    let mut comparisons = compare(names, original, &rebuilt.whole);
    if let (Some(origin), Some(rebuilt)) = (&origin.aware, &rebuilt.aware) {
        let original = (&origin.best_epoch, origin.checkpoint, origin.logits);
        let names = [
            "aware.checkpoint",
            "aware.logits",
            "aware.best_epoch",
            "aware.train_loss",
            "aware.loss",
            "aware.accuracy",
            "aware.macro_f1",
        ];
        comparisons.extend(compare(names, original, rebuilt));
    }
    let is_identical = comparisons.iter().all(|compared| compared.is_equal);
    let state = if is_identical { "identical" } else { "different" };
    Answer { trial: origin.trial.0, state, comparisons }
}

fn compare(
    names: [&'static str; 7],
    (then, checkpoint, logits): (&Epoch, BlobId, BlobId),
    rebuilt: &Trained,
) -> Vec<Compared> {
    let text = |checkpoint: BlobId, logits: BlobId, epoch: &Epoch| {
        let Epoch { epoch, train_loss, loss, accuracy, macro_f1, int8_accuracy: _ } = epoch;
        let metrics = [train_loss, loss, accuracy, macro_f1].map(f64::to_string);
        let blobs = [checkpoint, logits].map(|blob| blob.to_string());
        blobs.into_iter().chain([epoch.to_string()]).chain(metrics)
    };
    let now = text(rebuilt.result.checkpoint, rebuilt.result.logits, &rebuilt.best);
    let both = text(checkpoint, logits, then).zip(now);
    names.into_iter().zip(both).map(|(what, (original, rebuilt))| of(what, original, rebuilt)).collect()
}

fn of(what: &'static str, original: String, rebuilt: String) -> Compared {
    Compared { what, is_equal: original == rebuilt, original, rebuilt }
}

fn compared(answer: &Answer) -> anyhow::Result<Document> {
    let mut grid = Grid::new(["what", "original", "rebuilt", "is_equal"]);
    grid.rows.extend(answer.comparisons.iter().map(|compared| {
        let is_equal = if compared.is_equal { "yes" } else { "no" };
        [compared.what, &compared.original, &compared.rebuilt, is_equal].map(str::to_owned).into()
    }));
    Ok(Document {
        json: document::json(answer)?,
        facts: vec![("trial", answer.trial.to_string()), ("state", answer.state.to_owned())],
        grids: vec![grid.clone()],
        csv: grid,
    })
}
