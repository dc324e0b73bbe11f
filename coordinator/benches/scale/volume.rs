//! A sweep of many trials: its log is written as a thousand workers would have it, and opened by a process of its own.

use std::{
    hint::black_box,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use coordinator::{
    state::{Decision, Digest, Event, EventKind, State},
    store::EventLog,
    views::{self, Among, Board},
};
use earshot_common::{
    ids::{BlobId, Token, WorkerId},
    job::{Epoch, Outcome, RunResult},
};
use serde::{Deserialize, Serialize};

use crate::{
    EPOCHS,
    site::{self, Usage},
};

/// Runs under way at a time, so that their events are mixed as they would be.
const WORKERS: u32 = 1_000;
/// Events of one commit.
const BATCH: usize = 10_000;
/// Looks of which the median is told.
const LOOKS: usize = 9;

/// What a long sweep costs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Volume {
    trials: u32,
    events: u64,
    log_mb: f64,
    /// From the file to the state, after its last holder was killed.
    recover_s: f64,
    /// The same after one that ended in order.
    open_s: f64,
    /// Of the process that holds the state.
    rss_mb: f64,
    peak_mb: f64,
    /// All rows.
    leaderboard_ms: f64,
    /// Of these, on the engine's thread.
    board_ms: f64,
    top_10_ms: f64,
    status_ms: f64,
    /// One more run granted.
    grant_ms: f64,
}

/// Writes the log and opens it, each in a process of its own.
pub(crate) fn run(folder: &Path, trials: u32) -> Volume {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let this = |arguments: &[&str]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(arguments[0]).arg(folder.path()).args(&arguments[1..]).stderr(Stdio::inherit());
        let done = command.output().unwrap();
        assert!(done.status.success(), "{arguments:?} ended with {}", done.status);
        done.stdout
    };
    this(&["fill", &trials.to_string()]);
    let open = || serde_json::from_slice::<Volume>(&this(&["open"])).unwrap();
    let recovered = open();
    Volume { recover_s: recovered.open_s, ..open() }
}

/// A log under way.
struct Pen {
    log: EventLog,
    state: State,
    unwritten: Vec<Event>,
    decided: Vec<Digest>,
}

impl Pen {
    fn tell(&mut self, kind: EventKind) -> Decision {
        let event = Event { at_ms: 1_764_000_000_000 + self.state.position(), kind };
        let decision = self.state.apply(&event).unwrap();
        self.unwritten.push(event);
        self.decided.push(decision.digest());
        if self.unwritten.len() == BATCH {
            self.write();
        }
        decision
    }

    fn write(&mut self) {
        let first = self.state.position() - self.unwritten.len() as u64;
        self.log.append(first, &self.unwritten, &self.decided).unwrap();
        self.unwritten.clear();
        self.decided.clear();
    }
}

/// The process that writes the log, and does not close it, as if it had been killed.
pub(crate) fn fill(folder: &Path, trials: u32) -> ! {
    let log = EventLog::open(&folder.join("volume.redb")).unwrap();
    let mut pen = Pen { log, state: State::default(), unwritten: Vec::new(), decided: Vec::new() };
    pen.tell(site::submitted(EPOCHS));
    for number in 0..WORKERS {
        let name = format!("simulated-{number}");
        pen.tell(EventKind::Joined { name, slots: 1, device: "cpu".into(), by: None });
    }
    for first in (0..trials).step_by(WORKERS as usize) {
        let workers = (0..WORKERS.min(trials - first)).map(WorkerId);
        let held: Vec<(WorkerId, Token)> = workers.map(|worker| (worker, ask(&mut pen, worker))).collect();
        for epoch in 1..=EPOCHS {
            for &(worker, token) in &held {
                let epoch = metrics(token, epoch);
                pen.tell(EventKind::Reported { worker, token, epoch, midway: None });
            }
        }
        for (worker, token) in held {
            let [checkpoint, logits] = [[0, token.0], [1, token.0]]
                .map(|[kind, token]| BlobId::of(&[kind.to_le_bytes(), token.to_le_bytes()].concat()));
            let outcome = Outcome::Completed(RunResult { best_epoch: EPOCHS, checkpoint, logits });
            pen.tell(EventKind::Finished { worker, token, outcome });
        }
    }
    pen.write();
    std::process::exit(0);
}

fn ask(pen: &mut Pen, worker: WorkerId) -> Token {
    match pen.tell(EventKind::Asked { worker, proposed: Vec::new() }) {
        Decision::Granted(grant) => grant.token,
        other => panic!("a run was due, and this came: {other:?}"),
    }
}

/// Of an epoch, as different from the others as real ones are.
fn metrics(token: Token, epoch: u32) -> Epoch {
    let part = (token.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1_u64 << 53) as f64;
    let loss = (2.0 - part) / f64::from(epoch + 1);
    Epoch {
        epoch,
        train_loss: loss * 0.9,
        loss,
        accuracy: part * 0.9,
        macro_f1: part * 0.8,
        int8_accuracy: None,
    }
}

/// The process that opens the log, and tells what that took.
pub(crate) fn open(folder: &Path) {
    let db = folder.join("volume.redb");
    let started = Instant::now();
    let mut folded = EventLog::open(&db).unwrap().fold().unwrap();
    let open_s = started.elapsed().as_secs_f64();
    let usage = Usage::now();
    let state = &folded.state;
    let trials = state.newest_sweep().unwrap().1.trials().len() as u32;
    let nobody = std::collections::BTreeSet::new();
    let mut volume = Volume {
        trials,
        events: state.position(),
        log_mb: std::fs::metadata(&db).unwrap().len() as f64 / 1e6,
        recover_s: 0.0,
        open_s,
        rss_mb: usage.rss_mb,
        peak_mb: usage.peak_mb,
        leaderboard_ms: median_ms(|_| views::leaderboard(state, None, 0).unwrap()),
        board_ms: median_ms(|_| Board::read(state, None, 0, Among::All).unwrap()),
        top_10_ms: median_ms(|_| views::leaderboard(state, None, 10).unwrap()),
        status_ms: median_ms(|_| views::status(state, None, &nobody).unwrap()),
        grant_ms: 0.0,
    };
    volume.grant_ms = median_ms(|look| {
        let kind = EventKind::Asked { worker: WorkerId(look as u32), proposed: Vec::new() };
        folded.state.apply(&Event { at_ms: 0, kind }).unwrap()
    });
    println!("{}", serde_json::to_string(&volume).unwrap());
}

/// How long a look takes, dropping what it gives included.
fn median_ms<T>(mut look: impl FnMut(usize) -> T) -> f64 {
    let mut times: Vec<f64> = (0..LOOKS)
        .map(|number| {
            let started = Instant::now();
            drop(black_box(look(number)));
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[LOOKS / 2]
}
