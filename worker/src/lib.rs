//! A worker: takes leases from a coordinator into slots, trains, and reports every epoch.
//!
//! In reading order:
//! - [`cli`]: the command line, from flags to a running agent.
//! - [`agent`]: joining, leasing, reporting, heartbeats, leaving; everything that knows of the coordinator.
//! - [`slot`]: one thread that trains one run at a time; where an attempt's failures get their reasons.
//! - [`control`]: what the agent tells a running attempt: stop, drain, nobody wants it any more.
//! - [`blobs`]: content-addressed bytes, fetched once, kept on disk, verified always.
//! - [`features`]: shards to one standardised matrix in memory, shared by the slots that want the same.
//! - [`cpu`]: an AudioCNN on the CPU, with kernels of our own; [`network`]: in libtorch, for GPUs;
//!   `rounding`: the same, computing as its int8 file does, to be trained.
//! - [`fused`]: several runs of the same shapes as one computation in libtorch.
//! - [`training`]: the loop: epochs, optimiser, evaluation, the best weights.
//! - [`randomness`]: every draw of a run, from the run's seed and nothing else.
//! - [`device`]: CPU or GPU; [`room`]: the memory that runs may take; [`memory`]: how the process treats freed memory.
//! - [`torchscript`]: a bundle's float model, written by libtorch.
//! - [`progress`]: what a person at the terminal sees.
//!
//! Two invariants. Training runs on threads of its own, never on tokio's, and heartbeats are never tied to it. The same job
//! gives the same result, bit for bit, on the same CPU build, whatever the other slots do: nothing draws from torch's global
//! generator, and each slot computes with one thread.
//!
//! Deliberately absent: the sweep, the search and any choice of what to train; a worker does one kind of job.

pub mod agent;
pub mod blobs;
pub mod cli;
pub mod control;
pub mod cpu;
pub mod device;
pub mod features;
pub mod fused;
pub mod memory;
pub mod network;
pub mod progress;
pub mod randomness;
pub mod room;
mod rounding;
pub mod slot;
pub mod timer;
pub mod torchscript;
pub mod training;
