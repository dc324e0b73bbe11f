//! Schedules, optimisers, losses and augmentation agree with PyTorch and with their definitions. `tests/golden/recipes.py` made
//! the numbers.

use earshot_common::{
    job::{FeatureAugmentation, LrScheduler, Optimizer, Recipe},
    model::Input,
    sweep::prune::Distil,
    tensors::{self, Tensors},
};
use tch::{Device, Kind, Tensor};
use worker::{
    cpu::{self, Precision, Targets},
    features::InputStats,
    network::Network,
    training::{
        augmentation::{Augmenter, Draw, Mix, Span},
        batches::{Batches, Script},
        device::{Batch, DeviceBatches, step},
        drawn::Drawn,
        optimiser::{Adam, Rule},
        schedule::Schedule,
        transform::Transform,
    },
};

use crate::{
    golden::{assert_near, part, tensor},
    jobs::{CLASSES, example},
};

const SCHEDULERS: [(&str, LrScheduler); 3] = [
    ("constant", LrScheduler::Constant),
    ("cosine", LrScheduler::Cosine),
    ("one_cycle", LrScheduler::OneCycle),
];

fn golden(prefix: &str) -> Tensors {
    part(&tensors::decode(include_bytes!("../golden/recipes.safetensors")).unwrap(), prefix)
}

fn recipe(lr_scheduler: LrScheduler, epochs: u32) -> Recipe {
    Recipe { lr_scheduler, ..Recipe::plain(5e-3, 8, epochs, 1) }
}

#[test]
fn every_step_has_pytorchs_pace() {
    for (name, scheduler) in SCHEDULERS {
        for (steps, epochs, steps_of_epoch) in [(23, 23, 1), (3, 1, 3)] {
            let schedule = Schedule::new(&recipe(scheduler, epochs), steps_of_epoch);
            let expected = &golden("paces/")[&format!("{name}/{steps}")];
            for (step, row) in expected.values.chunks_exact(2).enumerate() {
                let pace = schedule.pace(step as u64);
                assert!(
                    (pace.learning_rate - f64::from(row[0])).abs() < 1e-9,
                    "{name} {step}: {pace:?} {row:?}"
                );
                assert!((pace.beta_1 - f64::from(row[1])).abs() < 1e-6, "{name} {step}: {pace:?} {row:?}");
            }
        }
    }
}

fn mix() -> Mix {
    Mix { lambda: 0.3, partners: vec![3, 0, 2, 1, 7, 4, 5, 6] }
}

/// Ten steps on blended clips and smoothed targets, on the CPU.
fn check_steps(name: &str, optimizer: Optimizer, schedule: (&str, LrScheduler)) {
    let golden = golden(&format!("{name}/{}/", schedule.0));
    let recipe = Recipe { optimizer, weight_decay: 0.05, label_smoothing: 0.1, ..recipe(schedule.1, 10) };
    let spec = example(0).job.model;
    let mut network = cpu::Network::new(&spec, &part(&golden, "initial."), Precision::F32).unwrap();
    let (mut rule, paces) = (Rule::new(&recipe), Schedule::new(&recipe, 1));
    let mut features = golden["features"].values.clone();
    let labels = &golden["labels"].values;
    let mut probabilities: Vec<f32> =
        labels.iter().flat_map(|&label| (0..CLASSES).map(move |c| f32::from(c == label as usize))).collect();
    mix().blend(&mut features, &mut vec![]);
    mix().blend(&mut probabilities, &mut vec![]);
    let targets = Targets::Probabilities(&probabilities);
    let batch = cpu::Batch { features: &features, targets, mask: None, taught: None };
    let losses: Vec<f64> =
        (0..10).map(|s| network.step(batch, rule.next(paces.pace(s)), recipe.label_smoothing)).collect();
    let losses = Tensor::from_slice(&losses).to_kind(Kind::Float);
    assert_near(&format!("{name}: losses"), &losses, &golden["losses"]);
    let values = network.values();
    for (tensor, expected) in part(&golden, "final.") {
        assert_near(&format!("{name}: {tensor}"), &Tensor::from_slice(&values[&tensor].values), &expected);
    }
}

