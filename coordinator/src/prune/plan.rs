//! Which groups go, so that a target is met.
//!
//! Greedy over the whole network: of all layers the one whose least important groups are worth least on the mean loses as many
//! as bring it down to the next multiple, until the target is met. How the layers come out follows from the ranking; no layer
//! falls below one multiple.

use earshot_common::{
    model::{AudioCnn, ModelError},
    sweep::prune::{Prune, Target},
};

use super::{
    error::PruneError,
    group::{self, Groups, Kept},
    importance::Importances,
    slice,
};

/// What a target is measured by, for this model.
///
/// # Errors
/// The spec cannot be built.
pub fn measured(model: &AudioCnn, target: Target) -> Result<f64, ModelError> {
    Ok(match target {
        Target::Int8Kib(_) => model.cost()?.int8_kib(),
        Target::Macs(_) => model.cost()?.macs as f64,
        Target::Ratio(_) => group::groups(model)?.values().sum::<usize>() as f64,
    })
}

/// What it is to be at most after this step, from 1, of a model that was `whole` before the first: every step removes the same part of
/// what is left (as Frankle and Carbin 2019, arXiv:1803.03635, prune).
///
/// # Errors
/// The spec cannot be built.
pub fn limit(whole: &AudioCnn, prune: &Prune, step: u32) -> Result<f64, ModelError> {
    let from = measured(whole, prune.target)?;
    let to = match prune.target {
        Target::Int8Kib(kib) => kib,
        Target::Macs(macs) => macs as f64,
        Target::Ratio(ratio) => from * (1.0 - ratio),
    };
    if step >= prune.steps || to >= from {
        return Ok(to);
    }
    Ok(from * (to / from).powf(f64::from(step) / f64::from(prune.steps)))
}

/// The groups that stay, so that the model's measure is at most `limit`.
///
/// # Errors
/// [`PruneError::OutOfReach`], or the spec cannot be built.
pub fn plan(
    model: &AudioCnn,
    importances: &Importances,
    target: Target,
    multiple_of: u32,
    limit: f64,
) -> Result<Kept, PruneError> {
    let groups = group::groups(model)?;
    let mut queues = Queue::all(importances, &groups);
    loop {
        let kept: Kept = queues.iter().map(Queue::kept).collect();
        let now = measured(&slice::spec(model, &kept)?, target)?;
        if now <= limit {
            return Ok(kept);
        }
        let multiple = multiple_of.max(1) as usize;
        let offers = queues.iter_mut().filter_map(|queue| Some((queue.price(multiple)?, queue)));
        // Of equals the first, by name.
        let cheapest =
            offers.reduce(|best, other| if other.0.total_cmp(&best.0).is_lt() { other } else { best });
        match cheapest {
            Some((_, queue)) => queue.shrink(multiple),
            None => return Err(PruneError::OutOfReach { target: limit, least: now, multiple_of }),
        }
    }
}

/// The groups of a layer without so many that are worth least.
pub fn without_least(importances: &[f64], removed: usize) -> Vec<usize> {
    let mut queue = Queue::new("", importances);
    queue.left = queue.left.saturating_sub(removed);
    queue.kept().1
}

/// A layer's groups, the most important first.
struct Queue<'a> {
    layer: &'a str,
    order: Vec<(usize, f64)>,
    /// How many of them stay.
    left: usize,
}

impl<'a> Queue<'a> {
    fn all(importances: &'a Importances, groups: &Groups) -> Vec<Self> {
        let known = importances.iter().filter(|(layer, values)| groups.get(*layer) == Some(&values.len()));
        known.map(|(layer, values)| Self::new(layer, values)).collect()
    }

    fn new(layer: &'a str, importances: &[f64]) -> Self {
        let mut order: Vec<(usize, f64)> = importances.iter().copied().enumerate().collect();
        // Of equals the earlier one stays.
        order.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let left = order.len();
        Self { layer, order, left }
    }

    fn next_left(&self, multiple: usize) -> Option<usize> {
        let next = self.left.saturating_sub(1) / multiple * multiple;
        (next >= multiple).then_some(next)
    }

    /// What the groups that would go next are worth on the mean; none where none may go.
    fn price(&self, multiple: usize) -> Option<f64> {
        let next = self.next_left(multiple)?;
        let going = self.order.get(next..self.left)?;
        Some(going.iter().map(|(_, value)| value).sum::<f64>() / going.len() as f64)
    }

    fn shrink(&mut self, multiple: usize) {
        self.left = self.next_left(multiple).unwrap_or(self.left);
    }

    fn kept(&self) -> (String, Vec<usize>) {
        let mut kept: Vec<usize> = self.order.iter().take(self.left).map(|&(group, _)| group).collect();
        kept.sort_unstable();
        (self.layer.to_owned(), kept)
    }
}
