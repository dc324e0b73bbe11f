//! What a point is wanted for: to beat the best score or, where costs are to be small, too, to enlarge what the front dominates.

use earshot_common::sweep::Point;

use super::{
    Costs, Outcome,
    front::{Scale, Volume},
    gaussian::Belief,
    improvement::{log_improvement, slope_of_log_improvement},
};

/// The lowest score that counts, in deviations: a trial that failed is no measure of what a cheap model may score.
const REFERENCE_MIN: f64 = -2.0;

/// What has to be beaten.
#[derive(Debug, Clone)]
pub(super) enum Goal {
    /// One score.
    Score(f64),
    /// A front.
    Volume { volume: Volume, scale: Scale, best: f64 },
}

/// A score to be beaten, and the logarithm of what each bit above it is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Hurdle {
    score: f64,
    log_worth: f64,
}

impl Goal {
    /// After these outcomes, whose scores have mean 0 and variance 1; none if there are none.
    pub(super) fn of(outcomes: &[Outcome], candidates: &[(Point, Costs)], has_costs: bool) -> Option<Self> {
        let scores = || outcomes.iter().map(|outcome| outcome.score);
        let best = scores().reduce(f64::max)?;
        if !has_costs {
            return Some(Self::Score(best));
        }
        let looked_at = candidates.iter().map(|(_, costs)| Outcome { score: 0.0, costs: *costs });
        let all: Vec<Outcome> = outcomes.iter().copied().chain(looked_at).collect();
        let scale = Scale::of(all.iter());
        let reference = scores().reduce(f64::min)?.max(REFERENCE_MIN);
        let scaled = |outcome: &Outcome| Outcome { score: outcome.score, costs: scale.costs(&outcome.costs) };
        let scaled: Vec<Outcome> = outcomes.iter().map(scaled).collect();
        let volume = Volume::new(&scaled, reference);
        Some(Self::Volume { volume, scale, best })
    }

    /// The best score so far, whatever it costs.
    pub(super) fn best(&self) -> f64 {
        match self {
            Self::Score(best) | Self::Volume { best, .. } => *best,
        }
    }

    /// Points on the front, where there is one.
    pub(super) fn front(&self) -> Option<usize> {
        match self {
            Self::Score(_) => None,
            Self::Volume { volume, .. } => Some(volume.len()),
        }
    }

    /// What a point of these costs has to beat.
    pub(super) fn hurdles(&self, costs: &Costs) -> Vec<Hurdle> {
        match self {
            Self::Score(best) => vec![Hurdle { score: *best, log_worth: 0.0 }],
            Self::Volume { volume, scale, .. } => {
                let steps = volume.steps(&scale.costs(costs));
                steps.iter().map(|step| Hurdle { score: step.height, log_worth: step.area.ln() }).collect()
            }
        }
    }
}

/// The logarithm of what a score of that belief is expected to gain: the sum over the hurdles, where logarithms lose nothing.
pub(super) fn log_gain(belief: Belief, hurdles: &[Hurdle]) -> f64 {
    let logs = || hurdles.iter().map(|hurdle| hurdle.log_worth + log_improvement(belief, hurdle.score));
    let largest = logs().fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return f64::NEG_INFINITY;
    }
    largest + logs().map(|log| (log - largest).exp()).sum::<f64>().ln()
}

/// Its slope, from those of the mean and the deviation.
pub(super) fn slope(belief: Belief, hurdles: &[Hurdle], slopes: [f64; 2]) -> f64 {
    let whole = log_gain(belief, hurdles);
    let part = |hurdle: &Hurdle| {
        let share = (hurdle.log_worth + log_improvement(belief, hurdle.score) - whole).exp();
        share * slope_of_log_improvement(belief, hurdle.score, slopes)
    };
    hurdles.iter().map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BELIEF: Belief = Belief { mean: 0.4, deviation: 0.3 };

    fn hurdles() -> Vec<Hurdle> {
        let outcome = |score, cost| Outcome { score, costs: [cost, 0.0] };
        let known = [outcome(1.0, 100.0), outcome(0.5, 10.0), outcome(-0.5, 1.0), outcome(-1.0, 50.0)];
        let goal = Goal::of(&known, &[], true).unwrap();
        assert_eq!((goal.front(), goal.best()), (Some(3), 1.0));
        goal.hurdles(&[5.0, 0.0])
    }

    #[test]
    fn a_gain_is_the_volume_that_is_expected() {
        let hurdles = hurdles();
        assert_eq!(hurdles.len(), 3, "{hurdles:?}");
        // The mean over evenly spaced quantiles of the belief, each with its volume.
        let volume = |score: f64| -> f64 {
            hurdles.iter().map(|hurdle| hurdle.log_worth.exp() * (score - hurdle.score).max(0.0)).sum()
        };
        let (mut sum, mut weight) = (0.0, 0.0);
        for step in -6000..=6000 {
            let z = f64::from(step) / 1000.0;
            let density = (-0.5 * z * z).exp();
            sum += density * volume(BELIEF.mean + z * BELIEF.deviation);
            weight += density;
        }
        assert!((log_gain(BELIEF, &hurdles).exp() - sum / weight).abs() < 1e-5);
    }

    #[test]
    fn slopes_are_differences_in_the_limit() {
        let hurdles = hurdles();
        let step = 1e-6;
        for (slopes, moved) in [
            ([1.0, 0.0], Belief { mean: BELIEF.mean + step, ..BELIEF }),
            ([0.0, 1.0], Belief { deviation: BELIEF.deviation + step, ..BELIEF }),
        ] {
            let difference = (log_gain(moved, &hurdles) - log_gain(BELIEF, &hurdles)) / step;
            assert!((slope(BELIEF, &hurdles, slopes) - difference).abs() < 1e-4);
        }
    }

    #[test]
    fn one_score_is_beaten_as_before() {
        let outcomes = [0.1, 0.7].map(|score| Outcome { score, costs: Costs::default() });
        let goal = Goal::of(&outcomes, &[], false).unwrap();
        let hurdles = goal.hurdles(&Costs::default());
        assert!((log_gain(BELIEF, &hurdles) - log_improvement(BELIEF, 0.7)).abs() < 1e-12);
        assert!(Goal::of(&[], &[], false).is_none());
    }
}
