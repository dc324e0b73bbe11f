//! Workers whose training takes no time: all that they do is talk.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use earshot_common::ids::BlobId;
use earshot_proto::earshot::v1::{
    Epoch, FinishRequest, Grant, HeartbeatRequest, JoinRequest, LeaseRequest, PROTOCOL_VERSION,
    ReportRequest, Result as RunResult, cluster_client::ClusterClient, finish_request,
    lease_response::Answer, report_response::Answer as ReportAnswer,
};
use serde::Serialize;
use tokio::{
    runtime::Runtime,
    sync::{Barrier, Semaphore, mpsc, watch},
    task::JoinSet,
    time::{self, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    EPOCHS,
    site::{BLOB, Site, Usage},
};

/// Before it is measured: caches fill, and the first leases, which all come at once, are past.
const WARM: Duration = Duration::from_secs(3);
/// Connections being made at once; a coordinator lets so many strangers of one address in.
const CONNECTING: usize = 128;

/// What is asked of a coordinator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) workers: usize,
    /// Reports a second of all workers; none: each as soon as the one before is answered.
    pub(crate) reports_hz: Option<f64>,
    pub(crate) measured: Duration,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    workers: usize,
    /// Offered a second; none: as many as were answered.
    offered_hz: Option<f64>,
    reports_hz: f64,
    runs_hz: f64,
    commits_hz: f64,
    /// Mean.
    commit_ms: f64,
    lease_p50_ms: f64,
    lease_p99_ms: f64,
    report_p50_ms: f64,
    report_p99_ms: f64,
    /// Processors that the coordinator used, and its workers.
    coordinator_cores: f64,
    worker_cores: f64,
    coordinator_mb: f64,
}

impl Outcome {
    pub(crate) const HEAD: &str = "| workers | offered/s | reports/s | runs/s | commits/s | commit ms | lease p50 ms | lease p99 ms | \
         report p50 ms | report p99 ms | coordinator cores | worker cores | coordinator MB |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|";

