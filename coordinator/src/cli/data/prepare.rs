//! From recordings to features, without a sweep or before one.

use std::{
    mem,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use earshot_common::{frontend::FrontEnd, sweep::Sweep, views::Bank};
use earshot_data::{
    manifest::Manifest,
    prepare::{self, Exports, Options, PrepareError},
};
use tokio::{runtime::Builder, task::spawn_blocking, time};

use super::{
    super::{
        screen::{LogFormat, Screen},
        signals::{Signals, Stopped},
    },
    on_bad::OnBadArgs,
};
use crate::preparing::options_of;

/// How often a folder is looked at that another command is preparing.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Turn recordings into features: clean, compute MFCCs, write shards
///
/// `coordinator start` does this by itself. Only what is not done yet is done; Ctrl-C keeps what is.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator data prepare                              data/raw to data/processed, default front end
  coordinator data prepare --data ESC-50 --out esc50.features
  coordinator data prepare --data sounds/mine.csv --on-bad fatal
  coordinator data prepare --exports none               shards only: for many clips on a small disk
  coordinator data prepare --sweep sweeps/grid.toml     with that sweep's front end, views and folders

Recordings are WAV, FLAC, Ogg or MP3. What they are is told by the first of these that is there:
  DIR/meta/esc50.csv   ESC-50's layout: filename,fold,target,category,esc10,src_file,take; files in DIR/audio
  DIR/clips.csv        filename,label[,fold][,source]; files relative to DIR, in any subfolder
  DIR/dog, DIR/rain    a folder for each class, with the class's name
Another list than these two is named by its path. Both at once are refused. A split of kind \"folds\" needs folds; without
sources every clip counts as one of its own.")]
pub(in crate::cli) struct PrepareArgs {
    /// Folder of the recordings, or their list [default: data/raw, or the sweep's]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Folder of the features [default: data/processed, or the sweep's]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Take front end, views and folders from this sweep file
    #[arg(long, value_name = "FILE")]
    sweep: Option<PathBuf>,

    /// What to write beside the shards; `start` goes on with what was chosen
    #[arg(long, value_enum, value_name = "WHAT", default_value = "all")]
    exports: WantedExports,

    #[command(flatten)]
    on_bad: OnBadArgs,
}

/// What is written beside the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WantedExports {
    /// Each clip, cleaned, its MFCCs and its spectrogram: about 2.6 MB for five seconds
    All,
    /// Nothing: training needs none of it
    None,
}

impl From<WantedExports> for Exports {
    fn from(wanted: WantedExports) -> Self {
        match wanted {
            WantedExports::All => Self::All,
            WantedExports::None => Self::Nothing,
        }
    }
}

pub(in crate::cli) fn prepare(args: PrepareArgs) -> anyhow::Result<ExitCode> {
    let mut options = match &args.sweep {
        Some(file) => options_of(&Sweep::load(file, &[])?),
        None => Options {
            data: "data/raw".into(),
            out: "data/processed".into(),
            front_end: FrontEnd::default(),
            bank: Bank::default(),
            exports: None,
            cancel: Arc::default(),
        },
    };
    options.data = args.data.unwrap_or(options.data);
    options.out = args.out.unwrap_or(options.out);
    options.exports = Some(args.exports.into());
    let out = options.out.clone();
    let screen = Screen::start(LogFormat::Text);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let prepared = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        prepared(&options, args.on_bad, &screen, &mut signals).await
    })?;
    match prepared {
        Ok(manifest) => {
            let (clips, classes, shards) =
                (manifest.clips.len(), manifest.classes.len(), manifest.shards.len());
            let views = match manifest.views.len() {
                0 => String::new(),
                levels => format!(", with {levels} augmented views of each clip,"),
            };
            eprintln!(
                "{clips} clips of {classes} classes in {shards} shards{views} are in {}",
                out.display()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(stopped) => {
            eprintln!("stopped; what is done is kept, run again to continue");
            Ok(stopped.exit_code())
        }
    }
}

/// Prepares a dataset and tells of its problems, which are an error if `on_bad` says so. A signal stops it at the next clip; a preparation of the same folder by
/// another command is waited for, and then leaves little to do.
pub(in crate::cli) async fn prepared(
    options: &Options,
    on_bad: OnBadArgs,
    screen: &Screen,
    signals: &mut Signals,
) -> anyhow::Result<Result<Manifest, Stopped>> {
    let mut is_waiting = false;
    loop {
        match attempt(options, screen, signals).await? {
            Ok(Ok(manifest)) => {
                tell_warnings(&manifest);
                on_bad.tell(&manifest.problems)?;
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

fn tell_warnings(manifest: &Manifest) {
    for warning in &manifest.warnings {
        tracing::warn!("{warning}");
    }
}
