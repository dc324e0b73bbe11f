//! How much each group is worth, as numbers that compare over the whole network.
//!
//! Which numbers compare depends on what is measured. γ is ranked as it is, over all layers at once, as its authors do (Liu et al.
//! 2017, section 3). A Taylor importance is a change of the loss, and so has one unit in every layer (Molchanov et al. 2019, section 3). Norms of
//! weights are of other sizes in other layers, so each layer's are divided by their own L2 norm (Molchanov et al. 2017,
//! arXiv:1611.06440, equation 10).

use std::collections::BTreeMap;

use earshot_common::{
    model::{AudioCnn, BATCH_NORM_EPS, Conv2d, Layer, Operation},
    sweep::prune::Importance,
    tensors::{TAYLOR, Tensor, Tensors, TensorsError},
};

use super::{error::PruneError, group::has_groups};

/// One number for each group, by the layer's name: the larger, the more it is worth. Layers that are not to be pruned are not
/// named.
pub type Importances = BTreeMap<String, Vec<f64>>;

/// Measures every group of a trained network.
///
/// # Errors
/// [`PruneError::NoBatchNorm`], [`PruneError::NoTaylor`], or a tensor is missing.
pub fn measure(
    model: &AudioCnn,
    tensors: &Tensors,
    importance: Importance,
) -> Result<Importances, PruneError> {
    let layers = model.layers()?;
    if importance == Importance::BatchNorm
        && let Some(block) = model.blocks.iter().position(|block| !block.batch_norm)
    {
        return Err(PruneError::NoBatchNorm { block: block + 1 });
    }
    let mut importances = Importances::new();
    for layer in layers.iter().filter(|layer| has_groups(layer)) {
        let values = match importance {
            Importance::BatchNorm if !has_batch_norm(layer) => continue,
            Importance::BatchNorm => {
                let gamma = tensor(tensors, &layer.name, "norm.weight")?;
                gamma.values.iter().map(|gamma| f64::from(gamma.abs())).collect()
            }
            Importance::Magnitude => normalised(norms(layer, tensors)?),
            Importance::Taylor => {
                let name = format!("{}.{TAYLOR}", layer.name);
                let kept = tensors.get(&name).ok_or(PruneError::NoTaylor(name))?;
                kept.values.iter().copied().map(f64::from).collect()
            }
        };
        importances.insert(layer.name.clone(), values);
    }
    Ok(importances)
}

fn has_batch_norm(layer: &Layer) -> bool {
    matches!(layer.operation, Operation::Conv2d(Conv2d { batch_norm: true, .. }))
}

/// L2 norms of each group's weights. Batch norm divides by what they are multiplied with, so before it their size says nothing;
/// what counts is what they are once it is folded in.
fn norms(layer: &Layer, tensors: &Tensors) -> Result<Vec<f64>, PruneError> {
    let weight = tensor(tensors, &layer.name, "weight")?;
    let size = (weight.values.len() / layer.operation.biases().max(1)).max(1);
    let norms = weight.values.chunks_exact(size).map(|weights| norm(weights.iter().copied().map(f64::from)));
    if !has_batch_norm(layer) {
        return Ok(norms.collect());
    }
    let [gamma, variance] =
        ["norm.weight", "norm.running_var"].map(|part| tensor(tensors, &layer.name, part));
    let factors = gamma?.values.iter().zip(&variance?.values).map(|(&gamma, &variance)| {
        f64::from(gamma.abs()) / (f64::from(variance) + BATCH_NORM_EPS).max(BATCH_NORM_EPS).sqrt()
    });
    Ok(norms.zip(factors).map(|(norm, factor)| norm * factor).collect())
}

fn normalised(values: Vec<f64>) -> Vec<f64> {
    let length = norm(values.iter().copied());
    if length > 0.0 { values.into_iter().map(|value| value / length).collect() } else { values }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn tensor<'a>(tensors: &'a Tensors, layer: &str, part: &str) -> Result<&'a Tensor, PruneError> {
    let name = format!("{layer}.{part}");
    tensors.get(&name).ok_or(PruneError::Tensors(TensorsError::Missing(name)))
}
