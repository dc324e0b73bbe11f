//! The kernel that makes the observations most likely, given what is likely of kernels: maximum a posteriori, by argmin's
//! L-BFGS from several starts.
//!
//! Priors: lengths are log-normal with a location that grows with the number of axes as in Hvarfner, Hellsten and Nardi 2024
//! ("Vanilla Bayesian optimization performs great in high dimensions", equation 6), around √d and narrower than theirs, for searches
//! are short; the signal is near the scores' own variance, which is 1; noise is very small and may be less (log-normal around
//! e⁻⁸): what is taken for noise can no longer be improved on, so it has to be there before it is believed.

use std::cell::RefCell;

use argmin::{
    core::{CostFunction, Error, Executor, Gradient},
    solver::{linesearch::MoreThuenteLineSearch, quasinewton::LBFGS},
};

use super::gaussian::{Evidence, Kernel};

/// Steps from one start.
const STEPS: u64 = 12;
/// Numbers of steps that L-BFGS remembers.
const MEMORY: usize = 6;
/// Bounds of logarithms of the hyperparameters, far out: beyond them nothing changes but rounding.
const LOG_MAX: f64 = 8.0;
const LOG_NOISE_MIN: f64 = -16.0;
/// Location and deviation of the priors' logarithms.
const LOG_SIGNAL: (f64, f64) = (0.0, 1.0);
const LOG_NOISE: (f64, f64) = (-8.0, 3.0);

/// A function with its derivatives, to be made small; what is not finite is no place to go to.
pub(super) struct Objective<F> {
    function: F,
    /// The best place seen so far, whatever becomes of the search.
    best: RefCell<(f64, Vec<f64>)>,
}

impl<F: Fn(&[f64]) -> Option<(f64, Vec<f64>)>> Objective<F> {
    fn value(&self, at: &[f64]) -> Result<(f64, Vec<f64>), Error> {
        let (value, gradient) = (self.function)(at)
            .filter(|(value, gradient)| value.is_finite() && gradient.iter().all(|slope| slope.is_finite()))
            .ok_or_else(|| Error::msg("nothing finite"))?;
        let mut best = self.best.borrow_mut();
        if value < best.0 {
            *best = (value, at.to_vec());
        }
        Ok((value, gradient))
    }
}

impl<F: Fn(&[f64]) -> Option<(f64, Vec<f64>)>> CostFunction for &Objective<F> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, at: &Vec<f64>) -> Result<f64, Error> {
        self.value(at).map(|(value, _)| value)
    }
}

impl<F: Fn(&[f64]) -> Option<(f64, Vec<f64>)>> Gradient for &Objective<F> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, at: &Vec<f64>) -> Result<Vec<f64>, Error> {
        self.value(at).map(|(_, gradient)| gradient)
    }
}

/// The smallest value of a function that was found from a start, and where. The function gives its derivatives, too, and none
/// where it has no value.
pub(super) fn minimise(
    function: impl Fn(&[f64]) -> Option<(f64, Vec<f64>)>,
    start: Vec<f64>,
    steps: u64,
) -> (f64, Vec<f64>) {
    let objective = Objective { function, best: RefCell::new((f64::INFINITY, start.clone())) };
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY).with_tolerance_cost(1e-9);
    // A search that ends in an error has still seen places, and the best of them is kept.
    let _ = solver.map(|solver| {
        Executor::new(&objective, solver)
            .configure(|state| state.param(start).max_iters(steps))
            .ctrlc(false)
            .timer(false)
            .run()
    });
    objective.best.into_inner()
}

/// The likeliest kernel for so many axes.
pub(super) fn fit(evidence: &Evidence, axes: usize) -> Kernel {
    let log_length = (0.5 * (axes.max(1) as f64).ln(), 1.0);
    let priors: Vec<(f64, f64)> =
        std::iter::repeat_n(log_length, axes).chain([LOG_SIGNAL, LOG_NOISE]).collect();
    let posterior = |at: &[f64]| {
        let is_near = |at: &f64| at.abs() < 3.0 * LOG_MAX;
        if !at.iter().all(is_near) {
            return None;
        }
        let (value, gradient) = evidence.log_likelihood(&kernel(at, axes))?;
        let surprise =
            |(at, (location, deviation)): (&f64, &(f64, f64))| (at - location) / (deviation * deviation);
        let surprises: Vec<f64> = at.iter().zip(&priors).map(surprise).collect();
        let prior: f64 = surprises
            .iter()
            .zip(&priors)
            .map(|(surprise, (_, deviation))| 0.5 * (surprise * deviation).powi(2))
            .sum();
        let gradient = gradient.iter().zip(&surprises).map(|(slope, surprise)| surprise - slope).collect();
        Some((prior - value, gradient))
    };
    let starts = [(-0.7, -4.0), (0.7, -2.0), (-1.6, -10.0)];
    let ends = starts.map(|(length, noise)| {
        let start = std::iter::repeat_n(length, axes).chain([0.0, noise]).collect();
        minimise(posterior, start, STEPS)
    });
    let best = ends.into_iter().min_by(|one, other| one.0.total_cmp(&other.0));
    kernel(&best.map(|(_, at)| at).unwrap_or_default(), axes)
}

/// From logarithms of lengths, signal and noise.
fn kernel(logs: &[f64], axes: usize) -> Kernel {
    let log = |index: usize, default: f64| logs.get(index).copied().unwrap_or(default);
    Kernel {
        lengths: (0..axes).map(|axis| log(axis, 0.0).clamp(-LOG_MAX, LOG_MAX).exp()).collect(),
        signal: log(axes, 0.0).clamp(-LOG_MAX, LOG_MAX).exp(),
        noise: log(axes + 1, -4.0).clamp(LOG_NOISE_MIN, LOG_MAX).exp(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimising_finds_the_bottom_of_rosenbrocks_valley() {
        let valley = |at: &[f64]| {
            let (x, y) = (at[0], at[1]);
            let value = (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2);
            Some((value, vec![-2.0 * (1.0 - x) - 400.0 * x * (y - x * x), 200.0 * (y - x * x)]))
        };
        let (value, at) = minimise(valley, vec![-1.2, 1.0], 100);
        assert!(value < 1e-9 && (at[0] - 1.0).abs() < 1e-4, "{value} at {at:?}");
        // A function without values leaves the start as it is.
        assert_eq!(minimise(|_| None, vec![3.0], 10), (f64::INFINITY, vec![3.0]));
    }
}
