//! A worker, as the real one behaves: it asks for each slot, shows life on its own, trains, reports every epoch, and insists
//! on an answer until it is told that nobody wants one.

use std::collections::BTreeMap;

use coordinator::{
    mind::Asked,
    state::{Decision, Grant, Refusal},
};
use earshot_common::{
    ids::{BlobId, RunId, Token, WorkerId},
    job::{Epoch, Failure, Outcome, Reason, RunResult, Verdict},
    wire,
};
use earshot_proto::earshot::v1 as proto;

use crate::{
    dice::Dice,
    message::{Call, Envelope, Reply, Request, Sender},
    plan::{ANSWER_MS, HEARTBEAT_MS},
    site::Site,
    world::{Happening, Stage},
};

#[derive(Debug)]
pub(crate) struct Agent {
    index: usize,
    /// Grows when the process dies: timers of an earlier life mean nothing.
    pub(crate) life: u64,
    /// Nothing reaches it before.
    pub(crate) frozen_until_ms: u64,
    id: Option<WorkerId>,
    /// What it knew of its attempts when it lost its standing is worth nothing, but it does not know that yet.
    slots: Vec<Option<Work>>,
    /// Slots in a row that are filled together, with runs of one shape, and ask when the last of them is free.
    fused: usize,
    calls: BTreeMap<Call, Errand>,
}

/// An attempt in a slot.
#[derive(Debug, Clone)]
struct Work {
    token: Token,
    run: RunId,
    epochs: u32,
    done: u32,
    fate: Fate,
    /// The worker is not told; what it does must not depend on it.
    is_replay: bool,
    /// Epochs after which it may be held.
    rungs: Vec<u32>,
    /// Whether it is to say how accurate it is in int8, at rungs and at its end.
    is_measured: bool,
    /// From this epoch on its numbers are not those of others.
    odd_from: Option<u32>,
}

/// What will become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Trains,
    /// Ends after this epoch, out of patience.
    StopsAt(u32),
    FailsFor(Reason),
    Kills,
}

#[derive(Debug)]
pub(crate) enum Timer {
    Start,
    Heartbeat,
    Ask(usize),
    Epoch(usize, Token),
    /// The attempt's end, by its fate.
    End(usize, Token),
    Late(Call),
    Again(Errand),
}

/// What a call is for.
#[derive(Debug, Clone)]
pub(crate) enum Errand {
    Join,
    Ask(usize),
    Report(usize, Token, Epoch, Option<BlobId>),
    Finish(usize, Token, Outcome),
    Heartbeat,
}

impl Agent {
    pub(crate) fn new(index: usize, groups: usize, fused: usize) -> Self {
        Self {
            index,
            life: 0,
            frozen_until_ms: 0,
            id: None,
            slots: (0..groups * fused).map(|_| None).collect(),
            fused,
            calls: BTreeMap::new(),
        }
    }

    pub(crate) fn dies(&mut self, stage: &mut Stage) {
        self.life += 1;
        self.id = None;
        self.frozen_until_ms = 0;
        self.calls.clear();
        self.slots.fill_with(|| None);
        let in_ms = stage.dice.between(500, 30_000);
        self.later(in_ms, Timer::Start, stage);
    }

    /// Gives back what it holds, says goodbye, and waits for no answer to either.
    pub(crate) fn leaves(&mut self, stage: &mut Stage) {
        let Some(worker) = self.id else { return };
        stage.covered.workers_that_left += 1;
        for work in self.slots.iter().flatten() {
            let outcome = failed(Reason::Drained);
            self.say(stage.call(), finish(worker, work.token, &outcome), stage);
        }
        self.say(stage.call(), Request::Leave { worker }, stage);
        self.dies(stage);
    }

    pub(crate) fn wakes(&mut self, timer: Timer, stage: &mut Stage) {
        match timer {
            Timer::Start => {
                self.go(Errand::Join, stage);
                self.later(HEARTBEAT_MS, Timer::Heartbeat, stage);
            }
            Timer::Heartbeat => {
                // One at a time, and lost ones are not repeated.
                if !self.calls.values().any(|errand| matches!(errand, Errand::Heartbeat)) {
                    self.go(Errand::Heartbeat, stage);
                }
                self.later(HEARTBEAT_MS, Timer::Heartbeat, stage);
            }
            Timer::Ask(slot) => self.go(Errand::Ask(slot), stage),
            Timer::Epoch(slot, token) => self.epoch(slot, token, stage),
            Timer::End(slot, token) => self.end(slot, token, stage),
            Timer::Late(call) => {
                if let Some(errand) = self.calls.remove(&call) {
                    self.retry(errand, stage);
                }
            }
            Timer::Again(errand) => self.go(errand, stage),
        }
    }

