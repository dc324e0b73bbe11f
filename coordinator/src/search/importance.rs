//! How much each hyperparameter matters for being among the best trials: PED-ANOVA.
//!
//! Watanabe, Bansal and Hutter 2023 (arXiv:2304.10255): the more the density of the good trials' values differs from that of all
//! trials' values (Pearson's divergence), the more the hyperparameter decides. A conditional one is weighed by how often it is
//! active among the good and among all (arXiv:2601.20800, theorem 4.2). Densities are estimated on a grid of values, as Optuna's
//! `PedAnovaImportanceEvaluator` does; a golden file holds the numbers to Optuna's.

use std::f64::consts::FRAC_1_SQRT_2;

use earshot_common::sweep::{
    Domain, Hyperparameter, Point, Space, Value,
    domain::{Interval, Spacing},
};
use libm::erfc;

/// The part of the trials that counts as good.
const GOOD: f64 = 0.1;
/// Values of a range that are told apart at most.
const STEPS: usize = 50;
/// Trials at which a hyperparameter has to be active for it to say anything.
const ACTIVE_MIN: usize = 2;
/// Kept away from 0, as there.
const DENSITY_MIN: f64 = 1e-12;

/// What matters, and from how many trials that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Importance {
    /// Trials that have a score.
    pub trials: usize,
    /// Those of them that count as good.
    pub good: usize,
    /// Each dimension of the space with its share of 1, the most important first; all 0 where nothing tells them apart.
    pub shares: Vec<(Hyperparameter, f64)>,
}

/// Of the trials that have a score, the larger the better.
pub fn importance(space: &Space, scored: &[(&Point, f64)]) -> Importance {
    let is_good = good(scored);
    let good = is_good.iter().filter(|is_good| **is_good).count();
    let weigh =
        |name, domain| if scored.len() > 1 { divergence(name, domain, scored, &is_good) } else { 0.0 };
    let mut shares: Vec<(Hyperparameter, f64)> =
        space.dimensions().map(|(name, domain)| (name, weigh(name, domain))).collect();
    let sum: f64 = shares.iter().map(|(_, weight)| weight).sum();
    if sum > 0.0 {
        for (_, weight) in &mut shares {
            *weight /= sum;
        }
    }
    shares.sort_by(|one, other| other.1.total_cmp(&one.1));
    Importance { trials: scored.len(), good, shares }
}

/// Which trials are good: as many as [`GOOD`] says, and those as good as the last of them.
fn good(scored: &[(&Point, f64)]) -> Vec<bool> {
    let mut scores: Vec<f64> = scored.iter().map(|(_, score)| *score).collect();
    scores.sort_by(|one, other| other.total_cmp(one));
    let places = (GOOD * scores.len() as f64).ceil() as usize;
    let least = scores.get(places.saturating_sub(1)).copied().unwrap_or(f64::INFINITY);
    scored.iter().map(|(_, score)| *score >= least).collect()
}

/// How differently a hyperparameter's values are distributed among the good and among all.
fn divergence(name: Hyperparameter, domain: &Domain, scored: &[(&Point, f64)], is_good: &[bool]) -> f64 {
    let value =
        |point: &Point| point.iter().find_map(|(named, value)| (named == name).then(|| value.clone()));
    let active: Vec<(Value, bool)> = scored
        .iter()
        .zip(is_good)
        .filter_map(|((point, _), is_good)| Some((value(point)?, *is_good)))
        .collect();
    let good: Vec<&Value> = active.iter().filter(|(_, good)| *good).map(|(value, _)| value).collect();
    if active.len() < ACTIVE_MIN || good.is_empty() {
        return 0.0;
    }
    let all: Vec<&Value> = active.iter().map(|(value, _)| value).collect();
    let Some(grid) = Grid::of(domain) else { return 0.0 };
    let [good_density, density] = [&good, &all].map(|values| grid.density(values));
    let pearson: f64 =
        good_density.iter().zip(&density).map(|(good, all)| all * (good / all - 1.0).powi(2)).sum();
    let share_of_good = good.len() as f64 / is_good.iter().filter(|good| **good).count() as f64;
    let share_of_all = all.len() as f64 / scored.len() as f64;
    share_of_good.powi(2) / share_of_all * pearson
}

