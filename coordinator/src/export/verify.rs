//! Verification of both files as they lie on the disk. None of it can be skipped.
//!
//! 1. The file's tensors are held against the checkpoint: the float ones are its numbers bit for bit, the int8 ones are what
//!    quantising it gives, and within half a scale step of it. The rest of the file must be the graph that was written.
//! 2. tract runs the file. The float logits must be those the worker recorded for the validation rows; the int8 logits must
//!    be those of [`super::arithmetic`], on a sample of them, and, of a network that was trained to bear quantisation, those that the
//!    worker recorded of it while it rounded.
//! 3. ONNX Runtime runs the file, in [`super::deploy`]: the float logits must be tract's, the int8 predictions nearly all.
//! 4. The files are scored on the validation and the test part.

use std::collections::BTreeMap;

use earshot_common::metrics::argmax;
use earshot_proto::onnx::{ModelProto, TensorProto};
use prost::Message;

use super::{
    arithmetic, error::ExportError, features::Features, network::Network, qdq::stored, quantise::Quantised,
};

/// Difference allowed between the worker's float logits and tract's, as a part of the largest logit's magnitude. Both add the
/// same float32 products in another order: for the ten thousand terms of a wide linear layer that is an error around
/// √10⁴ · 2⁻²⁴ ≈ 6e-6. A wrong weight, axis, padding or order of rows moves logits by their own magnitude.
const FLOAT_TOLERANCE: f32 = 1e-3;

/// Difference allowed between int8 logits in tract and in whole numbers, as a part of the largest logit's magnitude. tract
/// computes on dequantised floats, so a sum that falls on the edge between two int8 values may round to the other one: one
/// step of 255 in a few of many activations. Measured on random networks of two to five blocks: up to 4e-3.
const INT8_TOLERANCE: f32 = 3e-2;

/// Multiply-accumulates that the comparison in whole numbers may cost, about two seconds, and the clips it takes at most.
const ARITHMETIC_MACS: u64 = 2_000_000_000;
const ARITHMETIC_CLIPS: u64 = 16;

/// Holds a file against the model that should be in it.
///
/// # Errors
/// [`ExportError::Corrupt`] names the tensor that differs.
pub(super) fn file(
    model: &'static str,
    bytes: &[u8],
    expected: &ModelProto,
) -> Result<ModelProto, ExportError> {
    let corrupt = |what: String| ExportError::Corrupt { model: model.to_owned(), what };
    let found =
        ModelProto::decode(bytes).map_err(|error| corrupt(format!("it is not an ONNX model ({error})")))?;
    let tensors = by_name(&found);
    for (name, expected) in by_name(expected) {
        let Some(tensor) = tensors.get(name) else {
            return Err(corrupt(format!("tensor {name:?} is missing")));
        };
        if *tensor != expected {
            let wrong = tensor.raw_data.iter().zip(&expected.raw_data);
            let position = wrong.take_while(|(found, expected)| found == expected).count();
            return Err(corrupt(format!("tensor {name:?} differs from the checkpoint's at byte {position}")));
        }
    }
    if found == *expected {
        Ok(found)
    } else {
        Err(corrupt("its graph is not the one that was written".to_owned()))
    }
}

/// Holds the int8 weights of a file against the checkpoint: each within half a scale step.
///
/// # Errors
/// [`ExportError::Corrupt`] names the tensor that is further away.
pub(super) fn weights(model: &'static str, found: &ModelProto, network: &Network) -> Result<(), ExportError> {
    /// Rounding of the division and of the product.
    const SLACK: f32 = 1e-4;
    let tensors = by_name(found);
    let bytes = |name: &str| tensors.get(name).map_or(&[][..], |tensor| &tensor.raw_data[..]);
    for layer in network.layers() {
        let [whole, scale, _] = stored(&format!("{}.weight", layer.name));
        let (whole_bytes, scales) = (bytes(&whole), bytes(&scale));
        let size = whole_bytes.len() / layer.bias.values.len().max(1);
        let channels = whole_bytes.chunks_exact(size.max(1));
        let mut held = 0;
        for ((weights, _), (quantised, &scale)) in
            layer.channels().zip(channels.zip(scales.as_chunks::<4>().0))
        {
            let scale = f32::from_le_bytes(scale);
            let near = weights.iter().zip(quantised).take_while(|(weight, quantised)| {
                let real = f32::from(quantised.cast_signed()) * scale;
                (real - **weight).abs() <= scale * (0.5 + SLACK)
            });
            held += near.count();
        }
        if held != layer.weight.values.len() {
            return Err(ExportError::Corrupt {
                model: model.to_owned(),
                what: format!("tensor {whole:?} is further than half a step from the checkpoint's"),
            });
        }
    }
    Ok(())
}

/// Holds the float file's logits against a reference's of the same rows; gives the largest difference.
///
/// Logits within the tolerance give the same prediction wherever the best two are further apart than twice that.
///
/// # Errors
/// [`ExportError::Disagrees`] says how far and where.
pub(super) fn float_logits(
    model: &'static str,
    reference: &'static str,
    found: &[f32],
    recorded: &[f32],
    classes: usize,
    rows: &[u32],
) -> Result<f32, ExportError> {
    agree(model, reference, found, recorded, classes, rows, FLOAT_TOLERANCE)
}

