//! What a Gaussian process is told of the trials so far: observations, each a place with a score, in units in which all scores
//! have mean 0 and variance 1.
//!
//! Where trials are thinned out at rungs, each rung that a trial came to is an observation, and how far it had trained is an axis
//! of its own, from 0 at the first rung to 1 at the last epoch, even in the logarithm of epochs (Klein et al. 2020, "Model-based
//! asynchronous hyperparameter and neural architecture search"). What epochs give to all alike is taken off beforehand, learnt
//! from trials that came to both rungs: those that were promoted are better than the others, so a mean over each rung would hide
//! by how much.

use std::collections::BTreeMap;

use super::{
    Costs, Past, Stages, Standing,
    axes::{Axes, Place},
};

/// Observations that count at all: the best half and the newest. Later ones change little, and their cube costs too much.
const KNOWN_MAX: usize = 600;
/// An observation.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Where, with how far it had trained as the last coordinate where that counts.
    pub(super) place: Place,
    pub(super) score: f64,
    pub(super) costs: Costs,
    /// Whether it is the last one of a trial that is done with.
    pub(super) is_last: bool,
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Observed {
    /// Oldest trial first.
    pub(super) seen: Vec<Seen>,
    /// Trials that are done with.
    pub(super) ended: u32,
    /// Mean and deviation that the scores had.
    pub(super) scale: (f64, f64),
    is_staged: bool,
    axes: usize,
}

impl Observed {
    /// Of places that are done with, or came to a rung; nothing as long as nothing has a score. Infeasible ones say nothing of
    /// scores, and are known for what they are beforehand.
    pub(super) fn of(axes: &Axes<'_>, history: &[Past<'_>], stages: Option<Stages<'_>>) -> Option<Self> {
        let rungs = stages.map(Rungs::new);
        let scored = |(number, past): (usize, &Past<'_>)| {
            rungs.as_ref().map_or_else(
                || match past.standing {
                    Standing::Completed(score) => vec![(score, None)],
                    Standing::Pending | Standing::Failed | Standing::Infeasible => Vec::new(),
                },
                |rungs| rungs.scores(number),
            )
        };
        let scores: Vec<Vec<(f64, Option<f64>)>> = history.iter().enumerate().map(scored).collect();
        let worst = scores.iter().flatten().map(|(score, _)| *score).reduce(f64::min)?;
        let last = rungs.as_ref().map(|_| 1.0);
        let mut ended = 0;
        let mut seen = Vec::new();
        for (past, mut scores) in history.iter().zip(scores) {
            if past.standing == Standing::Failed {
                scores = vec![(worst, last)];
            }
            let is_done = !scores.is_empty() && past.standing != Standing::Pending;
            ended += u32::from(is_done);
            let place = axes.place(past.point);
            let count = scores.len();
            seen.extend(scores.into_iter().enumerate().map(|(index, (score, stage))| Seen {
                place: staged(place.clone(), stage),
                score,
                costs: past.costs,
                is_last: is_done && index + 1 == count,
            }));
        }
        let mut seen = best_and_newest(seen, KNOWN_MAX, |seen| seen.score);
        let count = seen.len() as f64;
        let mean = seen.iter().map(|seen| seen.score).sum::<f64>() / count;
        let variance = seen.iter().map(|seen| (seen.score - mean).powi(2)).sum::<f64>() / count;
        // Scores that are all the same say nothing either way.
        let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
        for seen in &mut seen {
            seen.score = (seen.score - mean) / deviation;
        }
        Some(Self { seen, ended, scale: (mean, deviation), is_staged: rungs.is_some(), axes: axes.len() })
    }

    /// A place at its last epoch: there scores count.
    pub(super) fn at_the_end(&self, place: Place) -> Place {
        staged(place, self.is_staged.then_some(1.0))
    }

    /// Axes of the space.
    pub(super) fn axes(&self) -> usize {
        self.axes
    }

    /// Whether how far a trial had trained is an axis.
    pub(super) fn is_staged(&self) -> bool {
        self.is_staged
    }
}

fn staged(mut place: Place, stage: Option<f64>) -> Place {
    if stage.is_some() {
        place.push(stage);
    }
    place
}

/// Scores at rungs, without what epochs give to all.
struct Rungs<'a> {
    stages: Stages<'a>,
    /// Of each number of epochs: where it is on the axis, and what they give beside the fewest.
    levels: BTreeMap<u32, (f64, f64)>,
    /// What the last epoch gives.
    whole: f64,
}

