//! Turns recordings into shards of features, and reads them back.
//!
//! The way of a clip, in reading order:
//! - [`dataset`]: which clips there are, their classes, folds and sources; what is wrong with the list.
//! - [`decode`]: WAV, FLAC, Ogg Vorbis or MP3 bytes to samples, whatever the bytes are.
//! - [`resample`]: to one channel at the front end's rate.
//! - [`condition`]: trimmed, peak-normalised, brought to the fixed length.
//! - `spectrum`, [`mel`], [`decibels`], [`mfcc`]: librosa's features of that waveform.
//! - [`chain`]: the five steps above as one reusable worker.
//! - [`views`]: that waveform under graded augmentations, for training.
//! - [`shard`]: features of many clips as one immutable file.
//! - [`manifest`]: the shards, their clips in row order, and the problems found on the way.
//! - [`prepare`]: all of it for a whole dataset, in parallel, doing only what is not done yet.
//! - [`split`]: which rows train, validate and test.
//! - [`quality`]: what the recordings are like, and what is wrong with them.
//! - [`synth`]: a made-up dataset for demonstrations and tests.
//! - [`fuzz`]: every reader of untrusted bytes, as a fuzzer calls it.
//!
//! Byte for byte, the formats are in `SHARDS.md`. The recordings lie in `raw/` and `processed/` beside this crate, where git
//! ignores them.
//!
//! Deliberately absent: training-time augmentation (the worker's), the network, clocks, and any randomness that is not
//! seeded by an argument.

pub mod chain;
pub mod condition;
mod container;
pub mod dataset;
pub mod decibels;
pub mod decode;
mod file;
pub mod fuzz;
pub mod manifest;
pub mod mel;
pub mod mfcc;
pub mod prepare;
pub mod quality;
mod randomstate;
pub mod resample;
pub mod shard;
mod spectrum;
pub mod split;
pub mod synth;
pub mod views;
mod vorbis;
