//! Sliced networks against the whole ones, over every variant of the spec.

use earshot_common::{
    ids::BlobId,
    model::{AudioCnn, Block, Convolution, Head, Input, Pooling, Reduction},
    sweep::prune::{Importance, Prune, Target},
    tensors::{self, Tensor, Tensors, checkpoint_shapes, taylor_shapes},
};
use earshot_data::shard::{Shard, View};
use proptest::prelude::*;

use super::{group::groups, importance::measure, plan::*, slice::slice, *};
use crate::export::{Features, Forward};

const ROWS: [u32; 3] = [0, 1, 2];

fn noise(seed: &str) -> impl Iterator<Item = f32> {
    let mut reader = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    std::iter::from_fn(move || {
        let mut bytes = [0; 4];
        reader.fill(&mut bytes);
        Some(u32::from_le_bytes(bytes) as f32 / u32::MAX as f32 * 2.0 - 1.0)
    })
}

fn checkpoint(model: &AudioCnn) -> Tensors {
    let shapes = checkpoint_shapes(model).unwrap().into_iter().chain(taylor_shapes(model).unwrap());
    let tensors = shapes.map(|(name, shape)| {
        let fan_in: usize = shape.iter().skip(1).product();
        let is_positive = ["input.std", "running_var", "norm.weight", "taylor"];
        let [offset, width] = match name.as_str() {
            _ if is_positive.iter().any(|end| name.ends_with(end)) => [2.0, 1.5],
            _ if shape.len() == 1 => [0.0, 0.1],
            _ => [0.0, (6.0 / fan_in as f32).sqrt()],
        };
        let values = noise(&name).take(shape.iter().product()).map(|value| offset + width * value).collect();
        (name, Tensor { shape, values })
    });
    tensors.collect()
}

fn features(model: &AudioCnn) -> Features {
    let (n_mfcc, frames) = (model.n_mfcc as usize, model.frames as usize);
    let shard = Shard {
        n_mfcc,
        frames,
        labels: vec![0; ROWS.len()],
        features: noise("features").take(ROWS.len() * n_mfcc * frames).map(|value| 4.0 * value).collect(),
        front_end: BlobId::of(b"front end"),
        view: View::Clean,
        draws: vec![],
    };
    let mut features = Features::new(model.n_mfcc, model.frames);
    features.push(&shard).unwrap();
    features
}

fn logits(model: &AudioCnn, tensors: &Tensors) -> Vec<f32> {
    let forward = Forward::new(model, &tensors::encode(tensors).unwrap()).unwrap();
    forward.logits(&features(model), &ROWS).unwrap()
}

prop_compose! {
    fn blocks()(
        batch_norm in any::<bool>(),
        blocks in prop::collection::vec((1_u32..9, prop::sample::select(vec![3_u32, 5]), any::<bool>(), any::<bool>()), 2..5),
    ) -> Vec<Block> {
        let block = |&(filters, kernel_size, is_separable, is_average): &(u32, u32, bool, bool)| Block {
            filters,
            kernel_size,
            convolution: if is_separable { Convolution::DepthwiseSeparable } else { Convolution::Ordinary },
            batch_norm,
            pooling: if is_average { Pooling::Average } else { Pooling::Max },
        };
        blocks.iter().map(block).collect()
    }
}

prop_compose! {
    fn model()(
        blocks in blocks(),
        is_mel in any::<bool>(),
        reduction in prop::sample::select(vec![Reduction::Flatten, Reduction::Mean, Reduction::MeanMax]),
        fc_units in prop::option::of(1_u32..9),
    ) -> AudioCnn {
        AudioCnn {
            input: if is_mel { Input::Mel } else { Input::Mfcc },
            n_mfcc: 16,
            frames: 19,
            blocks,
            head: Head { reduction, dropout: 0.3, fc_units },
            classes: 3,
        }
    }
}

