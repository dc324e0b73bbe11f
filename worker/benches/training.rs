//! Samples a second of the reference model (13 × 431, 50 classes, batch 32) in one slot's training step, and where they go.
//!
//!     cargo bench -p worker --bench training                  # one slot
//!     cargo bench -p worker --bench training -- --slots 4     # as many at once
//!     cargo bench -p worker --bench training -- --malloc      # without our allocator settings

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a measurement may stop at the first surprise

use std::{hint::black_box, thread, time::Duration};

use earshot_common::{
    ids::BlobId,
    job::{Job, Recipe},
    model::AudioCnn,
};
use earshot_data::{
    shard::{Shard, View},
    split::TrainSplit,
};
use tch::Device;
use worker::{
    features::{Features, FeaturesError},
    memory,
    network::{Mode, Network},
    randomness::Weights,
    training::{batches::Batches, evaluation::evaluate, optimiser::Adam, schedule::Schedule, step},
};

/// Clips of the made-up dataset: one shard, as many as a shard holds.
const CLIPS: usize = 128;
const FRAMES: usize = 431;
const N_MFCC: usize = 13;
/// Measured this many times; the fastest counts, the others had company.
const ROUNDS: usize = 12;
/// Steps of one round, and of the warm-up.
const STEPS: usize = 12;

fn main() {
    if cfg!(debug_assertions) {
        return; // built as a test; it would measure nothing of interest
    }
    let args: Vec<String> = std::env::args().collect();
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).and_then(|n| n.parse().ok());
    let slots: usize = value("--slots").unwrap_or(1);
    if !args.iter().any(|arg| arg == "--malloc") {
        assert!(memory::keep_freed());
    }
    tch::set_num_interop_threads(1);
    tch::set_num_threads(1);

    let rates: Vec<Rates> = thread::scope(|scope| {
        let slots: Vec<_> = (0..slots).map(|_| scope.spawn(measure)).collect();
        slots.into_iter().map(|slot| slot.join().expect("a slot")).collect()
    });
    let sum = |rate: fn(&Rates) -> f64| rates.iter().map(rate).sum::<f64>();
    println!("reference AudioCNN, batch 32, {slots} slot(s), samples/s in sum");
    println!("  training    {:8.0}", sum(|rates| rates.training));
    println!("  evaluation  {:8.0}", sum(|rates| rates.evaluation));
    println!("milliseconds of some of a step's parts, first slot");
    for (name, time) in rates.iter().take(1).flat_map(|rates| &rates.parts) {
        println!("  {name:<11} {:8.2}", time.as_secs_f64() * 1e3);
    }
}

struct Rates {
    training: f64,
    evaluation: f64,
    parts: Vec<(&'static str, Duration)>,
}

fn measure() -> Rates {
    tch::set_num_threads(1);
    let (job, features) = example();
    let network = Network::fresh(&job.model, 1, Device::Cpu).unwrap();
    let mut adam = Adam::new(&network.parameters(), &job.recipe).unwrap();
    let mut batches = Batches::new(&job, &features, &network, Device::Cpu).unwrap();
    batches.shuffle().unwrap();
    let pace = Schedule::new(&job.recipe, batches.count()).pace(0);
    let batch_count = batches.count();
    let labels = features.validation_labels();

    let training = fastest(ROUNDS, || {
        for index in 0..STEPS {
            let batch = batches.get(index % batch_count).unwrap();
            drop(black_box(step(&network, &mut adam, &batch, pace, 0.0).unwrap()));
        }
    });
    let evaluation = fastest(ROUNDS, || {
        black_box(evaluate(&network, &features, &labels).unwrap());
    });

    let batch = batches.get(0).unwrap();
    let gradients: Vec<_> = network.parameters().iter().map(|tensor| tensor.ones_like()).collect();
    // The scheduler counts in ticks of milliseconds, so each part is repeated.
    let part = |work: &mut dyn FnMut()| {
        fastest(ROUNDS, || {
            for _ in 0..STEPS {
                work();
            }
        }) / STEPS as u32
    };
    let parts = vec![
        ("batch", part(&mut || drop(black_box(batches.get(0).unwrap())))),
        (
            "forward",
            part(&mut || {
                drop(black_box(
                    network.forward(&batch.features, Mode::Training { mask: batch.mask.as_ref() }).unwrap(),
                ));
            }),
        ),
        ("adam", part(&mut || adam.step(&gradients, pace).unwrap())),
    ];
    Rates {
        training: (STEPS * 32) as f64 / training.as_secs_f64(),
        evaluation: labels.len() as f64 / evaluation.as_secs_f64(),
        parts,
    }
}

/// The least time of several rounds that this thread was on a core: the same as the clock's on an idle machine, and much the
/// same on a busy one.
fn fastest(rounds: usize, mut work: impl FnMut()) -> Duration {
    work();
    let times = (0..rounds).map(|_| {
        let start = on_core();
        work();
        on_core().saturating_sub(start)
    });
    times.min().unwrap_or_default()
}

/// Time that this thread has spent on a core: the first of the scheduler's three numbers.
fn on_core() -> Duration {
    let numbers = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(numbers.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap())
}

fn example() -> (Job, Features) {
    let shard = Shard {
        n_mfcc: N_MFCC,
        frames: FRAMES,
        labels: (0..CLIPS).map(|clip| (clip % 50) as u16).collect(),
        features: Weights::new(1).uniform(50.0, CLIPS * N_MFCC * FRAMES),
        front_end: BlobId::of(b"front end"),
        view: View::Clean,
        draws: vec![],
    };
    let clips = CLIPS as u32;
    let split = TrainSplit { train: (0..clips).collect(), validation: (0..clips).collect() };
    let job = Job {
        model: AudioCnn::reference(N_MFCC as u32, FRAMES as u32, 50),
        recipe: Recipe::plain(1e-3, 32, 1, 1),
        shards: vec![BlobId::of(b"shard")],
        split: BlobId::of(b"split"),
        initial_weights: None,
        resume: None,
        augment: vec![],
    };
    let features =
        Features::new(&job, &split, Device::Cpu, |_| Ok::<_, FeaturesError>(shard.clone())).unwrap();
    (job, features)
}
