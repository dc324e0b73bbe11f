//! The `Cluster` service: a worker's calls, checked and handed to the engine.

use std::time::Duration;

use earshot_common::{
    ids::{BlobId, Token, WorkerId},
    job::Outcome,
    wire::WireError,
};
use earshot_proto::earshot::v1::{
    FinishRequest, FinishResponse, Finished, Grant, HeartbeatRequest, HeartbeatResponse, Idle, JoinRequest,
    JoinResponse, LeaseRequest, LeaseResponse, LeaveRequest, LeaveResponse, PROTOCOL_VERSION, ReportRequest,
    cluster_server, lease_response::Answer,
};
use tokio::{task::spawn_blocking, time};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    bell::Bell,
    codes::{self, unexpected},
    owners::{self, Owners},
    presence::Presence,
    reports::{self, Answers},
};
use crate::{
    blobs::Blobs,
    engine::{Asked, Engine, EngineError},
    state::{self, Decision, EventKind},
};

/// How long a call for work waits at most: short enough for any proxy between, long enough that idle workers are quiet.
const POLL: Duration = Duration::from_secs(10);

/// Heartbeats in one lease time: two may be lost.
const HEARTBEATS_PER_LEASE: u64 = 3;

/// Letters of a worker's name at most; people have to read it in a table.
const NAME_LENGTH_MAX: usize = 100;

/// Attempts that a heartbeat names at most: as many as a worker may have slots.
const TOKENS_MAX: usize = 1024;

/// What a worker may train on.
const DEVICES: [&str; 2] = ["cpu", "cuda"];

