//! Quantises the model to be exported, and says whether it has to be trained to bear that.

use crate::{
    blobs::Blobs,
    errands::{self, ErrandError},
    export,
    state::{Candidate, Quantisation},
};

/// Calibrates the candidate as an export would, and holds what that loses against what may be lost. Test clips have no say.
pub(crate) fn quantise(blobs: &Blobs, candidate: &Candidate) -> Result<Quantisation, ErrandError> {
    let Candidate { aware, gates, reference, model, checkpoint, shards, split, .. } = candidate;
    let features = errands::features(blobs, model, shards)?;
    let split = errands::split(blobs, *split)?;
    let checkpoint = blobs.read(*checkpoint)?;
    let found = export::calibrate(model, &checkpoint, &features, &split.train, &split.validation);
    let export::Calibrated { method, ranges, accuracy } = found.map_err(ErrandError::Run)?;
    let drop = reference - accuracy;
    let why = format!("calibrated by {method} alone, int8 {}", export::change(drop));
    Ok(match (gates.allows(drop), aware.always) {
        (true, false) => Quantisation::Kept { why: format!("{why}, which max_drop allows") },
        (_, true) => Quantisation::Aware { ranges, why },
        (false, false) => Quantisation::Aware { ranges, why: format!("{why}, more than max_drop allows") },
    })
}
