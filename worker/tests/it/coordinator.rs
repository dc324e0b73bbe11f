//! A coordinator in memory, in this process, that can be told to misbehave, stopped, and started again on the same port.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use earshot_common::{
    ids::BlobId,
    job::{Epoch, Job, Outcome, Verdict},
    wire,
};
use earshot_proto::earshot::v1::{
    self as proto, BlobChunk, FetchRequest, FinishRequest, FinishResponse, Finished, Grant, HeartbeatRequest,
    HeartbeatResponse, Idle, JoinRequest, JoinResponse, LeaseRequest, LeaseResponse, LeaveRequest,
    LeaveResponse, PutResponse, Refusal, ReportRequest, ReportResponse,
    blobs_server::{Blobs, BlobsServer},
    cluster_server::{Cluster, ClusterServer},
    lease_response::Answer,
    report_response::Answer as ReportAnswer,
};
use futures::{Stream, StreamExt, future};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// What it knows and what it is told to do.
#[derive(Default)]
pub(crate) struct Book {
    /// Jobs to grant, in order.
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) blobs: BTreeMap<BlobId, Vec<u8>>,
    /// Workers that joined and are known.
    pub(crate) workers: BTreeSet<u32>,
    pub(crate) joins: u32,
    pub(crate) leaves: u32,
    /// Every epoch taken, by token.
    pub(crate) epochs: BTreeMap<u64, Vec<Epoch>>,
    pub(crate) outcomes: BTreeMap<u64, Outcome>,
    /// Tokens whose calls are refused.
    pub(crate) fenced: BTreeSet<u64>,
    /// Tokens to name in the next heartbeat's answer.
    pub(crate) revoked: BTreeSet<u64>,
    /// Join is refused with this.
    pub(crate) refusal: Option<&'static str>,
    /// Fetches whose first piece is damaged.
    pub(crate) damaged_fetches: u32,
    pub(crate) fetches: u32,
    pub(crate) heartbeats: u32,
    pub(crate) next_token: u64,
    /// Streams of reports that were opened.
    pub(crate) streams: u32,
    /// Reports that are never answered.
    pub(crate) swallowed: u32,
}

/// The coordinator's handle; its service shares the book.
#[derive(Clone)]
pub(crate) struct Coordinator {
    book: Arc<Mutex<Book>>,
    /// Changes with every call, so that tests can wait for what they want to see.
    calls: watch::Sender<u64>,
    /// Cancelled when the listener that serves this one stops: streams end.
    stopped: CancellationToken,
}

/// A listening coordinator.
pub(crate) struct Listening {
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Listening {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops at once, connections included.
    pub(crate) async fn stop(self) -> SocketAddr {
        self.stop.cancel();
        self.server.abort();
        let _ = self.server.await;
        self.address
    }
}

impl Coordinator {
    pub(crate) fn new(book: Book) -> Self {
        Self {
            book: Arc::new(Mutex::new(book)),
            calls: watch::Sender::new(0),
            stopped: CancellationToken::new(),
        }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    /// Waits until the book looks like this.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Book) -> bool) {
        const PATIENCE: Duration = Duration::from_mins(2);
        let mut calls = self.calls.subscribe();
        let wait = async {
            while !is_so(&self.book()) {
                calls.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never saw: {what}"));
    }

    /// Listens on a free port, or again on the one it had.
    #[expect(clippy::disallowed_methods, reason = "the handle is kept and aborted by Listening::stop")]
    pub(crate) async fn listen(&self, address: Option<SocketAddr>) -> Listening {
        let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = Server::builder()
            .add_service(ClusterServer::new(Self { stopped: stop.clone(), ..self.clone() }))
            .add_service(BlobsServer::new(self.clone()))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.clone().cancelled_owned());
        let server = tokio::spawn(async move { server.await.unwrap() });
        Listening { address, stop, server }
    }

    fn known(&self, worker: u32) -> Result<MutexGuard<'_, Book>, Status> {
        let book = self.book();
        if book.workers.contains(&worker) { Ok(book) } else { Err(Status::not_found("no such worker")) }
    }

    fn fenced(&self, worker: u32, token: u64) -> Result<MutexGuard<'_, Book>, Status> {
        let book = self.known(worker)?;
        if book.fenced.contains(&token) {
            Err(Status::failed_precondition("the lease has ended"))
        } else {
            Ok(book)
        }
    }

    /// Whether this report is not to be answered.
    fn swallow(&self) -> bool {
        let is_swallowed = {
            let mut book = self.book();
            let is_swallowed = book.swallowed > 0;
            book.swallowed = book.swallowed.saturating_sub(1);
            is_swallowed
        };
        self.called();
        is_swallowed
    }

    fn take_report(&self, report: &ReportRequest) -> Result<(), Status> {
        {
            let mut book = self.fenced(report.worker, report.token).inspect_err(|_| self.called())?;
            let epoch = Epoch::try_from(report.epoch.unwrap()).unwrap();
            let epochs = book.epochs.entry(report.token).or_default();
            if epochs.last().is_none_or(|last| last.epoch < epoch.epoch) {
                epochs.push(epoch);
            }
        }
        self.called();
        Ok(())
    }

    fn called(&self) {
        self.calls.send_modify(|calls| *calls += 1);
    }
}

