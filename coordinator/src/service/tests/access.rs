//! Who is let in, and to what.

use std::{fs, io, sync::Mutex};

use earshot_common::credentials::{Line, Secret};
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::{
    access::{
        Access, Limits, Role,
        certificates::{self, Subject},
        keeper,
        register::{Register, Wish, file_of},
    },
    clock::Clock,
    service::owners::Owners,
    watch::tally::Tally,
};

/// A guarded coordinator, and the secrets of those whom it knows.
pub(super) struct Guarded {
    pub(super) site: Site,
    /// Watches the list of tokens.
    _watchers: JoinSet<()>,
    /// Two workers' tokens.
    pub(super) attic: Secret,
    pub(super) cellar: Secret,
    /// A user's token.
    pub(super) ann: Secret,
    /// A user's token that has expired.
    expired: Secret,
}

impl Guarded {
    pub(super) async fn new(sweep: Option<Sweep>, limits: Limits) -> Self {
        Self::with(sweep, limits, None).await
    }

    async fn with(
        sweep: Option<Sweep>,
        limits: Limits,
        tls: Option<tonic::transport::ServerTlsConfig>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = file_of(&folder.path().join("t.redb"));
        let issue = |role, name: &str, lasts_ms, now_ms| {
            let wish = Wish { role, name: Some(name.to_owned()), lasts_ms };
            Register::issue(&file, &wish, now_ms).unwrap().1
        };
        let [attic, cellar] = ["attic", "cellar"].map(|name| issue(Role::Worker, name, None, 0));
        let ann = issue(Role::User, "ann", None, 0);
        let expired = issue(Role::User, "bob", Some(1), 0);
        let mut watchers = JoinSet::new();
        let access = Access::Tokens(keeper::keep(file, &mut watchers).unwrap());
        let entrance = |listener| Entrance { listener, tls, access, limits, tally: Tally::default() };
        let site = Site::entered_by(folder, sweep, entrance).await;
        Self { site, _watchers: watchers, attic, cellar, ann, expired }
    }

    /// A connection of its own for the holder of this secret.
    pub(super) fn line(&self, secret: Option<&Secret>) -> Line {
        let credentials = Credentials { secret: secret.cloned(), ..Credentials::default() };
        credentials.line(credentials.endpoint(&self.site.url()).unwrap().connect_lazy())
    }

    pub(super) fn cluster(&self, secret: &Secret) -> ClusterClient<Line> {
        ClusterClient::new(self.line(Some(secret)))
    }

    pub(super) async fn join(&self, secret: &Secret) -> u32 {
        self.cluster(secret).join(introduction()).await.unwrap().into_inner().worker
    }

    pub(super) async fn token(&self, secret: &Secret, worker: u32) -> u64 {
        let answer = self.cluster(secret).lease(LeaseRequest { worker, runs: 1 }).await.unwrap();
        match answer.into_inner().answer {
            Some(Answer::Grant(grant)) => grant.token,
            other => panic!("{other:?}"),
        }
    }

    async fn fetch(&self, secret: &Secret, id: BlobId) -> Result<(), Status> {
        let request = FetchRequest { blob: wire::blob_bytes(id) };
        let mut pieces = BlobsClient::new(self.line(Some(secret))).fetch(request).await?.into_inner();
        while pieces.message().await?.is_some() {}
        Ok(())
    }

    async fn put(&self, secret: &Secret) -> Result<(), Status> {
        let pieces = tokio_stream::iter(pieces(b"0123456789"));
        BlobsClient::new(self.line(Some(secret))).put(pieces).await.map(|_| ())
    }
}

async fn status(line: Line) -> Result<(), Status> {
    SweepsClient::new(line).get_status(GetStatusRequest { sweep: None }).await.map(|_| ())
}

#[tokio::test]
async fn only_holders_of_tokens_that_are_valid_are_let_in() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    status(guarded.line(Some(&guarded.ann))).await.unwrap();
    let unknown = Secret::new([7; 32]);
    for secret in [None, Some(&unknown), Some(&guarded.expired)] {
        check(status(guarded.line(secret)).await, Code::Unauthenticated, "--token-file");
        let joined = ClusterClient::new(guarded.line(secret)).join(introduction()).await;
        check(joined, Code::Unauthenticated, "--token-file");
        let fetched = BlobsClient::new(guarded.line(secret)).fetch(FetchRequest { blob: vec![0; 32] }).await;
        check(fetched, Code::Unauthenticated, "--token-file");
    }
    // A load balancer holds no token.
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(guarded.site.channel.clone()).check(request).await.unwrap();
    guarded.site.stop().await;
}

