//! Every variant of the network against its twin in PyTorch: `tests/golden/models.py` made the numbers.

use std::collections::BTreeMap;

use earshot_common::{
    model::AudioCnn,
    tensors::{self, Tensor, Tensors},
};
use pulp::Arch;
use serde::Deserialize;

use super::{Batch, Network, Targets};
use crate::training::optimiser::Numbers;

/// Largest difference that another order of summation may make.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Variant {
    spec: AudioCnn,
}

/// One variant with what PyTorch made of it, ready for [`Network`].
struct Example {
    name: String,
    spec: AudioCnn,
    golden: Tensors,
    labels: Vec<i64>,
    mask: Vec<f32>,
}

fn part(golden: &Tensors, prefix: &str) -> Tensors {
    let strip =
        |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
    golden.iter().filter_map(strip).collect()
}

impl Example {
    fn all() -> Vec<Self> {
        let golden = tensors::decode(include_bytes!("../../tests/golden/models.safetensors")).unwrap();
        let variants: BTreeMap<String, Variant> =
            serde_json::from_str(include_str!("../../tests/golden/models.json")).unwrap();
        let example = |(name, Variant { spec })| {
            let golden = part(&golden, &format!("{name}/"));
            let labels = golden["labels"].values.iter().map(|&label| label as i64).collect();
            let network = Network::new(&spec, &part(&golden, "initial.")).unwrap();
            let mask = reorder(&golden["mask"], &network);
            Self { name, spec, golden, labels, mask }
        };
        variants.into_iter().map(example).collect()
    }

    fn network(&self) -> Network {
        self.network_on(Arch::new())
    }

    fn network_on(&self, arch: Arch) -> Network {
        Network::on(arch, &self.spec, &part(&self.golden, "initial.")).unwrap()
    }

    /// Every example with every kind of instructions that this processor has.
    fn on_each() -> Vec<(String, Self, Network)> {
        let of_example = |(arch, example): (Arch, Self)| {
            let network = example.network_on(arch);
            (format!("{} on {arch:?}", example.name), example, network)
        };
        archs()
            .into_iter()
            .flat_map(|arch| Self::all().into_iter().map(move |e| (arch, e)))
            .map(of_example)
            .collect()
    }

    fn batch(&self) -> Batch<'_> {
        let features = &self.golden["features"].values;
        Batch { features, targets: Targets::Classes(&self.labels), mask: Some(&self.mask) }
    }
}

/// The kinds of instructions that there are kernels for, as far as this processor has them.
fn archs() -> Vec<Arch> {
    let mut archs = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs.extend(pulp::x86::V4::try_new().map(Arch::V4));
    }
    archs
}

/// A mask `(clips, features)` in the network's order.
fn reorder(mask: &Tensor, network: &Network) -> Vec<f32> {
    let places = network.feature_places();
    let mut lines = Vec::new();
    for clip in mask.values.chunks_exact(places.len()) {
        let mut line = vec![0.0; network.features()];
        for (&place, &value) in places.iter().zip(clip) {
            line[place] = value;
        }
        lines.extend(line);
    }
    lines
}

fn assert_near(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < TOLERANCE, "{what} differs by {difference}: {found:?} {expected:?}");
}

/// Adam at 5e-3, after so many steps.
fn numbers(steps: i32) -> Numbers {
    let step = -5e-3 / (1.0 - 0.9_f64.powi(steps));
    let scale = 1.0 / (step * (1.0 - 0.999_f64.powi(steps)).sqrt());
    Numbers { coupled_decay: 0.0, shrink: 1.0, rates: [0.1, 0.001], scale, epsilon: 1e-8 / step }
}

#[test]
fn gradients_are_pytorchs() {
    for (name, example, mut network) in Example::on_each() {
        network.step(example.batch(), numbers(1), 0.0);
        let [means, _] = network.moments();
        for (tensor, mean) in means {
            let expected = &example.golden[&format!("gradient.{tensor}")];
            let gradient: Vec<f32> = mean.values.iter().map(|value| value * 10.0).collect();
            assert_near(&format!("{name}: {tensor}"), &gradient, &expected.values);
        }
    }
}

#[test]
fn three_steps_and_an_evaluation_agree_with_pytorch() {
    for (name, example, mut network) in Example::on_each() {
        let golden = &example.golden;
        let losses: Vec<f32> =
            (1..4).map(|step| network.step(example.batch(), numbers(step), 0.0) as f32).collect();
        assert_near(&format!("{name}: losses"), &losses, &golden["losses"].values);
        let values = network.values();
        for (tensor, expected) in part(golden, "final.") {
            assert_eq!(values[&tensor].shape, expected.shape, "{name}: {tensor}");
            assert_near(&format!("{name}: {tensor}"), &values[&tensor].values, &expected.values);
        }
        let logits = network.logits(&golden["features"].values);
        assert_near(&format!("{name}: logits"), logits, &golden["logits"].values);
    }
}