/// Makes what depends on the groups that go blind to them: their columns in whatever reads them become zero. Which columns
/// these are is known here from a network whose weights are their own indices.
fn blinded(model: &AudioCnn, tensors: &Tensors, kept: &Kept) -> Tensors {
    let mut blinded = tensors.clone();
    let mut marked = tensors.clone();
    for (name, tensor) in &mut marked {
        if name.ends_with(".weight") && !name.ends_with("norm.weight") {
            tensor.values = (0..tensor.values.len()).map(|index| index as f32).collect();
        }
    }
    let sliced = slice(model, &marked, kept).unwrap();
    for layer in model.layers().unwrap() {
        if layer.name.ends_with(".depthwise") {
            continue;
        }
        let name = format!("{}.weight", layer.name);
        let [whole, left] = [&marked[&name], &sliced.tensors[&name]];
        let column = |index: usize| index / whole.shape[2..].iter().product::<usize>() % whole.shape[1];
        let stay: std::collections::BTreeSet<usize> =
            left.values.iter().map(|&index| column(index as usize)).collect();
        for (index, value) in blinded.get_mut(&name).unwrap().values.iter_mut().enumerate() {
            if !stay.contains(&column(index)) {
                *value = 0.0;
            }
        }
    }
    blinded
}

fn removing(model: &AudioCnn, lots: &[bool]) -> Kept {
    let mut lots = lots.iter().cycle();
    let mut kept = Kept::new();
    for (layer, count) in groups(model).unwrap() {
        let mut stay: Vec<usize> = (0..count).filter(|_| *lots.next().unwrap()).collect();
        if stay.is_empty() {
            stay.push(count - 1);
        }
        kept.insert(layer, stay);
    }
    kept
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_nothing_looks_at_can_go_without_a_change(
        model in model(),
        lots in prop::collection::vec(any::<bool>(), 23),
    ) {
        let kept = removing(&model, &lots);
        let whole = blinded(&model, &checkpoint(&model), &kept);
        let sliced = slice(&model, &whole, &kept).unwrap();
        let found = logits(&sliced.model, &sliced.tensors);
        for (found, expected) in found.iter().zip(logits(&model, &whole)) {
            prop_assert!((found - expected).abs() <= 1e-4 * expected.abs().max(1.0), "{found} {expected}");
        }
        // The spec's cost is that of the tensors that are left.
        let numbers: usize = sliced.tensors.iter().filter(|(name, _)| {
            !name.starts_with("input.") && !name.contains("running_") && !name.ends_with("norm.weight")
        }).map(|(_, tensor)| tensor.values.len()).sum();
        prop_assert_eq!(sliced.model.cost().unwrap().params, numbers as u64);
        for (layer, stay) in &kept {
            prop_assert_eq!(groups(&sliced.model).unwrap()[layer], stay.len());
        }
    }

    #[test]
    fn targets_are_met_in_multiples_or_said_to_be_out_of_reach(
        model in model(),
        importance in prop::sample::select(vec![Importance::BatchNorm, Importance::Magnitude, Importance::Taylor]),
        multiple_of in 1_u32..4,
        steps in 1_u32..4,
        part in 0.05_f64..1.0,
        kind in 0..3,
    ) {
        let tensors = checkpoint(&model);
        let importances = match measure(&model, &tensors, importance) {
            Err(PruneError::NoBatchNorm { block: 1 }) if !model.blocks[0].batch_norm => return Ok(()),
            measured => measured.unwrap(),
        };
        let cost = model.cost().unwrap();
        let target = match kind {
            0 => Target::Int8Kib(cost.int8_kib() * part),
            1 => Target::Macs((cost.macs as f64 * part) as u64),
            _ => Target::Ratio((1.0 - part).max(0.01)),
        };
        let prune = Prune { importance, target, steps, multiple_of, epochs: 1, distil: None };
        let limits: Vec<f64> = (1..=steps).map(|step| limit(&model, &prune, step).unwrap()).collect();
        prop_assert!(limits.is_sorted_by(|a, b| a >= b));
        for limit in limits {
            match plan(&model, &importances, target, multiple_of, limit) {
                Ok(kept) => {
                    let sliced = slice(&model, &tensors, &kept).unwrap();
                    prop_assert!(measured(&sliced.model, target).unwrap() <= limit);
                    let before = groups(&model).unwrap();
                    for (layer, count) in groups(&sliced.model).unwrap() {
                        let is_rounded = count > 0 && count % multiple_of as usize == 0;
                        prop_assert!(count == before[&layer] || is_rounded, "{layer}: {count}");
                    }
                }
                Err(PruneError::OutOfReach { least, .. }) => prop_assert!(least > limit),
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}

fn small() -> AudioCnn {
    let mut model = AudioCnn::reference(16, 19, 3);
    model.blocks = vec![Block::new(4, 3), Block::new(6, 3)];
    model.head.fc_units = Some(5);
    model
}

#[test]
fn the_least_important_go_first() {
    let model = small();
    let mut tensors = checkpoint(&model);
    for (index, value) in tensors.get_mut("blocks.0.weight").unwrap().values.iter_mut().enumerate() {
        // Filter 2 hardly does anything.
        *value *= if index / 9 == 2 { 1e-3 } else { 1.0 };
    }
    let importances = measure(&model, &tensors, Importance::Magnitude).unwrap();
    let norms: Vec<f64> = importances["blocks.1"].iter().map(|value| value * value).collect();
    assert!((norms.iter().sum::<f64>() - 1.0).abs() < 1e-9, "each layer by its own norm: {norms:?}");
    let kept = plan(&model, &importances, Target::Ratio(0.1), 1, 14.0).unwrap();
    assert_eq!((&kept["blocks.0"], kept["blocks.1"].len()), (&vec![0, 1, 3], 6));
}

#[test]
fn batch_norm_is_needed_to_go_by_it_and_spares_hidden_units() {
    let mut model = small();
    let refused = measure(&model, &checkpoint(&model), Importance::BatchNorm).unwrap_err().to_string();
    assert!(refused.contains("block 1 has none; set space.batch_norm = true"), "{refused}");
    model.blocks.iter_mut().for_each(|block| block.batch_norm = true);
    let mut tensors = checkpoint(&model);
    tensors.get_mut("blocks.1.norm.weight").unwrap().values = vec![-3.0, 0.1, 2.0, -0.2, 1.0, 1.0];
    let importances = measure(&model, &tensors, Importance::BatchNorm).unwrap();
    assert_eq!(importances.keys().collect::<Vec<_>>(), ["blocks.0", "blocks.1"]);
    assert!((importances["blocks.1"][0] - 3.0).abs() < 1e-9, "its sign does not matter");
}

#[test]
fn folded_norms_do_not_change_with_the_scale_that_batch_norm_undoes() {
    let mut model = small();
    model.blocks.iter_mut().for_each(|block| block.batch_norm = true);
    let tensors = checkpoint(&model);
    let mut scaled = tensors.clone();
    for value in scaled.get_mut("blocks.0.weight").unwrap().values.iter_mut().take(9) {
        *value *= 10.0;
    }
    scaled.get_mut("blocks.0.norm.running_var").unwrap().values[0] *= 100.0;
    let [plain, scaled] =
        [&tensors, &scaled].map(|tensors| measure(&model, tensors, Importance::Magnitude).unwrap());
    assert!((plain["blocks.0"][0] - scaled["blocks.0"][0]).abs() < 1e-4);
}

#[test]
fn what_training_did_not_keep_is_asked_for() {
    let model = small();
    let mut tensors = checkpoint(&model);
    tensors.remove("blocks.1.taylor");
    let refused = measure(&model, &tensors, Importance::Taylor).unwrap_err().to_string();
    assert!(refused.contains("blocks.1.taylor") && refused.contains("without importance"), "{refused}");
}

#[test]
fn weights_of_another_model_are_refused() {
    let model = small();
    let mut tensors = checkpoint(&model);
    tensors.remove("blocks.1.bias");
    assert!(matches!(slice(&model, &tensors, &Kept::new()), Err(PruneError::Tensors(_))));
    let kept = Kept::from([("blocks.0".to_owned(), vec![0, 9])]);
    assert!(matches!(slice(&model, &checkpoint(&model), &kept), Err(PruneError::Tensors(_))));
    let none = Kept::from([("blocks.0".to_owned(), vec![])]);
    assert!(matches!(slice(&model, &checkpoint(&model), &none), Err(PruneError::Model(_))));
}
