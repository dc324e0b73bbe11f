use std::{net::SocketAddr, path::Path, time::Duration};

use earshot_common::{
    credentials::Credentials,
    frontend::FrontEnd,
    ids::BlobId,
    job::{Epoch, Outcome, RunResult},
    sweep::Sweep,
    wire,
};
use earshot_data::{
    manifest::{ClipEntry, Manifest, ShardEntry},
    shard::View,
};
use earshot_proto::earshot::v1::{
    BlobChunk, CancelSweepRequest, FetchRequest, FinishRequest, GetChampionRequest, GetStatusRequest,
    HeartbeatRequest, JoinRequest, LeaseRequest, LeaveRequest, PROTOCOL_VERSION, PauseSweepRequest,
    ReplayTrialRequest, ReportRequest, blobs_client::BlobsClient, cluster_client::ClusterClient,
    lease_response::Answer, report_response::Answer as ReportAnswer, sweeps_client::SweepsClient,
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tonic::{
    Code, Status,
    body::Body,
    client::GrpcService,
    codegen::{Body as HttpBody, Bytes, StdError},
    transport::Channel,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{piece::Whole, *};
use crate::{
    client::{Client, ClientError},
    dataset,
    engine::{Running, Settings},
    state::EventKind,
    store::EventLog,
};

mod access;
mod hostile;
mod reports;
mod submission;
mod watching;

/// A coordinator in this process, on a real socket.
struct Site {
    folder: TempDir,
    address: SocketAddr,
    channel: Channel,
    blobs: Blobs,
    engine: Engine,
    presence: Presence,
    running: Running,
    stop: CancellationToken,
    service: JoinHandle<Result<(), ServeError>>,
}

impl Site {
    /// Serves a sweep of two trials of two epochs, or nothing yet.
    async fn new(sweep: Option<Sweep>) -> Self {
        Self::entered_by(tempfile::tempdir().unwrap(), sweep, Entrance::open).await
    }

    /// As `new`, in a folder that may have something in it, and with an entrance of its own.
    #[expect(clippy::disallowed_methods, reason = "the handle is kept, and awaited by Site::stop")]
    async fn entered_by(
        folder: TempDir,
        sweep: Option<Sweep>,
        entrance: impl FnOnce(TcpListener) -> Entrance,
    ) -> Self {
        let db = folder.path().join("t.redb");
        let blobs = Blobs::open(&db, folder.path()).unwrap();
        let settings = Settings { lease_ms: 60_000 };
        let (engine, running) = Engine::start(EventLog::open(&db).unwrap().fold().unwrap(), settings);
        if let Some(sweep) = sweep {
            let dataset = dataset::dataset(&sweep, &manifest(), &blobs).unwrap();
            engine.submit(EventKind::Submitted { sweep: Box::new(sweep), dataset }).await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let (presence, stop) = (Presence::new(60_000), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let service = serve(entrance(listener), engine.clone(), blobs.clone(), presence.clone(), stopped);
        let service = tokio::spawn(service);
        Self { folder, address, channel, blobs, engine, presence, running, stop, service }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    fn blob_client(&self) -> BlobsClient<Channel> {
        BlobsClient::new(self.channel.clone())
    }

    async fn join(&self) -> u32 {
        self.cluster().join(introduction()).await.unwrap().into_inner().worker
    }

    async fn lease(&self, worker: u32) -> Answer {
        let answer = self.cluster().lease(LeaseRequest { worker, runs: 1 }).await.unwrap();
        answer.into_inner().answer.unwrap()
    }

    async fn token(&self, worker: u32) -> u64 {
        match self.lease(worker).await {
            Answer::Grant(grant) => grant.token,
            other => panic!("{other:?}"),
        }
    }

    async fn report(&self, worker: u32, token: u64, epoch: Epoch) -> Result<(), Status> {
        let request = ReportRequest { worker, token, epoch: Some((&epoch).into()), midway: None };
        report(&mut self.cluster(), request).await
    }

    async fn finish(&self, worker: u32, token: u64, result: RunResult) -> Result<(), Status> {
        let outcome = Some((&Outcome::Completed(result)).into());
        self.cluster().finish(FinishRequest { worker, token, outcome }).await.map(|_| ())
    }

    /// Trains the next run to its end.
    async fn train(&self, worker: u32) {
        let token = self.token(worker).await;
        self.train_on(worker, token).await;
    }

    async fn train_on(&self, worker: u32, token: u64) {
        for number in 1..=2 {
            self.report(worker, token, epoch(number)).await.unwrap();
        }
        let [checkpoint, logits] =
            [b"weights".as_slice(), b"logits"].map(|bytes| self.blobs.put(bytes).unwrap());
        self.finish(worker, token, RunResult { best_epoch: 2, checkpoint, logits }).await.unwrap();
    }

    async fn put(&self, pieces: Vec<BlobChunk>) -> Result<(), Status> {
        self.blob_client().put(tokio_stream::iter(pieces)).await.map(|_| ())
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.service.await.unwrap().unwrap();
        self.running.stop().await;
        self.running.stopped().await.unwrap();
    }
}

fn sweep() -> Sweep {
    let text = "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n\
                [space]\ndropout = { choice = [0.1, 0.2] }\n[schedule]\nepochs = 2\n";
    Sweep::parse(text, Path::new("t.toml"), &[]).unwrap()
}

fn manifest() -> Manifest {
    let clips = (0..8).map(|number: u32| ClipEntry {
        name: format!("clip-{number}"),
        class: (number % 2) as u16,
        fold: Some(1 + number / 4),
        source: format!("source-{number}"),
        content: BlobId::of(&number.to_le_bytes()),
    });
    let shard = ShardEntry { blob: BlobId::of(b"shard"), clips: 8, view: View::Clean };
    let classes = vec!["dog".into(), "rain".into()];
    Manifest::new(FrontEnd::default(), classes, vec![shard], clips.collect(), vec![])
}

fn introduction() -> JoinRequest {
    JoinRequest {
        protocol_version: PROTOCOL_VERSION,
        name: "attic".into(),
        slots: 1,
        device: "cpu".into(),
        version: "0.1.0".into(),
    }
}

fn epoch(epoch: u32) -> Epoch {
    Epoch { epoch, train_loss: 1.0, loss: 1.0, accuracy: 0.5, macro_f1: 0.5, int8_accuracy: None }
}

/// A blob's pieces, small ones.
fn pieces(bytes: &[u8]) -> Vec<BlobChunk> {
    let whole = Whole { id: BlobId::of(bytes), size: bytes.len() as u64 };
    let numbered = (0..).step_by(4).zip(bytes.chunks(4));
    numbered.map(|(offset, data)| whole.piece(offset, data.to_vec())).collect()
}

fn check<T: std::fmt::Debug>(found: Result<T, Status>, code: Code, part: &str) {
    let status = found.unwrap_err();
    assert!(status.code() == code && status.message().contains(part), "{status:?}");
}

/// One report over a stream of its own; a refusal is an error, as one of the stream is.
async fn report<T>(cluster: &mut ClusterClient<T>, request: ReportRequest) -> Result<(), Status>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    let (token, epoch) = (request.token, request.epoch.map_or(0, |epoch| epoch.epoch));
    let mut answers = cluster.report(tokio_stream::once(request)).await?.into_inner();
    let answered = answers.message().await?.unwrap();
    assert_eq!((answered.token, answered.epoch), (token, epoch));
    match answered.answer.unwrap() {
        ReportAnswer::Verdict(_) => Ok(()),
        ReportAnswer::Refusal(refusal) => Err(Status::new(refusal.code.into(), refusal.message)),
    }
}

#[tokio::test]
async fn a_worker_of_another_protocol_is_refused_with_both_versions() {
    let site = Site::new(None).await;
    let join = async |change: fn(&mut JoinRequest)| {
        let mut request = introduction();
        change(&mut request);
        site.cluster().join(request).await
    };
    let versions = format!("version {PROTOCOL_VERSION}, the worker (Earshot \"0.1.0\") version 99");
    check(join(|request| request.protocol_version = 99).await, Code::FailedPrecondition, &versions);
    check(join(|request| request.slots = 0).await, Code::InvalidArgument, "slots");
    check(join(|request| request.name = "\u{1b}[2J".into()).await, Code::InvalidArgument, "printable");
    check(join(|request| request.name = "x".repeat(101)).await, Code::InvalidArgument, "name");
    check(join(|request| request.name = "x".repeat(70_000)).await, Code::OutOfRange, "too large");
    check(join(|request| request.device = "tpu".into()).await, Code::InvalidArgument, "cpu or cuda");
    let joined = join(|_| ()).await.unwrap().into_inner();
    assert_eq!((joined.worker, joined.lease_ms, joined.heartbeat_ms), (0, 60_000, 20_000));
    site.stop().await;
}

#[tokio::test]
async fn calls_about_an_attempt_are_fenced() {
    let site = Site::new(Some(sweep())).await;
    let (holder, other) = (site.join().await, site.join().await);
    let token = site.token(holder).await;
    check(site.report(other, token, epoch(1)).await, Code::FailedPrecondition, "another worker");
    check(site.report(99, token, epoch(1)).await, Code::NotFound, "join again");
    check(site.report(holder, token, epoch(2)).await, Code::InvalidArgument, "epoch 1 is due");
    let diverged = Epoch { loss: f64::NAN, ..epoch(1) };
    check(site.report(holder, token, diverged).await, Code::InvalidArgument, "loss");
    for _ in 0..2 {
        site.report(holder, token, epoch(1)).await.unwrap();
    }
    let absent = RunResult { best_epoch: 1, checkpoint: BlobId::of(b"a"), logits: BlobId::of(b"b") };
    check(site.finish(holder, token, absent).await, Code::InvalidArgument, "never put here");

    let heartbeat = HeartbeatRequest { worker: holder, tokens: vec![token, 12_345] };
    let revoked = site.cluster().heartbeat(heartbeat).await.unwrap().into_inner().revoked;
    assert_eq!(revoked, [12_345]);
    site.cluster().leave(LeaveRequest { worker: holder }).await.unwrap();
    check(site.report(holder, token, epoch(2)).await, Code::NotFound, "has left");
    assert_ne!(site.token(other).await, token);
    site.stop().await;
}

#[tokio::test]
async fn a_waiting_worker_gets_work_as_soon_as_there_is_some() {
    let site = Site::new(None).await;
    let worker = site.join().await;
    let mut waiter = site.cluster();
    let mut waiting = Box::pin(waiter.lease(LeaseRequest { worker, runs: 1 }));
    // Long enough that the call has arrived; too short for the poll to end by itself.
    assert!(time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    let dataset = dataset::dataset(&sweep(), &manifest(), &site.blobs).unwrap();
    site.engine.submit(EventKind::Submitted { sweep: Box::new(sweep()), dataset }).await.unwrap();
    let answer = time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert!(matches!(answer.into_inner().answer, Some(Answer::Grant(_))));
    site.stop().await;
}

#[tokio::test]
async fn a_sweep_is_trained_and_everybody_is_told() {
    let site = Site::new(Some(sweep())).await;
    let worker = site.join().await;
    for _ in 0..2 {
        site.train(worker).await;
    }
    assert!(!site.presence.knows_the_end(earshot_common::ids::WorkerId(worker), 1));
    assert!(matches!(site.lease(worker).await, Answer::Finished(_)));
    assert!(site.presence.knows_the_end(earshot_common::ids::WorkerId(worker), 1));

    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    let status = client.status(None).await.unwrap();
    assert_eq!((status.state.as_str(), status.trials_completed, status.epochs), ("completed", 2, 4));
    assert_eq!(status.workers[0].state, "present");
    assert_eq!(client.leaderboard(None, 1, false).await.unwrap().rows.len(), 1);
    assert_eq!(client.trial(None, 1).await.unwrap().state, "completed");
    let error = client.trial(None, 7).await.unwrap_err().to_string();
    assert!(error.contains("says: there is no trial 7"), "{error}");
    let champion = client.champion(None, None).await.unwrap();
    let checkpoint = wire::blob_id(&champion.checkpoint, "the checkpoint").unwrap();
    assert_eq!(client.blob(checkpoint).await.unwrap(), b"weights");
    site.stop().await;
}

#[tokio::test]
async fn stopping_ends_a_long_poll_at_once() {
    let site = Site::new(None).await;
    let worker = site.join().await;
    let mut waiter = site.cluster();
    let mut waiting = Box::pin(waiter.lease(LeaseRequest { worker, runs: 1 }));
    assert!(time::timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    site.stop.cancel();
    let answer = time::timeout(Duration::from_secs(2), waiting).await.unwrap();
    check(answer, Code::Unavailable, "stopping");
    site.stop().await;
}

#[tokio::test]
async fn blobs_go_in_and_come_out_whole() {
    let site = Site::new(None).await;
    let bytes: Vec<u8> = (0..3 * piece::PIECE_BYTES_MAX + 5).map(|at| (at % 251) as u8).collect();
    let whole = Whole { id: BlobId::of(&bytes), size: bytes.len() as u64 };
    let numbered = (0..).step_by(piece::PIECE_BYTES_MAX).zip(bytes.chunks(piece::PIECE_BYTES_MAX));
    site.put(numbered.map(|(offset, data)| whole.piece(offset, data.to_vec())).collect()).await.unwrap();
    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    assert_eq!(client.blob(whole.id).await.unwrap(), bytes);
    let missing = client.blob(BlobId::of(b"none")).await.unwrap_err();
    assert!(matches!(missing, ClientError::Refused { status, .. } if status.code() == Code::NotFound));
    let malformed = FetchRequest { blob: vec![1, 2, 3] };
    check(site.blob_client().fetch(malformed).await, Code::InvalidArgument, "32 bytes");
    site.stop().await;
}

#[tokio::test]
async fn nothing_is_kept_of_a_blob_that_came_wrong() {
    let site = Site::new(None).await;
    let put = async |change: fn(&mut Vec<BlobChunk>)| {
        let mut pieces = pieces(b"0123456789");
        change(&mut pieces);
        site.put(pieces).await
    };
    check(put(|pieces| pieces[1].data = b"4568".to_vec().into()).await, Code::DataLoss, "digest");
    check(
        put(|pieces| pieces.iter_mut().for_each(|piece| piece.blob = vec![0; 32])).await,
        Code::DataLoss,
        "its name",
    );
    check(put(|pieces| drop(pieces.pop())).await, Code::InvalidArgument, "8 bytes of a blob of 10");
    check(put(|pieces| drop(pieces.remove(1))).await, Code::InvalidArgument, "4 is due");
    check(put(Vec::clear).await, Code::InvalidArgument, "no piece");
    let huge = |pieces: &mut Vec<BlobChunk>| pieces.iter_mut().for_each(|piece| piece.size = u64::MAX);
    check(put(huge).await, Code::InvalidArgument, "at most");
    let oversized = |pieces: &mut Vec<BlobChunk>| pieces[0].data = vec![0; piece::MESSAGE_BYTES_MAX].into();
    check(put(oversized).await, Code::OutOfRange, "too large");
    assert!(!site.blobs.contains(BlobId::of(b"0123456789")));
    put(|_| ()).await.unwrap();
    assert!(site.blobs.contains(BlobId::of(b"0123456789")));
    site.stop().await;
}

#[tokio::test]
async fn a_blob_that_rots_on_the_coordinators_disk_is_not_passed_on() {
    let site = Site::new(None).await;
    let id = site.blobs.put(b"0123456789").unwrap();
    let path =
        earshot_common::blob::BlobStore::open(crate::blobs::folder_of(&site.folder.path().join("t.redb")));
    std::fs::write(path.unwrap().path(id), b"0123456780").unwrap();
    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    let error = client.blob(id).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status, .. } if status.code() == Code::DataLoss));
    site.stop().await;
}

#[tokio::test]
async fn health_and_an_empty_coordinator_are_told() {
    let site = Site::new(None).await;
    let channel = site.channel.clone();
    for service in ["earshot.v1.Cluster", "earshot.v1.Sweeps", "earshot.v1.Blobs"] {
        let request = HealthCheckRequest { service: service.into() };
        let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
        assert_eq!(health.status(), ServingStatus::Serving);
    }
    let status = SweepsClient::new(channel).get_status(GetStatusRequest { sweep: None }).await;
    check(status, Code::FailedPrecondition, "no sweep was started yet");
    site.stop().await;
}

#[tokio::test]
async fn a_sweep_is_paused_resumed_and_cancelled_by_its_name() {
    let site = Site::new(Some(sweep())).await;
    let worker = site.join().await;
    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.pause(None).await.unwrap().state, "paused");
    }
    let mut waiter = site.cluster();
    let mut waiting = Box::pin(waiter.lease(LeaseRequest { worker, runs: 1 }));
    assert!(time::timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "nothing is handed out");
    assert_eq!(client.resume(Some("t".to_owned())).await.unwrap().state, "running");
    let answer = waiting.await.unwrap().into_inner().answer;
    let Some(Answer::Grant(grant)) = answer else { panic!("{answer:?}") };

    let error = client.cancel("u".to_owned()).await.unwrap_err().to_string();
    assert!(error.contains("no sweep \"u\""), "{error}");
    let cancelled = client.cancel("t".to_owned()).await.unwrap();
    assert_eq!((cancelled.state.as_str(), cancelled.runs_leased), ("cancelled", 0));
    check(site.report(worker, grant.token, epoch(1)).await, Code::FailedPrecondition, "has ended");
    assert!(matches!(site.lease(worker).await, Answer::Finished(_)));
    let error = client.resume(None).await.unwrap_err().to_string();
    assert!(error.contains("has ended"), "{error}");
    let listed = client.list().await.unwrap().sweeps;
    assert_eq!(listed.iter().map(|sweep| sweep.state.as_str()).collect::<Vec<_>>(), ["cancelled"]);
    site.stop().await;
}

#[tokio::test]
async fn a_completed_trial_is_replayed_and_another_is_not() {
    let site = Site::new(Some(sweep())).await;
    let mut client = Client::connect(&site.url(), &Credentials::default()).await.unwrap();
    let worker = site.join().await;
    let code = |answer: Result<_, ClientError>| match answer {
        Err(ClientError::Refused { status, .. }) => status.code(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(client.replay_trial(None, 0).await), Code::NotFound);
    assert_eq!(code(client.replay(0).await), Code::NotFound);
    let token = site.token(worker).await;
    assert_eq!(code(client.replay_trial(None, 0).await), Code::FailedPrecondition);
    site.train_on(worker, token).await;

    let asked = client.replay_trial(None, 0).await.unwrap();
    assert_eq!((asked.state.as_str(), asked.runs.len()), ("waiting", 1));
    assert_eq!(client.replay_trial(None, 0).await.unwrap().replay, asked.replay, "joined");
    site.train(worker).await;
    let seen = client.replay(asked.replay).await.unwrap();
    assert_eq!(seen.state, "identical", "{seen:#?}");
    assert_eq!((seen.runs[0].checkpoint.as_str(), seen.runs[0].epochs_compared), ("equal", 2));
    site.stop().await;
}
