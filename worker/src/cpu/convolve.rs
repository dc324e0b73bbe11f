//! Convolution with stride 1, line by line: forwards, and backwards to the weights. Backwards to the input is forwards with
//! the weights turned round.
//!
//! Weights lie as `(filter groups, channel groups, kernel rows, kernel columns, channels of a group, filters of a group)`, so
//! that for each line of the kernel both the pixels under it and the weights are read from front to back. A tile of some pixels
//! by one or two groups of filters stays in registers until it is done, as in Georganas et al. 2018 (arXiv:1808.05567, section
//! II).

use super::{
    bf16::{PAIRS, Pair},
    lanes::{Kernel, Lanes, Multiply, Pixel, WIDTH, tiles},
    shape::Shape,
};

/// What is multiplied.
pub(crate) trait Factor: Copy + Default {
    /// Of a line that sums go along: how many pixels one factor stands for.
    const PIXELS: usize;
}

impl Factor for f32 {
    const PIXELS: usize = 1;
}

impl Factor for Pair {
    const PIXELS: usize = 2;
}

/// Pixels of a tile where there are many registers, with up to two groups of filters.
const TILE: usize = 12;
/// Pixels of a tile elsewhere, and in short lines.
const SMALL_TILE: usize = 6;
/// Groups of filters that a tile has at most.
const GROUPS: usize = 2;

/// One line of the output, all filters.
pub(crate) struct ConvolveLine<'a, F = f32> {
    /// One clip, with padding of half the kernel.
    pub(crate) input: &'a [F],
    pub(crate) shape: Shape,
    pub(crate) weights: &'a [F],
    pub(crate) kernel: usize,
    /// What sums begin with, by group of filters; as many as there are groups.
    pub(crate) bias: &'a [Pixel],
    /// Line of the output; the same in the input without padding.
    pub(crate) row: usize,
    /// `(filter groups, …)`: the line is at the start of each part of this many floats.
    pub(crate) output: &'a mut [f32],
    pub(crate) output_plane: usize,
    /// Pixels to compute, from the first.
    pub(crate) columns: usize,
}

impl Kernel for ConvolveLine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        match (self.kernel, self.shape.width) {
            (1, 1) => self.of_size::<L, 1, 1>(lanes),
            (3, 1) => self.of_size::<L, 3, 1>(lanes),
            (5, 1) => self.of_size::<L, 5, 1>(lanes),
            (1, _) => self.of_size::<L, 1, WIDTH>(lanes),
            (3, _) => self.of_size::<L, 3, WIDTH>(lanes),
            _ => self.of_size::<L, 5, WIDTH>(lanes),
        }
    }
}

/// Of pairs of channels.
impl Kernel<Pair> for ConvolveLine<'_, Pair> {
    type Output = ();

    #[inline(always)]
    fn run<L: Multiply<Pair>>(self, lanes: L) {
        match self.kernel {
            1 => self.of_size::<L, 1, PAIRS>(lanes),
            3 => self.of_size::<L, 3, PAIRS>(lanes),
            _ => self.of_size::<L, 5, PAIRS>(lanes),
        }
    }
}

impl<F: Factor> ConvolveLine<'_, F> {
    #[inline(always)]
    fn of_size<L: Multiply<F>, const K: usize, const C: usize>(self, lanes: L) {
        let weights_of_group = self.shape.groups * K * K * C * WIDTH;
        let groups = if L::MANY { GROUPS } else { 1 };
        let outputs = self.output.chunks_mut(groups * self.output_plane);
        let weights = self.weights.chunks(groups * weights_of_group);
        for ((output, weights), bias) in outputs.zip(weights).zip(self.bias.chunks(groups)) {
            let line = Line {
                input: self.input,
                shape: self.shape,
                row: self.row,
                columns: self.columns,
                plane: self.output_plane,
                weights_of_group,
            };
            if let (true, [first, second]) = (L::MANY, bias) {
                line.tiles::<L, K, C, TILE, GROUPS>(lanes, weights, [first, second], output);
            } else if let [bias] = bias {
                if L::MANY {
                    line.tiles::<L, K, C, TILE, 1>(lanes, weights, [bias], output);
                } else {
                    line.tiles::<L, K, C, SMALL_TILE, 1>(lanes, weights, [bias], output);
                }
            }
        }
    }
}

struct Line<'a, F> {
    input: &'a [F],
    shape: Shape,
    row: usize,
    columns: usize,
    plane: usize,
    weights_of_group: usize,
}

