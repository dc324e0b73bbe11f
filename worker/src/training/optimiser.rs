//! Adam, with PyTorch's defaults and PyTorch's arithmetic (Kingma and Ba 2015, algorithm 1).
//!
//! A step over a large tensor is bound by memory, not by arithmetic. So it goes in pieces that stay in the core's cache
//! through all of the step's operations, instead of one operation after another over the whole tensor.

use tch::{Device, TchError, Tensor};

/// Decay of the mean of gradients.
const BETA_1: f64 = 0.9;
/// Decay of the mean of squared gradients.
const BETA_2: f64 = 0.999;
/// Added to the denominator.
const EPSILON: f64 = 1e-8;

/// Elements of one piece on the CPU: five arrays of it fill about a megabyte, an ordinary core's second-level cache.
const PIECE: usize = 48 * 1024;

/// The optimiser's state for one network.
#[derive(Debug)]
pub struct Adam {
    learning_rate: f64,
    /// Steps taken.
    steps: i32,
    parameters: Vec<Parameter>,
}

/// One trained tensor, in pieces along its first dimension.
#[derive(Debug)]
struct Parameter {
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
    pub fn new(parameters: &[&Tensor], learning_rate: f64) -> Result<Self, TchError> {
        let _no_grad = tch::no_grad_guard();
        let parameters = parameters.iter().map(|tensor| Parameter::new(tensor)).collect::<Result<_, _>>()?;
        Ok(Self { learning_rate, steps: 0, parameters })
    }

    /// One step; gradients in the order of the tensors.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&mut self, gradients: &[Tensor]) -> Result<(), TchError> {
        let _no_grad = tch::no_grad_guard();
        self.steps = self.steps.saturating_add(1);
        let correction_1 = 1.0 - BETA_1.powi(self.steps);
        let correction_2 = 1.0 - BETA_2.powi(self.steps);
        // PyTorch's value - (lr / c1) · mean / (√square / √c2 + ε), with the scalars drawn into the denominator so that one
        // in-place division does the rest.
        let step = -self.learning_rate / correction_1;
        let scale = 1.0 / (step * correction_2.sqrt());
        let epsilon = EPSILON / step;
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients) {
            for piece in &mut parameter.pieces {
                piece.step(gradient, scale, epsilon)?;
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
        Ok(Self { pieces })
    }
}

impl Piece {
    fn step(&mut self, gradient: &Tensor, scale: f64, epsilon: f64) -> Result<(), TchError> {
        let gradient = gradient.f_narrow(0, self.start, self.length)?;
        let _ = self.mean.f_lerp_(&gradient, 1.0 - BETA_1)?;
        let _ = gradient.f_square_out(&self.scratch)?;
        let _ = self.square.f_lerp_(&self.scratch, 1.0 - BETA_2)?;
        let _ = self.square.f_sqrt_out(&self.scratch)?;
        let _ = self.scratch.f_mul_scalar_(scale)?;
        let _ = self.scratch.f_add_scalar_(epsilon)?;
        let _ = self.value.f_addcdiv_(&self.mean, &self.scratch)?;
        Ok(())
    }
}
