//! What a person at the terminal sees: bars and log lines that do not tear each other. Elsewhere, log lines only.

use std::{
    env,
    io::{self, IsTerminal, Write},
    ops::Deref,
    time::Duration,
};

use clap::ValueEnum;
use earshot_data::prepare::{ClipOutcome, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Times a second that bars are drawn.
const DRAWS_HZ: u8 = 5;

/// How often a spinner moves.
const SPIN: Duration = Duration::from_millis(100);

/// The environment's say in what is logged; the first that is set counts.
const LOG_VARIABLES: [&str; 2] = ["EARSHOT_LOG", "RUST_LOG"];

/// What is logged unless the environment says otherwise: our own crates tell what they do, others only what is wrong.
const QUIET: &str = "warn,coordinator=info,earshot_data=info,earshot_common=info";

/// Bars of a preparation, as indicatif's templates.
const CLIPS: &str = "{prefix} {bar:32} {pos}/{len} clips, {eta} left {msg}";
const VIEWS: &str = "{prefix} {bar:32} {pos}/{len} views, {eta} left {msg}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What the environment wants logged. A filter that cannot be read is said to be so, and does not count.
fn filter() -> EnvFilter {
    let wanted = LOG_VARIABLES.into_iter().find_map(|name| env::var(name).ok().map(|text| (name, text)));
    let Some((name, text)) = wanted else { return EnvFilter::new(QUIET) };
    EnvFilter::try_new(text).unwrap_or_else(|error| {
        eprintln!(
            "{name} is no filter of log lines: {error}; one is, for example, debug, or warn,coordinator=debug"
        );
        EnvFilter::new(QUIET)
    })
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    /// For people
    Text,
    /// One object a line, for machines; shows no progress bars
    Json,
}

/// The error stream, where progress is shown. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    bars: MultiProgress,
}

impl Screen {
    /// Starts logging to the error stream; there are bars as well when that is a terminal and people read it.
    pub(super) fn start(format: LogFormat) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = match format {
            LogFormat::Text if is_terminal => ProgressDrawTarget::stderr_with_hz(DRAWS_HZ),
            LogFormat::Text | LogFormat::Json => ProgressDrawTarget::hidden(),
        };
        let screen = Self { bars: MultiProgress::with_draw_target(target) };
        let filter = filter();
        let log =
            tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(screen.clone());
        match format {
            LogFormat::Text => log.with_ansi(is_terminal).init(),
            LogFormat::Json => log.json().init(),
        }
        screen
    }

    /// Whether bars are shown, so that log lines need not tell the same.
    pub(super) fn has_bars(&self) -> bool {
        !self.bars.is_hidden()
    }

    /// A bar; the template is indicatif's.
    pub(super) fn bar(&self, template: &str) -> Bar {
        Bar(self.bars.add(ProgressBar::new(0).with_style(style(template))))
    }

    /// A spinner that says what is being done.
    pub(super) fn spinner(&self) -> Bar {
        let spinner = self.bars.add(ProgressBar::new_spinner());
        spinner.enable_steady_tick(SPIN);
        Bar(spinner)
    }

    /// A bar for a preparation of clips.
    pub(super) fn clips(&self, doing: &'static str) -> Clips {
        let bar = self.bar(CLIPS);
        bar.set_prefix(doing);
        Clips { bar, doing }
    }
}

/// A bar that is taken off the screen when it is dropped, however that comes about.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Deref for Bar {
    type Target = ProgressBar;

    fn deref(&self) -> &ProgressBar {
        &self.0
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Shows how far a preparation has got.
#[derive(Debug)]
pub(super) struct Clips {
    bar: Bar,
    doing: &'static str,
}

impl Progress for Clips {
    fn start(&self, clips: u64) {
        self.bar.set_length(clips);
        if self.bar.is_hidden() {
            tracing::info!("{} {clips} clips", self.doing);
        }
    }

    fn clip_done(&self, name: &str, outcome: ClipOutcome) {
        self.bar.inc(1);
        if outcome == ClipOutcome::LeftOut {
            self.bar.set_message(format!("(left out {name})"));
        }
    }

    fn start_views(&self, views: u64) {
        self.bar.reset();
        self.bar.set_style(style(VIEWS));
        self.bar.set_prefix("rendering");
        self.bar.set_length(views);
        if self.bar.is_hidden() {
            tracing::info!("rendering {views} views");
        }
    }

    fn views_done(&self, views: u64) {
        self.bar.inc(views);
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
