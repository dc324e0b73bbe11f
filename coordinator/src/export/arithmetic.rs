//! What the int8 file means, computed in whole numbers: the reference that tract's run of the file is held against.
//!
//! Products of int8 weights and centred int8 activations are summed in int32, the bias among them, and the sum is brought to
//! the next activation's scale with one rounding (Jacob et al. 2018, section 2.2). Means are sums brought to a scale in the
//! same way. This is what an integer runtime does; nothing here is shared with the graph writer but the numbers.

use earshot_common::{
    int8::Affine,
    model::{Conv2d, Operation, Pooling, Reduction},
};

use super::{
    network::Network,
    quantise::{Biases, Profile, Quantised, QuantisedLayer, QuantisedStep},
};

/// Maps of whole numbers minus their zero point, so that 0 means 0.
struct Maps {
    rows: usize,
    columns: usize,
    /// How the numbers are held.
    affine: Affine,
    /// Row-major `(channels, rows, columns)`.
    values: Vec<i16>,
}

/// Logits of one clip's features, `(n_mfcc, frames)` row-major.
pub(super) fn logits(network: &Network, quantised: &Quantised, features: &[f32]) -> Vec<f32> {
    let mut maps = Maps {
        rows: network.n_mfcc,
        columns: network.frames,
        affine: quantised.input,
        values: standardised(network, features)
            .into_iter()
            .map(|value| centred(quantised.input, value))
            .collect(),
    };
    for step in &quantised.steps {
        maps = match step {
            QuantisedStep::Layer(layer) => {
                let mut real = weighted(layer, &maps);
                let Some(affine) = layer.output else {
                    return real;
                };
                if quantised.profile == Profile::TensorRt {
                    for value in &mut real {
                        *value = value.max(0.0);
                    }
                }
                let [rows, columns] = match layer.operation {
                    Operation::Conv2d(_) => [maps.rows, maps.columns],
                    Operation::Hidden(_) | Operation::Logits(_) => [1, 1],
                };
                let values = real.into_iter().map(|value| centred(affine, value)).collect();
                Maps { rows, columns, affine, values }
            }
            QuantisedStep::Pool { pool, output } => {
                let affine = output.unwrap_or(maps.affine);
                match pool.pooling {
                    Pooling::Max => maps.pool(affine, |square| square.into_iter().max().unwrap_or_default()),
                    Pooling::Average => maps.pool(affine, |square| mean(&square, maps.affine, affine)),
                }
            }
            QuantisedStep::Reduce { reduce, output } => {
                let affine = output.unwrap_or(maps.affine);
                maps.reduce(reduce.reduction, affine)
            }
        };
    }
    Vec::new()
}

/// What a device computes in floats before the first layer.
fn standardised(network: &Network, features: &[f32]) -> Vec<f32> {
    let frames = network.frames.max(1);
    let rows: Vec<f32> = match &network.inverse_dct {
        None => features.to_vec(),
        Some(matrix) => {
            matrix.chunks_exact(network.n_mfcc.max(1)).flat_map(|row| band(row, features, frames)).collect()
        }
    };
    let statistics = network.mean.values.iter().zip(&network.std.values);
    rows.chunks_exact(frames)
        .zip(statistics)
        .flat_map(|(row, (mean, std))| row.iter().map(move |value| (value - mean) / std))
        .collect()
}

/// One mel band in every frame: a weighted sum of coefficients.
fn band(weights: &[f32], features: &[f32], frames: usize) -> Vec<f32> {
    let mut band = vec![0.0; frames];
    for (&weight, coefficient) in weights.iter().zip(features.chunks_exact(frames)) {
        for (sum, value) in band.iter_mut().zip(coefficient) {
            *sum += weight * value;
        }
    }
    band
}

fn centred(affine: Affine, value: f32) -> i16 {
    i16::from(affine.quantise(value)) - i16::from(affine.zero_point)
}

