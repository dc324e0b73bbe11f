//! What the recordings are like, and what is wrong with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use earshot_common::{
    frontend::FrontEnd,
    sweep::{Split, Sweep},
};
use earshot_data::{
    dataset::Dataset,
    manifest::ClipEntry,
    quality::{self, ChosenSplit, ClipReport, Report, Survey, page},
};

use super::{
    super::{
        ask::OutputArgs,
        document,
        render::{self, Document, Grid},
        screen::{LogFormat, Screen},
    },
    on_bad::OnBadArgs,
};
use crate::dataset;

/// Clips in a table; JSON and CSV have all of them.
const CLIPS_SHOWN: usize = 10;

/// Classes in a table.
const CLASSES_SHOWN: usize = 60;

/// Columns of a clip, as in proto/README.md.
const CLIP_COLUMNS: [&str; 21] = [
    "clip",
    "file",
    "class",
    "fold",
    "source",
    "bytes",
    "sample_rate_hz",
    "channels",
    "duration_s",
    "peak",
    "peak_dbfs",
    "rms_dbfs",
    "clipped_samples",
    "clipped_share",
    "clipped_runs",
    "dc_offset",
    "leading_silence_s",
    "trailing_silence_s",
    "trimmed_s",
    "noise_floor_dbfs",
    "audio",
];

/// Measure every recording and tell what is wrong with it
///
/// Nothing is changed. Silence is what the front end's trimming takes away; leakage is that of the sweep's split, or of the
/// dataset's own folds.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator data inspect                              the recordings in data/raw
  coordinator data inspect --data ESC-50 --html esc50.html
  coordinator data inspect --sweep sweeps/grid.toml     with that sweep's recordings, front end and split
  coordinator data inspect --format csv > clips.csv     a row for each clip
  coordinator data inspect --on-bad fatal               1 if a clip cannot be used

How recordings are laid out: coordinator data prepare --help")]
pub(in crate::cli) struct InspectArgs {
    /// Folder of the recordings, or their list [default: data/raw, or the sweep's]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,

    /// Take recordings, front end and split from this sweep file
    #[arg(long, value_name = "FILE")]
    sweep: Option<PathBuf>,

    /// Write the report with plots here, as one HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    #[command(flatten)]
    on_bad: OnBadArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(in crate::cli) fn inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let sweep = args.sweep.as_ref().map(|file| Sweep::load(file, &[])).transpose()?;
    let root = sweep.as_ref().map_or_else(|| PathBuf::from("data/raw"), |sweep| sweep.data.root.clone());
    let front_end = sweep.as_ref().map_or_else(FrontEnd::default, |sweep| sweep.front_end.clone());
    let data = args.data.clone().unwrap_or(root);
    let screen = Screen::start(LogFormat::Text);
    let dataset = Dataset::read(&data)
        .with_context(|| format!("the recordings in {} cannot be inspected", data.display()))?;
    let survey = quality::survey(dataset, &front_end, &screen.clips("inspecting"));
    let split = chosen(sweep.map(|sweep| sweep.split), &survey);
    let report = Report::new(data.display().to_string(), survey, &front_end, split.as_ref());
    if let Some(file) = &args.html {
        write(file, &page::page(&report))?;
    }
    render::print(&document(&report)?, args.output.format)?;
    args.on_bad.check(&report.problems)?;
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, html: &str) -> anyhow::Result<()> {
    fs::write(file, html).with_context(|| format!("cannot write the report to {}", file.display()))
}

/// The sweep's split; without a sweep every one of the dataset's folds validates in turn.
fn chosen(split: Option<Split>, survey: &Survey) -> Option<ChosenSplit> {
    let entries: Vec<ClipEntry> = survey.clips.iter().map(ClipReport::entry).collect();
    let split = split.or_else(|| {
        let mut folds: Vec<u32> = entries.iter().filter_map(|clip| clip.fold).collect();
        folds.sort_unstable();
        folds.dedup();
        (!folds.is_empty()).then_some(Split::Folds { validation: folds, test: vec![] })
    })?;
    let made = dataset::splits(&split, &entries);
    let splits = made
        .map(|splits| splits.into_iter().map(|(fold, split)| (fold.0, split)).collect())
        .map_err(|error| format!("{:#}", anyhow::Error::from(error)));
    Some(ChosenSplit { name: describe(&split), splits })
}

fn describe(split: &Split) -> String {
    let list = |folds: &[u32]| folds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match split {
        Split::Folds { validation, test } if test.is_empty() => {
            format!("the dataset's folds; validation {}", list(validation))
        }
        Split::Folds { validation, test } => {
            format!("the dataset's folds; validation {}, test {}", list(validation), list(test))
        }
        Split::Grouped(sizes) => {
            format!("grouped by source; validation {}, test {}", sizes.validation_size, sizes.test_size)
        }
        Split::Holdout(sizes) => {
            format!("stratified hold-out; validation {}, test {}", sizes.validation_size, sizes.test_size)
        }
    }
}

