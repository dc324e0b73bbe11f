//! Clients that mean harm, while a sweep runs: they get nowhere, and the sweep completes as if they were not there.

use std::sync::atomic::{AtomicBool, Ordering};

use earshot_common::credentials::{Line, Secret};
use prost::bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{client::Grpc, codegen::http::uri::PathAndQuery};

use super::{access::Guarded, *};
use crate::access::Limits;

/// Tight, so that every limit is reached within a test.
const LIMITS: fn() -> Limits = || Limits {
    stranger_time: Duration::from_millis(300),
    strangers_per_peer_max: 16,
    call_time: Duration::from_secs(1),
    ..Limits::default()
};

/// Twenty trials of two epochs.
fn long_sweep() -> Sweep {
    let dropouts = (0..20).map(|number| format!("0.{number:02}")).collect::<Vec<_>>().join(", ");
    let text = format!(
        "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[schedule]\nepochs = 2\n\
         [space]\ndropout = {{ choice = [{dropouts}] }}\n"
    );
    Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap()
}

/// Trains the whole sweep over a connection of its own, slowly enough to be disturbed, and until `disturbed` is set.
async fn train(mut cluster: ClusterClient<Line>, mut blobs: BlobsClient<Line>, disturbed: &AtomicBool) {
    let worker = cluster.join(introduction()).await.unwrap().into_inner().worker;
    for trial in 0.. {
        while trial == 15 && !disturbed.load(Ordering::Acquire) {
            time::sleep(Duration::from_millis(10)).await;
        }
        let answer = cluster.lease(LeaseRequest { worker, runs: 1 }).await.unwrap().into_inner().answer;
        let token = match answer {
            Some(Answer::Grant(grant)) => grant.token,
            Some(Answer::Finished(_)) => return,
            other => panic!("{other:?}"),
        };
        for number in 1..=2 {
            let epoch = Some((&epoch(number)).into());
            report(&mut cluster, ReportRequest { worker, token, epoch, midway: None }).await.unwrap();
            cluster.heartbeat(HeartbeatRequest { worker, tokens: vec![token] }).await.unwrap();
            time::sleep(Duration::from_millis(5)).await;
        }
        blobs.put(tokio_stream::iter(pieces(b"0123456789"))).await.unwrap();
        let [checkpoint, logits] = [BlobId::of(b"0123456789"); 2];
        let outcome = Some((&Outcome::Completed(RunResult { best_epoch: 2, checkpoint, logits })).into());
        cluster.finish(FinishRequest { worker, token, outcome }).await.unwrap();
    }
}

/// Runs `harm` against a coordinator in the middle of a sweep, and checks that the sweep completes, with every trial trained
/// once and every call of its worker answered.
async fn undisturbed_by(harm: impl AsyncFnOnce(&Guarded)) {
    let guarded = Guarded::new(Some(long_sweep()), LIMITS()).await;
    let disturbed = AtomicBool::new(false);
    let line = guarded.line(Some(&guarded.attic));
    let training = train(ClusterClient::new(line.clone()), BlobsClient::new(line), &disturbed);
    let harming = async {
        harm(&guarded).await;
        disturbed.store(true, Ordering::Release);
    };
    let both = async { tokio::join!(training, harming) };
    time::timeout(Duration::from_mins(1), both).await.unwrap();
    let credentials = Credentials { secret: Some(guarded.ann.clone()), ..Credentials::default() };
    let mut client = Client::connect(&guarded.site.url(), &credentials).await.unwrap();
    let status = client.status(None).await.unwrap();
    assert_eq!((status.state.as_str(), status.trials_completed, status.epochs), ("completed", 20, 40));
    assert_eq!(status.expiries, 0);
    guarded.site.stop().await;
}

/// Waits until the coordinator has closed the connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    // An end, or a reset.
    read.expect("the connection is closed").ok();
}

