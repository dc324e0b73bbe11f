//! The int8 graph, in QDQ form: float operators between QuantizeLinear and DequantizeLinear, which runtimes fuse into
//! integer ones.
//!
//! Weights and biases are stored in int8 and int32, each followed by a DequantizeLinear. Convolutions, pooling, flattening
//! and linear layers stand between a DequantizeLinear and a QuantizeLinear of their own, as ONNX Runtime's fusions want them; pooling and
//! flattening only move numbers, so both sides have the same scale. There is no Relu: see [`super::quantise`].

use earshot_common::model::Layer;
use earshot_proto::onnx::{AttributeProto, ModelProto, NodeProto, TensorProto};

use super::{
    graph::STANDARDISED,
    network::Network,
    onnx::{self, INPUT, Metadata, OUTPUT, Values, int, node},
    quantise::{Affine, Quantised, QuantisedLayer},
};

/// Names of the initialisers of a quantised tensor.
pub(super) fn stored(name: &str) -> [String; 3] {
    ["quantised", "scale", "zero_point"].map(|part| format!("{name}.{part}"))
}

/// Writes the quantised network; `network` gives the standardisation, which stays float.
pub(super) fn int8(network: &Network, quantised: &Quantised, metadata: &Metadata) -> ModelProto {
    let mut writer = Writer::default();
    for (name, shape, values) in network.tensors().take(2) {
        writer.initializers.push(onnx::tensor(name, &shape, &Values::Float(values)));
    }
    writer.nodes.push(node("Sub", &[INPUT, "input.mean"], "centred", vec![]));
    writer.nodes.push(node("Div", &["centred", "input.std"], STANDARDISED, vec![]));
    writer.affine(STANDARDISED, quantised.input);
    let mut held = STANDARDISED.to_owned();
    let mut value = writer.quantise(STANDARDISED, &held);
    let mut is_flat = false;
    for layer in &quantised.layers {
        let name = &layer.name;
        let is_linear = matches!(layer.layer, Layer::Linear { .. });
        if is_linear && !is_flat {
            value = writer.move_through("Flatten", &value, "flat", &held, vec![int("axis", 1)]);
            is_flat = true;
        }
        let [weight, bias] = writer.weights(layer);
        let inputs = [value.as_str(), &weight, &bias];
        let (op_type, attributes) = match layer.layer {
            Layer::Block { block, .. } => ("Conv", onnx::same_convolution(block.kernel_size)),
            Layer::Linear { .. } => ("Gemm", vec![int("transB", 1)]),
        };
        let Some(affine) = layer.output else {
            writer.nodes.push(node(op_type, &inputs, OUTPUT, attributes));
            continue;
        };
        let weighted = format!("{name}.weighted");
        writer.nodes.push(node(op_type, &inputs, &weighted, attributes));
        held = format!("{name}.activation");
        writer.affine(&held, affine);
        value = writer.quantise(&weighted, &held);
        if !is_linear {
            value = writer.move_through("MaxPool", &value, &format!("{name}.pooled"), &held, onnx::pooling());
        }
    }
    let shape = [network.n_mfcc, network.frames, network.classes];
    onnx::model(writer.nodes, writer.initializers, shape, metadata)
}

#[derive(Default)]
struct Writer {
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl Writer {
    /// Stores an activation's scale and zero point under `name`.
    fn affine(&mut self, name: &str, affine: Affine) {
        let [_, scale, zero_point] = stored(name);
        self.initializers.push(onnx::tensor(scale, &[], &Values::Float(&[affine.scale])));
        self.initializers.push(onnx::tensor(zero_point, &[], &Values::Int8(&[affine.zero_point])));
    }

    /// `value` to int8 and back, with the scale and zero point stored under `held`.
    fn quantise(&mut self, value: &str, held: &str) -> String {
        let [_, scale, zero_point] = stored(held);
        let (whole, back) = (format!("{value}.int8"), format!("{value}.dequantised"));
        self.nodes.push(node("QuantizeLinear", &[value, &scale, &zero_point], &whole, vec![]));
        self.nodes.push(node("DequantizeLinear", &[&whole, &scale, &zero_point], &back, vec![]));
        back
    }

    /// An operator that only moves numbers, so that its output is held as its input is.
    fn move_through(
        &mut self,
        op_type: &str,
        value: &str,
        output: &str,
        held: &str,
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.nodes.push(node(op_type, &[value], output, attributes));
        self.quantise(output, held)
    }

    /// Stores a layer's weights and biases and gives the names of their real values.
    fn weights(&mut self, layer: &QuantisedLayer) -> [String; 2] {
        let channels = [layer.biases.len()];
        let (weight, bias) = (format!("{}.weight", layer.name), format!("{}.bias", layer.name));
        let zeros = vec![0_i8; layer.biases.len()];
        let tensors = [
            (&weight, &layer.shape[..], Values::Int8(&layer.weights), &layer.weight_scales),
            (&bias, &channels[..], Values::Int32(&layer.biases), &layer.bias_scales),
        ];
        for (name, shape, values, scales) in tensors {
            let [whole, scale, zero_point] = stored(name);
            let mut inputs = vec![whole.as_str(), &scale];
            self.initializers.push(onnx::tensor(&whole, shape, &values));
            self.initializers.push(onnx::tensor(&scale, &channels, &Values::Float(scales)));
            // An int32 has no zero point in ONNX; for int8 some runtimes want it written down.
            if matches!(values, Values::Int8(_)) {
                self.initializers.push(onnx::tensor(&zero_point, &channels, &Values::Int8(&zeros)));
                inputs.push(&zero_point);
            }
            self.nodes.push(node("DequantizeLinear", &inputs, name, vec![int("axis", 0)]));
        }
        [weight, bias]
    }
}
