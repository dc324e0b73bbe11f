//! What training does to small, separable features.

use std::thread;

use earshot_common::{
    ids::BlobId,
    job::{Epoch, Keep},
    metrics::Confusion,
    model::{AudioCnn, Input},
    tensors::{checkpoint_shapes, decode_checkpoint, encode},
};
use tch::{Device, Tensor};
use worker::{
    control::{Control, State},
    cpu::{self, Precision},
    device::Processor,
    network::{Network, fresh_weights},
    training::{
        self, Start, TrainError, Trained,
        device::DeviceLearner,
        evaluation::Evaluation,
        host::{HostLearner, logits},
        schedule::Schedule,
    },
};

use crate::jobs::{CLASSES, Example, FRAMES, example};

fn trained(example: &Example) -> (Vec<Epoch>, Trained) {
    let (epochs, trained) = example.train();
    (epochs, trained.unwrap())
}

#[test]
fn the_built_network_has_as_many_parameters_as_the_spec_counts() {
    for spec in [AudioCnn::reference(13, 431, 50), example(0).job.model] {
        let values = Network::fresh(&spec, 1, Device::Cpu).unwrap().values().unwrap();
        let numbers: usize = values.values().map(|tensor| tensor.values.len()).sum();
        assert_eq!(numbers as u64, spec.cost().unwrap().params);
        for (name, shape) in checkpoint_shapes(&spec).unwrap().iter().skip(2) {
            assert_eq!(&values[name].shape, shape, "{name}");
        }
    }
}

#[test]
fn fresh_weights_are_pytorchs_by_default() {
    let spec = AudioCnn::reference(13, 431, 50);
    let values = Network::fresh(&spec, 1, Device::Cpu).unwrap().values().unwrap();
    for (name, fan_in) in [("blocks.0.weight", 9.0), ("blocks.1.bias", 144.0), ("head.fc.weight", 10_272.0)] {
        let bound = 1.0 / f32::sqrt(fan_in);
        let largest = values[name].values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        assert!(largest <= bound && largest > 0.8 * bound, "{name}: {largest} of {bound}");
    }
}

