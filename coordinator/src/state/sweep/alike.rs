//! Runs whose tensors have the same shapes, which a worker may train as one computation.

use earshot_common::{
    ids::{FoldId, RunId, Token, TrialId, WorkerId},
    job::Shape,
};

use super::SweepState;
use crate::{search::Proposal, state::event::Grant};

/// Runs that may wait, proposed or not, while one of a shape is looked for: far more than are trained as one computation, few
/// enough to be looked through at every grant.
const AHEAD_MAX: usize = 32;

impl SweepState {
    /// A further run of the same shape as this one.
    pub(in crate::state) fn grant_alike(
        &mut self,
        run: RunId,
        worker: WorkerId,
        proposed: &[Proposal],
        token: Token,
        at_ms: u64,
    ) -> Option<Grant> {
        let shape = self.job(run)?.shape()?;
        for proposal in proposed {
            self.admit(proposal.clone());
        }
        let next = self.alike(&shape)?;
        self.lease(next, worker, token, at_ms)
    }

    /// What the search proposes until a further run of the same shape as this one waits, if it has to be asked at all; none if
    /// it comes to none.
    pub(in crate::state) fn proposals_alike(&self, run: RunId) -> Option<Vec<Proposal>> {
        let shape = self.job(run).filter(|_| self.has_work())?.shape()?;
        let mut proposed = Vec::new();
        if self.alike(&shape).is_some() {
            return Some(proposed);
        }
        let ahead = if self.sweep.search.heeds_results() { 1 } else { AHEAD_MAX };
        while self.waiting.len() + proposed.len() < ahead
            && ((self.trials.len() + proposed.len()) as u64) < self.trials_total()
        {
            let proposal = self.propose(&proposed)?;
            let (model, _, infeasible) = self.verdict(&proposal.point);
            // One that may be held at a rung is trained alone; in Hyperband that depends on its number.
            let trial = TrialId((self.trials.len() + proposed.len()) as u32);
            let is_held = !self.rungs(RunId { trial, ..run }).is_empty();
            let is_alike = infeasible.is_none() && !is_held && {
                let recipe =
                    proposal.point.recipe(&self.sweep.schedule, &self.sweep.front_end, self.sweep.seed);
                shape == Shape::new(&model, &recipe, &self.dataset.shards)
            };
            proposed.push(proposal);
            if is_alike {
                return Some(proposed);
            }
        }
        None
    }

    /// The first run that waits, is of this shape and begins at its first epoch.
    fn alike(&self, shape: &Shape) -> Option<(TrialId, FoldId)> {
        let is_alike = |&(trial, fold): &(TrialId, FoldId)| {
            let id = RunId { sweep: self.id, trial, fold };
            let begins = self.run(id).is_some_and(|run| run.kept().is_none());
            begins && self.job(id).and_then(|job| job.shape()).as_ref() == Some(shape)
        };
        self.waiting.iter().copied().find(is_alike)
    }
}
