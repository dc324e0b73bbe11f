//! What each filter and hidden unit is worth to the loss, from what the optimiser keeps anyway.
//!
//! To first order, without a parameter `w` of gradient `g` the loss changes by `g·w`. Squared and summed over the parameters of a
//! filter, and averaged over batches, that is its importance (Molchanov et al. 2019, arXiv:1906.10771, section 3). Adam's moving
//! mean of squared gradients is such an average already, over the last thousand steps or so, at no cost; with Adam's own weight
//! decay its part of the gradient is in it.

use earshot_common::{
    model::{AudioCnn, ModelError},
    tensors::{TAYLOR, Tensor, Tensors, taylor_shapes},
};

/// Trained tensors of a layer, each with its output channels first.
const PARTS: [&str; 4] = ["weight", "bias", "norm.weight", "norm.bias"];

/// One tensor for each layer whose outputs can be removed, by the checkpoint's names.
///
/// # Errors
/// The spec cannot be built.
pub fn importances(model: &AudioCnn, values: &Tensors, squares: &Tensors) -> Result<Tensors, ModelError> {
    let shapes = taylor_shapes(model)?.into_iter();
    Ok(shapes
        .map(|(name, shape)| {
            let layer = name.trim_end_matches(TAYLOR);
            let mut sums = vec![0.0; shape.iter().product()];
            for part in PARTS {
                let name = format!("{layer}{part}");
                if let (Some(values), Some(squares)) = (values.get(&name), squares.get(&name)) {
                    add(&mut sums, &values.values, &squares.values);
                }
            }
            let values = sums.into_iter().map(|sum| sum as f32).collect();
            (name, Tensor { shape, values })
        })
        .collect())
}

/// Adds `w²·v` of each channel's parameters to its sum.
fn add(sums: &mut [f64], values: &[f32], squares: &[f32]) {
    let size = (values.len() / sums.len().max(1)).max(1);
    let channels = values.chunks_exact(size).zip(squares.chunks_exact(size));
    for (sum, (values, squares)) in sums.iter_mut().zip(channels) {
        let terms = values.iter().zip(squares);
        *sum += terms.map(|(&w, &square)| f64::from(w).powi(2) * f64::from(square)).sum::<f64>();
    }
}

#[cfg(test)]
mod tests {
    use earshot_common::model::Block;

    use super::*;

    #[test]
    fn a_channels_parameters_are_weighed_together() {
        let mut model = AudioCnn::reference(13, 20, 2);
        model.blocks = vec![Block::new(2, 3); 2];
        model.head.fc_units = None;
        let tensor = |shape: &[usize], values: Vec<f32>| Tensor { shape: shape.to_vec(), values };
        let mut weight = vec![0.0; 18];
        (weight[0], weight[9], weight[10]) = (2.0, 1.0, -3.0);
        let values = Tensors::from([
            ("blocks.0.weight".to_owned(), tensor(&[2, 1, 3, 3], weight)),
            ("blocks.0.bias".to_owned(), tensor(&[2], vec![4.0, 0.0])),
        ]);
        let squares = Tensors::from([
            ("blocks.0.weight".to_owned(), tensor(&[2, 1, 3, 3], vec![0.5; 18])),
            ("blocks.0.bias".to_owned(), tensor(&[2], vec![0.25, 1.0])),
        ]);
        let found = importances(&model, &values, &squares).unwrap();
        assert_eq!(found["blocks.0.taylor"].values, [2.0 * 2.0 * 0.5 + 16.0 * 0.25, (1.0 + 9.0) * 0.5]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["blocks.0.taylor", "blocks.1.taylor"]);
    }
}
