//! The float graph: the model spec walked into ONNX, with the checkpoint's own numbers.

use earshot_common::model::Layer;
use earshot_proto::onnx::ModelProto;

use super::{
    network::Network,
    onnx::{self, INPUT, Metadata, OUTPUT, Values, int, node},
};

/// Value that leaves standardisation.
pub(super) const STANDARDISED: &str = "standardised";

/// Value that leaves a layer's ReLU, before any pooling.
pub(super) fn activation(layer: &str) -> String {
    format!("{layer}.activation")
}

/// Writes the network in floats. Every initialiser is a tensor of the checkpoint, bit for bit, under its name there.
pub(super) fn float(network: &Network, metadata: &Metadata) -> ModelProto {
    let initializers = network
        .tensors()
        .map(|(name, shape, values)| onnx::tensor(name, &shape, &Values::Float(values)))
        .collect();
    // A division, as in training: multiplying by the reciprocal would round differently.
    let mut nodes = vec![
        node("Sub", &[INPUT, "input.mean"], "centred", vec![]),
        node("Div", &["centred", "input.std"], STANDARDISED, vec![]),
    ];
    let mut value = STANDARDISED.to_owned();
    let mut is_flat = false;
    let last = network.layers.len().saturating_sub(1);
    for (index, layer) in network.layers.iter().enumerate() {
        let name = &layer.name;
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        let (weighted, activation, pooled) =
            (format!("{name}.weighted"), activation(name), format!("{name}.pooled"));
        match layer.layer {
            Layer::Block { block, .. } => {
                let convolution = onnx::same_convolution(block.kernel_size);
                nodes.push(node("Conv", &[&value, &weight, &bias], &weighted, convolution));
                nodes.push(node("Relu", &[&weighted], &activation, vec![]));
                nodes.push(node("MaxPool", &[&activation], &pooled, onnx::pooling()));
                value = pooled;
            }
            Layer::Linear { .. } => {
                if !is_flat {
                    nodes.push(node("Flatten", &[&value], "flat", vec![int("axis", 1)]));
                    "flat".clone_into(&mut value);
                    is_flat = true;
                }
                let inputs = [value.as_str(), &weight, &bias];
                if index == last {
                    nodes.push(node("Gemm", &inputs, OUTPUT, vec![int("transB", 1)]));
                } else {
                    nodes.push(node("Gemm", &inputs, &weighted, vec![int("transB", 1)]));
                    nodes.push(node("Relu", &[&weighted], &activation, vec![]));
                    value = activation;
                }
            }
        }
    }
    let shape = [network.n_mfcc, network.frames, network.classes];
    onnx::model(nodes, initializers, shape, metadata)
}