/// A layer's sums as real numbers, biases added.
fn weighted(layer: &QuantisedLayer, input: &Maps) -> Vec<f32> {
    let (sums, area) = match &layer.operation {
        Operation::Conv2d(conv) => (convolve(layer, conv, input), (input.rows * input.columns).max(1)),
        Operation::Hidden(_) | Operation::Logits(_) => (multiply(layer, &input.values), 1),
    };
    let biases = match &layer.biases {
        Biases::Whole(_) => &[],
        Biases::Real(biases) => &biases[..],
    };
    let biases = biases.iter().chain(std::iter::repeat(&0.0));
    sums.chunks_exact(area)
        .zip(layer.sum_scales.iter().zip(biases))
        .flat_map(|(map, (scale, bias))| map.iter().map(move |&sum| sum as f32 * scale + bias))
        .collect()
}

/// What a layer's sums begin with, one for each output channel.
fn initial(layer: &QuantisedLayer) -> Vec<i32> {
    match &layer.biases {
        Biases::Whole(biases) => biases.clone(),
        Biases::Real(biases) => vec![0; biases.len()],
    }
}

/// Sums of a "same" convolution, `(filters, rows, columns)`.
fn convolve(layer: &QuantisedLayer, conv: &Conv2d, input: &Maps) -> Vec<i32> {
    let kernel = conv.kernel_size as usize;
    let area = (input.rows * input.columns).max(1);
    let [channels, filters] =
        [input.values.len() / area, layer.sum_scales.len()].map(|n| n / conv.groups.max(1) as usize);
    let groups = input.values.chunks_exact((channels * area).max(1));
    // Each group's channels, once for each of its filters.
    let inputs = groups.flat_map(|group| std::iter::repeat_n(group, filters));
    let weights = layer.weights.chunks_exact((channels * kernel * kernel).max(1));
    let mut sums = Vec::with_capacity(layer.sum_scales.len() * area);
    for ((weights, bias), input_channels) in weights.zip(initial(layer)).zip(inputs) {
        let mut map = vec![bias; area];
        for (weights, channel) in weights.chunks_exact(kernel * kernel).zip(input_channels.chunks_exact(area))
        {
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
        .zip(initial(layer))
        .map(|(weights, bias)| {
            let products =
                weights.iter().zip(input).map(|(&weight, &value)| i32::from(weight) * i32::from(value));
            bias + products.sum::<i32>()
        })
        .collect()
}

/// The mean of numbers held as `from`, held as `to`.
fn mean(values: &[i16], from: Affine, to: Affine) -> i16 {
    let sum: i32 = values.iter().copied().map(i32::from).sum();
    centred(to, sum as f32 * from.scale / values.len() as f32)
}

impl Maps {
    /// What `of` makes of each 2×2 square; an odd last row or column is dropped.
    fn pool(&self, affine: Affine, of: impl Fn([i16; 4]) -> i16) -> Self {
        let maps = self.values.chunks_exact((self.rows * self.columns).max(1));
        let pairs = maps.flat_map(|map| map.chunks_exact((2 * self.columns).max(1)));
        let values = pairs.flat_map(|pair| {
            let (upper, lower) = pair.split_at(self.columns.min(pair.len()));
            let squares = upper.as_chunks::<2>().0.iter().zip(lower.as_chunks::<2>().0);
            squares.map(|(&[a, b], &[c, d])| of([a, b, c, d]))
        });
        Self { rows: self.rows / 2, columns: self.columns / 2, affine, values: values.collect() }
    }

    /// The head's features, as maps of one element.
    fn reduce(self, reduction: Reduction, affine: Affine) -> Self {
        let maps = || self.values.chunks_exact((self.rows * self.columns).max(1));
        let means = || maps().map(|map| mean(map, self.affine, affine));
        let values = match reduction {
            Reduction::Flatten => self.values,
            Reduction::Mean => means().collect(),
            Reduction::MeanMax => {
                means().chain(maps().map(|map| map.iter().copied().max().unwrap_or_default())).collect()
            }
        };
        Self { rows: 1, columns: 1, affine, values }
    }
}
