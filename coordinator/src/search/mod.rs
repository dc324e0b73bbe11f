//! Search: history in, proposals out.
//!
//! A search is a pure function of the space, the sweep's seed and the trials so far, pending ones included; it keeps no state
//! of its own, so a restart at any proposal changes nothing.

use earshot_common::sweep::{Point, Search, Space};

use crate::state::Trial;

/// The next point to try; none when the search has no more.
pub fn propose(search: Search, space: &Space, history: &[Trial]) -> Option<Point> {
    match search {
        Search::Grid => space.point(history.len() as u64),
    }
}
