//! A slot's thread: what it answers when things go wrong.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use earshot_common::{
    blob::BlobError,
    ids::BlobId,
    job::{Job, Reason},
};
use tokio::sync::mpsc;
use worker::{
    blobs::BlobsError,
    control::{Control, State},
    cpu::Precision,
    device::Processor,
    features::FeatureCache,
    slot::{BlobSource, End, Event, MIDWAY_EVERY, Slot, Work},
};

use crate::jobs::{Example, example};

/// Blobs in memory, with a count of readings.
#[derive(Clone, Default)]
struct Memory {
    blobs: BTreeMap<BlobId, Vec<u8>>,
    reads: Arc<AtomicUsize>,
    panics: bool,
    /// The cache's disk has no room for what is read.
    is_full: bool,
    /// Arrives wrong, however often it is fetched.
    corrupt: Option<BlobId>,
}

impl BlobSource for Memory {
    fn read(&self, id: BlobId, _: &Control) -> Result<Vec<u8>, BlobsError> {
        assert!(!self.panics, "the fault of this test");
        if self.is_full {
            let source = std::io::Error::from_raw_os_error(libc::ENOSPC);
            return Err(BlobsError::Store(BlobError::Io { path: "cache".into(), source }));
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.corrupt == Some(id) {
            return Err(BlobsError::Corrupt { id, what: "the fault of this test" });
        }
        self.blobs.get(&id).cloned().ok_or(BlobsError::Missing(id))
    }
}

fn memory(example: &Example) -> Memory {
    let mut blobs: BTreeMap<BlobId, Vec<u8>> = BTreeMap::new();
    for shard in &example.shards {
        let bytes = shard.write().unwrap();
        blobs.insert(BlobId::of(&bytes), bytes);
    }
    let split = example.split.write().unwrap();
    blobs.insert(BlobId::of(&split), split);
    Memory { blobs, ..Memory::default() }
}

fn slot(index: usize, features: &FeatureCache) -> Slot {
    Slot::start(index, Processor::Cpu(Precision::F32), None, features.clone()).unwrap()
}

fn submit(slot: &Slot, job: &Job, source: Memory, control: Arc<Control>) -> mpsc::UnboundedReceiver<Event> {
    let (events, inbox) = mpsc::unbounded_channel();
    slot.submit(Work {
        job: job.clone(),
        control,
        source: Box::new(source),
        midway_every: MIDWAY_EVERY,
        events,
    })
    .unwrap();
    inbox
}

fn end(mut inbox: mpsc::UnboundedReceiver<Event>) -> End {
    loop {
        match inbox.blocking_recv().unwrap() {
            Event::Epoch(..) => {}
            Event::Ended(end) => return end,
        }
    }
}

#[track_caller]
fn check_failure(end: End, reason: Reason, part: &str) {
    match end {
        End::Failed(failure) => {
            assert_eq!(failure.reason, reason, "{}", failure.message);
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        end => panic!("expected a failure, got {end:?}"),
    }
}

#[test]
fn failures_get_their_reasons_and_the_slot_goes_on() {
    let slot = slot(0, &FeatureCache::default());
    let good = example(1);
    let run = |job: &Job, source| end(submit(&slot, job, source, Arc::default()));

    let mut missing = memory(&good);
    missing.blobs.remove(&good.job.shards[1]);
    check_failure(run(&good.job, missing), Reason::Data, "has no blob");

    let corrupt = Memory { corrupt: Some(good.job.shards[0]), ..memory(&good) };
    check_failure(run(&good.job, corrupt), Reason::Data, "arrives corrupt");

    let mut garbled = memory(&good);
    garbled.blobs.insert(good.job.shards[0], b"nonsense".to_vec());
    check_failure(run(&good.job, garbled), Reason::Data, "cannot be read");

    let mut wide = good.job.clone();
    wide.model.n_mfcc = 20;
    check_failure(run(&wide, memory(&good)), Reason::Data, "10 coefficients, the model takes 20");

    let mut few = good.job.clone();
    few.model.classes = 2;
    check_failure(run(&few, memory(&good)), Reason::Data, "of class 2, the model has 2 classes");

    let mut steep = good.job.clone();
    steep.recipe.learning_rate = 1e20;
    check_failure(run(&steep, memory(&good)), Reason::Diverged, "no longer finite");

    let full = Memory { is_full: true, ..Memory::default() };
    check_failure(run(&good.job, full), Reason::Disk, "cannot use cache: No space left on device");

    let faulty = Memory { panics: true, ..Memory::default() };
    check_failure(run(&good.job, faulty), Reason::Worker, "the fault of this test");

    assert!(matches!(run(&good.job, memory(&good)), End::Trained { .. }));
}

#[test]
fn attempts_of_one_shape_are_trained_together_and_fail_alone() {
    let slot = slot(0, &FeatureCache::default());
    let examples = [example(1), example(2), example(3), example(4)];
    let mut inboxes = Vec::new();
    let mut works = Vec::new();
    for (number, example) in examples.iter().enumerate() {
        let (events, inbox) = mpsc::unbounded_channel();
        let source = memory(example);
        let mut job = example.job.clone();
        match number {
            1 => job.initial_weights = Some(BlobId::of(b"nowhere")),
            2 => job.recipe.learning_rate = 1e20,
            _ => {}
        }
        let control = Arc::default();
        works.push(Work { job, control, source: Box::new(source), midway_every: MIDWAY_EVERY, events });
        inboxes.push(inbox);
    }
    slot.submit_all(works).unwrap();
    let mut ends = inboxes.into_iter().map(end);
    assert!(matches!(ends.next(), Some(End::Trained { .. })));
    check_failure(ends.next().unwrap(), Reason::Data, "has no blob");
    check_failure(ends.next().unwrap(), Reason::Diverged, "no longer finite");
    assert!(matches!(ends.next(), Some(End::Trained { .. })));
}

#[test]
fn a_running_attempt_ends_at_the_agents_word() {
    let mut long = example(2);
    long.job.recipe.epochs = 100_000;
    let slot = slot(0, &FeatureCache::default());
    let control = Arc::new(Control::default());
    let mut inbox = submit(&slot, &long.job, memory(&long), Arc::clone(&control));
    assert!(matches!(inbox.blocking_recv(), Some(Event::Epoch(..))));
    control.advance(State::Revoked);
    assert!(matches!(end(inbox), End::Halted));
}

#[test]
fn slots_that_want_the_same_features_load_them_once() {
    let example = example(3);
    let cache = FeatureCache::default();
    let slots: Vec<Slot> = (0..3).map(|index| slot(index, &cache)).collect();
    let source = memory(&example);
    let mut long = example.job.clone();
    long.recipe.epochs = 100_000;
    let control = Arc::new(Control::default());
    let mut holding = submit(&slots[0], &long, source.clone(), Arc::clone(&control));
    assert!(matches!(holding.blocking_recv(), Some(Event::Epoch(..))));
    for slot in &slots[1..] {
        assert!(matches!(
            end(submit(slot, &example.job, source.clone(), Arc::default())),
            End::Trained { .. }
        ));
    }
    control.advance(State::Draining);
    assert!(matches!(end(holding), End::Halted));
    assert_eq!(source.reads.load(Ordering::Relaxed), 3, "a split and two shards");
}