impl<F: Factor> Line<'_, F> {
    #[inline(always)]
    fn tiles<L: Multiply<F>, const K: usize, const C: usize, const P: usize, const G: usize>(
        &self,
        lanes: L,
        weights: &[F],
        bias: [&Pixel; G],
        output: &mut [f32],
    ) {
        if self.columns >= P {
            for start in tiles(self.columns, P) {
                self.tile::<L, K, C, P, G>(lanes, weights, bias, output, start);
            }
        } else if self.columns >= SMALL_TILE {
            for start in tiles(self.columns, SMALL_TILE) {
                self.tile::<L, K, C, SMALL_TILE, G>(lanes, weights, bias, output, start);
            }
        } else {
            for start in 0..self.columns {
                self.tile::<L, K, C, 1, G>(lanes, weights, bias, output, start);
            }
        }
    }

    #[inline(always)]
    fn tile<L: Multiply<F>, const K: usize, const C: usize, const P: usize, const G: usize>(
        &self,
        lanes: L,
        weights: &[F],
        bias: [&Pixel; G],
        output: &mut [f32],
        start: usize,
    ) {
        let mut first = [lanes.splat(0.0); G];
        for (first, bias) in first.iter_mut().zip(bias) {
            *first = lanes.load(bias);
        }
        let mut sums = [first; P];
        let (line, plane) = (self.shape.line(), self.shape.plane());
        for (group, input) in self.input.chunks_exact(plane).enumerate() {
            for kernel_row in 0..K {
                let from = (self.row + kernel_row) * line + start * C;
                let Some(pixels) = input.get(from..).and_then(|input| input.get(..(P - 1 + K) * C)) else {
                    return;
                };
                let from = (group * K + kernel_row) * K * C * WIDTH;
                let mut lines: [&[[F; WIDTH]]; G] = [&[]; G];
                for (g, line) in lines.iter_mut().enumerate() {
                    let weights = weights.get(g * self.weights_of_group + from..).unwrap_or_default();
                    *line = weights.get(..K * C * WIDTH).unwrap_or_default().as_chunks().0;
                }
                for at in 0..K * C {
                    let Some(weights) = load_each(lanes, lines, at) else {
                        break;
                    };
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let pixel = lanes.broadcast(pixels.get(p * C + at).copied().unwrap_or_default());
                        for (sum, weight) in sums.iter_mut().zip(weights) {
                            *sum = lanes.add_product(pixel, weight, *sum);
                        }
                    }
                }
            }
        }
        for (g, output) in output.chunks_mut(self.plane).enumerate().take(G) {
            let output = output.get_mut(start * WIDTH..).unwrap_or_default();
            for (output, sums) in output.as_chunks_mut::<WIDTH>().0.iter_mut().zip(&sums) {
                if let Some(sum) = sums.get(g) {
                    *output = lanes.store(*sum);
                }
            }
        }
    }
}

/// The value at one place of each of some equally long slices.
#[inline(always)]
fn load_each<F: Factor, L: Multiply<F>, const G: usize>(
    lanes: L,
    slices: [&[[F; WIDTH]]; G],
    at: usize,
) -> Option<[L::Held; G]> {
    let mut values = [lanes.broadcast(F::default()); G];
    for (value, slice) in values.iter_mut().zip(slices) {
        *value = lanes.hold(slice.get(at)?);
    }
    Some(values)
}

/// What one line of the output's gradient adds to the weights' gradient.
pub(crate) struct WeightGradientLine<'a, F = f32> {
    /// As in [`ConvolveLine`].
    pub(crate) input: &'a [F],
    pub(crate) shape: Shape,
    pub(crate) kernel: usize,
    pub(crate) row: usize,
    /// One clip's gradient of the output: the line's pixels, for each group of filters.
    pub(crate) output: &'a [F],
    pub(crate) output_shape: Shape,
    /// Laid out as the weights.
    pub(crate) gradient: &'a mut [f32],
}

impl Kernel for WeightGradientLine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        match (self.kernel, self.shape.width) {
            (1, 1) => self.of_input::<L, 1>(lanes),
            (3, 1) => self.of_input::<L, 3>(lanes),
            (5, 1) => self.of_input::<L, 5>(lanes),
            (1, _) => self.of_size::<L, 1, 8>(lanes),
            (3, _) if L::MANY => self.of_size::<L, 3, 12>(lanes),
            (3, _) => self.of_size::<L, 3, 6>(lanes),
            _ => self.of_size::<L, 5, 10>(lanes),
        }
    }
}

/// Of pairs of pixels.
impl Kernel<Pair> for WeightGradientLine<'_, Pair> {
    type Output = ();

    #[inline(always)]
    fn run<L: Multiply<Pair>>(mut self, lanes: L) {
        match self.kernel {
            1 => self.of_size::<L, 1, 8>(lanes),
            3 => self.of_size::<L, 3, 12>(lanes),
            _ => self.of_size::<L, 5, 10>(lanes),
        }
    }
}

