//! How int8 holds numbers: what an exported file computes with, and what quantisation-aware training rounds as.
//!
//! A real number `r` is held as `q` with `r = scale · (q − zero_point)` (Jacob et al. 2018, arXiv:1712.05877, equation 1). Weights
//! are symmetric, with one scale for each output channel, from −127 to 127. Which ranges activations get: [`calibration`].

pub mod calibration;
mod histogram;

use serde::{Deserialize, Serialize};

/// Largest magnitude of a weight: symmetric, so −128 is not used.
pub const WEIGHT_MAX: f32 = 127.0;

/// Largest magnitude of a quantised bias. Half of what int32 holds: the other half is for the sum of products.
pub const BIAS_MAX: f32 = (1 << 30) as f32;

/// Smallest and largest value of an activation; 0 lies between.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Range {
    /// At most 0.
    pub min: f32,
    /// At least 0.
    pub max: f32,
}

/// How an activation is held in int8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Above 0.
    pub scale: f32,
    /// The whole number that means 0.
    pub zero_point: i8,
}

impl Range {
    /// The smallest one with all of these values.
    pub fn of(values: &[f32]) -> Self {
        values.iter().fold(Self::default(), |range, &value| Self {
            min: range.min.min(value),
            max: range.max.max(value),
        })
    }

    /// The smallest one with both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    /// Whether its ends are numbers, on either side of 0.
    pub fn is_valid(self) -> bool {
        self.min.is_finite() && self.max.is_finite() && self.min <= 0.0 && self.max >= 0.0
    }
}

impl Affine {
    /// Covers a range from −128 to 127.
    pub fn covering(range: Range) -> Self {
        let width = range.max - range.min;
        if !(width.is_normal() && width / 255.0 > f32::MIN_POSITIVE) {
            // A dead activation is always 0: any scale holds it.
            return Self { scale: 1.0, zero_point: i8::MIN };
        }
        let scale = width / 255.0;
        Self { scale, zero_point: (-128.0 - range.min / scale).round_ties_even() as i8 }
    }

    /// Covers a range from −127 to 127, 0 in its middle.
    pub fn around_zero(range: Range) -> Self {
        let scale = range.max.abs().max(range.min.abs()) / WEIGHT_MAX;
        Self { scale: if scale.is_normal() { scale } else { 1.0 }, zero_point: 0 }
    }

    /// The nearest whole number, saturated, as ONNX's QuantizeLinear defines it.
    pub fn quantise(self, value: f32) -> i8 {
        ((value / self.scale).round_ties_even() + f32::from(self.zero_point)) as i8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: (f32, f32), expected: Affine) {
        let (min, max) = range;
        assert_eq!(Affine::covering(Range { min, max }), expected);
    }

    #[test]
    fn ranges_become_scales_and_zero_points() {
        check((0.0, 25.5), Affine { scale: 0.1, zero_point: -128 });
        check((-12.8, 12.7), Affine { scale: 0.1, zero_point: 0 });
        check((-25.5, 0.0), Affine { scale: 0.1, zero_point: 127 });
        check((0.0, 0.0), Affine { scale: 1.0, zero_point: -128 });
    }

    #[test]
    fn around_zero_both_signs_reach_as_far() {
        for (range, scale) in [((-1.0, 12.7), 0.1), ((-25.4, 3.0), 0.2), ((0.0, 0.0), 1.0)] {
            let (min, max) = range;
            let affine = Affine::around_zero(Range { min, max });
            assert_eq!(affine, Affine { scale, zero_point: 0 });
            assert!(affine.quantise(min) >= -127 && affine.quantise(-min) > i8::MIN, "{range:?}");
        }
    }

    #[test]
    fn zero_is_held_exactly_and_the_ends_saturate() {
        let affine = Affine::covering(Range { min: -1.7, max: 4.1 });
        assert_eq!(affine.quantise(0.0), affine.zero_point);
        assert_eq!((affine.quantise(-1e9), affine.quantise(1e9)), (-128, 127));
        let relu = Affine::covering(Range { min: 0.0, max: 4.1 });
        assert_eq!(relu.quantise(-3.0), relu.zero_point);
    }

    #[test]
    fn every_range_includes_zero() {
        assert_eq!(Range::of(&[2.0, 3.0]), Range { min: 0.0, max: 3.0 });
        assert_eq!(Range::of(&[-2.0, -3.0]), Range { min: -3.0, max: 0.0 });
        assert!(Range::of(&[1.0]).is_valid() && !Range { min: 0.5, max: 1.0 }.is_valid());
        assert!(!Range { min: 0.0, max: f32::INFINITY }.is_valid());
    }
}
