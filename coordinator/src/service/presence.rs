//! Which workers were heard lately, and which know that all is done.
//!
//! This is not in the state: nothing is decided by it. It makes `status` honest about workers that vanished between leases,
//! and tells `start --exit-when-done` when nobody waits for an answer any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use earshot_common::ids::WorkerId;
use tokio::sync::watch;

use crate::clock::Clock;

/// What was heard of workers since the coordinator started. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Presence {
    /// A std mutex: nothing waits while holding it.
    heard: Arc<Mutex<BTreeMap<WorkerId, Heard>>>,
    told: watch::Sender<u64>,
    clock: Clock,
    silence_ms: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    at_ms: u64,
    /// Slots that were told that every run has ended.
    told: u32,
}

impl Presence {
    /// Nobody was heard yet. A worker counts as present until it was silent for `silence_ms`.
    pub fn new(silence_ms: u64) -> Self {
        Self { heard: Arc::default(), told: watch::Sender::new(0), clock: Clock::start(0), silence_ms }
    }

    /// Workers that were heard lately.
    pub fn present(&self) -> BTreeSet<WorkerId> {
        let since_ms = self.clock.now_ms().saturating_sub(self.silence_ms);
        self.lock().iter().filter(|(_, heard)| heard.at_ms >= since_ms).map(|(&worker, _)| worker).collect()
    }

    /// Whether each of this worker's slots was told that every run has ended.
    pub fn knows_the_end(&self, worker: WorkerId, slots: u32) -> bool {
        self.lock().get(&worker).is_some_and(|heard| heard.told >= slots)
    }

    /// Changes whenever a slot was told that every run has ended.
    pub fn tellings(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }

    /// A call of this worker was answered.
    pub(super) fn heard(&self, worker: WorkerId) {
        let at_ms = self.clock.now_ms();
        self.lock().entry(worker).or_default().at_ms = at_ms;
    }

    /// So many slots of this worker are being told that every run has ended.
    pub(super) fn telling(&self, worker: WorkerId, slots: u32) {
        self.lock().entry(worker).or_default().told += slots;
        self.told.send_modify(|tellings| *tellings += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_ends_presence_and_every_slot_has_to_be_told() {
        let [patient, impatient] = [60_000, 0].map(Presence::new);
        for presence in [&patient, &impatient] {
            presence.heard(WorkerId(3));
        }
        assert_eq!(patient.present(), BTreeSet::from([WorkerId(3)]));
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(impatient.present(), BTreeSet::new());
        patient.telling(WorkerId(3), 1);
        assert!(patient.knows_the_end(WorkerId(3), 1) && !patient.knows_the_end(WorkerId(3), 2));
        assert!(!patient.knows_the_end(WorkerId(4), 1));
        patient.telling(WorkerId(3), 2);
        assert!(patient.knows_the_end(WorkerId(3), 3) && !patient.knows_the_end(WorkerId(3), 4));
    }
}
