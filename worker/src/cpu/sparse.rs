//! Backwards through a convolution that ReLU and max pooling follow.
//!
//! Of the four pixels of a pooled square, one at most has a gradient, and where ReLU let nothing through, none has. So seven in
//! eight products of a dense backward pass are with zeros. Here each filter's gradients that are not zero are listed with
//! their places first, and only they are multiplied: with the pixels under the kernel for the weights' gradient, with the
//! weights for the input's.

use super::{
    lanes::{Kernel, Lanes, Pixel, WIDTH},
    pool::Codes,
    shape::Shape,
};

/// One filter's gradients of one line of one clip.
#[derive(Debug, Default, Clone)]
pub(crate) struct Entries {
    /// Of the pixel under the kernel's first weight, within a group's plane, and the gradient.
    list: Vec<(u32, f32)>,
    count: usize,
}

impl Entries {
    /// The gradients that are not zero.
    pub(crate) fn values(&self) -> &[(u32, f32)] {
        self.list.get(..self.count).unwrap_or_default()
    }
}

/// Lists the gradients of a group's sixteen filters on one pooled line, from the first's place in what was convolved: `line`
/// floats lie in a line of that.
pub(crate) fn list(
    lists: &mut [Entries; WIDTH],
    gradients: &[Pixel],
    codes: &[Codes],
    mut first: u32,
    line: usize,
) {
    for entries in lists.iter_mut() {
        entries.list.resize(codes.len(), (0, 0.0));
        entries.count = 0;
    }
    let (right, below) = (WIDTH as u32, line as u32);
    for (gradients, codes) in gradients.iter().zip(codes) {
        for (filter, (entries, &gradient)) in lists.iter_mut().zip(gradients).enumerate() {
            let [first_bit, second_bit, third_bit, fourth_bit] =
                codes.map(|bits| u32::from(bits >> filter & 1));
            let step = second_bit * right + third_bit * below + fourth_bit * (right + below);
            // Always written and only sometimes kept: no branch to mispredict.
            if let Some(entry) = entries.list.get_mut(entries.count) {
                *entry = (first + step, gradient);
            }
            let is_active = first_bit + second_bit + third_bit + fourth_bit;
            entries.count += is_active as usize & usize::from(gradient != 0.0);
        }
        first += 2 * WIDTH as u32;
    }
}

/// What one group of filters adds to the gradients by one pooled line: few lines of the input, which stay in the core's cache
/// from filter to filter. Weights here lie by filter: `(filters, channel groups, kernel
/// rows, kernel columns, channels of a group)`.
pub(crate) struct SparseBackward<'a> {
    pub(crate) lists: &'a [Entries; WIDTH],
    /// One clip of what was convolved, and its shape.
    pub(crate) input: &'a [f32],
    pub(crate) shape: Shape,
    pub(crate) kernel: usize,
    /// Of the group's filters.
    pub(crate) weights: &'a [f32],
    /// Likewise.
    pub(crate) weight_gradient: &'a mut [f32],
    /// One clip, as the input, padding included.
    pub(crate) input_gradient: &'a mut [f32],
}

impl Kernel for SparseBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        match self.kernel {
            1 => self.of_size::<L, 1>(lanes),
            3 => self.of_size::<L, 3>(lanes),
            _ => self.of_size::<L, 5>(lanes),
        }
    }
}

impl SparseBackward<'_> {
    #[inline(always)]
    fn of_size<L: Lanes, const K: usize>(&mut self, lanes: L) {
        let (plane, line) = (self.shape.plane(), self.shape.line());
        let weights_of_filter = self.shape.groups * K * K * WIDTH;
        let weights = self.weights.chunks_exact(weights_of_filter);
        let gradients = self.weight_gradient.chunks_exact_mut(weights_of_filter);
        for ((entries, weights), gradients) in self.lists.iter().zip(weights).zip(gradients) {
            let entries = entries.values();
            let inputs = self.input.chunks_exact(plane).zip(gradients.chunks_exact_mut(K * K * WIDTH));
            for (input, gradient) in inputs {
                weight_gradient::<L, K>(lanes, entries, input, line, gradient);
            }
            let outputs = self.input_gradient.chunks_exact_mut(plane);
            for (output, weights) in outputs.zip(weights.chunks_exact(K * K * WIDTH)) {
                input_gradient::<L, K>(lanes, entries, output, line, weights);
            }
        }
    }
}

#[inline(always)]
fn weight_gradient<L: Lanes, const K: usize>(
    lanes: L,
    entries: &[(u32, f32)],
    input: &[f32],
    line: usize,
    gradient: &mut [f32],
) {
    let mut sums = [[lanes.splat(0.0); K]; K];
    for (sum, gradient) in sums.iter_mut().flatten().zip(gradient.as_chunks().0) {
        *sum = lanes.load(gradient);
    }
    for &(first, value) in entries {
        let value = lanes.splat(value);
        for (row, sums) in sums.iter_mut().enumerate() {
            let from = first as usize + row * line;
            let pixels = input.get(from..from + K * WIDTH).unwrap_or_default().as_chunks().0;
            for (sum, pixel) in sums.iter_mut().zip(pixels) {
                *sum = lanes.mul_add(value, lanes.load(pixel), *sum);
            }
        }
    }
    for (gradient, sum) in gradient.as_chunks_mut::<WIDTH>().0.iter_mut().zip(sums.into_iter().flatten()) {
        *gradient = lanes.store(sum);
    }
}

#[inline(always)]
fn input_gradient<L: Lanes, const K: usize>(
    lanes: L,
    entries: &[(u32, f32)],
    output: &mut [f32],
    line: usize,
    weights: &[f32],
) {
    let mut held = [[lanes.splat(0.0); K]; K];
    for (held, weights) in held.iter_mut().flatten().zip(weights.as_chunks().0) {
        *held = lanes.load(weights);
    }
    for &(first, value) in entries {
        let value = lanes.splat(value);
        for (row, held) in held.iter().enumerate() {
            let from = first as usize + row * line;
            let pixels = output.get_mut(from..from + K * WIDTH).unwrap_or_default();
            for (pixel, weight) in pixels.as_chunks_mut().0.iter_mut().zip(held) {
                *pixel = lanes.store(lanes.mul_add(value, *weight, lanes.load(pixel)));
            }
        }
    }
}
