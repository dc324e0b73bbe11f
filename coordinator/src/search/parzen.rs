//! A density over the cube, estimated from points: a mixture of a kernel around each and of one that is even.
//!
//! Bergstra et al. 2011 ("Algorithms for hyper-parameter optimization", section 4) with the kernels of Falkner et al. 2018
//! over all dimensions at once, each as wide on an axis as its neighbours there are far away (section 4 of the first), with the
//! weights of Optuna's multivariate `TPESampler`: see Watanabe 2023 (arXiv:2304.11127), sections 3.3 and 5.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

use libm::erf;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::axes::{Axes, Place, choice, middle};

/// Newest points that count in full; older ones count the less the older they are.
const FULL_WEIGHT: usize = 25;
/// Draws from a kernel of a coordinate between 0 and 1: at least a third of them is.
const DRAWS: usize = 64;

/// Deviations beyond which nothing of a normal distribution is left but rounding.
const FAR: f64 = 8.5;

/// A mixture of kernels.
#[derive(Debug)]
pub(super) struct Parzen {
    axes: Vec<Kernels>,
    /// Logarithms, of the even kernel first.
    log_weights: Vec<f64>,
    weights: Vec<f64>,
}

/// What the kernels of one axis have in common, and where they are; the even kernel is nowhere.
#[derive(Debug)]
struct Kernels {
    shape: Shape,
    kernels: Vec<Option<Kernel>>,
}

/// The part of a kernel that is along an axis.
#[derive(Debug, Clone, Copy)]
struct Kernel {
    middle: f64,
    /// Of a number's.
    deviation: f64,
    /// Logarithm of what its density is divided by.
    log_mass: f64,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Normal distributions, cut off at 0 and 1.
    Normal,
    /// Of so many choices one with the first probability, each of the others with the second.
    Choice { choices: usize, same: f64, logs: [f64; 2] },
}

impl Parzen {
    /// From the places of points, oldest first.
    pub(super) fn new(axes: &Axes<'_>, places: &[Place]) -> Self {
        let kernels = places.len() + 1;
        // Optuna's clipping: not narrower than the even spacing of so many.
        let narrowest = 1.0 / (kernels + 1).min(100) as f64;
        let axes = axes.iter().enumerate().map(|(index, axis)| {
            let middles: Vec<Option<f64>> =
                places.iter().map(|place| place.get(index).copied().flatten()).collect();
            let (shape, deviations) = match axis.choices {
                None => (Shape::Normal, deviations(&middles, narrowest.max(axis.cell / 2.0))),
                Some(choices) => {
                    let other = 1.0 / kernels as f64;
                    let same = (1.0 + other) / (1.0 + other * choices as f64);
                    let each = (1.0 - same) / (choices - 1) as f64;
                    let shape = Shape::Choice { choices, same, logs: [same.ln(), each.ln()] };
                    (shape, vec![0.0; middles.len()])
                }
            };
            let kernels = middles.iter().zip(deviations).map(|(middle, deviation)| {
                let middle = (*middle)?;
                Some(Kernel { middle, deviation, log_mass: shape.log_mass(middle, deviation) })
            });
            Kernels { shape, kernels: std::iter::once(None).chain(kernels).collect() }
        });
        let axes = axes.collect();
        let weights: Vec<f64> = std::iter::once(1.0).chain(weights(places.len())).collect();
        let sum: f64 = weights.iter().sum();
        let weights: Vec<f64> = weights.into_iter().map(|weight| weight / sum).collect();
        Self { axes, log_weights: weights.iter().map(|weight| weight.ln()).collect(), weights }
    }

    /// The logarithm of the density at a place; what is inactive there does not matter.
    pub(super) fn log_density(&self, place: &Place) -> f64 {
        let mut logs = self.log_weights.clone();
        for (kernels, at) in self.axes.iter().zip(place) {
            let Some(at) = *at else { continue };
            for (log, kernel) in logs.iter_mut().zip(&kernels.kernels) {
                *log += kernels.shape.log_density(at, *kernel);
            }
        }
        let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        largest + logs.iter().map(|log| (log - largest).exp()).sum::<f64>().ln()
    }

