//! How large a step is, step after step: PyTorch's schedulers, called after every step of the optimiser.

use std::f64::consts::PI;

use earshot_common::job::{LrScheduler, Recipe};

/// Decay of the mean of gradients, where nothing cycles it: `torch.optim.Adam`'s `betas[0]`.
pub const BETA_1: f64 = 0.9;

/// `OneCycleLR`'s defaults: the part of the steps in which the rate rises, what the largest rate is divided by at the
/// start, what that is divided by at the end, and between what the decay of the mean of gradients cycles.
const PCT_START: f64 = 0.3;
const DIV_FACTOR: f64 = 25.0;
const FINAL_DIV_FACTOR: f64 = 1e4;
const BASE_MOMENTUM: f64 = 0.85;
const MAX_MOMENTUM: f64 = 0.95;

/// What the optimiser is told for one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean of gradients.
    pub beta_1: f64,
}

/// The paces of a run's steps.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    scheduler: LrScheduler,
    learning_rate: f64,
    /// Steps of the run, if it does not stop early.
    steps: u64,
}

impl Schedule {
    /// Of a recipe whose epochs have so many steps.
    pub fn new(recipe: &Recipe, steps_of_epoch: usize) -> Self {
        Self {
            scheduler: recipe.lr_scheduler,
            learning_rate: recipe.learning_rate,
            steps: u64::from(recipe.epochs) * steps_of_epoch as u64,
        }
    }

    /// The pace of a step, numbered from 0 over all epochs.
    pub fn pace(&self, step: u64) -> Pace {
        let learning_rate = self.learning_rate;
        match self.scheduler {
            LrScheduler::Constant => Pace { learning_rate, beta_1: BETA_1 },
            // CosineAnnealingLR with T_max the run's steps and eta_min 0, in its closed form (Loshchilov and Hutter 2017, equation 5).
            LrScheduler::Cosine => {
                let part = step as f64 / self.steps.max(1) as f64;
                Pace { learning_rate: annealed(learning_rate, 0.0, part), beta_1: BETA_1 }
            }
            LrScheduler::OneCycle => self.one_cycle(step),
        }
    }

    /// OneCycleLR with cosine annealing, two phases and cycled momentum.
    fn one_cycle(&self, step: u64) -> Pace {
        let first = self.learning_rate / DIV_FACTOR;
        let last = first / FINAL_DIV_FACTOR;
        let steps = self.steps as f64;
        let (step, top, end) = (step as f64, PCT_START * steps - 1.0, steps - 1.0);
        let (from, to, part) = if step <= top {
            ((first, MAX_MOMENTUM), (self.learning_rate, BASE_MOMENTUM), step / top)
        } else {
            ((self.learning_rate, BASE_MOMENTUM), (last, MAX_MOMENTUM), (step - top) / (end - top))
        };
        Pace { learning_rate: annealed(from.0, to.0, part), beta_1: annealed(from.1, to.1, part) }
    }
}

/// Half a cosine from one value to another.
fn annealed(from: f64, to: f64, part: f64) -> f64 {
    to + (from - to) / 2.0 * (1.0 + (PI * part).cos())
}
