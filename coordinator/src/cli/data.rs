//! Recordings and features, without a sweep.

use std::{
    mem,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use earshot_common::{frontend::FrontEnd, sweep::Sweep};
use earshot_data::{
    manifest::Manifest,
    prepare::{self, Options, PrepareError},
    synth::{self, SynthOptions},
};
use tokio::{runtime::Builder, task::spawn_blocking, time};

use super::{
    screen::{LogFormat, Screen},
    signals::{Signals, Stopped},
};

/// Problems that are printed; the manifest has all of them.
const PROBLEMS_SHOWN: usize = 20;

/// How often a folder is looked at that another command is preparing.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// About recordings and their features
#[derive(Debug, Clone, Subcommand)]
pub(super) enum DataCommand {
    Synth(SynthArgs),
    Prepare(PrepareArgs),
}

/// Make up recordings of ten classes in ESC-50's layout, to try things out
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator data synth
  coordinator data synth --out /tmp/clips --clips-per-class 10

The same seed gives the same files, byte for byte.")]
pub(super) struct SynthArgs {
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

/// Turn recordings into features: clean, compute MFCCs, write shards
///
/// `coordinator start` does this by itself. Only what is not done yet is done; Ctrl-C keeps what is.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator data prepare                              data/raw to data/processed, default front end
  coordinator data prepare --data ESC-50 --out esc50.features
  coordinator data prepare --sweep sweeps/grid.toml     with that sweep's front end and folders

The recordings' folder holds audio/ (WAV, FLAC, Ogg or MP3) and meta/esc50.csv, with the columns
filename,fold,target,category,esc10,src_file,take.")]
pub(super) struct PrepareArgs {
    /// Folder of the recordings [default: data/raw, or the sweep's]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Folder of the features [default: data/processed, or the sweep's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Take front end and folders from this sweep file
    #[arg(long, value_name = "FILE")]
    sweep: Option<PathBuf>,
}

pub(super) fn synth(args: &SynthArgs) -> anyhow::Result<ExitCode> {
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

pub(super) fn prepare(args: PrepareArgs) -> anyhow::Result<ExitCode> {
    let (front_end, data, out) = match &args.sweep {
        Some(file) => {
            let sweep = Sweep::load(file, &[])?;
            (sweep.front_end, sweep.data.root, sweep.data.processed)
        }
        None => (FrontEnd::default(), "data/raw".into(), "data/processed".into()),
    };
    let (data, out) = (args.data.unwrap_or(data), args.out.unwrap_or(out));
    let screen = Screen::start(LogFormat::Text);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let prepared = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        prepared(data, out.clone(), front_end, &screen, &mut signals).await
    })?;
    match prepared {
        Ok(manifest) => {
            let (clips, classes, shards) =
                (manifest.clips.len(), manifest.classes.len(), manifest.shards.len());
            eprintln!("{clips} clips of {classes} classes in {shards} shards are in {}", out.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(stopped) => {
            eprintln!("stopped; what is done is kept, run again to continue");
            Ok(stopped.exit_code())
        }
    }
}

/// Prepares a dataset and tells of its problems. A signal stops it at the next clip; a preparation of the same folder by
/// another command is waited for, and then leaves little to do.
pub(super) async fn prepared(
    data: PathBuf,
    out: PathBuf,
    front_end: FrontEnd,
    screen: &Screen,
    signals: &mut Signals,
) -> anyhow::Result<Result<Manifest, Stopped>> {
    let options = Options { data, out, front_end, cancel: Arc::default() };
    let mut is_waiting = false;
    loop {
        match attempt(&options, screen, signals).await? {
            Ok(Ok(manifest)) => {
                tell_problems(&manifest);
                return Ok(Ok(manifest));
            }
            Ok(Err(PrepareError::Busy(folder))) => {
                if !mem::replace(&mut is_waiting, true) {
                    tracing::info!("waiting for another preparation in {}", folder.display());
                }
                tokio::select! {
                    () = time::sleep(BUSY_PAUSE) => {}
                    stopped = signals.next() => return Ok(Err(stopped)),
                }
            }
            Ok(Err(error)) => {
                let what = format!("the recordings in {} cannot be prepared", options.data.display());
                return Err(error).context(what);
            }
            Err(stopped) => return Ok(Err(stopped)),
        }
    }
}

async fn attempt(
    options: &Options,
    screen: &Screen,
    signals: &mut Signals,
) -> anyhow::Result<Result<Result<Manifest, PrepareError>, Stopped>> {
    let (work, bar) = (options.clone(), screen.clips("preparing"));
    let mut preparing = spawn_blocking(move || prepare::prepare(&work, &bar));
    let (done, stopped) = tokio::select! {
        done = &mut preparing => (done, None),
        stopped = signals.next() => {
            options.cancel.store(true, Ordering::Relaxed);
            (preparing.await, Some(stopped))
        }
    };
    Ok(match (done.context("the preparation failed inside")?, stopped) {
        // It may have been done all the same, but whoever stopped it does not want what follows.
        (Err(PrepareError::Cancelled) | Ok(_), Some(stopped)) => Err(stopped),
        (done, _) => Ok(done),
    })
}

fn tell_problems(manifest: &Manifest) {
    let problems = &manifest.problems;
    for problem in problems.iter().take(PROBLEMS_SHOWN) {
        tracing::warn!("left out {}: {}", problem.clip, problem.message);
    }
    if problems.len() > PROBLEMS_SHOWN {
        tracing::warn!("and {} more; the manifest lists all of them", problems.len() - PROBLEMS_SHOWN);
    }
}
