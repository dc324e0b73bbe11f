//! The logarithm of the expected improvement, exact however small it is.
//!
//! Ament et al. 2023, "Unexpected improvements to expected improvement for Bayesian optimization", equations (9) and (14):
//! where nothing promises to be better the expectation itself is 0 in floating point, its slope too, and a search for the
//! largest has nothing to hold on to.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_PI_2, TAU};

use libm::erfc;

use super::gaussian::Belief;

/// Below this z the first terms of a series are exact, and erfcx would overflow.
const FAR: f64 = -30.0;

/// ln h(z), where h(z) = φ(z) + z·Φ(z): the expected improvement of a normal distribution in units of its deviation.
fn log_h(z: f64) -> f64 {
    if z > -1.0 {
        return (density(z) + z * cumulative(z)).ln();
    }
    let tail = if z > FAR {
        // 1 − |z|·√(π/2)·erfcx(|z|/√2), whose loss of digits grows with z² only.
        (1.0 - z.abs() * FRAC_PI_2.sqrt() * scaled_erfc(-z * FRAC_1_SQRT_2)).ln()
    } else {
        let inverse = 1.0 / (z * z);
        -2.0 * z.abs().ln() + (-3.0 * inverse * (1.0 - 5.0 * inverse * (1.0 - 7.0 * inverse))).ln_1p()
    };
    -0.5 * z * z - 0.5 * TAU.ln() + tail
}

/// Φ(z)/h(z): the derivative of ln h.
fn slope_of_log_h(z: f64) -> f64 {
    if z > FAR {
        return (log_cumulative(z) - log_h(z)).exp();
    }
    // Both series, divided.
    let inverse = 1.0 / (z * z);
    z.abs() * (1.0 - inverse * (1.0 - 3.0 * inverse)) / (1.0 - 3.0 * inverse * (1.0 - 5.0 * inverse))
}

fn density(z: f64) -> f64 {
    (-0.5 * z * z).exp() / TAU.sqrt()
}

fn cumulative(z: f64) -> f64 {
    0.5 * erfc(-z * FRAC_1_SQRT_2)
}

fn log_cumulative(z: f64) -> f64 {
    if z > -1.0 { cumulative(z).ln() } else { -0.5 * z * z + (0.5 * scaled_erfc(-z * FRAC_1_SQRT_2)).ln() }
}

/// exp(x²)·erfc(x), for x up to 25.
fn scaled_erfc(x: f64) -> f64 {
    (x * x).exp() * erfc(x)
}

/// The logarithm of how much a score of that belief is expected to be above the best.
pub(super) fn log_improvement(belief: Belief, best: f64) -> f64 {
    belief.deviation.ln() + log_h((belief.mean - best) / belief.deviation)
}

/// Its slope, from those of the mean and the deviation.
pub(super) fn slope_of_log_improvement(belief: Belief, best: f64, [of_mean, of_deviation]: [f64; 2]) -> f64 {
    let z = (belief.mean - best) / belief.deviation;
    (of_deviation + slope_of_log_h(z) * (of_mean - z * of_deviation)) / belief.deviation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_those_of_the_integral() {
        /// ln of the integral of Φ up to z, by SciPy: see `golden/make.py`.
        #[derive(serde::Deserialize)]
        struct Golden {
            z: Vec<f64>,
            log_h: Vec<f64>,
        }
        let golden: Golden = serde_json::from_str(include_str!("golden/improvement.json")).unwrap();
        assert!(golden.z.len() > 20);
        for (z, expected) in golden.z.iter().zip(&golden.log_h) {
            let found = log_h(*z);
            assert!(
                (found - expected).abs() < 1e-8 * expected.abs().max(1.0),
                "{z}: {found}, expected {expected}"
            );
        }
    }

    #[test]
    fn slopes_are_differences_in_the_limit() {
        for z in [-300.0, -35.0, -29.9, -8.0, -1.5, -0.5, 0.0, 2.0, 7.0_f64] {
            let step = 1e-5 * z.abs().max(1.0);
            let difference = (log_h(z + step) - log_h(z - step)) / (2.0 * step);
            let found = slope_of_log_h(z);
            assert!(
                (found - difference).abs() < 1e-4 * difference.abs().max(1.0),
                "{z}: {found} {difference}"
            );
        }
    }

    #[test]
    fn nothing_jumps_where_formulas_meet() {
        for at in [-1.0, FAR] {
            assert!((log_h(at - 1e-9) - log_h(at + 1e-9)).abs() < 1e-6, "{at}");
            assert!((slope_of_log_h(at - 1e-9) / slope_of_log_h(at + 1e-9) - 1.0).abs() < 1e-4, "{at}");
        }
    }
}