    pub(crate) fn answered(&mut self, call: Call, reply: Reply, stage: &mut Stage, site: &mut Site) {
        let Some(errand) = self.calls.remove(&call) else {
            stage.covered.answers_nobody_waited_for += 1;
            return;
        };
        match (errand, reply) {
            (Errand::Join, Reply::Decided(Decision::Joined(worker))) => {
                stage.covered.workers_that_joined_again += u64::from(self.life > 0);
                self.id = Some(worker);
                for slot in (0..self.slots.len()).step_by(self.fused) {
                    self.go(Errand::Ask(slot), stage);
                }
            }
            (errand, Reply::Refused(Refusal::UnknownWorker(unknown))) => {
                if self.id == Some(unknown) {
                    self.id = None;
                    self.go(Errand::Join, stage);
                }
                self.retry(errand, stage);
            }
            (Errand::Ask(slot), Reply::Asked(asked)) => self.told(slot, asked, stage),
            (Errand::Report(slot, token, epoch, _), Reply::Decided(Decision::Verdict(verdict))) => {
                self.reported(slot, token, epoch, verdict, stage);
            }
            (Errand::Report(slot, token, ..), Reply::Refused(Refusal::LeaseEnded(_))) => {
                stage.covered.late_reports_refused += 1;
                self.drop_work(slot, token, stage);
            }
            (Errand::Finish(slot, token, outcome), Reply::Decided(Decision::Noted)) => {
                site.acknowledged(token, &outcome);
                self.drop_work(slot, token, stage);
            }
            (Errand::Finish(slot, token, _), Reply::Refused(Refusal::LeaseEnded(_))) => {
                stage.covered.late_results_refused += 1;
                self.drop_work(slot, token, stage);
            }
            (Errand::Heartbeat, Reply::Revoked(revoked)) => {
                for token in revoked {
                    stage.covered.revoked_in_heartbeats += 1;
                    for slot in 0..self.slots.len() {
                        self.drop_work(slot, token, stage);
                    }
                }
            }
            (errand, reply) => panic!("an honest worker's {errand:?} was answered {reply:?}"),
        }
    }

    fn told(&mut self, slot: usize, asked: Asked, stage: &mut Stage) {
        let pause_ms = stage.dice.between(500, 3_000);
        match asked {
            Asked::Granted(grants) => {
                stage.covered.runs_granted_together += grants.len() as u64 - 1;
                for (grant, slot) in grants.iter().zip(slot..) {
                    assert_eq!(grant.job.shape(), grants[0].job.shape(), "runs of other shapes");
                    self.begin(slot, grant, stage);
                }
            }
            Asked::NoWork | Asked::Done => self.later(pause_ms, Timer::Ask(slot), stage),
        }
    }

    fn begin(&mut self, slot: usize, grant: &Grant, stage: &mut Stage) {
        assert!(self.slots[slot].is_none(), "a slot that trains never asks");
        let Grant { token, run, .. } = *grant;
        let epochs = grant.job.recipe.epochs;
        let fate = fate(run, epochs, stage);
        let is_odd = stage.dice.chance(stage.plan.rounds_otherwise);
        let odd_from = is_odd.then(|| stage.dice.between(1, u64::from(epochs)) as u32);
        let is_replay = grant.replay.is_some();
        let done = grant.job.resume.map_or(0, done);
        stage.covered.resumed_attempts += u64::from(done > 0);
        let (rungs, is_measured) = (grant.job.rungs.clone(), grant.job.int8_accuracy);
        self.slots[slot] =
            Some(Work { token, run, epochs, done, fate, is_replay, rungs, is_measured, odd_from });
        let timer = match fate {
            Fate::Trains | Fate::StopsAt(_) => Timer::Epoch(slot, token),
            Fate::FailsFor(_) | Fate::Kills => Timer::End(slot, token),
        };
        let in_ms = stage.dice.between(200, 6_000);
        self.later(in_ms, timer, stage);
    }

    fn epoch(&mut self, slot: usize, token: Token, stage: &mut Stage) {
        let Some(work) = self.slots[slot].as_mut().filter(|work| work.token == token) else { return };
        work.done += 1;
        let epoch = epoch(work);
        let is_final = work.done == work.epochs || work.fate == Fate::StopsAt(work.done);
        let keeps = !is_final && (work.rungs.contains(&work.done) || stage.dice.chance(0.3));
        let midway = keeps.then(|| midway(token, work.done));
        self.go(Errand::Report(slot, token, epoch, midway), stage);
    }

