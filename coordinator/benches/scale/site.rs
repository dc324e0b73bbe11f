//! A coordinator in a process of its own, so that its memory and its time are told from its workers'.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use coordinator::{
    access::Entrance,
    blobs::Blobs,
    engine::{Engine, Settings},
    service::{self, presence::Presence},
    state::{Dataset, EventKind},
    store::EventLog,
};
use earshot_common::{
    ids::{BlobId, FoldId},
    sweep::Sweep,
};
use prometheus_client::{encoding::text, registry::Registry};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot};

use crate::EPOCHS;

/// As `coordinator start` has it.
const LEASE_MS: u64 = 15_000;
/// What every run of the bench hands in as its checkpoint and its logits.
pub(crate) const BLOB: &[u8] = b"nothing was trained";
/// Ticks of the processor times in `/proc`, a second.
const TICKS_HZ: f64 = 100.0;

/// What a process has used.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Usage {
    /// Of all its threads.
    pub(crate) cpu_s: f64,
    /// Now.
    pub(crate) rss_mb: f64,
    /// At most, so far.
    pub(crate) peak_mb: f64,
}

impl Usage {
    pub(crate) fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let kib = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        // User and system time are the 14th and 15th field; the second, in brackets, may have spaces.
        let times = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        let ticks: f64 = times.map(|ticks| ticks.parse::<f64>().unwrap()).sum();
        let mb = |kib: f64| kib * 1024.0 / 1e6;
        Self { cpu_s: ticks / TICKS_HZ, rss_mb: mb(kib("VmRSS:")), peak_mb: mb(kib("VmHWM:")) }
    }
}

/// What a coordinator has done by one moment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) commits: f64,
    pub(crate) commit_s: f64,
    pub(crate) usage: Usage,
}

/// A coordinator under way.
pub(crate) struct Site {
    child: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Site {
    pub(crate) fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg("serve")
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asked, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut answers = BufReader::new(answers);
        let address = line(&mut answers).parse().unwrap();
        Self { child, asked, answers, address }
    }

    pub(crate) fn mark(&mut self) -> Mark {
        writeln!(self.asked, "mark").unwrap();
        serde_json::from_str(&line(&mut self.answers)).unwrap()
    }

    pub(crate) fn stop(self) {
        let Self { mut child, asked, .. } = self;
        drop(asked);
        assert!(child.wait().unwrap().success());
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// The process: tells its address, a mark for every line it reads, and ends with its input.
pub(crate) fn serve(folder: &Path) {
    let runtime = Runtime::new().unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let (engine, service) = runtime.block_on(async {
        let db = folder.join("scale.redb");
        let blobs = Blobs::open(&db, folder).unwrap();
        blobs.put(BLOB).unwrap();
        let folded = EventLog::open(&db).unwrap().fold().unwrap();
        let (engine, running) = Engine::start(folded, Settings { lease_ms: LEASE_MS });
        if engine.read(|state| state.newest_sweep().is_none()).await.unwrap() {
            engine.submit(submitted(EPOCHS)).await.unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let entrance = Entrance::open(listener);
        let presence = Presence::new(LEASE_MS);
        let stop = async move { drop(ended.await) };
        let service = tokio::spawn(service::serve(entrance, engine.clone(), blobs, presence, stop));
        (engine, (service, running))
    });
    for _ in std::io::stdin().lock().lines() {
        println!("{}", serde_json::to_string(&mark(&engine)).unwrap());
    }
    let (service, mut running) = service;
    drop(end);
    runtime.block_on(async {
        service.await.unwrap().unwrap();
        running.stop().await;
        running.stopped().await.unwrap();
    });
}

fn mark(engine: &Engine) -> Mark {
    let mut registry = Registry::default();
    registry.register("commit", "commits", engine.commits().clone());
    let mut told = String::new();
    text::encode(&mut told, &registry).unwrap();
    let number = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
    Mark { commits: number("commit_count "), commit_s: number("commit_sum "), usage: Usage::now() }
}

/// A grid of a million trials, of which a bench comes to as many as it can.
pub(crate) fn submitted(epochs: u32) -> EventKind {
    let steps = |step: f64| {
        let values = (1..=100).map(|number| (f64::from(number) * step).to_string());
        values.collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "name = \"scale\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\n\
         learning_rate = {{ choice = [{}] }}\ndropout = {{ choice = [{}] }}\nweight_decay = {{ choice = [{}] }}\n\
         [schedule]\nepochs = {epochs}\n",
        steps(1e-4),
        steps(5e-3),
        steps(1e-4),
    );
    let sweep = Box::new(Sweep::parse(&text, Path::new("scale.toml"), &[]).unwrap());
    let dataset = Dataset {
        labels: (0..10).map(|number| format!("class-{number}")).collect(),
        frames: 431,
        shards: vec![BlobId::of(b"shard")],
        views: vec![],
        splits: [(FoldId(1), BlobId::of(b"split"))].into(),
        manifest: BlobId::of(b"manifest"),
    };
    EventKind::Submitted { sweep, dataset }
}
