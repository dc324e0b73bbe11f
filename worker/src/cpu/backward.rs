//! From the gradient of a layer's output to those of its weights and of its input.

use super::{
    bf16::Operands,
    buffer::Buffer,
    convolve::{ConvolveLine, WeightGradientLine},
    depthwise::{DepthwiseGradientLine, DepthwiseLine},
    lanes::{Kernel, Lanes, Pixel, WIDTH, dispatch, run},
    layer::{Layer, Offset},
    norm::{Backward, Sums},
    packing,
    pool::{self, Codes},
    shape::Shape,
    sparse::{self, Entries, SparseBackward},
};

/// Room that is kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Two convolved lines, or their gradients, of every group.
    pub(crate) lines: Buffer,
    /// One clip's gradient of what was convolved, with padding of half the kernel.
    delta: Buffer,
    /// The weights in another order.
    weights: Buffer,
    /// Their gradients, likewise.
    gradients: Buffer,
    lists: Box<[Entries; WIDTH]>,
}

/// Of one clip.
struct Clip<'a> {
    kept: &'a [f32],
    codes: &'a [Codes],
    gradient: &'a [f32],
}

impl Layer {
    /// Adds to the gradients of its parameters, and writes that of its input if it is wanted. `gradient` are clips of maps of the
    /// shape `out`; the input's have its shape, and what lands on their padding means nothing.
    pub(crate) fn backward(
        &mut self,
        input: &[f32],
        gradient: &[f32],
        out: Shape,
        input_gradient: Option<&mut [f32]>,
    ) {
        match input_gradient {
            Some(to) if self.has_codes_only() && !self.is_depthwise && self.input.width == WIDTH => {
                self.sparse(input, gradient, out, to);
            }
            to => self.dense(input, gradient, out, to),
        }
    }

    fn sparse(&mut self, input: &[f32], gradient: &[f32], out: Shape, input_gradient: &mut [f32]) {
        let (arch, kernel, shape) = (self.arch, self.kernel, self.input);
        let Scratch { weights, gradients, lists, .. } = &mut self.scratch;
        let floats = self.weight.values.len();
        weights.reserve(floats);
        gradients.reserve(floats);
        gradients.fill(0.0);
        packing::by_filter(&self.weight.values, kernel, shape.groups, weights);
        let of_group = floats / out.groups.max(1);
        let Offset::Bias(bias) = &mut self.offset else {
            return;
        };
        let pixels = out.groups * out.rows * out.columns;
        let clips = input.chunks_exact(shape.clip()).zip(input_gradient.chunks_exact_mut(shape.clip()));
        let gradients_of_clips = gradient.chunks_exact(out.clip()).zip(self.codes.chunks_exact(pixels));
        for ((input, input_gradient), (gradient, codes)) in clips.zip(gradients_of_clips) {
            input_gradient.fill(0.0);
            for row in 0..out.rows {
                let groups = weights.chunks_exact(of_group).zip(gradients.chunks_exact_mut(of_group));
                for (group, (weights, weight_gradient)) in groups.enumerate() {
                    let line = out.row(gradient, group, row).as_chunks().0;
                    let from = (group * out.rows + row) * out.columns;
                    let codes = codes.get(from..from + out.columns).unwrap_or_default();
                    sparse::list(lists, line, codes, (2 * row * shape.line()) as u32, shape.line());
                    let biases = bias.gradient.iter_mut().skip(group * WIDTH);
                    for (bias, entries) in biases.zip(lists.iter()) {
                        *bias += entries.values().iter().map(|(_, value)| value).sum::<f32>();
                    }
                    dispatch(
                        arch,
                        SparseBackward {
                            lists,
                            input,
                            shape,
                            kernel,
                            weights,
                            weight_gradient,
                            input_gradient,
                        },
                    );
                }
            }
        }
        packing::from_by_filter(gradients, kernel, shape.groups, &mut self.weight.gradient);
    }

