//! Which of several sweeps is served next: the one that has had the least of the workers' time, by its weight.
//!
//! Time is that of attempts, from their grant to their end, so a sweep of long runs gets as much as one of short ones. An attempt
//! that is alive counts for as long as attempts of its sweep take on average, or for its own time once that is longer; so those
//! that ask at the same moment are spread over the sweeps, too. A sweep that has nothing to hand out saves nothing: it takes
//! part again from where the others are, as one that has just been submitted does.

use earshot_common::ids::{SweepId, Token, WorkerId};
use serde::Serialize;

use super::{Grant, State, SweepState};
use crate::search::Proposal;

/// The workers' time, by weight: one millisecond of a sweep of weight `w` is [`MILLISECOND`]` / w`.
pub(super) type Share = u128;

/// Every weight up to 16 divides it, so that no rounding favours anybody among the usual ones.
const MILLISECOND: Share = 720_720;

/// What a sweep has had of the workers' time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Account {
    /// By its attempts that have ended, and what it missed while it had nothing to hand out.
    spent: Share,
    /// Attempts that have ended, and their time together.
    ended: u64,
    ended_ms: u64,
    /// Attempts that are alive, and the sum of the times at which they were granted.
    alive: u64,
    granted_ms: u64,
}

impl Account {
    /// An attempt begins.
    pub(super) fn open(&mut self, at_ms: u64) {
        self.alive += 1;
        self.granted_ms += at_ms;
    }

    fn close(&mut self, granted_at_ms: u64, at_ms: u64, weight: u32) {
        let took_ms = at_ms.saturating_sub(granted_at_ms);
        self.alive = self.alive.saturating_sub(1);
        self.granted_ms = self.granted_ms.saturating_sub(granted_at_ms);
        self.ended += 1;
        self.ended_ms += took_ms;
        self.spent += share(took_ms, weight);
    }

    /// What it has had, attempts that are alive included. `usual_ms` is how long they take where none has ended yet.
    fn had(&self, usual_ms: u64, weight: u32, at_ms: u64) -> Share {
        let so_far_ms = (self.alive * at_ms).saturating_sub(self.granted_ms);
        let usual_ms = self.ended_ms.checked_div(self.ended).unwrap_or(usual_ms).max(1);
        self.spent + share(so_far_ms.max(self.alive * usual_ms), weight)
    }
}

fn share(ms: u64, weight: u32) -> Share {
    Share::from(ms) * MILLISECOND / Share::from(weight.max(1))
}

impl SweepState {
    /// An attempt has ended.
    pub(super) fn close(&mut self, granted_at_ms: u64, at_ms: u64) {
        let weight = self.sweep().weight;
        self.account_mut().close(granted_at_ms, at_ms, weight);
    }

    /// What it has had of the workers' time, by its weight.
    fn had(&self, usual_ms: u64, at_ms: u64) -> Share {
        self.account().had(usual_ms, self.sweep().weight, at_ms)
    }

    /// Forgoes what it has not asked for until now.
    pub(super) fn catch_up(&mut self, level: Share, at_ms: u64) {
        let missed = level.saturating_sub(self.had(0, at_ms));
        self.account_mut().spent += missed;
    }
}

impl State {
    /// Takes a run of the sweep that has had the least; of equals, of the oldest.
    pub(super) fn grant_fairly(
        &mut self,
        worker: WorkerId,
        proposed: &[Proposal],
        token: Token,
        at_ms: u64,
    ) -> Option<Grant> {
        let order = self.by_share(at_ms);
        if let Some(&(level, _)) = order.first() {
            self.level = level;
            for sweep in self.sweeps.values_mut().filter(|sweep| !sweep.has_ended() && !sweep.has_work()) {
                sweep.catch_up(level, at_ms);
            }
        }
        // The proposals are those of the first; if its search has run out, the others' are asked.
        let proposed = std::iter::once(proposed).chain(std::iter::repeat(&[] as &[Proposal]));
        order
            .into_iter()
            .zip(proposed)
            .find_map(|((_, id), proposed)| self.sweeps.get_mut(&id)?.grant(worker, proposed, token, at_ms))
    }

    /// Sweeps with work in the order in which they are served, each with what it has had.
    fn by_share(&self, at_ms: u64) -> Vec<(Share, SweepId)> {
        let usual_ms = self.usual_ms();
        let with_work = self.sweeps.iter().filter(|(_, sweep)| sweep.has_work());
        let mut shares: Vec<_> = with_work.map(|(&id, sweep)| (sweep.had(usual_ms, at_ms), id)).collect();
        shares.sort_unstable();
        shares
    }

    /// How long an attempt takes on average, whatever its sweep.
    fn usual_ms(&self) -> u64 {
        let accounts = || self.sweeps.values().map(SweepState::account);
        let ended_ms: u64 = accounts().map(|account| account.ended_ms).sum();
        ended_ms.checked_div(accounts().map(|account| account.ended).sum()).unwrap_or(0)
    }

    /// What a search would propose if a worker asked at this time, to be written into [`super::EventKind::Asked`].
    pub fn proposals(&self, at_ms: u64) -> Vec<Proposal> {
        if self.next_replay().is_some() {
            return Vec::new();
        }
        let at_ms = at_ms.max(self.at_ms);
        let next = self.by_share(at_ms).first().and_then(|(_, id)| self.sweeps.get(id));
        next.map_or_else(Vec::new, SweepState::proposals)
    }
}