/// The same in libtorch.
fn check_device_steps(name: &str, optimizer: Optimizer, schedule: (&str, LrScheduler)) {
    let golden = golden(&format!("{name}/{}/", schedule.0));
    let recipe = Recipe { optimizer, weight_decay: 0.05, label_smoothing: 0.1, ..recipe(schedule.1, 10) };
    let spec = example(0).job.model;
    let network = Network::from_checkpoint(&spec, &part(&golden, "initial."), Device::Cpu).unwrap();
    let mut adam = Adam::new(&network.parameters(), &recipe).unwrap();
    let paces = Schedule::new(&recipe, 1);
    let classes = tensor(&golden, "labels").to_kind(Kind::Int64).one_hot(CLASSES as i64).to_kind(Kind::Float);
    let script = Script { mixes: vec![mix()], ..Script::default() };
    let drawn = Drawn::new(&[((0..8).collect(), script)], 8, Device::Cpu).unwrap();
    let blend =
        |batch: &Tensor| drawn.blend.as_ref().unwrap().apply(&batch.unsqueeze(1)).unwrap().squeeze_dim(1);
    let batch = Batch {
        features: blend(&tensor(&golden, "features")),
        targets: blend(&classes),
        mask: None,
        taught: None,
    };
    let losses: Vec<Tensor> = (0..10)
        .map(|s| step(&network, &mut adam, &batch, paces.pace(s), recipe.label_smoothing).unwrap())
        .collect();
    assert_near(&format!("{name}: losses"), &Tensor::stack(&losses, 0), &golden["losses"]);
    let values = network.values().unwrap();
    for (tensor, expected) in part(&golden, "final.") {
        assert_near(&format!("{name}: {tensor}"), &Tensor::from_slice(&values[&tensor].values), &expected);
    }
}

#[test]
fn weight_decay_mixup_and_smoothing_step_as_in_pytorch() {
    for schedule in [SCHEDULERS[0], SCHEDULERS[2]] {
        check_steps("adam", Optimizer::Adam, schedule);
        check_steps("adamw", Optimizer::AdamW, schedule);
        check_device_steps("adam", Optimizer::Adam, schedule);
        check_device_steps("adamw", Optimizer::AdamW, schedule);
    }
}

fn no_draw() -> Draw {
    Draw { gain: 0.0, roll: 0, time_masks: vec![], freq_masks: vec![] }
}

#[test]
fn augmentation_does_to_standardised_features_what_its_definition_does_to_raw_ones() {
    let draws = [
        ("gain", Draw { gain: 12.5, ..no_draw() }),
        ("roll", Draw { roll: 5, ..no_draw() }),
        ("roll_back", Draw { roll: -7, ..no_draw() }),
        ("freq_mask", Draw { freq_masks: vec![Span { start: 2, width: 3 }], ..no_draw() }),
        ("time_mask", Draw { time_masks: vec![Span { start: 4, width: 6 }], ..no_draw() }),
        // Overlapping masks, and one of no width, are one mask.
        (
            "freq_mask",
            Draw { freq_masks: vec![Span { start: 2, width: 2 }, Span { start: 3, width: 2 }], ..no_draw() },
        ),
        (
            "time_mask",
            Draw { time_masks: vec![Span { start: 4, width: 6 }, Span { start: 24, width: 0 }], ..no_draw() },
        ),
    ];
    for (kind, input) in [("mfcc", Input::Mfcc), ("mel", Input::Mel)] {
        let golden = golden(&format!("augmented/{kind}/"));
        let stats = InputStats { mean: golden["mean"].values.clone(), std: golden["std"].values.clone() };
        let mut job = example(1).job;
        job.model.input = input;
        let augmenter = Augmenter::new(&job, &stats);
        let transform = Transform::new([&augmenter].into_iter(), Device::Cpu).unwrap();
        // All of them at once on the device, each for a clip of its own.
        let all: Vec<Draw> = draws.iter().map(|(_, draw)| draw.clone()).collect();
        let script = Script { draws: all, ..Script::default() };
        let drawn = Drawn::new(&[((0..7).collect(), script)], 7, Device::Cpu).unwrap();
        let clips = Tensor::stack(&[(); 7].map(|()| tensor(&golden, "clip")), 0).unsqueeze(1);
        let clips = transform.apply(clips, &drawn).unwrap();
        for (place, (name, draw)) in draws.iter().enumerate() {
            assert_near(&format!("{kind}: {name}"), &clips.get(place as i64).get(0), &golden[*name]);
            let mut clip = golden["clip"].values.clone();
            augmenter.apply(&mut clip, draw);
            assert_near(&format!("{kind}: {name}"), &Tensor::from_slice(&clip), &golden[*name]);
        }
    }
}

fn augmented(augmentation: FeatureAugmentation) -> crate::jobs::Example {
    let mut example = example(31);
    example.job.recipe.augmentation = augmentation;
    example
}

