//! One model, a clip at a time, in tract on one thread.

use std::{collections::BTreeMap, sync::Arc};

use earshot_proto::onnx::{ModelProto, tensor_shape_proto::dimension, type_proto};
use prost::Message;
use tract_onnx::prelude::*;

use super::BundleError;

/// A model that tract has accepted.
pub struct Model {
    name: String,
    plan: Arc<TypedRunnableModel>,
    metadata: BTreeMap<String, String>,
    n_mfcc: usize,
    frames: usize,
}

impl Model {
    /// Parses and optimises a model for one clip; `name` is for messages.
    ///
    /// # Errors
    /// [`BundleError::Corrupt`] when it is no model of ours, [`BundleError::Tract`] when tract refuses it.
    pub fn load(name: &str, bytes: &[u8]) -> Result<Self, BundleError> {
        let corrupt = |what: String| BundleError::Corrupt { path: name.into(), what };
        let proto = ModelProto::decode(bytes)
            .map_err(|error| corrupt(format!("it is not an ONNX model ({error})")))?;
        let Some([n_mfcc, frames]) = shape(&proto) else {
            return Err(corrupt("its input is not (batch, 1, coefficients, frames)".to_owned()));
        };
        let metadata = proto.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect();
        let plan = plan(bytes, [n_mfcc, frames]).map_err(|source| BundleError::Tract {
            model: name.to_owned(),
            step: "prepare",
            source,
        })?;
        Ok(Self { name: name.to_owned(), plan, metadata, n_mfcc, frames })
    }

    /// Coefficients and frames that it reads.
    pub fn shape(&self) -> [usize; 2] {
        [self.n_mfcc, self.frames]
    }

    /// What it says about itself under this key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// Logits of one clip's features, row-major `(n_mfcc, frames)`.
    ///
    /// # Errors
    /// [`BundleError::Tract`] when the features are of another shape, or tract fails.
    pub fn logits(&self, features: &[f32]) -> Result<Vec<f32>, BundleError> {
        let run = || -> TractResult<Vec<f32>> {
            let input = Tensor::from_shape(&[1, 1, self.n_mfcc, self.frames], features)?;
            let outputs = self.plan.run(tvec!(input.into_tvalue()))?;
            let logits = outputs.first().map(|output| output.try_as_plain_ram()?.as_slice::<f32>());
            Ok(logits.transpose()?.unwrap_or_default().to_vec())
        };
        run().map_err(|source| BundleError::Tract { model: self.name.clone(), step: "run", source })
    }
}

/// For a batch of one, which tract optimises further than one of any size.
fn plan(mut bytes: &[u8], [n_mfcc, frames]: [usize; 2]) -> TractResult<Arc<TypedRunnableModel>> {
    let mut graph = tract_onnx::onnx().model_for_read(&mut bytes)?;
    graph.set_input_fact(0, f32::fact([1, 1, n_mfcc, frames]).into())?;
    graph.into_optimized()?.into_runnable()
}

/// Coefficients and frames of the input.
fn shape(model: &ModelProto) -> Option<[usize; 2]> {
    let input = model.graph.as_ref()?.input.first()?;
    let Some(type_proto::Value::TensorType(tensor)) = &input.r#type.as_ref()?.value else {
        return None;
    };
    let extent = |value: &Option<dimension::Value>| match value {
        Some(dimension::Value::DimValue(extent)) => {
            usize::try_from(*extent).ok().filter(|extent| *extent > 0)
        }
        _ => None,
    };
    match tensor.shape.as_ref()?.dim.as_slice() {
        [_, channels, n_mfcc, frames] if extent(&channels.value) == Some(1) => {
            Some([extent(&n_mfcc.value)?, extent(&frames.value)?])
        }
        _ => None,
    }
}
