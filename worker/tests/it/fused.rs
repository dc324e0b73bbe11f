//! Fused training gives every member what it would come to alone: operator by operator, and run by run.

use earshot_common::{
    job::{Epoch, FeatureAugmentation, Keep, LrScheduler, Optimizer, Recipe},
    model::{Block, Convolution, Pooling, Reduction},
    tensors::Tensors,
};
use tch::{Device, Kind, Tensor};
use worker::{
    control::{Control, State},
    fused::{self, Company, Member, operations, optimiser::FusedAdam, stacked::Stacked},
    network::{Mode, Network, fresh_weights},
    training::{
        TrainError, Trained,
        device::DeviceLearner,
        evaluation::Evaluation,
        optimiser::{Adam, Rule},
        schedule::{Pace, Schedule},
    },
};

use crate::jobs::{Example, example};

/// Members of the operator tests.
const K: usize = 3;

/// Values that are the same each time.
fn values(seed: u64, shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let values = worker::randomness::Weights::new(seed).uniform(1.0, count);
    Tensor::from_slice(&values).view(shape)
}

fn each(seed: u64, shape: &[i64]) -> Vec<Tensor> {
    (0..K as u64).map(|member| values(100 * seed + member, shape).set_requires_grad(true)).collect()
}

#[track_caller]
fn near(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.size(), expected.size(), "{what}");
    let scale = expected.abs().max().double_value(&[]).max(1e-6);
    let off = (found - expected).abs().max().double_value(&[]);
    assert!(off <= 1e-5 * scale, "{what}: off by {off} of {scale}");
}

/// An input's members, and how they are stacked.
type Input = (Vec<Tensor>, fn(&[Tensor]) -> Tensor);

/// Whether `fused`, of the members' inputs put together by `stack`, and `alone`, of each one's, have the same values and gradients.
/// Each input's members are stacked and taken apart along a dimension of its own.
fn check(
    what: &str,
    inputs: &[Input],
    fused: impl Fn(&[Tensor]) -> Tensor,
    alone: impl Fn(&[&Tensor]) -> Tensor,
    apart: fn(&Tensor, usize) -> Tensor,
) {
    let stacked: Vec<Tensor> = inputs.iter().map(|(members, stack)| stack(members)).collect();
    let together = fused(&stacked);
    // Numbers of no symmetry, so that gradients cannot agree by chance.
    let by = values(999, &together.size());
    let leaves: Vec<&Tensor> = inputs.iter().flat_map(|(members, _)| members).collect();
    let found = Tensor::run_backward(&[(&together * &by).sum(Kind::Float)], &leaves, false, false);
    let mut gradients = found.iter();
    let mut alones = Vec::new();
    for member in 0..K {
        let own: Vec<&Tensor> = inputs.iter().map(|(members, _)| &members[member]).collect();
        let result = alone(&own);
        near(what, &apart(&together, member), &result);
        let loss = (&result * apart(&by, member)).sum(Kind::Float);
        alones.push(Tensor::run_backward(&[loss], &own, false, false));
    }
    for input in 0..inputs.len() {
        for (member, alone) in alones.iter().enumerate() {
            near(&format!("{what}: gradient {input} of {member}"), gradients.next().unwrap(), &alone[input]);
        }
    }
}

/// `(clips, channels, rows, columns)` of each, side by side as channels.
fn channels(members: &[Tensor]) -> Tensor {
    Tensor::cat(members, 1)
}

fn lines(members: &[Tensor]) -> Tensor {
    Tensor::cat(members, 0)
}

fn stack(members: &[Tensor]) -> Tensor {
    Tensor::stack(members, 0)
}

fn channels_of(maps: &Tensor, member: usize) -> Tensor {
    maps.chunk(K as i64, 1).swap_remove(member)
}

fn one_of(stack: &Tensor, member: usize) -> Tensor {
    stack.get(member as i64)
}

