//! How long searches take to find a good configuration: learning curves of 384 small networks, recorded once, replayed in simulated
//! time by 1, 8 and 64 workers through the coordinator's own mind.
//!
//! ```text
//! cargo bench -p coordinator --bench tabular
//! cargo bench -p coordinator --bench tabular -- --seeds 20 --format json
//! cargo bench -p coordinator --bench tabular -- --method bayes+asha
//! ```
//!
//! - `table`: the curves, and what an epoch of each takes.
//! - `replay`: workers that look results up, and simulated time.
//!
//! A search ends when a trial's accuracy, that of its epoch of least loss so far, is within so many points of the table's best.
//! `benches/optuna_tabular.py` asks Optuna the same; `benches/tabular.py` runs both.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark that cannot go on ends"
)]

mod replay;
mod table;

use std::{collections::BTreeMap, env, thread};

use earshot_common::sweep::{Halving, Search, Stop};

use crate::{
    replay::replay,
    table::{MEAN_EPOCH_MS, Table},
};

/// Workers, each of one slot.
const WORKERS: [usize; 3] = [1, 8, 64];
/// How near the best, in points of accuracy.
const WITHIN: [f64; 2] = [1.0, 2.0];
/// The defaults of a sweep file.
const STARTUP: u32 = 10;
const CANDIDATES: u32 = 24;
const HALVING: Halving = Halving { min_epochs: 1, reduction: 3 };
const MEDIAN: Stop = Stop::Median { min_epochs: 1, startup: 5 };

/// Every search with every way of stopping, by name.
fn methods() -> Vec<(String, Search, Option<Stop>)> {
    let bayes = |rungs| Search::Bayes { startup: STARTUP, rungs };
    let searches = [
        ("random", Search::Random),
        ("sobol", Search::Sobol),
        ("tpe", Search::Tpe { startup: STARTUP, candidates: CANDIDATES }),
        ("bayes", bayes(false)),
        ("bayes, rungs", bayes(true)),
    ];
    let stops = [
        ("", None),
        ("+asha", Some(Stop::Asha(HALVING))),
        ("+hyperband", Some(Stop::Hyperband(HALVING))),
        ("+median", Some(MEDIAN)),
    ];
    let pairs = searches.into_iter().flat_map(|search| stops.map(|stop| (search, stop)));
    let has_rungs = |stop| matches!(stop, Some(Stop::Asha(_) | Stop::Hyperband(_)));
    let makes_sense = pairs.filter(|((_, search), (_, stop))| *search != bayes(true) || has_rungs(*stop));
    makes_sense.map(|((search, how), (name, stop))| (format!("{search}{name}"), how, stop)).collect()
}

/// Fewest clips that are within so many points of the best.
fn enough(table: &Table, points: f64) -> u32 {
    (f64::from(table.best()) - points / 100.0 * f64::from(table.clips)).ceil() as u32
}

/// When a search came within each of `WITHIN`, in epochs of the mean configuration; none if it never did.
fn times(
    table: &Table,
    (search, stop): (Search, Option<Stop>),
    seed: u64,
    workers: usize,
) -> [Option<u64>; 2] {
    let wanted = WITHIN.map(|points| enough(table, points));
    let told = replay(table, table.sweep(search, stop, seed), workers, |told| told.clips >= wanted[0]);
    wanted.map(|clips| told.iter().find(|told| told.clips >= clips).map(|first| first.at_ms))
}

/// Of every seed, on as many threads as there are cores.
fn over_seeds(
    table: &Table,
    how: (Search, Option<Stop>),
    seeds: u64,
    workers: usize,
) -> Vec<[Option<u64>; 2]> {
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let part = |first: u64| {
        (first..seeds).step_by(threads as usize).map(|seed| (seed, times(table, how, seed, workers)))
    };
    let mut found: Vec<_> = thread::scope(|scope| {
        let parts: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || part(first).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    found.sort_by_key(|(seed, _)| *seed);
    found.into_iter().map(|(_, times)| times).collect()
}

/// What the other side needs to know of the table: what an epoch of each configuration takes, in the order of the grid, and how many
/// of them are good.
fn told_of(table: &Table) -> serde_json::Value {
    let enough = WITHIN.map(|points| enough(table, points));
    let good = enough.map(|clips| table.rows.iter().filter(|row| row.kept() >= Some(clips)).count());
    // Their accuracy may fall again before the last epoch.
    let is_ever = |row: &table::Row, clips| (1..=row.curve.len()).any(|end| row.kept_by(end) >= Some(clips));
    let ever = enough.map(|clips| table.rows.iter().filter(|row| is_ever(row, clips)).count());
    let epochs: Vec<_> = table.rows.iter().map(|row| (&row.numbers, row.epoch_ms)).collect();
    serde_json::json!({ "epochs_ms": epochs, "mean_epoch_ms": MEAN_EPOCH_MS, "best": table.best(),
                        "clips": table.clips, "within": WITHIN, "enough": enough, "good": good, "ever": ever })
}

/// In epochs of the mean configuration.
fn median(times: impl Iterator<Item = Option<u64>>) -> f64 {
    let epochs = |ms: u64| ms as f64 / MEAN_EPOCH_MS as f64;
    let mut times: Vec<f64> = times.map(|time| time.map_or(f64::INFINITY, epochs)).collect();
    times.sort_by(f64::total_cmp);
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) {
        f64::midpoint(times[middle - 1], times[middle])
    } else {
        times[middle]
    }
}

fn main() {
    let (mut seeds, mut is_json, mut only) = (5, false, None);
    let mut given = env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(flag) = given.next() {
        let value = given.next().unwrap_or_default();
        match flag.as_str() {
            "--seeds" => seeds = value.parse().unwrap(),
            "--format" => is_json = value == "json",
            "--method" => only = Some(value),
            other => {
                eprintln!("unknown {other}; known: --seeds N --format json --method NAME");
                std::process::exit(2);
            }
        }
    }
    let table = Table::read();
    let mut found = BTreeMap::new();
    for (name, search, stop) in methods() {
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        for workers in WORKERS {
            let times = over_seeds(&table, (search, stop), seeds, workers);
            if !is_json {
                let medians = [0, 1].map(|within| median(times.iter().map(|of_seed| of_seed[within])));
                println!("{name}, {workers} workers: {medians:.0?} epochs");
            }
            found.insert(format!("{name}|{workers}"), times);
        }
    }
    let told = told_of(&table);
    if is_json {
        println!("{}", serde_json::json!({ "times": found, "table": told }));
    } else {
        println!(
            "best {} clips; enough {}, of {} and at some epoch of {} configurations",
            told["best"], told["enough"], told["good"], told["ever"]
        );
    }
}
