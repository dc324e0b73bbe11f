//! The coordinator: the real mind, driven as the engine drives it (take what has come, apply it, commit once, answer), on a
//! simulated disk, with a clock that is set and a process that dies at the worst moments.

use std::{collections::VecDeque, mem};

use coordinator::{
    leases::Lost,
    mind::{Asked, Mind},
    state::{Decision, Digest, Event, EventKind, Refusal, State},
};
use earshot_common::{
    ids::{Token, WorkerId},
    job::{Epoch, Outcome},
    wire,
};
use earshot_proto::earshot::v1 as proto;

use crate::{
    errands::Errands,
    message::{Call, Envelope, Reply, Request, Sender},
    oracle::Oracle,
    plan::{LEASE_MS, TICK_MS},
    world::{Happening, Stage},
};

/// Where the system's clock stands when the world begins.
const EPOCH_MS: u64 = 1_764_000_000_000;
/// Commands of one commit at most; fewer than the engine's, so that the limit is met.
const BATCH_LENGTH: usize = 16;

#[derive(Default)]
pub(crate) struct Site {
    /// What survives the process: each entry as its bytes.
    disk: Vec<Vec<u8>>,
    process: Option<Process>,
    /// Grows with every start: what an earlier life planned means nothing.
    life: u64,
    /// The system's clock against the world's.
    clock_offset_ms: i64,
    pub(crate) oracle: Oracle,
    /// Dies with the process, but for what it has said already.
    errands: Errands,
}

struct Process {
    mind: Mind,
    inbox: VecDeque<Envelope>,
    /// While a commit is on its way: whom to answer what, once it is done.
    writing: Option<Vec<(Sender, Call, Reply)>>,
    /// The process's clock against the world's; it never runs backwards in one life.
    clock_offset_ms: i64,
}

impl Process {
    fn now_ms(&self, stage: &Stage) -> u64 {
        stage.now_ms.checked_add_signed(self.clock_offset_ms).unwrap()
    }
}