    fn dense(&mut self, input: &[f32], gradient: &[f32], out: Shape, input_gradient: Option<&mut [f32]>) {
        let delta_shape = self.convolved.padded(self.kernel / 2);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut sums = std::mem::take(&mut self.sums);
        let mut weight_gradient = std::mem::take(&mut self.weight.gradient);
        let mut operands = self.operands.take();
        scratch.delta.reserve(delta_shape.clip());
        if input_gradient.is_some() {
            self.turn_weights(&mut scratch.weights);
            if let Some(operands) = &mut operands {
                operands.load_weights(self.arch, &scratch.weights);
            }
        }
        let mut input_gradients = input_gradient.map(|to| to.chunks_exact_mut(self.input.clip()));
        let clips = input.len() / self.input.clip();
        sums.clear(self.convolved.groups);
        let backward = if matches!(self.offset, Offset::Norm(_)) {
            for index in 0..clips {
                let clip = self.clip(index, gradient, out);
                for row in self.rows() {
                    let lines = &mut *scratch.lines;
                    dispatch(self.arch, Spread { layer: self, clip: &clip, out, row, lines });
                    let (lines, sums) = (&*scratch.lines, &mut sums);
                    dispatch(self.arch, Sum { layer: self, clip: &clip, row, lines, sums });
                }
            }
            let count = clips * self.convolved.rows * self.convolved.columns;
            match &mut self.offset {
                Offset::Norm(norm) => norm.backward(&sums, count),
                Offset::Bias(_) => Vec::new(),
            }
        } else {
            Vec::new()
        };
        for (index, input) in input.chunks_exact(self.input.clip()).enumerate() {
            let clip = self.clip(index, gradient, out);
            for row in self.rows() {
                let lines = &mut *scratch.lines;
                dispatch(self.arch, Spread { layer: self, clip: &clip, out, row, lines });
                if backward.is_empty() {
                    let (lines, sums) = (&*scratch.lines, &mut sums);
                    dispatch(self.arch, Sum { layer: self, clip: &clip, row, lines, sums });
                }
                let delta = &mut *scratch.delta;
                let (lines, backward) = (&*scratch.lines, &*backward);
                dispatch(self.arch, WriteDelta { layer: self, clip: &clip, row, lines, backward, delta });
                if operands.is_none() {
                    for row in self.lines_from(row) {
                        let (delta, gradient) = (&*scratch.delta, &mut *weight_gradient);
                        self.add_weight_gradient(input, row, delta, delta_shape, gradient);
                    }
                }
            }
            let to = input_gradients.as_mut().and_then(Iterator::next);
            if let Some(operands) = &mut operands {
                let clips = [(input, self.input), (&*scratch.delta, delta_shape)];
                self.dense_rounded(operands, clips, &mut weight_gradient, to);
            } else if let Some(to) = to {
                self.write_input_gradient(&scratch.delta, delta_shape, &scratch.weights, to);
            }
        }
        if let Offset::Bias(bias) = &mut self.offset {
            sums.add_plain_to(&mut bias.gradient);
        }
        self.weight.gradient = weight_gradient;
        (self.scratch, self.sums, self.operands) = (scratch, sums, operands);
    }

    /// Adds to the weights' gradient and writes the input's, by factors of 16 bits: of one clip's input and the gradient of
    /// what it was convolved to.
    fn dense_rounded(
        &self,
        operands: &mut Operands,
        [input, delta]: [(&[f32], Shape); 2],
        weight_gradient: &mut [f32],
        input_gradient: Option<&mut [f32]>,
    ) {
        let (kernel, shape, output_shape) = (self.kernel, input.1, delta.1);
        operands.load_pixels(self.arch, [input, delta]);
        let [input, output] = &operands.pixels;
        for row in 0..shape.rows {
            let gradient = &mut *weight_gradient;
            let line = WeightGradientLine { input, shape, kernel, row, output, output_shape, gradient };
            operands.bf16.dispatch(line);
        }
        let Some(to) = input_gradient else { return };
        operands.load_delta(self.arch, delta.0);
        let Operands { bf16, weights, delta: input, .. } = &*operands;
        let (bias, shape) = (&*vec![[0.0; WIDTH]; self.input.groups], Operands::by_channel(output_shape));
        let (columns, output_plane) = (shape.columns, self.input.plane());
        for row in 0..shape.rows {
            let output = to.get_mut(self.input.start(0, row)..).unwrap_or_default();
            bf16.dispatch(ConvolveLine {
                input,
                shape,
                weights,
                kernel,
                bias,
                row,
                output,
                output_plane,
                columns,
            });
        }
    }

    fn clip<'a>(&'a self, index: usize, gradient: &'a [f32], out: Shape) -> Clip<'a> {
        let pixels = (out.groups * out.rows * out.columns).max(1);
        Clip {
            kept: self.kept.chunks_exact(self.convolved.clip()).nth(index).unwrap_or_default(),
            codes: self.codes.chunks_exact(pixels).nth(index).unwrap_or_default(),
            gradient: gradient.chunks_exact(out.clip()).nth(index).unwrap_or_default(),
        }
    }