impl<'a> Rungs<'a> {
    fn new(stages: Stages<'a>) -> Self {
        let mut gains: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for trial in stages.of {
            for stage in trial {
                gains.entry(stage.epochs).or_default();
            }
            for (earlier, later) in trial.iter().zip(trial.iter().skip(1)) {
                let (sum, count) = gains.entry(later.epochs).or_default();
                *sum += later.score - earlier.score;
                *count += 1.0;
            }
        }
        let fewest = gains.keys().next().copied().unwrap_or(1).max(1);
        let span = (f64::from(stages.last) / f64::from(fewest)).ln();
        let mut whole = 0.0;
        let level = |(epochs, (sum, count)): (u32, (f64, f64))| {
            whole += if count > 0.0 { sum / count } else { 0.0 };
            let at = if span > 0.0 { (f64::from(epochs) / f64::from(fewest)).ln() / span } else { 1.0 };
            (epochs, (at, whole))
        };
        let levels = gains.into_iter().map(level).collect();
        Self { stages, levels, whole }
    }

    /// Of that trial, each with where it is on the axis, as if it were to gain as others did.
    fn scores(&self, trial: usize) -> Vec<(f64, Option<f64>)> {
        let of = self.stages.of.get(trial).into_iter().flatten();
        let level = |epochs| self.levels.get(&epochs).copied().unwrap_or((1.0, self.whole));
        of.map(|stage| {
            let (at, gained) = level(stage.epochs);
            (stage.score + self.whole - gained, Some(at))
        })
        .collect()
    }
}

/// Of more than `most`, the best half of as many and the newest, in their order.
pub(super) fn best_and_newest<T>(all: Vec<T>, most: usize, score: impl Fn(&T) -> f64) -> Vec<T> {
    if all.len() <= most {
        return all;
    }
    let mut numbers: Vec<usize> = (0..all.len()).collect();
    let score_of = |number: &usize| all.get(*number).map_or(f64::NEG_INFINITY, &score);
    numbers.sort_by(|one, other| score_of(other).total_cmp(&score_of(one)));
    let mut is_taken = vec![false; all.len()];
    let newest = (0..all.len()).rev();
    let mut left = most;
    for (turn, number) in numbers.into_iter().take(most / 2).chain(newest).enumerate() {
        if let Some(taken) =
            is_taken.get_mut(number).filter(|taken| !**taken && (turn < most / 2 || left > 0))
        {
            *taken = true;
            left -= 1;
        }
    }
    all.into_iter().zip(is_taken).filter_map(|(item, taken)| taken.then_some(item)).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Stage, *};

    #[test]
    fn of_too_many_the_best_and_the_newest_are_kept() {
        let all: Vec<(usize, f64)> = (0..100).map(|n| (n, if n % 10 == 0 { 5.0 } else { 0.0 })).collect();
        let kept = best_and_newest(all.clone(), 20, |(_, score)| *score);
        let numbers: Vec<usize> = kept.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers.len(), 20);
        assert!(
            (0..10).all(|ten| numbers.contains(&(10 * ten)))
                && numbers.contains(&99)
                && numbers.contains(&97)
        );
        assert!(numbers.is_sorted());
        assert_eq!(best_and_newest(all.clone(), 100, |(_, score)| *score), all);
    }

    #[test]
    fn what_epochs_give_is_taken_off_and_promotion_shows() {
        let stages = |scores: &[(u32, f64)]| -> Vec<Stage> {
            scores.iter().map(|&(epochs, score)| Stage { epochs, score }).collect()
        };
        // Epochs give 0.2 and then 0.1; the second trial is worse and was held.
        let of = [stages(&[(1, 0.5), (3, 0.7), (9, 0.8)]), stages(&[(1, 0.3)]), stages(&[])];
        let rungs = Rungs::new(Stages { last: 9, of: &of });
        let [promoted, held, none] = [0, 1, 2].map(|trial| rungs.scores(trial));
        let at: Vec<f64> = promoted.iter().filter_map(|(_, at)| *at).collect();
        assert!(at.iter().zip([0.0, 0.5, 1.0]).all(|(at, expected)| (at - expected).abs() < 1e-12), "{at:?}");
        assert!(promoted.iter().all(|(score, _)| (score - 0.8).abs() < 1e-12), "{promoted:?}");
        assert!((held[0].0 - 0.6).abs() < 1e-12 && none.is_empty());
    }
}
