//! Steps on targets that are in part a teacher's agree with PyTorch, in our own kernels and in libtorch. `tests/golden/distil.py` made the
//! numbers.

use earshot_common::{
    job::Recipe,
    sweep::prune::Distil,
    tensors::{self, Tensor as Values, Tensors},
};
use tch::{Device, Kind, Tensor};
use worker::{
    cpu::{self, Precision, Targets, Taught},
    network::Network,
    training::{
        augmentation::Mix,
        device::{Batch, step},
        lesson::Lesson,
        optimiser::{Adam, Rule},
        schedule::Schedule,
    },
};

use crate::{
    golden::{assert_near, part},
    jobs::{CLASSES, example},
};

const DISTIL: Distil = Distil { weight: 0.7, temperature: 3.0 };
const CLIPS: usize = 8;

/// What one case of the script steps on.
struct Case {
    golden: Tensors,
    features: Vec<f32>,
    probabilities: Vec<f32>,
    taught: Vec<f32>,
    label_smoothing: f64,
}

impl Case {
    fn new(name: &str) -> Self {
        let golden = tensors::decode(include_bytes!("../golden/distil.safetensors")).unwrap();
        let golden = part(&golden, &format!("{name}/"));
        let one_hot = |&label: &f32| (0..CLASSES).map(move |class| f32::from(class == label as usize));
        let mut probabilities: Vec<f32> = golden["labels"].values.iter().flat_map(one_hot).collect();
        let mut features = golden["features"].values.clone();
        let rows: Vec<i64> = (0..CLIPS as i64).collect();
        let mut taught = Vec::new();
        Lesson::new(&rows, &golden["teacher"], DISTIL).gather(&rows, &mut taught);
        let is_mixed = name == "mixed";
        if is_mixed {
            let mix = Mix { lambda: 0.3, partners: vec![3, 0, 2, 1, 7, 4, 5, 6] };
            for values in [&mut features, &mut probabilities, &mut taught] {
                mix.blend(values, &mut vec![]);
            }
        }
        Self { golden, features, probabilities, taught, label_smoothing: if is_mixed { 0.1 } else { 0.0 } }
    }

    fn check(&self, name: &str, losses: &Tensor, values: &Tensors) {
        assert_near(&format!("{name}: losses"), losses, &self.golden["losses"]);
        for (tensor, expected) in part(&self.golden, "final.") {
            let found = Tensor::from_slice(&values[&tensor].values);
            assert_near(&format!("{name}: {tensor}"), &found, &expected);
        }
    }
}

fn recipe() -> Recipe {
    Recipe::plain(5e-3, 8, 10, 1)
}

#[test]
fn our_kernels_learn_from_a_teacher_as_pytorch_does() {
    for name in ["plain", "mixed"] {
        let case = Case::new(name);
        let spec = example(0).job.model;
        let initial = part(&case.golden, "initial.");
        let mut network = cpu::Network::new(&spec, &initial, Precision::F32).unwrap();
        let (mut rule, paces) = (Rule::new(&recipe()), Schedule::new(&recipe(), 1));
        let batch = cpu::Batch {
            features: &case.features,
            targets: Targets::Probabilities(&case.probabilities),
            mask: None,
            taught: Some(Taught { probabilities: &case.taught, distil: DISTIL }),
        };
        let losses: Vec<f64> =
            (0..10).map(|s| network.step(batch, rule.next(paces.pace(s)), case.label_smoothing)).collect();
        case.check(name, &Tensor::from_slice(&losses).to_kind(Kind::Float), &network.values());
    }
}

#[test]
fn libtorch_learns_from_a_teacher_as_pytorch_does() {
    for name in ["plain", "mixed"] {
        let case = Case::new(name);
        let spec = example(0).job.model;
        let network = Network::from_checkpoint(&spec, &part(&case.golden, "initial."), Device::Cpu).unwrap();
        let mut adam = Adam::new(&network.parameters(), &recipe()).unwrap();
        let paces = Schedule::new(&recipe(), 1);
        let shape: Vec<i64> = case.golden["features"].shape.iter().map(|&extent| extent as i64).collect();
        let lines = |values: &[f32]| Tensor::from_slice(values).view([-1, CLASSES as i64]);
        let batch = Batch {
            features: Tensor::from_slice(&case.features).view(shape.as_slice()),
            targets: lines(&case.probabilities),
            mask: None,
            taught: Some((lines(&case.taught), DISTIL)),
        };
        let losses: Vec<Tensor> = (0..10)
            .map(|s| step(&network, &mut adam, &batch, paces.pace(s), case.label_smoothing).unwrap())
            .collect();
        case.check(name, &Tensor::stack(&losses, 0), &network.values().unwrap());
    }
}

#[test]
fn a_lesson_of_other_rows_is_refused() {
    let example = example(0);
    let features = example.features();
    let rows = features.train().len();
    let logits = Values { shape: vec![rows + 1, CLASSES], values: vec![0.0; (rows + 1) * CLASSES] };
    let error = features.taught_by(&logits, DISTIL, CLASSES as u32).unwrap_err().to_string();
    assert!(error.contains("the teacher's logits have shape"), "{error}");
}