#[test]
fn convolutions_pooling_and_norm_of_more_channels_are_the_members_own() {
    for (kernel, groups) in [(3, 1), (5, 1), (3, 4), (1, 1)] {
        let weight = each(2, &[6 - 2 * i64::from(groups > 1), 4 / groups, kernel, kernel]);
        let filters = weight[0].size()[0];
        check(
            &format!("convolution {kernel} in {groups} groups"),
            &[(each(1, &[2, 4, 7, 9]), channels), (weight, lines), (each(3, &[filters]), lines)],
            |x| x[0].conv2d(&x[1], Some(&x[2]), 1, kernel / 2, 1, groups * K as i64),
            |x| x[0].conv2d(x[1], Some(x[2]), 1, kernel / 2, 1, groups),
            channels_of,
        );
    }
    let maps = || (each(1, &[3, 4, 7, 9]), channels as fn(&[Tensor]) -> Tensor);
    check(
        "max pooling",
        &[maps()],
        |x| x[0].max_pool2d(2, 2, 0, 1, false),
        |x| x[0].max_pool2d(2, 2, 0, 1, false),
        channels_of,
    );
    let mean = |x: &Tensor| x.avg_pool2d(2, 2, 0, false, true, None);
    check("mean pooling", &[maps()], |x| mean(&x[0]), |x| mean(x[0]), channels_of);
    for train in [true, false] {
        let norm = |x: &Tensor, w: &Tensor, b: &Tensor| {
            let channels = w.size();
            let (mean, var) = (
                Tensor::zeros(&channels, (Kind::Float, Device::Cpu)),
                Tensor::ones(&channels, (Kind::Float, Device::Cpu)),
            );
            x.batch_norm(Some(w), Some(b), Some(&mean), Some(&var), train, 0.1, 1e-5, true)
        };
        check(
            "batch norm",
            &[maps(), (each(4, &[4]), lines), (each(5, &[4]), lines)],
            |x| norm(&x[0], &x[1], &x[2]),
            |x| norm(x[0], x[1], x[2]),
            channels_of,
        );
    }
}

#[test]
fn reductions_linear_layers_and_losses_are_the_members_own() {
    for reduction in [Reduction::Flatten, Reduction::Mean, Reduction::MeanMax] {
        let mean = |x: &Tensor| x.mean_dim([2_i64, 3].as_slice(), false, None);
        check(
            &format!("{reduction:?}"),
            &[(each(1, &[5, 4, 3, 6]), channels)],
            |x| operations::reduce(&x[0], reduction, K as i64).unwrap(),
            |x| match reduction {
                Reduction::Flatten => x[0].flatten(1, -1),
                Reduction::Mean => mean(x[0]),
                Reduction::MeanMax => Tensor::cat(&[mean(x[0]), x[0].amax([2, 3], false)], 1),
            },
            one_of,
        );
    }
    check(
        "linear",
        &[(each(1, &[5, 7]), stack), (each(2, &[4, 7]), stack), (each(3, &[4]), lines)],
        |x| operations::linear(&x[0], &x[1], &x[2]).unwrap(),
        |x| x[0].linear(x[1], Some(x[2])),
        one_of,
    );
    let targets: Vec<Tensor> =
        (0..K as u64).map(|member| values(70 + member, &[5, 4]).softmax(1, None)).collect();
    let smoothing = [0.0, 0.1, 0.4];
    for (member, logits) in each(6, &[5, 4]).iter().enumerate() {
        // The member in its place, others around it.
        let mut all = each(7, &[5, 4]);
        all[member] = logits.shallow_clone();
        let found = operations::losses(
            &stack(&all),
            &Tensor::stack(&targets, 1),
            &Tensor::from_slice(&smoothing.map(|s| s as f32)),
        )
        .unwrap();
        let alone = logits.cross_entropy_loss::<Tensor>(
            &targets[member],
            None,
            tch::Reduction::Mean,
            -100,
            smoothing[member],
        );
        near("loss", &found.get(member as i64), &alone);
        let gradient = |loss: Tensor| Tensor::run_backward(&[loss], &[logits], false, false).swap_remove(0);
        near("gradient of the loss", &gradient(found.sum(Kind::Float)), &gradient(alone));
    }
}

