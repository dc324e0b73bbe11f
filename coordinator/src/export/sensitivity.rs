//! How accuracy falls when one layer alone loses its least important groups, without training what is left: which layers could give more
//! and which none.

use earshot_common::{
    model::AudioCnn,
    sweep::prune::Importance,
    tensors::{self, decode_checkpoint},
};
use serde::Serialize;

use super::{ExportError, Features, Forward};
use crate::prune::{self, Kept, PruneError};

/// Tenths of a layer's groups that are removed.
const TENTHS: std::ops::RangeInclusive<usize> = 1..=9;
/// Clips heard at most: a tenth of a point of accuracy does not matter here, and the scan is some dozens of networks.
const CLIPS_MAX: usize = 400;

/// What one layer alone can lose.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sensitivity {
    /// The layer's name in the checkpoint and the graphs.
    pub layer: String,
    /// Its filters or hidden units.
    pub groups: usize,
    /// From little to much removed.
    pub points: Vec<Removed>,
}

/// A layer without some of its groups, the least important.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Removed {
    /// Part of the groups that was asked for, from 0 to 1.
    pub part: f64,
    /// Groups removed: at least one stays.
    pub removed: usize,
    /// On clips of the validation part.
    pub accuracy: f64,
}

/// Scans every layer of a network that its importance says something of; none where it says nothing, as where there is no batch norm
/// to go by.
///
/// # Errors
/// The checkpoint is another model's, or tract fails.
pub(super) fn scan(
    model: &AudioCnn,
    checkpoint: &[u8],
    importance: Importance,
    features: &Features,
    rows: &[u32],
) -> Result<Vec<Sensitivity>, ExportError> {
    let weights = decode_checkpoint(checkpoint, model).map_err(ExportError::Checkpoint)?;
    let importances = match prune::importance::measure(model, &weights, importance) {
        Err(PruneError::NoBatchNorm { .. } | PruneError::NoTaylor(_)) => return Ok(Vec::new()),
        measured => measured?,
    };
    let every = rows.len().div_ceil(CLIPS_MAX).max(1);
    let rows: Vec<u32> = rows.iter().copied().step_by(every).collect();
    let accuracy = |layer: &str, kept: Vec<usize>| {
        let kept = Kept::from([(layer.to_owned(), kept)]);
        let sliced = prune::slice::slice(model, &weights, &kept)?;
        let bytes = tensors::encode(&sliced.tensors).map_err(ExportError::Checkpoint)?;
        let confusion = Forward::new(&sliced.model, &bytes)?.confusion(features, &rows)?;
        Ok::<f64, ExportError>(confusion.accuracy())
    };
    let scanned = importances.iter().map(|(layer, values)| {
        let mut points: Vec<Removed> = Vec::new();
        for tenths in TENTHS {
            let removed = ((values.len() * tenths + 5) / 10).min(values.len().saturating_sub(1));
            let known = points.last().filter(|last| last.removed == removed).map(|last| last.accuracy);
            let accuracy = match known {
                Some(accuracy) => accuracy,
                None => accuracy(layer, prune::plan::without_least(values, removed))?,
            };
            points.push(Removed { part: tenths as f64 / 10.0, removed, accuracy });
        }
        Ok(Sensitivity { layer: layer.clone(), groups: values.len(), points })
    });
    scanned.collect()
}
