//! The worker's looks at a clock: whether something is due again, and how long something still takes.

use std::time::{Duration, Instant};

/// How long a row of equal steps has taken, and by that still takes.
#[derive(Debug)]
pub struct Estimate {
    since: Instant,
    first: Option<u32>,
}

#[expect(clippy::disallowed_methods, reason = "this is the home of the worker's clock")]
impl Estimate {
    /// Nothing is known yet.
    pub fn start() -> Self {
        Self { since: Instant::now(), first: None }
    }

    /// How long the steps after `done` of `all` will take; none at the first step that is seen: getting ready took part of its time, and
    /// a run that goes on from where another was kept begins with a later one.
    pub fn left(&mut self, done: u32, all: u32) -> Option<Duration> {
        let now = Instant::now();
        let Some(first) = self.first else {
            *self = Self { since: now, first: Some(done) };
            return None;
        };
        let steps = done.checked_sub(first).filter(|&steps| steps > 0)?;
        Some(now.duration_since(self.since) / steps * all.saturating_sub(done))
    }
}

/// Is due again and again, at least so far apart.
#[derive(Debug)]
pub struct Timer {
    every: Duration,
    since: Instant,
}

#[expect(clippy::disallowed_methods, reason = "this is the home of the worker's clock")]
impl Timer {
    /// Due for the first time when `every` has passed.
    pub fn start(every: Duration) -> Self {
        Self { every, since: Instant::now() }
    }

    /// Whether it is due; if so, it begins anew.
    pub fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = now.duration_since(self.since) >= self.every;
        if is_due {
            self.since = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_was_done() {
        let mut estimate = Estimate::start();
        assert_eq!(estimate.left(5, 10), None);
        assert_eq!(estimate.left(5, 10), None, "the same step again");
        estimate.since -= Duration::from_secs(4);
        let left = estimate.left(7, 10).unwrap();
        assert!(left >= Duration::from_secs(6) && left < Duration::from_mins(1), "{left:?}");
        assert_eq!(estimate.left(10, 10), Some(Duration::ZERO));
    }
}
