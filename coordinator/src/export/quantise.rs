//! Static int8 quantisation: scales, zero points, and the network in whole numbers.
//!
//! How numbers are held is [`earshot_common::int8`]'s; weights are symmetric, with one scale for each output channel. The rest is as
//! the runtime wants it:
//!
//! | profile | activations | ReLU | biases |
//! |---|---|---|---|
//! | ONNX Runtime | from −128 to 127 over their range | saturation at −128, the zero point of a range that starts at 0 | int32 at the scale of the products they are added to (equation 11) |
//! | TensorRT | zero point 0, from −127 to 127 | an operator, which it fuses | float: it refuses any other |
//!
//! ONNX Runtime runs the TensorRT profile too, at about half the speed.
//!
//! `max |r|` of a channel is held exactly; every other weight is off by half a scale step at most.

use earshot_common::{
    int8::{Affine, BIAS_MAX, Range, WEIGHT_MAX},
    model::{Operation, Pool, Reduce},
};

use super::network::{Network, Step, Weighted};
use crate::bundle::Kind;

/// Which runtime a quantised network is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    OnnxRuntime,
    TensorRt,
}

/// A layer's biases, one for each output channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Biases {
    /// At the scale of the layer's sums.
    Whole(Vec<i32>),
    Real(Vec<f32>),
}

/// A network in whole numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantised {
    /// Whom it is for.
    pub(super) profile: Profile,
    /// How the standardised input is held.
    pub(super) input: Affine,
    /// As many as the network's.
    pub(super) steps: Vec<QuantisedStep>,
}

/// One thing that happens to the maps.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum QuantisedStep {
    Layer(QuantisedLayer),
    /// `output`: how what leaves is held; none: as what enters.
    Pool {
        pool: Pool,
        output: Option<Affine>,
    },
    /// `output`: how what leaves is held; none: as what enters.
    Reduce {
        reduce: Reduce,
        output: Option<Affine>,
    },
}

/// One layer in whole numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QuantisedLayer {
    /// Prefix of its tensors' names.
    pub(super) name: String,
    /// What it computes and on which shapes.
    pub(super) operation: Operation,
    /// Extent of every dimension of the weights.
    pub(super) shape: Vec<usize>,
    /// Output channels first.
    pub(super) weights: Vec<i8>,
    /// One for each output channel.
    pub(super) weight_scales: Vec<f32>,
    /// As the profile holds them.
    pub(super) biases: Biases,
    /// Of each output channel's sum of products: scale of the input times that of the channel's weights.
    pub(super) sum_scales: Vec<f32>,
    /// How the output is held; none: it stays float, as the logits do.
    pub(super) output: Option<Affine>,
}

impl Profile {
    /// The model of the bundle that is quantised so.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::OnnxRuntime => Kind::Int8,
            Self::TensorRt => Kind::TensorRt,
        }
    }

    /// How a range is held.
    fn covering(self, range: Range) -> Affine {
        match self {
            Self::OnnxRuntime => Affine::covering(range),
            Self::TensorRt => Affine::around_zero(range),
        }
    }
}

impl Quantised {
    /// Quantises a network with the calibrated ranges of its standardised input and of every step that has a scale.
    pub(super) fn new(network: &Network, ranges: &[Range], profile: Profile) -> Self {
        let mut affines = ranges.iter().map(|&range| profile.covering(range));
        let mut held = affines.next().unwrap_or_else(|| profile.covering(Range::default()));
        let input = held;
        let mut steps = Vec::with_capacity(network.steps.len());
        for step in &network.steps {
            let output = if step.has_scale() { affines.next() } else { None };
            steps.push(match step {
                Step::Layer(layer) => {
                    QuantisedStep::Layer(quantise_layer(layer, held.scale, output, profile))
                }
                Step::Pool(pool) => QuantisedStep::Pool { pool: pool.clone(), output },
                Step::Reduce(reduce) => QuantisedStep::Reduce { reduce: reduce.clone(), output },
            });
            held = output.unwrap_or(held);
        }
        Self { profile, input, steps }
    }
}

fn quantise_layer(
    layer: &Weighted,
    input_scale: f32,
    output: Option<Affine>,
    profile: Profile,
) -> QuantisedLayer {
    let mut quantised = QuantisedLayer {
        name: layer.name.clone(),
        operation: layer.operation,
        shape: layer.weight.shape.clone(),
        weights: Vec::with_capacity(layer.weight.values.len()),
        weight_scales: Vec::with_capacity(layer.bias.values.len()),
        biases: Biases::Real(layer.bias.values.clone()),
        sum_scales: Vec::with_capacity(layer.bias.values.len()),
        output,
    };
    let mut biases = Vec::with_capacity(layer.bias.values.len());
    for (weights, bias) in layer.channels() {
        let held_bias = if profile == Profile::OnnxRuntime { bias } else { 0.0 };
        let scale = weight_scale(weights, held_bias, input_scale);
        let sum_scale = input_scale * scale;
        quantised.weights.extend(weights.iter().map(|&weight| quantise_weight(weight, scale)));
        quantised.weight_scales.push(scale);
        quantised.sum_scales.push(sum_scale);
        biases.push((bias / sum_scale).round_ties_even() as i32);
    }
    if profile == Profile::OnnxRuntime {
        quantised.biases = Biases::Whole(biases);
    }
    quantised
}

/// The nearest whole number of a weight.
pub(super) fn quantise_weight(weight: f32, scale: f32) -> i8 {
    (weight / scale).round_ties_even().clamp(-WEIGHT_MAX, WEIGHT_MAX) as i8
}

/// The smallest scale that holds all weights of a channel, and its bias at `input_scale` times it. A channel of zeros would
/// else have a scale of 0, and one of nearly zeros a bias beyond int32.
fn weight_scale(weights: &[f32], bias: f32, input_scale: f32) -> f32 {
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    let for_weights = largest / WEIGHT_MAX;
    let for_bias = bias.abs() / BIAS_MAX / input_scale;
    let scale = for_weights.max(for_bias);
    if (scale * input_scale).is_normal() && scale.is_normal() { scale } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_without_weights_keep_their_bias() {
        for weight in [0.0, 1e-38] {
            let scale = weight_scale(&[weight; 9], 0.5, 0.01);
            let bias_scale = scale * 0.01;
            let quantised = (0.5 / bias_scale).round_ties_even() as i32;
            assert!((quantised as f32 * bias_scale - 0.5).abs() < 1e-6, "{weight} {scale} {quantised}");
            assert_eq!(quantise_weight(weight, scale), 0);
        }
        assert!((weight_scale(&[0.0; 9], 0.0, 0.01) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_largest_weight_is_held_exactly() {
        let weights = [0.3, -1.27, 0.004];
        let scale = weight_scale(&weights, 0.1, 0.05);
        let quantised = weights.map(|weight| quantise_weight(weight, scale));
        assert_eq!(quantised, [30, -127, 0]);
    }
}
