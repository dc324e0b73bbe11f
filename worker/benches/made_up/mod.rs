//! Made-up clips and the models that are measured on them.

use earshot_common::{
    ids::BlobId,
    job::{Job, LrScheduler, Optimizer, Recipe},
    model::{AudioCnn, Block, Head, Reduction},
};
use earshot_data::{
    shard::{Shard, View},
    split::TrainSplit,
};
use tch::Device;
use worker::{
    features::{Features, FeaturesError},
    randomness::Weights,
};

/// Clips of the made-up dataset: one shard, as many as a shard holds.
pub(crate) const CLIPS: usize = 128;
const CLASSES: usize = 50;
const FRAMES: usize = 431;
/// Of the five-block model's one-cycle schedule, in batches of 32; more than are taken.
const SCHEDULED_EPOCHS: u32 = 750;

/// The model's spec and recipe by its name; `benches/pytorch_peer.py` has the same two.
fn spec(model: &str, seed: u64) -> (AudioCnn, Recipe) {
    match model {
        "reference" => {
            (AudioCnn::reference(13, FRAMES as u32, CLASSES as u32), Recipe::plain(1e-3, 32, 1, seed))
        }
        "five-block" => {
            let block = |filters| Block { batch_norm: true, ..Block::new(filters, 3) };
            let head = Head { reduction: Reduction::Mean, dropout: 0.3, fc_units: None };
            let blocks = [16, 32, 48, 64, 96].map(block).to_vec();
            let spec = AudioCnn::reference(40, FRAMES as u32, CLASSES as u32);
            let recipe = Recipe {
                optimizer: Optimizer::AdamW,
                weight_decay: 1e-2,
                lr_scheduler: LrScheduler::OneCycle,
                ..Recipe::plain(3e-3, 32, SCHEDULED_EPOCHS, seed)
            };
            (AudioCnn { blocks, head, ..spec }, recipe)
        }
        other => panic!("--model is reference or five-block, not {other}"),
    }
}

/// A job with made-up clips: noise, and every class its own rows that are louder.
pub(crate) fn example(model: &str, seed: u64, device: Device) -> (Job, Features) {
    let (model, recipe) = spec(model, seed);
    let rows = model.n_mfcc as usize;
    let mut values = Weights::new(1).uniform(50.0, CLIPS * rows * FRAMES);
    let labels: Vec<u16> = (0..CLIPS).map(|clip| (clip % CLASSES) as u16).collect();
    for (line, values) in values.chunks_exact_mut(FRAMES).enumerate() {
        let (class, row) = (usize::from(labels[line / rows]), line % rows);
        if class >> (row % 6) & 1 == 1 {
            for value in values {
                *value += 10.0;
            }
        }
    }
    let shard = Shard {
        n_mfcc: rows,
        frames: FRAMES,
        labels,
        features: values,
        front_end: BlobId::of(b"front end"),
        view: View::Clean,
        draws: vec![],
    };
    let clips = CLIPS as u32;
    let split = TrainSplit { train: (0..clips).collect(), validation: (0..clips).collect() };
    let job = Job {
        model,
        recipe,
        shards: vec![BlobId::of(b"shard")],
        split: BlobId::of(b"split"),
        initial_weights: None,
        taylor: false,
        teacher: None,
        int8_ranges: vec![],
        int8_accuracy: false,
        resume: None,
        rungs: vec![],
        augment: vec![],
    };
    let features = Features::new(&job, &split, device, |_| Ok::<_, FeaturesError>(shard.clone())).unwrap();
    (job, features)
}
