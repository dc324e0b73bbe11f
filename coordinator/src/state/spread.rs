//! How far scores can be trusted: a trial's mean over its folds is one draw of what it would be over others.
//!
//! Scores of trials on folds are taken to be a trial's own part, a fold's own part and chance: the two-way layout without
//! interaction, whose remaining variance is pooled over all trials that have every fold. What folds have in common falls out of every
//! comparison, which is what pairing is for. The best of many means is the best partly by luck; the estimate that is not fooled
//! pulls each towards the mean of all by the part of their variance that is chance (Efron and Morris 1973; for what it does to
//! the best of N, Efron 2011, "Tweedie's formula and selection bias").

use std::collections::BTreeMap;

use earshot_common::ids::FoldId;
use serde::Serialize;

/// Sums over the trials that have a score on every fold, so that a new one costs no more than its folds.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct Spread {
    trials: u32,
    /// Taken from every score before it is summed, so that squares lose no digits: the first one.
    shift: f64,
    squares: f64,
    squared_rows: f64,
    folds: BTreeMap<FoldId, f64>,
}

/// What a mean is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Its standard error, apart from what all trials share on these folds.
    pub standard_error: f64,
    /// What is to be expected of it on other folds, if it was chosen for its mean.
    pub corrected: f64,
}

impl Spread {
    /// Enters a trial's score on each fold.
    pub(super) fn enter(&mut self, scores: &BTreeMap<FoldId, f64>) {
        if self.trials == 0 {
            self.shift = scores.values().next().copied().unwrap_or(0.0);
        }
        self.trials += 1;
        let mut row = 0.0;
        for (&fold, score) in scores {
            let shifted = score - self.shift;
            row += shifted;
            self.squares += shifted * shifted;
            *self.folds.entry(fold).or_default() += shifted;
        }
        self.squared_rows += row * row;
    }

    pub(super) fn trials(&self) -> u32 {
        self.trials
    }

    /// Degrees of freedom of the remaining variance.
    pub(super) fn freedom(&self) -> u64 {
        u64::from(self.trials.saturating_sub(1)) * (self.folds.len() as u64).saturating_sub(1)
    }

    /// The variance of one score that is neither the trial's nor the fold's; none where there is nothing to tell it from.
    pub(super) fn variance(&self) -> Option<f64> {
        let freedom = self.freedom();
        let (trials, folds) = (f64::from(self.trials), self.folds.len() as f64);
        let whole: f64 = self.folds.values().sum();
        let columns: f64 = self.folds.values().map(|sum| sum * sum).sum();
        let left =
            self.squares - self.squared_rows / folds - columns / trials + whole * whole / (trials * folds);
        (freedom > 0).then(|| left.max(0.0) / freedom as f64)
    }

    /// What the mean of a trial over all folds is worth.
    pub(super) fn estimate(&self, mean: f64) -> Option<Estimate> {
        let (trials, folds) = (f64::from(self.trials), self.folds.len() as f64);
        let chance = self.variance()? / folds;
        let whole: f64 = self.folds.values().sum::<f64>() / folds;
        let grand = self.shift + whole / trials;
        let of_means = (self.squared_rows / (folds * folds) - whole * whole / trials) / (trials - 1.0);
        let kept = if of_means > 0.0 { (1.0 - chance / of_means).max(0.0) } else { 0.0 };
        Some(Estimate { standard_error: chance.sqrt(), corrected: grand + kept * (mean - grand) })
    }

    /// The mean of a trial that has some of the folds, as if it had all: folds differ in how hard they are.
    pub(super) fn adjusted(&self, scores: &BTreeMap<FoldId, f64>) -> Option<f64> {
        let trials = f64::from(self.trials);
        if self.trials == 0 || scores.is_empty() {
            return None;
        }
        let all = self.folds.values().sum::<f64>() / trials / self.folds.len() as f64;
        let ease = |fold: &FoldId| self.folds.get(fold).map_or(0.0, |sum| sum / trials - all);
        let sum: f64 = scores.iter().map(|(fold, score)| score - ease(fold)).sum();
        Some(sum / scores.len() as f64)
    }
}

