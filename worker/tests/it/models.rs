//! Every variant of the network agrees with its twin in PyTorch. `tests/golden/models.py` made the numbers.

use std::collections::BTreeMap;

use earshot_common::{
    job::Recipe,
    model::AudioCnn,
    tensors::{self, Tensors, checkpoint_shapes},
};
use serde::Deserialize;
use tch::{Device, Tensor};
use worker::{
    network::{Mode, Network},
    training::{
        device::{Batch, step},
        optimiser::Adam,
        schedule::Schedule,
    },
};

use crate::golden::{assert_gradients_near, assert_near, part, tensor};

/// A spec, and what PyTorch counts in the model written from it.
#[derive(Deserialize)]
struct Counted {
    spec: AudioCnn,
    params: u64,
    macs: u64,
}

fn counted() -> BTreeMap<String, Counted> {
    serde_json::from_str(include_str!("../golden/models.json")).unwrap()
}

/// Runs `check` on every variant, with its golden tensors.
fn for_each(check: impl Fn(&str, &AudioCnn, &Tensors)) {
    let golden = tensors::decode(include_bytes!("../golden/models.safetensors")).unwrap();
    for (name, Counted { spec, .. }) in counted() {
        check(&name, &spec, &part(&golden, &format!("{name}/")));
    }
}

fn batch(golden: &Tensors) -> Batch {
    Batch {
        features: tensor(golden, "features"),
        targets: tensor(golden, "labels").to_kind(tch::Kind::Int64),
        mask: Some(tensor(golden, "mask")),
        taught: None,
    }
}

#[test]
fn the_spec_counts_what_pytorch_counts() {
    for (name, Counted { spec, params, macs }) in counted() {
        let cost = spec.cost().unwrap();
        assert_eq!((cost.params, cost.macs), (params, macs), "{name}");
    }
}

#[test]
fn the_built_network_has_the_specs_tensors_and_parameters() {
    for (name, Counted { spec, params, .. }) in counted() {
        let values = Network::fresh(&spec, 1, Device::Cpu).unwrap().values().unwrap();
        let shapes = checkpoint_shapes(&spec).unwrap();
        assert_eq!(values.len(), shapes.len() - 2, "{name}");
        for (tensor, shape) in shapes.iter().skip(2) {
            assert_eq!(&values[tensor].shape, shape, "{name}: {tensor}");
        }
        // Batch norm, folded, leaves a bias.
        let is_folded = |tensor: &str| tensor.ends_with("norm.weight") || tensor.contains("running");
        let numbers =
            values.iter().filter(|(tensor, _)| !is_folded(tensor)).map(|(_, t)| t.values.len() as u64);
        assert_eq!(numbers.sum::<u64>(), params, "{name}");
    }
}

#[test]
fn gradients_are_pytorchs() {
    for_each(|name, spec, golden| {
        let network = Network::from_checkpoint(spec, &part(golden, "initial."), Device::Cpu).unwrap();
        let batch = batch(golden);
        let logits = network.forward(&batch.features, Mode::Training { mask: batch.mask.as_ref() }).unwrap();
        let loss = logits.cross_entropy_for_logits(&batch.targets);
        assert_gradients_near(name, spec, &network, &loss, golden);
    });
}

#[test]
fn three_steps_and_an_evaluation_agree_with_pytorch() {
    for_each(|name, spec, golden| {
        let network = Network::from_checkpoint(spec, &part(golden, "initial."), Device::Cpu).unwrap();
        let recipe = Recipe::plain(5e-3, 16, 1, 0);
        let pace = Schedule::new(&recipe, 3).pace(0);
        let mut adam = Adam::new(&network.parameters(), &recipe).unwrap();
        let batch = batch(golden);
        let losses: Vec<Tensor> =
            (0..3).map(|_| step(&network, &mut adam, &batch, pace, 0.0).unwrap()).collect();
        assert_near(&format!("{name}: losses"), &Tensor::stack(&losses, 0), &golden["losses"]);
        let values = network.values().unwrap();
        for (tensor, expected) in part(golden, "final.") {
            let found = Tensor::from_slice(&values[&tensor].values);
            assert_near(&format!("{name}: {tensor}"), &found, &expected);
        }
        let logits = network.forward(&batch.features, Mode::Evaluation).unwrap();
        assert_near(&format!("{name}: logits"), &logits, &golden["logits"]);
    });
}
