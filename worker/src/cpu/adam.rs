//! Adam and AdamW over plain floats, in one pass: the arithmetic of [`Numbers`].

use pulp::{Arch, NullaryFnOnce};

use super::{buffer::Buffer, lanes};
use crate::training::optimiser::Numbers;

/// One trained tensor with its gradient and its moving means.
#[derive(Debug, Default)]
pub(crate) struct Parameter {
    pub(crate) values: Buffer,
    pub(crate) gradient: Buffer,
    pub(crate) mean: Buffer,
    pub(crate) square: Buffer,
}

impl Parameter {
    /// With these values and gradients of its own.
    pub(crate) fn new(values: &[f32]) -> Self {
        let length = values.len();
        let mut parameter = Self {
            values: Buffer::zeros(length),
            gradient: Buffer::zeros(length),
            mean: Buffer::zeros(length),
            square: Buffer::zeros(length),
        };
        parameter.values.copy_from_slice(values);
        parameter
    }

    /// One step by the gradient, which is then zero.
    pub(crate) fn step(&mut self, arch: Arch, numbers: Numbers) {
        step(arch, numbers, [&mut self.values, &mut self.mean, &mut self.square], &self.gradient);
        self.gradient.fill(0.0);
    }
}

/// One step of values with their moving means.
pub(crate) fn step(
    arch: Arch,
    numbers: Numbers,
    [values, means, squares]: [&mut [f32]; 3],
    gradients: &[f32],
) {
    let Numbers { coupled_decay, shrink, rates, scale, epsilon } = numbers;
    let [coupled_decay, shrink, scale, epsilon] =
        [coupled_decay, shrink, scale, epsilon].map(|number| number as f32);
    let [rate_1, rate_2] = rates.map(|rate| rate as f32);
    let numbers = [coupled_decay, shrink, rate_1, rate_2, scale, epsilon];
    lanes::run(arch, Each { numbers, values, means, squares, gradients });
}

struct Each<'a> {
    numbers: [f32; 6],
    values: &'a mut [f32],
    means: &'a mut [f32],
    squares: &'a mut [f32],
    gradients: &'a [f32],
}

impl NullaryFnOnce for Each<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { numbers, values, means, squares, gradients } = self;
        let [coupled_decay, shrink, rate_1, rate_2, scale, epsilon] = numbers;
        let moving = means.iter_mut().zip(squares);
        for ((value, &gradient), (mean, square)) in values.iter_mut().zip(gradients).zip(moving) {
            let gradient = gradient + coupled_decay * *value;
            *mean += rate_1 * (gradient - *mean);
            *square += rate_2 * (gradient * gradient - *square);
            *value = *value * shrink + *mean / (square.sqrt() * scale + epsilon);
        }
    }
}
