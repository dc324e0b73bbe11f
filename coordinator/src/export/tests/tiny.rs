//! Small champions made up for the tests.

use std::{collections::BTreeMap, path::Path};

use earshot_common::{
    frontend::FrontEnd,
    ids::{BlobId, FoldId, TrialId},
    job::{Epoch, Job, Recipe},
    metrics::{Confusion, argmax},
    model::{AudioCnn, Block, Head, Input, Reduction},
    sweep::{Space, Sweep},
    tensors::{self, Tensor, Tensors, checkpoint_shapes},
};
use earshot_data::{
    manifest::{ClipEntry, Manifest, ShardEntry},
    shard::{Shard, View},
    split::Split,
};

use super::{
    super::{Champion, Features},
    forward::forward,
};

/// Numbers from −1 to 1 that look random, the same for the same seed.
fn noise(seed: &str) -> impl Iterator<Item = f32> {
    let mut reader = blake3::Hasher::new().update(seed.as_bytes()).finalize_xof();
    std::iter::from_fn(move || {
        let mut bytes = [0; 4];
        reader.fill(&mut bytes);
        Some(u32::from_le_bytes(bytes) as f32 / u32::MAX as f32 * 2.0 - 1.0)
    })
}

pub(super) fn small(head: Option<u32>) -> AudioCnn {
    AudioCnn {
        input: Input::Mfcc,
        n_mfcc: 5,
        frames: 13,
        blocks: vec![Block::new(4, 3), Block::new(6, 5)],
        head: Head { reduction: Reduction::Flatten, dropout: 0.3, fc_units: head },
        classes: 3,
    }
}

/// Weights of a size that keeps activations around 1, as training does.
fn random_checkpoint(model: &AudioCnn) -> Tensors {
    let shapes = checkpoint_shapes(model).unwrap();
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let size = shape.iter().product();
        let fan_in: usize = shape.iter().skip(1).product();
        let [offset, width] = match name.as_str() {
            "input.mean" => [-20.0, 30.0],
            "input.std" => [25.0, 15.0],
            _ if name.ends_with("norm.weight") => [1.0, 0.5],
            _ if name.ends_with("running_var") => [2.0, 1.5],
            _ if shape.len() == 1 => [0.0, 0.1],
            _ => [0.0, (6.0 / fan_in as f32).sqrt()],
        };
        let values = noise(&name).take(size).map(|value| offset + width * value).collect();
        (name, Tensor { shape, values })
    });
    tensors.collect()
}

/// Features of one clip: one of seven spectra, and noise.
fn clip(model: &AudioCnn, index: usize, n_mfcc: usize) -> Vec<f32> {
    let frames = model.frames as usize;
    let spectrum: Vec<f32> = noise(&format!("spectrum {}", index % 7)).take(n_mfcc).collect();
    let seed = format!("clip {index}");
    let noise = noise(&seed).take(n_mfcc * frames).enumerate();
    noise.map(|(i, noise)| 80.0 * spectrum[i / frames] + 15.0 * noise - 15.0).collect()
}

/// A champion whose labels are its own predictions, but for every tenth clip; half of the rows train, a quarter validates.
pub(super) fn champion(model: AudioCnn, clips: usize) -> (Champion, Features) {
    let tensors = random_checkpoint(&model);
    let front_end = FrontEnd {
        sample_rate_hz: 1000,
        n_fft: 100,
        hop_length: 100,
        duration_s: f64::from(model.frames - 1) / 10.0,
        ..FrontEnd::default()
    };
    let n_mfcc = model.n_mfcc as usize;
    let logits: Vec<Vec<f32>> =
        (0..clips).map(|i| forward(&model, &tensors, &clip(&model, i, n_mfcc))).collect();
    let classes = model.classes as usize;
    let label = |row: usize| ((argmax(&logits[row]) + usize::from(row.is_multiple_of(10))) % classes) as u16;
    let shard = Shard {
        // The shard holds more than the model reads.
        n_mfcc: n_mfcc + 1,
        frames: model.frames as usize,
        labels: (0..clips).map(label).collect(),
        features: (0..clips)
            .flat_map(|index| clip(&model, index, n_mfcc).into_iter().chain(vec![0.0; model.frames as usize]))
            .collect(),
        front_end: front_end.hash(),
        view: View::Clean,
        draws: vec![],
    };
    let mut features = Features::new(model.n_mfcc, model.frames);
    features.push(&shard).unwrap();
    let entry = |row: usize| ClipEntry {
        name: format!("clip-{row}"),
        class: label(row),
        fold: Some(1),
        source: row.to_string(),
        content: BlobId::of(b"clip"),
    };
    let rows = |range: std::ops::Range<usize>| range.map(|row| row as u32).collect::<Vec<u32>>();
    let split = Split {
        train: rows(0..clips / 2),
        validation: rows(clips / 2..clips * 3 / 4),
        test: rows(clips * 3 / 4..clips),
    };
    let recorded = Tensor {
        shape: vec![split.validation.len(), classes],
        values: split.validation.iter().flat_map(|&row| logits[row as usize].clone()).collect(),
    };
    let accuracy =
        Confusion::from_logits(classes, &recorded.values, &features.labels_of(&split.validation)).accuracy();
    let names = (0..classes).map(|class| format!("class <{class}|&>")).collect();
    let blob = BlobId::of(b"shard");
    let shards = vec![ShardEntry { blob, clips: clips as u32, view: View::Clean }];
    let sweep =
        "name = \"tiny\"\n[split]\nkind = \"folds\"\nvalidation = [1]\n[space]\n[schedule]\nepochs = 2\n";
    let champion = Champion {
        sweep: Sweep::parse(sweep, Path::new("tiny.toml"), &[]).unwrap(),
        trial: TrialId(3),
        fold: FoldId(1),
        point: Space::new(BTreeMap::new()).point(0).unwrap(),
        job: Job {
            model,
            recipe: Recipe::plain(1e-3, 32, 2, 7),
            shards: vec![blob],
            split: BlobId::of(b"split"),
            initial_weights: None,
            taylor: false,
            teacher: None,
            int8_ranges: vec![],
            int8_accuracy: false,
            resume: None,
            rungs: vec![],
            augment: vec![],
        },
        best: Epoch {
            epoch: 1,
            train_loss: 1.0,
            loss: 1.0,
            accuracy,
            macro_f1: accuracy,
            int8_accuracy: None,
        },
        checkpoint: tensors::encode(&tensors).unwrap(),
        logits: tensors::encode(&Tensors::from([("logits".into(), recorded)])).unwrap(),
        manifest: Manifest::new(front_end, names, shards, (0..clips).map(entry).collect(), vec![]),
        split,
        learning_curve: vec![
            Epoch { epoch: 1, train_loss: 1.0, loss: 1.0, accuracy, macro_f1: accuracy, int8_accuracy: None },
            Epoch {
                epoch: 2,
                train_loss: 0.5,
                loss: f64::NAN,
                accuracy,
                macro_f1: accuracy,
                int8_accuracy: None,
            },
        ],
        trials_completed: 24,
        pruning: None,
        awareness: None,
        initial_weights: None,
        teacher: None,
    };
    (champion, features)
}
