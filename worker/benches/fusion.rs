//! Samples a second of fused training, for 1 to 16 members, against one run alone in libtorch.
//!
//!     cargo bench -p worker --bench fusion                           # the reference model, on the first GPU if there is one
//!     cargo bench -p worker --bench fusion -- --model five-block --members 1,4,16 --device cpu
//!
//! `--format json` prints one object. On a GPU the clock counts, from the first step to the last one's loss; on the CPU the time that
//! the thread was on a core, as what else runs would count otherwise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement may stop at the first surprise"
)]

use std::{
    fs,
    time::{Duration, Instant},
};

use earshot_common::{job::Job, tensors::Tensors};
use tch::{Cuda, Device};
use worker::{
    control::Control,
    device::load_cuda,
    features::Features,
    fused::{Member, learner::FusedLearner},
    memory,
    network::fresh_weights,
    training::{device::DeviceLearner, schedule::Schedule},
};

use made_up::{CLIPS, example};

mod made_up;

/// Measured this many times, each side in turn; the fastest counts, the others had company.
const ROUNDS: usize = 5;
/// Epochs of one round: many batches on a GPU, which answers only at the end, few on a CPU.
const EPOCHS: [usize; 2] = [25, 2];

fn main() {
    if cfg!(debug_assertions) {
        return; // built as a test; it would measure nothing of interest
    }
    let args: Vec<String> = std::env::args().collect();
    let text = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).cloned();
    memory::keep_freed();
    tch::set_num_interop_threads(1);
    tch::set_num_threads(1);
    load_cuda();
    let wants_gpu = text("--device").is_none_or(|device| device != "cpu");
    let device = if wants_gpu && Cuda::is_available() { Device::Cuda(0) } else { Device::Cpu };
    let model = text("--model").unwrap_or_else(|| "reference".to_owned());
    let members = text("--members").unwrap_or_else(|| "1,2,4,8,16".to_owned());
    let members: Vec<usize> = members.split(',').map(|count| count.parse().expect("a number")).collect();

    // Seeds differ, so that no two members do the same.
    let (first, features) = example(&model, 1, device);
    let jobs: Vec<Job> = (0..*members.iter().max().expect("a number"))
        .map(|seed| {
            let mut job = first.clone();
            job.recipe.seed = seed as u64;
            job
        })
        .collect();
    let weights: Vec<Tensors> =
        jobs.iter().map(|job| fresh_weights(&job.model, job.recipe.seed).unwrap()).collect();
    let mut alone = Alone::new(&jobs[0], &features, &weights[0], device);
    let control = Control::default();
    let mut rows = Vec::new();
    for count in members {
        let members: Vec<Member<'_>> = jobs[..count]
            .iter()
            .map(|job| Member { job, features: &features, weights: None, control: &control })
            .collect();
        let weights: Vec<&Tensors> = weights[..count].iter().collect();
        let mut fused = FusedLearner::new(&members, &weights, device).unwrap();
        let [mut of_alone, mut of_fused] = [Duration::MAX; 2];
        for round in 0..=ROUNDS {
            let times = [
                measured(device, || alone.train(epochs(device))),
                measured(device, || train(&mut fused, epochs(device))),
            ];
            if round > 0 {
                of_alone = of_alone.min(times[0]);
                of_fused = of_fused.min(times[1]);
            }
        }
        let samples = (epochs(device) * CLIPS) as f64;
        rows.push((count, samples / of_alone.as_secs_f64(), samples * count as f64 / of_fused.as_secs_f64()));
    }
    print(&model, device, &rows, text("--format").is_some_and(|format| format == "json"));
}

fn print(model: &str, device: Device, rows: &[(usize, f64, f64)], is_json: bool) {
    if is_json {
        let rows = rows.iter().map(|(members, alone, fused)| {
            serde_json::json!({ "members": members, "alone": alone, "fused": fused })
        });
        println!(
            "{}",
            serde_json::json!({ "device": format!("{device:?}"), "rows": rows.collect::<Vec<_>>() })
        );
        return;
    }
    println!("{model}, batch 32, on {device:?}, samples/s\nmembers     alone     fused   fused/alone");
    for (members, alone, fused) in rows {
        println!("{members:7} {alone:9.0} {fused:9.0} {:13.2}", fused / alone);
    }
}

fn epochs(device: Device) -> usize {
    EPOCHS[usize::from(device == Device::Cpu)]
}

/// One run, as a process of its own would train it.
struct Alone<'a> {
    learner: DeviceLearner<'a>,
    schedule: Schedule,
}

impl<'a> Alone<'a> {
    fn new(job: &'a Job, features: &'a Features, weights: &Tensors, device: Device) -> Self {
        let mut learner = DeviceLearner::new(job, features, weights, device).unwrap();
        let schedule = Schedule::new(&job.recipe, learner.batches().count());
        Self { learner, schedule }
    }

    fn train(&mut self, epochs: usize) {
        for _ in 0..epochs {
            self.learner.batches().shuffle();
            for index in 0..self.learner.batches().count() {
                self.learner.step(index, self.schedule.pace(index as u64)).unwrap();
            }
            self.learner.take_total().unwrap();
        }
    }
}

fn train(fused: &mut FusedLearner<'_>, epochs: usize) {
    for _ in 0..epochs {
        fused.begin_epoch().unwrap();
        for index in 0..fused.count() {
            fused.step(index).unwrap();
        }
        fused.take_means().unwrap();
    }
}

fn measured(device: Device, work: impl FnOnce()) -> Duration {
    let (start, start_on_core) = (now(), on_core());
    work();
    if device == Device::Cpu { on_core().saturating_sub(start_on_core) } else { start.elapsed() }
}

#[expect(clippy::disallowed_methods, reason = "a measurement needs a clock")]
fn now() -> Instant {
    Instant::now()
}

/// Time that this thread has spent on a core: the first of the scheduler's three numbers.
fn on_core() -> Duration {
    let numbers = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(numbers.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap())
}
