//! The file's `[quantise]`.

use serde::Deserialize;

use super::Complaint;
use crate::sweep::{Gates, Quantise, quantise::Aware};

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuantise {
    aware: RawAware,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
struct RawAware {
    epochs: u32,
    learning_rate: f64,
    #[serde(default)]
    always: bool,
}

/// What to do, if there is something that says when.
pub(super) fn quantise(raw: RawQuantise, gates: &Gates) -> Result<Quantise, Complaint> {
    const KEY: &str = "quantise.aware";
    let RawAware { epochs, learning_rate, always } = raw.aware;
    if !(1..=100_000).contains(&epochs) {
        return Err((KEY, format!("aware.epochs must be from 1 to 100000, got {epochs}")));
    }
    if !(learning_rate > 0.0 && learning_rate <= 1.0) {
        return Err((KEY, format!("aware.learning_rate must be above 0 and at most 1, got {learning_rate}")));
    }
    if gates.max_drop.is_none() && !always {
        let message = "it is done where int8 loses more than export.max_drop allows, and there is none; set one, or aware.always = true";
        return Err((KEY, message.to_owned()));
    }
    Ok(Quantise { aware: Aware { epochs, learning_rate, always } })
}
