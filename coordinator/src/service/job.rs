//! One job for one worker, without a sweep: what a rebuild serves. Workers see the protocol that they always see.
//!
//! It listens on loopback only, for a worker that its caller starts: nobody else has to be kept out.

use std::sync::{Arc, Mutex, PoisonError};

use earshot_common::{
    job::{Epoch, Job, Outcome},
    wire::WireError,
};
use earshot_proto::earshot::v1::{
    FinishRequest, FinishResponse, Finished, Grant, HeartbeatRequest, HeartbeatResponse, Idle, JoinRequest,
    JoinResponse, LeaseRequest, LeaseResponse, LeaveRequest, LeaveResponse, PROTOCOL_VERSION, ReportRequest,
    ReportResponse, Verdict, blobs_server::BlobsServer, cluster_server, lease_response::Answer,
    report_response::Answer as ReportAnswer,
};
use futures::StreamExt;
use tokio::{net::TcpListener, sync::watch, time};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

use super::{ServeError, blobs::BlobService, codes, piece, reports::Answers};
use crate::{blobs::Blobs, engine::Engine};

/// How long a worker that has the job, or none to expect, waits for an answer.
const PAUSE: time::Duration = time::Duration::from_millis(500);
/// What a worker is told of leases, in milliseconds; silence is its caller's business, who sees it end.
const LEASE_MS: u32 = 60_000;
const HEARTBEAT_MS: u32 = 20_000;
const POLL_MS: u32 = 10_000;

/// The one worker and the one token there are.
const WORKER: u32 = 0;
const TOKEN: u64 = 1;

/// How far a job has got.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    /// Every epoch reported.
    pub(crate) epochs: Vec<Epoch>,
    /// How it ended.
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Debug)]
struct JobService {
    job: Job,
    /// Whether it was handed out.
    is_leased: Mutex<bool>,
    progress: Arc<watch::Sender<Progress>>,
    stop: CancellationToken,
}

/// Hands a job to the first worker that asks on `listener`, and tells `progress` how far it has got, until `stop`. `engine` has no
/// sweep; the blobs' service wants one.
///
/// # Errors
/// [`ServeError`] when it ends by itself.
pub(crate) async fn serve_job(
    listener: TcpListener,
    job: Job,
    engine: Engine,
    blobs: Blobs,
    progress: Arc<watch::Sender<Progress>>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let service = JobService { job, is_leased: Mutex::new(false), progress, stop: stop.clone() };
    let cluster = cluster_server::ClusterServer::new(service);
    let blobs =
        BlobsServer::new(BlobService { blobs, engine }).max_decoding_message_size(piece::MESSAGE_BYTES_MAX);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder().add_service(cluster).add_service(blobs);
    Ok(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await?)
}

type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl cluster_server::Cluster for JobService {
    type ReportStream = Answers;

    async fn join(&self, request: Request<JoinRequest>) -> Answered<JoinResponse> {
        let theirs = request.into_inner().protocol_version;
        if theirs != PROTOCOL_VERSION {
            let text = format!("this is protocol version {PROTOCOL_VERSION}, the worker's is {theirs}");
            return Err(Status::failed_precondition(text));
        }
        Ok(Response::new(JoinResponse {
            worker: WORKER,
            lease_ms: LEASE_MS,
            heartbeat_ms: HEARTBEAT_MS,
            poll_ms: POLL_MS,
        }))
    }

    async fn lease(&self, _: Request<LeaseRequest>) -> Answered<LeaseResponse> {
        let is_first = {
            let mut is_leased = self.is_leased.lock().unwrap_or_else(PoisonError::into_inner);
            !std::mem::replace(&mut *is_leased, true)
        };
        let answer = if is_first {
            Answer::Grant(Grant {
                token: TOKEN,
                sweep: 0,
                trial: 0,
                fold: 0,
                attempt: 1,
                job: Some((&self.job).into()),
            })
        } else if self.progress.borrow().outcome.is_some() {
            Answer::Finished(Finished {})
        } else {
            time::sleep(PAUSE).await;
            Answer::Idle(Idle {})
        };
        Ok(Response::new(LeaseResponse { answer: Some(answer), others: Vec::new() }))
    }

    async fn report(&self, request: Request<Streaming<ReportRequest>>) -> Answered<Self::ReportStream> {
        let progress = Arc::clone(&self.progress);
        let note = move |report: Result<ReportRequest, Status>| {
            let ReportRequest { token, epoch, .. } = report?;
            let epoch = epoch.ok_or(WireError::Missing("the epoch"));
            let epoch = epoch.and_then(Epoch::try_from).map_err(|error| codes::of_wire(&error))?;
            progress.send_modify(|progress| {
                // A report that is sent twice is one.
                if progress.epochs.last().is_none_or(|last| last.epoch < epoch.epoch) {
                    progress.epochs.push(epoch);
                }
            });
            let answer = Some(ReportAnswer::Verdict(Verdict::Continue.into()));
            Ok(ReportResponse { token, epoch: epoch.epoch, answer })
        };
        let reports = request.into_inner().take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(reports.map(note))))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Answered<FinishResponse> {
        let outcome = request.into_inner().outcome.ok_or(WireError::Missing("the outcome"));
        let outcome = outcome.and_then(Outcome::try_from).map_err(|error| codes::of_wire(&error))?;
        self.progress.send_modify(|progress| progress.outcome = Some(outcome));
        Ok(Response::new(FinishResponse {}))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Answered<HeartbeatResponse> {
        Ok(Response::new(HeartbeatResponse { revoked: Vec::new() }))
    }

    async fn leave(&self, _: Request<LeaveRequest>) -> Answered<LeaveResponse> {
        Ok(Response::new(LeaveResponse {}))
    }
}
