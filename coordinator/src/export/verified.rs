//! What verification found.

use std::path::Path;

use super::{
    Champion, ModelSummary, Summary,
    choice::Attempt,
    deploy::Deployed,
    gates::{Figures, Shipped},
    pruning,
    score::{Scored, Scores},
};

/// What verification found.
pub(super) struct Verified {
    pub(super) float: Measured,
    pub(super) int8: Measured,
    pub(super) tensorrt: Measured,
    pub(super) shipped: Shipped,
    /// The champion before it was pruned; none where nothing was to be.
    pub(super) whole: Option<pruning::Measured>,
}

/// What verification found of one file.
pub(super) struct Measured {
    pub(super) file: &'static str,
    pub(super) bytes: u64,
    pub(super) scored: Scored,
    /// Largest difference of a logit in tract: of the float file from the worker's, of the others from whole-number arithmetic.
    pub(super) difference: f32,
    /// Part of the validation and test clips for which the float file gives the same class.
    pub(super) top1_agreement: f64,
    /// Calibrations tried; none for the float file.
    pub(super) calibrations: Vec<Attempt>,
    /// Whether its weights were trained to bear quantisation.
    pub(super) is_aware: bool,
    /// In ONNX Runtime.
    pub(super) deployed: Deployed,
}

impl Measured {
    /// What decides whether it is shipped.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            bytes: self.bytes,
            latency_ms: self.deployed.latency.p50_ms,
            accuracy: self.scored.reported().accuracy(),
            validation_accuracy: self.scored.validation.accuracy(),
        }
    }
}

impl Verified {
    /// What became of the wish to have it trained to bear quantisation, in words; none where nobody wished that.
    pub(super) fn quantisation(&self, champion: &Champion) -> Option<String> {
        Some(champion.awareness.as_ref()?.told(self.int8.is_aware))
    }

    /// As the caller sees it, for a bundle in `folder`.
    pub(super) fn summary(&self, champion: &Champion, folder: &Path) -> Summary {
        let model = |measured: &Measured| ModelSummary {
            file: measured.file,
            bytes: measured.bytes,
            validation: Scores::of(&measured.scored.validation),
            test: measured.scored.test.as_ref().map(Scores::of),
            onnxruntime: measured.deployed,
        };
        Summary {
            folder: folder.to_owned(),
            trial: champion.trial,
            float: model(&self.float),
            int8: model(&self.int8),
            tensorrt: model(&self.tensorrt),
            logit_difference_max: self.float.difference,
            int8_logit_difference_max: self.int8.difference.max(self.tensorrt.difference),
            top1_agreement: self.int8.top1_agreement,
            shipped: self.shipped.clone(),
            pruning: champion.pruning.as_ref().map(|pruning| pruning.reason.clone()),
            quantisation: self.quantisation(champion),
        }
    }
}