impl<F: Factor> WeightGradientLine<'_, F> {
    /// Sixteen channels to a pixel: a tile of `T` weights by one or two groups of filters.
    #[inline(always)]
    fn of_size<L: Multiply<F>, const K: usize, const T: usize>(&mut self, lanes: L) {
        let weights_of_group = self.shape.groups * K * K * WIDTH * WIDTH;
        let groups = if L::MANY { GROUPS } else { 1 };
        let gradients = self.gradient.chunks_mut(groups * weights_of_group);
        for (pair, gradient) in gradients.enumerate() {
            let output = |g| self.output_shape.row(self.output, pair * groups + g, self.row).as_chunks().0;
            let both = gradient.len() == 2 * weights_of_group;
            for (group, input) in self.input.chunks_exact(self.shape.plane()).enumerate() {
                for kernel_row in 0..K {
                    let from = (self.row + kernel_row) * self.shape.line();
                    let line = input.get(from..from + self.shape.line()).unwrap_or_default();
                    for at in (0..K * WIDTH).step_by(T) {
                        let line = line.get(at..).unwrap_or_default();
                        let at = ((group * K + kernel_row) * K * WIDTH + at) * WIDTH;
                        if both {
                            let outputs = [output(0), output(1)];
                            add_products::<F, L, T, 2>(lanes, line, outputs, gradient, at, weights_of_group);
                        } else {
                            add_products::<F, L, T, 1>(
                                lanes,
                                line,
                                [output(0)],
                                gradient,
                                at,
                                weights_of_group,
                            );
                        }
                    }
                }
            }
        }
    }
}

impl WeightGradientLine<'_> {
    /// One channel: all weights of the kernel's line at once.
    #[inline(always)]
    fn of_input<L: Lanes, const K: usize>(&mut self, lanes: L) {
        for (group, gradient) in self.gradient.chunks_mut(K * K * WIDTH).enumerate() {
            let output: &[Pixel] = self.output_shape.row(self.output, group, self.row).as_chunks().0;
            for (kernel_row, gradient) in gradient.chunks_mut(K * WIDTH).enumerate() {
                let from = (self.row + kernel_row) * self.shape.line();
                let line = self.input.get(from..from + self.shape.line()).unwrap_or_default();
                // Two sets of sums, so that an addition need not wait for the last.
                let mut sums = [[lanes.splat(0.0); K]; 2];
                let pairs = output.as_chunks::<2>();
                for (pixels, outputs) in line.windows(K + 1).step_by(2).zip(pairs.0) {
                    for (shift, (sums, output)) in sums.iter_mut().zip(outputs).enumerate() {
                        let output = lanes.load(output);
                        for (k, sum) in sums.iter_mut().enumerate() {
                            let pixel = lanes.splat(pixels.get(shift + k).copied().unwrap_or_default());
                            *sum = lanes.mul_add(pixel, output, *sum);
                        }
                    }
                }
                let [first, second] = &mut sums;
                if let [output] = pairs.1 {
                    let pixels = line.get(output_rest(line, K)..).unwrap_or_default();
                    for (sum, &pixel) in first.iter_mut().zip(pixels) {
                        *sum = lanes.mul_add(lanes.splat(pixel), lanes.load(output), *sum);
                    }
                }
                let one = lanes.splat(1.0);
                for (k, gradient) in gradient.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
                    for sums in [&*first, &*second] {
                        if let Some(sum) = sums.get(k) {
                            *gradient = lanes.store(lanes.mul_add(one, *sum, lanes.load(gradient)));
                        }
                    }
                }
            }
        }
    }
}

/// Where the pixels of a line's last window begin.
#[inline(always)]
fn output_rest(line: &[f32], kernel: usize) -> usize {
    line.len().saturating_sub(kernel)
}

/// Adds to `T` rows of the gradient what pixels times outputs give; the first weight's pixel is the line's first float.
#[inline(always)]
fn add_products<F: Factor, L: Multiply<F>, const T: usize, const G: usize>(
    lanes: L,
    line: &[F],
    outputs: [&[[F; WIDTH]]; G],
    gradient: &mut [f32],
    at: usize,
    weights_of_group: usize,
) {
    let mut sums = [[lanes.splat(0.0); T]; G];
    let columns = outputs.first().map_or(0, |output| output.len());
    for (column, pixels) in line.chunks(WIDTH).enumerate().take(columns).step_by(F::PIXELS) {
        let (Some(pixels), Some(outputs)) = (pixels.first_chunk::<T>(), load_each(lanes, outputs, column))
        else {
            return;
        };
        for (t, &pixel) in pixels.iter().enumerate() {
            let pixel = lanes.broadcast(pixel);
            for (sums, output) in sums.iter_mut().zip(outputs) {
                if let Some(sum) = sums.get_mut(t) {
                    *sum = lanes.add_product(pixel, output, *sum);
                }
            }
        }
    }
    let one = lanes.splat(1.0);
    for (g, sums) in sums.into_iter().enumerate() {
        let gradient = gradient.get_mut(g * weights_of_group + at..).unwrap_or_default();
        for (gradient, sum) in gradient.as_chunks_mut::<WIDTH>().0.iter_mut().zip(sums) {
            *gradient = lanes.store(lanes.mul_add(one, sum, lanes.load(gradient)));
        }
    }
}
