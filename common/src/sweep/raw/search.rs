//! The file's `[search]`, and whether its space suits it.

use serde::Deserialize;

use super::{Complaint, GRID_SIZE_MAX};
use crate::sweep::{Budget, Domain, Search, Space, Stop};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSearch {
    method: RawMethod,
    shuffle: Option<bool>,
    startup: Option<u32>,
    candidates: Option<u32>,
    rungs: Option<bool>,
}

/// Trials that have to end before results are heeded, where the file does not say: Optuna's number.
const STARTUP_DEFAULT: u32 = 10;
/// Points weighed for a proposal, where the file does not say: Optuna's number.
const CANDIDATES_DEFAULT: u32 = 24;
/// More would hold up the coordinator, which serves nobody while it weighs them.
const CANDIDATES_MAX: u32 = 1_000;

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum RawMethod {
    #[default]
    Grid,
    Random,
    Sobol,
    Tpe,
    Bayes,
}

/// The search, if it has the keys that it needs and no others.
pub(super) fn search(raw: &RawSearch) -> Result<Search, Complaint> {
    let startup = raw.startup.unwrap_or(STARTUP_DEFAULT);
    let candidates = raw.candidates.unwrap_or(CANDIDATES_DEFAULT);
    let rungs = raw.rungs.unwrap_or_default();
    let (search, meant): (_, &[&str]) = match raw.method {
        RawMethod::Grid => (Search::Grid { shuffle: raw.shuffle.unwrap_or_default() }, &["search.shuffle"]),
        RawMethod::Random => (Search::Random, &[]),
        RawMethod::Sobol => (Search::Sobol, &[]),
        RawMethod::Tpe => (Search::Tpe { startup, candidates }, &["search.startup", "search.candidates"]),
        RawMethod::Bayes => (Search::Bayes { startup, rungs }, &["search.startup", "search.rungs"]),
    };
    let given = [
        ("search.shuffle", raw.shuffle.is_some()),
        ("search.startup", raw.startup.is_some()),
        ("search.candidates", raw.candidates.is_some()),
        ("search.rungs", raw.rungs.is_some()),
    ];
    if let Some((key, _)) = given.iter().find(|(key, is_given)| *is_given && !meant.contains(key)) {
        let name = key.trim_start_matches("search.");
        return Err((key, format!("{name} has no meaning for method = {:?}; remove it", search.name())));
    }
    if startup < 2 {
        return Err(("search.startup", format!("startup must be at least 2, got {startup}")));
    }
    if !(1..=CANDIDATES_MAX).contains(&candidates) {
        let message = format!("candidates must be from 1 to {CANDIDATES_MAX}, got {candidates}");
        return Err(("search.candidates", message));
    }
    Ok(search)
}

/// A search that learns from rungs needs some.
pub(super) fn check_rungs(search: Search, stop: Option<Stop>) -> Result<(), Complaint> {
    let has_rungs = matches!(stop, Some(Stop::Asha(_) | Stop::Hyperband(_)));
    if matches!(search, Search::Bayes { rungs: true, .. }) && !has_rungs {
        let message =
            "rungs = true learns from the rungs of [stop], which needs method = \"asha\" or \"hyperband\"";
        return Err(("search.rungs", message.to_owned()));
    }
    Ok(())
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