impl Site {
    pub(crate) fn has_ended(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            process.writing.is_none() && process.inbox.is_empty() && process.mind.state().is_done()
        })
    }

    pub(crate) fn acknowledged(&mut self, token: Token, outcome: &Outcome) {
        self.oracle.acknowledged(token, outcome);
    }

    pub(crate) fn starts(&mut self, stage: &mut Stage) {
        assert!(self.process.is_none());
        self.life += 1;
        stage.covered.restarts += u64::from(self.life > 1);
        let state = self.replay();
        self.oracle.check_replayed(&state);
        let system_ms = (EPOCH_MS + stage.now_ms).checked_add_signed(self.clock_offset_ms).unwrap();
        let started_ms = system_ms.max(state.at_ms());
        let clock_offset_ms = started_ms as i64 - stage.now_ms as i64;
        self.oracle.starts(started_ms);
        self.process = Some(Process {
            mind: Mind::wake(state, LEASE_MS, started_ms),
            inbox: VecDeque::new(),
            writing: None,
            clock_offset_ms,
        });
        stage.later(TICK_MS, Happening::Tick { life: self.life });
    }

    /// Folds what is on disk, and compares each decision with the one that was made at the time.
    fn replay(&self) -> State {
        let mut state = State::default();
        for (position, bytes) in self.disk.iter().enumerate() {
            let event: Event = serde_json::from_slice(bytes).unwrap();
            let decision = state.apply(&event).expect("what was accepted once is accepted again");
            self.oracle.check_decision(position, &decision);
        }
        state
    }

    pub(crate) fn dies(&mut self, stage: &mut Stage) {
        let Some(process) = self.process.take() else { return };
        self.errands.dies(stage);
        let (first, events) = process.mind.uncommitted();
        if process.writing.is_some() && !events.is_empty() {
            if stage.dice.chance(0.5) {
                stage.covered.crashes_after_commit += 1;
                write(&mut self.disk, &mut self.oracle, first, events, process.mind.decided());
            } else {
                stage.covered.crashes_before_commit += 1;
            }
        }
        restart_later(stage);
    }

    /// The system's clock is set, back or forth; a running process does not notice.
    pub(crate) fn clock_is_set(&mut self, stage: &mut Stage) {
        let by_ms = stage.dice.between(1, 7_200_000) as i64;
        if stage.dice.chance(0.5) {
            stage.covered.clocks_set_back += 1;
            self.clock_offset_ms -= by_ms;
        } else {
            stage.covered.clocks_set_forward += 1;
            self.clock_offset_ms += by_ms;
        }
    }

    /// The process was suspended: its own clock jumps ahead.
    pub(crate) fn is_suspended(&mut self, stage: &mut Stage) {
        if let Some(process) = &mut self.process {
            stage.covered.suspensions += 1;
            process.clock_offset_ms += stage.dice.between(1_000, 600_000) as i64;
        }
    }

    /// Whether this life goes on.
    pub(crate) fn tick(&mut self, life: u64, stage: &mut Stage) -> bool {
        let Some(process) = self.process.as_mut().filter(|_| life == self.life) else { return false };
        // The engine's thread is busy while it commits.
        if process.writing.is_none() {
            let now_ms = process.now_ms(stage);
            let lost = process.mind.expire(now_ms);
            for lost in &lost {
                self.oracle.check_lost(*lost, now_ms);
                match lost {
                    Lost::Silent(_) => stage.covered.expired_leases += 1,
                    Lost::Unclaimed(_) => stage.covered.unclaimed_grants += 1,
                }
            }
            self.errands.acts(&mut process.mind, now_ms, stage);
            self.oracle.check_step(&process.mind, now_ms);
            self.work(stage);
        }
        true
    }

    pub(crate) fn arrives(&mut self, envelope: Envelope, stage: &mut Stage) {
        // Nobody listens while the process is dead.
        if let Some(process) = &mut self.process {
            process.inbox.push_back(envelope);
            if process.writing.is_none() {
                self.work(stage);
            }
        }
    }

    /// Applies what has come, and starts to write it.
    fn work(&mut self, stage: &mut Stage) {
        let Some(process) = &mut self.process else { return };
        let mut answers = Vec::new();
        let batch = process.inbox.len().min(BATCH_LENGTH);
        for envelope in process.inbox.drain(..batch).collect::<Vec<_>>() {
            let now_ms = process.now_ms(stage);
            let before = process.mind.state().position();
            let reply = reply(&mut process.mind, &mut self.oracle, &envelope.request, now_ms);
            let is_refused = matches!(reply, Reply::Refused(_) | Reply::Malformed);
            if is_refused {
                assert_eq!(process.mind.state().position(), before, "a refusal was logged");
            }
            assert!(
                is_refused || envelope.sender != Sender::Liar,
                "a lie was taken: {envelope:?}: {reply:?}"
            );
            stage.covered.steps += 1;
            self.oracle.check_step(&process.mind, now_ms);
            answers.push((envelope.sender, envelope.call, reply));
        }
        let entries = process.mind.uncommitted().1.len();
        if entries == 0 && answers.is_empty() {
            return;
        }
        stage.covered.shared_commits += u64::from(entries > 1);
        process.writing = Some(answers);
        let mut write_ms = if entries == 0 { 0 } else { stage.dice.between(1, 8) };
        if stage.dice.chance(stage.plan.slow_commit) {
            stage.covered.slow_commits += 1;
            write_ms += stage.dice.between(200, 20_000);
        }
        stage.later(write_ms, Happening::Written { life: self.life });
    }

    /// The commit is done: answers go out, unless the process dies over them.
    pub(crate) fn written(&mut self, life: u64, stage: &mut Stage) {
        let Some(process) = self.process.as_mut().filter(|_| life == self.life) else { return };
        let (first, events) = process.mind.uncommitted();
        write(&mut self.disk, &mut self.oracle, first, events, process.mind.decided());
        process.mind.committed();
        self.oracle.check_committed(process.mind.state());
        let mut answers = process.writing.take().unwrap_or_default();
        for (.., reply) in &answers {
            if let Reply::Asked(Asked::Granted(grants)) = reply {
                for grant in grants {
                    let decision = Decision::Granted(Box::new(grant.clone()));
                    self.oracle.check_decision(grant.token.0 as usize, &decision);
                }
            }
        }
        let is_torn = !answers.is_empty() && stage.dice.chance(stage.plan.torn_answers);
        if is_torn {
            answers.truncate(stage.dice.below(answers.len() as u64) as usize);
        }
        for (sender, call, reply) in mem::take(&mut answers) {
            stage.answer(sender, call, &reply);
        }
        if is_torn {
            stage.covered.crashes_amid_answers += 1;
            self.process = None;
            restart_later(stage);
        } else {
            self.work(stage);
        }
    }

    /// After the last run: everything is compared, from the bytes on disk up.
    pub(crate) fn conclude(&mut self, stage: &mut Stage) {
        let process = self.process.take().expect("it runs at the end");
        let replayed = self.replay();
        assert_eq!(
            serde_json::to_string(&replayed).unwrap(),
            serde_json::to_string(process.mind.state()).unwrap(),
            "the log gives another state"
        );
        stage.covered.entries += self.disk.len() as u64;
        self.oracle.conclude(process.mind.state(), &mut stage.covered);
    }
}

