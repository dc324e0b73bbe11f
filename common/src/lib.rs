//! What the coordinator and the worker both speak, and nothing else: no libtorch, no server, no audio.
//!
//! In reading order:
//! - [`ids`]: newtypes for everything that is numbered or named.
//! - [`frontend`]: how a waveform becomes features.
//! - [`model`]: which AudioCNN to build, and its exact cost before any training.
//! - [`int8`]: how int8 holds numbers.
//! - [`views`]: renderings of a clip, and the bank of them that a sweep needs.
//! - [`job`]: the one kind of work: model, recipe, shards; and what comes back from it.
//! - [`metrics`]: accuracy, macro-F1 and the confusion matrix they are read from.
//! - [`sweep`]: the sweep file, from TOML to a validated [`sweep::Sweep`], and the space it spans.
//! - [`blob`]: content-addressed storage.
//! - [`tensors`]: checkpoints and logits as safetensors.
//! - [`credentials`]: how a client shows who it is: its secret, and TLS.
//! - [`wire`]: the only place where protocol messages become these types and back.
//!
//! Deliberately absent: clocks, randomness beyond [`job::derive_seed`], sockets.

pub mod blob;
pub mod credentials;
pub mod frontend;
pub mod ids;
pub mod int8;
pub mod job;
pub mod metrics;
pub mod model;
pub mod sweep;
pub mod tensors;
pub mod views;
pub mod wire;
