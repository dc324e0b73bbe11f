//! The agent against a coordinator that goes away, forgets and fences.

use std::time::Duration;

use earshot_common::{
    blob::BlobStore,
    credentials::Credentials,
    ids::BlobId,
    job::{Outcome, Reason, Verdict},
    tensors,
};
use earshot_proto::earshot::v1::{self as proto, JoinRequest, PROTOCOL_VERSION, ReportRequest};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use worker::{
    agent::{Agent, WhenDone, backoff::Pace, link::Link, membership::Refused},
    blobs::{Blobs, BlobsError},
    control::Control,
    cpu::Precision,
    device::Processor,
    features::FeatureCache,
    progress::Board,
    slot::{MIDWAY_EVERY, Slot},
};

use crate::{
    coordinator::{Book, Coordinator},
    jobs::{Example, example},
};

/// Epochs of a job that a test ends, not the job itself.
const FOREVER: u32 = 1_000_000;

const PACE: Pace = Pace { first: Duration::from_millis(5), longest: Duration::from_millis(50) };

/// A worker in this process.
struct Worker {
    shutdown: CancellationToken,
    running: JoinSet<Result<(), Refused>>,
    _cache: TempDir,
}

impl Worker {
    fn start(url: &str, slots: usize) -> Self {
        Self::with(url, slots, tempfile::tempdir().unwrap())
    }

    /// Over this cache.
    fn with(url: &str, slots: usize, cache: TempDir) -> Self {
        let link = Link::new(url, &Credentials::default(), PACE).unwrap();
        let features = FeatureCache::default();
        let agent = Agent {
            blobs: Blobs::new(BlobStore::open(cache.path()).unwrap(), link.line.clone(), PACE),
            link,
            introduction: JoinRequest {
                protocol_version: PROTOCOL_VERSION,
                name: "test".to_owned(),
                slots: slots as u32,
                device: "cpu".to_owned(),
                version: "0".to_owned(),
            },
            slots: (0..slots)
                .map(|slot| {
                    Slot::start(slot, Processor::Cpu(Precision::F32), None, features.clone()).unwrap()
                })
                .collect(),
            board: Board::default(),
            midway_every: MIDWAY_EVERY,
            fuse: 1,
            when_done: WhenDone::Exit,
            // Longer than any test.
            ailing_pace: Pace { first: Duration::from_hours(1), longest: Duration::from_hours(1) },
        };
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(agent.run(shutdown.clone()));
        Self { shutdown, running, _cache: cache }
    }

    async fn ended(&mut self) -> Result<(), Refused> {
        let limit = Duration::from_mins(2);
        tokio::time::timeout(limit, self.running.join_next())
            .await
            .expect("the worker ends")
            .unwrap()
            .unwrap()
    }
}

/// A coordinator with these jobs and all that they name.
fn book(examples: &[Example]) -> Book {
    let mut book = Book::default();
    for example in examples {
        for shard in &example.shards {
            let bytes = shard.write().unwrap();
            book.blobs.insert(BlobId::of(&bytes), bytes);
        }
        let split = example.split.write().unwrap();
        book.blobs.insert(BlobId::of(&split), split);
        book.jobs.push_back(example.job.clone());
    }
    book
}

fn endless(seed: u64) -> Example {
    let mut example = example(seed);
    example.job.recipe.epochs = FOREVER;
    example
}

fn epochs_of(book: &Book, token: u64) -> usize {
    book.epochs.get(&token).map_or(0, Vec::len)
}

