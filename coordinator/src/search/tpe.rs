//! The tree-structured Parzen estimator: two densities, of the good points and of all others; the next point is where the
//! first is largest beside the second.
//!
//! Bergstra et al. 2011, section 4, with what Optuna's `TPESampler` adds: see `parzen`. Runs under way count among the others,
//! as if they were to turn out badly (the constant liar of Ginsbourger et al. 2010), so that workers who ask at the same time
//! are sent to different places; failed and infeasible trials do so for good.

use std::cmp::Ordering;

use earshot_common::sweep::{Point, Space};
use rand_chacha::ChaCha8Rng;

use super::{
    Past, Proposal, Standing, Why,
    axes::{Axes, Place},
    draw_another, is_new,
    parzen::Parzen,
    start,
};

/// Good points at most, Optuna's number: a tenth of all, up to this.
const GOOD_MAX: usize = 25;
/// Other points that are looked at, the newest: their density hardly changes with more, and old ones weigh little anyway.
const OTHERS_MAX: usize = 2_000;

/// Settings of the method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tpe {
    /// Trials that have to end before results are heeded.
    pub(super) startup: u32,
    /// Points drawn from the good ones' density, of which the best is taken.
    pub(super) candidates: u32,
}

impl Tpe {
    pub(super) fn propose(
        self,
        space: &Space,
        seed: u64,
        history: &[Past<'_>],
        dice: &mut ChaCha8Rng,
    ) -> Option<Proposal> {
        let (good, others) = split(history);
        let ended =
            history.iter().filter(|past| matches!(past.standing, Standing::Completed(_) | Standing::Failed));
        let ended = ended.count() as u32;
        if good.is_empty() || ended < self.startup {
            return start(space, seed, history, dice, Why::Startup { ended, startup: self.startup });
        }
        let counts = (good.len() as u32, others.len() as u32);
        let axes = Axes::new(space);
        let places = |group: &[usize]| -> Vec<Place> {
            group.iter().filter_map(|&number| Some(axes.place(history.get(number)?.point))).collect()
        };
        let (good, others) = (Parzen::new(&axes, &places(&good)), Parzen::new(&axes, &places(&others)));
        let mut candidates: Vec<(f64, Point)> = (0..self.candidates)
            .filter_map(|_| {
                let point = axes.point(&good.draw(dice))?;
                let place = axes.place(&point);
                Some((good.log_density(&place) - others.log_density(&place), point))
            })
            .collect();
        candidates.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let best = candidates
            .into_iter()
            .find(|(log_ratio, point)| log_ratio.is_finite() && is_new(point, history))
            .map(|(log_ratio, point)| {
                Proposal::new(point, Why::Density { log_ratio, good: counts.0, others: counts.1 })
            });
        best.or_else(|| draw_another(space, history, dice))
    }
}

/// The numbers of the good points and of the others, oldest first.
fn split(history: &[Past<'_>]) -> (Vec<usize>, Vec<usize>) {
    let mut completed: Vec<(usize, f64)> = history
        .iter()
        .enumerate()
        .filter_map(|(number, past)| match past.standing {
            Standing::Completed(score) => Some((number, score)),
            Standing::Pending | Standing::Failed | Standing::Infeasible => None,
        })
        .collect();
    let good = completed.len().div_ceil(10).min(GOOD_MAX);
    let better = |one: &(usize, f64), other: &(usize, f64)| -> Ordering {
        other.1.total_cmp(&one.1).then(one.0.cmp(&other.0))
    };
    completed.sort_by(better);
    completed.truncate(good);
    let mut good: Vec<usize> = completed.into_iter().map(|(number, _)| number).collect();
    good.sort_unstable();
    let is_other = |number: &usize| good.binary_search(number).is_err();
    let mut others: Vec<usize> = (0..history.len()).rev().filter(is_other).take(OTHERS_MAX).collect();
    others.reverse();
    (good, others)
}

#[cfg(test)]
mod tests {
    use earshot_common::sweep::Point;

    use super::*;

    #[test]
    fn a_tenth_is_good_and_the_rest_is_not() {
        let point: Point = serde_json::from_str("{}").unwrap();
        let standing = |number: usize| match number % 5 {
            0 => Standing::Pending,
            1 => Standing::Failed,
            _ => Standing::Completed((number * 37 % 101) as f64),
        };
        let history: Vec<Past<'_>> =
            (0..50).map(|number| Past { point: &point, standing: standing(number) }).collect();
        let (good, others) = split(&history);
        assert_eq!((good.len(), others.len()), (3, 47));
        let score = |number: &usize| match history[*number].standing {
            Standing::Completed(score) => score,
            _ => f64::NEG_INFINITY,
        };
        let worst = good.iter().map(score).fold(f64::INFINITY, f64::min);
        assert!(others.iter().all(|number| score(number) <= worst));
    }
}
