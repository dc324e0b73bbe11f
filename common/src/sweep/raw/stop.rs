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
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum RawMethod {
    Asha,
    Hyperband,
    Median,
}

/// Ray's and Optuna's number.
const MIN_EPOCHS_DEFAULT: u32 = 1;
/// Hyperband's authors' number, and Optuna's for it.
const REDUCTION_DEFAULT: u32 = 3;
const REDUCTION_MAX: u32 = 16;
/// Optuna's number.
const STARTUP_DEFAULT: u32 = 5;

/// The rule, if it has the keys that it needs and no others, and can stop anything.
pub(super) fn stop(raw: RawStop, schedule: &Schedule) -> Result<Stop, Complaint> {
    let min_epochs = raw.min_epochs.unwrap_or(MIN_EPOCHS_DEFAULT);
    let reduction = raw.reduction.unwrap_or(REDUCTION_DEFAULT);
    let halving = Halving { min_epochs, reduction };
    let (stop, stray) = match raw.method {
        RawMethod::Asha => (Stop::Asha(halving), raw.startup.map(|_| ("stop.startup", "startup"))),
        RawMethod::Hyperband => (Stop::Hyperband(halving), raw.startup.map(|_| ("stop.startup", "startup"))),
        RawMethod::Median => {
            let startup = raw.startup.unwrap_or(STARTUP_DEFAULT);
            (Stop::Median { min_epochs, startup }, raw.reduction.map(|_| ("stop.reduction", "reduction")))
        }
    };
    if let Some((key, name)) = stray {
        return Err((key, format!("{name} has no meaning for method = {:?}; remove it", stop.name())));
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