#[derive(Debug, Clone)]
pub(super) struct ClusterService {
    pub(super) engine: Engine,
    pub(super) blobs: Blobs,
    pub(super) presence: Presence,
    pub(super) owners: Owners,
    pub(super) bell: Bell,
    /// Cancelled when the service stops: long polls end.
    pub(super) stopping: CancellationToken,
}

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    type ReportStream = Answers;

    async fn join(&self, request: Request<JoinRequest>) -> Answered<JoinResponse> {
        let by = owners::token_of(&request);
        let request = request.into_inner();
        check_introduction(&request)?;
        let (slots, device) = (request.slots, request.device);
        let kind =
            EventKind::Joined { name: request.name.clone(), slots, device: device.clone(), by: by.clone() };
        let Decision::Joined(worker) = self.submit(kind).await? else {
            return Err(unexpected());
        };
        self.owners.enter(worker, by);
        self.presence.heard(worker);
        tracing::info!(%worker, slots, device, version = request.version, "{} joined", request.name);
        let lease_ms = self.engine.settings().lease_ms;
        let milliseconds = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        Ok(Response::new(JoinResponse {
            worker: worker.0,
            lease_ms: milliseconds(lease_ms),
            heartbeat_ms: milliseconds(lease_ms / HEARTBEATS_PER_LEASE),
            poll_ms: milliseconds(POLL.as_millis() as u64),
        }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Answered<LeaseResponse> {
        let (worker, request) = self.owned(request, |request| request.worker).await?;
        let runs = request.runs.max(1);
        let response = tokio::select! {
            response = time::timeout(POLL, self.poll(worker, runs)) => {
                response.unwrap_or_else(|_| Ok(answer(Answer::Idle(Idle {}))))?
            }
            () = self.stopping.cancelled() => return Err(codes::of_engine(&EngineError::Stopped)),
        };
        self.presence.heard(worker);
        if matches!(response.answer, Some(Answer::Finished(_))) {
            self.presence.telling(worker, runs);
        }
        Ok(Response::new(response))
    }

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Answered<Self::ReportStream> {
        Ok(Response::new(reports::answers(self.clone(), request)))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Answered<FinishResponse> {
        let (worker, request) = self.owned(request, |request| request.worker).await?;
        let token = Token(request.token);
        let outcome = request.outcome.ok_or(WireError::Missing("the outcome"));
        let outcome = outcome.and_then(Outcome::try_from).map_err(|error| codes::of_wire(&error))?;
        match &outcome {
            Outcome::Completed(result) => self.check_blobs([result.checkpoint, result.logits]).await?,
            Outcome::Failed(failure) => {
                tracing::warn!(%worker, %token, reason = ?failure.reason, "an attempt failed: {}", failure.message);
            }
        }
        self.submit(EventKind::Finished { worker, token, outcome }).await?;
        self.presence.heard(worker);
        Ok(Response::new(FinishResponse {}))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answered<HeartbeatResponse> {
        let (worker, request) = self.owned(request, |request| request.worker).await?;
        if request.tokens.len() > TOKENS_MAX {
            let text = format!("a worker names at most {TOKENS_MAX} attempts");
            return Err(Status::invalid_argument(text));
        }
        let tokens = request.tokens.into_iter().map(Token).collect();
        let revoked =
            self.engine.heartbeat(worker, tokens).await.map_err(|error| codes::of_engine(&error))?;
        self.presence.heard(worker);
        Ok(Response::new(HeartbeatResponse { revoked: revoked.into_iter().map(|token| token.0).collect() }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Answered<LeaveResponse> {
        let (worker, _) = self.owned(request, |request| request.worker).await?;
        self.submit(EventKind::Left { worker }).await?;
        tracing::info!(%worker, "a worker left");
        Ok(Response::new(LeaveResponse {}))
    }
}

impl ClusterService {
    /// What is asked, once it is sure that the caller's token is that of the worker in whose name it is.
    async fn owned<T>(
        &self,
        request: Request<T>,
        worker: impl FnOnce(&T) -> u32,
    ) -> Result<(WorkerId, T), Status> {
        let by = owners::token_of(&request);
        let request = request.into_inner();
        let worker = WorkerId(worker(&request));
        self.owners.check(worker, by.as_deref()).await?;
        Ok((worker, request))
    }

    pub(super) async fn submit(&self, kind: EventKind) -> Result<Decision, Status> {
        self.engine.submit(kind).await.map_err(|error| codes::of_engine(&error))
    }

    /// Asks until there is a run, or nothing left to wait for.
    async fn poll(&self, worker: WorkerId, runs: u32) -> Result<LeaseResponse, Status> {
        let mut bell = self.bell.listen();
        loop {
            bell.attend();
            match self.engine.ask(worker, runs as usize).await.map_err(|error| codes::of_engine(&error))? {
                Asked::Granted(grants) => {
                    let mut grants = grants.iter().map(on_the_wire);
                    let first = grants.next().map(Answer::Grant);
                    return Ok(LeaseResponse { answer: first, others: grants.collect() });
                }
                Asked::Done => return Ok(answer(Answer::Finished(Finished {}))),
                Asked::NoWork => bell.heard().await,
            }
        }
    }

    /// What names blobs counts only when their bytes are here.
    pub(super) async fn check_blobs(&self, named: impl IntoIterator<Item = BlobId>) -> Result<(), Status> {
        let named: Vec<BlobId> = named.into_iter().collect();
        if named.is_empty() {
            return Ok(());
        }
        let blobs = self.blobs.clone();
        let missing = spawn_blocking(move || named.into_iter().find(|&blob| !blobs.contains(blob)));
        match missing.await {
            Ok(None) => Ok(()),
            Ok(Some(blob)) => Err(Status::invalid_argument(format!("blob {blob} was never put here"))),
            Err(_) => Err(unexpected()),
        }
    }
}

fn check_introduction(request: &JoinRequest) -> Result<(), Status> {
    let theirs = request.protocol_version;
    if theirs != PROTOCOL_VERSION {
        let text = format!(
            "this coordinator speaks protocol version {PROTOCOL_VERSION}, the worker (Earshot {:?}) version {theirs}; \
             run the same Earshot on both",
            request.version
        );
        return Err(Status::failed_precondition(text));
    }
    for (what, text) in [("name", &request.name), ("version", &request.version)] {
        if text.chars().count() > NAME_LENGTH_MAX || text.chars().any(char::is_control) {
            let text = format!("a worker's {what} has at most {NAME_LENGTH_MAX} printable characters");
            return Err(Status::invalid_argument(text));
        }
    }
    if !DEVICES.contains(&request.device.as_str()) {
        return Err(Status::invalid_argument("a worker's device is cpu or cuda"));
    }
    Ok(())
}

fn answer(answer: Answer) -> LeaseResponse {
    LeaseResponse { answer: Some(answer), others: Vec::new() }
}

fn on_the_wire(grant: &state::Grant) -> Grant {
    Grant {
        token: grant.token.0,
        sweep: grant.run.sweep.0,
        trial: grant.run.trial.0,
        fold: grant.run.fold.0,
        attempt: grant.attempt,
        job: Some((&grant.job).into()),
    }
}