fn restart_later(stage: &mut Stage) {
    let in_ms = stage.dice.between(200, 20_000);
    stage.later(in_ms, Happening::Starts);
}

fn write(disk: &mut Vec<Vec<u8>>, oracle: &mut Oracle, first: u64, events: &[Event], decided: &[Digest]) {
    assert_eq!(first, disk.len() as u64, "the log has a gap");
    assert_eq!(events.len(), decided.len());
    for (event, digest) in events.iter().zip(decided) {
        let bytes = serde_json::to_vec(event).unwrap();
        oracle.entered(&serde_json::from_slice(&bytes).unwrap(), *digest);
        disk.push(bytes);
    }
}

/// What the service and the engine make of a request.
fn reply(mind: &mut Mind, oracle: &mut Oracle, request: &Request, now_ms: u64) -> Reply {
    let decided = match request {
        Request::Join { slots } => mind.apply(
            EventKind::Joined { name: "w".into(), slots: *slots, device: "cpu".into(), by: None },
            now_ms,
        ),
        Request::Lease { worker, runs } => {
            let asked = mind.ask(*worker, *runs, now_ms);
            if let Ok(Asked::Granted(grants)) = &asked {
                assert!((1..=*runs).contains(&grants.len()), "{} of {runs} runs", grants.len());
                for grant in grants {
                    oracle.granted(grant.token, now_ms);
                }
            }
            return asked.map_or_else(Reply::Refused, Reply::Asked);
        }
        Request::Report(request) => match reported(request) {
            Some(kind) => {
                let token = Token(request.token);
                mind.apply(kind, now_ms).inspect(|_| oracle.showed_life(token, now_ms))
            }
            None => return Reply::Malformed,
        },
        Request::Finish(request) => match finished(request) {
            Some(kind) => mind.apply(kind, now_ms),
            None => return Reply::Malformed,
        },
        Request::Heartbeat { worker, tokens } => {
            return match mind.heartbeat(*worker, tokens, now_ms) {
                Ok(revoked) => {
                    let renewed = tokens.iter().filter(|token| !revoked.contains(token));
                    renewed.for_each(|&token| oracle.showed_life(token, now_ms));
                    Reply::Revoked(revoked)
                }
                Err(refusal) => Reply::Refused(refusal),
            };
        }
        Request::Leave { worker } => mind.apply(EventKind::Left { worker: *worker }, now_ms),
        Request::User(kind) => mind.apply(kind.clone(), now_ms),
    };
    decided.map_or_else(|refusal: Refusal| Reply::Refused(refusal), Reply::Decided)
}

fn reported(request: &proto::ReportRequest) -> Option<EventKind> {
    let epoch = Epoch::try_from(request.epoch?).ok()?;
    let midway = request.midway.as_ref().map(|bytes| wire::blob_id(bytes, "midway")).transpose().ok()?;
    Some(EventKind::Reported { worker: WorkerId(request.worker), token: Token(request.token), epoch, midway })
}

fn finished(request: &proto::FinishRequest) -> Option<EventKind> {
    let outcome = Outcome::try_from(request.outcome.clone()?).ok()?;
    Some(EventKind::Finished { worker: WorkerId(request.worker), token: Token(request.token), outcome })
}