#[test]
fn steps_of_adam_and_adamw_are_the_members_own() {
    let shapes = [("a".to_owned(), vec![4_usize, 3]), ("b".to_owned(), vec![5])];
    let recipes = [
        Recipe { weight_decay: 0.05, ..Recipe::plain(1e-2, 1, 1, 0) },
        Recipe { weight_decay: 0.1, optimizer: Optimizer::AdamW, ..Recipe::plain(1e-3, 1, 1, 0) },
        Recipe::plain(5e-2, 1, 1, 0),
    ];
    let start: Vec<Tensors> = (0..K as u64)
        .map(|member| {
            let tensor = |(name, shape): &(String, Vec<usize>)| {
                let values = worker::randomness::Weights::new(member).uniform(1.0, shape.iter().product());
                (name.clone(), earshot_common::tensors::Tensor { shape: shape.clone(), values })
            };
            shapes.iter().map(tensor).collect()
        })
        .collect();
    let fused = Stacked::new(shapes.iter().cloned(), &start.iter().collect::<Vec<_>>(), Device::Cpu).unwrap();
    let mut adam = FusedAdam::new(&fused, recipes.iter().map(Rule::new).collect()).unwrap();
    let mut alone: Vec<(Vec<Tensor>, Adam)> = start
        .iter()
        .zip(&recipes)
        .map(|(start, recipe)| {
            let tensors: Vec<Tensor> =
                start.values().map(|tensor| Tensor::from_slice(&tensor.values)).collect();
            let adam = Adam::new(&tensors.iter().collect::<Vec<_>>(), recipe).unwrap();
            (tensors, adam)
        })
        .collect();
    let pace = |step: usize, member: usize| Pace {
        learning_rate: recipes[member].learning_rate * (1.0 + step as f64),
        beta_1: 0.9 - 0.01 * (step + member) as f64,
    };
    let paces: Vec<Vec<Pace>> =
        (0..6).map(|step| (0..K).map(|member| pace(step, member)).collect()).collect();
    adam.plan(&paces, Device::Cpu).unwrap();
    for (step, paces) in paces.iter().enumerate() {
        let gradient = |member: usize, tensor: usize| {
            values((10 * step + member) as u64 * 7 + tensor as u64, &[[12, 5][tensor]])
        };
        let fused_gradients: Vec<Tensor> = (0..2)
            .map(|tensor| lines(&(0..K).map(|member| gradient(member, tensor)).collect::<Vec<_>>()))
            .collect();
        adam.step(&fused, &fused_gradients, step).unwrap();
        for (member, (_, adam)) in alone.iter_mut().enumerate() {
            adam.step(&[gradient(member, 0), gradient(member, 1)], paces[member]).unwrap();
        }
        for (member, (tensors, _)) in alone.iter().enumerate() {
            for (found, expected) in fused.member(member).unwrap().values().zip(tensors) {
                near(&format!("step {step} of {member}"), &Tensor::from_slice(&found.values), expected);
            }
        }
    }
}

/// Epochs and results by member.
struct Kept(Vec<Told>);

type Told = (Vec<Epoch>, Option<Result<Trained, TrainError>>);

impl Company for Kept {
    fn epoch(&mut self, member: usize, epoch: Epoch) {
        self.0[member].0.push(epoch);
    }

    fn ended(&mut self, member: usize, result: Result<Trained, TrainError>) {
        assert!(self.0[member].1.replace(result).is_none(), "{member} ended twice");
    }
}

fn train(examples: &[&Example]) -> Vec<(Vec<Epoch>, Result<Trained, TrainError>)> {
    tch::set_num_threads(1);
    let features: Vec<_> = examples.iter().map(|example| example.features()).collect();
    let control = Control::default();
    let members: Vec<Member<'_>> = examples
        .iter()
        .zip(&features)
        .map(|(example, features)| Member { job: &example.job, features, weights: None, control: &control })
        .collect();
    let mut kept = Kept(examples.iter().map(|_| (Vec::new(), None)).collect());
    fused::train(&members, Device::Cpu, &mut kept).unwrap();
    kept.0.into_iter().map(|(epochs, result)| (epochs, result.unwrap())).collect()
}