    pub(crate) fn line(&self) -> String {
        let offered = self.offered_hz.map_or_else(|| "all".to_owned(), |hz| format!("{hz:.0}"));
        format!(
            "| {} | {offered} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |",
            self.workers,
            self.reports_hz,
            self.runs_hz,
            self.commits_hz,
            self.commit_ms,
            self.lease_p50_ms,
            self.lease_p99_ms,
            self.report_p50_ms,
            self.report_p99_ms,
            self.coordinator_cores,
            self.worker_cores,
            self.coordinator_mb,
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Warm,
    Measured,
    Over,
}

/// Milliseconds that calls took, those that ended while it was measured.
#[derive(Debug, Default)]
struct Times {
    lease: Vec<f64>,
    report: Vec<f64>,
    finish: Vec<f64>,
}

/// Runs the load against a new coordinator in a folder within this one.
pub(crate) fn run(folder: &Path, load: Load) -> Outcome {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let mut site = Site::start(folder.path());
    let runtime = Runtime::new().unwrap();
    let (stage, watched) = watch::channel(Stage::Warm);
    let ready = Arc::new(Barrier::new(load.workers + 1));
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let mut workers = JoinSet::new();
    let _inside = runtime.enter();
    for number in 0..load.workers {
        let worker = Worker {
            number,
            load,
            url: format!("http://{}", site.address),
            stage: watched.clone(),
            held: AtomicU64::new(u64::MAX),
        };
        let (ready, connecting) = (ready.clone(), connecting.clone());
        workers.spawn(async move { worker.live(&ready, &connecting).await });
    }
    drop(watched);
    runtime.block_on(async {
        ready.wait().await;
        time::sleep(WARM).await;
    });
    let (before, ours_before, started) = (site.mark(), Usage::now(), Instant::now());
    stage.send(Stage::Measured).unwrap();
    runtime.block_on(time::sleep(load.measured));
    stage.send(Stage::Over).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let (after, ours_after) = (site.mark(), Usage::now());
    let times = runtime.block_on(workers.join_all());
    drop(runtime);
    site.stop();
    fs::remove_dir_all(folder.path()).unwrap();

    let all = |of: fn(&Times) -> &Vec<f64>| {
        let mut all: Vec<f64> = times.iter().flat_map(|times| of(times).iter().copied()).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (leases, reports, finishes) =
        (all(|times| &times.lease), all(|times| &times.report), all(|times| &times.finish));
    let commits = after.commits - before.commits;
    Outcome {
        workers: load.workers,
        offered_hz: load.reports_hz,
        reports_hz: reports.len() as f64 / seconds,
        runs_hz: finishes.len() as f64 / seconds,
        commits_hz: commits / seconds,
        commit_ms: (after.commit_s - before.commit_s) / commits * 1e3,
        lease_p50_ms: quantile(&leases, 0.5),
        lease_p99_ms: quantile(&leases, 0.99),
        report_p50_ms: quantile(&reports, 0.5),
        report_p99_ms: quantile(&reports, 0.99),
        coordinator_cores: (after.usage.cpu_s - before.usage.cpu_s) / seconds,
        worker_cores: (ours_after.cpu_s - ours_before.cpu_s) / seconds,
        coordinator_mb: after.usage.peak_mb,
    }
}

/// Of sorted numbers.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = (sorted.len() as f64 * q) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

struct Worker {
    number: usize,
    load: Load,
    url: String,
    stage: watch::Receiver<Stage>,
    /// The attempt that it works at.
    held: AtomicU64,
}

impl Worker {
    async fn live(self, ready: &Barrier, connecting: &Semaphore) -> Times {
        let place = connecting.acquire().await.unwrap();
        let endpoint = Endpoint::from_shared(self.url.clone()).unwrap().tcp_nodelay(true);
        let mut client = ClusterClient::new(endpoint.connect().await.unwrap());
        let joined = client.join(JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            name: format!("simulated-{}", self.number),
            slots: 1,
            device: "cpu".into(),
            version: String::new(),
        });
        let joined = joined.await.unwrap().into_inner();
        drop(place);
        ready.wait().await;
        let every = Duration::from_millis(u64::from(joined.heartbeat_ms));
        let mut times = Times::default();
        tokio::select! {
            () = self.show_life(client.clone(), joined.worker, every) => {}
            () = self.work(client.clone(), joined.worker, &mut times) => {}
        }
        times
    }

    /// Trains one run after the other, until it is over.
    async fn work(&self, mut client: ClusterClient<Channel>, worker: u32, times: &mut Times) {
        let mut pace = self.pace();
        let (reports, outbound) = mpsc::channel(1);
        let mut verdicts = client.report(ReceiverStream::new(outbound)).await.unwrap().into_inner();
        while self.stage() != Stage::Over {
            let asked = Instant::now();
            let leased = client.lease(LeaseRequest { worker, runs: 1 }).await.unwrap().into_inner();
            let Some(Answer::Grant(Grant { token, .. })) = leased.answer else {
                panic!("a run was due, and this came: {leased:?}")
            };
            self.took(&mut times.lease, asked);
            self.held.store(token, Ordering::Relaxed);
            for number in 1..=EPOCHS {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                let asked = Instant::now();
                let (loss, score) = (1.0 / f64::from(number + 1), 0.5 + 1.0 / f64::from(worker + 3));
                let epoch = Epoch {
                    epoch: number,
                    train_loss: loss,
                    loss,
                    accuracy: score,
                    macro_f1: score,
                    int8_accuracy: None,
                };
                let report = ReportRequest { worker, token, epoch: Some(epoch), midway: None };
                reports.send(report).await.unwrap();
                let answered = verdicts.message().await.unwrap().unwrap();
                assert!(matches!(answered.answer, Some(ReportAnswer::Verdict(_))), "{answered:?}");
                self.took(&mut times.report, asked);
            }
            let asked = Instant::now();
            let blob = BlobId::of(BLOB).as_bytes().to_vec();
            let result = RunResult { best_epoch: EPOCHS, checkpoint: blob.clone(), logits: blob };
            let outcome = Some(finish_request::Outcome::Result(result));
            client.finish(FinishRequest { worker, token, outcome }).await.unwrap();
            self.took(&mut times.finish, asked);
        }
    }

    /// Its share of the rate, at moments of its own: all begin together, and their runs shall not end together.
    fn pace(&self) -> Option<time::Interval> {
        let every = Duration::from_secs_f64(self.load.workers as f64 / self.load.reports_hz?);
        let part = self.number as f64 / self.load.workers as f64 * f64::from(EPOCHS);
        let mut pace = time::interval_at(time::Instant::now() + every.mul_f64(part), every);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        Some(pace)
    }

    async fn show_life(&self, mut client: ClusterClient<Channel>, worker: u32, every: Duration) {
        let mut beat = time::interval(every);
        loop {
            beat.tick().await;
            let tokens = vec![self.held.load(Ordering::Relaxed)];
            client.heartbeat(HeartbeatRequest { worker, tokens }).await.unwrap();
        }
    }

    fn took(&self, times: &mut Vec<f64>, since: Instant) {
        if self.stage() == Stage::Measured {
            times.push(since.elapsed().as_secs_f64() * 1e3);
        }
    }

    fn stage(&self) -> Stage {
        *self.stage.borrow()
    }
}
