//! What happens to the cluster, and what the state machine answers.

use earshot_common::{
    ids::{BlobId, ReplayId, RunId, SweepId, Token, TrialId, WorkerId},
    int8::Range,
    job::{Epoch, Job, Outcome, Verdict},
    model::AudioCnn,
    sweep::Sweep,
};
use serde::{Deserialize, Serialize};

use super::Dataset;
use crate::search::Proposal;

/// One entry of the log. Its time was read by the shell; the state machine never reads a clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch, never smaller than the entry before.
    pub at_ms: u64,
    /// What happened.
    #[serde(rename = "event")]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A user handed in a sweep, and its data was prepared.
    Submitted {
        /// What to do.
        sweep: Box<Sweep>,
        /// With which features.
        dataset: Dataset,
    },
    /// A user wants no more runs of a sweep handed out for now; those that are train on.
    Paused {
        /// Which.
        sweep: SweepId,
    },
    /// A user wants a paused sweep to go on.
    Resumed {
        /// Which.
        sweep: SweepId,
    },
    /// A user wants nothing more of a sweep; what has completed is kept.
    Cancelled {
        /// Which.
        sweep: SweepId,
    },
    /// A user wants a completed trial trained again, and compared with what it gave.
    ReplayAsked {
        /// Of which sweep.
        sweep: SweepId,
        /// Which.
        trial: TrialId,
    },
    /// A step of pruning was cut, or could not be; since format 8. The weights are a blob, which the state machine does not read.
    Pruned {
        /// Of which sweep.
        sweep: SweepId,
        /// Of which trial: the best.
        trial: TrialId,
        /// From 1.
        step: u32,
        /// What came of it.
        cut: Cut,
    },
    /// The model to be exported was quantised, or could not be; since format 8.
    Quantised {
        /// Of which sweep.
        sweep: SweepId,
        /// Of which trial: the best.
        trial: TrialId,
        /// What came of it.
        quantisation: Quantisation,
    },
    /// A worker introduced itself.
    Joined {
        /// For people.
        name: String,
        /// Runs it trains at once.
        slots: u32,
        /// `cpu` or `cuda`.
        device: String,
        /// Name of the token that let it in, where tokens are asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A worker asked for a run.
    Asked {
        /// Which.
        worker: WorkerId,
        /// What the search of the sweep that is served next proposed for it, the last point a feasible one if there was one:
        /// [`super::State::proposals`]. Searches compute in floating point, which rounds otherwise on another machine; what they
        /// proposed must not change with it, nor why. Empty where no search was asked, for a grid, and in old logs: then it is asked
        /// when the event is applied.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        proposed: Vec<Proposal>,
    },
    /// A worker that holds an attempt asked for a further run whose tensors have the same shapes, and there is one.
    AskedAlike {
        /// Which.
        worker: WorkerId,
        /// Its attempt.
        like: Token,
        /// What the search proposed until a point was of that shape; empty where such a run waits.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        proposed: Vec<Proposal>,
    },
    /// A worker handed in an epoch.
    Reported {
        /// Which.
        worker: WorkerId,
        /// Of which attempt.
        token: Token,
        /// The metrics.
        epoch: Epoch,
        /// What the run has come to after it, if that was kept.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        midway: Option<BlobId>,
    },
    /// A worker ended an attempt.
    Finished {
        /// Which.
        worker: WorkerId,
        /// Which attempt.
        token: Token,
        /// How it ended.
        outcome: Outcome,
    },
    /// No sign of life came for an attempt in its lease time.
    Expired {
        /// Which attempt.
        token: Token,
    },
    /// The worker of an attempt lives and does not know of it: the answer that granted it was lost.
    Unclaimed {
        /// Which attempt.
        token: Token,
    },
    /// A worker said goodbye.
    Left {
        /// Which.
        worker: WorkerId,
    },
}

/// What came of a step of pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// A smaller network, to be trained.
    Made {
        /// Its spec.
        model: AudioCnn,
        /// Blob: its weights.
        weights: BlobId,
        /// Blob: logits of the training rows by the champion before the first step; none without distillation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        teacher: Option<BlobId>,
        /// What was removed and why, in words.
        why: String,
    },
    /// Nothing; pruning ends before this step.
    Refused {
        /// In words.
        why: String,
    },
}

