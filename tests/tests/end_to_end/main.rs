//! The promises, kept by the real binaries.
//!
//! - `harness`: starts coordinators and workers, and asks them.
//! - `sweep`: a whole sweep, and what commands print of it.
//! - `faults`: coordinators and workers that go away; each test asserts that the fault struck in the middle.
//! - `killer`: faults that a seed draws; `dice`: everything random.
//! - `full_disk`: disks without room, and what happens when there is some again.
//! - `memory`: workers with less memory than a run needs.
//! - `damage`: databases and blobs that a disk has damaged, as commands see them.
//! - `hosts`: several hosts, as network namespaces; a link that is cut and healed.
//! - `access`: a sweep behind tokens and TLS.
//! - `views`: a sweep that trains on augmented views.
//! - `replay`: completed trials trained again, bit for bit.
//! - `stopped`: trials that are held at rungs, and promoted.
//! - `watch`: statuses, numbers and log lines, as machines read them.
//! - `export`: the exported files in ONNX Runtime.
//! - `predict`: the exported bundle in use, by the command line and by its own Python script.
//! - `linkage`: which binary links what.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed; clippy sees only #[test] functions as tests"
)]

mod access;
mod damage;
mod dice;
mod export;
mod faults;
mod full_disk;
mod fusion;
mod harness;
mod hosts;
mod killer;
mod linkage;
mod memory;
mod predict;
mod pruning;
mod quantising;
mod replay;
mod stopped;
mod submit;
mod sweep;
mod views;
mod watch;
