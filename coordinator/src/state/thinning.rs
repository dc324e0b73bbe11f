//! Which trials get more epochs: [`Stop`]'s rules, over what has been reported so far.
//!
//! Halving keeps, for each bracket and rung, the trials that came there with their scores; one may go on when it is among the
//! best of them, one in [`Halving::reduction`]. The median rule keeps, for each fold and epoch, everybody's best so far.

use std::collections::{BTreeMap, BTreeSet};

use earshot_common::{
    ids::{FoldId, TrialId},
    job::Epoch,
    sweep::{Halving, Stop},
};
use serde::Serialize;

use super::{
    judgement::Basis,
    ranking::{MeanMetrics, Place},
};

/// What the rule knows.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct Thinning {
    #[serde(with = "serde_pairs")]
    rungs: BTreeMap<RungId, Rung>,
    /// Rungs of its bracket at which a trial was noted, from the first on.
    noted: BTreeMap<TrialId, usize>,
    #[serde(with = "serde_pairs")]
    bests: BTreeMap<(FoldId, u32), Bests>,
}

/// A rung, the fewest epochs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct RungId {
    epochs: u32,
    bracket: u32,
}

/// Who came to a rung.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Rung {
    /// Those that wait there.
    held: BTreeSet<Place>,
    /// Those that went on.
    promoted: BTreeSet<Place>,
}

/// The best so far of every run that came to an epoch, in order.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Bests {
    scores: Vec<f64>,
    trials: BTreeSet<TrialId>,
}

impl Rung {
    /// The best of those that wait, if it may go on; at least one may if `at_least_one`.
    fn promotable(&self, reduction: u32, at_least_one: bool) -> Option<Place> {
        let best = *self.held.first()?;
        let came = self.held.len() + self.promoted.len();
        let places = (came / reduction as usize).max(usize::from(at_least_one));
        // Those before it were all promoted.
        let better = self.promoted.len() - self.promoted.range(best..).count();
        (better < places).then_some(best)
    }
}

impl Thinning {
    /// The rung that a trial comes to next.
    pub(super) fn next_rung(&self, stop: Stop, trial: TrialId, epochs: u32) -> Option<u32> {
        let noted = self.noted.get(&trial).copied().unwrap_or(0);
        stop.rungs(stop.bracket(trial, epochs), epochs).get(noted).copied()
    }

    /// Notes a trial at its next rung.
    pub(super) fn note(&mut self, stop: Stop, trial: TrialId, epochs: u32, mean: MeanMetrics, score: f64) {
        let Some(rung) = self.next_rung(stop, trial, epochs) else { return };
        let id = RungId { epochs: rung, bracket: stop.bracket(trial, epochs) };
        self.rungs.entry(id).or_default().held.insert(Place { score, loss: mean.loss, trial });
        *self.noted.entry(trial).or_default() += 1;
    }

    /// The trial to promote next, of those that came furthest; when nothing else is left to do, the best of a rung may go on
    /// however few came there.
    pub(super) fn promotable(&self, stop: Stop, is_idle: bool) -> Option<TrialId> {
        let (Stop::Asha(Halving { reduction, .. }) | Stop::Hyperband(Halving { reduction, .. })) = stop
        else {
            return None;
        };
        let places = self.rungs.values().rev().filter_map(|rung| {
            let at_least_one = is_idle && rung.promoted.is_empty();
            rung.promotable(reduction, at_least_one)
        });
        places.map(|place| place.trial).next()
    }

    /// Whether a trial waits at the rung where it was noted last, and may go on.
    pub(super) fn may_go_on(&self, stop: Stop, trial: TrialId) -> bool {
        let (Stop::Asha(Halving { reduction, .. }) | Stop::Hyperband(Halving { reduction, .. })) = stop
        else {
            return true;
        };
        let waits = |rung: &&Rung| rung.held.iter().any(|place| place.trial == trial);
        let rung = self.rungs.values().rev().find(waits);
        rung.is_none_or(|rung| rung.promotable(reduction, false).is_some_and(|place| place.trial == trial))
    }

    /// The rung where a trial waits, its score there, and what a decision about it rests on.
    pub(super) fn basis(&self, stop: Stop, trial: TrialId) -> Option<(u32, f64, Basis)> {
        let (Stop::Asha(Halving { reduction, .. }) | Stop::Hyperband(Halving { reduction, .. })) = stop
        else {
            return None;
        };
        self.rungs.iter().rev().find_map(|(id, rung)| {
            let place = rung.held.iter().find(|place| place.trial == trial)?;
            let came = (rung.held.len() + rung.promoted.len()) as u32;
            let promoted = rung.promoted.len() as u32;
            let best = rung.held.first()?.score;
            let basis = Basis::Rung { came, places: came / reduction, promoted, best };
            Some((id.epochs, place.score, basis))
        })
    }

    /// A trial goes on from where it waits.
    pub(super) fn promote(&mut self, trial: TrialId) {
        for rung in self.rungs.values_mut().rev() {
            if let Some(&place) = rung.held.iter().find(|place| place.trial == trial) {
                rung.held.remove(&place);
                rung.promoted.insert(place);
            }
        }
    }

