//! The coordinator's mind under ten thousand seeded disasters: simulated time, network, disk, workers and faults, in one
//! process and without a socket.
//!
//! - `world`: the agenda of everything that is going to happen, and the loop over it.
//! - `site`: the coordinator: the real [`coordinator::mind::Mind`], driven as the engine drives it, on a disk that is slow
//!   and in a process that dies.
//! - `agent`: a worker as the real one behaves: asks, shows life, trains, reports, insists, dies.
//! - `errands`: who cuts and quantises what is due, slowly, twice, or not at all.
//! - `liar`: one that does none of that properly.
//! - `message`: what they say to each other, and the network that loses it.
//! - `oracle`: the promises, kept as a model of its own beside the state machine's, and what breaks them.
//! - `replays`: the part of it that is about replays.
//! - `plan`, `dice`, `sweeps`: what a seed means.
//! - `coverage`: proof that the faults did happen.
//!
//! One seed again, with everything that happens in it: `EARSHOT_SEED=7 cargo test -p coordinator --test simulation -- --nocapture`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed; clippy sees only #[test] functions as tests"
)]

mod agent;
mod coverage;
mod dice;
mod errands;
mod liar;
mod message;
mod oracle;
mod plan;
mod replays;
mod site;
mod sweeps;
mod world;

use std::{
    env,
    panic::{self, AssertUnwindSafe},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use self::{coverage::Coverage, world::World};

/// Seeds of one run of the test.
const SEEDS: u64 = 10_000;

/// Names the one seed to simulate, and has everything in it printed.
const SEED: &str = "EARSHOT_SEED";

#[test]
fn no_fault_loses_repeats_or_invents_a_run() {
    if let Ok(seed) = env::var(SEED) {
        let seed = seed.parse().unwrap_or_else(|_| panic!("{SEED} is a number, got {seed:?}"));
        println!("{:#?}", World::telling(seed).run());
        return;
    }
    let next = AtomicU64::new(0);
    let total = Mutex::new(Coverage::default());
    let failed = Mutex::new(Vec::new());
    let simulate = || {
        let mut covered = Coverage::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= SEEDS || !failed.lock().unwrap().is_empty() {
                break;
            }
            match panic::catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
                Ok(seen) => covered.add(&seen),
                Err(_) => failed.lock().unwrap().push(seed),
            }
        }
        total.lock().unwrap().add(&covered);
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(simulate);
        }
    });
    let failed = failed.into_inner().unwrap();
    if let Some(seed) = failed.first() {
        panic!(
            "seed {seed} breaks a promise, as printed above; see all of it with\n  \
             {SEED}={seed} cargo test -p coordinator --test simulation -- --nocapture"
        );
    }
    let total = total.into_inner().unwrap();
    println!("{total:#?}");
    assert_eq!(total.missing(), [""; 0], "faults that never happened in {SEEDS} seeds");
}
