//! The file's `[prune]`.

use serde::Deserialize;

use super::Complaint;
use crate::{
    ids::FoldId,
    sweep::{
        Hyperparameter, Prune, Space, Value,
        prune::{Distil, Importance, Target},
    },
};

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrune {
    importance: Importance,
    int8_kib: Option<f64>,
    macs: Option<u64>,
    ratio: Option<f64>,
    #[serde(default = "steps_default")]
    steps: u32,
    #[serde(default = "multiple_of_default")]
    multiple_of: u32,
    epochs: u32,
    distil: Option<RawDistil>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields, default)]
struct RawDistil {
    weight: f64,
    temperature: f64,
}

/// Half from the teacher; of the temperatures that its authors tried, one in the middle.
impl Default for RawDistil {
    fn default() -> Self {
        Self { weight: 0.5, temperature: 4.0 }
    }
}

/// One step loses most at once; beyond three the gain is small beside the time.
fn steps_default() -> u32 {
    3
}

/// What int8 kernels for ARM and x86 compute at once is a multiple of this.
fn multiple_of_default() -> u32 {
    4
}

/// More would leave most layers untouched.
const MULTIPLE_MAX: u32 = 64;

/// What to prune, if it has one target and can prune something.
pub(super) fn prune(raw: &RawPrune, space: &Space) -> Result<Prune, Complaint> {
    let target = match (raw.int8_kib, raw.macs, raw.ratio) {
        (Some(kib), None, None) if kib > 0.0 && kib.is_finite() => Target::Int8Kib(kib),
        (Some(kib), None, None) => {
            return Err(("prune.int8_kib", format!("int8_kib must be above 0, got {kib}")));
        }
        (None, Some(macs), None) if macs > 0 => Target::Macs(macs),
        (None, Some(_), None) => return Err(("prune.macs", "macs must be above 0, got 0".to_owned())),
        (None, None, Some(ratio)) if ratio > 0.0 && ratio < 1.0 => Target::Ratio(ratio),
        (None, None, Some(ratio)) => {
            return Err(("prune.ratio", format!("ratio must be above 0 and below 1, got {ratio}")));
        }
        (None, None, None) => {
            let message =
                "pruning needs one target: int8_kib, macs, or ratio = the part of the filters to remove";
            return Err(("prune", message.to_owned()));
        }
        _ => {
            return Err(("prune", "pruning goes to one target; keep one of int8_kib, macs and ratio".into()));
        }
    };
    let most = FoldId::PRUNING_STEPS_MAX;
    if !(1..=most).contains(&raw.steps) {
        return Err(("prune.steps", format!("steps must be from 1 to {most}, got {}", raw.steps)));
    }
    if !(1..=MULTIPLE_MAX).contains(&raw.multiple_of) {
        let message = format!("multiple_of must be from 1 to {MULTIPLE_MAX}, got {}", raw.multiple_of);
        return Err(("prune.multiple_of", message));
    }
    if !(1..=100_000).contains(&raw.epochs) {
        return Err(("prune.epochs", format!("epochs must be from 1 to 100000, got {}", raw.epochs)));
    }
    let batch_norm = space.values(Hyperparameter::BatchNorm).unwrap_or_default();
    let has_none = !batch_norm.is_empty() && batch_norm.iter().all(|value| *value == Value::Bool(false));
    if raw.importance == Importance::BatchNorm && has_none {
        let message = "importance = \"batch_norm\" needs batch norm, and no model of this space has it; set space.batch_norm = true or \
                       take \"magnitude\" or \"taylor\"";
        return Err(("prune.importance", message.to_owned()));
    }
    let distil = raw.distil.map(|RawDistil { weight, temperature }| Distil { weight, temperature });
    match distil.and_then(Distil::out_of_range) {
        Some("weight") => {
            return Err(("prune.distil", "distil.weight must be above 0 and at most 1".to_owned()));
        }
        Some(_) => {
            return Err(("prune.distil", "distil.temperature must be from 0.1 to 100".to_owned()));
        }
        None => {}
    }
    let &RawPrune { importance, steps, multiple_of, epochs, .. } = raw;
    Ok(Prune { importance, target, steps, multiple_of, epochs, distil })
}
