//! Recordings and features, without a sweep.
//!
//! - `synth`: made-up recordings.
//! - `prepare`: features of recordings; `start` does the same.
//! - `inspect`: what recordings are like.
//! - `on_bad`: what a clip that cannot be used means to a command.

mod inspect;
mod on_bad;
mod prepare;
mod synth;

use clap::Subcommand;

pub(super) use self::{
    inspect::inspect,
    on_bad::OnBadArgs,
    prepare::{prepare, prepared},
    synth::synth,
};

/// About recordings and their features
#[derive(Debug, Clone, Subcommand)]
pub(super) enum DataCommand {
    Synth(synth::SynthArgs),
    Prepare(prepare::PrepareArgs),
    Inspect(inspect::InspectArgs),
}
