//! How attempts are reported on, and how they end.

use earshot_common::{
    ids::{BlobId, Token, WorkerId},
    job::{Epoch, Outcome, RunResult, Verdict},
};

use super::{Attempt, AttemptEnd, Decision, Refusal, RunStatus, State, Task};

impl State {
    pub(super) fn report(
        &mut self,
        task: Task,
        epoch: &Epoch,
        midway: Option<BlobId>,
        at_ms: u64,
    ) -> Result<Verdict, Refusal> {
        match task {
            Task::Run(run) => {
                let Some(sweep) = self.sweeps.get_mut(&run.sweep) else { return Ok(Verdict::Stop) };
                let (verdict, ended) = sweep.report(run, epoch, midway)?;
                for token in ended {
                    self.release(token, at_ms);
                }
                Ok(verdict)
            }
            Task::Replay(id, run) => {
                let Some(sweep) = self.sweeps.get(&run.sweep) else { return Ok(Verdict::Stop) };
                let Some(original) = sweep.run(run) else { return Ok(Verdict::Stop) };
                let last = sweep.recipe(run).map_or(0, |recipe| recipe.epochs);
                self.replays.report(id, run.fold, (epoch, midway), original, last)
            }
        }
    }

    pub(super) fn complete(&mut self, task: Task, result: RunResult, at_ms: u64) -> Result<(), Refusal> {
        match task {
            Task::Run(run) => {
                self.sweeps.get_mut(&run.sweep).map_or(Ok(()), |sweep| sweep.complete(run, result, at_ms))
            }
            Task::Replay(id, run) => match self.sweeps.get(&run.sweep).and_then(|sweep| sweep.run(run)) {
                Some(original) => self.replays.complete(id, run.fold, result, original),
                None => Ok(()),
            },
        }
    }

    pub(super) fn finish(
        &mut self,
        worker: WorkerId,
        token: Token,
        outcome: &Outcome,
        at_ms: u64,
    ) -> Result<Decision, Refusal> {
        self.present(worker)?;
        if self.is_repeated(worker, token, outcome) {
            return Ok(Decision::Noted);
        }
        let task = self.live(worker, token)?;
        let end = match outcome {
            Outcome::Completed(result) => {
                self.complete(task, *result, at_ms)?;
                AttemptEnd::Completed
            }
            Outcome::Failed(failure) => AttemptEnd::Failed(failure.clone()),
        };
        self.end(task, token, end, at_ms);
        Ok(Decision::Noted)
    }

    /// A worker whose answer was lost says again what is already known.
    fn is_repeated(&self, worker: WorkerId, token: Token, outcome: &Outcome) -> bool {
        let Some(attempt) = self.attempt(token).filter(|attempt| attempt.worker == worker) else {
            return false;
        };
        match (&attempt.end, outcome) {
            (Some(AttemptEnd::Failed(known)), Outcome::Failed(failure)) => known == failure,
            (Some(AttemptEnd::Completed), Outcome::Completed(result)) => {
                self.run(token).is_some_and(|run| run.status == RunStatus::Completed(*result))
            }
            _ => false,
        }
    }

    pub(super) fn leave(&mut self, id: WorkerId, at_ms: u64) -> Result<Decision, Refusal> {
        let held = self.present(id)?.held.clone();
        for token in held {
            if let Some(&task) = self.attempts.get(&token) {
                self.end(task, token, AttemptEnd::Left, at_ms);
            }
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.has_left = true;
        }
        Ok(Decision::Noted)
    }

    /// Ends an attempt whose lease has run out.
    pub(super) fn lose(&mut self, token: Token, end: AttemptEnd, at_ms: u64) -> Result<(), Refusal> {
        let task = self.attempts.get(&token).copied().filter(|_| self.is_live(token));
        self.end(task.ok_or(Refusal::LeaseEnded(token))?, token, end, at_ms);
        Ok(())
    }

    /// Ends an attempt, and with it those of the trial's other runs that nobody needs any more.
    fn end(&mut self, task: Task, token: Token, end: AttemptEnd, at_ms: u64) {
        self.release(token, at_ms);
        let (Task::Run(run) | Task::Replay(_, run)) = task;
        let Some(sweep) = self.sweeps.get_mut(&run.sweep) else { return };
        if let Task::Replay(id, _) = task {
            return self.replays.end(id, run.fold, token, end, sweep.sweep().budget.attempts as usize);
        }
        for token in sweep.end(run, token, end) {
            self.release(token, at_ms);
        }
    }

    /// Takes an attempt that has ended off its worker's hands, and enters its time with its sweep.
    pub(super) fn release(&mut self, token: Token, at_ms: u64) {
        let Some(&Attempt { worker, granted_at_ms, .. }) = self.attempt(token) else { return };
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.held.retain(|held| *held != token);
        }
        if let Some(&Task::Run(run)) = self.attempts.get(&token)
            && let Some(sweep) = self.sweeps.get_mut(&run.sweep)
        {
            sweep.close(granted_at_ms, at_ms);
        }
    }
}
