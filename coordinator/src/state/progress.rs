//! When a sweep's trials completed, and what had been spent until then.

use earshot_common::ids::TrialId;
use serde::Serialize;

/// What a sweep has spent, and when it got something for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Progress {
    /// When the sweep was submitted.
    since_ms: u64,
    /// Epochs reported, of all attempts but replays'.
    epochs: u64,
    completions: Vec<Completion>,
}

/// A trial has completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Completion {
    /// Which.
    pub trial: TrialId,
    /// Milliseconds since the sweep was submitted.
    pub after_ms: u64,
    /// Epochs that the sweep had spent.
    pub epochs: u64,
}

impl Progress {
    pub(super) fn since(at_ms: u64) -> Self {
        Self { since_ms: at_ms, ..Self::default() }
    }

    pub(super) fn spend_epoch(&mut self) {
        self.epochs += 1;
    }

    pub(super) fn complete(&mut self, trial: TrialId, at_ms: u64) {
        let after_ms = at_ms.saturating_sub(self.since_ms);
        self.completions.push(Completion { trial, after_ms, epochs: self.epochs });
    }

    pub(super) fn completions(&self) -> &[Completion] {
        &self.completions
    }
}
