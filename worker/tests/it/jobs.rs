//! Made-up jobs: small features whose classes a network can tell apart.

use earshot_common::{
    ids::BlobId,
    job::{Augment, Epoch, Job, Recipe},
    model::{AudioCnn, Block, Head, Input, Reduction},
    views::{Augmentation, Range},
};
use earshot_data::{
    shard::{Shard, View},
    split::TrainSplit,
};
use tch::Device;
use worker::{
    control::Control,
    cpu::Precision,
    device::Processor,
    features::{Features, FeaturesError},
    randomness::Weights,
    training::{self, Start, TrainError, Trained},
};

/// Coefficients in the shards; models take fewer.
pub(crate) const N_MFCC: usize = 10;
/// Frames of every clip.
pub(crate) const FRAMES: usize = 24;
/// Classes, told apart by which coefficients are raised.
pub(crate) const CLASSES: usize = 4;

/// A job with everything that it names.
pub(crate) struct Example {
    pub(crate) job: Job,
    pub(crate) shards: Vec<Shard>,
    pub(crate) split: TrainSplit,
}

/// 96 clips in two shards, a quarter of them for validation, two blocks and a hidden layer.
pub(crate) fn example(seed: u64) -> Example {
    let shards = vec![shard(0, 40), shard(40, 56)];
    let rows = |part: fn(u32) -> bool| (0..96).filter(|&row| part(row)).collect();
    let split = TrainSplit { train: rows(|row| row / 8 % 4 < 3), validation: rows(|row| row / 8 % 4 == 3) };
    let job = Job {
        model: AudioCnn {
            input: Input::Mfcc,
            n_mfcc: 8,
            frames: FRAMES as u32,
            blocks: vec![Block::new(4, 3), Block::new(6, 5)],
            head: Head { reduction: Reduction::Flatten, dropout: 0.3, fc_units: Some(12) },
            classes: CLASSES as u32,
        },
        recipe: Recipe::plain(5e-3, 16, 8, seed),
        shards: shards.iter().map(|shard| BlobId::of(&shard.write().unwrap())).collect(),
        split: BlobId::of(&split.write().unwrap()),
        initial_weights: None,
        taylor: false,
        teacher: None,
        int8_ranges: vec![],
        int8_accuracy: false,
        resume: None,
        rungs: vec![],
        augment: vec![],
    };
    Example { job, shards, split }
}

fn shard(first: usize, clips: usize) -> Shard {
    let mut noise = Weights::new(first as u64);
    let mut features = Vec::new();
    let labels: Vec<u16> = (first..first + clips).map(|row| (row / 2 % CLASSES) as u16).collect();
    for &label in &labels {
        for coefficient in 0..N_MFCC {
            let raised = if coefficient % CLASSES == usize::from(label) { 30.0 } else { 0.0 };
            let line = noise.uniform(25.0, FRAMES);
            features.extend(line.into_iter().map(|value| value + raised - 200.0));
        }
    }
    Shard {
        n_mfcc: N_MFCC,
        frames: FRAMES,
        labels,
        features,
        front_end: BlobId::of(b"front end"),
        view: View::Clean,
        draws: vec![],
    }
}

impl Example {
    pub(crate) fn try_features(&self) -> Result<Features, FeaturesError> {
        let find = |id| self.shards.iter().find(|shard| BlobId::of(&shard.write().unwrap()) == id);
        Features::new(&self.job, &self.split, Device::Cpu, |id| Ok(find(id).unwrap().clone()))
    }

    /// Adds a level of pitch shifts from -1 to 1: every clip's features under it are `change` of its own.
    pub(crate) fn add_view(&mut self, p: f64, range: Range, change: impl Fn(f32) -> f32) {
        let view = View::Augmented { augmentation: Augmentation::PitchShift, level: 0 };
        let drawn = |clips: usize| (0..clips).map(|clip| 2.0 * clip as f32 / clips as f32 - 1.0).collect();
        let shards: Vec<Shard> = self
            .shards
            .iter()
            .filter(|shard| shard.view == View::Clean)
            .map(|shard| Shard {
                view,
                draws: drawn(shard.clips()),
                features: shard.features.iter().copied().map(&change).collect(),
                ..shard.clone()
            })
            .collect();
        let ids = shards.iter().map(|shard| BlobId::of(&shard.write().unwrap())).collect();
        let augmentation = Augmentation::PitchShift;
        self.job.augment.push(Augment { augmentation, p, range, levels: vec![ids] });
        self.shards.extend(shards);
    }

    pub(crate) fn features(&self) -> Features {
        self.try_features().unwrap()
    }

    /// Trains here, in this thread; the epochs and what is left.
    pub(crate) fn train(&self) -> (Vec<Epoch>, Result<Trained, TrainError>) {
        let mut epochs = Vec::new();
        let control = Control::default();
        tch::set_num_threads(1);
        let trained = training::train(
            &self.job,
            &self.features(),
            Start::Fresh,
            Processor::Cpu(Precision::F32),
            &control,
            |epoch: Epoch| {
                epochs.push(epoch);
            },
        );
        (epochs, trained)
    }
}
