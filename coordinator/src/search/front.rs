//! Several objectives: a score to be large and costs to be small. Who is on the front, and what a newcomer adds to it.
//!
//! The volume that a front dominates is measured up to a reference. A model's costs are known exactly before it is trained, so what
//! a point would add depends on one unknown alone, its score `s`: it is Σ areaₖ·max(0, s − heightₖ), where the heights are
//! the front's best scores at costs no larger, and the areas the parts of the plane of costs where they hold. Of an uncertain
//! score the expectation is therefore a sum of expected improvements, in closed form; where scores and costs are all uncertain
//! it takes boxes in as many dimensions (Daulton, Balandat and Bakshy 2020), and constraints are a matter of probability. Here
//! a point that breaks one is no candidate.

use std::cmp::Ordering;

/// Costs of a model that are to be small; those that the sweep does not name are 0.
pub type Costs = [f64; 2];

/// Scores and costs that are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// To be large.
    pub score: f64,
    /// To be small.
    pub costs: Costs,
}

impl Outcome {
    /// Whether it is no worse in anything, and better in something.
    pub fn dominates(&self, other: &Self) -> bool {
        let costs = || self.costs.iter().zip(&other.costs);
        let is_no_worse = self.score >= other.score && costs().all(|(own, other)| own <= other);
        is_no_worse && (self.score > other.score || costs().any(|(own, other)| own < other))
    }
}

/// The numbers of those that no other dominates, in their order.
pub fn front(outcomes: &[Outcome]) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..outcomes.len()).collect();
    numbers.sort_by(|one, other| by_score(outcomes.get(*one), outcomes.get(*other)));
    let mut found: Vec<usize> = Vec::new();
    // Whoever dominates comes before, and so does one of the front that dominates the same.
    for number in numbers {
        let Some(outcome) = outcomes.get(number) else { continue };
        let is_dominated =
            found.iter().filter_map(|known| outcomes.get(*known)).any(|known| known.dominates(outcome));
        if !is_dominated {
            found.push(number);
        }
    }
    found.sort_unstable();
    found
}

/// The best score first, of equal ones the least cost.
fn by_score(one: Option<&Outcome>, other: Option<&Outcome>) -> Ordering {
    let (Some(one), Some(other)) = (one, other) else { return Ordering::Equal };
    let by_cost = || {
        let mut costs = one.costs.iter().zip(&other.costs);
        costs.find_map(|(one, other)| Some(one.total_cmp(other)).filter(|order| order.is_ne()))
    };
    other.score.total_cmp(&one.score).then_with(|| by_cost().unwrap_or(Ordering::Equal))
}

/// The best so many by rank: first the front, then the front of the rest, and so on; of the rank that does not fit whole, those
/// that add the most volume, one after the other, as Optuna's samplers choose.
pub(super) fn best_by_rank(outcomes: &[Outcome], most: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut left: Vec<usize> = (0..outcomes.len()).collect();
    while chosen.len() < most && !left.is_empty() {
        let ranked: Vec<Outcome> = left.iter().filter_map(|number| outcomes.get(*number).copied()).collect();
        let rank = front(&ranked);
        let numbers: Vec<usize> = rank.iter().filter_map(|index| left.get(*index).copied()).collect();
        let room = most - chosen.len();
        if numbers.len() <= room {
            chosen.extend(&numbers);
        } else {
            let rank: Vec<Outcome> = rank.iter().filter_map(|index| ranked.get(*index).copied()).collect();
            let most_volume = most_volume(&rank, room);
            chosen.extend(most_volume.into_iter().filter_map(|index| numbers.get(index)));
        }
        left.retain(|number| !numbers.contains(number));
    }
    chosen.sort_unstable();
    chosen
}

