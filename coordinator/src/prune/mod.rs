//! Structured pruning: whole filters and hidden units are taken out of a trained network, which leaves a smaller spec with
//! smaller weights, and no masks.
//!
//! In reading order:
//! - [`group`]: what can be removed, layer by layer.
//! - [`importance`]: which of it is worth least, as numbers that compare over the whole network.
//! - [`plan`]: which of it goes, so that a target is met.
//! - [`mod@slice`]: the spec and the weights of what stays.
//!
//! Everything here is pure: the same network, importances and target give the same bytes. Training what is left is a run like any
//! other.

pub mod error;
pub mod group;
pub mod importance;
pub mod plan;
pub mod slice;
#[cfg(test)]
mod tests;

pub use self::{
    error::PruneError,
    group::{Groups, Kept},
    importance::Importances,
    slice::Sliced,
};