    /// First lines of pooled pairs, or of single lines.
    fn rows(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.convolved.rows).step_by(if self.pooling.is_some() { 2 } else { 1 })
    }

    /// The lines that are pooled together with this first one.
    fn lines_from(&self, row: usize) -> std::ops::Range<usize> {
        row..(row + if self.pooling.is_some() { 2 } else { 1 }).min(self.convolved.rows)
    }

    fn add_weight_gradient(
        &self,
        input: &[f32],
        row: usize,
        output: &[f32],
        output_shape: Shape,
        gradient: &mut [f32],
    ) {
        let (shape, kernel) = (self.input, self.kernel);
        let line = WeightGradientLine { input, shape, kernel, row, output, output_shape, gradient };
        if self.is_depthwise {
            run(self.arch, DepthwiseGradientLine(line));
        } else {
            dispatch(self.arch, line);
        }
    }

    fn turn_weights(&self, turned: &mut Buffer) {
        turned.reserve(self.weight.values.len());
        if self.is_depthwise {
            packing::turn_depthwise(&self.weight.values, self.kernel, turned);
        } else {
            let groups = [self.convolved.groups, self.input.groups];
            packing::turn(&self.weight.values, self.kernel, groups, turned);
        }
    }

    fn write_input_gradient(&self, delta: &[f32], shape: Shape, weights: &[f32], to: &mut [f32]) {
        let (input, bias) = (delta, &*vec![[0.0; WIDTH]; self.input.groups]);
        let (kernel, columns, output_plane) = (self.kernel, shape.columns, self.input.plane());
        for row in 0..shape.rows {
            let output = to.get_mut(self.input.start(0, row)..).unwrap_or_default();
            let line =
                ConvolveLine { input, shape, weights, kernel, bias, row, output, output_plane, columns };
            if self.is_depthwise {
                run(self.arch, DepthwiseLine(line));
            } else {
                dispatch(self.arch, line);
            }
        }
    }
}

/// Writes the gradients, before ReLU and pooling, of the lines that begin with `row`.
struct Spread<'a> {
    layer: &'a Layer,
    clip: &'a Clip<'a>,
    out: Shape,
    row: usize,
    lines: &'a mut [f32],
}

impl Kernel for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { layer, clip, out, row, lines } = self;
        let pair = Shape { rows: 2, ..layer.convolved };
        for (group, affine) in layer.affines.iter().enumerate() {
            let lines = lines.get_mut(group * pair.plane()..(group + 1) * pair.plane());
            let (upper, lower) = lines.unwrap_or_default().split_at_mut(pair.line());
            let (upper, lower) = (upper.as_chunks_mut().0, lower.as_chunks_mut().0);
            let kept = |row| layer.convolved.row(clip.kept, group, row).as_chunks().0;
            match layer.pooling {
                None => {
                    let gradient = out.row(clip.gradient, group, row).as_chunks().0;
                    pool::deactivate(lanes, gradient, kept(row), affine, upper);
                }
                Some(pooling) if row / 2 < out.rows => {
                    let gradient = out.row(clip.gradient, group, row / 2).as_chunks().0;
                    let from = (group * out.rows + row / 2) * out.columns;
                    let codes = clip.codes.get(from..from + out.columns).unwrap_or_default();
                    let kept = [kept(row), kept(row + 1)];
                    pool::unpool(lanes, pooling, (gradient, codes), kept, affine, [upper, lower]);
                }
                // An odd last line.
                Some(_) => upper.fill([0.0; WIDTH]),
            }
        }
    }
}

/// Adds lines' gradients, and where lines are kept their products with them.
struct Sum<'a> {
    layer: &'a Layer,
    clip: &'a Clip<'a>,
    row: usize,
    lines: &'a [f32],
    sums: &'a mut Sums,
}

impl Kernel for Sum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { layer, clip, row, lines, sums } = self;
        let pair = Shape { rows: 2, ..layer.convolved };
        for group in 0..layer.convolved.groups {
            for (at, row) in layer.lines_from(row).enumerate() {
                let gradient: &[Pixel] = pair.row(lines, group, at).as_chunks().0;
                let kept = layer.convolved.row(clip.kept, group, row).as_chunks().0;
                sums.add(lanes, group, gradient, if kept.is_empty() { gradient } else { kept });
            }
        }
    }
}

/// Writes the gradients of convolved lines from those behind batch norm.
struct WriteDelta<'a> {
    layer: &'a Layer,
    clip: &'a Clip<'a>,
    row: usize,
    lines: &'a [f32],
    backward: &'a [Backward],
    delta: &'a mut [f32],
}

impl Kernel for WriteDelta<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { layer, clip, row, lines, backward, delta } = self;
        let pair = Shape { rows: 2, ..layer.convolved };
        let shape = layer.convolved.padded(layer.kernel / 2);
        for group in 0..layer.convolved.groups {
            for (at, row) in layer.lines_from(row).enumerate() {
                let gradient = pair.row(lines, group, at);
                let to = shape.row_mut(delta, group, row);
                match backward.get(group) {
                    None => to.copy_from_slice(gradient),
                    Some(backward) => {
                        let kept = layer.convolved.row(clip.kept, group, row).as_chunks().0;
                        backward.apply(lanes, gradient.as_chunks().0, kept, to.as_chunks_mut().0);
                    }
                }
            }
        }
    }
}