#[tokio::test]
async fn slow_and_silent_connections_are_cut_off() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    undisturbed_by(async |guarded| {
        let connect = async || TcpStream::connect(guarded.site.address).await.unwrap();
        let mut silent = connect().await;
        let mut slow = connect().await;
        let mut halted = connect().await;
        halted.write_all(PREFACE).await.unwrap();
        // An empty SETTINGS frame, then a HEADERS frame of which only the first bytes come.
        halted.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 200, 1, 4, 0, 0, 0, 1, 0x82]).await.unwrap();
        let mut talker = connect().await;
        talker.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        for byte in PREFACE.iter().cycle().take(1000) {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            time::sleep(Duration::from_millis(30)).await;
        }
        for stream in [&mut silent, &mut slow, &mut halted, &mut talker] {
            closed(stream).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_connections_leaves_room_for_others() {
    undisturbed_by(async |guarded| {
        let mut flood = Vec::new();
        for _ in 0..200 {
            flood.push(TcpStream::connect(guarded.site.address).await.unwrap());
        }
        let mut refused = 0;
        for stream in &mut flood {
            let mut byte = [0];
            let read = time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await;
            refused += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
        }
        assert!(refused >= 100, "only {refused} of 200 were closed at once");
        for stream in &mut flood {
            closed(stream).await;
        }
        let worker = guarded.join(&guarded.cellar).await;
        guarded.cluster(&guarded.cellar).leave(LeaveRequest { worker }).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn guesses_are_refused() {
    undisturbed_by(async |guarded| {
        let line = guarded.line(Some(&Secret::new([9; 32])));
        for _ in 0..100 {
            let answer = SweepsClient::new(line.clone()).get_status(GetStatusRequest { sweep: None }).await;
            // Or cut off, after the sixteenth of a connection.
            let code = answer.unwrap_err().code();
            assert!(matches!(code, Code::Unauthenticated | Code::Unavailable | Code::Unknown), "{code:?}");
        }
    })
    .await;
}

/// Calls a path with messages that are sent as they are.
async fn call(
    line: Line,
    path: &'static str,
    messages: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
) -> Result<(), Status> {
    let mut grpc = Grpc::new(line);
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let messages = tonic::Request::new(messages);
    let answer = grpc.streaming(messages, PathAndQuery::from_static(path), raw::Raw).await?;
    let mut answer = answer.into_inner();
    while answer.message().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn endless_oversized_and_malformed_messages_are_refused() {
    undisturbed_by(async |guarded| {
        let line = || guarded.line(Some(&guarded.cellar));
        let once = |bytes: Vec<u8>| tokio_stream::iter([Bytes::from(bytes)]);
        let join = "/earshot.v1.Cluster/Join";
        check(call(line(), join, once(vec![0xff; 100])).await, Code::Internal, "decode");
        check(call(line(), join, once(vec![0; 100_000])).await, Code::OutOfRange, "too large");
        check(call(line(), join, tokio_stream::iter([])).await, Code::Internal, "");
        check(call(line(), "/earshot.v1.Cluster/Nothing", once(vec![])).await, Code::Unimplemented, "");
        // A call of one message, of which ever more come; and one whose message never comes.
        let introduced = Bytes::from(prost::Message::encode_to_vec(&introduction()));
        let endless = tokio_stream::iter(std::iter::repeat(introduced));
        let slowly = tokio_stream::StreamExt::throttle(endless, Duration::from_millis(1));
        check(call(line(), join, slowly).await, Code::DeadlineExceeded, "not over within 1 s");
        let never = tokio_stream::pending();
        check(call(line(), join, never).await, Code::DeadlineExceeded, "not over within 1 s");

        let mut request = tonic::Request::new(introduction());
        request.metadata_mut().insert("x", "y".repeat(100_000).parse().unwrap());
        ClusterClient::new(line()).join(request).await.unwrap_err();
        let worker = guarded.join(&guarded.attic).await;
        let heartbeat = HeartbeatRequest { worker, tokens: (0..10_000).collect() };
        let answer = guarded.cluster(&guarded.attic).heartbeat(heartbeat).await;
        check(answer, Code::InvalidArgument, "at most 1024");
    })
    .await;
}

#[tokio::test]
async fn too_many_calls_have_to_wait_and_are_answered_later() {
    let limits = Limits { calls_hz: 50.0, calls_burst: 5.0, transfers_max: 1, ..LIMITS() };
    let guarded = Guarded::new(Some(sweep()), limits).await;
    let mut sweeps = SweepsClient::new(guarded.line(Some(&guarded.ann)));
    let mut codes = Vec::new();
    for _ in 0..50 {
        let answer = sweeps.get_status(GetStatusRequest { sweep: None }).await;
        codes.push(answer.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    let answered = codes.iter().filter(|&&code| code == Code::Ok).count();
    assert!(codes.contains(&Code::ResourceExhausted) && answered >= 5, "{codes:?}");
    // Others are not kept waiting.
    guarded.join(&guarded.attic).await;
    time::sleep(Duration::from_millis(200)).await;
    sweeps.get_status(GetStatusRequest { sweep: None }).await.unwrap();

    // A transfer that nobody reads keeps its place, and gives it back when it is dropped.
    let bytes: Vec<u8> = (0..20 * piece::PIECE_BYTES_MAX).map(|at| (at % 251) as u8).collect();
    let id = guarded.site.blobs.put(&bytes).unwrap();
    let mut blobs = BlobsClient::new(guarded.line(Some(&guarded.ann))).max_decoding_message_size(usize::MAX);
    let request = FetchRequest { blob: wire::blob_bytes(id) };
    let unread = blobs.fetch(request.clone()).await.unwrap();
    check(blobs.fetch(request.clone()).await, Code::ResourceExhausted, "blobs are on their way");
    drop(unread);
    let free = async {
        while blobs.fetch(request.clone()).await.is_err() {
            time::sleep(Duration::from_millis(50)).await;
        }
    };
    time::timeout(Duration::from_secs(20), free).await.unwrap();
    guarded.site.stop().await;
}

#[tokio::test]
async fn one_connection_takes_its_own_allowance_and_leaves_the_tokens_to_others() {
    const BURST: usize = 5;
    // No more within the time of a test.
    let limits =
        Limits { connection_calls_hz: 1e-6, connection_calls_burst: BURST as f64, ..Limits::default() };
    let guarded = Guarded::new(Some(sweep()), limits).await;
    let [mut one, mut other] = [(); 2].map(|()| SweepsClient::new(guarded.line(Some(&guarded.ann))));
    for _ in 0..BURST {
        one.get_status(GetStatusRequest::default()).await.unwrap();
    }
    check(
        one.get_status(GetStatusRequest::default()).await,
        Code::ResourceExhausted,
        "too many calls at once",
    );
    other.get_status(GetStatusRequest::default()).await.unwrap();
    guarded.site.stop().await;
}

/// Messages as they are.
mod raw {
    use prost::bytes::{Buf, BufMut, Bytes};
    use tonic::{
        Status,
        codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    };

    #[derive(Debug, Clone, Copy, Default)]
    pub(super) struct Raw;

    impl Codec for Raw {
        type Encode = Bytes;
        type Decode = Bytes;
        type Encoder = Self;
        type Decoder = Self;

        fn encoder(&mut self) -> Self {
            *self
        }

        fn decoder(&mut self) -> Self {
            *self
        }
    }

    impl Encoder for Raw {
        type Item = Bytes;
        type Error = Status;

        fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.put(item);
            Ok(())
        }
    }

    impl Decoder for Raw {
        type Item = Bytes;
        type Error = Status;

        fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
            Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
        }
    }
}
