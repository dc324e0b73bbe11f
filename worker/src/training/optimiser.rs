//! Adam, with PyTorch's defaults and PyTorch's arithmetic (Kingma and Ba 2015, algorithm 1), and AdamW (Loshchilov and
//! Hutter 2019, algorithm 2).
//!
//! [`Rule`] says what the numbers of a step are, whoever computes it: [`Adam`] for tensors of libtorch, [`crate::cpu`] for its
//! own.

use earshot_common::{
    job::{Optimizer, Recipe},
    tensors::Tensor as Values,
};
use tch::{TchError, Tensor};

use super::schedule::Pace;
use crate::network::copy_out;

/// Decay of the mean of squared gradients.
const BETA_2: f64 = 0.999;
/// Added to the denominator.
const EPSILON: f64 = 1e-8;

/// The numbers of the steps of one run.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    decay: Decay,
    /// Steps taken.
    steps: i32,
}

/// What weight decay does.
#[derive(Debug, Clone, Copy)]
enum Decay {
    None,
    /// Adds so many times the parameter to the gradient.
    Coupled(f64),
    /// Takes so many times the step size of the parameter away.
    Decoupled(f64),
}

/// The numbers of one step: `gradient += coupled_decay · value`, `mean += rates[0] · (gradient - mean)`,
/// `square += rates[1] · (gradient² - square)`, `value = value · shrink + mean / (√square · scale + epsilon)`.
///
/// That is PyTorch's `value - (lr / c₁) · mean / (√square / √c₂ + ε)`, with the scalars drawn into the denominator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Numbers {
    /// Adam's weight decay.
    pub coupled_decay: f64,
    /// AdamW's: 1 where there is none.
    pub shrink: f64,
    /// 1 - β₁ and 1 - β₂.
    pub rates: [f64; 2],
    /// Of the denominator; negative, as the step goes down.
    pub scale: f64,
    /// Added to it; negative likewise.
    pub epsilon: f64,
}

impl Rule {
    /// Of this recipe, before its first step.
    pub fn new(recipe: &Recipe) -> Self {
        let decay = match recipe.optimizer {
            _ if recipe.weight_decay == 0.0 => Decay::None,
            Optimizer::Adam => Decay::Coupled(recipe.weight_decay),
            Optimizer::AdamW => Decay::Decoupled(recipe.weight_decay),
        };
        Self { decay, steps: 0 }
    }

    /// Goes on after so many steps.
    pub fn resume(&mut self, steps: u64) {
        self.steps = i32::try_from(steps).unwrap_or(i32::MAX);
    }

    /// The next step's numbers.
    pub fn next(&mut self, pace: Pace) -> Numbers {
        self.steps = self.steps.saturating_add(1);
        let correction_1 = 1.0 - pace.beta_1.powi(self.steps);
        let correction_2 = 1.0 - BETA_2.powi(self.steps);
        let step = -pace.learning_rate / correction_1;
        let (coupled_decay, shrink) = match self.decay {
            Decay::None => (0.0, 1.0),
            Decay::Coupled(decay) => (decay, 1.0),
            Decay::Decoupled(decay) => (0.0, 1.0 - pace.learning_rate * decay),
        };
        Numbers {
            coupled_decay,
            shrink,
            rates: [1.0 - pace.beta_1, 1.0 - BETA_2],
            scale: 1.0 / (step * correction_2.sqrt()),
            epsilon: EPSILON / step,
        }
    }
}

/// The optimiser's state for one network in libtorch.
#[derive(Debug)]
pub struct Adam {
    rule: Rule,
    parameters: Vec<Parameter>,
}

/// One trained tensor.
#[derive(Debug)]
struct Parameter {
    value: Tensor,
    /// Moving mean of gradients.
    mean: Tensor,
    /// Moving mean of squared gradients.
    square: Tensor,
    /// Room for the squared gradient, then for the denominator.
    scratch: Tensor,
}

impl Adam {
    /// Fresh state for these tensors, which the optimiser then changes in place.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn new(parameters: &[&Tensor], recipe: &Recipe) -> Result<Self, TchError> {
        let _no_grad = tch::no_grad_guard();
        let parameters = parameters.iter().map(|tensor| Parameter::new(tensor)).collect::<Result<_, _>>()?;
        Ok(Self { rule: Rule::new(recipe), parameters })
    }

    /// A copy of both moving means of every tensor.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn moments(&self) -> Result<Vec<[Values; 2]>, TchError> {
        let moments = self.parameters.iter();
        moments.map(|parameter| Ok([copy_out(&parameter.mean)?, copy_out(&parameter.square)?])).collect()
    }

    /// Goes on after so many steps, from these moments in the order of the tensors.
    ///
    /// # Errors
    /// libtorch refuses: they are another network's.
    pub fn resume<'a>(
        &mut self,
        moments: impl IntoIterator<Item = [&'a Values; 2]>,
        steps: u64,
    ) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.rule.resume(steps);
        for (parameter, [mean, square]) in self.parameters.iter_mut().zip(moments) {
            for (tensor, values) in [(&mut parameter.mean, mean), (&mut parameter.square, square)] {
                let values = Tensor::f_from_slice(&values.values)?.f_view(tensor.size().as_slice())?;
                tensor.f_copy_(&values)?;
            }
        }
        Ok(())
    }

    /// One step; gradients in the order of the tensors.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&mut self, gradients: &[Tensor], pace: Pace) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        let numbers = self.rule.next(pace);
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            parameter.step(gradient, numbers)?;
        }
        Ok(())
    }
}

impl Parameter {
    fn new(tensor: &Tensor) -> Result<Self, TchError> {
        let value = tensor.f_detach()?;
        let zeros = || value.f_zeros_like();
        let (mean, square, scratch) = (zeros()?, zeros()?, zeros()?);
        Ok(Self { value, mean, square, scratch })
    }

    fn step(&mut self, gradient: &Tensor, numbers: Numbers) -> Result<(), TchError> {
        let Numbers { coupled_decay, shrink, rates: [rate_1, rate_2], scale, epsilon } = numbers;
        let mut gradient = gradient.shallow_clone();
        if coupled_decay != 0.0 {
            let _ = self.value.f_mul_scalar_out(&self.scratch, coupled_decay)?;
            let _ = gradient.f_add_(&self.scratch)?;
        }
        if (1.0 - shrink) != 0.0 {
            let _ = self.value.f_mul_scalar_(shrink)?;
        }
        let _ = self.mean.f_lerp_(&gradient, rate_1)?;
        let _ = gradient.f_square_out(&self.scratch)?;
        let _ = self.square.f_lerp_(&self.scratch, rate_2)?;
        let _ = self.square.f_sqrt_out(&self.scratch)?;
        let _ = self.scratch.f_mul_scalar_(scale)?;
        let _ = self.scratch.f_add_scalar_(epsilon)?;
        let _ = self.value.f_addcdiv_(&self.mean, &self.scratch)?;
        Ok(())
    }
}