#[test]
fn separable_features_are_learned() {
    let (epochs, trained) = trained(&example(1));
    assert_eq!(epochs.iter().map(|epoch| epoch.epoch).collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
    assert!(trained.best.accuracy > 0.9, "{:?}", trained.best);
    assert!(trained.best.macro_f1 > 0.9 && trained.best.train_loss < epochs[0].train_loss);
}

#[test]
fn the_best_epochs_weights_and_logits_are_left() {
    let mut example = example(2);
    // Large steps, so that the validation loss goes up and down.
    example.job.recipe.learning_rate = 1e-1;
    example.job.recipe.epochs = 12;
    let (epochs, trained) = trained(&example);
    let lowest = epochs.iter().map(|epoch| epoch.loss).fold(f64::INFINITY, f64::min);
    let first = epochs.iter().find(|epoch| epoch.loss <= lowest).unwrap();
    assert_eq!(trained.best, *first);
    assert!(trained.best.epoch < 12, "the fault did not fire: the last epoch was the best");

    let bytes = encode(&trained.checkpoint).unwrap();
    let checkpoint = decode_checkpoint(&bytes, &example.job.model).unwrap();
    let mut network = cpu::Network::new(&example.job.model, &checkpoint, Precision::F32).unwrap();
    let features = example.features();
    let labels = features.validation_labels();
    let again = Evaluation::new(logits(&mut network, &features), &labels);
    let logits = &trained.logits["logits"];
    assert_eq!(logits.shape, [labels.len(), CLASSES]);
    assert_eq!(again.logits, logits.values);
    assert!((again.loss - trained.best.loss).abs() < 1e-12);
    let accuracy = Confusion::from_logits(CLASSES, &logits.values, &labels).accuracy();
    assert!((accuracy - trained.best.accuracy).abs() < 1e-12);
    assert_eq!(checkpoint["input.mean"].values, features.input().mean);
}

#[test]
fn the_last_epochs_weights_are_left_where_the_recipe_keeps_them() {
    let mut example = example(2);
    example.job.recipe.learning_rate = 1e-1;
    example.job.recipe.epochs = 12;
    let (epochs, best) = trained(&example);
    example.job.recipe.keep = Keep::Last;
    let (again, last) = trained(&example);
    assert_eq!((&again, Some(&last.best)), (&epochs, epochs.last()));
    assert!(best.best.epoch < 12, "the fault did not fire: the last epoch was the best");
    assert_ne!(last.checkpoint, best.checkpoint);
    let mut network = cpu::Network::new(&example.job.model, &last.checkpoint, Precision::F32).unwrap();
    assert_eq!(logits(&mut network, &example.features()), last.logits["logits"].values);
}

#[test]
fn training_stops_when_patience_runs_out() {
    let mut example = example(3);
    example.job.recipe.learning_rate = 3e-2;
    example.job.recipe.epochs = 60;
    example.job.recipe.patience = Some(2);
    let (epochs, trained) = trained(&example);
    assert!(epochs.len() < 60);
    assert_eq!(epochs.len() as u32, trained.best.epoch + 2);
}

#[test]
fn the_same_job_gives_the_same_bits_whatever_the_other_slots_do() {
    let alone = trained(&example(7));
    let (first, second) = thread::scope(|scope| {
        let others: Vec<_> = (20..23).map(|seed| scope.spawn(move || example(seed).train())).collect();
        let first = scope.spawn(|| trained(&example(7)));
        let second = scope.spawn(|| trained(&example(7)));
        for other in others {
            other.join().unwrap().1.unwrap();
        }
        (first.join().unwrap(), second.join().unwrap())
    });
    for (epochs, trained) in [&first, &second] {
        assert_eq!(*epochs, alone.0);
        assert_eq!(encode(&trained.checkpoint).unwrap(), encode(&alone.1.checkpoint).unwrap());
        assert_eq!(trained.logits, alone.1.logits);
    }
    assert_ne!(trained(&example(8)).0, alone.0);
}

#[test]
fn an_epoch_without_dropout_is_the_same_on_the_cpu_and_in_libtorch() {
    let mut example = example(10);
    example.job.model.head.dropout = 0.0;
    let features = example.features();
    let weights = fresh_weights(&example.job.model, 1).unwrap();
    let mut host = HostLearner::new(&example.job, &features, &weights, Precision::F32).unwrap();
    let mut device = DeviceLearner::new(&example.job, &features, &weights, Device::Cpu).unwrap();
    host.batches().shuffle();
    device.batches().shuffle();
    let schedule = Schedule::new(&example.job.recipe, host.batches().count());
    let mut total = 0.0;
    for index in 0..host.batches().count() {
        let pace = schedule.pace(index as u64);
        total += host.step(index, pace);
        device.step(index, pace).unwrap();
    }
    let expected = device.take_total().unwrap();
    assert!((total / expected - 1.0).abs() < 1e-5, "{total} {expected}");
    for (ours, theirs) in host.logits().iter().zip(device.logits().unwrap()) {
        assert!((ours - theirs).abs() < 1e-4, "{ours} {theirs}");
    }
}

#[test]
fn weights_that_grow_without_bound_are_called_diverged() {
    let mut example = example(4);
    example.job.recipe.learning_rate = 1e20;
    let (_, trained) = example.train();
    assert!(matches!(trained, Err(TrainError::Diverged { epoch: 1.. })), "{trained:?}");
}

#[test]
fn training_goes_on_from_a_checkpoint() {
    let mut example = example(5);
    let (_, first) = trained(&example);
    example.job.recipe.epochs = 1;
    example.job.recipe.learning_rate = 1e-6;
    let control = Control::default();
    let again = training::train(
        &example.job,
        &example.features(),
        Start::Weights(&first.checkpoint),
        Processor::Cpu(Precision::F32),
        &control,
        |_| {},
    );
    assert!((again.unwrap().best.loss - first.best.loss).abs() < 1e-3);
}

#[test]
fn a_stop_keeps_what_there_is_and_a_drain_nothing() {
    let example = example(6);
    let run = |state| {
        let control = Control::default();
        let mut epochs = 0;
        let trained = training::train(
            &example.job,
            &example.features(),
            Start::Fresh,
            Processor::Cpu(Precision::F32),
            &control,
            |epoch: Epoch| {
                epochs += 1;
                if epoch.epoch == 3 {
                    control.advance(state);
                }
            },
        );
        (epochs, trained)
    };
    let (epochs, stopped) = run(State::Stopping);
    assert_eq!(epochs, 3);
    assert!(stopped.unwrap().best.epoch <= 3);
    for state in [State::Draining, State::Revoked] {
        let (epochs, trained) = run(state);
        assert_eq!(epochs, 3);
        assert!(matches!(trained, Err(TrainError::Halted)));
    }
}

#[test]
fn the_input_is_standardised_by_the_training_clips_alone() {
    for input in [Input::Mfcc, Input::Mel] {
        let mut example = example(9);
        example.job.model.input = input;
        let features = example.features();
        // Of every row over the training clips: mean 0, deviation 1.
        let train = features.matrix().unwrap().index_select(0, &Tensor::from_slice(features.train()));
        let (mean, std) =
            (train.mean_dim([0, 2].as_slice(), false, None), train.std_dim([0, 2].as_slice(), false, false));
        assert!(mean.abs().max().double_value(&[]) < 1e-4, "{input:?}: {mean:?}");
        assert!((std - 1.0).abs().max().double_value(&[]) < 1e-4, "{input:?}");

        // Clips that validate change nothing in what the others are standardised by.
        let stats = features.input().clone();
        let frames = example.shards[0].frames;
        for row in example.split.validation.iter().filter(|&&row| row < 40) {
            let clip = *row as usize * 10 * frames;
            example.shards[0].features[clip..clip + 10 * frames].fill(1e4);
        }
        example.job.shards[0] = BlobId::of(&example.shards[0].write().unwrap());
        assert_eq!(*example.features().input(), stats, "{input:?}");
    }
}

#[test]
fn mel_bands_are_the_inverse_dct_of_the_coefficients() {
    let mut example = example(9);
    let row = example.split.train[3] as usize;
    let clip = 10 * example.shards[0].frames;
    let frame = |coefficient: usize| example.shards[0].features[row * clip + coefficient * FRAMES + 5];
    // The first band of an eight-point orthonormal inverse, by its definition.
    let expected: f64 = (0..8)
        .map(|k| {
            let scale = if k == 0 { (1.0 / 8.0_f64).sqrt() } else { 0.5 };
            scale * f64::from(frame(k)) * (std::f64::consts::PI * k as f64 / 16.0).cos()
        })
        .sum();
    example.job.model.input = Input::Mel;
    let features = example.features();
    let stats = features.input();
    let found = features.matrix().unwrap().double_value(&[row as i64, 0, 5]) * f64::from(stats.std[0])
        + f64::from(stats.mean[0]);
    assert!((found - expected).abs() < 1e-3, "{found} is not {expected}");
}
