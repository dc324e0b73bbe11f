//! What `benches/tabular` counts can be counted on: the same search gives the same replay, and a budget is kept to the epoch.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed; clippy sees only #[test] functions as tests"
)]

#[path = "../benches/tabular/replay.rs"]
mod replay;
#[path = "../benches/tabular/table.rs"]
mod table;

use std::collections::{BTreeMap, BTreeSet};

use earshot_common::sweep::{Halving, Search, Stop, Sweep};

use crate::{
    replay::{Told, replay},
    table::{MEAN_EPOCH_MS, Table},
};

const TRIALS: u32 = 40;
const EPOCHS: u32 = 27;
const ASHA: Stop = Stop::Asha(Halving { min_epochs: 1, reduction: 3 });
const BAYES: Search = Search::Bayes { startup: 5, rungs: true };
const TPE: Search = Search::Tpe { startup: 5, candidates: 24 };

fn sweep(table: &Table, search: Search, stop: Option<Stop>) -> Sweep {
    let mut sweep = table.sweep(search, stop, 11);
    sweep.budget.trials = Some(TRIALS);
    sweep
}

/// Of each trial the epochs that were reported.
fn epochs(told: &[Told]) -> BTreeMap<u32, Vec<u32>> {
    let mut epochs: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for one in told {
        epochs.entry(one.trial).or_default().push(one.epoch);
    }
    epochs
}

#[test]
fn the_table_is_whole() {
    let table = Table::read();
    assert_eq!((table.rows.len(), table.clips, table.best()), (384, 160, 139));
    let whole = table.rows.iter().filter(|row| row.curve.len() == EPOCHS as usize).count();
    let diverged = table.rows.iter().filter(|row| row.kept().is_none()).count();
    assert_eq!((whole, diverged), (383, 1));
    let points: BTreeSet<&[usize]> = table.rows.iter().map(|row| row.numbers.as_slice()).collect();
    assert_eq!(points.len(), 384);
    let mean = table.rows.iter().map(|row| row.epoch_ms).sum::<u64>() as f64 / 384.0;
    assert!((mean - MEAN_EPOCH_MS as f64).abs() < 1.0, "{mean}");
}

#[test]
fn the_same_search_gives_the_same_replay() {
    let table = Table::read();
    for (search, stop) in [(BAYES, Some(ASHA)), (TPE, None)] {
        let run = |seed: u64, workers| {
            let mut sweep = Sweep { seed, ..sweep(&table, search, stop) };
            // Enough to learn from results.
            sweep.budget.trials = Some(16);
            replay(&table, sweep, workers, |_| false)
        };
        let told = run(11, 8);
        assert_eq!(told, run(11, 8));
        assert_ne!(told, run(12, 8));
        assert_ne!(told, run(11, 1));
        assert!(told.is_sorted_by_key(|told| told.at_ms));
    }
}

#[test]
fn a_budget_is_kept_to_the_epoch() {
    let table = Table::read();
    for workers in [1, 8, 64] {
        let told = replay(&table, sweep(&table, Search::Sobol, None), workers, |_| false);
        let every: Vec<u32> = (1..=EPOCHS).collect();
        let epochs = epochs(&told);
        assert_eq!(epochs.len(), TRIALS as usize, "{workers} workers");
        assert!(epochs.values().all(|of_trial| *of_trial == every), "{workers} workers");
    }
}

/// A trial that is promoted goes on after the epoch at which it was held: none is trained twice.
#[test]
fn halving_trains_every_epoch_once() {
    let table = Table::read();
    for workers in [1, 8, 64] {
        let told = replay(&table, sweep(&table, Search::Sobol, Some(ASHA)), workers, |_| false);
        let epochs = epochs(&told);
        assert_eq!(epochs.len(), TRIALS as usize);
        let ends: Vec<u32> = epochs.values().map(|of_trial| of_trial.len() as u32).collect();
        assert!(epochs.values().zip(&ends).all(|(of_trial, end)| of_trial.iter().copied().eq(1..=*end)));
        assert!(ends.iter().all(|end| [1, 3, 9, EPOCHS].contains(end)), "{ends:?}");
        let held = ends.iter().filter(|end| **end == 1).count();
        assert!(held > TRIALS as usize / 3 && ends.contains(&EPOCHS), "{ends:?}");
    }
}

/// One worker's time is the sum of its epochs'; eight of them take less, and no less than an eighth.
#[test]
fn time_is_what_epochs_take() {
    let table = Table::read();
    let run = |workers| replay(&table, sweep(&table, Search::Random, None), workers, |_| false);
    let [alone, eight] = [1, 8].map(run);
    let at = |epoch| alone.iter().filter(move |told| told.epoch == epoch).map(|told| told.at_ms);
    let taken = at(1).zip(at(EPOCHS)).map(|(first, last)| (last - first) / u64::from(EPOCHS - 1));
    let end = |told: &[Told]| told.last().unwrap().at_ms;
    assert_eq!(taken.map(|epoch_ms| epoch_ms * u64::from(EPOCHS)).sum::<u64>(), end(&alone));
    assert!(end(&eight) * 8 >= end(&alone) && end(&eight) * 6 < end(&alone), "{}", end(&eight));
}