/// The same run alone, in libtorch: every epoch, then the best one's weights.
fn alone(example: &Example) -> (Vec<Epoch>, Tensors) {
    let (job, features) = (&example.job, example.features());
    let weights = fresh_weights(&job.model, job.recipe.seed).unwrap();
    let mut learner = DeviceLearner::new(job, &features, &weights, Device::Cpu).unwrap();
    let (count, rows) = (learner.batches().count(), learner.batches().rows());
    let schedule = Schedule::new(&job.recipe, count);
    let labels = features.validation_labels();
    let mut epochs: Vec<Epoch> = Vec::new();
    let mut best: Option<(Epoch, Tensors)> = None;
    for epoch in 1..=job.recipe.epochs {
        learner.batches().shuffle();
        for index in 0..count {
            learner
                .step(index, schedule.pace((epoch as usize - 1) as u64 * count as u64 + index as u64))
                .unwrap();
        }
        let train_loss = learner.take_total().unwrap() / rows as f64;
        let evaluation = Evaluation::new(learner.logits().unwrap(), &labels);
        let accuracy = evaluation.confusion.accuracy();
        let epoch = Epoch {
            epoch,
            train_loss,
            loss: evaluation.loss,
            accuracy,
            macro_f1: evaluation.confusion.macro_f1(),
            int8_accuracy: None,
        };
        epochs.push(epoch);
        if job.recipe.keep == Keep::Last || best.as_ref().is_none_or(|(best, _)| epoch.loss < best.loss) {
            best = Some((epoch, learner.values().unwrap()));
        }
        let waited = epoch.epoch - best.as_ref().unwrap().0.epoch;
        if job.recipe.patience.is_some_and(|patience| waited >= patience) {
            break;
        }
    }
    (epochs, best.unwrap().1)
}

#[track_caller]
fn check_run(what: &str, (epochs, result): &(Vec<Epoch>, Result<Trained, TrainError>), example: &Example) {
    let (expected, weights) = alone(example);
    assert_eq!(epochs.len(), expected.len(), "{what}: {epochs:?}\n{expected:?}");
    for (found, expected) in epochs.iter().zip(&expected) {
        for (found, expected) in [(found.train_loss, expected.train_loss), (found.loss, expected.loss)] {
            assert!((found / expected - 1.0).abs() < 1e-3, "{what}: {found} is not {expected}");
        }
    }
    let trained = result.as_ref().unwrap();
    assert_eq!(trained.checkpoint.len(), weights.len() + 2);
    // The loss does not see the scale of weights before a batch norm, so Adam makes whole steps there of what is rounding.
    let has_norm = example.job.model.blocks.iter().any(|block| block.batch_norm);
    let tolerance = if has_norm { 2e-2 } else { 2e-3 };
    for (name, expected) in &weights {
        let found = &trained.checkpoint[name];
        assert_eq!(found.shape, expected.shape, "{what}: {name}");
        for (found, expected) in found.values.iter().zip(&expected.values) {
            assert!((found - expected).abs() < tolerance, "{what}: {name}: {found} is not {expected}");
        }
    }
    assert_eq!(trained.logits["logits"].shape[0], example.split.validation.len());
}

/// Three runs of one shape and different recipes; the second leaves early.
fn members() -> [Example; K] {
    let [mut plain, mut early, mut rich] = [example(21), example(22), example(23)];
    plain.job.recipe.weight_decay = 1e-2;
    early.job.recipe = Recipe { patience: Some(1), ..Recipe::plain(1e-1, 16, 8, 22) };
    early.job.model.head.dropout = 0.0;
    rich.job.model.head.dropout = 0.5;
    rich.job.recipe = Recipe {
        optimizer: Optimizer::AdamW,
        weight_decay: 0.05,
        lr_scheduler: LrScheduler::OneCycle,
        label_smoothing: 0.1,
        keep: Keep::Last,
        augmentation: FeatureAugmentation {
            gain: 2.0,
            roll: 0.5,
            time_masks: 2,
            time_mask_param: 4,
            freq_masks: 1,
            freq_mask_param: 3,
            mixup_alpha: 0.2,
        },
        ..rich.job.recipe
    };
    // Another fold: as many rows train, others validate.
    let rows = |part: fn(u32) -> bool| (0..96).filter(|&row| part(row)).collect();
    rich.split.train = rows(|row| row / 8 % 4 != 1);
    rich.split.validation = rows(|row| row / 8 % 4 == 1);
    rich.job.split = earshot_common::ids::BlobId::of(&rich.split.write().unwrap());
    [plain, early, rich]
}

