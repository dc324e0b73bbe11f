//! A network that rounds as int8 does has PyTorch's logits and gradients, and is trained like any other. `tests/golden/aware.py` made the
//! numbers, from PyTorch's own fake quantisation; the coordinator holds its whole-number arithmetic to the same file.

use std::collections::BTreeMap;

use earshot_common::{
    int8::Range,
    metrics::Confusion,
    model::AudioCnn,
    tensors::{self, Tensors},
};
use serde::Deserialize;
use tch::Device;
use worker::{
    control::Control,
    cpu::Precision,
    device::Processor,
    network::{Mode, Network, NetworkError},
    training::{self, Observer, Start, Trained, midway::Midway},
};

use crate::{
    golden::{assert_gradients_near, assert_near, part, tensor},
    jobs::{Example, example},
};

#[derive(Deserialize)]
struct Counted {
    spec: AudioCnn,
}

fn ranges(golden: &Tensors) -> Vec<Range> {
    golden["ranges"].values.chunks(2).map(|ends| Range { min: ends[0], max: ends[1] }).collect()
}

/// Runs `check` on every variant of the script, with its rounding network and golden tensors.
fn for_each(check: impl Fn(&str, &AudioCnn, &Network, &Tensors)) {
    let specs: BTreeMap<String, Counted> =
        serde_json::from_str(include_str!("../golden/models.json")).unwrap();
    let golden = tensors::decode(include_bytes!("../golden/aware.safetensors")).unwrap();
    let names = ["ordinary", "batch_norm", "separable", "average", "mean", "mean_max", "five"];
    for name in names {
        let (spec, golden) = (&specs[name].spec, part(&golden, &format!("{name}/")));
        let network = Network::from_checkpoint(spec, &part(&golden, "initial."), Device::Cpu).unwrap();
        check(name, spec, &network.rounding(spec, &ranges(&golden)).unwrap(), &golden);
    }
}

#[test]
fn logits_are_those_of_pytorchs_fake_quantisation() {
    for_each(|name, spec, network, golden| {
        let features = tensor(golden, "features");
        let logits = network.forward(&features, Mode::Evaluation).unwrap();
        assert_near(name, &logits, &golden["logits"]);
        let plain = Network::from_checkpoint(spec, &part(golden, "initial."), Device::Cpu).unwrap();
        let plain = plain.forward(&features, Mode::Evaluation).unwrap();
        let moved = (plain - logits).abs().max().double_value(&[]);
        assert!(moved > 1e-3, "{name} does not round: {moved}");
    });
}

#[test]
fn gradients_go_straight_through_as_pytorchs_do() {
    for_each(|name, spec, network, golden| {
        let mask = tensor(golden, "mask");
        let mode = Mode::Training { mask: Some(&mask) };
        let logits = network.forward(&tensor(golden, "features"), mode).unwrap();
        let loss = logits.cross_entropy_for_logits(&tensor(golden, "labels").to_kind(tch::Kind::Int64));
        assert_near(&format!("{name}: loss"), &loss, &golden["loss"]);
        assert_gradients_near(name, spec, network, &loss, golden);
    });
}

#[test]
fn too_few_ranges_are_refused() {
    let spec = example(0).job.model;
    let network = Network::fresh(&spec, 1, Device::Cpu).unwrap();
    let ranges = vec![Range { min: -1.0, max: 1.0 }; spec.scales().unwrap() - 1];
    assert!(matches!(network.rounding(&spec, &ranges), Err(NetworkError::Ranges)));
}

/// Keeps what a run has come to after every epoch.
#[derive(Default)]
struct Keeper {
    losses: Vec<f64>,
    int8: Vec<Option<f64>>,
    kept: Vec<Midway>,
}

impl Observer for &mut Keeper {
    fn wants_midway(&mut self, _: u32) -> bool {
        true
    }

    fn epoch(&mut self, epoch: earshot_common::job::Epoch, midway: Option<Midway>) {
        self.losses.push(epoch.loss);
        self.int8.push(epoch.int8_accuracy);
        self.kept.extend(midway);
    }
}

fn train(example: &Example, start: Start<'_>) -> (Keeper, Trained) {
    tch::set_num_threads(1);
    let mut keeper = Keeper::default();
    let (features, control) = (example.features(), Control::default());
    let processor = Processor::Cpu(Precision::F32);
    let trained = training::train(&example.job, &features, start, processor, &control, &mut keeper);
    (keeper, trained.unwrap())
}

#[test]
fn a_job_with_ranges_rounds_and_goes_on_from_any_epoch() {
    let mut example = example(5);
    for block in &mut example.job.model.blocks {
        block.batch_norm = true;
    }
    example.job.recipe.epochs = 3;
    let (_, float) = train(&example, Start::Fresh);
    let scales = example.job.model.scales().unwrap();
    example.job.int8_ranges =
        (0..scales).map(|at| Range { min: if at == 0 { -2.0 } else { 0.0 }, max: 4.0 }).collect();
    example.job.recipe.epochs = 4;
    let start = Start::Weights(&float.checkpoint);
    let (whole, trained) = train(&example, start);
    assert!(whole.losses[3] < whole.losses[0], "it learns: {:?}", whole.losses);
    for (name, values) in &trained.checkpoint {
        let is_counted = name.contains("running") || name.starts_with("input");
        assert_eq!(float.checkpoint[name] == *values, is_counted, "{name}");
    }
    // Its logits are the rounding network's.
    let network = Network::of_job(&example.job, &trained.checkpoint, Device::Cpu).unwrap();
    let features = example.features();
    let logits = training::device::logits(&network, &features).unwrap();
    assert_eq!(trained.logits["logits"].values, logits);

    for (done, midway) in (1..).zip(&whole.kept) {
        let (rest, again) = train(&example, Start::Midway(midway));
        assert_eq!(rest.losses, whole.losses[done..], "after epoch {done}");
        assert_eq!(again.checkpoint, trained.checkpoint);
    }
}

#[test]
fn what_is_measured_in_int8_is_what_the_recorded_ranges_give() {
    let mut example = example(7);
    example.job.int8_accuracy = true;
    example.job.rungs = vec![2, 3];
    let (keeper, trained) = train(&example, Start::Fresh);
    let measured: Vec<u32> =
        (1..).zip(&keeper.int8).filter(|(_, int8)| int8.is_some()).map(|(epoch, _)| epoch).collect();
    assert_eq!(measured, [2, 3, 8], "at rungs and at the end");
    let ranges: Vec<Range> = trained.logits["int8.ranges"]
        .values
        .chunks(2)
        .map(|ends| Range { min: ends[0], max: ends[1] })
        .collect();
    let spec = &example.job.model;
    let network = Network::from_checkpoint(spec, &trained.checkpoint, Device::Cpu).unwrap();
    let network = network.rounding(spec, &ranges).unwrap();
    let features = example.features();
    let logits = training::device::logits(&network, &features).unwrap();
    assert_eq!(trained.logits["int8.logits"].values, logits);
    let labels = features.validation_labels();
    let accuracy = Confusion::from_logits(4, &logits, &labels).accuracy();
    assert_eq!(keeper.int8[7], Some(accuracy));
    assert!(accuracy > 0.5, "{accuracy}");
    // Asking for it changes nothing else.
    example.job.int8_accuracy = false;
    let (plain, other) = train(&example, Start::Fresh);
    assert_eq!((plain.losses, other.checkpoint), (keeper.losses, trained.checkpoint));
    assert_eq!(other.logits.len(), 1);
}
