//! What a person at the terminal sees: a bar a run. Elsewhere, one log line an epoch.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use earshot_common::{ids::FoldId, job::Epoch};
use earshot_proto::earshot::v1::Grant;
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::timer::Estimate;

/// Times a second that bars are drawn.
const DRAWS_HZ: u8 = 5;

/// Where progress is shown. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Board(Option<Arc<Bars>>);

#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    slots: Vec<ProgressBar>,
}

/// One attempt's place on the board.
#[derive(Debug)]
pub struct Line {
    bar: Option<ProgressBar>,
    /// "trial 3 fold 1", with the attempt's number from the second on.
    name: String,
    slot: usize,
    trial: u32,
    fold: FoldId,
    attempt: u32,
    epochs: u32,
    left: Mutex<Estimate>,
}

impl Board {
    /// Bars on the terminal's error stream, one for each run that is trained at once.
    pub fn bars(slots: usize) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_HZ));
        let style = ProgressStyle::with_template("slot {prefix:>2} {bar:16} {pos:>3}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let slots = (0..slots).map(|slot| {
            let bar = all.add(ProgressBar::new(0).with_style(style.clone()).with_prefix(slot.to_string()));
            bar.set_message("waiting for work");
            bar
        });
        let slots = slots.collect();
        Self(Some(Arc::new(Bars { all, slots })))
    }

    /// One log line.
    pub fn say(&self, message: &str) {
        tracing::info!("{message}");
    }

    /// An attempt begins in a slot.
    pub fn begin(&self, slot: usize, grant: &Grant) -> Line {
        let recipe = grant.job.as_ref().and_then(|job| job.recipe.as_ref());
        let epochs = recipe.map_or(0, |recipe| recipe.epochs);
        let Grant { trial, attempt, .. } = *grant;
        let fold = FoldId(grant.fold);
        let again = if attempt > 1 { format!(" attempt {attempt}") } else { String::new() };
        let name = format!("trial {trial} fold {fold}{again}");
        let bar = self.0.as_ref().and_then(|bars| bars.slots.get(slot)).cloned();
        if let Some(bar) = &bar {
            bar.reset();
            bar.set_length(u64::from(epochs));
            bar.set_message(name.clone());
        } else {
            tracing::info!(slot, trial, %fold, attempt, epochs, "started");
        }
        Line { bar, name, slot, trial, fold, attempt, epochs, left: Estimate::start().into() }
    }

    /// Where log lines go, so that they do not tear the bars.
    pub fn writer(&self) -> LogWriter {
        LogWriter(self.clone())
    }
}

impl Line {
    /// An epoch is over.
    pub fn epoch(&self, epoch: &Epoch) {
        let Epoch { epoch: number, train_loss, loss, accuracy, macro_f1, int8_accuracy } = epoch;
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).left(*number, self.epochs);
        let Self { slot, trial, fold, attempt, epochs, .. } = self;
        if let Some(bar) = &self.bar {
            let left = left.map(|left| format!(", {} left", HumanDuration(left))).unwrap_or_default();
            let int8 = int8_accuracy.map(|int8| format!(" int8 {int8:.3}")).unwrap_or_default();
            let metrics = format!("loss {loss:.4} accuracy {accuracy:.3} macro-F1 {macro_f1:.3}{int8}");
            bar.set_position(u64::from(*number));
            bar.set_message(format!("{}: {metrics}{left}", self.name));
        } else {
            let left_s = left.map(|left| left.as_secs());
            // Log lines are read by people as well.
            let [train_loss, loss, accuracy, macro_f1] =
                [train_loss, loss, accuracy, macro_f1].map(|value| (value * 1e4).round() / 1e4);
            tracing::info!(
                slot,
                trial,
                %fold,
                attempt,
                epochs,
                epoch = number,
                left_s,
                train_loss,
                loss,
                accuracy,
                macro_f1,
                int8_accuracy,
                "epoch"
            );
        }
    }

    /// The attempt is over.
    pub fn end(&self, how: &str) {
        let Self { slot, trial, fold, attempt, .. } = self;
        tracing::info!(slot, trial, %fold, attempt, "{how}");
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_message("waiting for work");
        }
    }
}

/// Writes log lines to the error stream, above the bars if there are any.
#[derive(Debug, Clone)]
pub struct LogWriter(Board);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0.0 {
            Some(bars) => bars.all.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
