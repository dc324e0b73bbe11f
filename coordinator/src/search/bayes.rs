//! Bayesian optimisation: a Gaussian process is fitted to what is known, and the next point is where it expects the largest
//! improvement.
//!
//! Runs under way are taken to turn out as the process believes (the kriging believer of Ginsbourger, Le Riche and Carraro
//! 2010), so that nobody else is sent there; failed trials count as the worst score seen, and points that break a constraint are no candidates. A look at many places
//! comes first, Sobol's and some beside the best points; from the most promising ones L-BFGS climbs over the dimensions
//! without steps.

use earshot_common::sweep::Point;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{
    Costs, Outcome, Proposal, Question, Standing, Why,
    axes::{Axes, Place},
    fit::{fit, minimise},
    front::best_by_rank,
    gaussian::{Belief, Evidence, Gaussian, Metric},
    goal::{Goal, Hurdle, log_gain, slope},
    observed::{Observed, best_and_newest},
    parzen::normal,
    sobol::Sequence,
};

/// Observations that the kernel is fitted to: the best half of them and the newest. A fit costs their cube, many times over; all
/// observations count afterwards.
const FITTED_MAX: usize = 120;
/// Places of Sobol's sequence that are looked at.
const SPREAD: u64 = 192;
/// Points of the best, and places beside each that are looked at.
const BEST: usize = 4;
const BESIDE: usize = 24;
/// How far beside, as a deviation; for each place one of these.
const STEPS: [f64; 3] = [0.02, 0.07, 0.2];
/// Places from which to climb, and steps of each climb.
const CLIMBS: usize = 3;
const CLIMB_STEPS: u64 = 10;

/// Settings of the method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bayes {
    /// Trials that have to end before results are heeded.
    pub(super) startup: u32,
}

impl Bayes {
    pub(super) fn propose(self, question: &Question<'_>, dice: &mut ChaCha8Rng) -> Option<Proposal> {
        let axes = Axes::new(question.space);
        let known = Observed::of(&axes, question.history, question.stages);
        let ended = known.as_ref().map_or(0, |known| known.ended);
        let Some(known) = known.filter(|_| ended >= self.startup && axes.len() > 0) else {
            return question.start(ended, self.startup, dice);
        };
        let metric = Metric::new(&axes, known.is_staged());
        let pending = question.history.iter().filter(|past| past.standing == Standing::Pending);
        let pending: Vec<(Place, Costs)> = pending.map(|past| (axes.place(past.point), past.costs)).collect();
        let counts = (known.seen.len(), pending.len());
        let best = believer(&metric, &known, pending).and_then(|belief| {
            let candidates = candidates(&axes, &belief.front_first(question.has_costs), dice);
            let candidates: Vec<(Point, Costs)> = candidates
                .into_iter()
                .filter_map(|point| (question.costs)(&point).map(|costs| (point, costs)))
                .collect();
            let goal = Goal::of(&belief.outcomes, &candidates, question.has_costs)?;
            let (point, found) = choose(&axes, &belief, &goal, candidates, question)?;
            Some(Proposal::new(
                point,
                Why::improvement(found, (goal.best(), goal.front()), known.scale, counts),
            ))
        });
        best.or_else(|| question.draw_another(dice))
    }
}

/// A fitted process that believes what it says of the pending places, and what it makes of all of them.
struct Beliefs<'a> {
    known: &'a Observed,
    gaussian: Gaussian,
    /// Of trials.
    places: Vec<Place>,
    /// Of each place, without noise.
    outcomes: Vec<Outcome>,
}

fn believer<'a>(metric: &Metric, known: &'a Observed, pending: Vec<(Place, Costs)>) -> Option<Beliefs<'a>> {
    let fitted = best_and_newest(known.seen.iter().collect(), FITTED_MAX, |seen| seen.score);
    let (places, scores): (Vec<Place>, Vec<f64>) =
        fitted.into_iter().map(|seen| (seen.place.clone(), seen.score)).unzip();
    let kernel = fit(&Evidence::new(metric, &places, &scores), metric.len());
    let (mut observed, mut scores): (Vec<Place>, Vec<f64>) =
        known.seen.iter().map(|seen| (seen.place.clone(), seen.score)).unzip();
    let gaussian = Gaussian::new(metric, kernel.clone(), observed.clone(), &scores)?;
    let ended = known.seen.iter().filter(|seen| seen.is_last);
    let ended = ended.map(|seen| (seen.place.iter().take(known.axes()).copied().collect(), seen.costs));
    let trials: Vec<(Place, Costs)> = ended.chain(pending.iter().cloned()).collect();
    let believed = |(place, costs): &(Place, Costs)| Outcome {
        score: gaussian.mean(&known.at_the_end(place.clone())),
        costs: *costs,
    };
    let outcomes: Vec<Outcome> = trials.iter().map(believed).collect();
    let places: Vec<Place> = trials.into_iter().map(|(place, _)| place).collect();
    let begun = outcomes.len() - pending.len();
    scores.extend(outcomes.iter().skip(begun).map(|outcome| outcome.score));
    observed.extend(pending.into_iter().map(|(place, _)| known.at_the_end(place)));
    let is_alone = begun == outcomes.len();
    let gaussian = if is_alone { gaussian } else { Gaussian::new(metric, kernel, observed, &scores)? };
    Some(Beliefs { known, gaussian, places, outcomes })
}