    fn reported(&mut self, slot: usize, token: Token, epoch: Epoch, verdict: Verdict, stage: &mut Stage) {
        let Some(work) = self.slots[slot].as_ref().filter(|work| work.token == token) else { return };
        let is_last = epoch.epoch == work.epochs;
        if verdict == Verdict::Pause {
            assert!(!is_last && !work.is_replay, "held at epoch {} of {}", epoch.epoch, work.epochs);
            return self.drop_work(slot, token, stage);
        }
        let is_stopped = verdict == Verdict::Stop;
        let is_expected = is_last || (work.is_replay && is_stopped);
        assert_eq!(is_stopped, is_expected, "stopped at epoch {} of {}", epoch.epoch, work.epochs);
        if is_stopped || work.fate == Fate::StopsAt(epoch.epoch) {
            let outcome = Outcome::Completed(work.result(epoch.epoch, stage));
            self.go(Errand::Finish(slot, token, outcome), stage);
        } else {
            let in_ms = stage.dice.between(200, 6_000);
            self.later(in_ms, Timer::Epoch(slot, token), stage);
        }
    }

    fn end(&mut self, slot: usize, token: Token, stage: &mut Stage) {
        match self.slots[slot].as_ref().filter(|work| work.token == token).map(|work| work.fate) {
            Some(Fate::FailsFor(reason)) => self.go(Errand::Finish(slot, token, failed(reason)), stage),
            Some(Fate::Kills) => self.dies(stage),
            Some(Fate::Trains | Fate::StopsAt(_)) | None => {}
        }
    }

    fn drop_work(&mut self, slot: usize, token: Token, stage: &mut Stage) {
        if self.slots[slot].as_ref().is_some_and(|work| work.token == token) {
            self.slots[slot] = None;
            self.calls.retain(|_, errand| !errand.is_about(token));
            self.go(Errand::Ask(slot - slot % self.fused), stage);
        }
    }

    fn retry(&mut self, errand: Errand, stage: &mut Stage) {
        if matches!(errand, Errand::Heartbeat) {
            return;
        }
        let in_ms = stage.dice.between(100, 2_000);
        self.later(in_ms, Timer::Again(errand), stage);
    }

    /// Makes a call, if its errand still makes sense.
    fn go(&mut self, errand: Errand, stage: &mut Stage) {
        let call = stage.call();
        let request = match (&errand, self.id) {
            (Errand::Join, None) => {
                if self.calls.values().any(|errand| matches!(errand, Errand::Join)) {
                    return;
                }
                Request::Join { slots: self.slots.len() as u32 }
            }
            (Errand::Join, Some(_)) | (Errand::Heartbeat, None) => return,
            // Joining asks for every free slot.
            (&Errand::Ask(slot), id) => {
                let is_asking = |errand: &Errand| matches!(errand, Errand::Ask(asking) if *asking == slot);
                let is_free = self.slots[slot..slot + self.fused].iter().all(Option::is_none);
                let Some(worker) = id.filter(|_| is_free) else { return };
                if self.calls.values().any(is_asking) {
                    return;
                }
                Request::Lease { worker, runs: self.fused }
            }
            (Errand::Heartbeat, Some(worker)) => {
                let tokens = self.slots.iter().flatten().map(|work| work.token).collect();
                Request::Heartbeat { worker, tokens }
            }
            (&Errand::Report(slot, token, ..) | &Errand::Finish(slot, token, _), id) => {
                if self.slots[slot].as_ref().is_none_or(|work| work.token != token) {
                    return;
                }
                let Some(worker) = id else { return self.retry(errand, stage) };
                match &errand {
                    Errand::Report(_, _, epoch, midway) => report_with(worker, token, epoch.into(), *midway),
                    Errand::Finish(_, _, outcome) => finish(worker, token, outcome),
                    Errand::Join | Errand::Ask(_) | Errand::Heartbeat => return,
                }
            }
        };
        self.calls.insert(call, errand);
        self.say(call, request, stage);
        self.later(ANSWER_MS, Timer::Late(call), stage);
    }

    fn say(&self, call: Call, request: Request, stage: &mut Stage) {
        let sender = Sender::Agent(self.index);
        stage.send(&Envelope { sender, call, sent_at_ms: stage.now_ms, request });
    }

    fn later(&self, in_ms: u64, timer: Timer, stage: &mut Stage) {
        stage.later(in_ms, Happening::Agent { agent: self.index, life: self.life, timer });
    }
}

