//! Batch norm (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1, and the gradients of section 3), as
//! `torch.nn.BatchNorm2d` has it.

use earshot_common::model::BATCH_NORM_EPS;
use pulp::Arch;

use super::{
    adam::Parameter,
    lanes::{Lanes, Pixel, WIDTH},
    pool::Affine,
};
use crate::{network::BATCH_NORM_MOMENTUM, training::optimiser::Numbers};

/// Sums over all pixels of a batch, by channel.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// Of one quantity and another: of values and their squares, or of gradients and their products with values.
    totals: [Vec<f64>; 2],
}

impl Sums {
    /// Zeros for so many groups.
    pub(crate) fn clear(&mut self, groups: usize) {
        for totals in &mut self.totals {
            totals.clear();
            totals.resize(groups * WIDTH, 0.0);
        }
    }

    /// Adds one line of one group: `first` by itself and times `second`. A line is short enough for sums of 32 bits.
    #[inline(always)]
    pub(crate) fn add<L: Lanes>(&mut self, lanes: L, group: usize, first: &[Pixel], second: &[Pixel]) {
        let (mut plain, mut products) = (lanes.splat(0.0), lanes.splat(0.0));
        for (first, second) in first.iter().zip(second) {
            let (first, second) = (lanes.load(first), lanes.load(second));
            plain = lanes.add(plain, first);
            products = lanes.mul_add(first, second, products);
        }
        for (totals, line) in self.totals.iter_mut().zip([plain, products]) {
            for (total, value) in totals.iter_mut().skip(group * WIDTH).zip(lanes.store(line)) {
                *total += f64::from(value);
            }
        }
    }

    /// Adds the first quantity's sums.
    pub(crate) fn add_plain_to(&self, values: &mut [f32]) {
        let [plain, _] = &self.totals;
        for (value, &total) in values.iter_mut().zip(plain) {
            *value += total as f32;
        }
    }
}

impl Backward {
    /// One line.
    #[inline(always)]
    pub(crate) fn apply<L: Lanes>(
        &self,
        lanes: L,
        gradient: &[Pixel],
        values: &[Pixel],
        output: &mut [Pixel],
    ) {
        let [factor, slope, offset] = [&self.factor, &self.slope, &self.offset];
        let (factor, slope, offset) = (lanes.load(factor), lanes.load(slope), lanes.load(offset));
        for ((gradient, value), output) in gradient.iter().zip(values).zip(output) {
            let bend = lanes.mul_add(lanes.load(value), slope, offset);
            *output = lanes.store(lanes.mul_add(lanes.load(gradient), factor, bend));
        }
    }
}

/// One layer's batch norm, channels padded to whole groups.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Parameter,
    pub(crate) bias: Parameter,
    pub(crate) running_mean: Vec<f32>,
    pub(crate) running_var: Vec<f32>,
    /// Of the last batch: mean, and one by the standard deviation.
    mean: Vec<f64>,
    inverse_std: Vec<f64>,
}

/// What turns a gradient behind batch norm into one before it: `gradient · factor + value · slope + offset`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backward {
    pub(crate) factor: Pixel,
    pub(crate) slope: Pixel,
    pub(crate) offset: Pixel,
}

impl Norm {
    pub(crate) fn new(weight: &[f32], bias: &[f32], running_mean: Vec<f32>, running_var: Vec<f32>) -> Self {
        Self {
            weight: Parameter::new(weight),
            bias: Parameter::new(bias),
            mean: vec![0.0; running_mean.len()],
            inverse_std: vec![0.0; running_mean.len()],
            running_mean,
            running_var,
        }
    }

    /// By the running statistics.
    pub(crate) fn evaluation(&self) -> Vec<Affine> {
        let inverse = |&var: &f32| 1.0 / (f64::from(var) + BATCH_NORM_EPS).sqrt();
        let mean: Vec<f64> = self.running_mean.iter().copied().map(f64::from).collect();
        self.affine(&mean, &self.running_var.iter().map(inverse).collect::<Vec<_>>())
    }

    /// By a batch's statistics, from its sums over so many pixels; moves the running ones.
    pub(crate) fn training(&mut self, sums: &Sums, count: usize) -> Vec<Affine> {
        let count = count as f64;
        let [plain, squares] = &sums.totals;
        let running = self.running_mean.iter_mut().zip(&mut self.running_var);
        let batch = self.mean.iter_mut().zip(&mut self.inverse_std);
        for (((&sum, &square), (running_mean, running_var)), (mean, inverse_std)) in
            plain.iter().zip(squares).zip(running).zip(batch)
        {
            *mean = sum / count;
            // Not `max`, which would hide what is not a number.
            let variance = square / count - *mean * *mean;
            let variance = if variance < 0.0 { 0.0 } else { variance };
            *inverse_std = 1.0 / (variance + BATCH_NORM_EPS).sqrt();
            let unbiased = variance * count / (count - 1.0).max(1.0);
            let towards = |running: f32, value: f64| {
                (f64::from(running) * (1.0 - BATCH_NORM_MOMENTUM) + value * BATCH_NORM_MOMENTUM) as f32
            };
            *running_mean = towards(*running_mean, *mean);
            *running_var = towards(*running_var, unbiased);
        }
        self.affine(&self.mean, &self.inverse_std)
    }

    fn affine(&self, mean: &[f64], inverse_std: &[f64]) -> Vec<Affine> {
        let mut affines = vec![Affine::IDENTITY; mean.len() / WIDTH];
        let channels = affines.iter_mut().flat_map(|Affine { scale, shift }| scale.iter_mut().zip(shift));
        let parameters = self.weight.values.iter().zip(&*self.bias.values);
        for (((scale, shift), (&weight, &bias)), (mean, inverse_std)) in
            channels.zip(parameters).zip(mean.iter().zip(inverse_std))
        {
            let factor = f64::from(weight) * inverse_std;
            *scale = factor as f32;
            *shift = (f64::from(bias) - mean * factor) as f32;
        }
        affines
    }

    /// The parameters' gradients, and what to do with every pixel's, from the sums of gradients and of their products with
    /// values over so many pixels.
    pub(crate) fn backward(&mut self, sums: &Sums, count: usize) -> Vec<Backward> {
        let count = count as f64;
        let zero = [0.0; WIDTH];
        let mut backward =
            vec![Backward { factor: zero, slope: zero, offset: zero }; self.mean.len() / WIDTH];
        let [plain, products] = &sums.totals;
        let channels = backward.iter_mut().flat_map(|Backward { factor, slope, offset }| {
            factor.iter_mut().zip(slope.iter_mut()).zip(offset.iter_mut())
        });
        let gradients = self.weight.gradient.iter_mut().zip(self.bias.gradient.iter_mut());
        let statistics = self.mean.iter().zip(&self.inverse_std).zip(&*self.weight.values);
        for (
            (((&sum, &product), ((factor, slope), offset)), (weight_gradient, bias_gradient)),
            ((mean, inverse_std), &weight),
        ) in plain.iter().zip(products).zip(channels).zip(gradients).zip(statistics)
        {
            // Of the normalised value.
            let product = inverse_std * (product - mean * sum);
            *weight_gradient += product as f32;
            *bias_gradient += sum as f32;
            let scale = f64::from(weight) * inverse_std;
            let bend = scale * inverse_std * product / count;
            *factor = scale as f32;
            *slope = -bend as f32;
            *offset = (bend * mean - scale * sum / count) as f32;
        }
        backward
    }

    pub(crate) fn step(&mut self, arch: Arch, numbers: Numbers) {
        self.weight.step(arch, numbers);
        self.bias.step(arch, numbers);
    }
}
