//! A sweep is handed in: its file is checked, its features are prepared where they are missing, and it takes its place beside the
//! others.
//!
//! The coordinator reads and writes the folders that a sweep names, so whoever may hand one in could have it read and fill any. It
//! takes those under the folder that it was started in, and those that its sweeps use already, and no others.

use std::{
    io,
    path::{Component, Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use earshot_common::sweep::{Data, Sweep};
use earshot_data::{
    manifest::Manifest,
    prepare::{self, ClipOutcome, Options, PrepareError, Progress},
};
use earshot_proto::earshot::v1::{Submission, SubmitSweepRequest};
use futures::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinHandle, spawn_blocking},
    time,
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::codes;
use crate::{
    access::gate::HeldPlace,
    blobs::Blobs,
    causes::chain,
    dataset::{self, DatasetError},
    engine::Engine,
    preparing,
    state::{Dataset, Decision, EventKind, Refusal},
    views::{self, ViewError},
};

/// The shortest time between two answers about one preparation: people read no faster.
const REFRESH: Duration = Duration::from_millis(250);

/// How often a folder is looked at that another command is preparing.
const BUSY_PAUSE: Duration = Duration::from_millis(500);

/// Letters of the file's name at most.
const FILE_LENGTH_MAX: usize = 255;

/// Clips left out that are named; the manifest has all of them.
const PROBLEMS_SHOWN: usize = 20;

/// How far a sweep that is handed in has got; the last has the sweep.
pub(super) type Submissions = Pin<Box<dyn Stream<Item = Result<Submission, Status>> + Send>>;

/// Where sweeps are handed in.
#[derive(Debug)]
pub(super) struct Desk {
    engine: Engine,
    blobs: Blobs,
    /// One preparation at a time: it takes every core.
    place: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl Desk {
    pub(super) fn new(engine: Engine, blobs: Blobs, stopping: CancellationToken) -> Self {
        Self { engine, blobs, place: Arc::new(Semaphore::new(1)), stopping }
    }

    /// Takes a sweep, or says at once why not.
    pub(super) async fn take(
        &self,
        request: SubmitSweepRequest,
        place: Option<HeldPlace>,
    ) -> Result<Submissions, Status> {
        let sweep = read(&request)?;
        self.check_name(&sweep).await?;
        self.check_folders(&sweep.data).await?;
        let desk = Arc::clone(&self.place).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(
                "another sweep is being handed in; try again when its features are prepared",
            )
        })?;
        let preparation = Preparation::begin(sweep, self.blobs.clone(), desk);
        let (engine, stopping) = (self.engine.clone(), self.stopping.clone());
        let submitting = Submitting { engine, stopping, preparation: Some(preparation), _place: place };
        Ok(Box::pin(stream::unfold(submitting, |mut submitting| async move {
            let next = submitting.next().await?;
            Some((next, submitting))
        })))
    }

    /// Before anything is prepared for it.
    async fn check_name(&self, sweep: &Sweep) -> Result<(), Status> {
        let name = sweep.name.clone();
        let taken = self.engine.read(move |state| state.sweep_named(&name).is_some()).await;
        if taken.map_err(|error| codes::of_engine(&error))? {
            return Err(codes::of_refusal(&Refusal::NameTaken(sweep.name.clone())));
        }
        Ok(())
    }

    async fn check_folders(&self, data: &Data) -> Result<(), Status> {
        let known = self.engine.read(|state| {
            let used = state.sweeps().map(|(_, sweep)| &sweep.sweep().data);
            used.flat_map(|data| [data.root.clone(), data.processed.clone()]).collect::<Vec<PathBuf>>()
        });
        let known = known.await.map_err(|error| codes::of_engine(&error))?;
        for (key, folder) in [("data.root", &data.root), ("data.processed", &data.processed)] {
            let path = folder.clone();
            let is_ours = known.contains(folder)
                || spawn_blocking(move || is_inside(Path::new("."), &path).unwrap_or(false))
                    .await
                    .unwrap_or(false);
            if !is_ours {
                return Err(Status::permission_denied(format!(
                    "{key} is {}: a sweep that is handed in names folders under the one that the coordinator was started in, \
                     or those of a sweep that it has",
                    folder.display()
                )));
            }
        }
        Ok(())
    }
}