/// The probability that Student's t with so many degrees of freedom is below `t`.
pub(super) fn student_below(t: f64, freedom: u64) -> f64 {
    let freedom = freedom as f64;
    let tail = 0.5 * incomplete_beta(freedom / (freedom + t * t), 0.5 * freedom, 0.5);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22, evaluated as Lentz does).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    /// Far more than it takes: the fraction converges in about the root of the larger parameter.
    const TERMS: u32 = 10_000;
    const TINY: f64 = 1e-300;
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // It converges fast on this side of the middle.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let away = |number: f64| if number.abs() < TINY { TINY } else { number };
    let log_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * (-x).ln_1p();
    let (mut fraction, mut c, mut d) = (1.0, 1.0, 0.0);
    for term in 0..TERMS {
        let m = f64::from(term / 2);
        let coefficient = if term == 0 {
            1.0
        } else if term % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / away(1.0 + coefficient * d);
        c = away(1.0 + coefficient / c);
        fraction *= c * d;
        if (c * d - 1.0).abs() < 1e-14 {
            break;
        }
    }
    log_front.exp() * (fraction - 1.0) / a
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(folds: &[f64]) -> BTreeMap<FoldId, f64> {
        (1..).map(FoldId).zip(folds.iter().copied()).collect()
    }

    fn check(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9 * expected.abs().max(1.0), "{found}, expected {expected}");
    }

    #[test]
    fn students_distribution_is_scipys() {
        // scipy.stats.t.cdf of SciPy 1.17.1
        let expected = [
            (-2.5, 1, 0.121_118_941_590_843_41),
            (-1.0, 2, 0.211_324_865_405_187_1),
            (-3.2, 8, 0.006_306_174_721_888_77),
            (1.7, 8, 0.936_223_565_148_382_9),
            (-1.66, 99, 0.050_039_433_796_064_514),
            (-0.3, 3, 0.391_881_646_019_959_5),
            (-6.0, 400, 2.211_200_340_905_735e-09),
        ];
        for (t, freedom, expected) in expected {
            check(student_below(t, freedom), expected);
        }
        check(student_below(0.0, 3), 0.5);
    }

    #[test]
    fn what_is_left_of_two_ways_is_chance() {
        let mut spread = Spread::default();
        assert_eq!((spread.variance(), spread.estimate(0.5)), (None, None));
        let table = [[0.70, 0.60, 0.81], [0.74, 0.66, 0.85], [0.60, 0.50, 0.65], [0.71, 0.63, 0.80]];
        for row in &table {
            spread.enter(&scores(row));
        }
        assert_eq!((spread.trials(), spread.freedom()), (4, 6));
        // By the definition: what the means of rows and columns do not explain.
        let row = |t: usize| table[t].iter().sum::<f64>() / 3.0;
        let column = |f: usize| table.iter().map(|row| row[f]).sum::<f64>() / 4.0;
        let grand = (0..4).map(row).sum::<f64>() / 4.0;
        let left = (0..12).map(|cell| {
            let (t, f) = (cell / 3, cell % 3);
            (table[t][f] - row(t) - column(f) + grand).powi(2)
        });
        let variance = left.sum::<f64>() / 6.0;
        check(spread.variance().unwrap(), variance);
        let of_means = (0..4).map(|t| (row(t) - grand).powi(2)).sum::<f64>() / 3.0;
        let estimate = spread.estimate(row(1)).unwrap();
        check(estimate.standard_error, (variance / 3.0).sqrt());
        check(estimate.corrected, grand + (1.0 - variance / 3.0 / of_means) * (row(1) - grand));
        assert!(estimate.corrected < row(1) && estimate.corrected > grand);
        // The second fold is hard; a trial that has it alone is not to be blamed for it.
        check(spread.adjusted(&BTreeMap::from([(FoldId(2), 0.6)])).unwrap(), 0.6 - column(1) + grand);
    }

    /// Where trials differ by luck alone, the best is worth the mean of all.
    #[test]
    fn the_best_of_equals_is_worth_no_more() {
        let mut spread = Spread::default();
        let chance = |n: u32| f64::from(n.wrapping_mul(2_654_435_761) >> 16) / 65_536.0 * 0.1;
        let mut best = f64::NEG_INFINITY;
        for trial in 0..200 {
            let row: Vec<f64> = (0..4).map(|fold| 0.7 + chance(4 * trial + fold + 1)).collect();
            best = best.max(row.iter().sum::<f64>() / 4.0);
            spread.enter(&scores(&row));
        }
        let estimate = spread.estimate(best).unwrap();
        assert!(best > 0.765 && (estimate.corrected - 0.75).abs() < 2e-3, "{best} {estimate:?}");
    }
}