impl Beliefs<'_> {
    /// The places beside which it is worth to look: the best, or some of the front.
    fn front_first(&self, has_costs: bool) -> Vec<&Place> {
        let numbers = if has_costs {
            best_by_rank(&self.outcomes, BEST)
        } else {
            let mut numbers: Vec<usize> = (0..self.outcomes.len()).collect();
            let score = |number: &usize| self.outcomes.get(*number).map_or(f64::NEG_INFINITY, |of| of.score);
            numbers.sort_by(|one, other| score(other).total_cmp(&score(one)));
            numbers.truncate(BEST);
            numbers
        };
        numbers.into_iter().filter_map(|number| self.places.get(number)).collect()
    }
}

/// Points worth a look: spread over the space, and beside the best known places.
fn candidates(axes: &Axes<'_>, best: &[&Place], dice: &mut ChaCha8Rng) -> Vec<Point> {
    let sequence = Sequence::new(axes.len(), dice);
    let mut coordinates: Vec<Vec<f64>> = (0..SPREAD).map(|number| sequence.point(number)).collect();
    for place in best {
        for step in STEPS.iter().cycle().take(BESIDE) {
            coordinates.push(beside(axes, place, *step, dice));
        }
    }
    coordinates.iter().filter_map(|coordinates| axes.point(coordinates)).collect()
}

/// Coordinates near a place; choices stay as they are but for one in four.
fn beside(axes: &Axes<'_>, place: &Place, step: f64, dice: &mut ChaCha8Rng) -> Vec<f64> {
    let near = axes.iter().zip(place).map(|(axis, at)| match (at, axis.choices) {
        (None, _) => dice.random(),
        (Some(at), Some(_)) => {
            if dice.random_bool(0.25) {
                dice.random()
            } else {
                *at
            }
        }
        // A step of a coarse range is at least as wide as one of its values now and then.
        (Some(at), None) => (at + step.max(0.6 * axis.cell) * normal(dice)).clamp(0.0, 1.0),
    });
    near.collect()
}

/// The candidate, or what is found by climbing from one, that is new and promises most.
fn choose(
    axes: &Axes<'_>,
    belief: &Beliefs<'_>,
    goal: &Goal,
    candidates: Vec<(Point, Costs)>,
    question: &Question<'_>,
) -> Option<(Point, Belief)> {
    let weigh = |points: Vec<(Point, Costs)>| -> Vec<Weighed> {
        let places: Vec<Place> = points.iter().map(|(point, _)| axes.place(point)).collect();
        let ends: Vec<Place> = places.iter().map(|place| belief.known.at_the_end(place.clone())).collect();
        let beliefs = belief.gaussian.beliefs(&ends);
        let points = points.into_iter().zip(places).zip(beliefs);
        let weighed = points.map(|(((point, costs), place), belief)| {
            let hurdles = goal.hurdles(&costs);
            Weighed { promise: log_gain(belief, &hurdles), point, place, belief, hurdles }
        });
        weighed.collect()
    };
    let by_promise = |one: &Weighed, other: &Weighed| other.promise.total_cmp(&one.promise);
    let mut promising = weigh(candidates);
    promising.sort_by(by_promise);
    let from = promising.iter().take(CLIMBS);
    let climbed = from.filter_map(|weighed| {
        let point = axes.point(&climb(axes, belief, &weighed.hurdles, &weighed.place)?)?;
        let costs = (question.costs)(&point)?;
        Some((point, costs))
    });
    let climbed = weigh(climbed.collect());
    promising.extend(climbed);
    promising.sort_by(by_promise);
    let new = promising.into_iter().find(|weighed| question.is_new(&weighed.point))?;
    Some((new.point, new.belief))
}

/// A point that was looked at.
struct Weighed {
    promise: f64,
    point: Point,
    place: Place,
    belief: Belief,
    hurdles: Vec<Hurdle>,
}

/// Uphill from a place over the active dimensions without steps; none where there are none. The search goes over angles, of
/// which coordinates are the sines, so that it cannot leave the cube.
fn climb(axes: &Axes<'_>, belief: &Beliefs<'_>, hurdles: &[Hurdle], place: &Place) -> Option<Vec<f64>> {
    let is_free: Vec<bool> =
        axes.iter().zip(place).map(|(axis, at)| axis.cell == 0.0 && at.is_some()).collect();
    let start: Vec<f64> = place
        .iter()
        .zip(&is_free)
        .filter(|(_, is_free)| **is_free)
        // Not quite at the end, where the sine is flat.
        .map(|(at, _)| (2.0 * at.unwrap_or(0.5) - 1.0).clamp(-0.999, 0.999).asin())
        .collect();
    if start.is_empty() {
        return None;
    }
    let at = |angles: &[f64]| -> Place {
        let mut angles = angles.iter();
        let moved = place.iter().zip(&is_free).map(|(at, is_free)| match is_free {
            true => angles.next().map(|angle| 0.5 * (1.0 + angle.sin())),
            false => *at,
        });
        moved.collect()
    };
    let descent = |angles: &[f64]| {
        let (believed, slopes) = belief.gaussian.slopes(&belief.known.at_the_end(at(angles)));
        let free = slopes.iter().zip(&is_free).filter(|(_, is_free)| **is_free).map(|(slopes, _)| *slopes);
        let gradient =
            free.zip(angles).map(|(slopes, angle)| -slope(believed, hurdles, slopes) * 0.5 * angle.cos());
        Some((-log_gain(believed, hurdles), gradient.collect()))
    };
    let (_, angles) = minimise(descent, start, CLIMB_STEPS);
    Some(at(&angles).into_iter().map(|at| at.unwrap_or(0.5)).collect())
}
