//! One thread that trains one run at a time, or several as one computation (`together`), and where an attempt's failures get
//! their reasons.
//!
//! Training holds a core for minutes, so it never runs on tokio's threads: a slot is a thread of its own, which takes work
//! from one channel and answers on another. Every call into libtorch is a fallible one; should one panic all the same, or our
//! own code, `catch_unwind` at the slot's border turns it into a failure of that attempt, and the slot goes on with the next.

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak, mpsc},
    thread,
    time::Duration,
};

use earshot_common::{
    ids::BlobId,
    job::{Epoch, Failure, Job, Reason, Teacher},
    model::ModelError,
    tensors::{self, TensorsError},
};
use earshot_data::{shard::Shard, split::TrainSplit};
use tch::{Device, TchError};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    blobs::BlobsError,
    control::Control,
    cpu::footprint,
    device::Processor,
    features::{FeatureCache, Features, FeaturesError},
    network::NetworkError,
    room::NoRoom,
    rounding,
    timer::Timer,
    training::{
        self, Observer, Start, TrainError, Trained,
        device::rows_at_once,
        midway::{Midway, MidwayError},
    },
};

mod together;

/// How often what a run has come to is kept, so that another attempt need not begin anew: seldom enough that it costs nothing,
/// often enough that little is lost.
pub const MIDWAY_EVERY: Duration = Duration::from_secs(30);

/// Where a slot gets bytes from; it may block.
pub trait BlobSource: Send {
    /// The blob's bytes, verified. Gives up with [`BlobsError::Halted`] when the attempt is no longer wanted.
    ///
    /// # Errors
    /// The bytes cannot be had.
    fn read(&self, id: BlobId, control: &Control) -> Result<Vec<u8>, BlobsError>;
}

/// One attempt, as a slot takes it.
pub struct Work {
    /// What to train.
    pub job: Job,
    /// Whether it is still wanted.
    pub control: Arc<Control>,
    /// Where its shards come from.
    pub source: Box<dyn BlobSource>,
    /// How often what it has come to is kept, at the ends of epochs.
    pub midway_every: Duration,
    /// Where its events go. Unbounded, because training must not wait for a coordinator that is away; it holds one event an
    /// epoch and one at the end, so the recipe bounds it.
    pub events: UnboundedSender<Event>,
}

/// What a slot says of an attempt, in this order: epochs, then one end.
#[derive(Debug)]
pub enum Event {
    /// An epoch is over, and what the run has come to may be kept as this blob.
    Epoch(Epoch, Option<Arc<Vec<u8>>>),
    /// The attempt is over.
    Ended(End),
}

/// How training ended.
#[derive(Debug)]
pub enum End {
    /// With a result, encoded as blobs.
    Trained {
        /// The epoch of the weights.
        best_epoch: u32,
        /// Blob: its weights.
        checkpoint: Vec<u8>,
        /// Blob: its logits of the validation rows.
        logits: Vec<u8>,
    },
    /// Without.
    Failed(Failure),
    /// At the agent's word.
    Halted,
}

/// Handle of a slot's thread, which ends with it.
#[derive(Debug)]
pub struct Slot {
    work: mpsc::Sender<Vec<Work>>,
}

/// The slot's thread is gone; nothing but a bug could end it.
#[derive(Debug, thiserror::Error)]
#[error("the slot's training thread has ended")]
pub struct SlotGone;

impl Slot {
    /// Starts the thread of slot `index` for one processor, bound to one core if one is named.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        index: usize,
        processor: Processor,
        core: Option<core_affinity::CoreId>,
        features: FeatureCache,
    ) -> io::Result<Self> {
        let (work, inbox) = mpsc::channel::<Vec<Work>>();
        thread::Builder::new().name(format!("slot-{index}")).spawn(move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            // One thread a slot: OpenMP's setting is each thread's own, so it is made here.
            tch::set_num_threads(1);
            for mut works in inbox {
                match (works.pop(), works.is_empty()) {
                    (Some(work), true) => work.end(perform(&work, processor, &features)),
                    (Some(work), false) => {
                        works.push(work);
                        together::perform(works, processor.device(), &features);
                    }
                    (None, _) => {}
                }
            }
        })?;
        Ok(Self { work })
    }

    /// Hands the slot its next attempt.
    ///
    /// # Errors
    /// [`SlotGone`].
    pub fn submit(&self, work: Work) -> Result<(), SlotGone> {
        self.submit_all(vec![work])
    }

    /// Hands the slot attempts of one shape ([`Job::shape`]), to be trained as one computation.
    ///
    /// # Errors
    /// [`SlotGone`].
    pub fn submit_all(&self, works: Vec<Work>) -> Result<(), SlotGone> {
        self.work.send(works).map_err(|_| SlotGone)
    }
}

