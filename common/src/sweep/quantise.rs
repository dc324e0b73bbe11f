//! What is done so that the exported model loses little when it is quantised.

use serde::{Deserialize, Serialize};

/// What is done about quantisation once the model to be exported is trained. Calibration alone needs no saying: every export tries it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantise {
    /// Quantisation-aware fine-tuning.
    pub aware: Aware,
}

/// Quantisation-aware fine-tuning (Jacob et al. 2018, arXiv:1712.05877, section 3): the model to be exported is trained on, rounding as
/// its int8 file does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Aware {
    /// Passes over the training part.
    pub epochs: u32,
    /// The step size; the largest one where the trial's scheduler changes it.
    pub learning_rate: f64,
    /// Whether it is done even if calibration alone loses no more than the export allows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
}
