//! Pauses between tries: exponential with jitter, so that the workers of a restarted coordinator do not all come at once.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::Xoshiro256PlusPlus};
use tokio::time;

/// How long the pauses are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The first pause at most.
    pub first: Duration,
    /// Any pause at most.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), longest: Duration::from_secs(5) }
    }
}

/// The pauses of one call that is tried again.
#[derive(Debug)]
pub struct Backoff {
    pace: Pace,
    failures: u32,
    rng: Xoshiro256PlusPlus,
}

/// Sets apart the jitter of the calls of one process; processes are set apart by their number.
static CALLS: AtomicU64 = AtomicU64::new(0);

impl Backoff {
    /// No failures yet.
    pub fn new(pace: Pace) -> Self {
        let seed = u64::from(std::process::id()) << 32 | CALLS.fetch_add(1, Ordering::Relaxed);
        Self { pace, failures: 0, rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// The call went well: the next pause is short again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next pause: between half and all of twice the last one.
    pub fn pause(&mut self) -> Duration {
        let doubled = self.pace.first.saturating_mul(2_u32.saturating_pow(self.failures));
        self.failures = self.failures.saturating_add(1);
        let part = f64::from(self.rng.next_u32()) / f64::from(u32::MAX);
        doubled.min(self.pace.longest).mul_f64(f64::midpoint(1.0, part))
    }

    /// Waits for the next pause.
    pub async fn wait(&mut self) {
        time::sleep(self.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_never_vanish() {
        let pace = Pace { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
        let mut backoff = Backoff::new(pace);
        for failure in 0..100 {
            let most = pace.first.saturating_mul(2_u32.saturating_pow(failure)).min(pace.longest);
            let pause = backoff.pause();
            assert!(pause <= most && pause >= most / 2, "{failure}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= pace.first);
    }
}
