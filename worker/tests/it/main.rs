//! Tests of the worker's library: training on made-up features, agreement with PyTorch, and the agent against a coordinator
//! that misbehaves on purpose.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test may fail by panicking

mod agent;
mod aware;
mod coordinator;
mod distil;
mod fused;
mod golden;
mod jobs;
mod midway;
mod models;
mod recipes;
mod slot;
mod training;
mod views;
