//! Depthwise convolution: every channel with a kernel of its own. Weights lie as `(groups, kernel rows, kernel columns, 16)`.

use pulp::NullaryFnOnce;

use super::{
    convolve::{ConvolveLine, WeightGradientLine},
    lanes::{Pixel, WIDTH},
    shape::Shape,
};

/// Of a depthwise convolution.
pub(crate) struct DepthwiseLine<'a>(pub(crate) ConvolveLine<'a>);

impl NullaryFnOnce for DepthwiseLine<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        line(self.0);
    }
}

/// Of a depthwise convolution.
pub(crate) struct DepthwiseGradientLine<'a>(pub(crate) WeightGradientLine<'a>);

impl NullaryFnOnce for DepthwiseGradientLine<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        weight_gradient_line(self.0);
    }
}

/// One line of the output of one clip, all groups.
#[inline(always)]
fn line(
    ConvolveLine { input, shape, weights, kernel, bias, row, output, output_plane, columns }: ConvolveLine,
) {
    let outputs = output.chunks_mut(output_plane).zip(bias);
    let inputs = input.chunks_exact(shape.plane()).zip(weights.chunks_exact(kernel * kernel * WIDTH));
    for ((input, weights), (output, bias)) in inputs.zip(outputs) {
        let output = output.get_mut(..columns * WIDTH).unwrap_or_default().as_chunks_mut().0;
        output.fill(*bias);
        for (tap, weight) in weights.as_chunks::<WIDTH>().0.iter().enumerate() {
            for (output, pixel) in output.iter_mut().zip(under(input, shape, kernel, tap, row)) {
                for ((output, pixel), weight) in output.iter_mut().zip(pixel).zip(weight) {
                    *output += pixel * weight;
                }
            }
        }
    }
}

/// What one line of the output's gradient adds to the weights' gradient.
#[inline(always)]
fn weight_gradient_line(
    WeightGradientLine { input, shape, kernel, row, output, output_shape, gradient }: WeightGradientLine,
) {
    let inputs = input.chunks_exact(shape.plane()).zip(gradient.chunks_exact_mut(kernel * kernel * WIDTH));
    for (group, (input, gradient)) in inputs.enumerate() {
        let output: &[Pixel] = output_shape.row(output, group, row).as_chunks().0;
        for (tap, gradient) in gradient.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let mut sums = [0.0; WIDTH];
            for (output, pixel) in output.iter().zip(under(input, shape, kernel, tap, row)) {
                for ((sum, pixel), output) in sums.iter_mut().zip(pixel).zip(output) {
                    *sum += pixel * output;
                }
            }
            for (gradient, sum) in gradient.iter_mut().zip(sums) {
                *gradient += sum;
            }
        }
    }
}

/// The pixels under one weight of the kernel as it moves along a line.
#[inline(always)]
fn under(input: &[f32], shape: Shape, kernel: usize, tap: usize, row: usize) -> &[Pixel] {
    let from = (row + tap / kernel) * shape.line() + tap % kernel * WIDTH;
    input.get(from..).unwrap_or_default().as_chunks().0
}
