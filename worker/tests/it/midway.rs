//! Training that goes on from the middle.

use earshot_common::{
    job::{Epoch, FeatureAugmentation, LrScheduler, Optimizer, Recipe},
    model::{Convolution, Reduction},
    tensors::encode,
    views::Range,
};
use worker::{
    control::Control,
    cpu::Precision,
    device::Processor,
    training::{self, Observer, Start, Trained, midway::Midway},
};

use crate::jobs::{Example, example};

/// Keeps what a run has come to after every epoch.
#[derive(Default)]
struct Keeper {
    epochs: Vec<Epoch>,
    kept: Vec<Vec<u8>>,
}

impl Observer for &mut Keeper {
    fn wants_midway(&mut self, _: u32) -> bool {
        true
    }

    fn epoch(&mut self, epoch: Epoch, midway: Option<Midway>) {
        self.epochs.push(epoch);
        self.kept.extend(midway.map(|midway| midway.encode().unwrap()));
    }
}

fn train(example: &Example, start: Start<'_>) -> (Keeper, Trained) {
    tch::set_num_threads(1);
    let mut keeper = Keeper::default();
    let control = Control::default();
    let trained = training::train(
        &example.job,
        &example.features(),
        start,
        Processor::Cpu(Precision::F32),
        &control,
        &mut keeper,
    );
    (keeper, trained.unwrap())
}

/// Everything that draws or remembers, at once.
fn rich() -> Example {
    let mut example = example(11);
    example.add_view(0.5, Range { min: -1.0, max: 1.0 }, |value| value - 3.0);
    let model = &mut example.job.model;
    model.head.reduction = Reduction::MeanMax;
    for block in &mut model.blocks {
        block.batch_norm = true;
    }
    model.blocks[1].convolution = Convolution::DepthwiseSeparable;
    let augmentation = FeatureAugmentation {
        gain: 2.0,
        roll: 0.2,
        time_masks: 2,
        time_mask_param: 4,
        freq_masks: 1,
        freq_mask_param: 2,
        mixup_alpha: 0.3,
    };
    example.job.recipe = Recipe {
        optimizer: Optimizer::AdamW,
        weight_decay: 1e-2,
        lr_scheduler: LrScheduler::OneCycle,
        label_smoothing: 0.1,
        augmentation,
        ..Recipe::plain(3e-2, 16, 6, 11)
    };
    example
}

fn check(example: &Example) {
    let (whole, undisturbed) = train(example, Start::Fresh);
    assert_eq!(whole.kept.len() + 1, whole.epochs.len(), "nothing follows the last epoch");
    for (done, bytes) in (1..).zip(&whole.kept) {
        let midway = Midway::decode(bytes).unwrap();
        let (rest, trained) = train(example, Start::Midway(&midway));
        assert_eq!(rest.epochs, whole.epochs[done..], "after epoch {done}");
        assert_eq!(rest.kept, whole.kept[done..]);
        assert_eq!(trained.best, undisturbed.best);
        assert_eq!(encode(&trained.checkpoint).unwrap(), encode(&undisturbed.checkpoint).unwrap());
        assert_eq!(trained.logits, undisturbed.logits);
    }
}

#[test]
fn whoever_goes_on_from_any_epoch_gets_the_same_bits() {
    check(&rich());
}

#[test]
fn patience_goes_on_too() {
    let mut example = example(3);
    example.job.recipe.learning_rate = 3e-2;
    example.job.recipe.epochs = 60;
    example.job.recipe.patience = Some(2);
    check(&example);
}

#[test]
fn what_is_kept_changes_nothing() {
    let example = rich();
    let (keeper, trained) = train(&example, Start::Fresh);
    let (epochs, plain) = example.train();
    assert_eq!((keeper.epochs, trained.checkpoint), (epochs, plain.unwrap().checkpoint));
}