#[test]
fn draws_cover_their_ranges_and_no_more() {
    let augmentation = FeatureAugmentation {
        gain: 3.0,
        roll: 0.25,
        time_masks: 2,
        time_mask_param: 5,
        freq_masks: 1,
        freq_mask_param: 8,
        mixup_alpha: 0.0,
    };
    let example = augmented(augmentation);
    let mut augmenter = Augmenter::new(&example.job, example.features().input());
    assert!(augmenter.is_active() && augmenter.mix(8).is_none());
    let draws: Vec<Draw> = (0..2000).map(|_| augmenter.draw()).collect();
    let extent =
        |values: Vec<i64>| (values.iter().min().copied().unwrap(), values.iter().max().copied().unwrap());
    let spans = |of: fn(&Draw) -> &Vec<Span>| draws.iter().flat_map(of).copied().collect::<Vec<_>>();
    // A quarter of 24 frames.
    assert_eq!(extent(draws.iter().map(|draw| draw.roll).collect()), (-6, 6));
    for (spans, per_clip, param, size) in
        [(spans(|draw| &draw.time_masks), 2, 5, 24), (spans(|draw| &draw.freq_masks), 1, 8, 8)]
    {
        assert_eq!(spans.len(), per_clip * draws.len());
        assert_eq!(extent(spans.iter().map(|span| span.width).collect()), (0, param));
        assert_eq!(extent(spans.iter().map(|span| span.start).collect()).0, 0);
        assert_eq!(extent(spans.iter().map(|span| span.start + span.width).collect()).1, size);
    }
    assert!(draws.iter().all(|draw| draw.gain.abs() <= 3.0));
    assert!(draws.iter().any(|draw| draw.gain > 2.9) && draws.iter().any(|draw| draw.gain < -2.9));
}

#[test]
fn augmentation_leaves_the_resident_features_and_validation_alone() {
    let augmentation = FeatureAugmentation {
        roll: 0.5,
        time_masks: 1,
        time_mask_param: 8,
        mixup_alpha: 0.4,
        ..Default::default()
    };
    let example = augmented(augmentation);
    let features = example.features();
    let everything: Vec<i64> = (0..features.classes().len() as i64).collect();
    let (mut before, mut after) = (Vec::new(), Vec::new());
    features.gather(&everything, &mut before);
    let mut batches = Batches::new(&example.job, &features, 5);
    batches.shuffle();
    let batch = batches.get(0);
    let Targets::Probabilities(probabilities) = batch.targets else {
        panic!("mixup leaves no classes");
    };
    assert_eq!((probabilities.len(), batch.mask.map(<[f32]>::len)), (16 * CLASSES, Some(16 * 5)));
    for line in probabilities.chunks(CLASSES) {
        assert!((line.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{line:?}");
    }
    features.gather(&everything, &mut after);
    assert_eq!(before, after);
}

#[test]
fn batches_are_the_same_on_the_cpu_and_in_libtorch() {
    let augmentation = FeatureAugmentation {
        gain: 2.0,
        roll: 0.5,
        time_masks: 2,
        time_mask_param: 4,
        freq_masks: 2,
        freq_mask_param: 2,
        mixup_alpha: 0.2,
    };
    for augmentation in [augmentation, FeatureAugmentation::default()] {
        let example = augmented(augmentation);
        let rows = example.features().train().len();
        let values = (0..rows * CLASSES).map(|index| (index % 7) as f32).collect();
        let teacher = tensors::Tensor { shape: vec![rows, CLASSES], values };
        let distil = Distil { weight: 0.5, temperature: 2.0 };
        let features = example.features().taught_by(&teacher, distil, CLASSES as u32).unwrap();
        let network = Network::fresh(&example.job.model, 1, Device::Cpu).unwrap();
        let mut on_device = DeviceBatches::new(&example.job, &features, &network, Device::Cpu).unwrap();
        let mut batches = Batches::new(&example.job, &features, network.features() as usize);
        on_device.plan().shuffle();
        batches.shuffle();
        for index in 0..batches.count() {
            let (batch, tensors) = (batches.get(index), on_device.get(index).unwrap());
            let near = |what: &str, values: &[f32], tensor: &Tensor| {
                let shape = vec![values.len()];
                assert_near(what, tensor, &tensors::Tensor { shape, values: values.to_vec() });
            };
            near("features", batch.features, &tensors.features);
            near("mask", batch.mask.unwrap(), &tensors.mask.unwrap());
            near("taught", batch.taught.unwrap().probabilities, &tensors.taught.unwrap().0);
            match batch.targets {
                Targets::Probabilities(values) => near("targets", values, &tensors.targets),
                Targets::Classes(classes) => {
                    assert_eq!(classes, Vec::<i64>::try_from(tensors.targets).unwrap());
                }
            }
        }
    }
}

#[test]
fn an_augmented_run_is_its_seeds_and_a_plain_one_is_as_before() {
    let everything = FeatureAugmentation {
        gain: 2.0,
        roll: 0.5,
        time_masks: 2,
        time_mask_param: 4,
        freq_masks: 2,
        freq_mask_param: 2,
        mixup_alpha: 0.2,
    };
    let run = |augmentation| augmented(augmentation).train().0;
    assert_eq!(run(everything), run(everything));
    assert_ne!(run(everything), run(FeatureAugmentation::default()));
}