#[test]
fn members_of_different_recipes_train_as_they_would_alone() {
    let variants: [fn(&mut Example); 3] = [
        |_| (),
        |example| {
            let block =
                Block { batch_norm: true, convolution: Convolution::DepthwiseSeparable, ..Block::new(4, 3) };
            example.job.model.blocks = vec![block, Block { pooling: Pooling::Average, ..block }];
            example.job.model.head.reduction = Reduction::MeanMax;
        },
        |example| {
            example.job.model.blocks[1].batch_norm = true;
            example.job.model.head.reduction = Reduction::Mean;
            example.job.model.head.fc_units = None;
        },
    ];
    for (index, variant) in variants.iter().enumerate() {
        let mut members = members();
        members.iter_mut().for_each(variant);
        if index > 0 {
            // The large step, which makes it leave early, makes much of a rounding.
            members[1].job.recipe.learning_rate = 1e-3;
        }
        let runs = train(&[&members[0], &members[1], &members[2]]);
        for (member, run) in runs.iter().enumerate() {
            check_run(&format!("variant {index}, member {member}"), run, &members[member]);
        }
        if index == 0 {
            assert!(runs[1].0.len() < 8, "the fault did not fire: nobody left early");
        }
    }
}

#[test]
fn a_member_that_diverges_ends_alone() {
    let mut members = members();
    members[1].job.recipe.learning_rate = 1e20;
    let runs = train(&[&members[0], &members[1], &members[2]]);
    assert!(matches!(runs[1].1, Err(TrainError::Diverged { .. })), "{:?}", runs[1].1);
    for member in [0, 2] {
        check_run("beside a diverged one", &runs[member], &members[member]);
    }
}

/// Ends one member at an epoch.
struct Ending<'a>(Kept, &'a Control, State);

impl Company for Ending<'_> {
    fn epoch(&mut self, member: usize, epoch: Epoch) {
        self.0.epoch(member, epoch);
        if member == 1 && epoch.epoch == 3 {
            self.1.advance(self.2);
        }
    }

    fn ended(&mut self, member: usize, result: Result<Trained, TrainError>) {
        self.0.ended(member, result);
    }
}

#[test]
fn a_member_that_is_no_longer_wanted_ends_and_the_others_go_on() {
    for state in [State::Stopping, State::Draining, State::Revoked] {
        let examples = [example(31), example(32), example(33)];
        let features = examples.each_ref().map(Example::features);
        let (wanted, ended) = (Control::default(), Control::default());
        let members: Vec<Member<'_>> = (0..K)
            .map(|member| Member {
                job: &examples[member].job,
                features: &features[member],
                weights: None,
                control: if member == 1 { &ended } else { &wanted },
            })
            .collect();
        let kept = Kept((0..K).map(|_| (Vec::new(), None)).collect());
        let mut company = Ending(kept, &ended, state);
        fused::train(&members, Device::Cpu, &mut company).unwrap();
        let mut runs = company.0.0.into_iter().map(|(epochs, result)| (epochs, result.unwrap()));
        check_run("before the one that ended", &runs.next().unwrap(), &examples[0]);
        let (epochs, result) = runs.next().unwrap();
        assert_eq!(epochs.len(), 3);
        match state {
            State::Stopping => assert!(result.unwrap().best.epoch <= 3),
            _ => assert!(matches!(result, Err(TrainError::Halted))),
        }
        check_run("after the one that ended", &runs.next().unwrap(), &examples[2]);
    }
}

#[test]
fn a_fused_forward_pass_is_the_members_own() {
    let spec = example(1).job.model;
    let weights = [1, 2, 3].map(|seed| fresh_weights(&spec, seed).unwrap());
    let batch = values(1, &[5, 3, 8, 24]);
    let fused = fused::network::FusedNetwork::new(&spec, &weights.each_ref(), Device::Cpu).unwrap();
    let logits = fused.forward(&batch, Mode::Evaluation).unwrap();
    for (member, weights) in weights.iter().enumerate() {
        let network = Network::from_checkpoint(&spec, weights, Device::Cpu).unwrap();
        let own = network.forward(&batch.select(1, member as i64), Mode::Evaluation).unwrap();
        near("logits", &logits.get(member as i64), &own);
    }
}
