//! Samples a second of training steps in one slot or several, and where a step's time goes.
//!
//!     cargo bench -p worker --bench training                                    # the reference model, one slot
//!     cargo bench -p worker --bench training -- --model five-block --slots 4    # another model, slots at once
//!     cargo bench -p worker --bench training -- --bf16                          # with 16-bit factors
//!     cargo bench -p worker --bench training -- --malloc                        # without our allocator settings
//!     cargo bench -p worker --bench training -- --curve 300 --seeds 3           # losses step by step instead
//!     cargo bench -p worker --bench training -- --curve 300 --libtorch             # the same as a GPU trains them
//!     cargo bench -p worker --bench training -- --write DIR                     # the clips, for the peer
//!
//! `--format json` prints one object; `benches/training.py` sets it beside PyTorch's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement may stop at the first surprise"
)]

use std::{fs, hint::black_box, path::Path, sync::Barrier, thread, time::Duration};

use earshot_common::job::Job;
use tch::Device;
use worker::{
    cpu::{Bf16, Precision},
    features::Features,
    memory,
    network::fresh_weights,
    training::{device::DeviceLearner, host::HostLearner, schedule::Schedule},
};

use made_up::{CLIPS, example};

mod made_up;

/// Measured this many times; the fastest counts, the others had company.
const ROUNDS: usize = 6;
/// Steps of one round, and of the warm-up.
const STEPS: usize = 8;

fn main() {
    if cfg!(debug_assertions) {
        return; // built as a test; it would measure nothing of interest
    }
    let args: Vec<String> = std::env::args().collect();
    let text = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).cloned();
    let value = |name: &str| text(name).and_then(|n| n.parse().ok());
    let is_json = text("--format").is_some_and(|format| format == "json");
    let model = text("--model").unwrap_or_else(|| "reference".to_owned());
    let is_bf16 = args.iter().any(|arg| arg == "--bf16");
    let bf16 = || Precision::Bf16(Bf16::detect().expect("a processor with AVX512-BF16"));
    let precision = if is_bf16 { bf16() } else { Precision::F32 };
    if !args.iter().any(|arg| arg == "--malloc") {
        assert!(memory::keep_freed());
    }
    tch::set_num_interop_threads(1);
    tch::set_num_threads(1);

    if let Some(folder) = text("--write") {
        write_clips(&model, Path::new(&folder));
    } else if let Some(steps) = value("--curve") {
        let is_libtorch = args.iter().any(|arg| arg == "--libtorch");
        let of_seed = |seed| {
            if is_libtorch {
                libtorch_curve(&model, steps, seed)
            } else {
                curve(&model, steps, seed, precision)
            }
        };
        let seeds = value("--seeds").unwrap_or(3) as u64;
        let losses: Vec<Vec<f64>> = (0..seeds).map(of_seed).collect();
        println!("{}", serde_json::json!({ "losses": losses }));
    } else {
        let slots = value("--slots").unwrap_or(1);
        let start = Barrier::new(slots);
        let rates: Vec<Rates> = thread::scope(|scope| {
            let slots: Vec<_> =
                (0..slots).map(|_| scope.spawn(|| measure(&model, &start, precision))).collect();
            slots.into_iter().map(|slot| slot.join().expect("a slot")).collect()
        });
        print_rates(&model, &rates, is_json);
    }
}

