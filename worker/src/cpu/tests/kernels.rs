//! Kernels against plain loops, in odd shapes and whole groups.

use pulp::Arch;

use super::{assert_near, bf16, relative};
use crate::cpu::{
    bf16::{Bf16, Operands},
    convolve::{ConvolveLine, WeightGradientLine},
    lanes::{Pixel, WIDTH, dispatch},
    shape::Shape,
};

/// A convolution with made-up numbers.
struct Case {
    kernel: usize,
    shape: Shape,
    out: Shape,
    input: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<Pixel>,
    /// Gradient of what it gives.
    delta: Vec<f32>,
}

/// What it gives, and the gradient of its weights.
struct Found {
    output: Vec<f32>,
    gradient: Vec<f32>,
}

impl Case {
    fn new(
        [width, channel_groups, filter_groups]: [usize; 3],
        kernel: usize,
        [rows, columns]: [usize; 2],
        draw: &mut impl FnMut() -> f32,
    ) -> Self {
        let shape = Shape { groups: channel_groups, width, rows, columns, pad: kernel / 2 };
        let out = Shape { groups: filter_groups, width: WIDTH, rows, columns, pad: 0 };
        let mut input = vec![0.0; shape.clip()];
        for group in 0..channel_groups {
            for row in 0..rows {
                shape.row_mut(&mut input, group, row).iter_mut().for_each(|value| *value = draw());
            }
        }
        let weights = filter_groups * channel_groups * kernel * kernel * width * WIDTH;
        Self {
            kernel,
            shape,
            out,
            input,
            weights: (0..weights).map(|_| draw()).collect(),
            bias: (0..filter_groups).map(|_| [(); WIDTH].map(|()| draw())).collect(),
            delta: (0..out.clip()).map(|_| draw()).collect(),
        }
    }

    fn nothing(&self) -> Found {
        Found { output: vec![0.0; self.out.clip()], gradient: vec![0.0; self.weights.len()] }
    }

    /// By a loop over every product.
    fn plainly(&self) -> Found {
        let Self { kernel, shape, .. } = *self;
        let (taps, groups) = (kernel * kernel, shape.groups);
        let mut found = self.nothing();
        for at in 0..self.out.clip() {
            let (f, pixel) = (at % WIDTH, at / WIDTH);
            let (column, line) = (pixel % shape.columns, pixel / shape.columns);
            let (row, filter) = (line % shape.rows, line / shape.rows);
            found.output[at] = self.bias[filter][f];
            for index in 0..groups * taps * shape.width {
                let (c, rest) = (index % shape.width, index / shape.width);
                let (tap, group) = (rest % taps, rest / taps);
                let pixel = (row + tap / kernel) * shape.line() + (column + tap % kernel) * shape.width + c;
                let weight = (filter * groups * taps * shape.width + index) * WIDTH + f;
                let value = self.input[group * shape.plane() + pixel];
                found.output[at] += value * self.weights[weight];
                found.gradient[weight] += value * self.delta[at];
            }
        }
        found
    }

    fn by_kernels(&self) -> Found {
        let Self { kernel, shape, out, .. } = *self;
        let mut found = self.nothing();
        for row in 0..shape.rows {
            let line = ConvolveLine {
                input: &self.input[..],
                shape,
                weights: &self.weights[..],
                kernel,
                bias: &self.bias,
                row,
                output: &mut found.output[out.start(0, row)..],
                output_plane: out.plane(),
                columns: shape.columns,
            };
            dispatch(Arch::new(), line);
            let line = WeightGradientLine {
                input: &self.input[..],
                shape,
                kernel,
                row,
                output: &self.delta[..],
                output_shape: out,
                gradient: &mut found.gradient,
            };
            dispatch(Arch::new(), line);
        }
        found
    }

    fn by_kernels_of_16_bits(&self, bf16: Bf16) -> Found {
        let Self { kernel, shape, out, .. } = *self;
        let arch = Arch::new();
        // Gradients as they are in training, with padding.
        let padded = out.padded(kernel / 2);
        let mut delta = vec![0.0; padded.clip()];
        for group in 0..out.groups {
            for row in 0..out.rows {
                padded.row_mut(&mut delta, group, row).copy_from_slice(out.row(&self.delta, group, row));
            }
        }
        let mut operands = Operands::new(bf16);
        operands.load_weights(arch, &self.weights);
        operands.load_maps(arch, &self.input);
        operands.load_pixels(arch, [(&self.input, shape), (&delta, padded)]);
        let Operands { weights, maps, pixels: [input, delta], .. } = &operands;
        let mut found = self.nothing();
        for row in 0..shape.rows {
            bf16.dispatch(ConvolveLine {
                input: maps,
                shape: Operands::by_channel(shape),
                weights,
                kernel,
                bias: &self.bias,
                row,
                output: &mut found.output[out.start(0, row)..],
                output_plane: out.plane(),
                columns: shape.columns,
            });
            let (output, gradient) = (&**delta, &mut *found.gradient);
            let line =
                WeightGradientLine { input, shape, kernel, row, output, output_shape: padded, gradient };
            bf16.dispatch(line);
        }
        found
    }
}

#[test]
fn odd_shapes_and_whole_groups_agree_with_a_plain_convolution() {
    let mut state = 1_u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    for (groups, kernel, extents) in [
        ([1, 1, 1], 3, [3, 5]),
        ([1, 1, 3], 5, [2, 12]),
        ([16, 1, 2], 3, [4, 25]),
        ([16, 2, 3], 3, [3, 13]),
        ([16, 2, 1], 5, [5, 7]),
        ([16, 3, 4], 1, [2, 14]),
        ([16, 1, 1], 1, [3, 7]),
        ([16, 2, 2], 3, [1, 1]),
    ] {
        let case = Case::new(groups, kernel, extents, &mut draw);
        let what = format!("{groups:?} {kernel} {extents:?}");
        let (expected, found) = (case.plainly(), case.by_kernels());
        assert_near(&what, &found.output, &expected.output);
        assert_near(&what, &found.gradient, &expected.gradient);
        for bf16 in bf16().into_iter().filter(|_| case.shape.width == WIDTH) {
            let found = case.by_kernels_of_16_bits(bf16);
            // Not nothing: the factors were rounded. Not more: to eight bits.
            let check = |found: &[f32], expected: &[f32]| {
                let relative = relative(found, expected);
                assert!((1e-6..4e-3).contains(&relative), "{what}, {bf16:?}: {relative}");
            };
            check(&found.output, &expected.output);
            check(&found.gradient, &expected.gradient);
        }
    }
}
