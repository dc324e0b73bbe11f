//! What can be removed: filters and hidden units, each with everything that depends on it.
//!
//! A block's filters are the outputs of its only convolution, or of its pointwise one. The channels of a depthwise convolution
//! are those of the block before and go with them; logits stay.

use std::collections::BTreeMap;

use earshot_common::model::{AudioCnn, Conv2d, Layer, ModelError, Operation};

/// Groups of each layer that has any, by the layer's name.
pub type Groups = BTreeMap<String, usize>;

/// Numbers of the groups that stay, ascending, by the layer's name. A layer that is not named keeps all.
pub type Kept = BTreeMap<String, Vec<usize>>;

/// Whether a layer's outputs can be removed on their own.
pub(super) fn has_groups(layer: &Layer) -> bool {
    match layer.operation {
        Operation::Conv2d(Conv2d { .. }) => !layer.name.ends_with(".depthwise"),
        Operation::Hidden(_) => true,
        Operation::Logits(_) => false,
    }
}

/// The groups of a model.
///
/// # Errors
/// The spec cannot be built.
pub fn groups(model: &AudioCnn) -> Result<Groups, ModelError> {
    let layers = model.layers()?.into_iter().filter(has_groups);
    Ok(layers.map(|layer| (layer.name, layer.operation.biases())).collect())
}
