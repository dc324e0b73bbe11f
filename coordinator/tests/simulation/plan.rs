//! What a seed means: how many workers, how bad the network, which faults how often. Quiet worlds, in which hardly anything
//! goes wrong, are as likely as terrible ones: each finds other mistakes.

use crate::dice::Dice;

/// A lease ends this long after its last sign of life; as long as the product's.
pub(crate) const LEASE_MS: u64 = 15_000;
pub(crate) const HEARTBEAT_MS: u64 = LEASE_MS / 3;
/// How often deadlines are looked at.
pub(crate) const TICK_MS: u64 = 400;
/// How long a worker waits for an answer before it asks again.
pub(crate) const ANSWER_MS: u64 = 8_000;

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) workers: usize,
    pub(crate) sweeps: usize,
    /// Faults happen until then; afterwards everything must come to its end.
    pub(crate) calm_at_ms: u64,
    /// Of each message.
    pub(crate) drop: f64,
    pub(crate) duplicate: f64,
    /// Long enough to overtake dozens of others, or to arrive after a lease has ended.
    pub(crate) delay: f64,
    /// Means between two, in milliseconds; 0: never.
    pub(crate) crash_mean_ms: u64,
    pub(crate) worker_crash_mean_ms: u64,
    pub(crate) freeze_mean_ms: u64,
    pub(crate) partition_mean_ms: u64,
    pub(crate) leave_mean_ms: u64,
    pub(crate) jump_mean_ms: u64,
    pub(crate) lie_mean_ms: u64,
    /// Between two wishes of the user that a trial be replayed; they end with the faults.
    pub(crate) replay_mean_ms: u64,
    /// Of each commit.
    pub(crate) slow_commit: f64,
    /// Of each commit: dies after it, having sent some of the answers.
    pub(crate) torn_answers: f64,
    /// Of each attempt.
    pub(crate) failure: f64,
    /// Of each run: every worker that trains it dies; every attempt at it diverges.
    pub(crate) cursed: f64,
    pub(crate) divergent: f64,
    /// Of each attempt: rounds otherwise than the others.
    pub(crate) rounds_otherwise: f64,
    /// Whether attempts at the same run leave the same. Where they do not, results tell attempts apart.
    pub(crate) is_deterministic: bool,
}

impl Plan {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let workers = match dice.below(100) {
            0..70 => dice.between(1, 6),
            70..99 => dice.between(7, 24),
            _ => dice.between(100, 300),
        };
        let mut mean_ms = |often_ms: u64| match dice.below(3) {
            0 => 0,
            1 => often_ms * 5,
            _ => often_ms,
        };
        let crash_mean_ms = mean_ms(12_000);
        let worker_crash_mean_ms = mean_ms(15_000);
        let freeze_mean_ms = mean_ms(20_000);
        let partition_mean_ms = mean_ms(15_000);
        let leave_mean_ms = mean_ms(30_000);
        let jump_mean_ms = mean_ms(40_000);
        let lie_mean_ms = mean_ms(1_500);
        let replay_mean_ms = mean_ms(10_000);
        let mut odds = |often: f64| match dice.below(3) {
            0 => 0.0,
            1 => often / 10.0,
            _ => often,
        };
        Self {
            workers: workers as usize,
            drop: odds(0.15),
            duplicate: odds(0.15),
            delay: odds(0.1),
            slow_commit: odds(0.1),
            torn_answers: odds(0.02),
            failure: odds(0.3),
            cursed: odds(0.1),
            divergent: odds(0.1),
            rounds_otherwise: odds(0.2),
            is_deterministic: dice.chance(0.5),
            crash_mean_ms,
            worker_crash_mean_ms,
            freeze_mean_ms,
            partition_mean_ms,
            leave_mean_ms,
            jump_mean_ms,
            lie_mean_ms,
            replay_mean_ms,
            sweeps: dice.between(1, 3) as usize,
            calm_at_ms: dice.between(20_000, 90_000),
        }
    }

    /// The faults are over.
    pub(crate) fn calm(&mut self) {
        self.drop = 0.0;
        self.duplicate = 0.0;
        self.delay = 0.0;
        self.slow_commit = 0.0;
        self.torn_answers = 0.0;
        self.failure = 0.0;
    }
}
