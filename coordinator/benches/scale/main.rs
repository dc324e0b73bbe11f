//! What a coordinator bears: simulated workers on real connections, and a sweep of 100,000 trials.
//!
//! - `site`: a coordinator in a process of its own, with its service on a socket and its log on a disk.
//! - `load`: workers that join, lease, report, finish and show life, and whose training takes no time.
//! - `volume`: a long sweep's log: how long it takes to open, what its state takes, how long looking at it takes.
//!
//! ```text
//! cargo bench -p coordinator --bench scale
//! cargo bench -p coordinator --bench scale -- --workers 1000 --seconds 20 --reports-hz 5000,20000 --format json
//! ```
//!
//! The folder of `--dir` should lie on the disk that a coordinator would have; a file system in memory syncs in no time.
//! `benches/optuna_scale.py` asks the same of Optuna's storages; `benches/scale.py` runs both.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark that cannot go on ends"
)]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock, and spawns what it awaits")]

mod load;
mod site;
mod volume;

use std::{env, fmt::Debug, path::PathBuf, str::FromStr, time::Duration};

use serde::Serialize;

use self::{
    load::{Load, Outcome},
    volume::Volume,
};

/// Epochs of a run: as many as `sweeps/grid.toml` gives it.
const EPOCHS: u32 = 10;

struct Arguments {
    /// One curve's point for each.
    workers: Vec<usize>,
    /// How long is measured.
    seconds: u64,
    /// Offered by the most of them together, where they do not go as fast as they can.
    reports_hz: Vec<f64>,
    /// Of the long sweep; 0: none.
    trials: u32,
    folder: PathBuf,
    is_json: bool,
}

#[derive(Serialize)]
struct Findings {
    /// Workers that report as fast as they are answered.
    eager: Vec<Outcome>,
    /// Workers that report at a rate.
    paced: Vec<Outcome>,
    volume: Option<Volume>,
}

fn main() {
    let given: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match given.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", folder] => return site::serve(folder.as_ref()),
        ["fill", folder, trials] => volume::fill(folder.as_ref(), trials.parse().unwrap()),
        ["open", folder] => return volume::open(folder.as_ref()),
        _ => {}
    }
    let arguments = arguments(given);
    let measured = Duration::from_secs(arguments.seconds);
    let run = |workers, reports_hz| {
        let outcome = load::run(&arguments.folder, Load { workers, reports_hz, measured });
        if !arguments.is_json {
            println!("{}", outcome.line());
        }
        outcome
    };
    if !arguments.is_json {
        println!("{}", Outcome::HEAD);
    }
    let eager = arguments.workers.iter().map(|&workers| run(workers, None)).collect();
    let most = arguments.workers.iter().copied().max().unwrap_or_default();
    let paced = arguments.reports_hz.iter().map(|&hz| run(most, Some(hz))).collect();
    let volume = (arguments.trials > 0).then(|| volume::run(&arguments.folder, arguments.trials));
    if arguments.is_json {
        println!("{}", serde_json::to_string(&Findings { eager, paced, volume }).unwrap());
    } else if let Some(volume) = volume {
        println!("{volume:#?}");
    }
}

fn arguments(given: Vec<String>) -> Arguments {
    let mut arguments = Arguments {
        workers: vec![10, 100, 1_000],
        seconds: 10,
        reports_hz: vec![5_000.0, 10_000.0, 20_000.0],
        trials: 100_000,
        folder: env::current_dir().unwrap(),
        is_json: false,
    };
    let mut given = given.into_iter();
    while let Some(flag) = given.next() {
        let value = given.next().unwrap_or_default();
        match flag.as_str() {
            "--workers" => arguments.workers = list(&value),
            "--seconds" => arguments.seconds = value.parse().unwrap(),
            "--reports-hz" => arguments.reports_hz = list(&value),
            "--trials" => arguments.trials = value.parse().unwrap(),
            "--dir" => arguments.folder = value.into(),
            "--format" => arguments.is_json = value == "json",
            other => {
                eprintln!(
                    "unknown {other}; known: --workers N,N --seconds N --reports-hz N,N --trials N --dir DIR --format json"
                );
                std::process::exit(2);
            }
        }
    }
    arguments
}

/// Numbers between commas; none of an empty text.
fn list<T: FromStr<Err: Debug>>(text: &str) -> Vec<T> {
    text.split(',').filter(|part| !part.is_empty()).map(|part| part.parse().unwrap()).collect()
}
