//! Serves sweeps: holds the search space, hands out runs, keeps every result, exports the champion.
//!
//! In reading order:
//! - [`state`]: the mind, pure: `(state, event) → (state, decision)`.
//! - [`search`]: which point to try next, pure as well.
//! - [`leases`]: when a lease ends, with the time passed in.
//! - [`mind`]: both together: what happened in, answers out.
//! - [`store`]: the append-only log in redb.
//! - [`engine`]: the thread that applies, commits, then answers.
//! - [`clock`]: the only clock.
//! - [`preparing`]: what a sweep wants of its recordings; [`dataset`], [`blobs`]: what its jobs are made of, and where it lies.
//! - [`retrace`]: a log's decisions, made again.
//! - [`upkeep`]: a database's blobs against its log.
//! - [`views`]: what users are shown, pure.
//! - [`access`]: who may ask for what.
//! - [`watch`]: numbers for Prometheus.
//! - [`service`], [`client`]: both ends of the network.
//! - [`prune`]: a trained network without the filters that it needs least, pure; `pruner`: reads and writes what that takes.
//! - [`errands`]: runs the pruner and `quantiser`, which says whether the exported model has to be trained to bear int8.
//! - [`export`], [`bundle`]: the champion's bundle, made and used.
//! - [`cli`]: the command line.
//!
//! Deliberately absent: libtorch. The coordinator plans training and never does it.

pub mod access;
pub mod blobs;
pub mod bundle;
mod causes;
pub mod cli;
pub mod client;
pub mod clock;
pub mod dataset;
pub mod engine;
pub mod errands;
pub mod export;
pub mod leases;
pub mod mind;
pub mod preparing;
pub mod prune;
mod pruner;
mod quantiser;
pub mod retrace;
pub mod search;
pub mod service;
pub mod state;
pub mod store;
pub mod upkeep;
pub mod views;
pub mod watch;
