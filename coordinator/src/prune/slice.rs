//! The spec and the weights of what stays.
//!
//! Along the steps of the spec, what stays of one layer's outputs is what stays of the next one's inputs: a convolution loses
//! input channels, a depthwise one whole kernels, a fully connected layer the columns that the head made of the lost maps.

use earshot_common::{
    model::{AudioCnn, Layer, ModelError, Operation, Reduce, Reduction, Step},
    tensors::{Tensor, Tensors, TensorsError, checkpoint_shapes},
};

use super::{
    error::PruneError,
    group::{Kept, has_groups},
};

/// A smaller network.
#[derive(Debug, Clone, PartialEq)]
pub struct Sliced {
    /// Its spec.
    pub model: AudioCnn,
    /// Its weights, as a checkpoint has them.
    pub tensors: Tensors,
}

/// The spec of a model of which only these groups stay.
///
/// # Errors
/// The spec cannot be built, before or after.
pub fn spec(model: &AudioCnn, kept: &Kept) -> Result<AudioCnn, ModelError> {
    let mut sliced = model.clone();
    for layer in model.layers()? {
        let Some(kept) = kept.get(&layer.name).filter(|_| has_groups(&layer)) else { continue };
        let count = kept.len() as u32;
        if let Operation::Hidden(_) = layer.operation {
            sliced.head.fc_units = Some(count);
        } else if let Some(block) = block_of(&layer.name).and_then(|block| sliced.blocks.get_mut(block)) {
            block.filters = count;
        }
    }
    sliced.steps()?;
    Ok(sliced)
}

fn block_of(layer: &str) -> Option<usize> {
    layer.split('.').nth(1)?.parse().ok()
}

/// Removes every group that is not named.
///
/// # Errors
/// The weights are not the model's, or what is left cannot be built.
pub fn slice(model: &AudioCnn, tensors: &Tensors, kept: &Kept) -> Result<Sliced, PruneError> {
    let smaller = spec(model, kept)?;
    let mut slicer = Slicer { tensors, sliced: Tensors::new(), inputs: vec![0], channels: 1 };
    for name in ["input.mean", "input.std"] {
        slicer.take(name, &[])?;
    }
    for step in model.steps()? {
        match step {
            Step::Layer(layer) => slicer.layer(&layer, kept.get(&layer.name))?,
            Step::Pool(_) => {}
            Step::Reduce(reduce) => slicer.reduce(&reduce),
        }
    }
    // What was taken has to be a checkpoint of the smaller spec; a part that is not there is an error above.
    for (name, expected) in checkpoint_shapes(&smaller)? {
        let found = slicer.sliced.get(&name).map(|tensor| tensor.shape.clone());
        match found {
            Some(found) if found == expected => {}
            Some(found) => return Err(TensorsError::Shape { name, expected, found }.into()),
            None => return Err(TensorsError::Missing(name).into()),
        }
    }
    Ok(Sliced { model: smaller, tensors: slicer.sliced })
}

struct Slicer<'a> {
    tensors: &'a Tensors,
    sliced: Tensors,
    /// Of what enters the next layer, what stays.
    inputs: Vec<usize>,
    /// How much entered before anything was removed.
    channels: usize,
}

impl Slicer<'_> {
    fn layer(&mut self, layer: &Layer, kept: Option<&Vec<usize>>) -> Result<(), PruneError> {
        let Layer { name, operation } = layer;
        let count = operation.biases();
        let is_depthwise = matches!(operation, Operation::Conv2d(_)) && !has_groups(layer);
        let outputs = match kept.filter(|_| has_groups(layer)) {
            Some(kept) => kept.clone(),
            None if is_depthwise => self.inputs.clone(),
            None => (0..count).collect(),
        };
        let inputs = if is_depthwise { vec![0] } else { self.inputs.clone() };
        self.take(&format!("{name}.weight"), &[&outputs, &inputs])?;
        let parts = match operation {
            Operation::Conv2d(conv) if conv.batch_norm => {
                ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"].as_slice()
            }
            _ => &["bias"],
        };
        for part in parts {
            self.take(&format!("{name}.{part}"), &[&outputs])?;
        }
        self.inputs = outputs;
        self.channels = count;
        Ok(())
    }

    /// Maps become features, in the order in which the head lays them out.
    fn reduce(&mut self, reduce: &Reduce) {
        let channels = self.channels.max(1);
        let features = reduce.features as usize;
        let of = |channel: &usize| match reduce.reduction {
            // All elements of a map lie together.
            Reduction::Flatten => {
                let size = features / channels;
                (channel * size..(channel + 1) * size).collect::<Vec<_>>()
            }
            Reduction::Mean | Reduction::MeanMax => vec![*channel],
        };
        let mut kept: Vec<usize> = self.inputs.iter().flat_map(of).collect();
        if reduce.reduction == Reduction::MeanMax {
            // All means, then all maxima.
            kept.extend(self.inputs.iter().map(|channel| channels + channel));
        }
        self.inputs = kept;
        self.channels = features;
    }

    /// Takes of a tensor these indices of its first dimensions, and all of the others.
    fn take(&mut self, name: &str, kept: &[&[usize]]) -> Result<(), PruneError> {
        let tensor = self.tensors.get(name).ok_or_else(|| TensorsError::Missing(name.to_owned()))?;
        let mut shape = tensor.shape.clone();
        let mut values = tensor.values.clone();
        for (dimension, kept) in kept.iter().enumerate() {
            values = select(&values, &shape, dimension, kept).ok_or_else(|| TensorsError::Shape {
                name: name.to_owned(),
                expected: kept.iter().map(|index| index + 1).max().into_iter().collect(),
                found: tensor.shape.clone(),
            })?;
            if let Some(extent) = shape.get_mut(dimension) {
                *extent = kept.len();
            }
        }
        self.sliced.insert(name.to_owned(), Tensor { shape, values });
        Ok(())
    }
}

/// These indices of one dimension of a row-major tensor; none where one is not there.
fn select(values: &[f32], shape: &[usize], dimension: usize, kept: &[usize]) -> Option<Vec<f32>> {
    let extent = *shape.get(dimension)?;
    let size: usize = shape.iter().skip(dimension + 1).product();
    if kept.iter().any(|&index| index >= extent) || extent * size == 0 {
        return None;
    }
    let rows = values.chunks_exact(extent * size);
    let selected = rows.flat_map(|row| {
        kept.iter().filter_map(move |&index| row.get(index * size..(index + 1) * size)).flatten().copied()
    });
    Some(selected.collect())
}
