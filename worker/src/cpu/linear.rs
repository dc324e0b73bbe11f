//! Fully connected layers.
//!
//! The reference model's hidden layer has most of its weights, and a step over them is bound by memory. So they lie in panels,
//! `(panels, outputs, inputs of a panel)`, and the inputs likewise, `(panels, clips, inputs of a panel)`: a panel is read from
//! front to back and stays in the core's cache until its gradients have been used up by the optimiser.

use pulp::Arch;

use super::{
    adam::{self, Parameter},
    buffer::Buffer,
    lanes::{Kernel, Lanes, Pixel, WIDTH, dispatch, tiles},
};
use crate::training::optimiser::Numbers;

/// Inputs of one panel at most: a panel of 64 weights' lines is 32 KB.
const PANEL: usize = 128;

/// Clips and outputs of one tile of a forward pass.
const CLIPS: usize = 4;
const OUTPUTS: usize = 6;

/// One layer with its gradients.
#[derive(Debug)]
pub(crate) struct Linear {
    /// Floats of one clip's input, a multiple of sixteen.
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Its gradient has room for one panel.
    pub(crate) weight: Parameter,
    pub(crate) bias: Parameter,
    /// The inputs and their gradients, in panels.
    panels: Buffer,
    gradients: Buffer,
    /// Sixteen partial sums of each output of each clip.
    sums: Buffer,
    /// The output's gradient turned round.
    turned: Vec<f32>,
}

/// Inputs of a panel, where there are so many in all.
pub(crate) fn panel(inputs: usize) -> usize {
    PANEL.min(inputs).max(1)
}

impl Linear {
    /// With these weights, in panels, and biases.
    pub(crate) fn new(inputs: usize, weight: &[f32], bias: &[f32]) -> Self {
        let mut weight = Parameter::new(weight);
        weight.gradient = Buffer::zeros(bias.len() * panel(inputs));
        Self {
            inputs,
            outputs: bias.len(),
            weight,
            bias: Parameter::new(bias),
            panels: Buffer::default(),
            gradients: Buffer::default(),
            sums: Buffer::default(),
            turned: Vec::new(),
        }
    }

    /// `(clips, outputs)` of `(clips, inputs)`.
    pub(crate) fn forward(&mut self, arch: Arch, input: &[f32], output: &mut [f32]) {
        let (clips, panel, outputs) = (input.len() / self.inputs.max(1), panel(self.inputs), self.outputs);
        let length = self.inputs.div_ceil(panel) * clips * panel;
        self.panels.reserve(length);
        self.gradients.reserve(length);
        self.sums.reserve(clips * outputs * WIDTH);
        self.sums.fill(0.0);
        for (clip, line) in input.chunks_exact(self.inputs).enumerate() {
            let to = self.panels.chunks_exact_mut(panel).skip(clip).step_by(clips);
            for (to, from) in to.zip(line.chunks(panel)) {
                // A batch of another size has left its own numbers behind the last input.
                let (to, rest) = to.split_at_mut_checked(from.len()).unwrap_or_default();
                to.copy_from_slice(from);
                rest.fill(0.0);
            }
        }
        let inputs = self.panels.chunks_exact(clips * panel);
        for (inputs, weights) in inputs.zip(self.weight.values.chunks_exact(outputs * panel)) {
            dispatch(arch, Dots { inputs, weights, panel, outputs, sums: &mut self.sums });
        }
        let sums = self.sums.as_chunks::<WIDTH>().0;
        for (clip, output) in output.chunks_exact_mut(outputs.max(1)).enumerate() {
            let sums = sums.iter().skip(clip * outputs);
            for ((output, bias), sums) in output.iter_mut().zip(&*self.bias.values).zip(sums) {
                *output = bias + sums.iter().sum::<f32>();
            }
        }
    }

    /// From the output's gradient to the input's, both by clips, and a step of the weights. The input is that of the last
    /// forward pass.
    pub(crate) fn backward(
        &mut self,
        arch: Arch,
        output_gradient: &[f32],
        input_gradient: &mut [f32],
        numbers: Numbers,
    ) {
        let (panel, outputs) = (panel(self.inputs), self.outputs);
        let clips = output_gradient.len() / outputs.max(1);
        // (outputs, clips) of (clips, outputs): what multiplies lies next to each other both ways.
        self.turned.clear();
        for output in 0..outputs {
            self.turned.extend(output_gradient.iter().skip(output).step_by(outputs));
        }
        for (gradient, line) in self.bias.gradient.iter_mut().zip(self.turned.chunks_exact(clips.max(1))) {
            *gradient = line.iter().sum();
        }
        let inputs = self.panels.chunks_exact(clips * panel);
        let gradients = self.gradients.chunks_exact_mut(clips * panel);
        let weights = self.weight.values.chunks_exact_mut(outputs * panel);
        let means = self.weight.mean.chunks_exact_mut(outputs * panel);
        let squares = self.weight.square.chunks_exact_mut(outputs * panel);
        let parameters = weights.zip(means).zip(squares);
        for ((input, gradient), ((weights, mean), square)) in inputs.zip(gradients).zip(parameters) {
            let output = gradient;
            dispatch(arch, Combine { factors: &self.turned, lines: weights, panel, output });
            let output = &mut self.weight.gradient;
            dispatch(arch, Combine { factors: output_gradient, lines: input, panel, output });
            adam::step(arch, numbers, [weights, mean, square], &self.weight.gradient);
        }
        self.bias.step(arch, numbers);
        for (clip, line) in input_gradient.chunks_exact_mut(self.inputs).enumerate() {
            let from = self.gradients.chunks_exact(panel).skip(clip).step_by(clips);
            for (to, from) in line.chunks_mut(panel).zip(from) {
                to.copy_from_slice(from.get(..to.len()).unwrap_or_default());
            }
        }
    }
}

