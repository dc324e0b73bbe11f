//! Golden tensors, and three steps of Adam that agree with PyTorch's. `tests/golden/make.py` made the numbers.

use earshot_common::{
    job::Recipe,
    model::AudioCnn,
    tensors::{self, Tensors, checkpoint_shapes},
};
use tch::{Device, Tensor};
use worker::{
    network::Network,
    training::{
        device::{Batch, step},
        optimiser::Adam,
        schedule::Schedule,
    },
};

use crate::jobs::example;

/// Largest difference that another order of summation may make.
const TOLERANCE: f64 = 1e-4;

/// Golden tensors whose names begin with `prefix`, without it.
pub(crate) fn part(golden: &Tensors, prefix: &str) -> Tensors {
    golden
        .iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone())))
        .collect()
}

/// A golden tensor as libtorch takes it.
pub(crate) fn tensor(golden: &Tensors, name: &str) -> Tensor {
    let shape: Vec<i64> = golden[name].shape.iter().map(|&extent| extent as i64).collect();
    Tensor::from_slice(&golden[name].values).view(shape.as_slice())
}

/// Expects the golden values, in their order.
pub(crate) fn assert_near(what: &str, found: &Tensor, expected: &tensors::Tensor) {
    let expected = Tensor::from_slice(&expected.values);
    let found = found.contiguous().view([-1]);
    assert_eq!(found.size(), expected.size(), "{what}");
    let difference = (&found - &expected).abs().max().double_value(&[]);
    assert!(difference < TOLERANCE, "{what} differs by {difference}: {found:?}");
}

#[test]
fn three_steps_agree_with_pytorch() {
    let golden = tensors::decode(include_bytes!("../golden/steps.safetensors")).unwrap();
    let spec = example(0).job.model;
    let network = Network::from_checkpoint(&spec, &part(&golden, "initial."), Device::Cpu).unwrap();
    let recipe = Recipe::plain(5e-3, 16, 1, 0);
    let pace = Schedule::new(&recipe, 3).pace(0);
    let mut adam = Adam::new(&network.parameters(), &recipe).unwrap();
    let batch = Batch {
        features: tensor(&golden, "features"),
        targets: tensor(&golden, "labels").to_kind(tch::Kind::Int64),
        mask: None,
        taught: None,
    };
    let losses: Vec<Tensor> = (0..3).map(|_| step(&network, &mut adam, &batch, pace, 0.0).unwrap()).collect();
    assert_near("losses", &Tensor::stack(&losses, 0), &golden["losses"]);
    let values = network.values().unwrap();
    for (name, expected) in part(&golden, "final.") {
        assert_eq!(values[&name].shape, expected.shape);
        assert_near(&name, &Tensor::from_slice(&values[&name].values), &expected);
    }
}

/// Holds the slopes of a loss in every trained tensor against the golden ones.
pub(crate) fn assert_gradients_near(
    name: &str,
    spec: &AudioCnn,
    network: &Network,
    loss: &Tensor,
    golden: &Tensors,
) {
    let gradients = Tensor::run_backward(&[loss], &network.parameters(), false, false);
    let shapes = checkpoint_shapes(spec).unwrap();
    let trained: Vec<_> = shapes.iter().skip(2).filter(|(tensor, _)| !tensor.contains("running")).collect();
    assert_eq!(gradients.len(), trained.len());
    for ((tensor, _), gradient) in trained.into_iter().zip(gradients) {
        assert_near(&format!("{name}: {tensor}"), &gradient, &golden[&format!("gradient.{tensor}")]);
    }
}
