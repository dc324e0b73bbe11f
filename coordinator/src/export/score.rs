//! Scores of both files on the validation and the test part.

use earshot_common::metrics::Confusion;
use serde::Serialize;

/// Scores on one part of the split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scores {
    /// Clips of the part.
    pub clips: u64,
    /// From 0 to 1.
    pub accuracy: f64,
    /// Unweighted mean of the classes' F1, from 0 to 1.
    pub macro_f1: f64,
}

impl Scores {
    /// As they follow from the confusion matrix.
    pub(super) fn of(confusion: &Confusion) -> Self {
        Self { clips: confusion.total(), accuracy: confusion.accuracy(), macro_f1: confusion.macro_f1() }
    }
}

/// One file's predictions, counted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scored {
    pub(super) validation: Confusion,
    /// None: the split has no test part.
    pub(super) test: Option<Confusion>,
}

impl Scored {
    /// The part the report is about: the test part where there is one.
    pub(super) fn reported(&self) -> &Confusion {
        self.test.as_ref().unwrap_or(&self.validation)
    }
}