fn document(report: &Report) -> anyhow::Result<Document> {
    let totals = &report.totals;
    let minutes = |seconds: f64| format!("{:.1} min", seconds / 60.0);
    let mut facts = vec![
        ("data", format!("{} ({})", report.data, report.layout)),
        ("clips", format!("{} of {} classes, from {} sources", totals.clips, totals.classes, totals.sources)),
        ("problems", report.problems.len().to_string()),
        ("duration", format!("{}, {} after trimming", minutes(totals.duration_s), minutes(totals.trimmed_s))),
    ];
    if !report.leakage.split.is_empty() {
        facts.push(("split", report.leakage.split.clone()));
    }
    Ok(Document {
        json: document::json(report)?,
        facts,
        grids: vec![findings(report), classes(report), worst(report)],
        csv: clips(report),
    })
}

fn findings(report: &Report) -> Grid {
    let mut grid = Grid::new(["severity", "finding", "what was found"]);
    grid.rows.extend(
        report.findings.iter().map(|finding| {
            vec![finding.severity.to_string(), finding.kind.clone(), wrapped(&finding.message)]
        }),
    );
    grid
}

/// A message on lines of a width that fits beside the other columns.
fn wrapped(message: &str) -> String {
    const WIDTH: usize = 90;
    let (mut lines, mut line) = (Vec::new(), String::new());
    for word in message.split(' ') {
        if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
}

fn classes(report: &Report) -> Grid {
    let mut grid = Grid::new([
        "class",
        "clips",
        "sources",
        "minutes",
        "trimmed",
        "short",
        "rms_dbfs",
        "noise_floor_dbfs",
    ]);
    grid.rows.extend(report.classes.iter().take(CLASSES_SHOWN).map(|class| {
        let [clips, sources, short] =
            [class.clips, class.sources, class.short].map(|count| count.to_string());
        let [minutes, trimmed] =
            [class.duration_s, class.trimmed_s].map(|time| format!("{:.1}", time / 60.0));
        let [rms, noise] = [class.rms_dbfs, class.noise_floor_dbfs].map(|level| rounded(level, 1));
        vec![class.class.clone(), clips, sources, minutes, trimmed, short, rms, noise]
    }));
    grid
}

/// The clips to listen to first.
fn worst(report: &Report) -> Grid {
    let columns = [
        "listen to",
        "class",
        "duration_s",
        "trimmed_s",
        "peak_dbfs",
        "rms_dbfs",
        "noise_floor_dbfs",
        "clipped_runs",
        "dc_offset",
    ];
    let mut grid = Grid::new(columns);
    grid.rows.extend(report.worst_clips().into_iter().take(CLIPS_SHOWN).map(|clip| {
        let measures = &clip.measures;
        let [duration, trimmed] = [measures.duration_s, measures.trimmed_s].map(|time| format!("{time:.2}"));
        let levels = [measures.peak_dbfs, measures.rms_dbfs, measures.noise_floor_dbfs];
        let [peak, rms, noise] = levels.map(|level| rounded(level, 1));
        let (runs, offset) = (measures.clipped_runs.to_string(), format!("{:.4}", measures.dc_offset));
        vec![clip.file.clone(), clip.class.clone(), duration, trimmed, peak, rms, noise, runs, offset]
    }));
    grid
}

/// Every clip with unrounded numbers; what is not there is an empty cell.
fn clips(report: &Report) -> Grid {
    let mut grid = Grid::new(CLIP_COLUMNS);
    grid.rows.extend(report.clips.iter().map(|clip| {
        let measures = &clip.measures;
        let optional = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        vec![
            clip.clip.clone(),
            clip.file.clone(),
            clip.class.clone(),
            clip.fold.map(|fold| fold.to_string()).unwrap_or_default(),
            clip.source.clone(),
            clip.bytes.to_string(),
            measures.sample_rate_hz.to_string(),
            measures.channels.to_string(),
            measures.duration_s.to_string(),
            measures.peak.to_string(),
            optional(measures.peak_dbfs),
            optional(measures.rms_dbfs),
            measures.clipped_samples.to_string(),
            measures.clipped_share.to_string(),
            measures.clipped_runs.to_string(),
            measures.dc_offset.to_string(),
            measures.leading_silence_s.to_string(),
            measures.trailing_silence_s.to_string(),
            measures.trimmed_s.to_string(),
            optional(measures.noise_floor_dbfs),
            clip.audio.to_string(),
        ]
    }));
    grid
}

fn rounded(number: Option<f64>, digits: usize) -> String {
    number.map_or_else(|| "–".to_owned(), |number| format!("{number:.digits$}"))
}