struct Rates {
    training: f64,
    evaluation: f64,
    parts: Vec<(&'static str, Duration)>,
}

fn print_rates(model: &str, rates: &[Rates], is_json: bool) {
    let of = |rate: fn(&Rates) -> f64| rates.iter().map(rate).collect::<Vec<_>>();
    let (training, evaluation) = (of(|rates| rates.training), of(|rates| rates.evaluation));
    if is_json {
        println!("{}", serde_json::json!({ "training": training, "evaluation": evaluation }));
        return;
    }
    println!("{model}, batch 32, {} slot(s), samples/s in sum", rates.len());
    println!("  training    {:8.0}", training.iter().sum::<f64>());
    println!("  evaluation  {:8.0}", evaluation.iter().sum::<f64>());
    println!("milliseconds of some of a step's parts, first slot");
    for (name, time) in rates.iter().take(1).flat_map(|rates| &rates.parts) {
        println!("  {name:<11} {:8.2}", time.as_secs_f64() * 1e3);
    }
}

fn measure(model: &str, start: &Barrier, precision: Precision) -> Rates {
    let (job, features) = example(model, 1, Device::Cpu);
    let mut learner = learner(&job, &features, 1, precision);
    learner.batches().shuffle();
    let batch_count = learner.batches().count();
    let pace = Schedule::new(&job.recipe, batch_count).pace(0);

    start.wait();
    let training = fastest(ROUNDS, || {
        for index in 0..STEPS {
            black_box(learner.step(index % batch_count, pace));
        }
    });
    let evaluation = fastest(ROUNDS, || drop(black_box(learner.logits())));
    let batches = fastest(ROUNDS, || {
        for index in 0..STEPS {
            black_box(learner.batches().get(index % batch_count));
        }
    });
    Rates {
        training: (STEPS * 32) as f64 / training.as_secs_f64(),
        evaluation: features.validation().len() as f64 / evaluation.as_secs_f64(),
        parts: vec![("step", training / STEPS as u32), ("its batch", batches / STEPS as u32)],
    }
}

/// Loss of every step of a run with this seed.
fn curve(model: &str, steps: usize, seed: u64, precision: Precision) -> Vec<f64> {
    let (job, features) = example(model, seed, Device::Cpu);
    let mut learner = learner(&job, &features, seed, precision);
    let schedule = Schedule::new(&job.recipe, learner.batches().count());
    let mut losses = Vec::new();
    while losses.len() < steps {
        learner.batches().shuffle();
        for index in 0..learner.batches().count() {
            let clips = learner.batches().indices(index).len();
            losses.push(learner.step(index, schedule.pace(losses.len() as u64)) / clips as f64);
        }
    }
    losses.truncate(steps);
    losses
}

/// As [`curve`], by the steps that a GPU would take.
fn libtorch_curve(model: &str, steps: usize, seed: u64) -> Vec<f64> {
    let (job, features) = example(model, seed, Device::Cpu);
    let weights = fresh_weights(&job.model, seed).unwrap();
    let mut learner = DeviceLearner::new(&job, &features, &weights, Device::Cpu).unwrap();
    let schedule = Schedule::new(&job.recipe, learner.batches().count());
    let mut losses = Vec::new();
    while losses.len() < steps {
        learner.batches().shuffle();
        for index in 0..learner.batches().count() {
            let clips = learner.batches().indices(index).len();
            learner.step(index, schedule.pace(losses.len() as u64)).unwrap();
            losses.push(learner.take_total().unwrap() / clips as f64);
        }
    }
    losses.truncate(steps);
    losses
}

fn learner<'a>(job: &'a Job, features: &'a Features, seed: u64, precision: Precision) -> HostLearner<'a> {
    HostLearner::new(job, features, &fresh_weights(&job.model, seed).unwrap(), precision).unwrap()
}

/// What the network sees, standardised, and the classes: raw, little-endian.
fn write_clips(model: &str, folder: &Path) {
    let (_, features) = example(model, 1, Device::Cpu);
    fs::create_dir_all(folder).unwrap();
    let rows: Vec<i64> = (0..CLIPS as i64).collect();
    let mut values = Vec::new();
    features.gather(&rows, &mut values);
    let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>();
    fs::write(folder.join("features.f32"), bytes).unwrap();
    let bytes = features.classes().iter().flat_map(|class| class.to_le_bytes()).collect::<Vec<_>>();
    fs::write(folder.join("labels.i64"), bytes).unwrap();
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
    let numbers = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(numbers.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap())
}