/// Adds sixteen partial sums of the dot product of each two lines of a panel, `(inputs, weights, 16)`.
struct Dots<'a> {
    inputs: &'a [f32],
    weights: &'a [f32],
    panel: usize,
    outputs: usize,
    sums: &'a mut [f32],
}

impl Kernel for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        // Tiles must not overlap here: they add.
        let count = self.inputs.len() / self.panel;
        let mut clip = 0;
        while clip < count {
            let clips = if count - clip >= CLIPS { CLIPS } else { 1 };
            let mut output = 0;
            while output < self.outputs {
                let outputs = if self.outputs - output >= OUTPUTS { OUTPUTS } else { 1 };
                match (clips, outputs) {
                    (CLIPS, OUTPUTS) if L::MANY => self.tile::<L, CLIPS, OUTPUTS>(lanes, clip, output),
                    (CLIPS, OUTPUTS) => {
                        for half in 0..CLIPS {
                            self.tile::<L, 1, OUTPUTS>(lanes, clip + half, output);
                        }
                    }
                    (CLIPS, _) => self.tile::<L, CLIPS, 1>(lanes, clip, output),
                    (_, OUTPUTS) => self.tile::<L, 1, OUTPUTS>(lanes, clip, output),
                    _ => self.tile::<L, 1, 1>(lanes, clip, output),
                }
                output += outputs;
            }
            clip += clips;
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const M: usize, const N: usize>(&mut self, lanes: L, first: usize, other: usize) {
        let vectors = self.panel / WIDTH;
        let mut inputs: [&[Pixel]; M] = [&[]; M];
        for (m, line) in inputs.iter_mut().enumerate() {
            *line = pixels(self.inputs, first + m, vectors);
        }
        let mut weights: [&[Pixel]; N] = [&[]; N];
        for (n, line) in weights.iter_mut().enumerate() {
            *line = pixels(self.weights, other + n, vectors);
        }
        let mut sums = [[lanes.splat(0.0); N]; M];
        for at in 0..vectors {
            let mut values = [lanes.splat(0.0); N];
            for (value, weights) in values.iter_mut().zip(weights) {
                if let Some(weights) = weights.get(at) {
                    *value = lanes.load(weights);
                }
            }
            for (sums, input) in sums.iter_mut().zip(inputs) {
                if let Some(input) = input.get(at) {
                    let input = lanes.load(input);
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum = lanes.mul_add(input, value, *sum);
                    }
                }
            }
        }
        let one = lanes.splat(1.0);
        for (m, sums) in sums.into_iter().enumerate() {
            let from = ((first + m) * self.outputs + other) * WIDTH;
            let kept = self.sums.get_mut(from..from + N * WIDTH).unwrap_or_default();
            for (kept, sum) in kept.as_chunks_mut().0.iter_mut().zip(sums) {
                *kept = lanes.store(lanes.mul_add(one, sum, lanes.load(kept)));
            }
        }
    }
}

/// One line of a panel of so many vectors.
#[inline(always)]
fn pixels(panel: &[f32], line: usize, vectors: usize) -> &[Pixel] {
    panel.as_chunks().0.get(line * vectors..(line + 1) * vectors).unwrap_or_default()
}

/// Every line of the output is a sum of the lines, each by its factor: `factors` is `(lines, outputs)`.
struct Combine<'a> {
    factors: &'a [f32],
    lines: &'a [f32],
    panel: usize,
    output: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let vectors = self.panel / WIDTH;
        let mut at = 0;
        while at < vectors {
            let wide = L::MANY && vectors - at >= 4;
            let outputs = self.output.len() / self.panel;
            match (wide, outputs >= OUTPUTS) {
                (true, true) => {
                    for first in tiles(outputs, OUTPUTS) {
                        self.tile::<L, OUTPUTS, 4>(lanes, first, at);
                    }
                }
                (true, false) => (0..outputs).for_each(|first| self.tile::<L, 1, 4>(lanes, first, at)),
                (false, true) => {
                    for first in tiles(outputs, OUTPUTS) {
                        self.tile::<L, OUTPUTS, 1>(lanes, first, at);
                    }
                }
                (false, false) => (0..outputs).for_each(|first| self.tile::<L, 1, 1>(lanes, first, at)),
            }
            at += if wide { 4 } else { 1 };
        }
    }
}

impl Combine<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const M: usize, const V: usize>(&mut self, lanes: L, first: usize, at: usize) {
        let mut sums = [[lanes.splat(0.0); V]; M];
        let outputs = self.output.len() / self.panel;
        let lines = self.lines.chunks_exact(self.panel).zip(self.factors.chunks_exact(outputs));
        for (line, factors) in lines {
            let factors = factors.get(first..).and_then(|factors| factors.first_chunk::<M>());
            let values = line.as_chunks::<WIDTH>().0.get(at..).and_then(|values| values.first_chunk::<V>());
            let (Some(factors), Some(values)) = (factors, values) else {
                return;
            };
            let mut held = [lanes.splat(0.0); V];
            for (held, value) in held.iter_mut().zip(values) {
                *held = lanes.load(value);
            }
            for (sums, &factor) in sums.iter_mut().zip(factors) {
                let factor = lanes.splat(factor);
                for (sum, value) in sums.iter_mut().zip(held) {
                    *sum = lanes.mul_add(factor, value, *sum);
                }
            }
        }
        for (m, sums) in sums.into_iter().enumerate() {
            let from = (first + m) * self.panel + at * WIDTH;
            let output = self.output.get_mut(from..from + V * WIDTH).unwrap_or_default();
            for (output, sum) in output.as_chunks_mut().0.iter_mut().zip(sums) {
                *output = lanes.store(sum);
            }
        }
    }
}