/// Several attempts share a stream; one that swallows a report is given up, and the next report opens another.
#[tokio::test]
async fn reports_share_a_stream_until_it_swallows_one() {
    let coordinator = Coordinator::new(Book { workers: [1].into(), ..Book::default() });
    let listening = coordinator.listen(None).await;
    let mut link = Link::new(&listening.url(), &Credentials::default(), PACE).unwrap();
    let report = |token, number| ReportRequest {
        worker: 1,
        token,
        epoch: Some(proto::Epoch { epoch: number, ..proto::Epoch::default() }),
        midway: None,
    };
    let mut all = JoinSet::new();
    for token in 1..=50 {
        let (link, report) = (link.clone(), report(token, 1));
        all.spawn(async move { link.report(report).await.unwrap() });
    }
    assert_eq!(all.join_all().await, [Verdict::Continue; 50]);
    coordinator.book().fenced.insert(7);
    let refused = link.report(report(7, 2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(coordinator.book().streams, 1);

    coordinator.book().swallowed = 1;
    link.answer_time = Duration::from_millis(200);
    assert_eq!(link.report(report(8, 2)).await.unwrap_err().code(), Code::DeadlineExceeded);
    link.answer_time = Duration::from_mins(1);
    assert_eq!(link.report(report(8, 2)).await.unwrap(), Verdict::Continue);
    let seen = |book: &Book| (book.streams, epochs_of(book, 8));
    assert_eq!(seen(&coordinator.book()), (2, 2));

    // Whoever waits when it breaks is told.
    coordinator.book().swallowed = 1;
    let waiting = link.report(report(9, 2));
    let breaking = async {
        coordinator.until("the report", |book| book.swallowed == 0).await;
        listening.stop().await;
    };
    let (answer, ()) = tokio::join!(waiting, breaking);
    answer.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_trained_and_handed_in_with_every_epoch() {
    let coordinator = Coordinator::new(book(&[example(1), example(2), example(3)]));
    let listening = coordinator.listen(None).await;
    Worker::start(&listening.url(), 2).ended().await.unwrap();

    let book = coordinator.book();
    assert_eq!((book.joins, book.leaves), (1, 1));
    assert_eq!(book.fetches, 3, "a split and two shards, each once");
    assert_eq!(book.outcomes.len(), 3);
    for (token, outcome) in &book.outcomes {
        let Outcome::Completed(result) = outcome else { panic!("{outcome:?}") };
        let epochs = &book.epochs[token];
        let numbers: Vec<u32> = epochs.iter().map(|epoch| epoch.epoch).collect();
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
        assert!(epochs.iter().any(|epoch| epoch.epoch == result.best_epoch));
        tensors::decode_checkpoint(&book.blobs[&result.checkpoint], &example(1).job.model).unwrap();
        assert_eq!(tensors::decode(&book.blobs[&result.logits]).unwrap()["logits"].shape, [24, 4]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_was_away_gets_every_epoch() {
    let mut long = example(4);
    long.job.recipe.epochs = 60;
    let coordinator = Coordinator::new(book(&[long]));
    let listening = coordinator.listen(None).await;
    let mut worker = Worker::start(&listening.url(), 1);
    coordinator.until("a first epoch", |book| epochs_of(book, 1) > 0).await;
    let address = listening.stop().await;
    let before = epochs_of(&coordinator.book(), 1);
    assert!(before < 60, "the fault did not fire: all epochs were in");
    let _listening = coordinator.listen(Some(address)).await;
    worker.ended().await.unwrap();

    let book = coordinator.book();
    let numbers: Vec<u32> = book.epochs[&1].iter().map(|epoch| epoch.epoch).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
    assert!(matches!(book.outcomes[&1], Outcome::Completed(_)));
    assert_eq!(book.joins, 1, "the same coordinator still knows the worker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_worker_joins_again_and_goes_on() {
    let coordinator = Coordinator::new(book(&[endless(5)]));
    let listening = coordinator.listen(None).await;
    let mut worker = Worker::start(&listening.url(), 1);
    coordinator.until("a first epoch", |book| epochs_of(book, 1) > 0).await;
    coordinator.book().workers.clear();
    coordinator.until("a second join", |book| book.joins == 2).await;
    let before = epochs_of(&coordinator.book(), 1);
    coordinator.until("another epoch", |book| epochs_of(book, 1) > before).await;
    worker.shutdown.cancel();
    worker.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_attempt_is_dropped_and_the_slot_asks_anew() {
    let coordinator = Coordinator::new(book(&[endless(6), example(7)]));
    let listening = coordinator.listen(None).await;
    let mut worker = Worker::start(&listening.url(), 1);
    coordinator.until("a first epoch", |book| epochs_of(book, 1) > 0).await;
    coordinator.book().fenced.insert(1);
    worker.ended().await.unwrap();
    let book = coordinator.book();
    assert!(!book.outcomes.contains_key(&1));
    assert!(matches!(book.outcomes[&2], Outcome::Completed(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeats_word_ends_an_attempt() {
    let coordinator = Coordinator::new(book(&[endless(8), example(9)]));
    let listening = coordinator.listen(None).await;
    let mut worker = Worker::start(&listening.url(), 1);
    coordinator.until("a first epoch", |book| epochs_of(book, 1) > 0).await;
    coordinator.book().revoked.insert(1);
    coordinator.until("the next attempt", |book| book.outcomes.contains_key(&2)).await;
    coordinator.book().fenced.insert(1);
    worker.ended().await.unwrap();
    assert!(!coordinator.book().outcomes.contains_key(&1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_worker_gives_back_what_it_trains() {
    let coordinator = Coordinator::new(book(&[endless(10), endless(11)]));
    let listening = coordinator.listen(None).await;
    let mut worker = Worker::start(&listening.url(), 2);
    coordinator.until("two running", |book| epochs_of(book, 1) > 0 && epochs_of(book, 2) > 0).await;
    worker.shutdown.cancel();
    worker.ended().await.unwrap();
    let book = coordinator.book();
    for token in [1, 2] {
        let Outcome::Failed(failure) = &book.outcomes[&token] else { panic!() };
        assert_eq!(failure.reason, Reason::Drained);
    }
    assert_eq!(book.leaves, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_disk_fails_leaves_the_next_run_to_others() {
    let coordinator = Coordinator::new(book(&[example(13), example(14)]));
    let listening = coordinator.listen(None).await;
    let cache = tempfile::tempdir().unwrap();
    let split = BlobId::of(&example(13).split.write().unwrap());
    // Not to be read, whoever tries.
    std::fs::create_dir_all(BlobStore::open(cache.path()).unwrap().path(split)).unwrap();
    let mut ailing = Worker::with(&listening.url(), 1, cache);
    coordinator.until("a failure", |book| book.outcomes.contains_key(&1)).await;
    let Outcome::Failed(failure) = coordinator.book().outcomes[&1].clone() else { panic!() };
    assert_eq!(failure.reason, Reason::Disk, "{}", failure.message);
    let before = coordinator.book().heartbeats;
    coordinator.until("signs of life", |book| book.heartbeats >= before + 3).await;
    assert_eq!(coordinator.book().jobs.len(), 1, "the next run was taken, too");

    Worker::start(&listening.url(), 1).ended().await.unwrap();
    assert!(matches!(coordinator.book().outcomes[&2], Outcome::Completed(_)));
    ailing.shutdown.cancel();
    ailing.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_at_join_ends_the_worker_with_the_coordinators_words() {
    let coordinator =
        Coordinator::new(Book { refusal: Some("this coordinator speaks version 9"), ..Book::default() });
    let listening = coordinator.listen(None).await;
    let refused = Worker::start(&listening.url(), 2).ended().await.unwrap_err();
    assert!(refused.to_string().contains("this coordinator speaks version 9"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_go_on_while_a_slot_is_busy() {
    let coordinator = Coordinator::new(book(&[endless(12)]));
    let listening = coordinator.listen(None).await;
    let mut worker = Worker::start(&listening.url(), 1);
    coordinator.until("a first epoch", |book| epochs_of(book, 1) > 0).await;
    let before = coordinator.book().heartbeats;
    coordinator.until("five heartbeats", |book| book.heartbeats >= before + 5).await;
    worker.shutdown.cancel();
    worker.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_still_looks_for_its_coordinator_can_be_stopped() {
    let coordinator = Coordinator::new(Book::default());
    let listening = coordinator.listen(None).await;
    let url = listening.url();
    listening.stop().await;
    let mut worker = Worker::start(&url, 2);
    worker.shutdown.cancel();
    worker.ended().await.unwrap();
    assert_eq!(coordinator.book().joins, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_verified_on_the_wire_and_on_disk() {
    let bytes: Vec<u8> = (0..5000_u32).map(|byte| byte as u8).collect();
    let id = BlobId::of(&bytes);
    let mut book = Book { damaged_fetches: 2, ..Book::default() };
    book.blobs.insert(id, bytes.clone());
    let coordinator = Coordinator::new(book);
    let listening = coordinator.listen(None).await;
    let cache = tempfile::tempdir().unwrap();
    let store = BlobStore::open(cache.path()).unwrap();
    let link = Link::new(&listening.url(), &Credentials::default(), PACE).unwrap();
    let blobs = Blobs::new(store.clone(), link.line, PACE);
    let wanted = Control::default();

    // Damaged twice on the wire, whole the third time; then from the disk.
    assert_eq!(blobs.read(id, &wanted).await.unwrap(), bytes);
    assert_eq!(coordinator.book().fetches, 3);
    assert_eq!(blobs.read(id, &wanted).await.unwrap(), bytes);
    assert_eq!(coordinator.book().fetches, 3);

    // Damaged on the disk.
    std::fs::write(store.path(id), b"damaged").unwrap();
    assert_eq!(blobs.read(id, &wanted).await.unwrap(), bytes);
    assert_eq!(coordinator.book().fetches, 4);

    let unknown = BlobId::of(b"unknown");
    assert!(
        matches!(blobs.read(unknown, &wanted).await, Err(BlobsError::Missing(missing)) if missing == unknown)
    );
    assert_eq!(blobs.put(&vec![7; 2_500_000]).await.unwrap(), BlobId::of(&vec![7; 2_500_000]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_cannot_be_written_costs_a_fetch_and_nothing_else() {
    let mut book = Book::default();
    let id = BlobId::of(b"shard");
    book.blobs.insert(id, b"shard".to_vec());
    let coordinator = Coordinator::new(book);
    let listening = coordinator.listen(None).await;
    let cache = tempfile::tempdir().unwrap();
    let link = Link::new(&listening.url(), &Credentials::default(), PACE).unwrap();
    let blobs = Blobs::new(BlobStore::open(cache.path()).unwrap(), link.line, PACE);
    std::fs::remove_dir(cache.path()).unwrap();
    for fetches in 1..=2 {
        assert_eq!(blobs.read(id, &Control::default()).await.unwrap(), b"shard");
        assert_eq!(coordinator.book().fetches, fetches);
    }
}
