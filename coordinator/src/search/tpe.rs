//! The tree-structured Parzen estimator: two densities, of the good points and of all others; the next point is where the
//! first is largest beside the second.
//!
//! Bergstra et al. 2011, section 4, with what Optuna's `TPESampler` adds: see `parzen`. Runs under way count among the others,
//! as if they were to turn out badly (the constant liar of Ginsbourger et al. 2010), so that workers who ask at the same time
//! are sent to different places; failed and infeasible trials do so for good. Where
//! costs are to be small, too, the good points are those of the lowest ranks of non-domination.

use earshot_common::sweep::Point;
use rand_chacha::ChaCha8Rng;

use super::{
    Outcome, Past, Proposal, Question, Standing, Why,
    axes::{Axes, Place},
    front::best_by_rank,
    parzen::Parzen,
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
    pub(super) fn propose(self, question: &Question<'_>, dice: &mut ChaCha8Rng) -> Option<Proposal> {
        let Question { space, history, has_costs, .. } = *question;
        let (good, others) = split(history, has_costs);
        let ended =
            history.iter().filter(|past| matches!(past.standing, Standing::Completed(_) | Standing::Failed));
        let ended = ended.count() as u32;
        if good.is_empty() || ended < self.startup {
            return question.start(ended, self.startup, dice);
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
        let is_possible = |point: &Point| question.is_new(point) && (question.costs)(point).is_some();
        let best = candidates
            .into_iter()
            .find(|(log_ratio, point)| log_ratio.is_finite() && is_possible(point))
            .map(|(log_ratio, point)| {
                Proposal::new(point, Why::Density { log_ratio, good: counts.0, others: counts.1 })
            });
        best.or_else(|| question.draw_another(dice))
    }
}

/// The numbers of the good points and of the others, oldest first. Where costs count, the good ones are those of the lowest
/// ranks.
fn split(history: &[Past<'_>], has_costs: bool) -> (Vec<usize>, Vec<usize>) {
    let (completed, outcomes): (Vec<usize>, Vec<Outcome>) = history
        .iter()
        .enumerate()
        .filter_map(|(number, past)| match past.standing {
            Standing::Completed(score) => Some((number, Outcome { score, costs: past.costs })),
            Standing::Pending | Standing::Failed | Standing::Infeasible => None,
        })
        .unzip();
    let most = completed.len().div_ceil(10).min(GOOD_MAX);
    let best = if has_costs { best_by_rank(&outcomes, most) } else { best_by_score(&outcomes, most) };
    let mut good: Vec<usize> = best.into_iter().filter_map(|index| completed.get(index).copied()).collect();
    good.sort_unstable();
    let is_other = |number: &usize| good.binary_search(number).is_err();
    let mut others: Vec<usize> = (0..history.len()).rev().filter(is_other).take(OTHERS_MAX).collect();
    others.reverse();
    (good, others)
}

/// The numbers of the best so many; of equals the oldest.
fn best_by_score(outcomes: &[Outcome], most: usize) -> Vec<usize> {
    let mut scores: Vec<(usize, f64)> = outcomes.iter().map(|outcome| outcome.score).enumerate().collect();
    scores.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    scores.into_iter().take(most).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests {
    use earshot_common::sweep::Point;

    use super::{super::Costs, *};

    #[test]
    fn a_tenth_is_good_and_the_rest_is_not() {
        let point: Point = serde_json::from_str("{}").unwrap();
        let standing = |number: usize| match number % 5 {
            0 => Standing::Pending,
            1 => Standing::Failed,
            _ => Standing::Completed((number * 37 % 101) as f64),
        };
        let history: Vec<Past<'_>> = (0..50)
            .map(|number| Past { point: &point, standing: standing(number), costs: Costs::default() })
            .collect();
        let (good, others) = split(&history, false);
        assert_eq!((good.len(), others.len()), (3, 47));
        let score = |number: &usize| match history[*number].standing {
            Standing::Completed(score) => score,
            _ => f64::NEG_INFINITY,
        };
        let worst = good.iter().map(score).fold(f64::INFINITY, f64::min);
        assert!(others.iter().all(|number| score(number) <= worst));
        // With nothing to tell costs apart, ranks are those of the scores.
        assert_eq!(split(&history, true).0.len(), 3);
    }
}