impl Work {
    /// What it leaves after so many epochs.
    fn result(&self, epochs: u32, stage: &mut Stage) -> RunResult {
        if !stage.plan.is_deterministic {
            let best_epoch = stage.dice.between(1, u64::from(epochs)) as u32;
            return result(self.token, best_epoch);
        }
        let best_epoch = 1 + self.run.trial.0.wrapping_add(self.run.fold.0) % epochs;
        let is_odd = self.odd_from.is_some_and(|from| from <= epochs);
        let name = u64::from(self.run.trial.0) << 33 | u64::from(self.run.fold.0) << 1 | u64::from(is_odd);
        result(Token(name), best_epoch)
    }
}

impl Errand {
    fn is_about(&self, token: Token) -> bool {
        match self {
            Self::Report(_, about, ..) | Self::Finish(_, about, _) => *about == token,
            Self::Join | Self::Ask(_) | Self::Heartbeat => false,
        }
    }
}

/// What becomes of an attempt: of some runs the same each time, of others as it happens.
fn fate(run: RunId, epochs: u32, stage: &mut Stage) -> Fate {
    let mixed =
        stage.seed ^ u64::from(run.sweep.0) << 40 ^ u64::from(run.trial.0) << 20 ^ u64::from(run.fold.0);
    let mut lot = Dice::new(mixed);
    let (is_cursed, is_divergent) = (lot.chance(stage.plan.cursed), lot.chance(stage.plan.divergent));
    if is_cursed {
        Fate::Kills
    } else if is_divergent {
        Fate::FailsFor(Reason::Diverged)
    } else if stage.dice.chance(stage.plan.failure) {
        Fate::FailsFor(*stage.dice.pick(&[Reason::OutOfMemory, Reason::Data, Reason::Worker, Reason::Disk]))
    } else {
        let patience = if stage.plan.is_deterministic { &mut lot } else { &mut stage.dice };
        if patience.chance(0.2) {
            Fate::StopsAt(patience.between(1, u64::from(epochs)) as u32)
        } else {
            Fate::Trains
        }
    }
}

/// The same run gives the same metrics each time, unless its attempt is odd.
fn epoch(work: &Work) -> Epoch {
    let &Work { run, done: number, odd_from, epochs, fate, is_measured, ref rungs, .. } = work;
    let accuracy =
        f64::from((run.trial.0 * 7).wrapping_add(run.fold.0.wrapping_mul(3)).wrapping_add(number) % 10)
            / 10.0;
    let loss = 1.0 - accuracy / 2.0;
    let is_final = number == epochs || fate == Fate::StopsAt(number);
    let int8_accuracy = (is_measured && (is_final || rungs.contains(&number)))
        .then(|| f64::from((run.trial.0 * 3).wrapping_add(run.fold.0).wrapping_add(number * 7) % 10) / 10.0);
    let loss = if odd_from.is_some_and(|from| from <= number) { loss.next_up() } else { loss };
    Epoch { epoch: number, train_loss: 0.5, loss, accuracy, macro_f1: accuracy, int8_accuracy }
}

/// A result that shows which attempt it is of, where nothing else is said.
pub(crate) fn result(token: Token, best_epoch: u32) -> RunResult {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&token.0.to_le_bytes());
    RunResult { best_epoch, checkpoint: BlobId::from(name), logits: BlobId::from([7; 32]) }
}

fn failed(reason: Reason) -> Outcome {
    Outcome::Failed(Failure { reason, message: "because".into() })
}

pub(crate) fn report(worker: WorkerId, token: Token, epoch: proto::Epoch) -> Request {
    report_with(worker, token, epoch, None)
}

fn report_with(worker: WorkerId, token: Token, epoch: proto::Epoch, midway: Option<BlobId>) -> Request {
    let midway = midway.map(wire::blob_bytes);
    Request::Report(proto::ReportRequest { worker: worker.0, token: token.0, epoch: Some(epoch), midway })
}

/// What an attempt has come to after so many epochs.
fn midway(token: Token, done: u32) -> BlobId {
    let mut name = [1; 32];
    name[..8].copy_from_slice(&token.0.to_le_bytes());
    name[8..12].copy_from_slice(&done.to_le_bytes());
    BlobId::from(name)
}

/// Epochs that are over, as [`midway`] says.
fn done(midway: BlobId) -> u32 {
    u32::from_le_bytes(midway.as_bytes()[8..12].try_into().unwrap())
}

pub(crate) fn finish(worker: WorkerId, token: Token, outcome: &Outcome) -> Request {
    let outcome = Some(outcome.into());
    Request::Finish(proto::FinishRequest { worker: worker.0, token: token.0, outcome })
}