/// The values of a domain that are told apart.
enum Grid<'a> {
    Choice(&'a [Value]),
    /// So many, evenly spaced between the ends, or between their logarithms.
    Range {
        low: f64,
        high: f64,
        is_log: bool,
        steps: usize,
    },
}

impl<'a> Grid<'a> {
    fn of(domain: &'a Domain) -> Option<Self> {
        let range = |low: f64, high: f64, is_log: bool, steps: usize| {
            let [low, high] = if is_log { [low.ln(), high.ln()] } else { [low, high] };
            (steps > 1).then_some(Self::Range { low, high, is_log, steps })
        };
        match domain {
            Domain::Fixed(_) => None,
            Domain::Choice(values) => Some(Self::Choice(values)),
            Domain::Float(Interval { low, high, spacing }) => match spacing {
                Spacing::Linear => range(*low, *high, false, STEPS),
                Spacing::Log => range(*low, *high, true, STEPS),
                Spacing::Step(step) => {
                    // Optuna ends a range at its last step.
                    let whole = ((high - low) / step + 1e-9).floor();
                    range(*low, low + whole * step, false, (whole as usize + 1).min(STEPS))
                }
            },
            Domain::Int(Interval { low, high, spacing }) => {
                let (from, to) = (*low as f64, *high as f64);
                match spacing {
                    Spacing::Log => {
                        let doublings = (to - from + 1.0).log2().ceil() as usize + 1;
                        range(from, to, true, doublings.min(STEPS))
                    }
                    Spacing::Linear => range(from, to, false, (high.abs_diff(*low) as usize + 1).min(STEPS)),
                    Spacing::Step(step) => {
                        let step = step.unsigned_abs().max(1);
                        let whole = high.abs_diff(*low) / step;
                        range(from, from + (whole * step) as f64, false, (whole as usize + 1).min(STEPS))
                    }
                }
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Choice(values) => values.len(),
            Self::Range { steps, .. } => *steps,
        }
    }

    fn index(&self, value: &Value) -> Option<usize> {
        match self {
            Self::Choice(values) => values.iter().position(|known| known == value),
            Self::Range { low, high, is_log, steps } => {
                let number = match value {
                    Value::Float(number) => *number,
                    Value::Int(number) => *number as f64,
                    Value::Bool(_) | Value::Text(_) | Value::List(_) => return None,
                };
                let number = if *is_log { number.ln() } else { number };
                let width = (high - low) / (steps - 1) as f64;
                // Half-way between two belongs to the lower one.
                let index = ((number - low) / width - 0.5).ceil();
                Some((index.max(0.0) as usize).min(steps - 1))
            }
        }
    }

    /// The probability of each value, by a kernel around each that occurs, as often as it does, and an even one.
    fn density(&self, values: &[&Value]) -> Vec<f64> {
        let mut counts = vec![0_usize; self.len()];
        for index in values.iter().filter_map(|value| self.index(value)) {
            if let Some(count) = counts.get_mut(index) {
                *count += 1;
            }
        }
        let seen: Vec<(f64, f64)> = counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(at, count)| (at as f64, *count as f64))
            .collect();
        let total = seen.iter().map(|(_, count)| count).sum::<f64>() + 1.0;
        let kernels = seen.len() as f64 + 1.0;
        let density = (0..self.len()).map(|at| {
            let at = at as f64;
            let mixed = match self {
                Self::Choice(values) => {
                    let choices = values.len() as f64;
                    let around = |(middle, count): &(f64, f64)| {
                        let same = f64::from(u8::from((at - middle).abs() < 0.5));
                        count * (1.0 / kernels + same) / (choices / kernels + 1.0)
                    };
                    seen.iter().map(around).sum::<f64>() + 1.0 / choices
                }
                Self::Range { steps, .. } => {
                    let last = (steps - 1) as f64;
                    let width = width(&seen);
                    let around = |(middle, count): &(f64, f64)| count * share(at, *middle, width, last);
                    seen.iter().map(around).sum::<f64>() + share(at, last / 2.0, last + 1.0, last)
                }
            };
            mixed / total + DENSITY_MIN
        });
        density.collect()
    }
}