/// Those of a front that together dominate the most volume, chosen greedily.
fn most_volume(front: &[Outcome], most: usize) -> Vec<usize> {
    let scale = Scale::of(front.iter());
    let scaled: Vec<Outcome> = front.iter().map(|outcome| scale.scaled(outcome)).collect();
    let lowest = scaled.iter().map(|outcome| outcome.score).fold(f64::INFINITY, f64::min);
    let highest = scaled.iter().map(|outcome| outcome.score).fold(f64::NEG_INFINITY, f64::max);
    let reference = lowest - MARGIN * (highest - lowest).max(f64::MIN_POSITIVE);
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < most {
        let known: Vec<Outcome> = chosen.iter().filter_map(|index| scaled.get(*index).copied()).collect();
        let volume = Volume::new(&known, reference);
        let gain = |outcome: &Outcome| -> f64 {
            let steps = volume.steps(&outcome.costs);
            steps.iter().map(|step| step.area * (outcome.score - step.height).max(0.0)).sum()
        };
        let left = scaled.iter().enumerate().filter(|(index, _)| !chosen.contains(index));
        let best = left.map(|(index, outcome)| (index, gain(outcome)));
        // The first of equals.
        match best.reduce(|best, other| if other.1 > best.1 { other } else { best }) {
            Some((index, _)) => chosen.push(index),
            None => break,
        }
    }
    chosen
}

/// How far beyond the worst the reference is, in parts of the range.
const MARGIN: f64 = 0.1;
/// Points of a front that volumes are computed with: the cells of its plane grow with the square.
const FRONT_MAX: usize = 32;

/// From costs to coordinates of 0 to 1: their logarithms, for a model half as large is worth the same wherever it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    ends: [(f64, f64); 2],
}

impl Scale {
    /// Over the costs of these.
    pub(super) fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        let mut ends = [(f64::INFINITY, f64::NEG_INFINITY); 2];
        for outcome in outcomes {
            for ((low, high), cost) in ends.iter_mut().zip(outcome.costs) {
                *low = low.min(log(cost));
                *high = high.max(log(cost));
            }
        }
        Self { ends }
    }

    pub(super) fn costs(&self, costs: &Costs) -> Costs {
        let mut scaled = *costs;
        for (cost, (low, high)) in scaled.iter_mut().zip(self.ends) {
            *cost = if high > low { (log(*cost) - low) / (high - low) } else { 0.0 };
        }
        scaled
    }

    fn scaled(&self, outcome: &Outcome) -> Outcome {
        Outcome { score: outcome.score, costs: self.costs(&outcome.costs) }
    }
}

/// Of a cost, which may be 0.
fn log(cost: f64) -> f64 {
    cost.max(1e-9).ln()
}

/// A front with scaled costs, and the volume that it dominates.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    front: Vec<Outcome>,
    /// The score above which volume counts.
    reference: f64,
}

/// A part of the plane of costs where one score has to be beaten.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Step {
    pub(super) height: f64,
    pub(super) area: f64,
}

impl Volume {
    /// Of these, of which those that are dominated do not matter.
    pub(super) fn new(outcomes: &[Outcome], reference: f64) -> Self {
        let mut front: Vec<Outcome> =
            front(outcomes).into_iter().filter_map(|number| outcomes.get(number).copied()).collect();
        front.sort_by(|one, other| by_score(Some(one), Some(other)));
        // Of too many, some evenly from the best to the cheapest.
        let count = front.len();
        if count > FRONT_MAX {
            let kept = (0..FRONT_MAX).filter_map(|index| front.get(index * (count - 1) / (FRONT_MAX - 1)));
            front = kept.copied().collect();
        }
        Self { front, reference }
    }

    pub(super) fn len(&self) -> usize {
        self.front.len()
    }

    /// What a point of these scaled costs has to beat: every height once, with the area where it holds.
    pub(super) fn steps(&self, costs: &Costs) -> Vec<Step> {
        let [first, second] = [0, 1].map(|axis| self.cuts(costs, axis));
        // The front is sorted, so the first that is no dearer is the best.
        let mut areas = vec![0.0; self.front.len() + 1];
        for (one, width) in &first {
            for (other, depth) in &second {
                let holds = |known: &Outcome| {
                    let [known_one, known_other] = known.costs;
                    known_one <= *one && known_other <= *other
                };
                let best = self.front.iter().position(holds).unwrap_or(self.front.len());
                if let Some(area) = areas.get_mut(best) {
                    *area += width * depth;
                }
            }
        }
        let heights = self.front.iter().map(|known| known.score).chain([self.reference]);
        let steps = heights.zip(areas).filter(|(_, area)| *area > 0.0);
        steps.map(|(height, area)| Step { height: height.max(self.reference), area }).collect()
    }