#[tonic::async_trait]
impl Cluster for Coordinator {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<ReportResponse, Status>> + Send>>;

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let worker = {
            let mut book = self.book();
            if let Some(refusal) = book.refusal {
                return Err(Status::failed_precondition(refusal));
            }
            book.joins += 1;
            let worker = book.joins;
            book.workers.insert(worker);
            worker
        };
        self.called();
        Ok(Response::new(JoinResponse { worker, lease_ms: 10_000, heartbeat_ms: 20, poll_ms: 200 }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        let answer = {
            let mut book = self.known(request.into_inner().worker)?;
            match book.jobs.pop_front() {
                Some(job) => {
                    book.next_token += 1;
                    let token = book.next_token;
                    let job = Some((&job).into());
                    Answer::Grant(Grant { token, sweep: 0, trial: token as u32, fold: 1, attempt: 1, job })
                }
                None if book
                    .epochs
                    .keys()
                    .all(|token| book.outcomes.contains_key(token) || book.fenced.contains(token)) =>
                {
                    Answer::Finished(Finished {})
                }
                None => Answer::Idle(Idle {}),
            }
        };
        self.called();
        if matches!(answer, Answer::Idle(_)) {
            // A long poll: until something happens.
            let _ = tokio::time::timeout(Duration::from_millis(200), self.calls.subscribe().changed()).await;
        }
        Ok(Response::new(LeaseResponse { answer: Some(answer), others: Vec::new() }))
    }

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        self.book().streams += 1;
        let [coordinator, swallowing] = [self.clone(), self.clone()];
        let reports = request.into_inner().filter(move |_| future::ready(!swallowing.swallow()));
        let reports = reports.take_until(self.stopped.clone().cancelled_owned());
        let answers = reports.map(move |report| {
            let report = report?;
            let (token, epoch) = (report.token, report.epoch.unwrap().epoch);
            let answer = match coordinator.take_report(&report) {
                Ok(()) => ReportAnswer::Verdict(proto::Verdict::from(Verdict::Continue).into()),
                Err(status) => {
                    let (code, message) = (status.code().into(), status.message().to_owned());
                    ReportAnswer::Refusal(Refusal { code, message })
                }
            };
            Ok(ReportResponse { token, epoch, answer: Some(answer) })
        });
        Ok(Response::new(Box::pin(answers)))
    }
    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        let request = request.into_inner();
        {
            let mut book = self.fenced(request.worker, request.token).inspect_err(|_| self.called())?;
            let outcome = Outcome::try_from(request.outcome.unwrap()).unwrap();
            book.outcomes.insert(request.token, outcome);
        }
        self.called();
        Ok(Response::new(FinishResponse {}))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let request = request.into_inner();
        let revoked = {
            let mut book = self.known(request.worker)?;
            book.heartbeats += 1;
            request.tokens.iter().copied().filter(|token| book.revoked.contains(token)).collect()
        };
        self.called();
        Ok(Response::new(HeartbeatResponse { revoked }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        self.known(request.into_inner().worker)?.leaves += 1;
        self.called();
        Ok(Response::new(LeaveResponse {}))
    }
}

#[tonic::async_trait]
impl Blobs for Coordinator {
    type FetchStream = tokio_stream::Iter<std::vec::IntoIter<Result<BlobChunk, Status>>>;

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Response<Self::FetchStream>, Status> {
        let id = wire::blob_id(&request.into_inner().blob, "blob").unwrap();
        let (bytes, is_damaged) = {
            let mut book = self.book();
            book.fetches += 1;
            let bytes = book.blobs.get(&id).cloned().ok_or_else(|| Status::not_found("no such blob"))?;
            let is_damaged = book.damaged_fetches > 0;
            book.damaged_fetches = book.damaged_fetches.saturating_sub(1);
            (bytes, is_damaged)
        };
        let mut offset = 0;
        let mut pieces = Vec::new();
        for data in bytes.chunks(1000) {
            let digest = wire::blob_bytes(BlobId::of(data));
            let mut data = data.to_vec();
            if is_damaged {
                data[0] ^= 1;
            }
            let length = data.len() as u64;
            pieces.push(Ok(BlobChunk {
                blob: wire::blob_bytes(id),
                size: bytes.len() as u64,
                offset,
                data: data.into(),
                digest,
            }));
            offset += length;
        }
        Ok(Response::new(tokio_stream::iter(pieces)))
    }

    async fn put(&self, request: Request<Streaming<BlobChunk>>) -> Result<Response<PutResponse>, Status> {
        let mut pieces = request.into_inner();
        let mut bytes = Vec::new();
        let mut id = None;
        while let Some(piece) = pieces.message().await? {
            assert_eq!(piece.offset, bytes.len() as u64);
            assert_eq!(wire::blob_id(&piece.digest, "digest").unwrap(), BlobId::of(&piece.data));
            assert!(piece.data.len() <= 1024 * 1024);
            id = Some(wire::blob_id(&piece.blob, "blob").unwrap());
            bytes.extend_from_slice(&piece.data);
        }
        assert_eq!(id, Some(BlobId::of(&bytes)));
        self.book().blobs.insert(BlobId::of(&bytes), bytes);
        self.called();
        Ok(Response::new(PutResponse {}))
    }
}
