//! Power to decibels: `librosa.power_to_db(power)`, so with `ref=1.0`, `amin=1e-10`, `top_db=80.0`.

#![expect(
    clippy::inline_always,
    reason = "wide instructions are allowed only in what is inlined where they are"
)]

use pulp::{Arch, NullaryFnOnce};

/// Smallest power that decibels tell from zero: `librosa.power_to_db`'s `amin`.
pub const AMIN: f32 = 1e-10;

/// Decibels below the clip's loudest value at which everything is clamped: `librosa.power_to_db`'s `top_db`.
pub const TOP_DB: f32 = 80.0;

/// Converts in place, clamped [`TOP_DB`] below the largest.
pub(crate) fn power_to_db(power: &mut [f32]) {
    Arch::new().dispatch(Convert(power));
    clamp(power);
}

/// Converts without the clamp, which needs all of a clip's values.
pub(crate) fn unclamped(power: &[f32], db: &mut [f32]) {
    db.copy_from_slice(power);
    Arch::new().dispatch(Convert(db));
}

/// Clamps a clip's decibels [`TOP_DB`] below the largest.
pub(crate) fn clamp(db: &mut [f32]) {
    Arch::new().dispatch(Clamp(db));
}

// Closures would do, were they certain to be inlined to where the wide instructions are allowed.

struct Convert<'a>(&'a mut [f32]);

impl NullaryFnOnce for Convert<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for value in self.0 {
            *value = decibels(if *value > AMIN { *value } else { AMIN });
        }
    }
}

struct Clamp<'a>(&'a mut [f32]);

impl NullaryFnOnce for Clamp<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let floor = largest(self.0) - TOP_DB;
        for value in self.0 {
            *value = if *value > floor { *value } else { floor };
        }
    }
}

/// The largest value, in eight lanes: a single running maximum would keep the vector unit waiting for itself.
#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [f32::NEG_INFINITY; 8];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `10 · log10(power)` of a normal, positive number, to 2e-5 dB; in plain arithmetic, so that it runs on vectors.
///
/// The number is taken apart into 2ᵏ·m with m from √½ to √2, and ln m is the series 2·(s + s³/3 + s⁵/5 + …) of
/// s = (m − 1) / (m + 1), cut off where its terms fall below 1e-9 (Abramowitz and Stegun, 4.1.27).
#[inline(always)]
fn decibels(power: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    const DB_PER_OCTAVE: f32 = 3.010_3;
    const DB_PER_NEPER_POWER: f32 = 4.342_944_8;
    let above = power.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let octaves = (above as i32 >> 23) as f32;
    let mantissa = f32::from_bits((above & 0x007f_ffff).wrapping_add(SQRT_HALF_BITS));
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let s2 = s * s;
    let series = ((s2 * (1.0 / 9.0) + 1.0 / 7.0) * s2 + 1.0 / 5.0) * s2 + 1.0 / 3.0;
    let ln = 2.0 * (s + s * s2 * series);
    DB_PER_OCTAVE * octaves + DB_PER_NEPER_POWER * ln
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decibels_are_exact_enough_everywhere() {
        // Every 1,009th float from the floor to far beyond what a spectrum can hold.
        for bits in (AMIN.to_bits()..1e20_f32.to_bits()).step_by(1_009) {
            let power = f32::from_bits(bits);
            let expected = 10.0 * f64::from(power).log10();
            let difference = (f64::from(decibels(power)) - expected).abs();
            assert!(difference <= 2e-5, "{power}: {difference}");
        }
        assert!(decibels(1.0).abs() == 0.0);
    }

    #[test]
    fn the_floor_and_the_clamp_hold() {
        let mut power = [0.0, 1e-12, 1e-6, 1.0, 100.0];
        power_to_db(&mut power);
        for (found, expected) in power.iter().zip([-60.0, -60.0, -60.0, 0.0, 20.0]) {
            assert!((found - expected).abs() <= 1e-5, "{power:?}");
        }
        let mut silence = [0.0; 3];
        power_to_db(&mut silence);
        assert!(silence.iter().all(|db| (db + 100.0).abs() <= 2e-5), "{silence:?}");
    }
}
