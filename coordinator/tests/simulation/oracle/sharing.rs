//! What each sweep has had of the workers' time, counted out attempt by attempt, and so who is to be served.

use std::collections::BTreeMap;

use coordinator::state::State;
use earshot_common::ids::{SweepId, Token};

/// A number that every weight of the simulation divides.
const MILLISECOND: u128 = 720_720;

#[derive(Default)]
pub(super) struct Sharing {
    sweeps: BTreeMap<SweepId, Had>,
    /// What the sweep that was served last had had.
    level: u128,
}

struct Had {
    weight: u128,
    ended_ms: Vec<u64>,
    /// When each attempt that is alive was granted.
    alive: BTreeMap<Token, u64>,
    /// What it had nothing to ask for.
    missed: u128,
}

/// Who wanted to be served when somebody asked, and what each had had.
pub(super) struct Waiting(Vec<(u128, SweepId)>);

impl Had {
    fn mean_ms(&self) -> Option<u64> {
        self.ended_ms.iter().sum::<u64>().checked_div(self.ended_ms.len() as u64)
    }

    fn had(&self, usual_ms: u64, now_ms: u64) -> u128 {
        let so_far: u64 = self.alive.values().map(|granted_ms| now_ms - granted_ms).sum();
        let expected = self.alive.len() as u64 * self.mean_ms().unwrap_or(usual_ms).max(1);
        let ended: u64 = self.ended_ms.iter().sum();
        u128::from(ended + so_far.max(expected)) * (MILLISECOND / self.weight) + self.missed
    }

    fn catch_up(&mut self, level: u128, now_ms: u64) {
        self.missed += level.saturating_sub(self.had(0, now_ms));
    }
}

impl Sharing {
    pub(super) fn submitted(&mut self, id: SweepId, weight: u32, now_ms: u64) {
        let weight = u128::from(weight);
        let mut had = Had { weight, ended_ms: Vec::new(), alive: BTreeMap::new(), missed: 0 };
        had.catch_up(self.level, now_ms);
        self.sweeps.insert(id, had);
    }

    /// Somebody asks, and no replay waits; `state` is the one before.
    pub(super) fn asked(&mut self, state: &State, now_ms: u64) -> Waiting {
        let ended = || self.sweeps.values().flat_map(|had| &had.ended_ms);
        let usual_ms = ended().sum::<u64>().checked_div(ended().count() as u64).unwrap_or(0);
        let working = state.sweeps().filter(|(_, sweep)| sweep.has_work());
        let mut waiting: Vec<_> =
            working.map(|(id, _)| (self.sweeps[&id].had(usual_ms, now_ms), id)).collect();
        waiting.sort_unstable();
        if let Some(&(level, _)) = waiting.first() {
            self.level = level;
            let idle = state.sweeps().filter(|(_, sweep)| !sweep.has_work() && !sweep.has_ended());
            for (id, _) in idle {
                self.sweeps.get_mut(&id).unwrap().catch_up(level, now_ms);
            }
        }
        Waiting(waiting)
    }

    pub(super) fn granted(&mut self, id: SweepId, token: Token, now_ms: u64) {
        self.sweeps.get_mut(&id).unwrap().alive.insert(token, now_ms);
    }

    pub(super) fn ended(&mut self, id: SweepId, token: Token, now_ms: u64) {
        let had = self.sweeps.get_mut(&id).unwrap();
        let granted_ms = had.alive.remove(&token).unwrap();
        had.ended_ms.push(now_ms - granted_ms);
    }
}

impl Waiting {
    /// Whoever was served had had the least of those that had a run to hand out, and still have one; `state` is the one after.
    pub(super) fn check(&self, served: SweepId, state: &State) {
        let place = |id| self.0.iter().position(|&(_, waiting)| waiting == id);
        let served_place = place(served).expect("a sweep without work was served");
        for (id, _) in state.sweeps().filter(|(_, sweep)| sweep.has_work() && sweep.waiting() > 0) {
            let is_in_order = place(id).is_none_or(|other| served_place <= other);
            assert!(is_in_order, "sweep {served} was served where sweep {id} has had less: {:?}", self.0);
        }
    }

    /// Whether there was a choice.
    pub(super) fn is_choice(&self) -> bool {
        self.0.len() > 1
    }
}