#[tokio::test]
async fn a_token_that_is_made_or_revoked_meanwhile_counts() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let file = file_of(&guarded.site.folder.path().join("t.redb"));
    let line = guarded.line(Some(&guarded.ann));
    status(line.clone()).await.unwrap();
    Register::revoke(&file, "ann").unwrap();
    let (_, eve) = Register::issue(&file, &Wish { role: Role::User, name: None, lasts_ms: None }, 0).unwrap();
    let refused = async {
        // On the connection that had been let in.
        while status(line.clone()).await.is_ok() {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(20 * keeper::LOOK, refused).await.unwrap();
    check(status(line.clone()).await, Code::Unauthenticated, "");
    status(guarded.line(Some(&eve))).await.unwrap();
    guarded.site.stop().await;
}

#[tokio::test]
async fn each_role_is_kept_to_its_own() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let worker = guarded.join(&guarded.attic).await;
    let mut sweeps = SweepsClient::new(guarded.line(Some(&guarded.attic)));
    let denied = "\"attic\" is for a worker";
    check(status(guarded.line(Some(&guarded.attic))).await, Code::PermissionDenied, denied);
    check(sweeps.pause_sweep(PauseSweepRequest { sweep: None }).await, Code::PermissionDenied, denied);
    check(
        sweeps.cancel_sweep(CancelSweepRequest { sweep: "t".into() }).await,
        Code::PermissionDenied,
        denied,
    );
    check(
        sweeps.get_champion(GetChampionRequest { sweep: None, trial: None }).await,
        Code::PermissionDenied,
        denied,
    );
    check(
        sweeps.replay_trial(ReplayTrialRequest { trial: 0, sweep: None }).await,
        Code::PermissionDenied,
        denied,
    );

    let mut cluster = guarded.cluster(&guarded.ann);
    let denied = "\"ann\" is for a user";
    check(cluster.join(introduction()).await, Code::PermissionDenied, denied);
    check(cluster.lease(LeaseRequest { worker, runs: 1 }).await, Code::PermissionDenied, denied);
    check(cluster.leave(LeaveRequest { worker }).await, Code::PermissionDenied, denied);
    check(guarded.put(&guarded.ann).await, Code::PermissionDenied, denied);
    guarded.site.stop().await;
}

#[tokio::test]
async fn a_worker_reads_what_its_run_needs_and_nothing_else() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let Guarded { site, attic, cellar, ann, .. } = &guarded;
    let read = |state: &crate::state::State| state.newest_sweep().unwrap().1.dataset().clone();
    let dataset = site.engine.read(read).await.unwrap();
    let split = *dataset.splits.values().next().unwrap();
    let [worker, idle] = [guarded.join(attic).await, guarded.join(cellar).await];
    check(guarded.fetch(attic, split).await, Code::PermissionDenied, "no run");
    check(guarded.put(attic).await, Code::PermissionDenied, "no run");

    let token = guarded.token(attic, worker).await;
    guarded.fetch(attic, split).await.unwrap();
    // Needed, and never put here by this test.
    check(guarded.fetch(attic, dataset.shards[0]).await, Code::NotFound, "no blob");
    check(guarded.fetch(cellar, split).await, Code::PermissionDenied, "no run");
    check(guarded.fetch(attic, dataset.manifest).await, Code::PermissionDenied, "no run");
    guarded.put(attic).await.unwrap();
    check(guarded.put(cellar).await, Code::PermissionDenied, "no run");

    let [kept, checkpoint, logits] =
        [b"kept".as_slice(), b"weights", b"logits"].map(|bytes| site.blobs.put(bytes).unwrap());
    let reported = |epoch: Epoch, midway: Option<BlobId>| ReportRequest {
        worker,
        token,
        epoch: Some((&epoch).into()),
        midway: midway.map(wire::blob_bytes),
    };
    report(&mut guarded.cluster(attic), reported(epoch(1), Some(kept))).await.unwrap();
    guarded.fetch(attic, kept).await.unwrap();
    report(&mut guarded.cluster(attic), reported(epoch(2), None)).await.unwrap();
    let outcome = Some((&Outcome::Completed(RunResult { best_epoch: 2, checkpoint, logits })).into());
    guarded.cluster(attic).finish(FinishRequest { worker, token, outcome }).await.unwrap();
    let other = guarded.token(cellar, idle).await;
    assert_ne!(other, token);
    for secret in [attic, cellar] {
        for blob in [checkpoint, logits, kept] {
            check(guarded.fetch(secret, blob).await, Code::PermissionDenied, "no run");
        }
    }
    for blob in [checkpoint, logits, split, dataset.manifest] {
        guarded.fetch(ann, blob).await.unwrap();
    }
    guarded.site.stop().await;
}

