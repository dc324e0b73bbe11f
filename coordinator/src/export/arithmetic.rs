//! What the int8 file means, computed in whole numbers: the reference that tract's run of the file is held against.
//!
//! Products of int8 weights and centred int8 activations are summed in int32, the bias among them, and the sum is brought to
//! the next activation's scale with one rounding (Jacob et al. 2018, section 2.2). This is what an integer runtime does;
//! nothing here is shared with the graph writer but the numbers.

use earshot_common::model::{Block, Layer};

use super::{
    network::Network,
    quantise::{Affine, Quantised, QuantisedLayer},
};

/// Maps of whole numbers minus their zero point, so that 0 means 0.
struct Maps {
    rows: usize,
    columns: usize,
    /// Row-major `(channels, rows, columns)`.
    values: Vec<i16>,
}

/// Logits of one clip's features, `(n_mfcc, frames)` row-major.
pub(super) fn logits(network: &Network, quantised: &Quantised, features: &[f32]) -> Vec<f32> {
    let coefficients = features.chunks_exact(network.frames.max(1));
    let standardised = coefficients.zip(network.mean.values.iter().zip(&network.std.values)).flat_map(
        |(coefficient, (mean, std))| {
            coefficient.iter().map(move |value| centred(quantised.input, (value - mean) / std))
        },
    );
    let mut maps = Maps { rows: network.n_mfcc, columns: network.frames, values: standardised.collect() };
    for layer in &quantised.layers {
        let sums = match layer.layer {
            Layer::Block { block, .. } => convolve(layer, block, &maps),
            Layer::Linear { .. } => {
                (maps.rows, maps.columns) = (1, 1);
                multiply(layer, &maps.values)
            }
        };
        let area = (maps.rows * maps.columns).max(1);
        let real = sums
            .chunks_exact(area)
            .zip(&layer.bias_scales)
            .flat_map(|(map, scale)| map.iter().map(move |&sum| sum as f32 * scale));
        let Some(affine) = layer.output else {
            return real.collect();
        };
        maps.values = real.map(|value| centred(affine, value)).collect();
        if matches!(layer.layer, Layer::Block { .. }) {
            maps = pool(&maps);
        }
    }
    Vec::new()
}

fn centred(affine: Affine, value: f32) -> i16 {
    i16::from(affine.quantise(value)) - i16::from(affine.zero_point)
}

/// Sums of a "same" convolution, `(filters, rows, columns)`.
fn convolve(layer: &QuantisedLayer, block: Block, input: &Maps) -> Vec<i32> {
    let kernel = block.kernel_size as usize;
    let area = (input.rows * input.columns).max(1);
    let channels = input.values.len() / area;
    let weights = layer.weights.chunks_exact((channels * kernel * kernel).max(1));
    let mut sums = Vec::with_capacity(layer.biases.len() * area);
    for (weights, &bias) in weights.zip(&layer.biases) {
        let mut map = vec![bias; area];
        for (weights, channel) in weights.chunks_exact(kernel * kernel).zip(input.values.chunks_exact(area)) {
            for (position, &weight) in weights.iter().enumerate() {
                let shift = [position / kernel, position % kernel];
                add_shifted(&mut map, channel, input.columns, shift, kernel / 2, i32::from(weight));
            }
        }
        sums.extend(map);
    }
    sums
}

/// Adds `weight` times the channel, moved so that kernel position `shift` falls on the centre; what lies outside is 0.
fn add_shifted(
    map: &mut [i32],
    channel: &[i16],
    columns: usize,
    [down, right]: [usize; 2],
    pad: usize,
    weight: i32,
) {
    let columns = columns.max(1);
    // Output (y, x) reads input (y + down - pad, x + right - pad).
    let outputs = map.chunks_exact_mut(columns).skip(pad.saturating_sub(down));
    let inputs = channel.chunks_exact(columns).skip(down.saturating_sub(pad));
    for (sums, values) in outputs.zip(inputs) {
        let sums = sums.iter_mut().skip(pad.saturating_sub(right));
        let values = values.iter().skip(right.saturating_sub(pad));
        for (sum, &value) in sums.zip(values) {
            *sum += weight * i32::from(value);
        }
    }
}

/// Sums of a linear layer, one for each unit.
fn multiply(layer: &QuantisedLayer, input: &[i16]) -> Vec<i32> {
    let weights = layer.weights.chunks_exact(input.len().max(1));
    weights
        .zip(&layer.biases)
        .map(|(weights, &bias)| {
            let products =
                weights.iter().zip(input).map(|(&weight, &value)| i32::from(weight) * i32::from(value));
            bias + products.sum::<i32>()
        })
        .collect()
}

/// The largest of each 2×2 square; an odd last row or column is dropped.
fn pool(input: &Maps) -> Maps {
    let (rows, columns) = (input.rows / 2, input.columns / 2);
    let maps = input.values.chunks_exact((input.rows * input.columns).max(1));
    let values = maps.flat_map(|map| {
        map.chunks_exact((2 * input.columns).max(1)).flat_map(|pair| {
            let (upper, lower) = pair.split_at(input.columns.min(pair.len()));
            upper
                .chunks_exact(2)
                .zip(lower.chunks_exact(2))
                .filter_map(|(upper, lower)| upper.iter().chain(lower).copied().max())
        })
    });
    Maps { rows, columns, values: values.collect() }
}
