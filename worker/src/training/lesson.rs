//! What a teacher makes of the training rows: softened probabilities, to be learnt beside the labels (Hinton, Vinyals and Dean 2015,
//! arXiv:1503.02531).
//!
//! The teacher has heard the clips as they are; a clip that is augmented keeps its probabilities, and clips that are blended blend
//! them, as they do their labels.

use std::collections::BTreeMap;

use earshot_common::{sweep::prune::Distil, tensors::Tensor};

/// A teacher's probabilities of the training rows.
#[derive(Debug)]
pub struct Lesson {
    distil: Distil,
    classes: usize,
    /// `(training rows, classes)`: softmax of the logits divided by the temperature.
    probabilities: Vec<f32>,
    /// Where each row's begin.
    places: BTreeMap<i64, usize>,
}

impl Lesson {
    /// Of logits `(rows, classes)` of these rows.
    pub fn new(rows: &[i64], logits: &Tensor, distil: Distil) -> Self {
        let classes = logits.shape.last().copied().unwrap_or(1).max(1);
        let probabilities = logits
            .values
            .chunks_exact(classes)
            .flat_map(|logits| softened(logits, distil.temperature))
            .collect();
        let places = rows.iter().enumerate().map(|(place, &row)| (row, place * classes)).collect();
        Self { distil, classes, probabilities, places }
    }

    /// How they are learnt.
    pub fn distil(&self) -> Distil {
        self.distil
    }

    /// Probabilities of these rows, one after the other, in place of what `into` held.
    pub fn gather(&self, rows: &[i64], into: &mut Vec<f32>) {
        into.clear();
        for start in rows.iter().filter_map(|row| self.places.get(row)) {
            into.extend_from_slice(self.probabilities.get(*start..start + self.classes).unwrap_or_default());
        }
    }
}

fn softened(logits: &[f32], temperature: f64) -> impl Iterator<Item = f32> {
    let scaled = move |&logit: &f32| f64::from(logit) / temperature;
    let largest = logits.iter().map(scaled).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (scaled(logit) - largest).exp()).sum();
    logits.iter().map(move |logit| ((scaled(logit) - largest).exp() / sum) as f32)
}