/// The part of a normal distribution, cut off half a step beyond the ends, that is nearest to that step.
fn share(at: f64, middle: f64, width: f64, last: f64) -> f64 {
    let between = |from: f64, to: f64| {
        let [from, to] = [from, to].map(|end| (end - middle) / width * FRAC_1_SQRT_2);
        // In the tail where differences keep their digits.
        if from > 0.0 { 0.5 * (erfc(from) - erfc(to)) } else { 0.5 * (erfc(-to) - erfc(-from)) }
    };
    between(at - 0.5, at + 0.5) / between(-0.5, last + 0.5)
}

/// Scott's rule (1992) in steps of the grid, for values with their counts; at least so wide that nine tenths fall on one step.
fn width(seen: &[(f64, f64)]) -> f64 {
    let total: f64 = seen.iter().map(|(_, count)| count).sum();
    let mean = seen.iter().map(|(at, count)| at * count).sum::<f64>() / total;
    let squares: f64 = seen.iter().map(|(at, count)| (at - mean).powi(2) * count).sum();
    let deviation = (squares / (total - 1.0).max(1.0)).sqrt();
    let cumulative: Vec<f64> = seen
        .iter()
        .scan(0.0, |sum, (_, count)| {
            *sum += count;
            Some(*sum)
        })
        .collect();
    let at = |index: usize| seen.get(index.min(seen.len() - 1)).map_or(0.0, |(at, _)| *at);
    let first = cumulative.partition_point(|sum| *sum < (total / 4.0).floor());
    let third = cumulative.partition_point(|sum| *sum <= (total * 3.0 / 4.0).floor());
    let quartiles = at(third) - at(first);
    (1.059 * deviation.min(quartiles / 1.34) * total.powf(-0.2)).max(0.5 / 1.64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use earshot_common::sweep::Sweep;
    use serde::Deserialize;

    use super::*;

    /// What Optuna makes of the same trials: see `golden/importance.py`.
    #[derive(Deserialize)]
    struct Golden {
        space: String,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        trials: Vec<(Point, f64)>,
        importances: std::collections::BTreeMap<String, f64>,
    }

    #[test]
    fn importances_are_optunas() {
        let golden: Golden = serde_json::from_str(include_str!("golden/importance.json")).unwrap();
        let text = format!(
            "name = \"t\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[schedule]\nepochs = 1\n\
             [search]\nmethod = \"random\"\n[budget]\ntrials = 9\n[space]\n{}",
            golden.space
        );
        let space = Sweep::parse(&text, Path::new("t.toml"), &[]).unwrap().space;
        assert!(golden.cases.len() >= 3);
        for case in &golden.cases {
            let scored: Vec<(&Point, f64)> =
                case.trials.iter().map(|(point, score)| (point, *score)).collect();
            let found = importance(&space, &scored);
            assert_eq!(found.shares.len(), case.importances.len());
            for (name, share) in &found.shares {
                let expected = case.importances[name.name()];
                assert!((share - expected).abs() < 1e-6, "{}: {share}, Optuna has {expected}", name.name());
            }
            assert!((found.shares.iter().map(|(_, share)| share).sum::<f64>() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn of_one_trial_nothing_is_known() {
        let golden: Golden = serde_json::from_str(include_str!("golden/importance.json")).unwrap();
        let (point, score) = &golden.cases[0].trials[0];
        let domain = Domain::Float(Interval { low: 0.0, high: 1.0, spacing: Spacing::Linear });
        let space = Space::new(std::collections::BTreeMap::from([(Hyperparameter::Dropout, domain)]));
        let found = importance(&space, &[(point, *score)]);
        assert_eq!(found.shares, [(Hyperparameter::Dropout, 0.0)]);
        assert_eq!(importance(&space, &[]).trials, 0);
    }
}