    /// Where heights may change along an axis, from a point's cost on, each with the way to the next.
    fn cuts(&self, costs: &Costs, axis: usize) -> Vec<(f64, f64)> {
        let cost = |costs: &Costs| costs.get(axis).copied().unwrap_or(0.0);
        let (from, to) = (cost(costs), 1.0 + MARGIN);
        let known = self.front.iter().map(|known| cost(&known.costs));
        let mut at: Vec<f64> = known.filter(|at| (from..to).contains(at)).chain([from]).collect();
        at.sort_by(f64::total_cmp);
        at.dedup();
        let next = at.iter().skip(1).copied().chain([to]);
        at.iter().zip(next).map(|(at, next)| (*at, next - at)).filter(|(_, way)| *way > 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(score: f64, one: f64, other: f64) -> Outcome {
        Outcome { score, costs: [one, other] }
    }

    fn outcomes() -> impl Strategy<Value = Vec<Outcome>> {
        let number = || (0u8..8).prop_map(f64::from);
        prop::collection::vec((number(), number(), number()).prop_map(|(a, b, c)| outcome(a, b, c)), 1..30)
    }

    proptest! {
        #[test]
        fn the_front_is_who_is_not_dominated(outcomes in outcomes()) {
            let is_free = |one: &Outcome| !outcomes.iter().any(|other| other.dominates(one));
            let expected: Vec<usize> = (0..outcomes.len()).filter(|n| is_free(&outcomes[*n])).collect();
            prop_assert_eq!(front(&outcomes), expected);
        }

        #[test]
        fn whoever_is_left_out_dominates_nobody_who_was_chosen(outcomes in outcomes(), most in 1usize..20) {
            let chosen = best_by_rank(&outcomes, most);
            prop_assert_eq!(chosen.len(), most.min(outcomes.len()));
            for left in (0..outcomes.len()).filter(|number| !chosen.contains(number)) {
                prop_assert!(!chosen.iter().any(|number| outcomes[left].dominates(&outcomes[*number])));
            }
        }

        /// What a point adds, counted cell by cell on a fine grid of costs.
        #[test]
        fn steps_are_the_volume_that_a_point_adds(outcomes in outcomes(), new in (0u8..8, 0u8..8, 0u8..8)) {
            const CELLS: usize = 22;
            let tenths = |n: f64| n / 10.0;
            let scaled: Vec<Outcome> = outcomes
                .iter()
                .map(|known| outcome(known.score, tenths(known.costs[0]), tenths(known.costs[1])))
                .collect();
            let new = outcome(f64::from(new.0), tenths(f64::from(new.1)), tenths(f64::from(new.2)));
            let volume = Volume::new(&scaled, 1.5);
            let steps = volume.steps(&new.costs);
            let found: f64 = steps.iter().map(|step| step.area * (new.score - step.height).max(0.0)).sum();
            let middle = |cell: usize| (cell as f64 + 0.5) / 20.0;
            let mut expected = 0.0;
            for one in 0..CELLS {
                for other in 0..CELLS {
                    let holds = |known: &&Outcome| known.costs[0] <= middle(one) && known.costs[1] <= middle(other);
                    let best = scaled.iter().filter(holds).map(|known| known.score).fold(1.5, f64::max);
                    if holds(&&new) {
                        expected += (new.score - best).max(0.0) / 400.0;
                    }
                }
            }
            prop_assert!((found - expected).abs() < 1e-9, "{} {}", found, expected);
        }
    }

    #[test]
    fn without_costs_the_front_is_the_best_score() {
        let outcomes = [0.3, 0.9, 0.5].map(|score| outcome(score, 0.0, 0.0));
        assert_eq!(front(&outcomes), [1]);
        assert_eq!(best_by_rank(&outcomes, 2), [1, 2]);
    }

    #[test]
    fn of_a_rank_that_does_not_fit_the_most_volume_is_kept() {
        // Two close together, and one far from both.
        let outcomes = [outcome(1.0, 10.0, 0.0), outcome(0.99, 9.9, 0.0), outcome(0.2, 1.0, 0.0)];
        let chosen = best_by_rank(&outcomes, 2);
        assert!(chosen.contains(&2) || chosen == [0, 1], "{chosen:?}");
        assert_eq!(chosen.len(), 2);
    }
}
