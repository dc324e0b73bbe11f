//! Recordings that are made up.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use earshot_data::synth::{self, SynthOptions};

use super::super::screen::{LogFormat, Screen};

/// Make up recordings of ten classes in ESC-50's layout, to try things out
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator data synth
  coordinator data synth --out /tmp/clips --clips-per-class 10

The same seed gives the same files, byte for byte.")]
pub(in crate::cli) struct SynthArgs {
    /// Folder to make them in
    #[arg(long, value_name = "DIR", default_value = "data/raw")]
    out: PathBuf,

    /// Clips of each class
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clips_per_class: u32,

    /// Everything random is drawn from this
    #[arg(long, value_name = "S", default_value_t = 42)]
    seed: u64,
}

pub(in crate::cli) fn synth(args: &SynthArgs) -> anyhow::Result<ExitCode> {
    let screen = Screen::start(LogFormat::Text);
    let options = SynthOptions {
        clips_per_class: args.clips_per_class,
        seed: args.seed,
        ..SynthOptions::new(args.out.clone())
    };
    synth::synth(&options, &screen.clips("making"))?;
    eprintln!("{} clips of each of ten classes are in {}", args.clips_per_class, args.out.display());
    Ok(ExitCode::SUCCESS)
}
