//! Every variant of the model is exported whole: the float file gives what the spec's plain forward pass gives, the int8 file
//! what whole-number arithmetic gives, and the export would have failed otherwise.

use earshot_common::model::{AudioCnn, Block, Convolution, Input, Pooling, Reduction};

use super::{exported, tiny::small};

/// Two blocks on 8 × 13, and what `change` makes of them.
fn check(change: impl FnOnce(&mut AudioCnn)) {
    let mut model = small(None);
    model.n_mfcc = 8;
    change(&mut model);
    let (summary, _folder) = exported(model.clone(), 80);
    assert!(summary.logit_difference_max < 1e-4, "{model:?}: {summary:?}");
    // Every tenth label is wrong on purpose.
    assert!((summary.float.validation.accuracy - 0.9).abs() < 1e-9, "{model:?}: {summary:?}");
    assert!(summary.top1_agreement >= 0.8, "{model:?}: {summary:?}");
}

fn each_block(model: &mut AudioCnn, change: impl FnMut(&mut Block)) {
    model.blocks.iter_mut().for_each(change);
}

#[test]
fn mel_bands() {
    check(|model| model.input = Input::Mel);
}

#[test]
fn batch_norm() {
    check(|model| each_block(model, |block| block.batch_norm = true));
}

#[test]
fn separable_convolutions() {
    // The first too: the spec can say it, although a space never does.
    check(|model| each_block(model, |block| block.convolution = Convolution::DepthwiseSeparable));
}

#[test]
fn average_pooling() {
    check(|model| each_block(model, |block| block.pooling = Pooling::Average));
}

#[test]
fn heads() {
    for reduction in [Reduction::Mean, Reduction::MeanMax] {
        for fc_units in [None, Some(7)] {
            check(|model| {
                model.head.reduction = reduction;
                model.head.fc_units = fc_units;
            });
        }
    }
}

#[test]
fn five_blocks_with_everything() {
    check(|model| {
        model.input = Input::Mel;
        (model.n_mfcc, model.frames) = (33, 41);
        model.blocks = vec![Block { batch_norm: true, ..Block::new(6, 3) }; 5];
        for block in model.blocks.iter_mut().skip(1) {
            block.convolution = Convolution::DepthwiseSeparable;
        }
        model.blocks[2].pooling = Pooling::Average;
        model.blocks[3].kernel_size = 5;
        model.head.reduction = Reduction::MeanMax;
    });
}
