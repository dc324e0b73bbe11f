//! The file's `[search]`, and whether its space suits it.

use serde::Deserialize;

use super::{Complaint, GRID_SIZE_MAX};
use crate::sweep::{Budget, Domain, Search, Space};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSearch {
    method: RawMethod,
    shuffle: Option<bool>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum RawMethod {
    #[default]
    Grid,
    Random,
}

/// The search, if it has the keys that it needs and no others.
pub(super) fn search(raw: &RawSearch) -> Result<Search, Complaint> {
    let method = match raw.method {
        RawMethod::Grid => Search::Grid { shuffle: raw.shuffle.unwrap_or_default() },
        RawMethod::Random => Search::Random,
    };
    let given = [("search.shuffle", raw.shuffle.is_some(), raw.method == RawMethod::Grid)];
    match given.iter().find(|(_, is_given, is_meant)| *is_given && !is_meant) {
        None => Ok(method),
        Some((key, ..)) => {
            let name = key.trim_start_matches("search.");
            Err((key, format!("{name} has no meaning for method = {:?}; remove it", method.name())))
        }
    }
}

/// A grid needs points to count; whatever else has no end needs a budget.
pub(super) fn check_size(search: Search, space: &Space, budget: Budget) -> Result<(), (String, String)> {
    let size = space.size();
    if size == Some(0) {
        return Err(("forbid".into(), "every point of the space is forbidden".into()));
    }
    if let Search::Grid { .. } = search {
        let continuous = space.dimensions().find(|(_, domain)| domain.count().is_none());
        if let Some((name, Domain::Float(interval))) = continuous {
            let name = name.name();
            let message = format!(
                "{name} is a range without steps, which no grid covers; give it one, as {{ float = [{:?}, {:?}], \
                 step = … }}, or another search.method",
                interval.low, interval.high
            );
            return Err((format!("space.{name}"), message));
        }
        return match size {
            Some(size) if size <= GRID_SIZE_MAX => Ok(()),
            Some(size) => Err((
                "space".into(),
                format!("the grid has {size} points, at most {GRID_SIZE_MAX} are allowed"),
            )),
            None => Err((
                "space".into(),
                "the grid has too many combinations to leave out those that conditions or [[forbid]] rule out; \
                 make it smaller, or take another search.method"
                    .into(),
            )),
        };
    }
    match (budget.trials, size) {
        (Some(_), _) => Ok(()),
        (None, Some(size)) if size <= GRID_SIZE_MAX => Ok(()),
        (None, _) => Err((
            "budget".into(),
            "the space has no end of points; say in [budget] how many trials = … to train".into(),
        )),
    }
}
