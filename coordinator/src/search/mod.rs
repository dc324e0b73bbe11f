//! Search: history in, proposals out.
//!
//! - `grid`: every point once, in order or shuffled; `random`: points drawn evenly; `sobol`: points spread evenly.
//! - `tpe`: where good points are dense and others are not, by the densities of `parzen`.
//! - `bayes`: where the `gaussian` process whose kernel `fit` found expects the largest `improvement` on its `goal`.
//! - `observed`: what the process is told of trials, those included that only came to a rung.
//! - `front`: what is best where costs are to be small, too.
//! - `importance`: which hyperparameters decided.
//! - `axes`: the space as a cube.
//! - `proposal`: what comes out, and why.
//! - `dice`: where chance comes from.
//!
//! A search is a pure function of the method, the space, the sweep's seed and the trials so far, pending ones included; it
//! keeps no state of its own, so a restart at any proposal changes nothing.

mod axes;
mod bayes;
mod dice;
mod fit;
mod front;
mod gaussian;
mod goal;
mod grid;
mod importance;
mod improvement;
mod observed;
mod parzen;
mod proposal;
mod random;
mod sobol;
#[cfg(test)]
mod tests;
mod tpe;

use earshot_common::sweep::{Point, Search, Space, Sweep};
use rand_chacha::ChaCha8Rng;

use self::{bayes::Bayes, dice::dice, tpe::Tpe};
pub use self::{
    front::{Costs, Outcome, front},
    importance::{Importance, importance},
    proposal::{Proposal, Why},
};

/// A trial as a search sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Past<'a> {
    /// Where in the space.
    pub point: &'a Point,
    /// What came of it.
    pub standing: Standing,
    /// Costs of its model that are to be small.
    pub costs: Costs,
}

/// What has come of a trial.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    /// Nothing yet.
    Pending,
    /// What the objective makes of its result: the larger the better.
    Completed(f64),
    /// It was given up.
    Failed,
    /// It is not to be trained.
    Infeasible,
}

/// What a trial had come to at a rung or, if it has completed, at its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// Epochs that it had trained; of a completed trial all that there are, even if it ended before.
    pub epochs: u32,
    /// What the objective made of it: the larger the better.
    pub score: f64,
}

/// What trials had come to on the way.
#[derive(Debug, Clone, Copy)]
pub struct Stages<'a> {
    /// Epochs of a trial that trains to its end.
    pub last: u32,
    /// Of every trial of the history, the fewest epochs first.
    pub of: &'a [Vec<Stage>],
}

/// What a search is asked.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// How to search.
    pub search: Search,
    /// Where.
    pub space: &'a Space,
    /// What everything random is drawn from.
    pub seed: u64,
    /// Trials so far, oldest first.
    pub history: &'a [Past<'a>],
    /// What they had come to on the way, for a search that heeds it.
    pub stages: Option<Stages<'a>>,
    /// Whether costs are to be small, too.
    pub has_costs: bool,
    /// The costs of a point's model, exact; none if it is not to be trained.
    pub costs: &'a dyn Fn(&Point) -> Option<Costs>,
}

impl<'a> Question<'a> {
    /// Where every point may be trained and nothing counts but the score.
    pub fn plain(search: Search, space: &'a Space, seed: u64, history: &'a [Past<'a>]) -> Self {
        Self {
            search,
            space,
            seed,
            history,
            stages: None,
            has_costs: false,
            costs: &|_| Some(Costs::default()),
        }
    }

    fn is_new(&self, point: &Point) -> bool {
        is_new(point, self.history)
    }

    /// A point of Sobol's sequence, as long as too few trials have ended to heed them.
    fn start(&self, ended: u32, startup: u32, dice: &mut ChaCha8Rng) -> Option<Proposal> {
        let point = sobol::propose(self.space, self.seed, self.history, dice)?;
        Some(Proposal::new(point, Why::Startup { ended, startup }))
    }

    /// A point drawn from those that are left, where all that a method weighed is known.
    fn draw_another(&self, dice: &mut ChaCha8Rng) -> Option<Proposal> {
        Some(Proposal::new(random::draw(self.space, self.history, dice)?, Why::Exhausted))
    }
}

/// The next point to try; none when the search has no more. No point comes twice.
pub fn propose(question: &Question<'_>) -> Option<Proposal> {
    let Question { search, space, seed, history, .. } = *question;
    let number = history.len() as u64;
    let mut dice = dice(seed, number);
    let (point, why) = match search {
        Search::Grid { shuffle } => (grid_point(space, seed, shuffle, number), Why::Grid),
        Search::Random => (random::draw(space, history, &mut dice), Why::Random),
        Search::Sobol => (sobol::propose(space, seed, history, &mut dice), Why::Sobol),
        Search::Tpe { startup, candidates } => {
            return Tpe { startup, candidates }.propose(question, &mut dice);
        }
        Search::Bayes { startup, .. } => return Bayes { startup }.propose(question, &mut dice),
    };
    Some(Proposal::new(point?, why))
}

/// A grid's point of that number, in the order in which it is searched; none after the last. It is all that a grid proposes, so
/// that a long sweep's history need not be gathered for it.
pub fn grid_point(space: &Space, seed: u64, shuffle: bool, number: u64) -> Option<Point> {
    if shuffle { grid::shuffled(space, seed, number) } else { space.point(number) }
}

/// Points drawn for an outlook where trials cannot be foreseen.
const SAMPLED: usize = 1_000;
/// Points of a space that are all looked at, if all will be trials, whatever their order.
const ALL_MAX: u64 = 100_000;

/// What a sweep's trials will look like.
pub struct Outlook<'a> {
    /// Points.
    pub points: Box<dyn Iterator<Item = Point> + 'a>,
    /// Whether these are the points of the trials; otherwise they are drawn evenly from the space, and some may come twice.
    pub is_exact: bool,
}

impl<'a> Outlook<'a> {
    /// Of this sweep, before any of its trials has ended.
    pub fn of(sweep: &'a Sweep) -> Self {
        let Sweep { search, space, seed, .. } = sweep;
        let trials = sweep.trials();
        let (points, is_exact): (Box<dyn Iterator<Item = Point>>, _) = match search {
            Search::Grid { shuffle: true } => {
                (Box::new((0..trials).map_while(|number| grid::shuffled(space, *seed, number))), true)
            }
            _ if matches!(search, Search::Grid { .. })
                || space.size().is_some_and(|size| size == trials && size <= ALL_MAX) =>
            {
                (Box::new((0..trials).map_while(|number| space.point(number))), true)
            }
            _ => {
                let draw = |number| random::draw(space, &[], &mut dice(*seed, number));
                (Box::new((0..).map_while(draw).take(SAMPLED)), false)
            }
        };
        Self { points, is_exact }
    }
}

fn is_new(point: &Point, history: &[Past<'_>]) -> bool {
    history.iter().all(|past| past.point != point)
}
