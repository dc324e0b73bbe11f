//! The file's `[stop]`.

use serde::Deserialize;

use super::Complaint;
use crate::sweep::{Halving, Schedule, Stop};

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStop {
    method: RawMethod,
    min_epochs: Option<u32>,
    reduction: Option<u32>,
    startup: Option<u32>,
    confidence: Option<f64>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum RawMethod {
    Asha,
    Hyperband,
    Median,
    Race,
}

/// Ray's and Optuna's number.
const MIN_EPOCHS_DEFAULT: u32 = 1;
/// Hyperband's authors' number, and Optuna's for it.
const REDUCTION_DEFAULT: u32 = 3;
const REDUCTION_MAX: u32 = 16;
/// Optuna's number.
const STARTUP_DEFAULT: u32 = 5;
/// As wary as tests usually are; a trial is tested after every fold, so of equals a few more are lost.
const CONFIDENCE_DEFAULT: f64 = 0.95;

/// The rule, if it has the keys that it needs and no others, and can stop anything.
pub(super) fn stop(raw: RawStop, schedule: &Schedule, folds: usize) -> Result<Stop, Complaint> {
    let min_epochs = raw.min_epochs.unwrap_or(MIN_EPOCHS_DEFAULT);
    let reduction = raw.reduction.unwrap_or(REDUCTION_DEFAULT);
    let halving = Halving { min_epochs, reduction };
    let startup = raw.startup.unwrap_or(STARTUP_DEFAULT);
    let (stop, meant): (_, &[&str]) = match raw.method {
        RawMethod::Asha => (Stop::Asha(halving), &["stop.min_epochs", "stop.reduction"]),
        RawMethod::Hyperband => (Stop::Hyperband(halving), &["stop.min_epochs", "stop.reduction"]),
        RawMethod::Median => (Stop::Median { min_epochs, startup }, &["stop.min_epochs", "stop.startup"]),
        RawMethod::Race => {
            let confidence = raw.confidence.unwrap_or(CONFIDENCE_DEFAULT);
            (Stop::Race { startup, confidence }, &["stop.startup", "stop.confidence"])
        }
    };
    let given = [
        ("stop.min_epochs", raw.min_epochs.is_some()),
        ("stop.reduction", raw.reduction.is_some()),
        ("stop.startup", raw.startup.is_some()),
        ("stop.confidence", raw.confidence.is_some()),
    ];
    if let Some((key, _)) = given.iter().find(|(key, is_given)| *is_given && !meant.contains(key)) {
        let name = key.trim_start_matches("stop.");
        return Err((key, format!("{name} has no meaning for method = {:?}; remove it", stop.name())));
    }
    if let Stop::Race { .. } = stop {
        return race(stop, folds);
    }
    if !(1..schedule.epochs).contains(&min_epochs) {
        let message = format!(
            "min_epochs must be at least 1 and below schedule.epochs = {}, got {min_epochs}: else nothing is ever stopped",
            schedule.epochs
        );
        return Err(("stop.min_epochs", message));
    }
    if !(2..=REDUCTION_MAX).contains(&reduction) {
        return Err((
            "stop.reduction",
            format!("reduction must be from 2 to {REDUCTION_MAX}, got {reduction}"),
        ));
    }
    if raw.startup == Some(0) {
        return Err(("stop.startup", "startup must be at least 1: a median needs others".to_owned()));
    }
    Ok(stop)
}

/// A race needs folds to run over, trials that run all of them first, and a test that can say something.
fn race(stop: Stop, folds: usize) -> Result<Stop, Complaint> {
    let Stop::Race { startup, confidence } = stop else { return Ok(stop) };
    if folds < 2 {
        let message = "a race goes over folds; name several, as split.validation = [1, 2, 3], or take another stop.method";
        return Err(("stop.method", message.to_owned()));
    }
    if startup < 2 {
        let message = format!(
            "startup must be at least 2, got {startup}: what chance does is learnt from several trials"
        );
        return Err(("stop.startup", message));
    }
    if !(0.5..1.0).contains(&confidence) {
        return Err(("stop.confidence", format!("confidence must be from 0.5 to below 1, got {confidence}")));
    }
    Ok(stop)
}
