//! Points drawn evenly.

use std::collections::BTreeSet;

use earshot_common::sweep::{Point, Space};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Past, is_new};

/// Draws of a point that is new, before those that are left are counted. In a space where few are left nearly all draws are
/// known, and counting is cheaper.
const DRAWS_COUNTED: usize = 20;
/// As many in a space that cannot be counted: if none of them is new, none is left to speak of.
const DRAWS_UNCOUNTED: usize = 1_000;

/// A point that is not in the history; none when all are.
pub(super) fn draw(space: &Space, history: &[Past<'_>], dice: &mut ChaCha8Rng) -> Option<Point> {
    let draws = if space.size().is_some() { DRAWS_COUNTED } else { DRAWS_UNCOUNTED };
    let drawn = (0..draws).find_map(|_| {
        let point = space.at(|_| dice.random());
        point.filter(|point| is_new(point, history))
    });
    drawn.or_else(|| left(space, history, dice))
}

/// One of the points that are left, where they can be counted.
fn left(space: &Space, history: &[Past<'_>], dice: &mut ChaCha8Rng) -> Option<Point> {
    let size = space.size()?;
    let known: BTreeSet<u64> = history.iter().filter_map(|past| space.number(past.point)).collect();
    let left = size.checked_sub(known.len() as u64).filter(|&left| left > 0)?;
    let mut number = dice.random_range(0..left);
    for known in known {
        if known <= number {
            number += 1;
        }
    }
    space.point(number)
}