/// What came off the wire as a sweep.
fn read(request: &SubmitSweepRequest) -> Result<Sweep, Status> {
    let SubmitSweepRequest { text, file, overrides } = request;
    if file.chars().count() > FILE_LENGTH_MAX || file.chars().any(char::is_control) {
        let text = format!("a sweep file's name has at most {FILE_LENGTH_MAX} printable characters");
        return Err(Status::invalid_argument(text));
    }
    Sweep::parse(text, Path::new(file), overrides)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Whether a path, links followed as far as it is there, lies under `base`.
fn is_inside(base: &Path, path: &Path) -> io::Result<bool> {
    if path.components().any(|part| part == Component::ParentDir) {
        return Ok(false);
    }
    let base = base.canonicalize()?;
    let whole = base.join(path);
    // A link to nowhere is there, and leads somewhere once somebody makes that.
    let there = whole.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(&base);
    Ok(there.canonicalize()?.starts_with(&base))
}

/// A preparation on a thread that may block; dropped, it stops at the next clip.
struct Preparation {
    sweep: Sweep,
    work: JoinHandle<Result<Prepared, Unprepared>>,
    told: watch::Receiver<Told>,
    cancel: Arc<AtomicBool>,
}

/// What a sweep brings along.
struct Prepared {
    dataset: Dataset,
    warnings: Vec<String>,
}

/// Why a sweep cannot run.
#[derive(Debug, thiserror::Error)]
enum Unprepared {
    #[error("the recordings cannot be prepared")]
    Recordings(#[source] PrepareError),
    #[error("the sweep does not fit its data")]
    Dataset(#[from] DatasetError),
    #[error("its features cannot be read")]
    Blobs(#[from] earshot_common::blob::BlobError),
}

/// How far a preparation has got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    doing: &'static str,
    done: u64,
    total: u64,
}

struct Teller(watch::Sender<Told>);

impl Progress for Teller {
    fn start(&self, clips: u64) {
        self.0.send_replace(Told { doing: "preparing clips", done: 0, total: clips });
    }

    fn clip_done(&self, _: &str, _: ClipOutcome) {
        self.0.send_modify(|told| told.done += 1);
    }

    fn start_views(&self, views: u64) {
        self.0.send_replace(Told { doing: "rendering views", done: 0, total: views });
    }

    fn views_done(&self, views: u64) {
        self.0.send_modify(|told| told.done += views);
    }
}

impl Preparation {
    fn begin(sweep: Sweep, blobs: Blobs, place: OwnedSemaphorePermit) -> Self {
        let (teller, told) = watch::channel(Told::default());
        let options = preparing::options_of(&sweep);
        let (cancel, given) = (Arc::clone(&options.cancel), sweep.clone());
        let work = spawn_blocking(move || {
            let _place = place;
            prepared(&given, &options, &blobs, &Teller(teller))
        });
        Self { sweep, work, told, cancel }
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

fn prepared(
    sweep: &Sweep,
    options: &Options,
    blobs: &Blobs,
    teller: &Teller,
) -> Result<Prepared, Unprepared> {
    let manifest = loop {
        match prepare::prepare(options, teller) {
            Ok(manifest) => break manifest,
            Err(PrepareError::Busy(_)) if !options.cancel.load(Ordering::Relaxed) => {
                teller.0.send_replace(Told { doing: "waiting for another preparation", done: 0, total: 0 });
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(error) => return Err(Unprepared::Recordings(error)),
        }
    };
    blobs.add(&sweep.data.processed)?;
    let warnings = warnings(sweep, &manifest)?;
    Ok(Prepared { dataset: dataset::dataset(sweep, &manifest, blobs)?, warnings })
}

fn warnings(sweep: &Sweep, manifest: &Manifest) -> Result<Vec<String>, DatasetError> {
    let problems = &manifest.problems;
    let shown = problems.iter().take(PROBLEMS_SHOWN);
    let left_out = shown.map(|problem| format!("left out {}: {}", problem.clip, problem.message));
    let more = problems.len().saturating_sub(PROBLEMS_SHOWN);
    let more = (more > 0).then(|| format!("and {more} more; the manifest lists all of them"));
    let leaks = preparing::leaks(sweep, manifest)?;
    Ok(manifest.warnings.iter().cloned().chain(left_out).chain(more).chain(leaks).collect())
}

/// A sweep on its way in.
struct Submitting {
    engine: Engine,
    stopping: CancellationToken,
    /// None once the last answer was given.
    preparation: Option<Preparation>,
    /// Held until the last answer.
    _place: Option<HeldPlace>,
}

impl Submitting {
    async fn next(&mut self) -> Option<Result<Submission, Status>> {
        let mut preparation = self.preparation.take()?;
        let done = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return Some(Err(Status::unavailable("the coordinator is stopping"))),
            done = &mut preparation.work => done,
            told = heard(&mut preparation.told) => {
                self.preparation = Some(preparation);
                let Told { doing, done, total } = told;
                return Some(Ok(Submission { doing: doing.to_owned(), done, total, ..Submission::default() }));
            }
        };
        Some(match done {
            Ok(Ok(prepared)) => self.enter(preparation.sweep.clone(), prepared).await,
            Ok(Err(error)) => Err(of_unprepared(&error)),
            Err(_) => Err(Status::internal("the coordinator failed inside; its log says where")),
        })
    }

    /// The sweep takes its place.
    async fn enter(&self, sweep: Sweep, prepared: Prepared) -> Result<Submission, Status> {
        let Prepared { dataset, warnings } = prepared;
        let name = sweep.name.clone();
        let kind = EventKind::Submitted { sweep: Box::new(sweep), dataset };
        let entered = self.engine.submit(kind).await.map_err(|error| codes::of_engine(&error))?;
        let Decision::Submitted(id) = entered else {
            return Err(Status::internal("the coordinator failed inside"));
        };
        tracing::info!("sweep {name} was handed in");
        let look =
            self.engine.read(move |state| state.sweep(id).map(views::sweep_view).ok_or(ViewError::NoSweep));
        let sweep = look.await.map_err(|error| codes::of_engine(&error))?;
        let sweep = sweep.map_err(|error| codes::of_view(&error))?;
        Ok(Submission { sweep: Some(sweep), warnings, ..Submission::default() })
    }
}

/// The next thing to tell; for ever when nothing more is said.
async fn heard(told: &mut watch::Receiver<Told>) -> Told {
    time::sleep(REFRESH).await;
    if told.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    told.borrow_and_update().clone()
}

fn of_unprepared(error: &Unprepared) -> Status {
    let text = chain(error);
    match error {
        Unprepared::Dataset(DatasetError::Store(_)) | Unprepared::Blobs(_) => {
            tracing::error!("a sweep cannot be taken: {text}");
            Status::internal("the coordinator's blob store failed; its log says why")
        }
        // As `sweep check` and `start` would have said.
        Unprepared::Dataset(_) => Status::invalid_argument(text),
        Unprepared::Recordings(_) => Status::failed_precondition(text),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn only_folders_under_ones_own_are_inside() {
        let outer = tempfile::tempdir().unwrap();
        let base = outer.path().join("base");
        for folder in ["base/data", "elsewhere"] {
            fs::create_dir_all(outer.path().join(folder)).unwrap();
        }
        symlink(outer.path().join("elsewhere"), base.join("out")).unwrap();
        symlink(outer.path().join("nowhere"), base.join("dangling")).unwrap();
        symlink(base.join("data"), base.join("in")).unwrap();
        let check = |path: &str, expected: bool| {
            let found = is_inside(&base, Path::new(path)).unwrap_or(false);
            assert_eq!(found, expected, "{path}");
        };
        for inside in ["data", "data/new/deep", "in/new", "./data", "new"] {
            check(inside, true);
        }
        for outside in ["..", "../elsewhere", "data/../../elsewhere", "out", "out/new", "dangling", "/etc"] {
            check(outside, false);
        }
        check(base.join("data").to_str().unwrap(), true);
    }
}
