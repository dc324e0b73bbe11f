//! What follows a convolution: scale and shift by channel, ReLU, pooling of 2×2 squares; and back again.

use earshot_common::model::Pooling;

use super::lanes::{Lanes, Pixel, WIDTH};

/// Which of a square's pixels was the largest, line by line: a bit for each channel. None of the four has it where ReLU let
/// nothing through.
pub(crate) type Codes = [u16; 4];

/// One group's factors and summands, which turn what was convolved into what ReLU sees.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Affine {
    pub(crate) scale: Pixel,
    pub(crate) shift: Pixel,
}

impl Affine {
    /// Leaves everything as it is.
    pub(crate) const IDENTITY: Self = Self { scale: [1.0; WIDTH], shift: [0.0; WIDTH] };

    #[inline(always)]
    fn of<L: Lanes>(&self, lanes: L, pixel: &Pixel) -> L::Value {
        lanes.mul_add(lanes.load(pixel), lanes.load(&self.scale), lanes.load(&self.shift))
    }
}

/// Not `max`, which would turn what is not a number into 0 and hide that a run has diverged.
#[inline(always)]
fn relu<L: Lanes>(lanes: L, value: L::Value) -> L::Value {
    let zero = lanes.splat(0.0);
    lanes.select(lanes.at_least(zero, value), zero, value)
}

/// ReLU alone.
#[inline(always)]
pub(crate) fn activate<L: Lanes>(lanes: L, line: &[Pixel], affine: &Affine, output: &mut [Pixel]) {
    for (pixel, output) in line.iter().zip(output) {
        *output = lanes.store(relu(lanes, affine.of(lanes, pixel)));
    }
}

/// Two lines to one; a last pixel without a neighbour is dropped. Codes are written for max pooling only.
#[inline(always)]
pub(crate) fn pool<L: Lanes>(
    lanes: L,
    pooling: Pooling,
    [upper, lower]: [&[Pixel]; 2],
    affine: &Affine,
    output: &mut [Pixel],
    codes: &mut [Codes],
) {
    let (zero, quarter) = (lanes.splat(0.0), lanes.splat(0.25));
    let squares = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
    match pooling {
        Pooling::Max => {
            for ((([a, b], [c, d]), output), codes) in squares.zip(output).zip(codes) {
                let (a, b) = (affine.of(lanes, a), affine.of(lanes, b));
                let (c, d) = (affine.of(lanes, c), affine.of(lanes, d));
                let (second, fourth) = (lanes.greater(b, a), lanes.greater(d, c));
                let (up, low) = (lanes.select(second, b, a), lanes.select(fourth, d, c));
                let lower = lanes.greater(low, up);
                let largest = lanes.select(lower, low, up);
                let inactive = lanes.at_least(zero, largest);
                *output = lanes.store(lanes.select(inactive, zero, largest));
                let (up, low) = (!inactive & !lower, !inactive & lower);
                *codes = [up & !second, up & second, low & !fourth, low & fourth];
            }
        }
        Pooling::Average => {
            for (([a, b], [c, d]), output) in squares.zip(output) {
                let (a, b) = (relu(lanes, affine.of(lanes, a)), relu(lanes, affine.of(lanes, b)));
                let (c, d) = (relu(lanes, affine.of(lanes, c)), relu(lanes, affine.of(lanes, d)));
                *output = lanes.store(lanes.mul(lanes.add(lanes.add(a, b), lanes.add(c, d)), quarter));
            }
        }
    }
}

/// Gradient of one line before ReLU, where nothing was pooled.
#[inline(always)]
pub(crate) fn deactivate<L: Lanes>(
    lanes: L,
    gradient: &[Pixel],
    line: &[Pixel],
    affine: &Affine,
    output: &mut [Pixel],
) {
    for ((gradient, pixel), output) in gradient.iter().zip(line).zip(output) {
        *output = lanes.store(masked(lanes, lanes.load(gradient), affine.of(lanes, pixel)));
    }
}

/// Gradients of two lines before pooling and ReLU from those of one after; `lines` are what was convolved, wanted by average
/// pooling only.
#[inline(always)]
pub(crate) fn unpool<L: Lanes>(
    lanes: L,
    pooling: Pooling,
    (gradient, codes): (&[Pixel], &[Codes]),
    [upper_line, lower_line]: [&[Pixel]; 2],
    affine: &Affine,
    [upper, lower]: [&mut [Pixel]; 2],
) {
    let (zero, quarter) = (lanes.splat(0.0), lanes.splat(0.25));
    // Of an odd number of pixels, the last has no gradient.
    for line in [&mut *upper, &mut *lower] {
        if let Some(last) = line.last_mut() {
            *last = [0.0; WIDTH];
        }
    }
    let outputs = upper.as_chunks_mut::<2>().0.iter_mut().zip(lower.as_chunks_mut::<2>().0);
    match pooling {
        Pooling::Max => {
            for ((([a, b], [c, d]), gradient), codes) in outputs.zip(gradient).zip(codes) {
                let gradient = lanes.load(gradient);
                let [first, second, third, fourth] = *codes;
                *a = lanes.store(lanes.select(first, gradient, zero));
                *b = lanes.store(lanes.select(second, gradient, zero));
                *c = lanes.store(lanes.select(third, gradient, zero));
                *d = lanes.store(lanes.select(fourth, gradient, zero));
            }
        }
        Pooling::Average => {
            let lines = upper_line.as_chunks::<2>().0.iter().zip(lower_line.as_chunks::<2>().0);
            for ((([a, b], [c, d]), gradient), ([p, q], [r, s])) in outputs.zip(gradient).zip(lines) {
                let gradient = lanes.mul(lanes.load(gradient), quarter);
                *a = lanes.store(masked(lanes, gradient, affine.of(lanes, p)));
                *b = lanes.store(masked(lanes, gradient, affine.of(lanes, q)));
                *c = lanes.store(masked(lanes, gradient, affine.of(lanes, r)));
                *d = lanes.store(masked(lanes, gradient, affine.of(lanes, s)));
            }
        }
    }
}

/// The gradient where ReLU let the value through.
#[inline(always)]
fn masked<L: Lanes>(lanes: L, gradient: L::Value, value: L::Value) -> L::Value {
    let zero = lanes.splat(0.0);
    lanes.select(lanes.at_least(zero, value), zero, gradient)
}