/// Runs one attempt to its end, whatever happens in it.
fn perform(work: &Work, processor: Processor, cache: &FeatureCache) -> End {
    // The state behind the border is dropped on a panic: the network and its optimiser with the stack, and the caches recover
    // from a poisoned lock because they hold whole values only.
    let result = catch_unwind(AssertUnwindSafe(|| attempt(work, processor, cache)));
    match result {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => error.into_end(),
        Err(panic) => End::Failed(of_panic(&*panic)),
    }
}

fn attempt(work: &Work, processor: Processor, cache: &FeatureCache) -> Result<End, AttemptError> {
    let Work { job, control, source, midway_every, events } = work;
    let features = load_features(job, processor.device(), cache, source.as_ref(), control)?;
    features.check_classes(job.model.classes)?;
    let features = match job.teacher {
        Some(teacher) => taught(features, job, teacher, source.as_ref(), control)?,
        None => features,
    };
    let (midway, initial);
    let start = match (job.resume, job.initial_weights) {
        (Some(id), _) => {
            let bytes = source.read(id, control)?;
            midway = Midway::decode(&bytes).map_err(|error| AttemptError::Resume(id, error))?;
            Start::Midway(&midway)
        }
        (None, Some(id)) => {
            let bytes = source.read(id, control)?;
            initial = tensors::decode_checkpoint(&bytes, &job.model)
                .map_err(|error| AttemptError::InitialWeights(id, error))?;
            Start::Weights(&initial)
        }
        (None, None) => Start::Fresh,
    };
    let mut claim = cache.room().claim();
    if let Processor::Cpu(_) = processor {
        claim.grow("training the model", footprint(&job.model, job.recipe.batch_size)?)?;
        claim.grow("computing in int8", int8_footprint(job, &features)?)?;
    }
    let timer = Timer::start(*midway_every);
    let teller = Teller { events, rungs: &job.rungs, timer, last: Weak::new() };
    encode(&training::train(job, &features, start, processor, control, teller)?)
}

/// Bytes for what is computed in whole numbers on a CPU, where the job asks for any.
fn int8_footprint(job: &Job, features: &Features) -> Result<u64, ModelError> {
    let clips = match (job.int8_ranges.is_empty(), job.int8_accuracy) {
        (true, false) => return Ok(0),
        (true, true) => rows_at_once(Device::Cpu) as u64,
        (false, _) => u64::from(job.recipe.batch_size),
    };
    let copy = (features.classes().len() * features.clip() * size_of::<f32>()) as u64;
    Ok(copy + rounding::footprint(&job.model, clips)?)
}

/// Passes on what training says.
struct Teller<'a> {
    events: &'a UnboundedSender<Event>,
    /// Epochs after which the run may have to wait.
    rungs: &'a [u32],
    timer: Timer,
    /// What was last passed on; while it waits to be handed in there is no room for another.
    last: Weak<Vec<u8>>,
}

impl Observer for Teller<'_> {
    fn wants_midway(&mut self, epoch: u32) -> bool {
        self.rungs.contains(&epoch) || (self.last.strong_count() == 0 && self.timer.is_due())
    }

    fn epoch(&mut self, epoch: Epoch, midway: Option<Midway>) {
        let midway = midway.map(Midway::encode).and_then(|encoded| {
            // Only a copy for bad times: without it training goes on all the same.
            encoded.inspect_err(|error| tracing::warn!("cannot keep what a run has come to: {error}")).ok()
        });
        let midway = midway.map(Arc::new);
        self.last = midway.as_ref().map(Arc::downgrade).unwrap_or_default();
        let _ = self.events.send(Event::Epoch(epoch, midway));
    }
}

