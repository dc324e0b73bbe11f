//! Adam, with PyTorch's defaults and PyTorch's arithmetic (Kingma and Ba 2015, algorithm 1), and AdamW (Loshchilov and
//! Hutter 2019, algorithm 2).
//!
//! A step over a large tensor is bound by memory, not by arithmetic. So it goes in pieces that stay in the core's cache
//! through all of the step's operations, instead of one operation after another over the whole tensor.

use earshot_common::{
    job::{Optimizer, Recipe},
    tensors::Tensor as Values,
};
use tch::{Device, TchError, Tensor};

use super::schedule::Pace;
use crate::network::copy_out;

/// Decay of the mean of squared gradients.
const BETA_2: f64 = 0.999;
/// Added to the denominator.
const EPSILON: f64 = 1e-8;

/// Elements of one piece on the CPU: five arrays of it fill about a megabyte, an ordinary core's second-level cache.
const PIECE: usize = 48 * 1024;

/// The optimiser's state for one network.
#[derive(Debug)]
pub struct Adam {
    decay: Decay,
    /// Steps taken.
    steps: i32,
    parameters: Vec<Parameter>,
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

/// The numbers of one step.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    pace: Pace,
    decay: Decay,
    /// Of the denominator.
    scale: f64,
    epsilon: f64,
}

/// One trained tensor, in pieces along its first dimension.
#[derive(Debug)]
struct Parameter {
    mean: Tensor,
    square: Tensor,
    /// Of the tensor and of both means.
    pieces: Vec<Piece>,
}

/// Views of one piece of a tensor and of its state.
#[derive(Debug)]
struct Piece {
    start: i64,
    length: i64,
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
        let decay = match recipe.optimizer {
            _ if recipe.weight_decay == 0.0 => Decay::None,
            Optimizer::Adam => Decay::Coupled(recipe.weight_decay),
            Optimizer::AdamW => Decay::Decoupled(recipe.weight_decay),
        };
        Ok(Self { decay, steps: 0, parameters })
    }

    /// A copy of both moving means of every tensor.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn moments(&self) -> Result<Vec<[Values; 2]>, TchError> {
        let moments = self.parameters.iter();
        moments.map(|parameter| Ok([copy_out(&parameter.mean)?, copy_out(&parameter.square)?])).collect()
    }

    /// Goes on from these moments, after so many steps.
    ///
    /// # Errors
    /// libtorch refuses: they are another network's.
    pub fn resume(&mut self, moments: &[[Values; 2]], steps: u64) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.steps = i32::try_from(steps).unwrap_or(i32::MAX);
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
        self.steps = self.steps.saturating_add(1);
        let correction_1 = 1.0 - pace.beta_1.powi(self.steps);
        let correction_2 = 1.0 - BETA_2.powi(self.steps);
        // PyTorch's value - (lr / c1) · mean / (√square / √c2 + ε), with the scalars drawn into the denominator so that one
        // in-place division does the rest.
        let step = -pace.learning_rate / correction_1;
        let scale = 1.0 / (step * correction_2.sqrt());
        let numbers = Numbers { pace, decay: self.decay, scale, epsilon: EPSILON / step };
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            for piece in &mut parameter.pieces {
                piece.step(gradient, numbers)?;
            }
        }
        Ok(())
    }
}

impl Parameter {
    fn new(tensor: &Tensor) -> Result<Self, TchError> {
        let value = tensor.f_detach()?;
        let (mean, square) = (value.f_zeros_like()?, value.f_zeros_like()?);
        let rows = value.size().first().copied().unwrap_or(1).max(1);
        let rows_of_piece = match value.device() {
            Device::Cpu => (PIECE as i64 * rows / value.numel().max(1) as i64).clamp(1, rows),
            // A GPU would rather start few kernels.
            _ => rows,
        };
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < rows {
            let length = rows_of_piece.min(rows - start);
            let part = |tensor: &Tensor| tensor.f_narrow(0, start, length);
            let value = part(&value)?;
            let scratch = value.f_zeros_like()?;
            pieces.push(Piece { start, length, value, mean: part(&mean)?, square: part(&square)?, scratch });
            start += length;
        }
        Ok(Self { mean, square, pieces })
    }
}

impl Piece {
    fn step(&mut self, gradient: &Tensor, numbers: Numbers) -> Result<(), TchError> {
        let Numbers { pace, decay, scale, epsilon } = numbers;
        let mut gradient = gradient.f_narrow(0, self.start, self.length)?;
        match decay {
            Decay::None => {}
            Decay::Coupled(decay) => {
                let _ = self.value.f_mul_scalar_out(&self.scratch, decay)?;
                let _ = gradient.f_add_(&self.scratch)?;
            }
            Decay::Decoupled(decay) => {
                let _ = self.value.f_mul_scalar_(1.0 - pace.learning_rate * decay)?;
            }
        }
        let _ = self.mean.f_lerp_(&gradient, 1.0 - pace.beta_1)?;
        let _ = gradient.f_square_out(&self.scratch)?;
        let _ = self.square.f_lerp_(&self.scratch, 1.0 - BETA_2)?;
        let _ = self.square.f_sqrt_out(&self.scratch)?;
        let _ = self.scratch.f_mul_scalar_(scale)?;
        let _ = self.scratch.f_add_scalar_(epsilon)?;
        let _ = self.value.f_addcdiv_(&self.mean, &self.scratch)?;
        Ok(())
    }
}