#[tokio::test]
async fn nobody_speaks_for_the_worker_of_another_token() {
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let Guarded { attic, cellar, .. } = &guarded;
    let worker = guarded.join(attic).await;
    let token = guarded.token(attic, worker).await;
    let mut impostor = guarded.cluster(cellar);
    let reported = ReportRequest { worker, token, epoch: Some((&epoch(1)).into()), midway: None };
    check(report(&mut impostor, reported.clone()).await, Code::NotFound, "join again");
    check(impostor.lease(LeaseRequest { worker, runs: 1 }).await, Code::NotFound, "join again");
    check(impostor.leave(LeaveRequest { worker }).await, Code::NotFound, "join again");
    let heartbeat = HeartbeatRequest { worker, tokens: vec![token] };
    check(impostor.heartbeat(heartbeat.clone()).await, Code::NotFound, "join again");
    let failure = earshot_common::job::Failure {
        reason: earshot_common::job::Reason::Worker,
        message: "sabotage".to_owned(),
    };
    let outcome = Some((&Outcome::Failed(failure)).into());
    let finish = FinishRequest { worker, token, outcome };
    check(impostor.finish(finish).await, Code::NotFound, "join again");

    let mut owner = guarded.cluster(attic);
    report(&mut owner, reported).await.unwrap();
    assert!(owner.heartbeat(heartbeat).await.unwrap().into_inner().revoked.is_empty());
    // What a coordinator that was started again knows, it has from the log.
    let restarted = Owners::new(guarded.site.engine.clone());
    let worker = earshot_common::ids::WorkerId(worker);
    restarted.check(worker, Some("attic")).await.unwrap();
    check(restarted.check(worker, Some("cellar")).await, Code::NotFound, "join again");
    guarded.site.stop().await;
}

/// Everything that is logged, in memory.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_secret_is_logged_or_kept() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone());
    let logging = tracing::subscriber::set_default(subscriber.finish());
    let guarded = Guarded::new(Some(sweep()), Limits::default()).await;
    let Guarded { attic, ann, expired, .. } = &guarded;
    let worker = guarded.join(attic).await;
    guarded.token(attic, worker).await;
    status(guarded.line(Some(ann))).await.unwrap();
    status(guarded.line(Some(expired))).await.unwrap_err();
    drop(logging);

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("\"bob\\\" has expired") || text.contains("\"bob\" has expired"),
        "it is logged at all"
    );
    let mut places = vec![("the log".to_owned(), text.into_bytes())];
    for entry in fs::read_dir(guarded.site.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            places.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    assert!(places.len() >= 3, "the log, the database, the tokens");
    for secret in [attic, ann, expired] {
        let digits = &secret.reveal().as_bytes()[earshot_common::credentials::SECRET_PREFIX.len()..];
        for (place, bytes) in &places {
            assert!(!bytes.windows(digits.len()).any(|window| window == digits), "a secret is in {place}");
        }
    }
    guarded.site.stop().await;
}

#[tokio::test]
async fn certificates_are_asked_for_both_ways() {
    const TEN_YEARS_MS: u64 = 10 * 365 * 24 * 3_600_000;
    let folder = tempfile::tempdir().unwrap();
    let now_ms = Clock::start(0).now_ms();
    let authority = |name: &str| {
        let folder = folder.path().join(name);
        certificates::found(&folder, &Subject::Server(vec!["127.0.0.1".into()]), now_ms).unwrap();
        let client = certificates::sign(&folder, &Subject::Client("client".into()), now_ms).unwrap();
        // Of ten years ago, so it ended eight years ago.
        certificates::sign(&folder, &Subject::Client("expired".into()), now_ms - TEN_YEARS_MS).unwrap();
        let ca = fs::read(folder.join("ca.pem")).unwrap();
        (ca, (fs::read(client.cert).unwrap(), fs::read(client.key).unwrap()))
    };
    let [(ca, identity), (other_ca, other_identity)] = ["ours", "theirs"].map(authority);
    let read = |name: &str| fs::read(folder.path().join("ours").join(name)).unwrap();
    let tls = certificates::server_tls(&read("server.pem"), &read("server.key"), Some(&ca));
    let guarded = Guarded::with(Some(sweep()), Limits::default(), Some(tls)).await;
    let url = format!("https://{}", guarded.site.address);
    let ask = async |url: &str, ca: &[u8], identity: Option<&(Vec<u8>, Vec<u8>)>, secret: &Secret| {
        let credentials = Credentials {
            secret: Some(secret.clone()),
            ca: Some(ca.to_vec()),
            identity: identity.cloned(),
            is_insecure: false,
        };
        Client::connect(url, &credentials).await?.status(None).await.map(|status| status.sweep)
    };
    assert_eq!(ask(&url, &ca, Some(&identity), &guarded.ann).await.unwrap(), "t");
    // A certificate is no token.
    let refused = ask(&url, &ca, Some(&identity), &guarded.expired).await;
    assert!(
        matches!(refused, Err(ClientError::Refused { status, .. }) if status.code() == Code::Unauthenticated)
    );
    let expired_identity = (read("expired.pem"), read("expired.key"));
    for (ca, identity) in [
        (&ca, None),
        (&ca, Some(&other_identity)),
        (&ca, Some(&expired_identity)),
        (&other_ca, Some(&identity)),
    ] {
        ask(&url, ca, identity, &guarded.ann).await.unwrap_err();
    }
    let elsewhere = url.replace("127.0.0.1", "localhost");
    ask(&elsewhere, &ca, Some(&identity), &guarded.ann).await.unwrap_err();
    let plain = Credentials { secret: Some(guarded.ann.clone()), ..Credentials::default() };
    let unheard = Client::connect(&guarded.site.url(), &plain).await;
    assert!(unheard.is_err() || unheard.unwrap().status(None).await.is_err(), "TLS alone is spoken here");
    guarded.site.stop().await;
}