/// The features with what a teacher makes of them.
fn taught(
    features: Features,
    job: &Job,
    Teacher { logits: id, distil }: Teacher,
    source: &dyn BlobSource,
    control: &Control,
) -> Result<Features, AttemptError> {
    let unreadable = |error| AttemptError::Teacher(id, error);
    let mut found = tensors::decode(&source.read(id, control)?).map_err(unreadable)?;
    let logits =
        found.remove("logits").ok_or_else(|| unreadable(TensorsError::Missing("logits".to_owned())))?;
    Ok(features.taught_by(&logits, distil, job.model.classes)?)
}

fn load_features(
    job: &Job,
    device: Device,
    cache: &FeatureCache,
    source: &dyn BlobSource,
    control: &Control,
) -> Result<Features, AttemptError> {
    let split = || {
        let bytes = source.read(job.split, control)?;
        Ok(TrainSplit::read(&bytes).map_err(|error| FeaturesError::Split(job.split, error.into()))?)
    };
    let shard = |id| {
        let bytes = source.read(id, control)?;
        Ok(Shard::read(&bytes).map_err(|error| FeaturesError::Shard(id, error.into()))?)
    };
    cache.get_or_load(job, device, split, shard)
}

fn encode(trained: &Trained) -> Result<End, AttemptError> {
    Ok(End::Trained {
        best_epoch: trained.best.epoch,
        checkpoint: tensors::encode(&trained.checkpoint).map_err(AttemptError::Encode)?,
        logits: tensors::encode(&trained.logits).map_err(AttemptError::Encode)?,
    })
}

/// Everything that can end an attempt early.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error(transparent)]
    Features(#[from] FeaturesError),
    #[error("the initial weights {0} do not fit the model")]
    InitialWeights(BlobId, #[source] TensorsError),
    #[error("the teacher's logits {0} cannot be read")]
    Teacher(BlobId, #[source] TensorsError),
    #[error("it cannot go on from {0}")]
    Resume(BlobId, #[source] MidwayError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error("the model spec cannot be built")]
    Model(#[from] ModelError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("the result cannot be encoded")]
    Encode(#[source] TensorsError),
}

impl AttemptError {
    fn into_end(self) -> End {
        let reason = match &self {
            Self::Blobs(BlobsError::Halted) | Self::Train(TrainError::Halted) => return End::Halted,
            Self::Features(FeaturesError::Torch(error))
            | Self::Train(TrainError::Torch(error) | TrainError::Network(NetworkError::Torch(error))) => {
                reason_of(error)
            }
            Self::NoRoom(_) | Self::Features(FeaturesError::NoRoom(_)) => Reason::OutOfMemory,
            Self::Blobs(
                BlobsError::Missing(_) | BlobsError::TooLarge { .. } | BlobsError::Corrupt { .. },
            )
            | Self::Features(_)
            | Self::InitialWeights(..)
            | Self::Teacher(..)
            | Self::Resume(..) => Reason::Data,
            Self::Blobs(BlobsError::Store(_) | BlobsError::Delete(_)) => Reason::Disk,
            Self::Train(TrainError::Diverged { .. }) => Reason::Diverged,
            Self::Blobs(_) | Self::Model(_) | Self::Train(_) | Self::Encode(_) => Reason::Worker,
        };
        End::Failed(Failure { reason, message: chain(&self) })
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        // libtorch appends a stack of its own, line after line.
        message.push_str(error.to_string().lines().next().unwrap_or_default());
        cause = error.source();
    }
    message
}

fn reason_of(error: &TchError) -> Reason {
    reason_of_message(&error.to_string())
}

/// libtorch has one kind of error; what it says of memory differs by device.
fn reason_of_message(message: &str) -> Reason {
    const OUT_OF_MEMORY: [&str; 5] = [
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ];
    if OUT_OF_MEMORY.iter().any(|text| message.contains(text)) { Reason::OutOfMemory } else { Reason::Worker }
}

fn of_panic(panic: &(dyn Any + Send)) -> Failure {
    let message = panic_message(panic);
    Failure { reason: reason_of_message(&message), message: format!("training panicked: {message}") }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

impl Work {
    /// Says how it ended.
    fn end(&self, end: End) {
        // Nobody listens when the agent is gone; then there is nobody to tell either.
        let _ = self.events.send(Event::Ended(end));
    }
}

impl Event {
    /// The failure of an attempt that the worker itself could not carry out.
    pub fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self::Ended(End::Failed(Failure { reason, message: message.into() }))
    }
}
