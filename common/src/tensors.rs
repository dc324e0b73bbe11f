//! Checkpoints and logits: named float tensors in a safetensors file.
//!
//! A checkpoint holds, in the model spec's order of layers:
//!
//! | name | shape |
//! |---|---|
//! | `input.mean`, `input.std` | `(n_mfcc)`; of the mel bands for a model on them |
//! | `blocks.<i>.weight`, `blocks.<i>.bias` | `(filters, channels, kernel, kernel)`, `(filters)`; `i` from 0 |
//! | `blocks.<i>.depthwise.weight`, `….bias` | `(channels, 1, kernel, kernel)`, `(channels)`; instead, where separable |
//! | `blocks.<i>.pointwise.weight`, `….bias` | `(filters, channels, 1, 1)`, `(filters)`; likewise |
//! | `….norm.weight`, `….norm.bias` | γ and β of batch norm, one for each output channel, instead of `….bias` |
//! | `….norm.running_mean`, `….norm.running_var` | what it normalises by once trained, likewise |
//! | `….taylor` | what each filter or hidden unit is worth to the loss, where the job asks for it: see [`TAYLOR`] |
//! | `head.fc.weight`, `head.fc.bias` | `(fc_units, features)`, `(fc_units)`; absent without a hidden layer |
//! | `head.out.weight`, `head.out.bias` | `(classes, features)`, `(classes)` |
//!
//! A logits blob holds `logits`, `(validation rows, classes)`, in the split's order of validation rows. Where the job asks how accurate
//! the network is in int8, [`INT8_LOGITS`] are those of the quantised network, and [`INT8_RANGES`], `(scales, 2)`, the smallest and
//! the largest value of its input and of what leaves every step that has a scale.

use std::collections::{BTreeMap, HashMap};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::model::{AudioCnn, Conv2d, Layer, ModelError, Operation};

/// Tensors of a batch norm, as PyTorch names them: two that are trained, two that are counted.
pub const BATCH_NORM: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

/// Of a convolution or a hidden layer, one number for each output channel: the sum over its trained numbers `w`, bias and batch norm's
/// included, of `w²` times the moving mean of squared gradients. That is the joint importance of the channel's parameters, to first
/// order and without their cross terms (Molchanov et al. 2019, arXiv:1906.10771, section 3), with Adam's moving mean for that over
/// batches.
pub const TAYLOR: &str = "taylor";

/// In a logits blob: the quantised network's.
pub const INT8_LOGITS: &str = "int8.logits";

/// In a logits blob: the ranges in which it holds activations.
pub const INT8_RANGES: &str = "int8.ranges";

/// Key of a note.
const NOTE: &str = "earshot";

/// A dense float tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Extent of every dimension.
    pub shape: Vec<usize>,
    /// Values, as many as the shape's product.
    pub values: Vec<f32>,
}

/// Named tensors, in the order of their names.
pub type Tensors = BTreeMap<String, Tensor>;

