//! Trial fusion: runs whose tensors have the same shapes, trained as one computation.
//!
//! A small network leaves most of a GPU idle, and its steps are so short that starting them takes longer than computing them.
//! Side by side, `k` members start as many operations as one of them alone, each `k` times as large (Wang et al. 2021,
//! "Horizontally Fused Training Array", arXiv:2102.02344).
//!
//! - [`stacked`]: tensors of all members in one; [`operations`]: what is computed otherwise than for one network.
//! - [`network`]: forward; [`optimiser`]: Adam and AdamW, each member at its own rates.
//! - [`learner`]: both with the members' batches, which [`crate::training::stack`] gathers.
//!
//! Members have in common what [`earshot_common::job::Shape`] says, and the number of training rows. All else is a member's own: weights,
//! order, masks, augmentation, rates, decay, patience. No number of one enters another's, so each ends as it would alone but for
//! rounding. A member that has ended is taken out at the end of the epoch and the others go on.

use earshot_common::{
    job::{Epoch, Job, Keep},
    tensors::Tensors,
};
use tch::Device;

use crate::{
    control::{Control, State},
    features::Features,
    network::{NetworkError, fresh_weights},
    training::{TrainError, Trained, best::Best, evaluation::Evaluation, finish},
};

pub mod learner;
pub mod network;
pub mod operations;
pub mod optimiser;
pub mod stacked;

use self::learner::FusedLearner;

/// One run of several.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// What to train.
    pub job: &'a Job,
    /// On what.
    pub features: &'a Features,
    /// A checkpoint to start from; none: weights drawn from the recipe's seed.
    pub weights: Option<&'a Tensors>,
    /// Whether it is still wanted.
    pub control: &'a Control,
}

/// Who is told of the members, by their places in the list that was handed in.
pub trait Company {
    /// A member's epoch is over.
    fn epoch(&mut self, member: usize, epoch: Epoch);

    /// A member has ended; nothing more is said of it.
    fn ended(&mut self, member: usize, result: Result<Trained, TrainError>);
}

/// A member that has not been taken out.
struct Run<'a> {
    member: usize,
    of: Member<'a>,
    labels: Vec<u16>,
    /// Its best epoch so far, without the weights: those stay on the device.
    best: Option<Best>,
    has_ended: bool,
}

/// Trains all members to their ends.
///
/// # Errors
/// What ends them all: the networks cannot be built, or libtorch refuses. Members that have ended before are not concerned.
pub fn train(members: &[Member<'_>], device: Device, company: &mut impl Company) -> Result<(), TrainError> {
    let fresh = members.iter().map(|member| match member.weights {
        Some(_) => Ok(None),
        None => fresh_weights(&member.job.model, member.job.recipe.seed).map(Some),
    });
    let fresh: Vec<Option<Tensors>> = fresh.collect::<Result<_, NetworkError>>()?;
    let weights = members.iter().zip(&fresh).filter_map(|(member, fresh)| member.weights.or(fresh.as_ref()));
    let mut learner = FusedLearner::new(members, &weights.collect::<Vec<_>>(), device)?;
    let mut runs: Vec<Run<'_>> = members
        .iter()
        .enumerate()
        .map(|(member, of)| Run {
            member,
            of: *of,
            labels: of.features.validation_labels(),
            best: None,
            has_ended: false,
        })
        .collect();
    for epoch in 1.. {
        learner.begin_epoch()?;
        for index in 0..learner.count() {
            end_unwanted(&mut runs, &learner, company)?;
            if runs.iter().all(|run| run.has_ended) {
                return Ok(());
            }
            learner.step(index)?;
        }
        end_epoch(epoch, &mut runs, &mut learner, company)?;
        let is_kept: Vec<bool> = runs.iter().map(|run| !run.has_ended).collect();
        runs.retain(|run| !run.has_ended);
        if runs.is_empty() {
            return Ok(());
        }
        if is_kept.contains(&false) {
            learner.retain(&is_kept)?;
        }
    }
    Ok(())
}

/// Ends members at the agent's word. They compute on to the end of the epoch, and nobody looks at it.
fn end_unwanted(
    runs: &mut [Run<'_>],
    learner: &FusedLearner<'_>,
    company: &mut impl Company,
) -> Result<(), TrainError> {
    for (place, run) in runs.iter_mut().enumerate().filter(|(_, run)| !run.has_ended) {
        let state = run.of.control.state();
        if state > State::Running {
            let best = run.best.take().filter(|_| state == State::Stopping);
            run.end(best, place, learner, company)?;
        }
    }
    Ok(())
}

/// Scores every member after an epoch, keeps what is best, and ends those that train no more.
fn end_epoch(
    epoch: u32,
    runs: &mut [Run<'_>],
    learner: &mut FusedLearner<'_>,
    company: &mut impl Company,
) -> Result<(), TrainError> {
    let (losses, logits) = (learner.take_means()?, learner.logits()?);
    let mut are_best = Vec::with_capacity(runs.len());
    let mut are_final = Vec::with_capacity(runs.len());
    for (run, (train_loss, logits)) in runs.iter_mut().zip(losses.into_iter().zip(logits)) {
        let (is_best, is_final) = run.score(epoch, train_loss, logits, company);
        are_best.push(is_best);
        are_final.push(is_final);
    }
    learner.keep(&are_best)?;
    for (place, (run, is_final)) in runs.iter_mut().zip(are_final).enumerate() {
        if is_final && !run.has_ended {
            let best = run.best.take();
            run.end(best, place, learner, company)?;
        }
    }
    Ok(())
}

impl Run<'_> {
    /// Takes an epoch's numbers: whether it is the best so far, and whether it is the last.
    fn score(
        &mut self,
        epoch: u32,
        train_loss: f64,
        logits: Vec<f32>,
        company: &mut impl Company,
    ) -> (bool, bool) {
        if self.has_ended {
            return (false, false);
        }
        let recipe = &self.of.job.recipe;
        let evaluation = Evaluation::new(logits, &self.labels);
        let Some(epoch) = evaluation.epoch(epoch, train_loss) else {
            self.has_ended = true;
            company.ended(self.member, Err(TrainError::Diverged { epoch }));
            return (false, false);
        };
        let (so_far, is_best) = match self.best.take() {
            Some(best) if recipe.keep == Keep::Best && !best.is_beaten_by(&epoch) => (best, false),
            _ => (Best { epoch, weights: Tensors::new(), logits: evaluation.logits }, true),
        };
        let is_final = so_far.is_final(&epoch, recipe.patience) || epoch.epoch >= recipe.epochs;
        self.best = Some(so_far);
        company.epoch(self.member, epoch);
        (is_best, is_final)
    }

    /// Ends it with what its best epoch left, or with nothing.
    fn end(
        &mut self,
        best: Option<Best>,
        place: usize,
        learner: &FusedLearner<'_>,
        company: &mut impl Company,
    ) -> Result<(), TrainError> {
        let result = match best {
            Some(best) => finish(Best { weights: learner.kept(place)?, ..best }, self.of.features),
            None => Err(TrainError::Halted),
        };
        self.has_ended = true;
        company.ended(self.member, result);
        Ok(())
    }
}
