//! The int8 graph, in QDQ form: float operators between QuantizeLinear and DequantizeLinear, which runtimes fuse into
//! integer ones.
//!
//! Weights and biases are stored in int8 and int32, each followed by a DequantizeLinear. Convolutions, pooling, flattening
//! and linear layers stand between a DequantizeLinear and a QuantizeLinear of their own, as ONNX Runtime's fusions want them.
//! Max pooling and flattening only move numbers, so both sides have the same scale; so has a mean that is put beside maxima.
//! A Relu stands only in the profile that does not saturate at 0, and biases are float there: see [`super::quantise`].

use earshot_common::{
    int8::Affine,
    model::{Operation, Pool, Reduce, Reduction},
};
use earshot_proto::onnx::{AttributeProto, ModelProto, NodeProto, TensorProto};

use super::{
    graph::{self, STANDARDISED},
    network::Network,
    onnx::{self, Metadata, OUTPUT, Values, int, node},
    quantise::{Biases, Profile, Quantised, QuantisedLayer, QuantisedStep},
};

/// Names of the initialisers of a quantised tensor.
pub(super) fn stored(name: &str) -> [String; 3] {
    ["quantised", "scale", "zero_point"].map(|part| format!("{name}.{part}"))
}

/// Writes the quantised network; `network` gives what comes before the standardised input, which stays float.
pub(super) fn int8(network: &Network, quantised: &Quantised, metadata: &Metadata) -> ModelProto {
    let (nodes, initializers) = graph::input(network);
    let (value, held) = (STANDARDISED.to_owned(), String::new());
    let mut writer = Writer { profile: quantised.profile, nodes, initializers, value, held };
    writer.quantise_as(STANDARDISED, quantised.input);
    for step in &quantised.steps {
        match step {
            QuantisedStep::Layer(layer) => writer.layer(layer),
            QuantisedStep::Pool { pool, output } => writer.pool(pool, *output),
            QuantisedStep::Reduce { reduce, output } => writer.reduce(reduce, *output),
        }
    }
    let shape = [network.n_mfcc, network.frames, network.classes];
    onnx::model(writer.nodes, writer.initializers, shape, metadata)
}

/// The graph as far as it is written.
struct Writer {
    profile: Profile,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    /// The value that the next step reads.
    value: String,
    /// Name under which its scale and zero point are stored.
    held: String,
}

impl Writer {
    fn layer(&mut self, layer: &QuantisedLayer) {
        let [weight, bias] = self.weights(layer);
        let inputs = [self.value.clone(), weight, bias];
        let inputs = inputs.each_ref().map(String::as_str);
        let (operator, attributes) = match &layer.operation {
            Operation::Conv2d(conv) => ("Conv", onnx::same_convolution(conv)),
            Operation::Hidden(_) | Operation::Logits(_) => ("Gemm", vec![int("transB", 1)]),
        };
        let Some(affine) = layer.output else {
            self.nodes.push(node(operator, &inputs, OUTPUT, attributes));
            return;
        };
        self.value = format!("{}.weighted", layer.name);
        self.nodes.push(node(operator, &inputs, &self.value, attributes));
        if self.profile == Profile::TensorRt {
            self.apply("Relu", &format!("{}.relu", layer.name), vec![]);
        }
        self.quantise_as(&format!("{}.activation", layer.name), affine);
    }

    fn pool(&mut self, pool: &Pool, output: Option<Affine>) {
        self.apply(graph::pool_operator(pool.pooling), &pool.name, onnx::pooling());
        self.hold(&pool.name, output);
    }

    fn reduce(&mut self, reduce: &Reduce, output: Option<Affine>) {
        let maps = self.value.clone();
        match reduce.reduction {
            Reduction::Flatten => {}
            Reduction::Mean => {
                self.apply("GlobalAveragePool", "maps.mean", vec![]);
                self.hold(&reduce.name, output);
            }
            Reduction::MeanMax => {
                self.apply("GlobalAveragePool", "maps.mean", vec![]);
                self.quantise();
                let mean = std::mem::replace(&mut self.value, maps);
                self.apply("GlobalMaxPool", "maps.max", vec![]);
                self.quantise();
                let inputs = [mean.as_str(), self.value.as_str()];
                self.nodes.push(node("Concat", &inputs, "maps.mean_max", vec![int("axis", 1)]));
                "maps.mean_max".clone_into(&mut self.value);
                self.quantise();
            }
        }
        self.apply("Flatten", &reduce.name, vec![int("axis", 1)]);
        self.quantise();
    }

    /// An operator with one input.
    fn apply(&mut self, operator: &str, output: &str, attributes: Vec<AttributeProto>) {
        self.nodes.push(node(operator, &[&self.value], output, attributes));
        output.clone_into(&mut self.value);
    }

    /// To int8 and back: as `affine`, stored under `name`, or, where there is none, as the value before was.
    fn hold(&mut self, name: &str, affine: Option<Affine>) {
        match affine {
            Some(affine) => self.quantise_as(name, affine),
            None => self.quantise(),
        }
    }

    /// To int8 and back, as `affine`, which is stored under `name`.
    fn quantise_as(&mut self, name: &str, affine: Affine) {
        let [_, scale, zero_point] = stored(name);
        self.initializers.push(onnx::tensor(scale, &[], &Values::Float(&[affine.scale])));
        self.initializers.push(onnx::tensor(zero_point, &[], &Values::Int8(&[affine.zero_point])));
        name.clone_into(&mut self.held);
        self.quantise();
    }

    /// To int8 and back, with the scale and zero point of before.
    fn quantise(&mut self) {
        let [_, scale, zero_point] = stored(&self.held);
        let (whole, back) = (format!("{}.int8", self.value), format!("{}.dequantised", self.value));
        self.nodes.push(node("QuantizeLinear", &[&self.value, &scale, &zero_point], &whole, vec![]));
        self.nodes.push(node("DequantizeLinear", &[&whole, &scale, &zero_point], &back, vec![]));
        self.value = back;
    }

    /// Stores a layer's weights and biases and gives the names of their real values.
    fn weights(&mut self, layer: &QuantisedLayer) -> [String; 2] {
        let channels = [layer.sum_scales.len()];
        let (weight, bias) = (format!("{}.weight", layer.name), format!("{}.bias", layer.name));
        let zeros = vec![0_i8; layer.sum_scales.len()];
        let mut tensors =
            vec![(&weight, &layer.shape[..], Values::Int8(&layer.weights), &layer.weight_scales)];
        match &layer.biases {
            Biases::Whole(biases) => {
                tensors.push((&bias, &channels[..], Values::Int32(biases), &layer.sum_scales));
            }
            Biases::Real(biases) => {
                self.initializers.push(onnx::tensor(bias.as_str(), &channels, &Values::Float(biases)));
            }
        }
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
