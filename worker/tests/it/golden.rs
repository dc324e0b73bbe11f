//! Three steps of Adam agree with PyTorch's. `tests/golden/make.py` made the numbers.

use earshot_common::tensors::{self, Tensors};
use tch::{Device, Tensor};
use worker::{
    network::Network,
    training::{batches::Batch, optimiser::Adam, step},
};

use crate::jobs::example;

/// Largest difference that another order of summation may make.
const TOLERANCE: f32 = 1e-4;

fn part(golden: &Tensors, prefix: &str) -> Tensors {
    golden
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())))
        .collect()
}

fn tensor(golden: &Tensors, name: &str) -> Tensor {
    let shape: Vec<i64> = golden[name].shape.iter().map(|&extent| extent as i64).collect();
    Tensor::from_slice(&golden[name].values).view(shape.as_slice())
}

#[test]
fn three_steps_agree_with_pytorch() {
    let golden = tensors::decode(include_bytes!("../golden/steps.safetensors")).unwrap();
    let spec = example(0).job.model;
    let network = Network::from_checkpoint(&spec, &part(&golden, "initial."), Device::Cpu).unwrap();
    let mut adam = Adam::new(&network.parameters(), 5e-3).unwrap();
    let batch = Batch {
        features: tensor(&golden, "features"),
        labels: tensor(&golden, "labels").to_kind(tch::Kind::Int64),
        mask: None,
    };
    for &expected in &golden["losses"].values {
        let loss = step(&network, &mut adam, &batch).unwrap().double_value(&[]) as f32;
        assert!((loss - expected).abs() < TOLERANCE, "{loss} is not {expected}");
    }
    let values = network.values().unwrap();
    for (name, expected) in part(&golden, "final.") {
        let found = &values[&name];
        assert_eq!(found.shape, expected.shape);
        for (found, expected) in found.values.iter().zip(&expected.values) {
            assert!((found - expected).abs() < TOLERANCE, "{name}: {found} is not {expected}");
        }
    }
}
