//! The training thread's only look at a clock: whether something is due again.

use std::time::{Duration, Instant};

/// Is due again and again, at least so far apart.
#[derive(Debug)]
pub struct Timer {
    every: Duration,
    since: Instant,
}

#[expect(clippy::disallowed_methods, reason = "this is the home of the training thread's clock")]
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
