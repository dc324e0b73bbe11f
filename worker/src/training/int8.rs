//! How accurate a network is once it is quantised, as an export would quantise it: calibrated on training clips in every way, of which
//! the one that scores best on the validation part counts.

use earshot_common::{
    int8::{
        Range,
        calibration::{Activations, Fit, Method, sample},
    },
    model::AudioCnn,
    tensors::{INT8_LOGITS, INT8_RANGES, Tensor as Values, Tensors},
};
use tch::{Device, TchError, Tensor};

use super::device::{self, rows_at_once};
use crate::{
    device::upload,
    features::Features,
    network::{Network, NetworkError, copy_out},
};

/// A network in int8.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8 {
    /// On the validation rows.
    pub accuracy: f64,
    /// Of its input and of every step that has a scale.
    ranges: Vec<Range>,
    /// Its logits of the validation rows, row-major.
    logits: Vec<f32>,
    /// Logits of a row.
    classes: usize,
}

impl Int8 {
    /// Quantises these weights; `float` are the network's logits of the validation rows.
    ///
    /// # Errors
    /// The network cannot be built, or libtorch refuses.
    pub fn measure(
        model: &AudioCnn,
        weights: &Tensors,
        float: &[f32],
        features: &Features,
        device: Device,
    ) -> Result<Self, NetworkError> {
        let _no_grad = tch::no_grad_guard();
        let labels = features.validation_labels();
        let classes = model.classes as usize;
        // Any ranges will do to look at what they are of.
        let blank = vec![Range::default(); model.scales()?];
        let network =
            |ranges: &[Range]| Network::from_checkpoint(model, weights, device)?.rounding(model, ranges);
        let seen = calibrated(&network(&blank)?, blank, features)?;
        let mut best: Option<(Fit, Self)> = None;
        for method in Method::ALL {
            let ranges = seen.ranges(method);
            let logits = device::logits(&network(&ranges)?, features)?;
            let fit = Fit::new(classes, &logits, float, &labels);
            if best.as_ref().is_none_or(|(best, _)| fit.beats(best)) {
                best = Some((fit, Self { accuracy: fit.accuracy, ranges, logits, classes }));
            }
        }
        best.map(|(_, int8)| int8).ok_or(NetworkError::Ranges)
    }

    /// As they lie beside the float network's logits, for the export.
    pub fn tensors(self) -> [(String, Values); 2] {
        let rows =
            |values: Vec<f32>, rows: usize| Values { shape: vec![rows, values.len() / rows.max(1)], values };
        let (count, clips) = (self.ranges.len(), self.logits.len() / self.classes.max(1));
        let ends = self.ranges.into_iter().flat_map(|Range { min, max }| [min, max]).collect();
        [(INT8_RANGES.to_owned(), rows(ends, count)), (INT8_LOGITS.to_owned(), rows(self.logits, clips))]
    }
}

/// What the network's activations are on training clips.
fn calibrated(network: &Network, blank: Vec<Range>, features: &Features) -> Result<Activations, TchError> {
    let matrix = features.matrix()?;
    let rows = sample(features.train());
    let batches = || {
        rows.chunks(rows_at_once(matrix.device()))
            .map(|rows| matrix.f_index_select(0, &upload(rows, matrix.device())?))
    };
    let mut extremes = blank;
    for batch in batches() {
        observe(network, &batch?, |number, values| {
            if let Some(range) = extremes.get_mut(number) {
                *range = range.union(Range::of(values));
            }
        })?;
    }
    let mut seen = Activations::within(extremes);
    for batch in batches() {
        observe(network, &batch?, |number, values| seen.add(number, values))?;
    }
    Ok(seen)
}

fn observe(network: &Network, batch: &Tensor, mut see: impl FnMut(usize, &[f32])) -> Result<(), TchError> {
    network.observe(batch, |number, activation| {
        see(number, &copy_out(activation)?.values);
        Ok(())
    })
}