/// What came of quantising the model to be exported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantisation {
    /// It is to be trained on, rounding as int8 does.
    Aware {
        /// Ranges in which int8 holds the input and what leaves every step that has a scale.
        ranges: Vec<Range>,
        /// What calibration alone came to, in words.
        why: String,
    },
    /// It stays as it is.
    Kept {
        /// In words.
        why: String,
    },
}

/// The answer to an event that was accepted.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The sweep has this number.
    Submitted(SweepId),
    /// The replay of the trial that is under way has this number.
    Replaying(ReplayId),
    /// The worker has this number.
    Joined(WorkerId),
    /// Train this.
    Granted(Box<Grant>),
    /// Every point that was left is infeasible.
    NothingLeft,
    /// Go on, or end the attempt.
    Verdict(Verdict),
    /// Noted.
    Noted,
}

/// What tells one decision from another: the first bytes of the BLAKE3 hash of its JSON. Chance makes two alike once in 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; Digest::BYTES]);

impl Digest {
    /// Its length.
    pub const BYTES: usize = 8;
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Decision {
    /// Its digest. A field that is added to a decision has to be left out of its JSON where nothing is other than before.
    pub fn digest(&self) -> Digest {
        // Everything in a decision has a form in JSON.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut bytes = [0; Digest::BYTES];
        blake3::Hasher::new().update(&json).finalize_xof().fill(&mut bytes);
        Digest(bytes)
    }
}

impl EventKind {
    /// What happened, in a word: as it stands in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Submitted { .. } => "submitted",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::Cancelled { .. } => "cancelled",
            Self::ReplayAsked { .. } => "replay_asked",
            Self::Pruned { .. } => "pruned",
            Self::Quantised { .. } => "quantised",
            Self::Joined { .. } => "joined",
            Self::Asked { .. } => "asked",
            Self::AskedAlike { .. } => "asked_alike",
            Self::Reported { .. } => "reported",
            Self::Finished { .. } => "finished",
            Self::Expired { .. } => "expired",
            Self::Unclaimed { .. } => "unclaimed",
            Self::Left { .. } => "left",
        }
    }
}

/// A worker's right to one attempt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grant {
    /// To be shown with every call about the attempt.
    pub token: Token,
    /// What is attempted.
    pub run: RunId,
    /// From 1.
    pub attempt: u32,
    /// The replay that the attempt belongs to, if any. Workers are not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayId>,
    /// What to do.
    pub job: Job,
}

/// Why an event was not accepted. It changed nothing and is not in the log.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// No worker of that number, or one that has left: it should join again.
    #[error("worker {0} is unknown or has left; join again")]
    UnknownWorker(WorkerId),
    /// The attempt has ended, or was never this worker's.
    #[error("lease {0} has ended or belongs to another worker")]
    LeaseEnded(Token),
    /// Epochs come in order, each once.
    #[error("epoch {got} was reported where epoch {expected} is due")]
    EpochOutOfOrder {
        /// The next epoch, or the last when the recipe allows no more.
        expected: u32,
        /// What came.
        got: u32,
    },
    /// A result that does not fit what was reported.
    #[error("best epoch {best} is not among the {reported} epochs reported")]
    BestEpoch {
        /// What came.
        best: u32,
        /// Epochs known.
        reported: u32,
    },
    /// Sweeps are told apart by their names.
    #[error("there is a sweep {0:?} already; give this one another name, or another database")]
    NameTaken(String),
    /// No sweep of that number.
    #[error("there is no sweep {0}")]
    UnknownSweep(SweepId),
    /// Nothing can be paused, resumed or cancelled any more.
    #[error("sweep {0:?} has ended")]
    SweepEnded(String),
    /// No trial of that number.
    #[error("there is no trial {0} yet")]
    UnknownTrial(TrialId),
    /// Only what has a result can be compared with it.
    #[error("trial {0} has not completed, so there is nothing to compare a replay with")]
    NotCompleted(TrialId),
    /// It was cut before, or what comes before it has not ended.
    #[error("step {step} of pruning trial {trial} is not due")]
    NotDue {
        /// The trial.
        trial: TrialId,
        /// From 1.
        step: u32,
    },
    /// It was quantised before, or what comes before that has not ended.
    #[error("quantising trial {0} is not due")]
    QuantisationNotDue(TrialId),
    /// A worker without slots cannot train.
    #[error("a worker needs from 1 to {most} slots, got {got}")]
    Slots {
        /// What came.
        got: u32,
        /// The limit.
        most: u32,
    },
}