#[test]
fn a_checkpoint_comes_out_as_it_went_in() {
    for example in Example::all() {
        let initial = part(&example.golden, "initial.");
        assert_eq!(example.network().values(), initial, "{}", example.name);
    }
}

#[test]
fn a_smaller_batch_after_a_larger_one_is_as_if_it_were_alone() {
    for example in Example::all() {
        let clip = (example.spec.n_mfcc * example.spec.frames) as usize;
        let features = &example.golden["features"].values;
        let mut alone = example.network();
        let mut after = example.network();
        after.logits(features);
        let few = &features[..3 * clip];
        assert_eq!(alone.logits(few), after.logits(few), "{}", example.name);
        let batch = Batch {
            features: few,
            targets: Targets::Classes(&example.labels[..3]),
            mask: Some(&example.mask[..3 * alone.features()]),
        };
        let losses = [&mut alone, &mut after].map(|network| network.step(batch, numbers(1), 0.0));
        assert_eq!(losses[0].to_bits(), losses[1].to_bits(), "{}", example.name);
        assert_eq!(alone.values(), after.values(), "{}", example.name);
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    for example in Example::all() {
        let mut weights = part(&example.golden, "initial.");
        weights.get_mut("blocks.0.weight").unwrap().values[0] = f32::NAN;
        let mut network = Network::new(&example.spec, &weights).unwrap();
        let loss = network.step(example.batch(), numbers(1), 0.0);
        assert!(loss.is_nan(), "{}: {loss}", example.name);
    }
}

#[test]
fn odd_shapes_and_whole_groups_agree_with_a_plain_convolution() {
    use super::{
        convolve::{ConvolveLine, WeightGradientLine},
        lanes::{WIDTH, dispatch},
        shape::Shape,
    };
    let mut state = 1_u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let arch = pulp::Arch::new();
    for (width, channel_groups, filter_groups, kernel, rows, columns) in [
        (1, 1, 1, 3, 3, 5),
        (1, 1, 3, 5, 2, 12),
        (16, 1, 2, 3, 4, 25),
        (16, 2, 3, 3, 3, 13),
        (16, 2, 1, 5, 5, 7),
        (16, 3, 4, 1, 2, 14),
        (16, 2, 2, 3, 1, 1),
    ] {
        let shape = Shape { groups: channel_groups, width, rows, columns, pad: kernel / 2 };
        let out = Shape { groups: filter_groups, width: WIDTH, rows, columns, pad: 0 };
        let mut input = vec![0.0; shape.clip()];
        for group in 0..channel_groups {
            for row in 0..rows {
                shape.row_mut(&mut input, group, row).iter_mut().for_each(|value| *value = draw());
            }
        }
        let taps = kernel * kernel;
        let weights: Vec<f32> =
            (0..filter_groups * channel_groups * taps * width * WIDTH).map(|_| draw()).collect();
        let bias: Vec<[f32; WIDTH]> = (0..filter_groups).map(|_| [(); WIDTH].map(|()| draw())).collect();
        let delta: Vec<f32> = (0..out.clip()).map(|_| draw()).collect();

        let mut found = vec![0.0; out.clip()];
        let mut gradient = vec![0.0; weights.len()];
        for row in 0..rows {
            let output = &mut found[out.start(0, row)..];
            let (weights, bias, input, plane) = (&weights[..], &bias[..], &input[..], out.plane());
            let line = ConvolveLine {
                input,
                shape,
                weights,
                kernel,
                bias,
                row,
                output,
                output_plane: plane,
                columns,
            };
            dispatch(arch, line);
            let (output, gradient) = (&delta[..], &mut gradient[..]);
            let line = WeightGradientLine { input, shape, kernel, row, output, output_shape: out, gradient };
            dispatch(arch, line);
        }
        let mut expected = vec![0.0; out.clip()];
        let mut expected_gradient = vec![0.0; weights.len()];
        for at in 0..out.clip() {
            let (f, pixel) = (at % WIDTH, at / WIDTH);
            let (column, line) = (pixel % columns, pixel / columns);
            let (row, filter) = (line % rows, line / rows);
            expected[at] = bias[filter][f];
            for index in 0..channel_groups * taps * width {
                let (c, rest) = (index % width, index / width);
                let (tap, group) = (rest % taps, rest / taps);
                let pixel = (row + tap / kernel) * shape.line() + (column + tap % kernel) * width + c;
                let weight = (filter * channel_groups * taps * width + index) * WIDTH + f;
                let value = input[group * shape.plane() + pixel];
                expected[at] += value * weights[weight];
                expected_gradient[weight] += value * delta[at];
            }
        }
        let what = format!("{width} {channel_groups} {filter_groups} {kernel} {rows} {columns}");
        assert_near(&what, &found, &expected);
        assert_near(&what, &gradient, &expected_gradient);
    }
}
