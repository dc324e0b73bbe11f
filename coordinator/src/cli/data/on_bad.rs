//! What clips that cannot be used mean to a command.

use clap::{Args, ValueEnum};
use earshot_data::manifest::Problem;

/// Problems that are printed when they are skipped.
const SHOWN: usize = 20;

/// Whether a command goes on without bad clips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(in crate::cli) enum OnBad {
    /// Go on without them
    #[default]
    Skip,
    /// List all of them and fail
    Fatal,
}

/// The flag.
#[derive(Debug, Clone, Copy, Args)]
pub(in crate::cli) struct OnBadArgs {
    /// What to do about clips that are missing, unlisted, unreadable, cut short, silent or mislabelled; they are listed
    /// in any case
    #[arg(long, value_enum, value_name = "WHAT", default_value = "skip")]
    pub(in crate::cli) on_bad: OnBad,
}

/// There are clips that cannot be used, and the user said that there must not be.
#[derive(Debug, thiserror::Error)]
#[error("{0} clip(s) cannot be used: mend them, or leave them out with --on-bad skip")]
pub(in crate::cli) struct BadClips(usize);

impl OnBadArgs {
    /// Logs the problems: all of them if they end the command, otherwise the first few, for the manifest has the rest.
    ///
    /// # Errors
    /// There are problems and they are fatal.
    pub(in crate::cli) fn tell(self, problems: &[Problem]) -> Result<(), BadClips> {
        let shown = match self.on_bad {
            OnBad::Skip => SHOWN,
            OnBad::Fatal => usize::MAX,
        };
        for problem in problems.iter().take(shown) {
            tracing::warn!("left out {}: {}", problem.clip, problem.message);
        }
        if problems.len() > shown {
            tracing::warn!("and {} more; the manifest lists all of them", problems.len() - shown);
        }
        self.check(problems)
    }

    /// Fails if there are problems and they are fatal.
    ///
    /// # Errors
    /// [`BadClips`].
    pub(in crate::cli) fn check(self, problems: &[Problem]) -> Result<(), BadClips> {
        match self.on_bad {
            OnBad::Fatal if !problems.is_empty() => Err(BadClips(problems.len())),
            OnBad::Fatal | OnBad::Skip => Ok(()),
        }
    }
}
