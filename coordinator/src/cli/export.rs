//! The champion's bundle.

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};

use clap::Args;
use earshot_data::dataset::Dataset;
use tokio::runtime::Builder;

use super::{
    ask::OutputArgs,
    champion, document,
    render::{self, Document, Grid},
    screen::{LogFormat, Screen},
    source::{OfArgs, Source, SourceArgs},
};
use crate::{
    bundle::Kind,
    clock::Stopwatch,
    export::{self, Champion, ModelSummary, Scores, Summary},
};

/// Export the best trial: float and int8 ONNX models, checked, with labels, front end, report and provenance
///
/// Where the sweep prunes, the smallest step is exported whose validation accuracy is at most export.max_drop below the unpruned
/// champion's; without one, the champion as it was.
///
/// Nothing is exported unless both models run and the float one gives the predictions that the worker recorded. A bundle
/// that is there already is replaced as a whole.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  coordinator export --out champion
  coordinator export --out small --trial 12               another trial than the best
  coordinator export --out whole --unpruned               of a sweep with [prune], the full model
  coordinator export --out champion --db earshot.redb     when no coordinator runs")]
pub(super) struct ExportArgs {
    /// Folder of the bundle
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Export this trial instead of the best one, as one from `leaderboard --pareto`
    #[arg(long, value_name = "N")]
    trial: Option<u32>,

    /// Prepared folder with the features, when no coordinator runs [default: data.processed of the sweep file]
    #[arg(long, value_name = "DIR")]
    processed: Option<PathBuf>,

    /// Export the champion as it was before it was pruned
    #[arg(long)]
    unpruned: bool,

    #[command(flatten)]
    of: OfArgs,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let screen = Screen::start(LogFormat::Text);
    let spinner = screen.spinner();
    spinner.set_message("gathering the champion");
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (champion, features) = runtime.block_on(async {
        let mut source = Source::open(&args.source).await?;
        champion::gather(&mut source, &args.of, args.trial, args.unpruned, args.processed.as_deref()).await
    })?;
    let time = |_: Kind, run: &mut dyn FnMut()| {
        let watch = Stopwatch::start();
        run();
        watch.elapsed_ns()
    };
    let files = recordings(&champion);
    let recordings = |row: u32| fs::read(files.get(row as usize)?.as_ref()?).ok();
    let tell = |stage: &str| spinner.set_message(stage.to_owned());
    let summary = export::export(&champion, &features, &args.out, &time, &recordings, &tell)?;
    drop(spinner);
    render::print(&summarised(&summary)?, args.output.format)?;
    Ok(ExitCode::SUCCESS)
}

/// The file of every row's recording, where the sweep's dataset is on this machine; what is not is not measured.
fn recordings(champion: &Champion) -> Vec<Option<PathBuf>> {
    let dataset = Dataset::read(&champion.sweep.data.root).ok();
    let clips = dataset.iter().flat_map(|dataset| &dataset.clips);
    let paths: BTreeMap<&str, &PathBuf> = clips.map(|clip| (clip.name.as_str(), &clip.path)).collect();
    champion
        .manifest
        .clips
        .iter()
        .map(|clip| paths.get(clip.name.as_str()).map(|path| (*path).clone()))
        .collect()
}

fn summarised(summary: &Summary) -> anyhow::Result<Document> {
    let parts = ["validation", "test"].map(|part| [format!("{part}_accuracy"), format!("{part}_macro_f1")]);
    let columns = ["file", "bytes"].into_iter().chain(parts.iter().flatten().map(String::as_str));
    let columns = columns.chain(["p50_ms", "p99_ms"]);
    let grid = |number: fn(f64) -> String| {
        let mut grid = Grid::new(columns.clone());
        grid.rows.extend([&summary.float, &summary.int8, &summary.tensorrt].map(|model| row(model, number)));
        grid
    };
    Ok(Document {
        json: document::json(summary)?,
        facts: [
            ("folder", summary.folder.display().to_string()),
            ("trial", summary.trial.to_string()),
            ("logit_difference_max", format!("{:.1e}", summary.logit_difference_max)),
            ("top1_agreement", format!("{:.4}", summary.top1_agreement)),
            ("shipped", format!("{}: {}", summary.shipped.file, summary.shipped.reason)),
        ]
        .into_iter()
        .chain(summary.pruning.iter().map(|reason| ("pruning", reason.clone())))
        .chain(summary.quantisation.iter().map(|reason| ("quantisation", reason.clone())))
        .collect(),
        grids: vec![grid(|number| format!("{number:.4}"))],
        csv: grid(|number| number.to_string()),
    })
}

fn row(model: &ModelSummary, number: fn(f64) -> String) -> Vec<String> {
    let cells = |scores: Option<Scores>| {
        scores.map_or_else(Default::default, |scores| [scores.accuracy, scores.macro_f1].map(number))
    };
    let [validation, test] = [Some(model.validation), model.test].map(cells);
    let latency = [model.onnxruntime.latency.p50_ms, model.onnxruntime.latency.p99_ms].map(number);
    [model.file.to_owned(), model.bytes.to_string()]
        .into_iter()
        .chain(validation)
        .chain(test)
        .chain(latency)
        .collect()
}
