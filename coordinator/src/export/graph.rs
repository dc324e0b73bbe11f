//! The float graph: the model spec walked into ONNX, with the checkpoint's own numbers.

use earshot_common::model::{Operation, Pooling, Reduce, Reduction};
use earshot_proto::onnx::{ModelProto, NodeProto, TensorProto};

use super::{
    network::{Network, Step, Weighted},
    onnx::{self, INPUT, Metadata, OUTPUT, Values, int, node},
};

/// Value that leaves standardisation.
pub(super) const STANDARDISED: &str = "standardised";

/// Writes the network in floats. Every initialiser is a tensor of the checkpoint, bit for bit, under its name there, but for
/// convolutions with a batch norm, which is folded into them, and for the inverse DCT.
pub(super) fn float(network: &Network, metadata: &Metadata) -> ModelProto {
    let (mut nodes, mut initializers) = input(network);
    let mut value = STANDARDISED.to_owned();
    for step in &network.steps {
        let output = step.value();
        match step {
            Step::Layer(layer) => {
                initializers.extend(weights(layer));
                nodes.extend(weighted(layer, &value, &output));
            }
            Step::Pool(pool) => {
                nodes.push(node(pool_operator(pool.pooling), &[&value], &output, onnx::pooling()));
            }
            Step::Reduce(reduce) => nodes.extend(reduced(reduce, &value, &output)),
        }
        value = output;
    }
    let shape = [network.n_mfcc, network.frames, network.classes];
    onnx::model(nodes, initializers, shape, metadata)
}

/// What both graphs begin with, in floats: from a device's MFCCs to the standardised input.
pub(super) fn input(network: &Network) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let mut nodes = Vec::new();
    let mut initializers = Vec::new();
    let mut value = INPUT;
    if let Some(matrix) = &network.inverse_dct {
        let (name, shape) = ("input.inverse_dct", [network.n_mfcc; 2]);
        initializers.push(onnx::tensor(name, &shape, &Values::Float(matrix)));
        value = "mel";
        nodes.push(node("MatMul", &[name, INPUT], value, vec![]));
    }
    for (name, tensor) in [("input.mean", &network.mean), ("input.std", &network.std)] {
        // Broadcast over `(batch, 1, n_mfcc, frames)`.
        let shape = [1, 1, network.n_mfcc, 1];
        initializers.push(onnx::tensor(name, &shape, &Values::Float(&tensor.values)));
    }
    // A division, as in training: multiplying by the reciprocal would round differently.
    nodes.push(node("Sub", &[value, "input.mean"], "centred", vec![]));
    nodes.push(node("Div", &["centred", "input.std"], STANDARDISED, vec![]));
    (nodes, initializers)
}

/// ONNX's operator of a pooling.
pub(super) fn pool_operator(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Max => "MaxPool",
        Pooling::Average => "AveragePool",
    }
}

fn weights(layer: &Weighted) -> [TensorProto; 2] {
    [("weight", &layer.weight), ("bias", &layer.bias)].map(|(part, tensor)| {
        onnx::tensor(format!("{}.{part}", layer.name), &tensor.shape, &Values::Float(&tensor.values))
    })
}

fn weighted(layer: &Weighted, value: &str, output: &str) -> Vec<NodeProto> {
    let name = &layer.name;
    let (weight, bias, sum) = (format!("{name}.weight"), format!("{name}.bias"), format!("{name}.weighted"));
    let inputs = [value, &weight, &bias];
    let relu = |operator, attributes| {
        vec![node(operator, &inputs, &sum, attributes), node("Relu", &[&sum], output, vec![])]
    };
    match &layer.operation {
        Operation::Conv2d(conv) => relu("Conv", onnx::same_convolution(conv)),
        Operation::Hidden(_) => relu("Gemm", vec![int("transB", 1)]),
        Operation::Logits(_) => vec![node("Gemm", &inputs, OUTPUT, vec![int("transB", 1)])],
    }
}

fn reduced(reduce: &Reduce, value: &str, output: &str) -> Vec<NodeProto> {
    let flatten = |value: &str| node("Flatten", &[value], output, vec![int("axis", 1)]);
    let mean = node("GlobalAveragePool", &[value], "maps.mean", vec![]);
    match reduce.reduction {
        Reduction::Flatten => vec![flatten(value)],
        Reduction::Mean => vec![mean, flatten("maps.mean")],
        Reduction::MeanMax => vec![
            mean,
            node("GlobalMaxPool", &[value], "maps.max", vec![]),
            node("Concat", &["maps.mean", "maps.max"], "maps.mean_max", vec![int("axis", 1)]),
            flatten("maps.mean_max"),
        ],
    }
}