    /// Coordinates drawn from it; even ones where the drawn kernel has none.
    pub(super) fn draw(&self, dice: &mut ChaCha8Rng) -> Vec<f64> {
        let mut rest: f64 = dice.random();
        let drawn = self.weights.iter().position(|weight| {
            rest -= weight;
            rest < 0.0
        });
        let kernel = drawn.unwrap_or(0);
        let coordinates =
            self.axes.iter().map(|kernels| match kernels.kernels.get(kernel).copied().flatten() {
                Some(kernel) => kernels.shape.draw(kernel, dice),
                None => dice.random(),
            });
        coordinates.collect()
    }
}

impl Shape {
    fn log_mass(self, middle: f64, deviation: f64) -> f64 {
        let Self::Normal = self else { return 0.0 };
        let is_inside = middle.min(1.0 - middle) > FAR * deviation;
        let below = |at: f64| 0.5 * (1.0 + erf((at - middle) / deviation * FRAC_1_SQRT_2));
        let mass = if is_inside { 1.0 } else { below(1.0) - below(0.0) };
        (mass * deviation * TAU.sqrt()).ln()
    }

    /// Of a kernel there, or of the even one.
    fn log_density(self, at: f64, kernel: Option<Kernel>) -> f64 {
        match (self, kernel) {
            (Self::Normal, None) => 0.0,
            (Self::Normal, Some(Kernel { middle, deviation, log_mass })) => {
                let distance = (at - middle) / deviation;
                -0.5 * distance * distance - log_mass
            }
            (Self::Choice { choices, .. }, None) => -(choices as f64).ln(),
            (Self::Choice { choices, logs: [same, other], .. }, Some(Kernel { middle, .. })) => {
                if choice(at, choices) == choice(middle, choices) { same } else { other }
            }
        }
    }

    fn draw(self, kernel: Kernel, dice: &mut ChaCha8Rng) -> f64 {
        match self {
            Self::Normal => {
                let mut draws = (0..DRAWS).map(|_| kernel.middle + kernel.deviation * normal(dice));
                draws.find(|at| (0.0..=1.0).contains(at)).unwrap_or(kernel.middle)
            }
            Self::Choice { choices, same, .. } => {
                let known = choice(kernel.middle, choices);
                if dice.random_bool(same.clamp(0.0, 1.0)) {
                    return middle(known, choices);
                }
                let other = dice.random_range(0..choices.saturating_sub(1).max(1));
                middle(other + usize::from(other >= known), choices)
            }
        }
    }
}

/// How wide each kernel is on an axis of numbers: as far as the farther of its two neighbours, of which the outermost have one. An
/// only one reaches to the farther end.
fn deviations(middles: &[Option<f64>], narrowest: f64) -> Vec<f64> {
    let active = middles.iter().enumerate().filter_map(|(index, middle)| Some((index, (*middle)?)));
    let mut sorted: Vec<(usize, f64)> = active.collect();
    sorted.sort_by(|one, other| one.1.total_cmp(&other.1));
    let gaps = || sorted.iter().zip(sorted.iter().skip(1)).map(|(one, next)| next.1 - one.1);
    let before = std::iter::once(None).chain(gaps().map(Some));
    let after = gaps().map(Some).chain(std::iter::once(None));
    let mut deviations = vec![1.0; middles.len()];
    for ((&(index, at), before), after) in sorted.iter().zip(before).zip(after) {
        let widest = before.into_iter().chain(after).reduce(f64::max).unwrap_or(at.max(1.0 - at));
        if let Some(deviation) = deviations.get_mut(index) {
            *deviation = widest.clamp(narrowest.min(1.0), 1.0);
        }
    }
    deviations
}

/// Weights of so many points, oldest first: Optuna's `default_weights`.
fn weights(points: usize) -> impl Iterator<Item = f64> {
    let old = points.saturating_sub(FULL_WEIGHT);
    let ramp = move |index: usize| {
        let least = 1.0 / points as f64;
        if old > 1 { least + (1.0 - least) * index as f64 / (old - 1) as f64 } else { 1.0 }
    };
    (0..points).map(move |index| if index < old { ramp(index) } else { 1.0 })
}

