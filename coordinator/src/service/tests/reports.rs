//! The stream of reports, as a worker's connection and a hostile one use it.

use earshot_common::{credentials::Line, ids::Token};
use earshot_proto::earshot::v1::ReportResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{access::Guarded, *};
use crate::{
    access::{
        Limits,
        register::{Register, file_of},
    },
    state::State,
};

/// An open stream.
struct Reports {
    outbound: mpsc::Sender<ReportRequest>,
    answers: Streaming<ReportResponse>,
}

impl Reports {
    async fn open(cluster: &mut ClusterClient<Line>) -> Result<Self, Status> {
        let (outbound, queue) = mpsc::channel(16);
        let answers = cluster.report(ReceiverStream::new(queue)).await?.into_inner();
        Ok(Self { outbound, answers })
    }

    async fn say(&self, worker: u32, token: u64, number: u32) {
        let report = ReportRequest { worker, token, epoch: Some((&epoch(number)).into()), midway: None };
        self.outbound.send(report).await.unwrap();
    }

    /// The code of the next answer, and what it is about.
    async fn hear(&mut self) -> Result<(u64, u32, Code), Status> {
        let next = time::timeout(Duration::from_secs(20), self.answers.message()).await.unwrap();
        let ReportResponse { token, epoch, answer } =
            next?.ok_or_else(|| Status::unavailable("the stream has ended"))?;
        let code = match answer.unwrap() {
            ReportAnswer::Verdict(_) => Code::Ok,
            ReportAnswer::Refusal(refusal) => refusal.code.into(),
        };
        Ok((token, epoch, code))
    }
}

#[tokio::test]
async fn each_report_of_a_stream_is_answered_by_itself() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let worker = guarded.join(&guarded.attic).await;
    let token = guarded.token(&guarded.attic, worker).await;
    let mut reports = Reports::open(&mut guarded.cluster(&guarded.attic)).await.unwrap();
    let said = [
        ((worker, token, 2), Code::InvalidArgument),
        ((worker, token + 9, 1), Code::FailedPrecondition),
        ((worker + 9, token, 1), Code::NotFound),
        ((worker, token, 1), Code::Ok),
        ((worker, token, 1), Code::Ok),
        ((worker, token, 2), Code::Ok),
    ];
    for ((worker, token, number), code) in said {
        reports.say(worker, token, number).await;
        assert_eq!(reports.hear().await.unwrap(), (token, number, code));
    }
    // Many at once, in whatever order.
    for _ in 0..16 {
        reports.say(worker, token, 2).await;
    }
    for _ in 0..16 {
        assert_eq!(reports.hear().await.unwrap(), (token, 2, Code::Ok));
    }
    let kept = move |state: &State| {
        state.run_of(Token(token)).map(|run| {
            let (_, sweep) = state.newest_sweep().unwrap();
            sweep.run(run).unwrap().epochs.len()
        })
    };
    assert_eq!(guarded.site.engine.read(kept).await.unwrap(), Some(2), "saying an epoch twice is harmless");
    drop(reports.outbound);
    assert!(reports.answers.message().await.unwrap().is_none(), "it ends when its worker has no more");
    guarded.site.stop().await;
}

#[tokio::test]
async fn a_stream_of_reports_ends_when_its_token_is_revoked() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let worker = guarded.join(&guarded.attic).await;
    let token = guarded.token(&guarded.attic, worker).await;
    let mut reports = Reports::open(&mut guarded.cluster(&guarded.attic)).await.unwrap();
    reports.say(worker, token, 1).await;
    reports.hear().await.unwrap();
    Register::revoke(&file_of(&guarded.site.folder.path().join("t.redb")), "attic").unwrap();
    let ended = async {
        loop {
            reports.say(worker, token, 1).await;
            match reports.hear().await {
                Ok(_) => time::sleep(Duration::from_millis(20)).await,
                Err(status) => return status.code(),
            }
        }
    };
    assert_eq!(time::timeout(Duration::from_secs(20), ended).await.unwrap(), Code::Unauthenticated);
    guarded.site.stop().await;
}

/// A stream is no way around an allowance of calls, and nobody has as many as he likes.
#[tokio::test]
async fn reports_are_metered_like_calls_and_streams_are_limited() {
    const BURST: usize = 5;
    // No more within the time of a test.
    let limits =
        Limits { connection_calls_hz: 1e-6, connection_calls_burst: BURST as f64, ..Limits::default() };
    let guarded = Guarded::new(Some(sweep()), Limits { streams_max: 1, ..limits }).await;
    let worker = guarded.join(&guarded.attic).await;
    let token = guarded.token(&guarded.attic, worker).await;
    let mut reports = Reports::open(&mut guarded.cluster(&guarded.attic)).await.unwrap();
    let mut codes = Vec::new();
    for _ in 0..=BURST {
        reports.say(worker, token, 1).await;
        codes.push(reports.hear().await.unwrap().2);
    }
    // One call was the stream's own.
    let ok = codes.iter().filter(|&&code| code == Code::Ok).count();
    assert_eq!((ok, &codes[ok..]), (BURST - 1, [Code::ResourceExhausted; 2].as_slice()));

    let mut other = guarded.cluster(&guarded.attic);
    check(Reports::open(&mut other).await.map(|_| ()), Code::ResourceExhausted, "too many report at once");
    drop(reports);
    let freed = async {
        while Reports::open(&mut guarded.cluster(&guarded.attic)).await.is_err() {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(Duration::from_secs(20), freed).await.unwrap();
    guarded.site.stop().await;
}

/// Streams that nobody speaks over are not in the way of the coordinator's end, nor of other connections.
#[tokio::test]
async fn one_connection_has_so_many_streams_and_no_more() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let mut hoarder = guarded.cluster(&guarded.cellar);
    let mut hoard = Vec::new();
    for _ in 0..STREAMS_MAX {
        hoard.push(Reports::open(&mut hoarder).await.unwrap());
    }
    let further = time::timeout(Duration::from_millis(200), Reports::open(&mut hoarder)).await;
    assert!(further.is_err(), "a further one has to wait");
    let worker = guarded.join(&guarded.attic).await;
    guarded.token(&guarded.attic, worker).await;
    hoard.pop();
    time::timeout(Duration::from_secs(20), Reports::open(&mut hoarder)).await.unwrap().unwrap();
    time::timeout(Duration::from_secs(20), guarded.site.stop()).await.unwrap();
}