/// Holds the int8 file's logits on a sample of `rows` against whole-number arithmetic; gives the largest difference.
///
/// # Errors
/// [`ExportError::Disagrees`] says how far and where.
pub(super) fn int8_logits(
    model: &'static str,
    found: &[f32],
    (network, quantised): (&Network, &Quantised),
    macs: u64,
    features: &Features,
    rows: &[u32],
) -> Result<f32, ExportError> {
    let clips = (ARITHMETIC_MACS / macs.max(1)).clamp(1, ARITHMETIC_CLIPS) as usize;
    let step = rows.len().div_ceil(clips).max(1);
    let sample: Vec<u32> = rows.iter().step_by(step).copied().collect();
    let found: Vec<f32> =
        found.chunks_exact(network.classes.max(1)).step_by(step).flatten().copied().collect();
    let expected: Vec<f32> =
        sample.iter().flat_map(|&row| arithmetic::logits(network, quantised, features.row(row))).collect();
    let reference = "the same weights in whole-number arithmetic";
    agree(model, reference, &found, &expected, network.classes, &sample, INT8_TOLERANCE)
}

/// Holds the int8 file's logits against those of the worker's network that rounded as the file does.
///
/// # Errors
/// [`ExportError::Disagrees`] says how far and where.
pub(super) fn rounded_logits(
    model: &'static str,
    found: &[f32],
    recorded: &[f32],
    classes: usize,
    rows: &[u32],
) -> Result<f32, ExportError> {
    agree(model, "the worker's rounding network", found, recorded, classes, rows, INT8_TOLERANCE)
}

/// Part of the rows for which both give the same class; 1 of none.
pub(super) fn top1_agreement(classes: usize, one: &[f32], other: &[f32]) -> f64 {
    let pairs = one.chunks_exact(classes.max(1)).zip(other.chunks_exact(classes.max(1)));
    let total = pairs.len();
    let same = pairs.filter(|(one, other)| argmax(one) == argmax(other)).count();
    if total == 0 { 1.0 } else { same as f64 / total as f64 }
}

fn agree(
    model: &'static str,
    reference: &'static str,
    found: &[f32],
    expected: &[f32],
    classes: usize,
    rows: &[u32],
    relative: f32,
) -> Result<f32, ExportError> {
    let scale = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    // Logits that are all zero are still compared, to what floats resolve near 1.
    let tolerance = relative * scale.max(1e-3);
    if found.len() != expected.len() || expected.len() != rows.len() * classes {
        return Err(ExportError::Features {
            what: format!(
                "{reference}: {} numbers, {model} gives {} on {} rows",
                expected.len(),
                found.len(),
                rows.len()
            ),
        });
    }
    let mut worst = (0.0_f32, 0);
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        // A logit that is not a number is as far away as can be.
        let difference = if difference.is_nan() { f32::INFINITY } else { difference };
        if difference > worst.0 {
            worst = (difference, index);
        }
    }
    let (difference, index) = worst;
    if difference <= tolerance {
        return Ok(difference);
    }
    Err(ExportError::Disagrees {
        model,
        reference,
        row: rows.get(index / classes.max(1)).copied().unwrap_or_default(),
        class: index % classes.max(1),
        found: found.get(index).copied().unwrap_or_default(),
        expected: expected.get(index).copied().unwrap_or_default(),
        tolerance,
    })
}

fn by_name(model: &ModelProto) -> BTreeMap<&str, &TensorProto> {
    let tensors = model.graph.iter().flat_map(|graph| &graph.initializer);
    tensors.map(|tensor| (tensor.name.as_str(), tensor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: [f32; 4] = [1.0, -10.0, 3.0, 0.5];

    fn check(found: [f32; 4], expected: Option<(u32, usize)>) {
        let place = match float_logits("model.onnx", "the worker's", &found, &EXPECTED, 2, &[7, 9]) {
            Ok(_) => None,
            Err(ExportError::Disagrees { row, class, .. }) => Some((row, class)),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(place, expected);
    }

    #[test]
    fn the_worst_logit_is_named() {
        check(EXPECTED, None);
        check([1.0, -10.0, 3.009, 0.5], None);
        check([1.0, -10.0, 3.011, 0.5], Some((9, 0)));
        check([1.02, -10.0, 3.011, 0.5], Some((7, 0)));
        check([1.02, -10.0, 3.011, f32::NAN], Some((9, 1)));
    }

    #[test]
    fn agreement_counts_predictions() {
        let half = top1_agreement(2, &[1.0, 0.0, 1.0, 0.0], &[0.6, 0.5, 0.4, 0.5]);
        assert!((half - 0.5).abs() < 1e-12);
        assert!((top1_agreement(2, &[], &[]) - 1.0).abs() < 1e-12);
    }
}