/// A number of the standard normal distribution, by Box and Muller's method.
pub(super) fn normal(dice: &mut ChaCha8Rng) -> f64 {
    let (radius, angle): (f64, f64) = (1.0 - dice.random::<f64>(), dice.random());
    (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use earshot_common::sweep::{
        Domain, Hyperparameter, Space, Value,
        domain::{Interval, Spacing},
    };

    use super::*;
    use crate::search::dice::dice;

    fn space() -> Space {
        let numbers = Interval { low: 0.0, high: 0.5, spacing: Spacing::Linear };
        let choices = (0..4).map(|number| Value::Int(16 << number)).collect();
        Space::new(BTreeMap::from([
            (Hyperparameter::LabelSmoothing, Domain::Float(numbers)),
            (Hyperparameter::BatchSize, Domain::Choice(choices)),
        ]))
    }

    /// The axes are in the hyperparameters' order: batch size, then label smoothing.
    fn parzen(places: &[Place]) -> Parzen {
        Parzen::new(&Axes::new(&space()), places)
    }

    #[test]
    fn densities_integrate_to_one() {
        for places in [
            vec![],
            vec![vec![Some(0.125), Some(0.0)]],
            vec![vec![Some(0.375), Some(0.9)], vec![Some(0.875), Some(0.2)], vec![None, Some(0.25)]],
            (0..60).map(|n| vec![Some(0.625), Some(f64::from(n) / 59.0)]).collect(),
        ] {
            let parzen = parzen(&places);
            let steps = 2_000;
            let sum: f64 = (0..4)
                .flat_map(|n| (0..steps).map(move |step| (n, (f64::from(step) + 0.5) / f64::from(steps))))
                .map(|(n, at)| parzen.log_density(&vec![Some(middle(n, 4)), Some(at)]).exp())
                .sum();
            assert!((sum / f64::from(steps) - 1.0).abs() < 1e-3, "{sum} of {}", places.len());
            // What is inactive is integrated out.
            let choices: f64 =
                (0..4).map(|n| parzen.log_density(&vec![Some(middle(n, 4)), None]).exp()).sum();
            assert!((choices - 1.0).abs() < 1e-9, "{choices}");
        }
    }

    #[test]
    fn draws_follow_the_density() {
        let parzen = parzen(&[vec![Some(0.125), Some(0.1)], vec![Some(0.125), Some(0.15)]]);
        let mut dice = dice(1, 1);
        let draws: Vec<Vec<f64>> = (0..20_000).map(|_| parzen.draw(&mut dice)).collect();
        let found =
            draws.iter().filter(|draw| choice(draw[0], 4) == 0 && draw[1] < 0.2).count() as f64 / 20_000.0;
        let steps = 1_000;
        let below = (0..steps).map(|step| 0.2 * (f64::from(step) + 0.5) / f64::from(steps));
        let expected: f64 =
            below.map(|at| parzen.log_density(&vec![Some(0.125), Some(at)]).exp()).sum::<f64>() * 0.2
                / f64::from(steps);
        // Four standard deviations.
        assert!((found - expected).abs() < 4.0 * (expected / 20_000.0).sqrt(), "{found} {expected}");
    }

    #[test]
    fn kernels_are_as_wide_as_their_neighbours_are_far() {
        let found = deviations(&[Some(0.7), None, Some(0.1), Some(0.2)], 0.15);
        let expected = [0.5, 1.0, 0.15, 0.5];
        assert!(found.iter().zip(expected).all(|(one, other)| (one - other).abs() < 1e-12), "{found:?}");
        assert!((deviations(&[Some(0.3)], 0.1)[0] - 0.7).abs() < 1e-12);
        assert!(deviations(&[], 0.1).is_empty());
    }

    /// `optuna.samplers._tpe.sampler.default_weights(30)`: a ramp over the five oldest, then ones.
    #[test]
    fn old_points_count_less() {
        let weights: Vec<f64> = weights(30).collect();
        let ramp = [0.033_333, 0.275, 0.516_667, 0.758_333, 1.0];
        assert!(
            weights.iter().zip(ramp).all(|(found, expected)| (found - expected).abs() < 1e-5),
            "{weights:?}"
        );
        assert!(weights[5..].iter().all(|weight| (weight - 1.0).abs() < 1e-12));
    }
}