/// Why bytes are not the tensors that were expected.
#[derive(Debug, thiserror::Error)]
pub enum TensorsError {
    /// Not a safetensors file.
    #[error("not a safetensors file")]
    Format(#[source] safetensors::SafeTensorError),
    /// A tensor of another type than 32-bit float.
    #[error("tensor {0:?} is not 32-bit float")]
    Dtype(String),
    /// A tensor that should be there is not.
    #[error("tensor {0:?} is missing")]
    Missing(String),
    /// A tensor that should not be there is.
    #[error("tensor {0:?} does not belong to this model")]
    Unexpected(String),
    /// A tensor of another shape than the spec's.
    #[error("tensor {name:?} has shape {found:?}, the model spec says {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// The spec's.
        expected: Vec<usize>,
        /// The file's.
        found: Vec<usize>,
    },
    /// A value that is not a finite number.
    #[error("tensor {0:?} holds a value that is not finite")]
    NotFinite(String),
    /// The spec itself cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Encodes tensors; the same tensors give the same bytes.
///
/// # Errors
/// [`TensorsError::Format`] when a tensor's values do not fill its shape.
pub fn encode(tensors: &Tensors) -> Result<Vec<u8>, TensorsError> {
    encode_as(tensors, None)
}

/// Encodes tensors with a note, as the file's only metadata: several would be written in an order that changes.
///
/// # Errors
/// As [`encode`].
pub fn encode_with_note(tensors: &Tensors, note: &str) -> Result<Vec<u8>, TensorsError> {
    encode_as(tensors, Some(HashMap::from([(NOTE.to_owned(), note.to_owned())])))
}

fn encode_as(tensors: &Tensors, note: Option<HashMap<String, String>>) -> Result<Vec<u8>, TensorsError> {
    let bytes: BTreeMap<&str, Vec<u8>> = tensors
        .iter()
        .map(|(name, tensor)| {
            (name.as_str(), tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors
        .iter()
        .zip(bytes.values())
        .map(|((name, tensor), data)| Ok((name, TensorView::new(Dtype::F32, tensor.shape.clone(), data)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(TensorsError::Format)?;
    safetensors::serialize(views, note).map_err(TensorsError::Format)
}

/// Decodes tensors, all of them finite 32-bit floats.
///
/// # Errors
/// [`TensorsError`] says which tensor is wrong.
pub fn decode(bytes: &[u8]) -> Result<Tensors, TensorsError> {
    Ok(decode_with_note(bytes)?.0)
}

/// Decodes tensors, with the note if there is one.
///
/// # Errors
/// As [`decode`].
pub fn decode_with_note(bytes: &[u8]) -> Result<(Tensors, Option<String>), TensorsError> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(TensorsError::Format)?;
    let note = header.metadata().as_ref().and_then(|entries| entries.get(NOTE)).cloned();
    Ok((decode_tensors(bytes)?, note))
}

fn decode_tensors(bytes: &[u8]) -> Result<Tensors, TensorsError> {
    let file = SafeTensors::deserialize(bytes).map_err(TensorsError::Format)?;
    file.iter()
        .map(|(name, view)| {
            if view.dtype() != Dtype::F32 {
                return Err(TensorsError::Dtype(name.to_owned()));
            }
            let values: Vec<f32> = view
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&little_endian| f32::from_le_bytes(little_endian))
                .collect();
            if values.iter().any(|value| !value.is_finite()) {
                return Err(TensorsError::NotFinite(name.to_owned()));
            }
            Ok((name.to_owned(), Tensor { shape: view.shape().to_vec(), values }))
        })
        .collect()
}

/// Names and shapes of a checkpoint of this model, as the table above says.
///
/// # Errors
/// The spec cannot be built.
pub fn checkpoint_shapes(model: &AudioCnn) -> Result<Vec<(String, Vec<usize>)>, ModelError> {
    let n_mfcc = model.n_mfcc as usize;
    let mut shapes = vec![("input.mean".to_owned(), vec![n_mfcc]), ("input.std".to_owned(), vec![n_mfcc])];
    for Layer { name, operation } in model.layers()? {
        let channels = vec![operation.biases()];
        shapes.push((format!("{name}.weight"), operation.weight_shape()));
        match operation {
            Operation::Conv2d(Conv2d { batch_norm: true, .. }) => {
                shapes.extend(BATCH_NORM.map(|part| (format!("{name}.norm.{part}"), channels.clone())));
            }
            _ => shapes.push((format!("{name}.bias"), channels)),
        }
    }
    Ok(shapes)
}

/// Names and shapes of what a checkpoint of this model may say of its filters' and hidden units' worth to the loss.
///
/// # Errors
/// The spec cannot be built.
pub fn taylor_shapes(model: &AudioCnn) -> Result<Vec<(String, Vec<usize>)>, ModelError> {
    let layers = model.layers()?.into_iter().filter(|layer| !matches!(layer.operation, Operation::Logits(_)));
    Ok(layers.map(|layer| (format!("{}.{TAYLOR}", layer.name), vec![layer.operation.biases()])).collect())
}

/// Decodes a checkpoint and holds it against the model spec: every tensor there, none besides, all of the right shape.
///
/// # Errors
/// [`TensorsError`] says which tensor is wrong.
pub fn decode_checkpoint(bytes: &[u8], model: &AudioCnn) -> Result<Tensors, TensorsError> {
    let tensors = decode(bytes)?;
    let shapes = checkpoint_shapes(model)?;
    if let Some((name, _)) = shapes.iter().find(|(name, _)| !tensors.contains_key(name)) {
        return Err(TensorsError::Missing(name.clone()));
    }
    let taylor = taylor_shapes(model)?;
    for (name, tensor) in &tensors {
        match shapes.iter().chain(&taylor).find(|(known, _)| known == name) {
            Some((_, expected)) if tensor.shape == *expected => {}
            Some((_, expected)) => {
                return Err(TensorsError::Shape {
                    name: name.clone(),
                    expected: expected.clone(),
                    found: tensor.shape.clone(),
                });
            }
            None => return Err(TensorsError::Unexpected(name.clone())),
        }
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(model: &AudioCnn) -> Tensors {
        checkpoint_shapes(model)
            .unwrap()
            .into_iter()
            .map(|(name, shape)| {
                let values = vec![0.5; shape.iter().product()];
                (name, Tensor { shape, values })
            })
            .collect()
    }

    #[test]
    fn a_checkpoint_has_as_many_numbers_as_the_spec_counts() {
        let model = AudioCnn::reference(13, 431, 10);
        let tensors = checkpoint(&model);
        let numbers: usize = tensors.values().map(|tensor| tensor.values.len()).sum();
        assert_eq!(numbers as u64, model.cost().unwrap().params + 2 * 13);
        assert_eq!(decode_checkpoint(&encode(&tensors).unwrap(), &model).unwrap(), tensors);
    }

    #[test]
    fn another_models_checkpoint_is_refused() {
        let model = AudioCnn::reference(13, 431, 10);
        let bytes = encode(&checkpoint(&model)).unwrap();
        let wider = AudioCnn::reference(20, 431, 10);
        assert!(matches!(decode_checkpoint(&bytes, &wider), Err(TensorsError::Shape { .. })));
        let mut missing = checkpoint(&model);
        missing.remove("head.out.bias");
        let error = decode_checkpoint(&encode(&missing).unwrap(), &model).unwrap_err();
        assert!(matches!(error, TensorsError::Missing(name) if name == "head.out.bias"));
        let mut more = checkpoint(&model);
        more.insert("extra".into(), Tensor { shape: vec![1], values: vec![0.0] });
        assert!(matches!(
            decode_checkpoint(&encode(&more).unwrap(), &model),
            Err(TensorsError::Unexpected(_))
        ));
    }

    #[test]
    fn a_value_that_is_not_finite_is_refused() {
        let tensors = Tensors::from([("logits".into(), Tensor { shape: vec![1], values: vec![f32::NAN] })]);
        assert!(matches!(decode(&encode(&tensors).unwrap()), Err(TensorsError::NotFinite(_))));
        assert!(decode(b"nonsense").is_err());
    }
}
