//! Every variant of the network against its twin in PyTorch: `tests/golden/models.py` made the numbers.

mod kernels;

use std::collections::BTreeMap;

use earshot_common::{
    model::AudioCnn,
    tensors::{self, Tensor, Tensors},
};
use pulp::Arch;
use serde::Deserialize;

use super::{Batch, Bf16, Network, Precision, Targets};
use crate::training::optimiser::Numbers;

/// Largest difference that another order of summation may make.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Variant {
    spec: AudioCnn,
}

/// One variant with what PyTorch made of it, ready for [`Network`].
#[derive(Clone)]
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
            let network = Network::new(&spec, &part(&golden, "initial."), Precision::F32).unwrap();
            let mask = reorder(&golden["mask"], &network);
            Self { name, spec, golden, labels, mask }
        };
        variants.into_iter().map(example).collect()
    }

    fn network(&self) -> Network {
        self.network_on((Arch::new(), Precision::F32))
    }

    fn network_on(&self, on: (Arch, Precision)) -> Network {
        Network::on(on, &self.spec, &part(&self.golden, "initial.")).unwrap()
    }

    /// Every example with every kind of instructions that this processor has.
    fn on_each() -> Vec<(String, Self, Network)> {
        let of_example = |(arch, example): (Arch, Self)| {
            let network = example.network_on((arch, Precision::F32));
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
        Batch { features, targets: Targets::Classes(&self.labels), mask: Some(&self.mask), taught: None }
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
            taught: None,
        };
        let losses = [&mut alone, &mut after].map(|network| network.step(batch, numbers(1), 0.0));
        assert_eq!(losses[0].to_bits(), losses[1].to_bits(), "{}", example.name);
        assert_eq!(alone.values(), after.values(), "{}", example.name);
    }
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let last = |example: &Example| format!("blocks.{}.weight", example.spec.blocks.len() - 1);
    for example in Example::all() {
        for name in ["blocks.0.weight".to_owned(), last(&example)] {
            let mut weights = part(&example.golden, "initial.");
            let Some(tensor) = weights.get_mut(&name) else { continue };
            tensor.values[0] = f32::NAN;
            for precision in [Precision::F32, Precision::Bf16(Bf16::PORTABLE)] {
                let mut network = Network::new(&example.spec, &weights, precision).unwrap();
                let loss = network.step(example.batch(), numbers(1), 0.0);
                assert!(loss.is_nan(), "{}, {name}: {loss}", example.name);
            }
        }
    }
}

/// With what bfloat16 can be multiplied here.
fn bf16() -> Vec<Bf16> {
    [Some(Bf16::PORTABLE), Bf16::detect()].into_iter().flatten().collect()
}

/// How long the vector of differences is beside the one they are from.
fn relative(found: &[f32], expected: &[f32]) -> f32 {
    let length =
        |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    length(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / length(&mut expected.iter().copied())
}

#[test]
fn gradients_of_16_bits_are_pytorchs_of_the_same_rounding() {
    // A sum in another order is rounded otherwise now and then: by an eighth bit.
    const ROUNDING: f32 = 5e-3;
    let golden = tensors::decode(include_bytes!("../../tests/golden/bf16.safetensors")).unwrap();
    let mut rounded = 0;
    for example in Example::all() {
        for bf16 in bf16() {
            let mut network = example.network_on((Arch::new(), Precision::Bf16(bf16)));
            network.step(example.batch(), numbers(1), 0.0);
            let [means, _] = network.moments();
            for (tensor, mean) in means {
                let what = format!("{}, {bf16:?}: {tensor}", example.name);
                let gradient: Vec<f32> = mean.values.iter().map(|value| value * 10.0).collect();
                let difference = relative(&gradient, &golden[&format!("{}/{tensor}", example.name)].values);
                assert!(difference < ROUNDING, "{what} differs by {difference}");
                let exact = &example.golden[&format!("gradient.{tensor}")].values;
                rounded += usize::from(relative(&gradient, exact) > 2.0 * ROUNDING);
            }
        }
    }
    assert!(rounded > 10, "hardly anything was rounded: {rounded}");
}

#[test]
fn what_chooses_is_scored_in_32_bits() {
    for example in Example::all() {
        let features = &example.golden["features"].values;
        let mut rounding = example.network_on((Arch::new(), Precision::Bf16(Bf16::PORTABLE)));
        assert_eq!(rounding.logits(features), example.network().logits(features), "{}", example.name);
    }
}
