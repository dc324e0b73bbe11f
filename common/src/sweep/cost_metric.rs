//! What a sweep may keep small beside its metric: exact costs of a model, known before it is trained.

use serde::{Deserialize, Serialize};

use crate::model::Cost;

/// One cost of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CostMetric {
    /// Trained numbers.
    Params,
    /// Multiply-accumulates of one clip.
    Macs,
    /// KiB of the int8 weights.
    Int8Kib,
    /// KiB of int8 activations at their peak.
    PeakRamKib,
}

impl CostMetric {
    /// Costs that one sweep may keep small: with its metric three objectives. Of more, nearly every trial is on the front.
    pub const MOST: usize = 2;

    /// As it stands in the sweep file and in commands' output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Params => "params",
            Self::Macs => "macs",
            Self::Int8Kib => "int8_kib",
            Self::PeakRamKib => "peak_ram_kib",
        }
    }

    /// Of a model.
    pub fn of(self, cost: &Cost) -> f64 {
        match self {
            Self::Params => cost.params as f64,
            Self::Macs => cost.macs as f64,
            Self::Int8Kib => cost.int8_kib(),
            Self::PeakRamKib => cost.peak_ram_kib(),
        }
    }
}