    /// A trial has failed: its places are free.
    pub(super) fn forget(&mut self, trial: TrialId) {
        for rung in self.rungs.values_mut() {
            rung.held.retain(|place| place.trial != trial);
            rung.promoted.retain(|place| place.trial != trial);
        }
    }

    /// Notes a run's best so far at an epoch; if the median rule stops it, what that rests on.
    pub(super) fn below_median(
        &mut self,
        startup: u32,
        (trial, fold, epoch): (TrialId, FoldId, u32),
        score: f64,
    ) -> Option<Basis> {
        let bests = self.bests.entry((fold, epoch)).or_default();
        let others = &bests.scores;
        // An attempt that began anew comes by again, and is among them.
        let is_known = bests.trials.contains(&trial);
        let is_early = others.len() < startup as usize + usize::from(is_known);
        let median = others.get(others.len() / 2).copied();
        let below = median.filter(|median| !is_early && score.total_cmp(median).is_lt());
        let others = (others.len() - usize::from(is_known)) as u32;
        if bests.trials.insert(trial) {
            let at = bests.scores.partition_point(|other| other.total_cmp(&score).is_lt());
            bests.scores.insert(at, score);
        }
        below.map(|median| Basis::Median { others, median })
    }
}

/// What the objective makes of the best of these epochs: the one of lowest loss, as a run's result is.
pub(super) fn best_so_far(epochs: &[Epoch]) -> Option<&Epoch> {
    epochs.iter().min_by(|one, other| one.loss.total_cmp(&other.loss))
}

/// Maps whose keys are no text, as lists of pairs.
mod serde_pairs {
    use std::collections::BTreeMap;

    use serde::{Serialize, Serializer};

    pub(super) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASHA: Stop = Stop::Asha(Halving { min_epochs: 1, reduction: 3 });
    const EPOCHS: u32 = 9;

    fn mean(accuracy: f64) -> MeanMetrics {
        let loss = 1.0 - accuracy;
        MeanMetrics { accuracy, macro_f1: accuracy, loss, epoch: 1.0, int8_accuracy: None }
    }

    fn note(thinning: &mut Thinning, trial: u32, accuracy: f64) {
        thinning.note(ASHA, TrialId(trial), EPOCHS, mean(accuracy), accuracy);
    }

    #[test]
    fn one_in_three_goes_on_and_the_best_first() {
        let mut thinning = Thinning::default();
        assert_eq!(thinning.next_rung(ASHA, TrialId(0), EPOCHS), Some(1));
        note(&mut thinning, 0, 0.5);
        assert_eq!(thinning.next_rung(ASHA, TrialId(0), EPOCHS), Some(3));
        note(&mut thinning, 1, 0.7);
        assert_eq!(thinning.promotable(ASHA, false), None);
        note(&mut thinning, 2, 0.6);
        assert!(!thinning.may_go_on(ASHA, TrialId(2)) && thinning.may_go_on(ASHA, TrialId(1)));
        assert_eq!(thinning.promotable(ASHA, false), Some(TrialId(1)));
        thinning.promote(TrialId(1));
        assert_eq!(thinning.promotable(ASHA, false), None);
        // A better one comes late, and finds the only place taken.
        note(&mut thinning, 3, 0.9);
        assert_eq!(thinning.promotable(ASHA, false), Some(TrialId(3)), "it is the best of four");
        thinning.promote(TrialId(3));
        note(&mut thinning, 4, 0.8);
        assert_eq!(
            thinning.promotable(ASHA, false),
            None,
            "two of five went on already, but it is second best"
        );
    }

    #[test]
    fn a_later_rung_comes_first_and_somebody_always_comes_through() {
        let mut thinning = Thinning::default();
        (0..6).for_each(|trial| note(&mut thinning, trial, f64::from(trial) / 10.0));
        for trial in [5, 4] {
            assert_eq!(thinning.promotable(ASHA, false), Some(TrialId(trial)));
            thinning.promote(TrialId(trial));
            note(&mut thinning, trial, 0.9);
        }
        assert_eq!(thinning.promotable(ASHA, false), None);
        assert_eq!(thinning.promotable(ASHA, true), Some(TrialId(4)), "both alike, the lower number");
        thinning.promote(TrialId(4));
        assert_eq!(thinning.promotable(ASHA, true), None);
        thinning.forget(TrialId(4));
        assert_eq!(thinning.promotable(ASHA, true), Some(TrialId(5)), "the place of a failed one is free");
    }

    #[test]
    fn the_lower_half_is_stopped_once_there_are_enough_others() {
        let mut thinning = Thinning::default();
        let mut goes_on =
            |trial, score| thinning.below_median(3, (TrialId(trial), FoldId(1), 2), score).is_none();
        assert!(goes_on(0, 0.1) && goes_on(1, 0.5) && goes_on(2, 0.3));
        assert!(!goes_on(3, 0.2) && goes_on(4, 0.3) && goes_on(5, f64::INFINITY));
        assert!(!goes_on(6, f64::NEG_INFINITY));
        assert!(!goes_on(6, f64::NEG_INFINITY), "again, and not counted twice");
    }
}
